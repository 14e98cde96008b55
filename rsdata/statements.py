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
    "about a quarter": (0.2, 0.3),
    "about a third": (0.28, 0.39),
    "about half": (0.42, 0.58),
    "about two thirds": (0.6, 0.72),
    "about three quarters": (0.7, 0.8),
    "almost all": (0.88, 1.0001),
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
    one, other = _middles(_of(named, found[1])), _middles(_of(named, found[4]))
    if not one or not other or (found[2] == "is") != (len(one) == 1):
        return False
    if found[3] in ("to the right of", "below"):
        one, other = other, one
    axis = 0 if "left" in found[3] or "right" in found[3] else 1
    extent = (record.width, record.height)[axis] or 0
    gap = min(point[axis] for point in other) - max(point[axis] for point in one)
    return extent > 0 and gap > 0.099 * extent


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


def _row(found: re.Match[str], record: Record, named: object, words: Words) -> bool:
    """All centres near the line through the two that are farthest apart."""
    boxes = _of(named, found[1])
    points = _middles(boxes)
    if len(points) < 3:
        return False
    pairs = ((math.dist(one, two), one, two) for i, one in enumerate(points) for two in points[:i])
    length, (x0, y0), (x1, y1) = max(pairs)
    side = _long_sides(boxes)
    off = (
        max(abs((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) / length for x, y in points)
        if length
        else math.inf
    )
    return length >= 3 * side and off <= 0.95 * side


def _cluster(found: re.Match[str], record: Record, named: object, words: Words) -> bool:
    points = _middles(_of(named, found[1]))
    diagonal = math.hypot(record.width or 0, record.height or 0)
    widest = max(
        (math.dist(one, two) for i, one in enumerate(points) for two in points[:i]), default=math.inf
    )
    return len(points) >= 4 and widest <= 0.25 * diagonal


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
        if away > 45 / 2 or math.hypot(*longer) < 1.05 * math.hypot(*shorter):
            return False
    return len(boxes) >= 2


def _length(found: re.Match[str], record: Record, named: object, words: Words) -> bool:
    text = words.plural(found[2]) if found[1] else found[2]
    lengths = []
    for box in _of(named, text):
        if box.polygon is not None and len(box.polygon) == 8:
            points = list(zip(box.polygon[0::2], box.polygon[1::2], strict=True))
            sides = [math.dist(points[i], points[(i + 1) % 4]) for i in range(4)]
            lengths.append(max(sides[0] + sides[2], sides[1] + sides[3]) / 2)
        else:
            lengths.append(max(box.xmax - box.xmin, box.ymax - box.ymin))
    metres = max(lengths) * (record.gsd or 0)
    return bool(found[1]) == (len(lengths) > 1) and abs(metres - float(found[3])) <= 0.051 * metres


def _cover(found: re.Match[str], record: Record, named: object, words: Words) -> bool:
    low, high = _SHARES[found[1]]
    label = found[2] if words.is_mass(found[2]) else words.singular(found[2])
    shares = dict(record.cover)
    return label in shares and low <= shares[label] <= high


def _gsd(found: re.Match[str], record: Record, named: object, words: Words) -> bool:
    return bool(record.gsd) and abs(float(found[1]) - (record.gsd or 0)) <= 0.051 * (record.gsd or 0)


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
