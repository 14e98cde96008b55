"""The lists of images that a deduplication removes, or holds for suspect."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rsdata import hamming, places
from rsdata.errors import TableError

RULES = ("sha256", "pixels", "scene", "name", "footprint", "phash", "quarters")
"""What tells a leak, the surest first; the last makes suspects only."""

REMOVED = pa.schema(
    [
        ("image_id", pa.string()),
        ("kind", pa.string()),
        ("rule", pa.string()),
        ("twin", pa.string()),
        ("benchmark", pa.string()),
        ("distance", pa.int32()),
        ("symmetry", pa.string()),
        ("view", pa.string()),
        ("dataset", pa.string()),
        ("split", pa.string()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("phash", pa.uint64()),
    ]
)
"""One row an image and twin. kind: duplicate or leak; rule: of RULES; distance: in bits, null where no hash
was compared; symmetry, view: of the twin, as the image shows it."""

NAMED = ("image_id", "dataset", "split", "path", "sha256", "phash")
"""Columns of REMOVED that tell the image itself."""

HIT = np.dtype([("row", "i8"), ("twin", "i8"), ("rule", "i1"), ("distance", "i2"), ("variant", "i2")])
"""An image and its twin while they are numbers. rule: index of RULES; variant: index of phashes."""

UNCOMPARED = -1
"""The distance where no hash was compared."""


def surest(hits: Any) -> Any:
    """One HIT a row: by the surest rule, then the nearest, then the first twin."""
    hits = hits[np.lexsort((hits["variant"], hits["twin"], hits["distance"], hits["rule"], hits["row"]))]
    return hits[hamming.starts_of(hits["row"])]


def hits(rows: Any, twins: Any, rule: str, distance: int) -> Any:
    """An array of HIT."""
    found = np.zeros(len(rows), HIT)
    found["row"], found["twin"], found["rule"], found["distance"] = rows, twins, RULES.index(rule), distance
    return found


def once(table: pa.Table) -> Iterator[tuple[str, str]]:
    """(dataset, kind) of each image of a list; one that is listed as a leak and a duplicate is a leak."""
    order = [("image_id", "ascending"), ("kind", "descending")]
    held = table.select(["image_id", "dataset", "kind"]).sort_by(order)
    for _, items in groupby(held.to_pylist(), itemgetter("image_id")):
        first = next(items)
        yield first["dataset"], first["kind"]


def read(path: Path) -> pa.Table:
    """A list of removals. Raises TableError where it is none."""
    try:
        table = pq.read_table(**places.arrow(path))
        return table.select(REMOVED.names).cast(REMOVED)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise TableError(f"{path}: no list of removed images: {error}") from error


def write(path: Path, table: pa.Table) -> None:
    """Write a list whole or not at all."""
    with places.atomic_write(path) as file:
        pq.write_table(table, file, compression="zstd")
