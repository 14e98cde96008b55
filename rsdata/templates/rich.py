"""Richer captions: the counts of `remoteclip`, and behind a semicolon what the geometry shows.

    There are 3 ships and a harbor in the picture; the ships are to the left of the harbor.

A statement is made only where it holds by a margin, of classes that are counted (mass nouns: cover alone).
Centres and sides are those of the upright boxes; a class's side is the mean of its boxes' longer sides:

    relation     all of one class lie beyond all of another: their centres by more than a tenth of the image,
                 and no box reaches as far as a centre of the other class; told one way round, by chance
    size         each box is below a thousandth ("very small"), or above a twentieth ("large"), of the image
    density      five or more: the mean distance to the nearest other centre is at most 1.5 sides
    row          three or more: no centre farther than 0.45 sides from the line of least squares, the line at
                 least 3.1 sides long, no gap along it above 3
    cluster      four or more, in no row, none farther from their mean than 0.12 of the image's diagonal
    heading      two or more boxes that are all oriented (below), each at least 1.5 times as long as wide, and
                 within 14 degrees of the same of four directions; which end is the head is not known
    length       of the longest in metres, to two digits, where the gsd is known: of an oriented box, or of an
                 upright one without corners, 3 times as long as wide or more (what lies in it is at most
                 5.5 % longer); no other of the class may be longer, none be cut off by the image. Not of
                 masks, whose regions may be several objects
    cover        of masks: the share of the picture, by FRACTIONS, each with an interval
    gsd          metres per pixel, to two digits, from 0.005 to 1000

A box is oriented whose polygon has four corners that make about a parallelogram: the middles of its diagonals
lie apart by at most a quarter of its width. Coordinates, gsd and shares are rounded to float32 first, as the
table stores them. The proof that each statement is true shares no code with this: rsdata/statements.py.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from rsdata.records import Box, Record
from rsdata.templates import _five
from rsdata.templates import _grammar as grammar
from rsdata.words import Words

POLYGONS = True
"""It needs the polygons of the boxes."""

MOST = 500
"""Objects of a class, beyond which neither neighbours, rows nor clusters are looked for."""
MOST_WORDS = 50
"""Of a caption with its statement: CLIP reads 77 tokens, and a word of ours is about one and a third."""
LEAST_GSD, MOST_GSD = 0.005, 1000
FRACTIONS = (
    ("less than a tenth", 0.01, 0.09),
    ("about a quarter", 0.22, 0.28),
    ("about a third", 0.30, 0.36),
    ("about half", 0.45, 0.55),
    ("about two thirds", 0.63, 0.70),
    ("about three quarters", 0.72, 0.78),
    ("almost all", 0.9, 1.0),
)
DIRECTIONS = (
    "from left to right",
    "from the top left to the bottom right",
    "from top to bottom",
    "from the bottom left to the top right",
)
RELATIONS = (("to the left of", "to the right of"), ("above", "below"))

Size: TypeAlias = tuple[float, float]
Point: TypeAlias = tuple[float, float]


class _Statement(NamedTuple):
    """names: of the classes that it is about, in singular and plural."""

    text: str
    names: tuple[str, ...]


class _Group(NamedTuple):
    """The boxes of a class. lower, upper: (xs, ys) of their corners; centres: those of their middles."""

    names: tuple[str, str]
    boxes: Sequence[Box]
    lower: tuple[Sequence[float], Sequence[float]]
    upper: tuple[Sequence[float], Sequence[float]]
    centres: tuple[Sequence[float], Sequence[float]]
    subject: str
    verb: str


def write(record: Record, rng: random.Random, words: Words, large_count: str = "vague") -> list[str]:
    """Write five distinct captions, or none where the record has no box to count.

    Args:
        record: boxes flagged "crowd" are left out; polygons of four corners tell headings; gsd, cover.
        rng: draws statements and the forms of counts.
        words: plurals of the labels.
        large_count: as in `remoteclip`.

    Raises RecipeError as `remoteclip.write`.
    """
    plain = _five.write(record, rng, words, large_count)
    if not plain:
        return []
    statements = list(_statements(record, rng, words))
    left = grammar.draw(rng, statements, len(statements))
    captions = []
    for caption in plain:
        room = MOST_WORDS - 1 - caption.count(" ")
        fits = [one for one in left if one.text.count(" ") < room]
        # One on a class that the caption names, if there is any left.
        near = (one for one in fits if any(name in caption for name in one.names))
        statement = next(near, fits[0] if fits else None)
        if statement:
            captions.append(f"{caption[:-1]}; {statement.text}.")
            left.remove(statement)
        else:
            captions.append(caption)
    return captions


def _statements(record: Record, rng: random.Random, words: Words) -> Iterator[_Statement]:
    """All that can be said, in an order that no order of boxes shows through."""
    groups = _groups(record, words)
    gsd = _stored(record.gsd) if record.gsd is not None else math.nan
    size = (float(record.width), float(record.height)) if record.width and record.height else None
    if size:
        for place, group in enumerate(groups):
            for other in groups[:place]:
                yield from _relations(group, other, size, rng)
            yield from _sizes(group, size)
            yield from _arrangement(group, size)
    for group in groups:
        yield from _heading(group)
        if LEAST_GSD <= gsd <= MOST_GSD and not record.cover:
            yield from _length(group, gsd, size)
    for label, share in record.cover:
        for text, low, high in FRACTIONS:
            if low <= _stored(share) <= high:
                name = words.plural(label)
                yield _Statement(f"{text} of the picture is covered by {name}", (label, name))
    if LEAST_GSD <= gsd <= MOST_GSD:
        yield _Statement(f"a pixel is {_digits(gsd)} m wide on the ground", ())


def _stored(value: float) -> float:
    return array("f", [value])[0]


def _groups(record: Record, words: Words) -> list[_Group]:
    held: dict[str, list[Box]] = {}
    for box in grammar.countable(record):
        held.setdefault(box.label, []).append(box)
    return [_group(label, held[label], words) for label in sorted(held) if not words.is_mass(label)]


def _group(label: str, boxes: Sequence[Box], words: Words) -> _Group:
    _, _, *edges, _, _ = zip(*boxes, strict=True)
    x0, y0, x1, y1 = (array("f", edge).tolist() for edge in edges)
    centres = (
        [(low + high) / 2 for low, high in zip(x0, x1, strict=True)],
        [(low + high) / 2 for low, high in zip(y0, y1, strict=True)],
    )
    names = (label, words.plural(label))
    subject, verb = (f"the {label}", "is") if len(boxes) == 1 else (f"the {names[1]}", "are")
    return _Group(names, boxes, (x0, y0), (x1, y1), centres, subject, verb)


def _relations(one: _Group, other: _Group, size: Size, rng: random.Random) -> Iterator[_Statement]:
    for axis, (before, after) in enumerate(RELATIONS):
        for first, last in ((one, other), (other, one)):
            if _is_before(first, last, axis, size[axis] / 10):
                texts = (
                    f"{first.subject} {first.verb} {before} {last.subject}",
                    f"{last.subject} {last.verb} {after} {first.subject}",
                )
                yield _Statement(grammar.pick(rng, texts), first.names + last.names)


def _is_before(first: _Group, last: _Group, axis: int, margin: float) -> bool:
    end, start = max(first.centres[axis]), min(last.centres[axis])
    return end + margin < start and max(first.upper[axis]) <= start and end <= min(last.lower[axis])


def _sizes(group: _Group, size: Size) -> Iterator[_Statement]:
    (x0, y0), (x1, y1), area = group.lower, group.upper, size[0] * size[1]
    shares = [(c - a) * (d - b) / area for a, b, c, d in zip(x0, y0, x1, y1, strict=True)]
    if max(shares) < 0.001:
        yield _Statement(f"{group.subject} {group.verb} very small in it", group.names)
    elif min(shares) > 0.05:
        yield _Statement(f"{group.subject} {group.verb} large in it", group.names)


def _arrangement(group: _Group, size: Size) -> Iterator[_Statement]:
    (x0, y0), (x1, y1), count = group.lower, group.upper, len(group.boxes)
    if not 3 <= count <= MOST:
        return
    side = sum(max(c - a, d - b) for a, b, c, d in zip(x0, y0, x1, y1, strict=True)) / count
    if side <= 0:
        return
    if count >= 5 and _mean_distance(group.centres) <= 1.5 * side:
        yield _Statement(f"{group.subject} are densely packed", group.names)
    means = [sum(values) / count for values in group.centres]
    points = [(x - means[0], y - means[1]) for x, y in zip(*group.centres, strict=True)]
    if _is_row(points, side):
        yield _Statement(f"{group.subject} stand in a row", group.names)
    elif count >= 4 and max(math.hypot(x, y) for x, y in points) <= 0.12 * math.hypot(*size):
        yield _Statement(f"{group.subject} form a cluster", group.names)


def _mean_distance(centres: tuple[Sequence[float], Sequence[float]]) -> float:
    """Mean distance of a point to the nearest other."""
    import numpy as np

    x, y = np.array(centres)
    squared = (x[:, None] - x) ** 2
    squared += (y[:, None] - y) ** 2
    squared.flat[:: len(x) + 1] = np.inf
    return float(np.sqrt(squared.min(axis=1)).mean())


def _is_row(points: Sequence[Point], side: float) -> bool:
    """Points about their mean. The line of least squares lies along the principal axis of their spread."""
    spread_x, spread_y = sum(x * x for x, _ in points), sum(y * y for _, y in points)
    angle = math.atan2(2 * sum(x * y for x, y in points), spread_x - spread_y) / 2
    cos, sin = math.cos(angle), math.sin(angle)
    if max(abs(cos * y - sin * x) for x, y in points) > 0.45 * side:
        return False
    along = sorted(cos * x + sin * y for x, y in points)
    gap = max(after - before for before, after in pairwise(along))
    return along[-1] - along[0] >= 3.1 * side and gap <= 3 * side


def _oriented(box: Box) -> tuple[float, float, float] | None:
    """Length, width and angle (degrees, 0 to 180, y downwards) of an oriented box; None where it is none."""
    if box.polygon is None or len(box.polygon) != 8:
        return None
    ax, ay, bx, by, cx, cy, dx, dy = array("f", box.polygon)
    first = math.hypot(bx - ax, by - ay) + math.hypot(dx - cx, dy - cy)
    second = math.hypot(cx - bx, cy - by) + math.hypot(ax - dx, ay - dy)
    x, y = (
        (bx + cx - ax - dx, by + cy - ay - dy) if first >= second else (cx + dx - ax - bx, cy + dy - ay - by)
    )
    length, width = max(first, second) / 2, min(first, second) / 2
    # The first is twice the distance between the middles of the diagonals.
    if not 0 < math.hypot(ax + cx - bx - dx, ay + cy - by - dy) + width <= 1.5 * width:
        return None
    return length, width, math.degrees(math.atan2(y, x)) % 180


def _heading(group: _Group) -> Iterator[_Statement]:
    if len(group.boxes) < 2:
        return
    common = None
    for box in group.boxes:
        oriented = _oriented(box)
        if oriented is None or oriented[0] < 1.5 * oriented[1]:
            return
        direction = round(oriented[2] / 45)
        if abs(oriented[2] - 45 * direction) > 14 or common not in (None, direction % 4):
            return
        common = direction % 4
    if common is not None:
        text = f"the long sides of the {group.names[1]} run {DIRECTIONS[common]}"
        yield _Statement(text, group.names)


def _length(group: _Group, gsd: float, size: Size | None) -> Iterator[_Statement]:
    """Of the longest box whose length is known, if none can be longer, and none is cut off."""
    longest, bound = 0.0, 0.0
    for box, x0, y0, x1, y1 in zip(group.boxes, *group.lower, *group.upper, strict=True):
        if "truncated" in box.flags or (size and (min(x0, y0) < 1 or x1 > size[0] - 1 or y1 > size[1] - 1)):
            return
        length, width = max(x1 - x0, y1 - y0), min(x1 - x0, y1 - y0)
        if oriented := _oriented(box):
            longest = max(longest, oriented[0])
        elif box.polygon is not None and len(box.polygon) == 8:
            xs, ys = box.polygon[0::2], box.polygon[1::2]
            bound = max(bound, math.hypot(length, width), math.hypot(max(xs) - min(xs), max(ys) - min(ys)))
        elif length >= 3 * width:
            longest = max(longest, length)
        else:
            bound = max(bound, math.hypot(length, width))
    if longest * gsd >= 1 and longest >= bound:
        which = f"the {'longest ' if len(group.boxes) > 1 else ''}{group.names[0]}"
        yield _Statement(f"{which} is about {_digits(longest * gsd)} m long", group.names)


def _digits(value: float) -> str:
    """A positive number to two digits, without an exponent."""
    rounded = float(f"{value:.1e}")
    return f"{rounded:.0f}" if rounded >= 10 else f"{rounded:.10f}".rstrip("0").rstrip(".")
