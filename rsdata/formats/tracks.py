"""Tracks: one file a film, one object of one frame a line, its columns named by the option `fields`.

    5 397 1270 448 1354 1029 0 0 1 "Biker"
    fields = "- xmin ymin xmax ymax frame lost occluded generated class"

The images are extracted frames, whose last star is the number of the frame (`frames/*/*/*.*`), or the film
itself. The columns that are known: rsdata/formats/_columns.py. Sources: the readmes of the Stanford Drone
Dataset and UAVDT.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rsdata.classes import Classes
from rsdata.errors import RecipeError
from rsdata.formats import _columns
from rsdata.records import Box, Record, Rejection

ONE_FILE = "split"
FRAMES = True
LAYOUTS = [("frames/*/*.*", "annotations/*.txt"), ("*/*.*", "*.txt")]
FIELDS = "frame xmin ymin xmax ymax class"
prepare = _columns.settled


def read(
    root: Path,
    path: str,
    classes: Classes,
    fields: str | list = FIELDS,  # type: ignore[type-arg]
    separators: str = "",
    base: int = 0,
    step: int = 1,
) -> Iterator[Record | Rejection]:
    """One Record a frame, in their order; `image` is the number of the frame.

    step: every step-th frame only, of those numbered 0, step, 2 step …; neighbours hardly differ. The other
    options as in `columns`. A line that does not parse is dropped (E05, E06). Raises RecipeError for a step
    below 1.
    """
    if step < 1:
        raise RecipeError(f"step = {step}, expected 1 or more")
    frames: dict[int, list[tuple[Box, int]]] = {}
    for item in _columns.lines(root, path, classes, fields, separators, base, step):
        if isinstance(item, Rejection):
            yield item
        else:
            frames.setdefault(item.frame, []).append((item.box, item.number))
    for frame, held in sorted(frames.items()):
        yield Record(str(frame), [box for box, _ in held], annotation=path, lines=[line for _, line in held])


def write(
    path: Path,
    records: Sequence[Record],
    fields: str | list = FIELDS,  # type: ignore[type-arg]
    separators: str = "",
    base: int = 0,
) -> None:
    """The frames of a film as a file; `image` of each Record is its number."""
    profile = _columns.parsed(fields)[0]
    separator = separators or " "
    rows = [profile.line(box, int(one.image), base, separator) for one in records for box in one.boxes]
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
