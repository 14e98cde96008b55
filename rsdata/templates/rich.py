"""Richer captions: the counts of `remoteclip`, and behind a semicolon what the geometry shows.

    There are 3 ships and a harbor in the picture; the ships are to the left of the harbor.

A statement is made only where it holds by a margin, of classes that are counted (mass nouns: cover alone):

    relation     the centres of all of one class lie beyond those of all of another, by a tenth of the image
    size         each box is below a thousandth, or above a twentieth, of the image; where the gsd is known,
                 the long side of the largest in metres, to two digits
    density      five or more: the mean distance to the nearest neighbour is at most 1.5 long sides
    arrangement  a row: three or more, none farther from the line than half a long side, and the line longer
                 than three; a cluster: four or more within a quarter of the image's diagonal
    heading      two or more oriented boxes, each half as long again as wide, whose long sides all run within
                 15 degrees of one of four directions; which end is the head is not known
    cover        of masks: the share of the picture, by fractions of which each has an interval
    gsd          metres per pixel, to two digits

Coordinates, gsd and shares are rounded to float32 first, as the table stores them. The proof that each
statement is true shares no code with this: rsdata/statements.py.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from rsdata.records import Box, Record
from rsdata.templates import _five
from rsdata.templates import _grammar as grammar
from rsdata.words import Words

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

POLYGONS = True
"""It needs the polygons of the boxes."""

MOST = 500
"""Objects of a class, beyond which neighbours are not looked for."""
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
    (0, "from left to right"),
    (45, "from the top left to the bottom right"),
    (90, "from top to bottom"),
    (135, "from the bottom left to the top right"),
)


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
    statements = list(_statements(record, words))
    left = grammar.draw(rng, statements, len(statements))
    labels = {box.label for box in record.boxes} | {label for label, _ in record.cover}
    names = sorted({*labels, *map(words.plural, labels)})
    captions = []
    for caption in plain:
        # One on a class that the caption names, if there is any left.
        near = (one for one in left if any(name in one and name in caption for name in names))
        statement = next(near, left[0] if left else "")
        captions.append(f"{caption[:-1]}; {statement}." if statement else caption)
        left = [one for one in left if one != statement]
    return captions


def _statements(record: Record, words: Words) -> Iterator[str]:
    """All that can be said, in an order that no order of boxes shows through."""
    groups: dict[str, list[Box]] = {}
    for box in grammar.countable(record):
        if not words.is_mass(box.label):
            groups.setdefault(box.label, []).append(box)
    gsd = float(np.float32(record.gsd)) if record.gsd else None
    if record.width and record.height:
        size = (float(record.width), float(record.height))
        held = {label: _edges(groups[label]) for label in sorted(groups)}
        for label, edges in held.items():
            for other, others in held.items():
                if label != other:
                    names = _the(label, edges, words), _the(other, others, words)
                    yield from _relation(*names, edges, others, size)
        for label, edges in held.items():
            name = _the(label, edges, words)
            verb = "is" if len(edges) == 1 else "are"
            yield from _sizes(name, verb, edges, size)
            yield from _arrangement(name, edges, size)
    for label in sorted(groups):
        quads = [box.polygon for box in groups[label] if box.polygon is not None and len(box.polygon) == 8]
        if len(quads) == len(groups[label]):
            yield from _headings(label, np.array(quads, dtype=np.float32).astype(float), words)
        if gsd:
            yield from _length(label, groups[label], gsd)
    for label, share in record.cover:
        for text, low, high in FRACTIONS:
            if low <= float(np.float32(share)) <= high:
                noun = label if words.is_mass(label) else words.plural(label)
                yield f"{text} of the picture is covered by {noun}"
    if gsd:
        yield f"a pixel is {_digits(gsd)} m wide on the ground"


def _edges(boxes: Sequence[Box]) -> Array:
    return np.array([box[2:6] for box in boxes], dtype=np.float32).astype(float)


def _the(label: str, edges: Array, words: Words) -> str:
    return f"the {label if len(edges) == 1 else words.plural(label)}"


def _relation(
    name: str,
    other: str,
    edges: Array,
    others: Array,
    size: tuple[float, float],
) -> Iterator[str]:
    verb = "is" if len(edges) == 1 else "are"
    ours, theirs = (each[:, :2] + each[:, 2:] for each in (edges, others))
    for axis, before, after in ((0, "to the left of", "to the right of"), (1, "above", "below")):
        margin = size[axis] / 5  # a tenth, as sums of two edges are twice the centre
        if ours[:, axis].max() + margin < theirs[:, axis].min():
            yield f"{name} {verb} {before} {other}"
        if theirs[:, axis].max() + margin < ours[:, axis].min():
            yield f"{name} {verb} {after} {other}"


def _sizes(
    name: str,
    verb: str,
    edges: Array,
    size: tuple[float, float],
) -> Iterator[str]:
    shares = (edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1]) / (size[0] * size[1])
    if shares.max() < 0.001:
        yield f"{name} {verb} very small in it"
    if shares.min() > 0.05:
        yield f"{name} {verb} large in it"


def _arrangement(name: str, edges: Array, size: tuple[float, float]) -> Iterator[str]:
    count = len(edges)
    if count < 3 or count > MOST:
        return
    centres = (edges[:, :2] + edges[:, 2:]) / 2
    side = (edges[:, 2:] - edges[:, :2]).max(axis=1).mean()
    if side <= 0:
        return
    from_mean = centres - centres.mean(axis=0)
    if count >= 5:
        distances = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1))
        np.fill_diagonal(distances, np.inf)
        if distances.min(axis=1).mean() <= 1.5 * side:
            yield f"{name} are densely packed"
    _, _, axes = np.linalg.svd(from_mean, full_matrices=False)
    along, across = from_mean @ axes[0], from_mean @ axes[1]
    if np.abs(across).max() <= 0.45 * side and np.ptp(along) >= 3.1 * side:
        yield f"{name} stand in a row"
    if count >= 4 and 2 * np.hypot(*from_mean.T).max() <= 0.24 * math.hypot(*size):
        yield f"{name} form a cluster"


def _headings(label: str, quads: Array, words: Words) -> Iterator[str]:
    if len(quads) < 2:
        return
    corners = quads.reshape(-1, 4, 2)
    sides = np.roll(corners, -1, axis=1) - corners
    # The middle lines, from one side to the one opposite.
    first, second = sides[:, 0] - sides[:, 2], sides[:, 1] - sides[:, 3]
    lengths = np.hypot(*first.T), np.hypot(*second.T)
    longer = np.where((lengths[0] >= lengths[1])[:, None], first, second)
    if (np.maximum(*lengths) < 1.5 * np.minimum(*lengths)).any() or not np.maximum(*lengths).all():
        return
    angles = np.degrees(np.arctan2(longer[:, 1], longer[:, 0]))
    for direction, text in DIRECTIONS:
        away = np.abs((angles - direction + 90) % 180 - 90)
        if away.max() <= 14:
            yield f"the long sides of the {words.plural(label)} run {text}"


def _length(label: str, boxes: Sequence[Box], gsd: float) -> Iterator[str]:
    longest = 0.0
    for box in boxes:
        if box.polygon is not None and len(box.polygon) == 8:
            flat = np.array(box.polygon, dtype=np.float32).astype(float).reshape(4, 2)
            lengths = np.hypot(*(np.roll(flat, -1, axis=0) - flat).T)
            longest = max(longest, float(max(lengths[0] + lengths[2], lengths[1] + lengths[3]) / 2))
        else:
            (edges,) = _edges([box])
            longest = max(longest, float(edges[2] - edges[0]), float(edges[3] - edges[1]))
    metres = longest * gsd
    if len(boxes) > 1 and metres >= 1:
        yield f"the longest {label} is about {_digits(metres)} m long"
    elif metres >= 1:
        yield f"the {label} is about {_digits(metres)} m long"


def _digits(value: float) -> str:
    """A positive number to two digits, without an exponent."""
    rounded = float(f"{value:.1e}")
    return f"{rounded:.0f}" if rounded >= 10 else f"{rounded:.10f}".rstrip("0").rstrip(".")
