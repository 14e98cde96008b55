"""Two corpora, or two versions of one, beside each other: what came, what went, what shifted.

`compare` counts; `render` lays the counts out for a terminal. Image bytes and polygons are never read.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsdata import stats, tables
from rsdata.grid import fit, grid, share
from rsdata.records import EDGES
from rsdata.stats import Counts
from rsdata.tally import digests, distribution, mixed

EXAMPLES = 5
WORDS = 20
"""Words gained and lost that are told."""
CLASSES_SHOWN = 20
WORDS_SHOWN = 10

_OBJECT = "objects.list.element"
_COLUMNS = (
    "image_id",
    "sha256",
    "captions.list.element",
    *(f"{_OBJECT}.{key}" for key in ("label", *EDGES)),
)
_UNITS = ("images", "captions", "objects")
_EXAMPLE = "the first"
_CHANGES = {"captions": "other captions", "objects": "other objects", "files": "another file"}


class _Images(NamedTuple):
    """Digests of the images of a corpus, 64 bits each, in the order of `ids`, which are distinct."""

    ids: Any
    captions: Any
    objects: Any
    files: Any


def compare(sources: Sequence[Path], against: Sequence[Path]) -> dict[str, Any]:
    """Compare tables (now) with others (before), as data that can be written as JSON.

    Images are the same where their image_id is; of an id that a corpus has several times the first is looked
    at. Of an image 32 bytes of digests are held, beside what `stats.count` holds. Keys of the result (shares
    are of 0 to 1; what is not defined is null):

        tables, against     their paths
        images              came, went, stayed; renamed: of those that came, how many hold a file (sha256) of
                            one that went
        changed             captions, objects, files -> of those that stayed, how many have others (captions
                            and objects in whatever order; objects by label and edges; files by sha256, where
                            both are known)
        examples            came, went, captions, objects, files -> image_ids, the first five in order
        corpus              images, captions, objects -> {now, before, change}
        splits, datasets    name -> the same
        classes             total_variation, jensen_shannon (distances of the shares of classes in all
                            objects); shares: class -> {now, before, change}, the largest change first
        words               total_variation, jensen_shannon (of the shares of words in all words); gained,
                            lost: twenty {word, now, before, change} of shares, the largest change first
        caption_words       now, before: distributions {min, mean, median, max} of the words of a caption;
                            change: of the mean

    Total variation is half the sum of absolute differences; the Jensen-Shannon distance is the square root
    of the divergence in bits (Endres & Schindelin 2003). Both are 0 for equal shares, 1 for disjoint ones.

    Raises TableError where a source is no table, is unfinished, damaged, or lacks a column.
    """
    now, before = stats.count(sources), stats.count(against)
    ours, theirs = _images(sources), _images(against)
    came, went, stayed, changed = _differences(ours, theirs)
    groups = {"came": ours.ids[came], **{key: ours.ids[which] for key, which in changed.items()}}
    return {
        "tables": [str(table) for table in sources],
        "against": [str(table) for table in against],
        "images": {
            "came": len(came),
            "went": len(went),
            "stayed": stayed,
            "renamed": int(np.isin(_known(ours.files[came]), theirs.files[went]).sum()),
        },
        "changed": {key: len(which) for key, which in changed.items()},
        "examples": {**_first(sources, groups), **_first(against, {"went": theirs.ids[went]})},
        "corpus": _changes(_totals(now), _totals(before)),
        "splits": _by(now, before, 1),
        "datasets": _by(now, before, 0),
        "classes": _classes(now, before),
        "words": _words(now, before),
        "caption_words": _lengths(now, before),
    }


def _images(sources: Sequence[Path]) -> _Images:
    """Digests of all images; raises TableError where a shard is damaged."""
    parts = [_digests(batch) for batch in _batches(sources, _COLUMNS)]
    if not parts:
        return _Images(*(np.zeros(0, np.uint64) for _ in _Images._fields))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    ids, first = np.unique(columns[0], return_index=True)
    return _Images(ids, *(column[first] for column in columns[1:]))


def _batches(sources: Sequence[Path], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for table in sources:
        for shard in tables.shards(table):
            yield from tables.batches(shard, columns)


def _digests(batch: pa.RecordBatch) -> _Images:
    held = pc.list_flatten(batch["objects"])
    objects = _hashes(held.field("label"))
    for edge in EDGES:
        bits = held.field(edge).to_numpy(zero_copy_only=False).astype(np.float32).view(np.uint32)
        objects = mixed(objects + bits)
    return _Images(
        digests(batch["image_id"].to_pylist()),
        _sums(batch["captions"], _hashes(pc.list_flatten(batch["captions"]))),
        _sums(batch["objects"], objects),
        digests(batch["sha256"].to_pylist()),
    )


def _hashes(texts: pa.Array) -> Any:
    """64 bits of each text: both corpora are read by one process, in which a text has one hash."""
    encoded = texts.fill_null("").dictionary_encode()
    held = np.fromiter(map(hash, encoded.dictionary.to_pylist()), np.int64, len(encoded.dictionary))
    return mixed(held.view(np.uint64))[encoded.indices.to_numpy()]


def _sums(lists: pa.ListArray, values: Any) -> Any:
    """The sum of each list's values, modulo 2^64: the same in whatever order they are."""
    ends = np.concatenate(([0], np.cumsum(pc.list_value_length(lists).fill_null(0).to_numpy())))
    return np.diff(np.concatenate((np.zeros(1, np.uint64), np.cumsum(values)))[ends])


