"""Removals that a list names, repeated on tables: leaks can be published, and applied by others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsdata import fingerprints, removals
from rsdata.fingerprints import Source
from rsdata.removals import NAMED, REMOVED

_ALIKE = 4
"""Bits within which an image of the listed id is the listed one, encoded anew."""


def replay(
    sources: Sequence[Source], listed: Sequence[Path], held_out: Any
) -> tuple[pa.Table, dict[str, int]]:
    """The removals of lists, with the row of each; and how many were not repeated, by why.

    An image is the one listed if it is the same file, or has its id and looks like it. A duplicate goes only
    where its twin is. held_out: (rows,) images that stay whatever a list says. Raises TableError where a file
    is damaged, or no list.
    """
    schema = REMOVED.append(pa.field("row", pa.int64()))
    counts = {"not_here": 0, "other_picture": 0, "without_twin": 0}
    items = [item for path in listed for item in removals.read(path).to_pylist()]
    if not items:
        return schema.empty_table(), counts
    named = pa.array({item[key] for item in items for key in ("image_id", "twin")}, pa.string())
    files = pa.array({item["sha256"] for item in items if item["sha256"]}, pa.string())
    ids: dict[str, tuple[int, Mapping[str, Any]]] = {}
    by_file: dict[str, list[str]] = {}
    start = 0
    for source in sources:
        for batch in fingerprints.read(source, NAMED):
            met = pc.or_(pc.is_in(batch["image_id"], named), pc.is_in(batch["sha256"], files))
            rows = np.flatnonzero(pc.fill_null(met, False).to_numpy())
            for row, held in zip(rows, batch.take(pa.array(rows)).to_pylist(), strict=True):
                ids[held["image_id"]] = (start + int(row), held)
                if held["sha256"]:
                    by_file.setdefault(held["sha256"], []).append(held["image_id"])
            start += batch.num_rows
    gone: dict[tuple[str, str | None, str], dict[str, Any]] = {}
    for item in items:
        same = by_file.get(item["sha256"], []) if item["sha256"] else []
        here = item["image_id"] in ids
        if here and item["image_id"] not in same:
            same = [*same, item["image_id"]] if _is_like(item, ids[item["image_id"]][1]) else same
        if not same:
            counts["other_picture" if here else "not_here"] += 1
        for image_id in same:
            place, held = ids[image_id]
            if item["kind"] == "duplicate" and (item["twin"] not in ids or item["twin"] == image_id):
                counts["without_twin"] += 1
            elif not held_out[place]:
                key = (image_id, item["benchmark"], item["twin"])
                gone[key] = {**item, **{name: held[name] for name in NAMED}, "row": place}
    return pa.Table.from_pylist(list(gone.values()), schema=schema), counts


def _is_like(item: Mapping[str, Any], held: Mapping[str, Any]) -> bool:
    """Whether an image of the listed id may be the one listed: re-encoded, or never looked at."""
    if item["phash"] is None or held["phash"] is None:
        return True
    return bool((item["phash"] ^ held["phash"]).bit_count() <= _ALIKE)
