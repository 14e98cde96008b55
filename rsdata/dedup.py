"""Which images of a corpus go: leaks into benchmarks, then duplicates. Fingerprints in, lists out.

Of the images that are no leaks, duplicates form groups, and the copy stays that is best by `_RANK`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsdata import duplicates, fingerprints, hamming, leaks
from rsdata.duplicates import NONE, Twins
from rsdata.errors import TableError
from rsdata.fingerprints import Source
from rsdata.hashing import SYMMETRIES, VIEWS
from rsdata.leaks import VARIANTS, Benchmark, Corpus, Found, Search
from rsdata.removals import HIT, NAMED, REMOVED, RULES, UNCOMPARED
from rsdata.replay import replay
from rsdata.tally import digests

METHODS = {"star": 4, "paper": 2, "none": 4}
"""How duplicates are grouped, and the distance that goes with it. star: each image that goes lies within it
of the one that stays. paper: by transitive closure, flat images included. none: leaks only."""
MOST = 16
"""Bits beyond which a distance tells nothing."""

_RANK = [
    ("human", "descending"),
    ("area", "descending"),
    ("objects", "descending"),
    ("image_id", "ascending"),
]
"""Which copy stays: captioned by people, then larger, then of more objects, then the first by id."""

_TOLD = {
    "sha256": "by equal files",
    "pixels": "by equal pixels",
    "scene": "of the same scene",
    "name": "of the same name",
    "footprint": "of the same place",
    "phash": "by hash",
    "quarters": "alike in three quarters",
}
_KEYS = 1 << 18
"""Images whose symmetries are looked up at a time."""


@dataclass(frozen=True)
class Options:
    """distance: in bits, None for that of the method. symmetries: turned and mirrored duplicates too.

    against_splits: of the benchmarks; without, all but train, or all where there is no other. memory: bytes
    for the search, beyond which it works from files; None for as many as it takes.
    """

    method: str = "star"
    distance: int | None = None
    symmetries: bool = False
    against_splits: tuple[str, ...] = ()
    memory: int | None = None

    @property
    def bits(self) -> int:
        """The distance within which images are copies."""
        return METHODS[self.method] if self.distance is None else self.distance


@dataclass
class Decision:
    """What is to go. removed, suspects: tables of REMOVED. goes: of each row, in the order of the sources.

    merged: of each image that stays, the upright duplicates whose captions hold for it too, by id. report:
    counts, as data.
    """

    removed: pa.Table
    suspects: pa.Table
    goes: np.ndarray[Any, np.dtype[np.bool_]]
    merged: dict[str, list[str]]
    report: dict[str, Any]


def decide(
    sources: Sequence[Source],
    against: Sequence[Source],
    options: Options,
    listed: Sequence[Path] = (),
    say: Callable[[str], None] = lambda message: None,
) -> Decision:
    """Find the duplicates of `sources` and their leaks into `against`.

    listed: files of REMOVED whose removals are repeated. Raises TableError: a file is damaged, images of the
    same id, no such split.
    """
    if options.method not in METHODS:
        raise TableError(f"method {options.method!r}: expected one of {', '.join(METHODS)}")
    if not 0 <= options.bits <= MOST:
        raise TableError(f"distance {options.bits}: expected 0 to {MOST} bits")
    benchmarks = leaks.benchmarks(against, options.against_splits)
    for each in benchmarks:
        say(f"benchmark {each.name}: {each.table.num_rows:,} images of {', '.join(each.splits)}")
    _check_ids(sources)
    crowds = hamming.Crowds()
    with TemporaryDirectory(prefix="rsdata-") as folder:
        searches = [Search(each) for each in benchmarks]
        corpus = _read(sources, searches, Path(folder) if options.memory is not None else None)
        goes = np.zeros(len(corpus.phash), bool)
        replayed, unmatched = replay(sources, listed, corpus.held)
        goes[replayed["row"].to_numpy()] = True
        found = _leaks(corpus, searches, options, crowds)
        for hits in found:
            goes[hits.leaks["row"]] = True
        twins = _duplicates(sources, corpus, goes, options, crowds)
        goes[twins["row"]] = True
        told = [hits["row"] for each in found for hits in (each.leaks, each.suspects)]
        named = _named(sources, [*told, twins["row"], twins["twin"]])
        pairs = list(zip(benchmarks, found, strict=True))
        removed = [_listed(each.leaks, named, "leak", benchmark) for benchmark, each in pairs]
        removed += [_listed(twins, named, "duplicate", None), replayed.drop_columns(["row"])]
        doubtful = [_listed(each.suspects, named, "leak", benchmark) for benchmark, each in pairs]
        report = {
            "method": options.method,
            "distance": options.bits,
            "symmetries": options.symmetries,
            "images": len(goes),
            "unhashed": int((~corpus.hashed).sum()),
            "flat": int(corpus.flat.sum()),
            "held_out": int(corpus.held.sum()),
            "duplicates": _by_rule(twins),
            "leaks": [
                {
                    "benchmark": benchmark.name,
                    "splits": benchmark.splits,
                    "images": benchmark.table.num_rows,
                    "flat_or_unhashed": benchmark.table.num_rows - len(benchmark.rows),
                    "removed": _by_rule(each.leaks),
                    "suspects": _by_rule(each.suspects),
                }
                for benchmark, each in pairs
            ],
            "listed": {"removed": int(pc.count_distinct(replayed["image_id"]).as_py()), **unmatched},
            "crowded_buckets": {**asdict(crowds), "quarters": sum(each.shared for each in found)},
        }
        return Decision(
            _sorted(removed), _sorted([REMOVED.empty_table(), *doubtful]), goes, _merged(twins, named), report
        )


def _sorted(parts: Sequence[pa.Table]) -> pa.Table:
    keys = ("image_id", "kind", "benchmark", "twin")
    return pa.concat_tables(parts).sort_by([(key, "ascending") for key in keys])


def sections(decision: Decision) -> dict[str, pa.Table]:
    """What there is to look at, by heading: leaks and suspects of each benchmark, and duplicates."""
    held = {}
    for what, table in (("Leaks into", decision.removed), ("Suspects of", decision.suspects)):
        found = table.filter(pc.equal(table["kind"], "leak"))
        for name in sorted(found["benchmark"].unique().to_pylist()):
            held[f"{what} {name}"] = found.filter(pc.equal(found["benchmark"], name))
    held["Duplicates"] = decision.removed.filter(pc.equal(decision.removed["kind"], "duplicate"))
    return held


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """A report for people: duplicates, a line for each benchmark, what could not be compared."""
    counts = report["duplicates"]
    told = ", ".join(f"{count:,} {_TOLD[rule]}" for rule, count in counts.items())
    way = f"{report['method']}, at most {report['distance']} bits"
    if report["method"] != "none":
        total = f"{sum(counts.values()):,} of {report['images']:,} images"
        yield f"duplicates: {total} ({told or 'none'}; {way})"
    for item in report["leaks"]:
        told = ", ".join(f"{count:,} {_TOLD[rule]}" for rule, count in item["removed"].items())
        suspects = sum(item["suspects"].values())
        yield (
            f"leaks into {item['benchmark']} ({', '.join(item['splits'])}; {item['images']:,} images): "
            f"{sum(item['removed'].values()):,} ({told or 'none'}); {suspects:,} suspects"
        )
    listed = report["listed"]
    if any(listed.values()):
        yield (
            f"by list: {listed['removed']:,} removed; {listed['not_here']:,} not here, "
            f"{listed['other_picture']:,} another picture by that name, {listed['without_twin']:,} "
            "duplicates whose twin is not here"
        )
    if report["held_out"]:
        yield f"{report['held_out']:,} images belong to a benchmark themselves and stay"
    if report["flat"] and report["method"] != "paper":
        yield f"{report['flat']:,} flat images were compared by pixels only"
    if report["unhashed"]:
        yield f"{report['unhashed']:,} images have no hash: compared by file, name and place only"
    crowds = report["crowded_buckets"]
    if crowds["count"] or crowds["quarters"]:
        yield (
            f"{crowds['count']:,} crowded buckets, the largest of {crowds['largest']:,} hashes; "
            f"{crowds['quarters']:,} quarters in so many images that none was suspected for them"
        )


def _by_rule(hits: Any) -> dict[str, int]:
    counts = np.bincount(hits["rule"], minlength=len(RULES)).tolist()
    return {rule: count for rule, count in zip(RULES, counts, strict=True) if count}


def _check_ids(sources: Sequence[Source]) -> None:
    ids = [batch["image_id"] for source in sources for batch in fingerprints.read(source, ["image_id"])]
    held = pa.chunked_array([chunk for column in ids for chunk in column.chunks], pa.string())
    if held.null_count:
        raise TableError("an image_id is null (rsdata validate tells where)")
    if pc.count_distinct(held).as_py() != len(held):
        counts = held.value_counts()
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")[0]
        raise TableError(f"image_id {twice.as_py()!r} is given twice: name a table once")


class _Arrays:
    """Arrays that grow in batches, in memory or in files of a folder."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._held: dict[str, list[Any]] = {}
        self._types: dict[str, Any] = {}
        self._rows = 0

    def add(self, **columns: Any) -> None:
        """Append to each array."""
        self._rows += len(next(iter(columns.values())))
        for name, values in columns.items():
            if self._folder is None:
                self._held.setdefault(name, []).append(values)
            else:
                self._types[name] = (values.dtype, values.shape[1:])
                with (self._folder / name).open("ab") as file:
                    np.ascontiguousarray(values).tofile(file)

    def get(self, name: str) -> Any:
        """A whole array: a file of it is mapped."""
        if self._folder is None:
            return np.concatenate(self._held[name])
        kind, shape = self._types[name]
        path = self._folder / name
        if not path.stat().st_size:  # which cannot be mapped
            return np.zeros((self._rows, *shape), kind)
        return np.memmap(path, kind, "r").reshape(-1, *shape)


