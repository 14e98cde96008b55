"""The one validation between readers and tables: boxes against the image and against each other.

Codes are those of docs/failures.md. What is dropped or repaired is returned beside what is kept, so that
objects found = written + dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from rsdata.classes import Classes
from rsdata.columns import Boxes, Columns
from rsdata.records import LONGEST_NAME, Box, Record, Rejection

Number: TypeAlias = Any
"""A float, or an array of them."""

_LARGEST = float(np.finfo(np.float32).max)
"""What lies beyond is infinite in a table."""
_WIDEST = 2.0**31 - 128
"""The border of an image of unknown size: the largest float32 that is a width in a table, an int32."""
_FINE = 2.0**-22
"""A side that is smaller a share of its coordinate may be none in a table, whose numbers are float32."""
MIN_VISIBLE = 0.2
"""A box cut by the border stays where at least this share of its area, and a pixel, is inside (E13)."""


def size(record: Record, width: int, height: int, aligned: bool) -> Rejection | None:
    """Judge the size that a label claims against the image's own (E10, E22); the image's is the one used.

    aligned: the label is a raster over the image, so any difference rejects it.
    """
    if record.width is None or record.height is None or (record.width, record.height) == (width, height):
        return None
    differ = f"the label says {record.width}x{record.height}, the image is {width}x{height}"
    if aligned:
        return Rejection("rejected", "E22", record.annotation, 0, record.image, differ)
    outside = any(box.xmax > width + 1 or box.ymax > height + 1 for box in record.boxes if _is_finite(box))
    if not outside:
        why = f"{differ}; the boxes fit, the image's size is used"
        return Rejection("repaired", "E10", record.annotation, 0, record.image, why)
    why = f"{differ}, and boxes lie outside the image: scaled or turned?"
    return Rejection("rejected", "E10", record.annotation, 0, record.image, why)


def boxes(
    record: Record, width: int | None, height: int | None, classes: Classes
) -> tuple[Sequence[Box], list[Rejection]]:
    """The Boxes of a Record that are fit for a table, and what became of the others.

    Unknown classes (E17), ignored ones (E19), numbers that are not finite (E06), inverted edges (E11),
    no extent (E12), partly (E13) or wholly (E14) outside, exact duplicates (E15), self-crossing
    quadrilaterals (E20). Without width and height only what no image could hold is outside.
    """
    right, bottom = (min(float(side or _WIDEST), _WIDEST) for side in (width, height))
    if isinstance(record.boxes, Boxes) and (width, height) == (record.width, record.height):
        if _sound_images(record.boxes.columns)[record.boxes.image]:
            return record.boxes, []
    elif _are_sound(record.boxes, right, bottom):
        return list(record.boxes), []
    kept: list[Box] = []
    found: list[Rejection] = []
    seen: set[tuple[object, ...]] = set()
    for index, box in enumerate(record.boxes):
        line = record.lines[index] if index < len(record.lines) else 0

        def note(action: str, code: str, why: str, line: int = line) -> None:
            found.append(Rejection(action, code, record.annotation, line, record.image, why, record.element))

        key = _key(box)
        if "ignored" in box.flags or (not box.label and classes.ignores(box.raw_label)):
            note("dropped", "E19", f"ignored ({box.raw_label})")
        elif not box.label:
            note("dropped", "E17", f"unknown class {_shown(box.raw_label)}")
        elif not _is_finite(box):
            note("dropped", "E06", f"{box.raw_label}: a coordinate is not finite")
        elif key in seen:
            note("dropped", "E15", f"{box.raw_label}: exact duplicate of another object")
        else:
            seen.add(key)
            mended = _mend(box, right, bottom, note)
            if mended is None:
                continue
            if (cut := _key(mended)) != key and cut in seen:
                note("dropped", "E15", f"{box.raw_label}: once repaired, exact duplicate of another object")
            else:
                seen.add(cut)
                kept.append(mended)
    return kept, found


def _shown(label: str) -> str:
    """A label in quotes, one that is too long for a name by its beginning."""
    return repr(label) if len(label) <= LONGEST_NAME else f"{label[:40]!r}… ({len(label):,} characters)"


def _key(box: Box) -> tuple[object, ...]:
    return (*box[1:6], tuple(box.polygon or ()))


def _is_finite(box: Box) -> bool:
    return all(abs(value) <= _LARGEST for value in (*box[2:6], *(box.polygon or ())))


def _mend(box: Box, right: float, bottom: float, note: Callable[[str, str, str], None]) -> Box | None:
    label, raw, xmin, ymin, xmax, ymax, polygon, flags = box
    as_read = f"{raw} ({xmin:g}, {ymin:g}, {xmax:g}, {ymax:g})"
    if xmin > xmax or ymin > ymax:
        note("repaired", "E11", f"{as_read}: edges swapped")
        xmin, xmax, ymin, ymax = min(xmin, xmax), max(xmin, xmax), min(ymin, ymax), max(ymin, ymax)
    if xmin == xmax or ymin == ymax:
        note("dropped", "E12", f"{as_read}: no width or no height")
        return None
    inside = (max(xmin, 0.0), max(ymin, 0.0), min(xmax, right), min(ymax, bottom))
    width, height = inside[2] - inside[0], inside[3] - inside[1]
    if width <= 0 or height <= 0:
        note("dropped", "E14", f"{as_read}: outside the image of {right:g}x{bottom:g}")
        return None
    if any(np.float32(low) == np.float32(high) for low, high in zip(inside[:2], inside[2:], strict=True)):
        note("dropped", "E12", f"{as_read}: no width or no height as float32")
        return None
    if inside != (xmin, ymin, xmax, ymax):
        share = width / (xmax - xmin) * (height / (ymax - ymin))
        if share < MIN_VISIBLE or width * height < 1:
            note(
                "dropped",
                "E13",
                f"{as_read}: only {100 * share:.0f} % inside the image of {right:g}x{bottom:g}",
            )
            return None
        note("repaired", "E13", f"{as_read}: cut at the border of {right:g}x{bottom:g}")
    if polygon is not None and len(polygon) == 8 and not _is_simple(*polygon):
        hull = _hull(polygon)
        if hull is None:
            note("dropped", "E12", f"{as_read}: a quadrilateral without area")
            return None
        note("repaired", "E20", f"{as_read}: the quadrilateral crosses itself; its hull is kept")
        polygon = hull
    return Box(label, raw, *inside, polygon, flags)


def _are_sound(boxes: Sequence[Box], right: float, bottom: float) -> bool:
    """Whether nothing is to be said of any of these boxes."""
    for label, _, xmin, ymin, xmax, ymax, polygon, flags in boxes:
        if not (
            label
            and 0 <= xmin < xmax <= right
            and 0 <= ymin < ymax <= bottom
            and xmax - xmin > _FINE * xmax
            and ymax - ymin > _FINE * ymax
            and "ignored" not in flags
            and (
                polygon is None
                or (math.hypot(*polygon) <= _LARGEST and (len(polygon) != 8 or _is_simple(*polygon)))
            )
        ):
            return False
    return len({box[1:6] for box in boxes}) == len(boxes)


@lru_cache(maxsize=4)
def _sound_images(columns: Columns) -> Sequence[bool]:
    """`_are_sound` for all images of some Columns, each within the size that its label claims."""
    owner = np.repeat(np.arange(len(columns.sizes)), np.diff(columns.ends))
    labelled = np.array([bool(label) and "ignored" not in flags for label, _, flags in columns.names])
    raws = {raw: number for number, (_, raw, _) in enumerate(columns.names)}
    classed = np.array([raws[raw] for _, raw, _ in columns.names], np.uint64)[columns.codes]
    xmin, ymin, xmax, ymax = columns.edges.T
    right, bottom = np.minimum(columns.sizes, _WIDEST)[owner].T
    sound = labelled[columns.codes]
    sound &= (xmin >= 0) & (xmin < xmax) & (xmax <= right) & (ymin >= 0) & (ymin < ymax) & (ymax <= bottom)
    sound &= (xmax - xmin > _FINE * xmax) & (ymax - ymin > _FINE * ymax)
    values, ends = columns.polygons.values.to_numpy(), columns.polygons.offsets.to_numpy()
    lengths = np.diff(ends)
    finite = np.abs(values) <= _LARGEST
    sound &= finite.all() or np.array([part.all() for part in np.split(finite, ends)[1:-1]])
    quads = np.flatnonzero(lengths == 8)
    with np.errstate(over="ignore", invalid="ignore"):  # a turn of huge numbers is judged again in detail
        sound[quads] &= _is_simple(*values[ends[quads] + np.arange(8)[:, None]])
    mixed = owner.astype(np.uint64)
    for column in (classed, *(columns.edges + 0.0).T.copy().view(np.uint64)):
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15) + column
    order = np.sort(mixed)
    sound &= ~np.isin(mixed, order[1:][order[1:] == order[:-1]])  # equal boxes, or by rare chance others
    bad = np.concatenate(([0], np.cumsum(~sound)))
    return list((bad[columns.ends[1:]] == bad[columns.ends[:-1]]).tolist())


def _is_simple(
    x1: Number, y1: Number, x2: Number, y2: Number, x3: Number, y3: Number, x4: Number, y4: Number
) -> Any:
    """Whether quadrilaterals have an area and no sides that cross or fold back.

    Of the four turns those to one side are none (convex) or one of four (concave).
    """
    turns = (
        (x2 - x1) * (y3 - y2) - (y2 - y1) * (x3 - x2),
        (x3 - x2) * (y4 - y3) - (y3 - y2) * (x4 - x3),
        (x4 - x3) * (y1 - y4) - (y4 - y3) * (x1 - x4),
        (x1 - x4) * (y2 - y1) - (y1 - y4) * (x2 - x1),
    )
    left, right = sum(turn > 0 for turn in turns), sum(turn < 0 for turn in turns)
    return (left + right >= 1) & ((left == 0) | (right == 0) | (left == 3) | (right == 3))


def _hull(quad: Sequence[float]) -> list[float] | None:
    from shapely import MultiPoint

    hull = MultiPoint(list(zip(quad[0::2], quad[1::2], strict=True))).convex_hull
    if hull.geom_type != "Polygon":
        return None
    return [float(value) for point in list(hull.exterior.coords)[:-1] for value in point]
