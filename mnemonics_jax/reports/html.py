"""An HTML page in one file: it loads nothing, runs no script, and escapes all text that comes from elsewhere."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mnemonics_jax.reports.drawing import Drawn, Failure
from mnemonics_jax.reports.parts import Section


def page(title: str, lead: str, sections: Sequence[Section], drawn: Mapping[str, Drawn | Failure]) -> str:
    """Return the whole document: heading, lead, table of contents, and the sections that have parts.

    Args:
        title: the heading.
        lead: a line below it.
        sections: the sections, whose parts the templates turn into HTML.
        drawn: the figures of the sections by name; the page names those that could not be drawn.
    """
    # Imported here because only a report needs it.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mnemonics_jax.reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_printable,
    )
    shown = [section for section in sections if section.parts]
    ids = _ids([section.title for section in shown])
    # With the mark `figure-`, no id of a figure is one of a section.
    titled = [{"id": i, "title": s.title, "parts": s.parts} for i, s in zip(ids, shown, strict=True)]
    text = environment.get_template("report.html.j2").render(title=title, lead=lead, sections=titled, drawn=drawn)
    return text.lstrip()


def _printable(value: Any) -> Any:
    """Return text with a question mark for what cannot be encoded (file names need not be Unicode)."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return value.encode("utf-8", "replace").decode()
    return value


def _ids(titles: Sequence[str]) -> list[str]:
    """Return an id for each title, all different."""
    ids: list[str] = []
    for title in titles:
        base = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        ids.append(base if base not in (*ids, "contents") else f"{base}-{len(ids)}")
    return ids
