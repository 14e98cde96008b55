"""Images that two splits of a corpus share: equal files, equal pixels, equal perceptual hashes.

Equality alone, which is cheap; `rsdata dedup` finds what is nearly equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsdata import tables
from rsdata.tally import digests

RULES = {"sha256": "file", "pixels": "pixels", "phash": "perceptual hash"}
"""Column -> what is equal, the surest first."""
COLUMNS = ("split", *RULES, "low_info")


class SplitLeaks:
    """Digests of the images of a corpus, 28 bytes an image."""

    def __init__(self) -> None:
        self._digests: dict[str, list[Any]] = {rule: [] for rule in RULES}
        self._splits: list[Any] = []
        self._names: dict[str | None, int] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in the rows of a batch that has COLUMNS; batches in the order of the shards."""
        split = batch["split"].dictionary_encode(null_encoding="encode")
        numbers = [self._names.setdefault(name, len(self._names)) for name in split.dictionary.to_pylist()]
        self._splits.append(np.array(numbers, np.uint32)[split.indices.to_numpy()])
        for rule in ("sha256", "pixels"):
            self._digests[rule].append(digests(batch[rule].to_pylist()))
        told = pc.if_else(pc.fill_null(batch["low_info"], True), None, batch["phash"])
        self._digests["phash"].append(told.fill_null(0).to_numpy())

    def find(self, shards: Sequence[Path], most: int) -> tuple[int, list[dict[str, str]]]:
        """The number of images that another split holds too, and examples {what, why, twin} with image_ids.

        The examples are of different groups of equal images, by the surest rule first; they do not depend on
        the order of rows. Raises TableError where a shard is damaged.
        """
        if len(self._names) < 2:
            return 0, []
        splits = np.concatenate(self._splits)
        told = np.zeros(len(splits), bool)
        groups: list[tuple[str, Any]] = []
        for rule, parts in self._digests.items():
            keys = np.concatenate(parts)
            new = _shared(keys, splits) & ~told
            told |= new
            groups += [
                (rule, np.flatnonzero(keys == key)) for key in np.unique(keys[new])[: most - len(groups)]
            ]
        return int(told.sum()), _examples(groups, splits, [str(name) for name in self._names], shards)


def _shared(keys: Any, splits: Any) -> Any:
    """Which rows have a key that a row of another split has; the key 0 is none."""
    order = np.argsort(keys)
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    low, high = (each.reduceat(splits[order], starts) for each in (np.minimum, np.maximum))
    shared = np.empty(len(keys), bool)
    shared[order] = np.repeat((low != high) & (ordered[starts] != 0), np.diff(np.append(starts, len(keys))))
    return shared


def _examples(
    groups: Sequence[tuple[str, Any]], splits: Any, names: Sequence[str], shards: Sequence[Path]
) -> list[dict[str, str]]:
    ids = dict(_ids(shards, np.unique(np.concatenate([rows for _, rows in groups])))) if groups else {}
    examples = []
    for rule, rows in groups:
        first: dict[str, str] = {}
        for row in rows.tolist():
            split = names[splits[row]]
            first[split] = min(first.get(split, ids[row]), ids[row])
        (_, what), *_, (split, twin) = sorted(first.items(), key=lambda item: (item[0] == "train", item[0]))
        why = f"the same {RULES[rule]} in {split}: {twin}"
        examples.append({"what": what, "why": why, "twin": twin})
    return examples


def _ids(shards: Sequence[Path], rows: Any) -> Iterator[tuple[int, str]]:
    """The image_id of each of some rows, counted over all shards; other row groups are not read."""
    start = 0
    for shard in shards:
        with tables.reading(shard) as parquet:
            for number in range(parquet.num_row_groups):
                stop = start + parquet.metadata.row_group(number).num_rows
                here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)]
                if len(here):
                    held = parquet.read_row_group(number, ["image_id"])["image_id"]
                    names = held.take(pa.array(here - start)).to_pylist()
                    yield from ((row, name or "") for row, name in zip(here.tolist(), names, strict=True))
                start = stop
