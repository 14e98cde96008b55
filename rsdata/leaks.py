"""Leaks of a corpus into benchmarks: by equal files and pixels, names, places and hashes.

The corpus side is one hash an image; the benchmark, which is small, brings the hashes of its symmetries, cut
and brightened too. Benchmarks are only read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsdata import duplicates, fingerprints, hamming, recipes, removals
from rsdata.duplicates import NONE
from rsdata.errors import RecipeError, TableError
from rsdata.fingerprints import Source
from rsdata.hashing import SYMMETRIES, VIEWS
from rsdata.removals import HIT, UNCOMPARED

Name: TypeAlias = tuple[str, str, str]

VARIANTS = len(VIEWS) * len(SYMMETRIES)

SUSPECT = 2
"""Bits beyond the distance within which an image is suspect."""
_CONTRADICTED = 16
"""Bits beyond which pixels contradict a name."""
_OVERLAP = 0.01
"""Share of the smaller footprint that two images must share: neighbours touch by a pixel."""
_CHUNK = 1 << 20
"""Rows looked at at a time."""


@dataclass
class Benchmark:
    """The images of one --against, by id.

    rows: those whose hashes are worth comparing; keys: their phashes, words: their difference hashes.
    """

    name: str
    splits: list[str]
    source: Source
    table: pa.Table
    rows: Any = None
    keys: Any = None
    words: Any = None


def benchmarks(sources: Sequence[Source], wanted: Collection[str]) -> list[Benchmark]:
    """The benchmarks: of each source the splits wanted; else all but train, or all where there is no other.

    Benchmarks of one name are told apart by their paths. Raises TableError: no such split, nothing in one, or
    one given twice.
    """
    found = [_benchmark(source, wanted) for source in sources]
    for split in wanted:
        if not any(split in each.splits for each in found):
            raise TableError(f"no benchmark has a split {split!r}")
    names, paths = ([getattr(each.source, key) for each in found] for key in ("name", "path"))
    for each in found:
        if not each.table.num_rows:
            raise TableError(f"{each.source.path}: no image in {', '.join(wanted) or 'it'}")
        if paths.count(each.source.path) > 1:
            raise TableError(f"{each.source.path}: give a benchmark once")
        if names.count(each.name) > 1:
            each.name = str(each.source.path)
    return found


def _benchmark(source: Source, wanted: Collection[str]) -> Benchmark:
    columns = [name for name in fingerprints.FINGERPRINT.names if name not in ("human", "objects")]
    batches = list(fingerprints.read(source, columns))
    if not batches:
        raise TableError(f"{source.path}: no image in it")
    table = pa.concat_tables(batches)
    held = sorted(filter(None, table["split"].unique().to_pylist()))
    splits = [split for split in held if (split in wanted if wanted else split != "train")] or (
        [] if wanted else held
    )
    table = table.filter(pc.is_in(table["split"], pa.array(splits, pa.string()))).sort_by("image_id")
    found = Benchmark(source.name, splits, source, table)
    found.rows = np.flatnonzero(usable(table))
    if len(found.rows):
        hashed = table.take(pa.array(found.rows))
        found.keys = lists(hashed["phashes"], VARIANTS)
        found.words = lists(hashed["dhash"], 4)
    return found


def usable(table: pa.Table) -> Any:
    """Which images have hashes that tell something."""
    flat = pc.fill_null(table["low_info"], True)
    return pc.and_(pc.is_valid(table["phash"]), pc.invert(flat)).to_numpy()


def lists(column: pa.ChunkedArray, width: int) -> Any:
    """A column of lists as an array (rows, width). Raises TableError where one has another length."""
    flat = column.combine_chunks().flatten().to_numpy()
    if len(flat) != len(column) * width:
        raise TableError(f"an image has not {width} hashes (rsdata validate --deep)")
    return flat.reshape(-1, width)


@dataclass
class Corpus:
    """Of each row of the sources, in their order: hashes, digests, what it is compared by.

    sha256, pixels: 64 bits of these digests, 0 for none. hashed: has a phash; flat: low_info; held: is itself
    an image of a benchmark. words: (n, 4), only where there is a benchmark.
    """

    phash: Any
    sha256: Any
    pixels: Any
    hashed: Any
    flat: Any
    held: Any
    words: Any


class Found(NamedTuple):
    """Leaks into one benchmark, and suspects: HITs, one a row.

    shared: number of quarters that were too common to be looked up.
    """

    leaks: Any
    suspects: Any
    shared: int


class Search:
    """The search for leaks into one benchmark: first batch by batch, then by all hashes."""

    def __init__(self, target: Benchmark) -> None:
        self._target, table = target, target.table
        self._ids = table["image_id"].combine_chunks()
        self._digests = {rule: table[rule].combine_chunks() for rule in ("sha256", "pixels")}
        self._names: dict[Name, int] = {}
        for row, key in names(target.source, table):
            self._names.setdefault(key, row)
        self._places = np.flatnonzero(pc.is_valid(table["geometry"]).to_numpy())
        self._tree: Any = None
        if len(self._places):
            from shapely import STRtree

            self._tree = STRtree(_shapes(table["geometry"].take(pa.array(self._places))))
        self._found: list[Any] = [np.zeros(0, HIT)]
        self._doubtful: list[Any] = [np.zeros(0, HIT)]

    def held(self, batch: pa.Table) -> Any:
        """Which images of a batch are images of the benchmark themselves: they are no leaks."""
        place = pc.index_in(batch["image_id"], self._ids)
        theirs = self._digests["sha256"].take(place.combine_chunks())
        same = pc.fill_null(pc.equal(batch["sha256"], theirs), True)
        return pc.and_(pc.is_valid(place), same).to_numpy()

    def look(self, batch: pa.Table, told: Sequence[tuple[int, Name]], start: int) -> None:
        """Find leaks without comparing hashes. told: `names` of the batch. Rows count from `start`."""
        for rule, digests in self._digests.items():
            place = pc.index_in(batch[rule], digests, skip_nulls=True)
            rows = np.flatnonzero(pc.is_valid(place).to_numpy())
            twins = pc.fill_null(place, 0).to_numpy()[rows]
            self._found.append(removals.hits(rows + start, twins, rule, 0))
        named: dict[str, list[tuple[int, int]]] = {"scene": [], "file": []}
        for row, key in told:
            if (twin := self._names.get(key)) is not None:
                named[key[1]].append((row, twin))
        for kind, rule in (("scene", "scene"), ("file", "name")):
            rows, twins = np.array(named[kind], np.intp).reshape(-1, 2).T
            far = np.zeros(len(rows), bool) if kind == "scene" else self._contradicts(batch, rows, twins)
            hits = removals.hits(rows + start, twins, rule, UNCOMPARED)
            self._found.append(hits[~far])
            self._doubtful.append(hits[far])
        if self._tree is not None:
            self._found.append(self._overlapping(batch, start))

    def _contradicts(self, batch: pa.Table, rows: Any, twins: Any) -> Any:
        """Whether pixels say that images of one name are not one picture."""
        target = self._target
        if not len(rows) or not len(target.rows):
            return np.zeros(len(rows), bool)
        place = np.minimum(np.searchsorted(target.rows, twins), len(target.rows) - 1)
        known = usable(batch)[rows] & (target.rows[place] == twins)
        hashes = pc.fill_null(batch["phash"], 0).to_numpy()[rows]
        nearest = np.bitwise_count(hashes[:, None] ^ target.keys[place]).min(axis=1)
        return known & (nearest > _CONTRADICTED)

    def _overlapping(self, batch: pa.Table, start: int) -> Any:
        from shapely import area, intersection

        rows = np.flatnonzero(pc.is_valid(batch["geometry"]).to_numpy())
        shapes = _shapes(batch["geometry"].take(pa.array(rows)))
        index, place = self._tree.query(shapes, predicate="intersects")
        ours, theirs = shapes[index], self._tree.geometries[place]
        smaller = np.minimum(area(ours), area(theirs))
        shared = area(intersection(ours, theirs)) > _OVERLAP * smaller
        return removals.hits(
            rows[index[shared]] + start, self._places[place[shared]], "footprint", UNCOMPARED
        )

    def close(
        self,
        corpus: Corpus,
        hashed: Any,
        values: Any,
        bits: int,
        memory: int | None,
        crowds: hamming.Crowds,
    ) -> Found:
        """Compare hashes, and sum up. hashed: rows that have one; values: their distinct ones, in order."""
        target, shared = self._target, 0
        if len(target.rows) and len(hashed):
            near = duplicates.resembling(values, target.keys, bits + SUSPECT, memory, crowds)
            for at in range(0, len(hashed), _CHUNK):
                rows = hashed[at : at + _CHUNK]
                place = np.searchsorted(values, corpus.phash[rows])
                met = near.twin[place] != NONE
                place = place[met]
                hits = removals.hits(rows[met], target.rows[near.twin[place]], "phash", UNCOMPARED)
                hits["distance"], hits["variant"] = near.distance[place], near.variant[place]
                # A copy may be flatter than its twin, but then its hash tells too little to decide by.
                sure = (hits["distance"] <= bits) & ~corpus.flat[hits["row"]]
                self._found.append(hits[sure])
                self._doubtful.append(hits[~sure])
            words = corpus.words[hashed]
            ours, theirs, differ, shared = duplicates.overlaid(words, target.words, memory)
            hits = removals.hits(hashed[ours], target.rows[theirs], "quarters", UNCOMPARED)
            hits["distance"] = differ
            self._doubtful.append(hits)
        found, doubtful = np.concatenate(self._found), np.concatenate(self._doubtful)
        found = removals.surest(found[~corpus.held[found["row"]]])
        told = np.isin(doubtful["row"], found["row"]) | corpus.held[doubtful["row"]]
        return Found(found, removals.surest(doubtful[~told]), shared)


def _shapes(column: pa.ChunkedArray) -> Any:
    """Footprints as shapely has them; None of what is none."""
    from shapely import from_wkb, make_valid

    return make_valid(from_wkb(column.to_numpy(), on_invalid="ignore"))


def names(source: Source, batch: pa.Table) -> Iterator[tuple[int, Name]]:
    """What the names of images tell of where they are from: (row, (family, scene or file, text)).

    Windows of one image and frames of one film are of one scene, if a recipe vouches for the paths.
    """
    facts: dict[str, tuple[bool, dict[str, str]]] = {}
    rows = zip(batch["dataset"].to_pylist(), batch["path"].to_pylist(), strict=True)
    for row, (dataset, path) in enumerate(rows):
        if not path:
            continue
        if dataset not in facts:
            facts[dataset] = (source.has_recipe(dataset), source.origin(dataset))
        vouched, origin = facts[dataset]
        whole = path.partition("#frame=")[0]
        if vouched:
            yield row, (dataset, "scene", whole)
        for kind in ("scene", "file"):
            if kind in origin and (hit := _compiled(origin[kind]).match(PurePosixPath(whole).stem)):
                yield row, (f"[{origin['family']}]", kind, hit.group().casefold())


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return recipes.name_pattern(pattern)
    except RecipeError as error:
        raise TableError(f"metadata of a table: {error}") from error
