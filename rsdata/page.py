"""The skeleton of every HTML page: one file that holds all it shows, and loads nothing.

Its policy forbids it to load or run anything but the pictures, the style and the one script in it, so that
names from a dump, which are escaped besides, cannot either.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import NamedTuple

from rsdata import places
from rsdata.errors import RsdataError
from rsdata.grid import printable

LONGEST = 400
"""Characters shown of a text from a table: a caption may be a book."""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title><style>
{style}</style></head><body>
<header><h1>{title}</h1>{lead}</header>
{index}<main>
{sections}
</main><script>
{script}</script></body></html>
"""


class Section(NamedTuple):
    """A part of a page. name: what links to it; title: plain text; body: HTML."""

    name: str
    title: str
    body: str


def text(value: object) -> str:
    """A value from a table as HTML: escaped, cut to LONGEST characters, nothing that is not printable."""
    shown = str(value)
    shown = shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"
    return escape(printable(shown))


def number(value: float | None) -> str:
    """A count or a measure, for people: digits in threes, "–" where there is none."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def share(part: float | None, total: float | None) -> str:
    """A part in per cent, "–" of nothing."""
    return f"{100 * part / total:.1f} %" if part is not None and total else "–"


def table(head: Sequence[str], rows: Iterable[Sequence[str | int | float | None]], style: str = "") -> str:
    """A table that scrolls by itself where the page is too narrow; strings are HTML, numbers go right.

    A heading that begins with "#" is of a column of numbers that are strings already.
    """
    right = [name.startswith("#") for name in head]
    heads = "".join(
        f"<th{_NUMBER if at else ''}>{escape(name.lstrip('#'))}</th>"
        for name, at in zip(head, right, strict=True)
    )
    lines = []
    for row in rows:
        cells = (
            f"<td{_NUMBER if at or not isinstance(cell, str) else ''}>"
            f"{cell if isinstance(cell, str) else number(cell)}</td>"
            for cell, at in zip(row, right, strict=True)
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(lines)
    named = f' class="{style}"' if style else ""
    return f'<div class="scroll"><table{named}><tr>{heads}</tr>\n{body}</table></div>'


_NUMBER = ' class="number"'


def totals(facts: Mapping[str, float | None]) -> str:
    """Headline numbers, each large above its name."""
    items = (f"<div><dt>{escape(name)}</dt><dd>{number(value)}</dd></div>" for name, value in facts.items())
    return f'<dl class="totals">{"".join(items)}</dl>'


def picture(jpeg: bytes) -> str:
    """A JPEG as the address of an image that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def document(title: str, lead: str, sections: Sequence[Section]) -> str:
    """A page; title: plain text, lead: HTML below it. With several sections, an index leads to them."""
    links = "".join(f'<li><a href="#{each.name}">{escape(each.title)}</a></li>' for each in sections)
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode()
    parts = (
        f'<section id="{each.name}"><h2>{escape(each.title)}</h2>\n{each.body}</section>' for each in sections
    )
    return _PAGE.format(
        policy="default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        title=text(title),
        style=_asset("page.css"),
        lead=lead,
        index=f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n' if len(sections) > 1 else "",
        sections="\n".join(parts),
        script=script,
    )


def write(path: Path, page: str) -> None:
    """Write a page whole or not at all. Raises RsdataError where it cannot be written."""
    try:
        with places.atomic_write(path, "w") as file:
            file.write(page)
    except OSError as error:
        raise RsdataError(f"{path}: {error.strerror or error}") from error


@cache
def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
