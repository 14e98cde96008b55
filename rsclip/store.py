"""Tables as rows that any process reaches at once: a local copy, mapped into memory.

A Parquet row group of a hundred images must be read whole to get at one of them, so shuffling a corpus over
Parquet would read it a hundredfold. What training needs is therefore copied once, in order, into an
uncompressed Arrow IPC file that all workers map into memory: any row is a pointer away, the kernel's page
cache is the only cache, and what this process holds is eight bytes a row. The copy may hold smaller images.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tqdm import tqdm

from rsclip.pixels import mix, shrunk
from rsdata import hard_negatives, tables
from rsdata.errors import TableError
from rsdata.records import HUMAN, Box, Record
from rsdata.words import Words

COLUMNS = ["image_id", "image", "captions"]
_OF_A_BOX = ("label", "flags.list.element", "raw_label", "xmin", "ymin", "xmax", "ymax")
_LABELS = [f"objects.list.element.{field}" for field in _OF_A_BOX[:2]]
_SCENE = ["dataset", "width", "height", "gsd", "cover", "caption_source"]
_SCENE += [f"objects.list.element.{field}" for field in _OF_A_BOX]

FALSE_COLUMNS = ["image_id", "captions", *_SCENE]
"""What `false_captions` reads."""

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("image", pa.binary()),
        ("captions", pa.list_(pa.string())),
        ("signature", pa.int64()),
        ("hard", pa.list_(pa.list_(pa.string()))),
    ]
)
"""What training needs of a row. signature: the same for images with the same classes and counts, 0 without
objects. hard: of each caption the false ones made from it, null where nobody asked for them."""


class Source(NamedTuple):
    """A table and the splits of it to read."""

    table: Path
    splits: tuple[str, ...]

    def files(self) -> list[Path]:
        """Its shards, in order."""
        return tables.shards(self.table, self.splits)

    def fingerprint(self) -> str:
        """SHA-256 of what it holds: its manifest and the splits read, not where it lies."""
        digest = hashlib.sha256(manifest_digest(self.table).encode())
        digest.update("\0".join(("", *self.splits)).encode())
        return digest.hexdigest()


class Row(NamedTuple):
    """One row of SCHEMA."""

    image_id: str
    image: bytes | None
    captions: list[str] | None
    signature: int
    hard: list[list[str]] | None


class Nouns(NamedTuple):
    """What hard negatives of a table are made with: each dataset's words, and the labels to swap in."""

    words: dict[str, Words]
    labels: dict[str, list[str]]


def splits_of(table: Path, wanted: Sequence[str], *usual: str) -> tuple[str, ...]:
    """The splits to read: those wanted, else the first usual one that the table has, else all."""
    held = tables.manifest(table)["splits"]
    return tuple(wanted) or next(((split,) for split in usual if split in held), tuple(held))


def manifest_digest(table: Path) -> str:
    """SHA-256 of the manifest that closed the table."""
    tables.manifest(table)
    return hashlib.sha256((table / tables.MANIFEST).read_bytes()).hexdigest()


def row_groups(files: Sequence[Path]) -> Iterator[pa.Table]:
    """COLUMNS, one Parquet row group at a time.

    Raises TableError on a file that is no Parquet, or lacks a column.
    """
    for path in files:
        with opened(path) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number, columns=COLUMNS)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A Parquet file. Raises TableError, here or inside, where it is none or lacks a column."""
    try:
        with tables.parquet(path) as file:
            missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
            if missing:
                raise TableError(f"{path}: has no column {missing[0]!r}")
            yield file
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path}: {error}") from error


def prepared(file: Any, number: int, nouns: Nouns | None) -> pa.Table:
    """A row group of an `opened` file as SCHEMA; hard negatives where there are nouns to make them of."""
    group = file.read_row_group(number, columns=COLUMNS + (_LABELS if nouns is None else _SCENE))
    images = pa.chunked_array(
        [pc.struct_field(chunk, "bytes") for chunk in group["image"].chunks], pa.binary()
    )
    return pa.table(
        [
            group["image_id"].cast(pa.string()),
            images,
            group["captions"].cast(SCHEMA.field("captions").type),
            pa.array(map(signature, _objects(group)), pa.int64()),
            pa.array(_hard(group, nouns) if nouns else [None] * group.num_rows, SCHEMA.field("hard").type),
        ],
        schema=SCHEMA,
    ).combine_chunks()


def _objects(group: pa.Table) -> list[list[dict[str, Any]] | None]:
    if "objects" not in group.column_names:
        return [None] * group.num_rows
    objects: list[list[dict[str, Any]] | None] = group["objects"].to_pylist()
    return objects


def signature(objects: Sequence[dict[str, Any]] | None) -> int:
    """A number for the classes and counts of an image's objects, 0 where it has none; crowds do not count."""
    labels = [each["label"] for each in objects or () if "crowd" not in (each["flags"] or ())]
    return mix("signature", *sorted(labels)) >> 1 | 1 if labels else 0


def nouns_of(table: Path) -> Nouns:
    """What hard negatives of the table's captions are made with."""
    irregular = {name: held["irregular"] for name, held in tables.about(table)["datasets"].items()}
    held = tables.manifest(table).get("datasets", {})
    return Nouns(
        {name: Words(words) for name, words in irregular.items()},
        {name: sorted(held.get(name, {}).get("classes", ())) for name in irregular},
    )


def _hard(group: pa.Table, nouns: Nouns) -> Iterator[list[list[str]] | None]:
    """The hard negatives of each row's captions. Raises TableError where the table lacks what tells them."""
    for each in false_captions(group, nouns):
        yield None if each is None else [list(kinds.values()) for kinds in each]