def _read(sources: Sequence[Source], searches: Sequence[Search], folder: Path | None) -> Corpus:
    """One pass over the corpus: what is compared, and the leaks that are told without."""
    arrays = _Arrays(folder)
    columns = ["image_id", "phash", "low_info", "sha256", "pixels"]
    if searches:
        columns += ["dataset", "path", "geometry", "dhash"]
    start = 0
    for source in sources:
        for batch in fingerprints.read(source, columns):
            hashed = pc.is_valid(batch["phash"]).to_numpy()
            held = np.zeros(batch.num_rows, bool)
            told = list(leaks.names(source, batch)) if searches else []
            for search in searches:
                held |= search.held(batch)
                search.look(batch, told, start)
            arrays.add(
                phash=pc.fill_null(batch["phash"], 0).to_numpy(),
                sha256=digests(batch["sha256"].to_pylist()),
                pixels=digests(batch["pixels"].to_pylist()),
                hashed=hashed,
                flat=hashed & pc.fill_null(batch["low_info"], True).to_numpy(),
                held=held,
                words=_words(batch["dhash"]) if searches else np.zeros((batch.num_rows, 0), np.uint64),
            )
            start += batch.num_rows
    if not start:
        raise TableError("no image to compare")
    names = ("phash", "sha256", "pixels", "hashed", "flat", "held", "words")
    return Corpus(*map(arrays.get, names))


