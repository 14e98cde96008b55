"""The proof of what rich captions say: each statement read back and held against boxes, cover and gsd.

It shares no code with rsdata/templates/rich.py; every measure is worked out here in its own way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence

from rsdata.records import Box, Record
from rsdata.words import Words

_RELATION = re.compile(r"the (.+) (is|are) (to the left of|to the right of|above|below) the (.+)")
_SIZE = re.compile(r"the (.+) (is|are) (very small|large) in it")
_PACKED = re.compile(r"the (.+) are densely packed")
_ROW = re.compile(r"the (.+) stand in a row")
_CLUSTER = re.compile(r"the (.+) form a cluster")
_HEADING = re.compile(
    r"the long sides of the (.+) run from "
    r"(left to right|top to bottom|the top left to the bottom right|the bottom left to the top right)"
)
_LENGTH = re.compile(r"the (longest )?(.+) is about ([0-9.]+) m long")
_SHARES = {
    "less than a tenth": (0.0, 0.1),
    "about a quarter": (0.21, 0.29),
    "about a third": (0.29, 0.37),
    "about half": (0.44, 0.56),
    "about two thirds": (0.62, 0.71),
    "about three quarters": (0.71, 0.79),
    "almost all": (0.89, 1.0001),
}
_COVER = re.compile(rf"({'|'.join(_SHARES)}) of the picture is covered by (.+)")
_GSD = re.compile(r"a pixel is ([0-9.]+) m wide on the ground")
_AXES = {
    "left to right": 0.0,
    "the top left to the bottom right": 45.0,
    "top to bottom": 90.0,
    "the bottom left to the top right": 135.0,
}


def fault(statement: str, record: Record, words: Words, nouns: Collection[str]) -> str | None:
    """Why a statement is not so, None where it is.

    Args:
        statement: what stands behind a semicolon of a rich caption.
        record: boxes (those flagged "crowd" do not count), width, height, gsd, cover.
        words: the plurals that it was written with.
        nouns: the labels that it may name.

    Raises ValueError where it is no such statement, or names another noun.
    """
    for noun in nouns:
        words.plural(noun)
    boxes = [box for box in record.boxes if "crowd" not in box.flags]

    def named(text: str) -> list[Box]:
        """The boxes of "ship" (one) or "ships" (several)."""
        held = [box for box in boxes if box.label == text]
        if text in nouns and len(held) == 1:
            return held
        singular = words.singular(text)
        held = [box for box in boxes if box.label == singular]
        if singular in nouns and (len(held) > 1 or text != singular):
            return held
        raise ValueError(f"{text!r} names no class, or not as many as there are")

    for pattern, judge in _JUDGES:
        if found := pattern.fullmatch(statement):
            return None if judge(found, record, named, words) else "is not what the boxes show"
    raise ValueError(f"{statement!r} is no statement of a caption set")


def _middles(boxes: Sequence[Box]) -> list[tuple[float, float]]:
    return [((box.xmin + box.xmax) / 2, (box.ymin + box.ymax) / 2) for box in boxes]


def _relation(found: re.Match[str], record: Record, named: object, words: Words) -> bool:
    """The centres are a tenth of the image apart, and no box reaches as far as a centre of the others."""
    one, other = _of(named, found[1]), _of(named, found[4])
    if not one or not other or (found[2] == "is") != (len(one) == 1):
        return False
    if found[3] in ("to the right of", "below"):
        one, other = other, one
    axis = 0 if "left" in found[3] or "right" in found[3] else 1
    extent = (record.width, record.height)[axis] or 0
    last = max(point[axis] for point in _middles(one))
    first = min(point[axis] for point in _middles(other))
    slack = 0.0001 * extent
    reach = max((box.xmax, box.ymax)[axis] for box in one), min((box.xmin, box.ymin)[axis] for box in other)
    return (
        extent > 0
        and first - last > 0.099 * extent
        and reach[0] <= first + slack
        and last <= reach[1] + slack
    )


def _size(found: re.Match[str], record: Record, named: object, words: Words) -> bool:
    boxes = _of(named, found[1])
    area = (record.width or 0) * (record.height or 0)
    shares = [(box.xmax - box.xmin) * (box.ymax - box.ymin) / area for box in boxes] if area else []
    if not shares or (found[2] == "is") != (len(boxes) == 1):
        return False
    return all(share < 0.00101 for share in shares) if found[3] == "very small" else min(shares) > 0.0499


def _long_sides(boxes: Sequence[Box]) -> float:
    return sum(max(box.xmax - box.xmin, box.ymax - box.ymin) for box in boxes) / len(boxes)


def _packed(found: re.Match[str], record: Record, named: object, words: Words) -> bool:
    boxes = _of(named, found[1])
    points = _middles(boxes)
    nearest = [
        min(math.dist(one, two) for j, two in enumerate(points) if i != j) for i, one in enumerate(points)
    ]
    return len(points) >= 5 and sum(nearest) / len(nearest) <= 1.51 * _long_sides(boxes)


def _line(boxes: Sequence[Box]) -> tuple[float, float, float]:
    """About the line of least squares through the centres, in mean long sides of the boxes: the farthest
    distance from it, the extent along it, and the widest gap along it. By singular values."""
    import numpy as np

    points = np.array(_middles(boxes))
    points = (points - points.mean(axis=0)) / (_long_sides(boxes) or 1.0)
    axes = np.linalg.svd(points, full_matrices=False)[2]
    along, across = points @ axes[0], points @ axes[1]
    return float(np.abs(across).max()), float(np.ptp(along)), float(np.diff(np.sort(along)).max())


def _row(found: re.Match[str], record: Record, named: object, words: Words) -> bool:
    boxes = _of(named, found[1])
    if len(boxes) < 3:
        return False
    across, extent, gap = _line(boxes)
    return across <= 0.46 and extent >= 3.05 and gap <= 3.05


def _cluster(found: re.Match[str], record: Record, named: object, words: Words) -> bool:
    """All within a quarter of the diagonal, and in no clear row."""
    boxes = _of(named, found[1])
    if len(boxes) < 4:
        return False
    diagonal = math.hypot(record.width or 0, record.height or 0)
    points = _middles(boxes)
    widest = max(math.dist(one, two) for i, one in enumerate(points) for two in points[:i])
    across, extent, gap = _line(boxes)
    return widest <= 0.25 * diagonal and not (across <= 0.44 and extent >= 3.15 and gap <= 2.95)


def _heading(found: re.Match[str], record: Record, named: object, words: Words) -> bool:
    boxes = _of(named, found[1])
    wanted = _AXES[found[2]]
    for box in boxes:
        if box.polygon is None or len(box.polygon) != 8:
            return False
        (ax, ay), (bx, by), (cx, cy), (dx, dy) = zip(box.polygon[0::2], box.polygon[1::2], strict=True)
        # The middle line of a quadrilateral, from one short side to the other.
        along = ((bx + cx - ax - dx) / 2, (by + cy - ay - dy) / 2)
        across = ((cx + dx - ax - bx) / 2, (cy + dy - ay - by) / 2)
        longer, shorter = sorted((along, across), key=lambda line: -math.hypot(*line))
        angle = math.degrees(math.atan2(longer[1], longer[0])) % 180
        away = min(abs(angle - wanted), 180 - abs(angle - wanted))
        if away > 15 or math.hypot(*longer) < 1.4 * math.hypot(*shorter) or not _is_parallelogram(box):
            return False
    return len(boxes) >= 2


def _is_parallelogram(box: Box) -> bool:
    """Whether the diagonals of a quadrilateral halve each other: not if crossed or a triangle."""
    corners = list(zip(box.polygon[0::2], box.polygon[1::2], strict=True)) if box.polygon else []
    if len(corners) != 4:
        return False
    sides = [math.dist(corners[i], corners[i - 1]) for i in range(4)]
    halves = [((a[0] + b[0]) / 2, (a[1] + b[1]) / 2) for a, b in zip(corners[:2], corners[2:], strict=True)]
    return math.dist(*halves) <= 0.26 * min(sides[0] + sides[2], sides[1] + sides[3]) / 2


def _length(found: re.Match[str], record: Record, named: object, words: Words) -> bool:
    """The longest box whose length is sure; none may be longer, or cut off by the image."""
    boxes = _of(named, words.plural(found[2]) if found[1] else found[2])
    sure, other = [0.0], [0.0]
    for box in boxes:
        right, bottom = (record.width or math.inf) - 1, (record.height or math.inf) - 1
        whole = min(box.xmin, box.ymin) > 0.9 and box.xmax < right + 0.1 and box.ymax < bottom + 0.1
        if "truncated" in box.flags or (record.width and record.height and not whole):
            return False
        spans = box.xmax - box.xmin, box.ymax - box.ymin
        if box.polygon is not None and _is_parallelogram(box):
            points = list(zip(box.polygon[0::2], box.polygon[1::2], strict=True))
            sides = [math.dist(points[i], points[(i + 1) % 4]) for i in range(4)]
            sure.append(max(sides[0] + sides[2], sides[1] + sides[3]) / 2)
        elif max(spans) >= 2.99 * min(spans):
            sure.append(max(spans))
        else:
            other.append(math.hypot(*spans))
    metres = max(sure) * (record.gsd or 0)
    return (
        bool(found[1]) == (len(boxes) > 1)
        and not record.cover
        and max(other) <= 1.001 * max(sure)
        and metres > 0.99
        and abs(metres - float(found[3])) <= 0.051 * metres
    )


def _cover(found: re.Match[str], record: Record, named: object, words: Words) -> bool:
    low, high = _SHARES[found[1]]
    label = found[2] if words.is_mass(found[2]) else words.singular(found[2])
    shares = dict(record.cover)
    return label in shares and low <= shares[label] <= high


def _gsd(found: re.Match[str], record: Record, named: object, words: Words) -> bool:
    gsd = record.gsd or 0
    return 0.0049 < gsd < 1001 and abs(float(found[1]) - gsd) <= 0.051 * gsd


def _of(named: object, text: str) -> list[Box]:
    assert callable(named)
    boxes: list[Box] = named(text)
    return boxes


_JUDGES = (
    (_RELATION, _relation), (_SIZE, _size), (_PACKED, _packed), (_ROW, _row), (_CLUSTER, _cluster),
    (_HEADING, _heading), (_LENGTH, _length), (_COVER, _cover), (_GSD, _gsd),
)  # fmt: skip


def parts(caption: str) -> tuple[str, list[str]]:
    """A caption without its statements, and these."""
    head, *rest = caption.removesuffix(".").split("; ")
    return f"{head}.", rest


def faults(caption: str, record: Record, words: Words, nouns: Collection[str]) -> Iterator[str]:
    """Why each statement of a caption is not so, a line each; none where all are."""
    for statement in parts(caption)[1]:
        try:
            why = fault(statement, record, words, nouns)
        except ValueError as error:
            why = str(error)
        if why:
            yield f"{caption!r}: {statement!r} {why}"
