"""What deduplication knows of images: hashes, names, places; of a table, or a file of them without images.

A fingerprint file is one Parquet file of FINGERPRINT with the `rsdata` metadata of its table. It lets people
look for leaks into a benchmark that they do not hold.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsdata import places, tables
from rsdata.errors import RsdataError, TableError
from rsdata.hashing import HASH_SPEC, Hashes
from rsdata.records import HUMAN, SCHEMA

_SAME = ("image_id", "dataset", "split", "width", "height", *Hashes._fields, "sha256", "geometry")
"""The columns of a table that a fingerprint takes as they are."""

FINGERPRINT = pa.schema(
    [
        *(SCHEMA.field(name) for name in _SAME),
        ("path", pa.string()),
        ("human", pa.bool_()),
        ("objects", pa.int32()),
    ]
)
"""Of each image beside columns of the table: its path in the dump, whether people captioned it, and its
number of objects."""

_BATCH = 10_000


class Source(NamedTuple):
    """A table, or a fingerprint file. shards: its Parquet files; about: its `rsdata` metadata."""

    path: Path
    shards: Sequence[Path]
    about: dict[str, Any]
    is_table: bool

    @property
    def name(self) -> str:
        """The dataset's name."""
        return str(self.about["dataset"])

    def has_recipe(self, dataset: str) -> bool:
        """Whether a dataset was converted by a recipe, not by a format alone."""
        return bool(self.about.get("datasets", {}).get(dataset, {}).get("recipe"))

    def origin(self, dataset: str) -> dict[str, str]:
        """What the recipe of a dataset says of its [origin]."""
        held = self.about.get("datasets", {}).get(dataset, {}).get("origin") or {}
        return {key: str(value) for key, value in held.items()} if "family" in held else {}


def open_source(path: Path) -> Source:
    """A table or fingerprint file. Raises TableError where it is neither, or of hashes of another kind."""
    if path.is_dir():
        source = Source(path, tables.shards(path), tables.about(path), True)
        columns = [*_SAME, "image", "caption_source", "objects"]
    else:
        source = Source(path, [path], _about(path), False)
        columns = FINGERPRINT.names
    for shard in source.shards:
        held = _schema(shard).names
        missing = [name for name in columns if name not in held]
        if missing:
            raise TableError(f"{shard}: no column {', '.join(missing)} (rsdata repair)")
    spec = source.about.get("hash_spec")
    if spec not in (None, HASH_SPEC):
        raise TableError(
            f"{path}: its hashes are not comparable with those of this version (rsdata repair makes them "
            f"anew): {spec!r}"
        )
    return source


def _schema(path: Path) -> pa.Schema:
    try:
        return tables.schema_of(path)
    except FileNotFoundError:
        raise TableError(f"{path}: no such table or fingerprint file") from None
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path}: neither a table nor a fingerprint file: {error}") from error


def _about(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((_schema(path).metadata or {})[b"rsdata"]))
    except (KeyError, ValueError, TypeError) as error:
        raise TableError(f"{path}: no fingerprint file: it lacks the rsdata metadata") from error


def read(source: Source, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Columns of FINGERPRINT, in batches, in the order of rows. Raises TableError where a file is damaged."""
    for shard in source.shards:
        try:
            with tables.parquet(shard) as file:
                for batch in file.iter_batches(_BATCH, columns=_stored(source, columns)):
                    held = pa.table(batch) if not source.is_table else _fingerprints(batch, columns)
                    yield held.cast(pa.schema([FINGERPRINT.field(name) for name in columns]))
        except (pa.ArrowException, OSError, KeyError, TypeError) as error:
            raise TableError(f"{shard}: damaged: {error}") from error


def _stored(source: Source, columns: Sequence[str]) -> list[str]:
    """The stored columns that these are made of."""
    if not source.is_table:
        return list(columns)
    stored = {
        "path": "image.path",
        "human": "caption_source",
        "objects": "objects.list.element.xmin",
        "phashes": "phashes.list.element",
        "dhash": "dhash.list.element",
    }
    return [stored.get(name, name) for name in columns]


def _fingerprints(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.Table:
    arrays = []
    for name in columns:
        if name == "path":
            arrays.append(pc.struct_field(batch["image"], "path"))
        elif name == "human":
            arrays.append(pc.fill_null(pc.equal(batch["caption_source"], HUMAN), False))
        elif name == "objects":
            arrays.append(pc.fill_null(pc.list_value_length(batch["objects"]), 0))
        else:
            arrays.append(batch[name])
    return pa.table(arrays, names=list(columns))


def write(table: Path, output: Path, splits: Collection[str] = ()) -> int:
    """Write the fingerprint file of a table, or of some of its splits; returns its number of images.

    Raises TableError where there is no table, or one without hashes; RsdataError where it cannot be written.
    """
    source = open_source(table)
    if source.about["hash_spec"] is None:
        raise TableError(f"{table}: no image was opened (--annotations-only): it has no hashes")
    metadata = {"rsdata": json.dumps(source.about, sort_keys=True)}
    rows = 0
    try:
        with (
            places.atomic_write(output) as file,
            pq.ParquetWriter(file, FINGERPRINT.with_metadata(metadata), compression="zstd") as writer,
        ):
            for batch in read(source, FINGERPRINT.names):
                if splits:
                    batch = batch.filter(pc.is_in(batch["split"], pa.array(sorted(splits))))
                writer.write_table(batch)
                rows += batch.num_rows
    except OSError as error:
        raise RsdataError(f"{output}: {error.strerror or error}") from error
    return rows