def _words(column: pa.ChunkedArray) -> Any:
    """The difference hashes, zeros where there are none."""
    words = np.zeros((len(column), 4), np.uint64)
    valid = pc.is_valid(column).to_numpy()
    if valid.any():
        words[valid] = leaks.lists(column.drop_null(), 4)
    return words


def _leaks(
    corpus: Corpus, searches: Sequence[Search], options: Options, crowds: hamming.Crowds
) -> list[Found]:
    if not searches:
        return []
    rows = np.flatnonzero(corpus.hashed & ~corpus.held)
    values = hamming.distinct(corpus.phash[rows], options.memory)[0]
    return [search.close(corpus, rows, values, options.bits, options.memory, crowds) for search in searches]


def _duplicates(
    sources: Sequence[Source], corpus: Corpus, goes: Any, options: Options, crowds: hamming.Crowds
) -> Any:
    """Hits of the duplicates among the rows that stay so far; twins are rows of the corpus."""
    if options.method == "none":
        return np.zeros(0, HIT)
    free = ~goes & ~corpus.held
    paper = options.method == "paper"
    usable = free & corpus.hashed if paper else free & corpus.hashed & ~corpus.flat
    involved = np.zeros(len(free), bool)
    if not paper:
        for digests in (corpus.sha256, corpus.pixels):
            rows = np.flatnonzero(free & (digests != 0))
            values, repeated = hamming.distinct(digests[rows], options.memory)
            involved[rows] |= hamming.among(digests[rows], values[repeated])
    rows = np.flatnonzero(usable)
    if len(rows):
        hashes = corpus.phash[rows]
        values, close = hamming.distinct(hashes, options.memory)
        for left, right in _pairs(sources, rows, values, len(free), options, crowds):
            close[left] = close[right] = True
        involved[rows] |= hamming.among(hashes, values[close])
    rows = np.flatnonzero(involved)
    if not len(rows):
        return np.zeros(0, HIT)
    columns = ["image_id", "human", "width", "height", "objects", "sha256", "pixels"]
    if options.symmetries:
        columns.append("phashes")
    held = _taken(sources, rows, columns)
    area = pc.multiply(pc.cast(pc.fill_null(held["width"], 0), pa.int64()), pc.fill_null(held["height"], 0))
    held = held.append_column("area", area).append_column("row", pa.array(rows))
    order = pc.sort_indices(held, sort_keys=_RANK)
    held, rows = held.take(order), rows[order.to_numpy()]
    return _grouped(held, rows, usable[rows], np.asarray(corpus.phash[rows]), options)


