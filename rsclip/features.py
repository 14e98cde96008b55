"""A benchmark table as a model sees it: features of its images and captions, its classes and splits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rsclip import store
from rsclip.encode import Encoder, Floats, Picture, image_key
from rsdata import tables
from rsdata.errors import TableError

Ints = NDArray[np.int64]
Wanted = Literal["captions", "label", "image"]
"""What a row must have beside an image that can be read; "image": nothing."""

TRAIN_SHARE = 0.8
"""Of a class, where neither the table nor its recipe has a split (RemoteCLIP issue 11)."""
FEW = 100
"""Test images below which a score is worth a warning."""
_SHA256 = re.compile("[0-9a-fA-F]{64}")
_META = ("image_id", "dataset", "split", "label", "sha256", "captions", "caption_source")


class Row(NamedTuple):
    """What is known of an image beside its pixels; name: its file's name in the dump."""

    image_id: str
    dataset: str
    split: str
    name: str
    label: str | None
    captions: list[str]
    caption_source: str | None


class Features(NamedTuple):
    """The rows of a benchmark and their features.

    towers: float32 [images, width], before the projection. images: float32 [images, dim], L2-normalised.
    captions: the distinct texts; texts: float32 [distinct texts, dim], L2-normalised; owners and places:
    int64 [captions], of each caption the image it belongs to, and its text. notes: what a user should know.
    """

    rows: list[Row]
    towers: Floats
    images: Floats
    captions: list[str]
    texts: Floats
    owners: Ints
    places: Ints
    notes: list[str]


class Scenes(NamedTuple):
    """A scene classification benchmark.

    images, towers: as `Features`. labels: int64 [images], indices of `classes`. train, test: int64, rows.
    prompts: names of the prompts that the recipe asks for.
    """

    ids: list[str]
    images: Floats
    towers: Floats
    labels: Ints
    classes: list[str]
    train: Ints
    test: Ints
    prompts: list[str]
    notes: list[str]


class Held(NamedTuple):
    """What a table has: rows with a class, captions by source ("": unknown), its recipe's prompts."""

    labels: bool
    sources: frozenset[str]
    prompts: list[str]


def read(
    encoder: Encoder,
    sources: Sequence[Path],
    split: Sequence[str] = (),
    wanted: Wanted = "captions",
) -> Features:
    """Embed the images of tables, several as one, and with wanted="captions" their captions too.

    split: the splits to read; without any, "test" where a table has it, else all, and all with
    wanted="image". Rows without what is wanted, without image bytes or with bytes that cannot be decoded are
    left out, and a note says how many.
    Memory holds features, ids and distinct captions; images come and go by row group.
    Raises TableError on tables that are missing or where no row is left.
    """
    usual = () if wanted == "image" else ("test",)
    splits = {table: store.splits_of(table, split, *usual) for table in sources}
    return _read(encoder, splits, wanted)


def _read(encoder: Encoder, splits: dict[Path, tuple[str, ...]], wanted: Wanted) -> Features:
    rows: list[Row] = []
    lost: dict[str, int] = {"image": 0, wanted: 0}
    files = [path for table, names in splits.items() for path in tables.shards(table, names)]
    held = [tables.manifest(table)["splits"] for table in splits]
    total = sum(
        each[name]["rows"] for each, names in zip(held, splits.values(), strict=True) for name in names
    )
    towers, images, unreadable = encoder.images(_pictures(files, encoder, wanted, rows, lost), total)
    gone = set(unreadable)
    lost_ids = [rows[place].image_id for place in unreadable]
    rows = [row for place, row in enumerate(rows) if place not in gone]
    if not rows:
        what = {"captions": "both a caption and ", "label": "both a class (label) and ", "image": ""}[wanted]
        raise TableError(f"{next(iter(splits))}: no row has {what}a readable image")
    captions: dict[str, int] = {}
    owners, places = [], []
    for number, row in enumerate(rows if wanted == "captions" else ()):
        owners += [number] * len(row.captions)
        places += [captions.setdefault(caption, len(captions)) for caption in row.captions]
    texts = encoder.texts(list(captions))
    notes = _left_out(lost, lost_ids)
    indices = np.array(owners, np.int64), np.array(places, np.int64)
    return Features(rows, towers, images, list(captions), texts, *indices, notes)


