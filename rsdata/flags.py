"""What an auditor would want to look at: flags, each with a count and a few examples.

A flag is no verdict: some of what is flagged is meant, such as a class that one split alone should hold.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsdata import spellings
from rsdata.records import EDGES

EXAMPLES = 5
COVERS = 0.99
"""Share of an image that a box must cover to be flagged."""
FEW = 10
"""Objects below which it tells nothing that a class is in one split only."""
CHANCE = 0.01
"""Probability below which it is no chance that a class is in one split only."""
FEW_ROWS = 100
"""Rows below which it tells nothing that one caption is on many of them."""

FLAGS = {
    "split-leaks": ("images", "images that another split holds too (file, pixels or perceptual hash)"),
    "boxes-without-area": ("boxes", "boxes without area, or not of finite numbers"),
    "boxes-outside": ("boxes", "boxes that reach over the border of the image"),
    "images-without-size": ("images", "images without width or height"),
    "empty-images": ("images", "images without any object, caption and label"),
    "classes-in-one-split": ("classes", "classes that one split alone holds, and not by chance"),
    "class-spellings": ("classes", "classes whose name nearly equals that of a commoner one"),
    "boxes-of-whole-image": ("boxes", "boxes that cover 99 % of the image or more"),
    "widespread-captions": ("captions", "captions that are on over 1 % of the images"),
    "equal-captions": ("images", "images with several captions that are all equal"),
}
"""flag -> (unit, title), the gravest first."""

Example: TypeAlias = dict[str, str]
ClassCounts: TypeAlias = Mapping[tuple[str, str, str], int]
"""By dataset, split and class."""


class Objects(NamedTuple):
    """The objects of some rows as columns of one length; edges and sizes are float64, NaN where not known.

    row: the number of the row; label: an Arrow array; width, height: of the image.
    """

    row: Any
    label: pa.Array
    xmin: Any
    ymin: Any
    xmax: Any
    ymax: Any
    width: Any
    height: Any

    def sound(self) -> Any:
        """Which are of finite numbers and have an area."""
        edges = (self.xmin, self.ymin, self.xmax, self.ymax)
        finite = np.logical_and.reduce([np.isfinite(edge) for edge in edges])
        return finite & (self.xmin < self.xmax) & (self.ymin < self.ymax)

    def outside(self) -> Any:
        """Which reach over the border of their image, as far as its size is known."""
        return (self.xmin < 0) | (self.ymin < 0) | (self.xmax > self.width) | (self.ymax > self.height)

    def whole(self) -> Any:
        """Which cover 99 % of their image or more."""
        across = np.minimum(self.xmax, self.width) - np.maximum(self.xmin, 0)
        down = np.minimum(self.ymax, self.height) - np.maximum(self.ymin, 0)
        return (across > 0) & (down > 0) & (across * down >= COVERS * self.width * self.height)

    def text(self, at: int) -> str:
        """One of them for people to read."""
        edges = ", ".join(f"{edge[at]:g}" for edge in (self.xmin, self.ymin, self.xmax, self.ymax))
        size = " x ".join(
            "?" if np.isnan(side[at]) else f"{side[at]:g}" for side in (self.width, self.height)
        )
        return f"{self.label[at]} ({edges}) in {size}"


def objects(batch: pa.RecordBatch) -> Objects:
    """The objects of a batch that has the columns objects, width and height."""
    rows = pc.list_parent_indices(batch["objects"]).to_numpy()
    held = pc.list_flatten(batch["objects"])
    edges = (_floats(held.field(edge)) for edge in EDGES)
    return Objects(
        rows, held.field("label"), *edges, *(_floats(batch[side])[rows] for side in ("width", "height"))
    )


def _floats(array: pa.Array) -> Any:
    return array.to_numpy(zero_copy_only=False).astype(np.float64)


class Flags:
    """What was flagged so far: counts, and of the examples those of the smallest image_ids."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)

    def look(self, batch: pa.RecordBatch, ids: Sequence[str], held: Objects, alike: Any) -> None:
        """Look at the rows of a batch. ids: their image_ids; held: their objects; alike: which rows have
        several captions that are all equal."""
        self._look_at_boxes(ids, held)
        captions, number = batch["captions"], pc.list_value_length(batch["captions"]).fill_null(0)
        empty = (number.to_numpy() == 0) & (np.bincount(held.row, minlength=len(ids)) == 0)
        self._note_rows("empty-images", empty & _nulls(batch["label"]), ids, partial(_origin, batch))
        unsized = _nulls(batch["width"]) | _nulls(batch["height"])
        self._note_rows("images-without-size", unsized, ids, partial(_origin, batch))
        self._note_rows("equal-captions", alike, ids, lambda row: f"{number[row]} times: {captions[row][0]}")

    def _look_at_boxes(self, ids: Sequence[str], held: Objects) -> None:
        sound = held.sound()
        with np.errstate(invalid="ignore"):
            found = {
                "boxes-without-area": ~sound,
                "boxes-outside": sound & held.outside(),
                "boxes-of-whole-image": sound & held.whole(),
            }
        for flag, which in found.items():
            at = np.flatnonzero(which)
            rows, first = np.unique(held.row[at], return_index=True)
            box = dict(zip(rows.tolist(), at[first].tolist(), strict=True))
            self._note(flag, len(at), ids, box, lambda row, box=box: held.text(box[row]))  # type: ignore[misc]

    def _note_rows(self, flag: str, which: Any, ids: Sequence[str], why: Callable[[int], str]) -> None:
        self._note(flag, int(which.sum()), ids, np.flatnonzero(which).tolist(), why)

    def _note(
        self, flag: str, number: int, ids: Sequence[str], rows: Iterable[int], why: Callable[[int], str]
    ) -> None:
        """Count, and keep the examples of the smallest ids, each once."""
        self.counts[flag] += number
        first = heapq.nsmallest(EXAMPLES, ((ids[row], row) for row in rows))
        found = {*self.examples[flag], *((name, why(row)) for name, row in first)}
        self.examples[flag] = sorted(found)[:EXAMPLES]