def false_captions(group: pa.Table, nouns: Nouns) -> Iterator[list[dict[str, str]] | None]:
    """Of each row with FALSE_COLUMNS, for each of its captions, the hard negatives by kind.

    None for captions that people wrote. Raises TableError where the table lacks what tells them.
    """
    if missing := {"objects", "dataset", "caption_source"} - {*group.column_names}:
        raise TableError(f"no hard negatives without the column {min(missing)!r}")
    for row in group.select([name for name in group.column_names if name != "image"]).to_pylist():
        if row["caption_source"] in (None, HUMAN) or row["dataset"] not in nouns.words:
            yield None
            continue
        boxes = [Box(**{**box, "flags": box["flags"] or ()}) for box in row["objects"] or ()]
        cover = [(each["label"], each["share"]) for each in row.get("cover") or ()]
        record = Record("", boxes, row["width"], row["height"], gsd=row.get("gsd"), cover=cover)
        words, labels = nouns.words[row["dataset"]], nouns.labels[row["dataset"]]
        chance = random.Random(mix(row["image_id"], "hard"))
        yield [
            hard_negatives.hard_negatives(caption, record, words, labels, chance)
            for caption in row["captions"] or ()
        ]


def copy(source: Source, path: Path, edge: int | None = None, hard: bool = False, threads: int = 1) -> None:
    """Write the rows of `source`, in order, to the Arrow IPC file `path`; it appears whole or not at all.

    edge: images whose shorter side is longer are stored with a shorter side of `edge` pixels.
    Raises TableError where the table cannot be read, or the disk has no room for the copy.
    """
    files = source.files()
    if edge is None:
        _check_room(files, path)
    nouns = nouns_of(source.table) if hard else None
    held = tables.manifest(source.table)["splits"]
    rows = sum(held[split]["rows"] for split in source.splits)
    with (
        replacing(path) as temporary,
        pa.ipc.new_file(str(temporary), SCHEMA) as writer,
        ThreadPoolExecutor(threads) as pool,
        tqdm(
            total=rows, desc=f"copying {source.table.name}", unit="image", file=sys.stderr, disable=None
        ) as bar,
    ):
        for path in files:
            with opened(path) as parquet:
                for number in range(parquet.num_row_groups):
                    whole = prepared(parquet, number, nouns)
                    if edge is not None:
                        whole = _shrunk(whole, edge, pool.map)
                    writer.write_table(whole)
                    bar.update(whole.num_rows)


def _shrunk(rows: pa.Table, edge: int, each: Callable[..., Any]) -> pa.Table:
    images = rows["image"].to_pylist()
    small = pa.array(each(lambda data: data and shrunk(data, edge), images), pa.binary())
    return rows.set_column(rows.schema.get_field_index("image"), "image", small)


def _check_room(files: Sequence[Path], path: Path) -> None:
    size = sum(file.stat().st_size for file in files)
    place = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(place).free
    if size > free:
        raise TableError(
            f"{path}: a copy of {size / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free: choose another folder "
            f"(--cache), smaller images (--cache-edge 256), or read from the table itself (--stream)"
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; on success it takes the place of `path` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Store:
    """The usable rows of one or several copies, one after the other.

    Rows without a caption or without image bytes are not usable, and are counted in `without_captions` and
    `without_image`. captions: int64 [rows], how many each usable row has. parts: usable rows of each copy.
    """

    def __init__(self, copies: Sequence[Path]) -> None:
        self.copies = [str(path) for path in copies]
        self.rows: list[NDArray[np.int64]] = []
        self.starts: list[NDArray[np.int64]] = []
        self.without_image = self.without_captions = 0
        lengths = []
        for path in self.copies:
            batches = _batches(path)
            self.starts.append(np.cumsum([0, *(batch.num_rows for batch in batches)]))
            # Offsets and validity bits only: no image is paged in.
            count = _joined([pc.list_value_length(batch["captions"]) for batch in batches])
            has_image = _joined([pc.binary_length(batch["image"]) for batch in batches]) > 0
            self.rows.append(np.flatnonzero((count > 0) & has_image))
            self.without_image += int((~has_image).sum())
            self.without_captions += int((has_image & (count == 0)).sum())
            lengths.append(count[self.rows[-1]])
        self.parts = [len(rows) for rows in self.rows]
        self.captions = np.concatenate(lengths) if lengths else np.empty(0, np.int64)
        self._ends = np.cumsum(self.parts)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> Row:
        part = int(np.searchsorted(self._ends, index, side="right"))
        row = int(self.rows[part][index - (int(self._ends[part - 1]) if part else 0)])
        batch = int(np.searchsorted(self.starts[part], row, side="right")) - 1
        place = row - int(self.starts[part][batch])
        return Row(*(column[place].as_py() for column in _batches(self.copies[part])[batch].columns))


@lru_cache(maxsize=64)
def _batches(path: str) -> list[pa.RecordBatch]:
    """The mapped file, opened once in each process, so that a store travels to workers as mere paths."""
    reader = pa.ipc.open_file(pa.memory_map(path))
    return [reader.get_batch(index) for index in range(reader.num_record_batches)]


def _joined(parts: list[Any]) -> NDArray[np.int64]:
    """Lengths as one array, 0 for null."""
    return np.concatenate(
        [np.asarray(pc.fill_null(part, 0), np.int64) for part in parts] or [np.empty(0, np.int64)]
    )
