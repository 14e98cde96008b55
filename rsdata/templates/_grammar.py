"""What the caption sets share: where a box lies, and how counted objects are put into words."""

from __future__ import annotations

import random
from array import array
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TypeVar

from rsdata.errors import RecipeError
from rsdata.records import Box, Record
from rsdata.words import Words, listing

T = TypeVar("T")
_LABEL = itemgetter(Box._fields.index("label"))
_FLAGS = itemgetter(Box._fields.index("flags"))

MOST_EXACT = 10
"""Counts above this become a quantifier (RemoteCLIP, section III-B1: "exceeds ten")."""

LARGE_COUNTS = ("vague", "exact", "mixed")

AFTER_THERE_ARE = ("many", "lots of", "a lot of", "a large number of")
QUANTIFIERS = (*AFTER_THERE_ARE, "a quantity of", "a crowd of")
"""Those of Fig. 2 and its kin. "There are a crowd of" is no English, so two are kept from that sentence."""


def check_large_count(large_count: str) -> None:
    """Raise RecipeError where the option is none of vague, exact, mixed."""
    if large_count not in LARGE_COUNTS:
        raise RecipeError(f"large_count: {large_count!r} is none of {', '.join(LARGE_COUNTS)}")


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """Draw one item. Only random() itself is promised to stay the same in later Pythons, so no choice()."""
    return items[int(rng.random() * len(items))]


def draw(rng: random.Random, items: Sequence[T], size: int) -> list[T]:
    """Draw `size` different items, in the order drawn."""
    left = list(items)
    return [left.pop(int(rng.random() * len(left))) for _ in range(size)]


def in_middle(boxes: Sequence[Box], width: int, height: int) -> list[bool]:
    """For each box: does its centre lie in [1/4, 3/4) of the image on both axes?

    width, height: pixels. The rectangle is that of He et al. (RSM-CLIP, A2C); RemoteCLIP names none.
    Coordinates are rounded to float32 first, as the table stores them: a centre on the border must fall
    on the same side before and after writing.
    """
    if not boxes:
        return []
    _, _, *edges, _, _ = zip(*boxes, strict=True)
    xmin, ymin, xmax, ymax = (array("f", edge) for edge in edges)
    return [
        width <= 2 * (x0 + x1) < 3 * width and height <= 2 * (y0 + y1) < 3 * height
        for x0, y0, x1, y1 in zip(xmin, ymin, xmax, ymax, strict=True)
    ]


def countable(record: Record) -> Sequence[Box]:
    """The boxes that stand for one object each: all but those flagged "crowd"."""
    if not any(map(_FLAGS, record.boxes)):
        return record.boxes
    return [box for box in record.boxes if "crowd" not in box.flags]


def count(boxes: Sequence[Box]) -> dict[str, int]:
    """Objects by label."""
    counts: dict[str, int] = {}
    for label in map(_LABEL, boxes):
        counts[label] = counts.get(label, 0) + 1
    return counts


def count_by_zone(boxes: Sequence[Box], record: Record) -> tuple[dict[str, int], dict[str, int]]:
    """Objects by label in the middle and at the edge; both empty where the image size is unknown."""
    middle: dict[str, int] = {}
    edge: dict[str, int] = {}
    if record.width and record.height:
        central = in_middle(boxes, record.width, record.height)
        for label, inside in zip(map(_LABEL, boxes), central, strict=True):
            counts = middle if inside else edge
            counts[label] = counts.get(label, 0) + 1
    return middle, edge


def ordered(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """(label, count), most numerous first, then by label: no order of boxes shows through."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def things(
    classes: Sequence[tuple[str, int]],
    rng: random.Random,
    words: Words,
    large_count: str,
    quantifiers: Sequence[str] = QUANTIFIERS,
) -> str:
    """Counted classes as a list: "4 large vehicles, a small vehicle and many airplanes"."""
    phrases = []
    for label, number in classes:
        exact = (
            number <= MOST_EXACT or large_count == "exact" or (large_count == "mixed" and rng.random() < 0.5)
        )
        phrases.append(words.phrase(label, number if exact else pick(rng, quantifiers)))
    return listing(phrases)


def there_are(classes: Sequence[tuple[str, int]]) -> str:
    """Return "There is" or "There are": the verb agrees with the first class it names."""
    return "There is" if classes[0][1] == 1 else "There are"


def sentence(text: str) -> str:
    """First letter large, full stop attached; the case of all else is the recipe's ("T junction")."""
    return f"{text[0].upper()}{text[1:]}."