def _known(files: Any) -> Any:
    return files[files != 0]


def _differences(ours: _Images, theirs: _Images) -> tuple[Any, Any, int, dict[str, Any]]:
    """Rows of ours that came, of theirs that went, how many stayed, and which of ours changed in what."""
    _, here, there = np.intersect1d(ours.ids, theirs.ids, assume_unique=True, return_indices=True)
    changed = {}
    for key in _CHANGES:
        left, right = getattr(ours, key)[here], getattr(theirs, key)[there]
        differ = left != right
        changed[key] = here[differ & (left != 0) & (right != 0) if key == "files" else differ]
    came, went = (
        np.setdiff1d(np.arange(len(each.ids)), rows) for each, rows in ((ours, here), (theirs, there))
    )
    return came, went, len(here), changed


def _first(sources: Sequence[Path], groups: Mapping[str, Any]) -> dict[str, list[str]]:
    """The first image_ids, in order, of groups of their digests."""
    found: dict[str, list[str]] = {key: [] for key in groups}
    for batch in _batches(sources, ["image_id"]) if any(map(len, groups.values())) else ():
        ids = np.array(batch["image_id"].fill_null("").to_pylist(), object)
        keys = digests(ids)
        for key, wanted in groups.items():
            here = ids[np.isin(keys, wanted)].tolist()
            found[key] = heapq.nsmallest(EXAMPLES, {*found[key], *here})
    return found


def _totals(counts: Counts) -> dict[str, int]:
    return {unit: counts.groups[unit].total() for unit in _UNITS}


def _by(now: Counts, before: Counts, key: int) -> dict[str, Any]:
    ours, theirs, nothing = now.by(key), before.by(key), dict.fromkeys(_UNITS, 0)
    names = sorted(ours.keys() | theirs.keys())
    return {name: _changes(ours.get(name, nothing), theirs.get(name, nothing)) for name in names}


def _changes(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, dict[str, float]]:
    return {key: _change(now[key], before[key]) for key in now}


def _change(now: float, before: float) -> dict[str, float]:
    return {"now": now, "before": before, "change": now - before}


def _classes(now: Counts, before: Counts) -> dict[str, Any]:
    ours, theirs = (
        {label: held["objects"] for label, held in counts.classes().items()} for counts in (now, before)
    )
    names, left, right = _shares(ours, theirs)
    order = np.argsort(-np.abs(left - right), kind="stable").tolist()
    return {
        **_distances(left, right),
        "shares": {names[at]: _change(float(left[at]), float(right[at])) for at in order},
    }


def _words(now: Counts, before: Counts) -> dict[str, Any]:
    names, left, right = _shares(now.texts.words(), before.texts.words())
    change = left - right
    order = np.argsort(-np.abs(change), kind="stable")
    told = {
        key: [
            {"word": names[at], **_change(float(left[at]), float(right[at]))}
            for at in order[sign * change[order] > 0][:WORDS].tolist()
        ]
        for key, sign in (("gained", 1), ("lost", -1))
    }
    return {**_distances(left, right), **told}


