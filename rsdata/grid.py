"""Text for a terminal: aligned columns, at most 100 wide, without characters that it would obey."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

WIDTH = 100


def grid(header: Sequence[str], rows: Sequence[Sequence[Any]], left: Sequence[str] = ()) -> list[str]:
    """Aligned lines, the first column and those named in `left` to the left; nothing without rows."""
    if not rows:
        return []
    cells = [list(header), *([cell(value) for value in row] for row in rows)]
    for row in cells:
        row[0] = fit(row[0], WIDTH // 2)
    widths = [max(map(_columns, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = []
        for name, text, width in zip(header, row, widths, strict=True):
            space = " " * (width - _columns(text))
            padded.append(text + space if name in (header[0], *left) else space + text)
        lines.append(fit("  ".join(padded).rstrip()))
    return lines


def cell(value: Any) -> str:
    """A value as it is shown: 1,234; 1.5; "-" for None."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))


def share(part: int | None, total: int) -> str:
    """A part of a total as "12.5%"; "-" where either is not known, or the total is 0."""
    return f"{part / total:.1%}" if part is not None and total else "-"


def fit(text: str, width: int = WIDTH, *, from_end: bool = False) -> str:
    """`text` cut to `width` columns with an ellipsis at its end, or at its start with `from_end`."""
    text = printable(text)
    if _columns(text) <= width:
        return text
    used, kept = 1, []
    for character in reversed(text) if from_end else text:
        used += _columns(character)
        if used > width:
            break
        kept.append(character)
    return "…" + "".join(reversed(kept)) if from_end else "".join(kept) + "…"


def printable(text: str) -> str:
    """`text` with U+FFFD for each character that a terminal would obey, or that nobody sees."""
    return "".join(character if character.isprintable() else "�" for character in text)


def _columns(text: str) -> int:
    """The columns that `text` takes on a terminal: East Asian wide characters take two (UAX 11)."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))
