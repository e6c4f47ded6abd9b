"""An HTML page in one file: it loads nothing, runs no script, and escapes all text that comes from elsewhere."""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #596273; --line: #d9dde4; --page: #ffffff; --tint: #f4f6f9;
  --link: #0b5fa5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ec; --soft: #a2abb8; --line: #363d49; --page: #14181f;
  --tint: #1c222b; --link: #7db8ee; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.55; overflow-wrap: anywhere;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
.layout { max-width: 74rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
header { border-bottom: 1px solid var(--line); margin-bottom: 1.5rem; padding-bottom: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; scroll-margin-top: 1rem; }
p { max-width: 46rem; margin: .5rem 0; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
a { color: var(--link); }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
nav h2 { font-size: .9rem; margin: 0 0 .25rem; color: var(--soft); font-weight: 600; }
nav ul { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; }
nav a { display: inline-block; padding: .2rem 0; text-decoration: none; }
nav a:hover { text-decoration: underline; }
.scroll { overflow-x: auto; max-width: 100%; margin: .75rem 0 .25rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem .35rem 0; text-align: left; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 500; }
td.number, th.number { text-align: right; }
figure { margin: 1rem 0 1.5rem; }
figure .scroll { margin: 0 0 .4rem; background: #ffffff; border: 1px solid var(--line); border-radius: 6px;
  width: fit-content; }
figure img { display: block; width: var(--width); height: auto; max-width: 100%; }
figcaption { max-width: 46rem; }
details { margin: .75rem 0; }
summary { cursor: pointer; color: var(--link); }
.note { background: var(--tint); border-left: 3px solid var(--line); padding: .6rem .9rem; max-width: 46rem; }
@media (max-width: 47.99rem) { figure img.wide { max-width: none; width: calc(.8 * var(--width)); } }
@media (min-width: 70rem) {
  .layout { display: grid; grid-template-columns: 12rem minmax(0, 1fr); column-gap: 3rem; padding-top: 2.5rem; }
  header { grid-column: 1 / -1; }
  nav { position: sticky; top: 1.5rem; align-self: start; }
  nav ul { display: block; }
  main > section:first-child > h2 { margin-top: 0; }
}
"""
_PIXELS = 1200 / 52
"""Pixels of a figure per rem. With it, text in figures is as large as the text of the page."""
_NARROW = 800
"""Most pixels of a figure's width at which a phone can show it without scrolling."""


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading. `body` is HTML, made by the functions of this module."""

    title: str
    body: Sequence[str]


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Return the whole document: heading, lead, table of contents, and the sections whose body is not empty."""
    shown = [section for section in sections if section.body]
    ids = _ids([section.title for section in shown])
    links = "".join(f'<li><a href="#{i}">{_text(s.title)}</a></li>\n' for i, s in zip(ids, shown, strict=True))
    parts = "".join(
        f'<section aria-labelledby="{i}">\n<h2 id="{i}">{_text(s.title)}</h2>\n{"".join(s.body)}</section>\n'
        for i, s in zip(ids, shown, strict=True)
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Whatever text the data contain, the browser fetches nothing and runs no script.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f'<link rel="icon" href="data:,">\n<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n'
        f'<body>\n<div class="layout">\n<header>\n<h1>{_text(title)}</h1>\n<p class="soft">{_text(lead)}</p>\n'
        f'</header>\n<nav aria-labelledby="contents">\n<h2 id="contents">Contents</h2>\n<ul>\n{links}</ul>\n</nav>\n'
        f"<main>\n{parts}</main>\n</div>\n</body>\n</html>\n"
    )


def paragraph(text: str) -> str:
    """Return a paragraph of plain text."""
    return f"<p>{_text(text)}</p>\n"


def note(text: str) -> str:
    """Return a highlighted paragraph that says what is missing, and why."""
    return f'<p class="note">{_text(text)}</p>\n'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str, words: int = 1) -> str:
    """Return a table in a scrollable box.

    Its first `words` columns hold text, the others numbers. The first cell of each row is a heading.
    """

    def kind(column: int) -> str:
        return "" if column < words else ' class="number"'

    head = "".join(f'<th scope="col"{kind(i)}>{_text(name)}</th>' for i, name in enumerate(columns))
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{_text(cell)}</th>' if i == 0 else f"<td{kind(i)}>{_text(cell)}</td>"
            for i, cell in enumerate(row)
        )
        + "</tr>\n"
        for row in rows
    )
    return (
        # The caption is outside of the box, so that it is visible without scrolling.
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(caption)}">\n<table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n"
        f'<p class="soft">{_text(caption)}</p>\n'
    )


def details(summary: str, body: str) -> str:
    """Return `body`, which is HTML, folded away behind a line of text."""
    return f"<details>\n<summary>{_text(summary)}</summary>\n{body}</details>\n"


def picture(path: Path, alt: str, caption: str) -> str:
    """Return a figure that contains the PNG file `path` itself."""
    content = path.read_bytes()
    width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))
    wide = ' class="wide"' if width > _NARROW else ""
    return (
        f'<figure>\n<div class="scroll" tabindex="0" role="region" aria-label="{_text(alt)}">'
        f'<img{wide} style="--width: {width / _PIXELS:.1f}rem" width="{width}" height="{height}" alt="{_text(alt)}" '
        f'src="data:image/png;base64,{base64.b64encode(content).decode()}"></div>\n'
        f"<figcaption>{_text(caption)}</figcaption>\n</figure>\n"
    )


def _text(text: str) -> str:
    """Return the text escaped. A question mark replaces what cannot be encoded (file names need not be Unicode)."""
    return html.escape(text.encode("utf-8", "replace").decode())


def _ids(titles: Sequence[str]) -> list[str]:
    """Return an id for each title, all different."""
    ids: list[str] = []
    for title in titles:
        base = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        ids.append(base if base not in (*ids, "contents") else f"{base}-{len(ids)}")
    return ids