def _left_out(lost: dict[str, int], unreadable: Sequence[str]) -> list[str]:
    words = {"image": "have no image bytes", "captions": "have no caption", "label": "have no class"}
    notes = [f"{count} rows {words[what]} and were left out" for what, count in lost.items() if count]
    if unreadable:
        first = ", ".join(unreadable[:3]) + (", …" if len(unreadable) > 3 else "")
        notes.append(f"{len(unreadable)} images cannot be decoded and were left out: {first}")
    return notes


def _pictures(
    files: Sequence[Path], encoder: Encoder, wanted: str, rows: list[Row], lost: dict[str, int]
) -> Iterator[Picture]:
    """The pictures of usable rows, which are appended to `rows`; bytes only of those that are not known."""
    for path in files:
        with store.opened(path) as file:
            for number in range(file.num_row_groups):
                yield from _group(file, number, encoder, wanted, rows, lost)


def _group(
    file: Any, number: int, encoder: Encoder, wanted: str, rows: list[Row], lost: dict[str, int]
) -> Iterator[Picture]:
    names = [name for name in _META if name in file.schema_arrow.names]
    group = file.read_row_group(number, columns=[*names, "image.path"])
    keys = [
        image_key(each) if each and _SHA256.fullmatch(each) else None for each in _column(group, "sha256")
    ]
    data: list[bytes | None] | None = None
    # Only where all rows have bytes does a key alone tell that this one has.
    if not _all_have_bytes(file, number) or any(key is None or not encoder.has_image(key) for key in keys):
        data = _bytes(file, number)
    columns = [_column(group, name) for name in _META if name != "sha256"]
    paths = [(each or {}).get("path") for each in _column(group, "image")]
    for place, (image_id, dataset, split, label, captions, source) in enumerate(zip(*columns, strict=True)):
        row = Row(
            image_id, dataset or "", split or "", paths[place] or image_id, label, captions or [], source
        )
        if wanted != "image" and not getattr(row, wanted):
            lost[wanted] += 1
        elif data is not None and not data[place]:
            lost["image"] += 1
        else:
            key = keys[place] or image_key(hashlib.sha256(data[place] or b"").hexdigest() if data else "")
            rows.append(row)
            yield Picture(key, None if data is None or encoder.has_image(key) else data[place])


def _column(group: pa.Table, name: str) -> list[Any]:
    """A column's values, all None where the table has no such column."""
    return group[name].to_pylist() if name in group.column_names else [None] * group.num_rows


def _bytes(file: Any, number: int) -> list[bytes | None]:
    found = file.read_row_group(number, columns=["image.bytes"])["image"].combine_chunks()
    held: list[bytes | None] = pc.struct_field(found, "bytes").to_pylist()
    return held


def _all_have_bytes(file: Any, number: int) -> bool:
    group = file.metadata.row_group(number)
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema == "image.bytes":
            told = column.statistics
            return bool(told and told.has_null_count and told.null_count == 0)
    return False


def scenes(encoder: Encoder, sources: Sequence[Path], split: Sequence[str] = ()) -> Scenes:
    """A scene classification benchmark: tables whose rows have a `label`.

    test: the splits `split`, else "test", else "val" beside a "train"; train: "train". Other tables are split
    by the rule of the paper's authors (RemoteCLIP issue 11): file names in the order of their code points
    within each class, the first 80 % are to train on, rounded down, the rest to test on. Classes are in the
    order of their names.
    Raises TableError on tables that are missing, or that have no usable row or but one class.
    """
    splits = {table: _scene_splits(table, split) for table in sources}
    found = _read(encoder, splits, "label")
    classes = sorted({str(row.label) for row in found.rows})
    index = {name: number for number, name in enumerate(classes)}
    labels = np.array([index[str(row.label)] for row in found.rows], np.int64)
    if len(classes) < 2:
        raise TableError(f"{sources[0]}: has but one class, {classes[0]!r}: nothing to tell apart")
    benchmarks = [each for table in sources for each in _benchmarks(table)]
    share = next((each["train_share"] for each in benchmarks if "train_share" in each), TRAIN_SHARE)
    tested = {name for table in sources for name in _tested(table, split)}
    if tested:
        test = np.array([row.split in tested for row in found.rows])
        train = np.array([row.split == "train" for row in found.rows]) & ~test
    else:
        train = _first_of_each(found.rows, labels, share)
        test = ~train
    scene = Scenes(
        [row.image_id for row in found.rows],
        found.images,
        found.towers,
        labels,
        classes,
        np.flatnonzero(train),
        np.flatnonzero(test),
        _prompts(benchmarks),
        found.notes,
    )
    scene.notes.extend(_remarks(scene, benchmarks))
    return scene