def _origin(batch: pa.RecordBatch, row: int) -> str:
    return f"{batch['dataset'][row]}, {batch['split'][row]}"


def _nulls(array: pa.Array) -> Any:
    return array.is_null().to_numpy(zero_copy_only=False)


def in_one_split(
    objects: ClassCounts, images: ClassCounts, annotated: Mapping[tuple[str, str], int]
) -> dict[str, tuple[str, int]]:
    """The classes of ten objects or more that one split alone holds, and not by chance.

    Returns class -> (split, objects).

    Chance: that every image with the class is in that split, if the images of each dataset that have objects
    at all were dealt out anew; below 1 % is no chance. So a class is not flagged because all annotated images
    of its dataset are in one split.

    annotated: images with objects, by dataset and split.
    """
    total: Counter[str] = Counter()
    for (dataset, _), number in annotated.items():
        total[dataset] += number
    splits: defaultdict[str, set[str]] = defaultdict(set)
    of: Counter[str] = Counter()
    logarithm: defaultdict[str, float] = defaultdict(float)
    for (dataset, split, label), number in sorted(objects.items()):
        splits[label].add(split)
        of[label] += number
        share = annotated[dataset, split] / total[dataset]
        logarithm[label] += images[dataset, split, label] * math.log(share)
    return {
        label: (min(held), of[label])
        for label, held in splits.items()
        if len(held) == 1 and of[label] >= FEW and logarithm[label] < math.log(CHANCE)
    }


def class_examples(found: Mapping[str, tuple[str, int]]) -> list[Example]:
    """Of `in_one_split`, the classes of most objects first."""
    first = sorted(found.items(), key=lambda item: (-item[1][1], item[0]))[:EXAMPLES]
    return [
        {"what": label, "why": f"all {number:,} objects are in {split}"} for label, (split, number) in first
    ]


def spelling_examples(classes: Mapping[str, int]) -> tuple[int, list[Example]]:
    """The number of odd spellings among class -> objects, and those nearest to the commonest classes."""
    odd = spellings.odd(classes)
    first = sorted(odd.items(), key=lambda item: (-classes[item[1]], -classes[item[0]], item))[:EXAMPLES]
    return len(odd), [
        {"what": name, "why": f"objects: {classes[name]:,}, of “{twin}” {classes[twin]:,}"}
        for name, twin in first
    ]


def caption_examples(found: Sequence[tuple[str, int]], images: int) -> list[Example]:
    """Of captions and the number of images that they are on, the first."""
    return [
        {"what": caption, "why": f"on {on:,} of {images:,} images ({on / images:.1%})"}
        for caption, on in found[:EXAMPLES]
    ]


def listed(
    counts: Mapping[str, int], examples: Mapping[str, list[Example]], totals: Mapping[str, int]
) -> list[dict[str, Any]]:
    """The flags as `stats.audit` gives them: those that count something, the gravest first.

    totals: unit -> how many there are, flagged or not; of a unit that is not in it the share is null.
    """
    return [
        {
            "flag": flag,
            "title": title,
            "unit": unit,
            "count": counts[flag],
            "share": counts[flag] / totals[unit] if totals.get(unit) else None,
            "examples": examples[flag],
        }
        for flag, (unit, title) in FLAGS.items()
        if counts.get(flag)
    ]
