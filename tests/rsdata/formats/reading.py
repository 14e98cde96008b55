"""One way to read a written file for all formats: what was kept, and where each problem lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from rsdata import checks, files
from rsdata.classes import Classes
from rsdata.records import Box, Record, Rejection


class Outcome(NamedTuple):
    """records: as read. issues: (action, code, line) in the order of reading, lines resolved."""

    records: list[Record]
    issues: list[tuple[str, str, int]]
    rejections: list[Rejection]

    @property
    def boxes(self) -> list[Box]:
        """All objects of all Records."""
        return [box for record in self.records for box in record.boxes]


Read = Callable[..., Outcome]


def resolved(root: Path, item: Rejection) -> int:
    """The line of a Rejection, looked up where it names an element."""
    if not item.element:
        return item.line
    lines = files.element_lines(root, item.path, item.element)
    return lines[item.line] if 0 <= item.line < len(lines) else 0


def read_written(
    root: Path,
    module: ModuleType,
    name: str,
    content: str | bytes,
    nouns: Mapping[str, str] | None = None,
    ignored: tuple[str, ...] = (),
    size: tuple[int, int] | None = None,
    **options: Any,
) -> Outcome:
    """Write `content` and read it; with a (width, height) the checks judge the objects too."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    files.element_lines.cache_clear()
    classes = Classes(nouns, ignored)
    records: list[Record] = []
    rejections: list[Rejection] = []
    for item in module.read(root, name, classes, **options):
        if isinstance(item, Rejection):
            rejections.append(item)
        elif size is not None:
            kept, left_out = checks.boxes(item, *size, classes)
            assert len(kept) + sum(one.action == "dropped" for one in left_out) == len(item.boxes)
            rejections.extend(left_out)
            records.append(item._replace(boxes=list(kept)))
        else:
            records.append(item._replace(boxes=list(item.boxes)))
    for item in rejections:
        assert item.path == name
        assert item.why
    issues = [(item.action, item.code, resolved(root, item)) for item in rejections]
    return Outcome(records, issues, rejections)