def _scene_splits(table: Path, wanted: Sequence[str]) -> tuple[str, ...]:
    """The splits to read: train, and what is tested on; without such splits all."""
    held = tuple(tables.manifest(table)["splits"])
    tested = _tested(table, wanted)
    return tuple(dict.fromkeys([*(name for name in held if name == "train"), *tested])) if tested else held


def _tested(table: Path, wanted: Sequence[str]) -> tuple[str, ...]:
    """The splits to test on, () where the table has none that was meant for it."""
    held = tables.manifest(table)["splits"]
    if wanted or "test" in held:
        return tuple(wanted) or ("test",)
    return ("val",) if {"train", "val"} <= {*held} else ()


def _benchmarks(table: Path) -> list[dict[str, Any]]:
    """What the recipes of a table's datasets say of it as a benchmark; nothing of a foreign table."""
    try:
        datasets = tables.about(table)["datasets"]
    except (TableError, KeyError):
        return []
    return [held["benchmark"] for held in datasets.values() if held.get("benchmark")]


def held(table: Path, split: Sequence[str] = ()) -> Held:
    """What a table offers to be scored on, from a look at a few of its columns."""
    sources: set[str] = set()
    labels = False
    for path in tables.shards(table, split):
        with store.opened(path) as file:
            names = [
                name for name in ("label", "captions", "caption_source") if name in file.schema_arrow.names
            ]
            for batch in file.iter_batches(columns=names):
                group = pa.table(batch)
                labels = labels or any(_column(group, "label"))
                said = zip(_column(group, "captions"), _column(group, "caption_source"), strict=True)
                sources.update(source or "" for captions, source in said if captions)
    return Held(labels, frozenset(sources), _prompts(_benchmarks(table)))


def _prompts(benchmarks: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for each in benchmarks for name in each.get("prompts", ())))


def stated_images(sources: Sequence[Path]) -> int | None:
    """The number of test images that the benchmark's papers state, None where unknown."""
    return _stated([each for table in sources for each in _benchmarks(table)])


def _stated(benchmarks: Sequence[dict[str, Any]]) -> int | None:
    counts = [int(each.get("test_images", 0)) for each in benchmarks]
    return sum(counts) if counts and all(counts) else None


def of_stated(count: int, stated: int | None) -> list[str]:
    """A note where the number of test images is not that of the papers, or is small."""
    notes = []
    if stated and stated != count:
        notes.append(
            f"{count} test images, where the papers have {stated}: scores are not comparable with theirs"
        )
    if count < FEW:
        notes.append(
            f"only {count} test images: a score may be off by ±{100 * 0.98 / count**0.5:.0f} points by chance"
        )
    return notes


def _first_of_each(rows: Sequence[Row], labels: Ints, share: float) -> NDArray[np.bool_]:
    chosen = np.zeros(len(rows), bool)
    for label in np.unique(labels):
        members = sorted(np.flatnonzero(labels == label).tolist(), key=lambda number: rows[number].name)
        # share * n in floats may fall just under a whole number
        chosen[members[: int(share * len(members) + 1e-9)]] = True
    return chosen


def _remarks(scene: Scenes, benchmarks: Sequence[dict[str, Any]]) -> Iterator[str]:
    listed = {name for each in benchmarks for name in each.get("classes", ())}
    if listed:
        if unknown := [name for name in scene.classes if name not in listed]:
            yield f"classes that the recipe does not know, a wrong folder perhaps: {_few(unknown)}"
        if empty := sorted(listed.difference(scene.classes)):
            yield f"classes of the recipe without an image: {_few(empty)}"
    for part, rows in (("train on", scene.train), ("test on", scene.test)):
        bare = [name for number, name in enumerate(scene.classes) if not (scene.labels[rows] == number).any()]
        if bare and len(rows):
            yield f"classes without an image to {part}: {_few(bare)}"
    yield from of_stated(len(scene.test), _stated(benchmarks))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def spoken(label: str) -> str:
    """A class name as prompts say it: "BareLand" and "bare_land" become "bare land" (as GeoRSCLIP does)."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", re.sub(r"[_/]+", " ", label))
    return " ".join(parted.split()).lower()
