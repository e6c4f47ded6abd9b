"""SVG of a figure for use inside an HTML page, with exact values as tooltips; it needs no script and no other file."""

import io
from xml.etree import ElementTree as ET

import matplotlib as mpl

from mnemonics_jax.reports.figures.style import Drawing, write

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = "url(#"


def inline_svg(figure: Drawing, prefix: str) -> str:
    """Return the figure as an `<svg>` element for an HTML page.

    Text stays text, in the fonts of the page. All ids begin with `prefix`, because ids of several figures share the
    page. Rectangles that clip are left out: a style with `url(…)` could fetch something, and nothing overlaps its axes.
    """
    file = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        write(figure, file, "svg")
    root = ET.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "clipPath", "style"):
                parent.remove(child)
    by_id = {element.get("id"): element for element in root.iter()}
    for name, texts in figure.tooltips.items():
        _explain(by_id[name], texts)
    for element in root.iter():
        _simplify(element, prefix)
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt")
    return ET.tostring(root, encoding="unicode")


def _explain(group: ET.Element, texts: tuple[str, ...]) -> None:
    """Put a title into each mark of a group: the markers of a line, or the cells of a mesh."""
    marks = list(group.iter(f"{_SVG}use")) or list(group.iter(f"{_SVG}path"))
    for mark, text in zip(marks, texts, strict=True):
        if text:
            # The mark is invisible, and without this attribute the pointer would miss it.
            mark.set("pointer-events", "all")
            ET.SubElement(mark, f"{_SVG}title").text = text


def _simplify(element: ET.Element, prefix: str) -> None:
    """Drop namespaces, which HTML does not need, and clipping; make ids and references to them those of the page."""
    element.tag = element.tag.removeprefix(_SVG)
    attributes = {}
    for name, value in element.attrib.items():
        if name == "id":
            if element.tag == "image":
                continue  # Two equal images of a figure have the same, and nothing refers to it.
            value = f"{prefix}-{value}"
        elif name == _HREF:
            name, value = "href", value.replace("#", f"#{prefix}-", 1) if value.startswith("#") else value
        if not value.startswith(_REFERENCE):
            attributes[name] = value
    element.attrib.clear()
    element.attrib.update(attributes)