def _pairs(
    sources: Sequence[Source],
    rows: Any,
    values: Any,
    images: int,
    options: Options,
    crowds: hamming.Crowds,
) -> Iterator[tuple[Any, Any]]:
    """Indices of values that are close to each other, upright or, if wanted, by a symmetry."""
    yield from hamming.near(values, options.bits, options.memory, crowds)
    if not options.symmetries or options.method != "star":
        return
    wanted = np.zeros(images, bool)
    wanted[rows] = True
    start = 0
    for batch in _gathered(fingerprints.read(source, ["phash", "phashes"]) for source in sources):
        part = np.flatnonzero(wanted[start : start + batch.num_rows])
        start += batch.num_rows
        if len(part):
            batch = batch.take(pa.array(part))
            own = np.searchsorted(values, batch["phash"].to_numpy())
            keys = duplicates.Keys(leaks.lists(batch["phashes"], VARIANTS)[:, 1 : len(SYMMETRIES)])
            for left, right in hamming.between(keys.values, values, options.bits, options.memory, crowds):
                index, row, _ = keys.owners(left)
                one, other = own[row], right[index]
                yield one[one != other], other[one != other]


def _gathered(parts: Iterable[Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """Batches joined to some _KEYS rows."""
    held: list[pa.Table] = []
    for batch in chain.from_iterable(parts):
        held.append(batch)
        if sum(each.num_rows for each in held) >= _KEYS:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _grouped(held: pa.Table, rows: Any, usable: Any, hashes: Any, options: Options) -> Any:
    """Hits among images in the order of their rank."""
    count = len(rows)
    twin = np.full(count, NONE, np.intp)
    distance = np.zeros(count, np.intp)
    variant = np.zeros(count, np.intp)
    rule = np.full(count, RULES.index("phash"))
    if options.method == "paper":
        nearest = duplicates.chains(hashes, options.bits)
        _put(nearest, np.arange(count), twin, distance, variant)
    else:
        digests = held["sha256"].to_pylist()
        first: dict[str, int] = {}
        for index, (sha256, pixels) in enumerate(zip(digests, held["pixels"].to_pylist(), strict=True)):
            key = pixels or sha256
            if key and (best := first.setdefault(key, index)) != index:
                twin[index] = best
                rule[index] = RULES.index("sha256" if sha256 == digests[best] else "pixels")
        left = np.flatnonzero(usable & (twin == NONE))
        keys = hashes[left, None]
        if options.symmetries:
            keys = leaks.lists(held["phashes"].take(pa.array(left)), VARIANTS)
            keys = keys[:, : len(SYMMETRIES)]
        equal = twin.copy()
        _put(duplicates.stars(hashes[left], keys, options.bits), left, twin, distance, variant)
        for index in np.flatnonzero(equal != NONE).tolist():  # whose twin may have gone, to one as near to it
            best = equal[index]
            if twin[best] != NONE:
                twin[index], distance[index], variant[index] = twin[best], distance[best], variant[best]
                rule[index] = RULES.index("phash")
    gone = np.flatnonzero(twin != NONE)
    hits = np.zeros(len(gone), HIT)
    hits["row"], hits["twin"], hits["rule"] = rows[gone], rows[twin[gone]], rule[gone]
    hits["distance"], hits["variant"] = distance[gone], variant[gone]
    return hits


def _put(found: Twins, left: Any, twin: Any, distance: Any, variant: Any) -> None:
    """Enter twins of the images `left` among all."""
    met = found.twin != NONE
    twin[left[met]] = left[found.twin[met]]
    distance[left[met]] = found.distance[met]
    variant[left[met]] = found.variant[met]


def _taken(sources: Sequence[Source], rows: Any, columns: Sequence[str]) -> pa.Table:
    """Columns of the rows, which are in order."""
    parts, start = [], 0
    for source in sources:
        for batch in fingerprints.read(source, columns):
            low, high = np.searchsorted(rows, (start, start + batch.num_rows))
            parts.append(batch.take(pa.array(rows[low:high] - start)))
            start += batch.num_rows
    return pa.concat_tables(parts)


@dataclass
class _Named:
    """The names of rows. rows: in order."""

    rows: Any
    table: pa.Table

    def take(self, rows: Any) -> pa.Table:
        """The names of these rows."""
        return self.table.take(pa.array(np.searchsorted(self.rows, rows)))


def _named(sources: Sequence[Source], rows: Sequence[Any]) -> _Named:
    wanted = np.unique(np.concatenate(rows))
    return _Named(wanted, _taken(sources, wanted, NAMED))


def _listed(hits: Any, named: _Named, kind: str, benchmark: Benchmark | None) -> pa.Table:
    """Hits as a table of REMOVED."""
    ours = named.take(hits["row"])
    if benchmark is None:
        twins = named.take(hits["twin"])["image_id"]
    else:
        twins = benchmark.table["image_id"].take(pa.array(hits["twin"]))
    compared = hits["distance"] != UNCOMPARED
    by_phash = hits["rule"] == RULES.index("phash")
    turned = np.array(SYMMETRIES, object)[hits["variant"] % len(SYMMETRIES)]
    seen = np.array([view.name for view in VIEWS], object)[hits["variant"] // len(SYMMETRIES)]
    rules = np.array(RULES, object)[hits["rule"]]
    columns = {
        **{name: ours[name] for name in NAMED},
        "kind": pa.array([kind] * len(hits), pa.string()),
        "rule": pa.array(rules, pa.string()),
        "twin": twins,
        "benchmark": pa.array([benchmark.name if benchmark else None] * len(hits), pa.string()),
        "distance": pa.array(hits["distance"], pa.int32(), mask=~compared),
        "symmetry": pa.array(turned, pa.string(), mask=~by_phash),
        "view": pa.array(seen, pa.string(), mask=~by_phash),
    }
    return pa.table([columns[name] for name in REMOVED.names], schema=REMOVED)


def _merged(twins: Any, named: _Named) -> dict[str, list[str]]:
    """The upright duplicates of each image that stays, by id."""
    upright = twins[twins["variant"] == 0]
    kept = named.take(upright["twin"])["image_id"].to_pylist()
    gone = named.take(upright["row"])["image_id"].to_pylist()
    held: dict[str, list[str]] = {}
    for one, other in sorted(zip(kept, gone, strict=True)):
        held.setdefault(one, []).append(other)
    return held