def _shares(now: Mapping[str, int], before: Mapping[str, int]) -> tuple[list[str], Any, Any]:
    """All names in order, and their shares now and before (zeros of nothing)."""
    names = sorted(now.keys() | before.keys())
    left, right = (np.array([held.get(name, 0) for name in names], np.float64) for held in (now, before))
    return names, left / max(left.sum(), 1), right / max(right.sum(), 1)


def _distances(left: Any, right: Any) -> dict[str, float | None]:
    if not left.any() or not right.any():
        return {"total_variation": None, "jensen_shannon": None}
    return {
        "total_variation": float(np.abs(left - right).sum() / 2),
        "jensen_shannon": _jensen_shannon(left, right),
    }


def _jensen_shannon(left: Any, right: Any) -> float:
    middle = (left + right) / 2
    divergence = 0.0
    for side in (left, right):
        held = side > 0
        divergence += float((side[held] * np.log2(side[held] / middle[held])).sum()) / 2
    return float(np.sqrt(max(divergence, 0.0)))


def _lengths(now: Counts, before: Counts) -> dict[str, Any]:
    ours, theirs = (distribution(counts.texts.lengths()) for counts in (now, before))
    mean, was = ours["mean"], theirs["mean"]
    change = None if mean is None or was is None else mean - was
    return {"now": ours, "before": theirs, "change": change}


def render(report: Mapping[str, Any]) -> str:
    """A `compare` as plain text: aligned columns, at most 100 wide, one section a paragraph.

    Characters that a terminal would obey rather than show (names come from dumps) are replaced.
    """
    classes, words, lengths = report["classes"], report["words"], report["caption_words"]
    sections = [
        ["tables", *(fit(f"  {table}", from_end=True) for table in report["tables"])],
        ["against", *(fit(f"  {table}", from_end=True) for table in report["against"])],
        _change_lines("corpus", {"all": report["corpus"]}),
        _change_lines("split", report["splits"]),
        _change_lines("dataset", report["datasets"]),
        _image_lines(report),
        _share_lines("class", classes["shares"]),
        _share_lines("word more frequent", {held["word"]: held for held in words["gained"][:WORDS_SHOWN]}),
        _share_lines("word less frequent", {held["word"]: held for held in words["lost"][:WORDS_SHOWN]}),
        grid(
            ["shift", "of classes", "of words"],
            [
                [name, *(_number(each[key]) for each in (classes, words))]
                for key, name in (
                    ("total_variation", "total variation"),
                    ("jensen_shannon", "Jensen-Shannon distance"),
                )
            ],
        ),
        grid(
            ["words per caption", "min", "mean", "median", "max"],
            [[side, *lengths[side].values()] for side in ("before", "now")],
        ),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _change_lines(title: str, groups: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[str]:
    rows = []
    for name, units in groups.items():
        changes = [(units[unit]["now"], f"{units[unit]['change']:+,}") for unit in _UNITS]
        rows.append([name, *(cell for pair in changes for cell in pair)])
    return grid([title, *(header for unit in _UNITS for header in (unit, "+/-"))], rows)


def _image_lines(report: Mapping[str, Any]) -> list[str]:
    images, changed = report["images"], report["changed"]
    now, before = (report["corpus"]["images"][side] for side in ("now", "before"))
    renamed = f", {images['renamed']:,} under another name" if images["renamed"] else ""
    rows = [
        [f"came{renamed}", images["came"], share(images["came"], now), "came"],
        ["went", images["went"], share(images["went"], before), "went"],
        ["stayed", images["stayed"], share(images["stayed"], before), "stayed"],
        *(
            [f"with {what}", changed[key], share(changed[key], images["stayed"]), key]
            for key, what in _CHANGES.items()
        ),
    ]
    examples = report["examples"]
    shown = [[name, number, part, "".join(examples.get(key, [])[:1])] for name, number, part, key in rows]
    return grid(["images", "number", "share", _EXAMPLE], shown, left=[_EXAMPLE])


def _share_lines(title: str, shares: Mapping[str, Mapping[str, float]]) -> list[str]:
    rows = [
        [name, f"{held['before']:.2%}", f"{held['now']:.2%}", f"{100 * held['change']:+.2f}"]
        for name, held in list(shares.items())[:CLASSES_SHOWN]
    ]
    more = [f"and {len(shares) - CLASSES_SHOWN:,} more"] if len(shares) > CLASSES_SHOWN else []
    return grid([title, "before", "now", "points"], rows) + more


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
