"""Captions by a rule of your own: how crowded an image is, and with what.

    python examples/own_captions.py TABLE NEW_TABLE

Reads a table as plain Parquet, writes captions of its own in place of those there, and gives the result back
its metadata with `rsdata.repair`, so that `rsclip train` and every other command take it. A rule that is of
use to others is a caption set: one file in rsdata/templates (docs/add-a-format.md).
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rsdata import repair, tables

EMPTY, SPARSE = 0.01, 0.1
"""Shares of the image that boxes cover: below the first it is nearly empty, below the second sparse."""


def captions(row: dict[str, Any]) -> list[str]:
    """One sentence: the share that boxes cover in words, and the commonest class; none without objects."""
    objects = row["objects"]
    if not objects:
        return []
    area = sum((box["xmax"] - box["xmin"]) * (box["ymax"] - box["ymin"]) for box in objects)
    share = area / (row["width"] * row["height"])
    crowd = "A nearly empty" if share < EMPTY else "A sparse" if share < SPARSE else "A crowded"
    (label, _), *_ = Counter(box["label"] for box in objects).most_common(1)
    return [f"{crowd} scene, most of all of the class {label}."]


def main(table: Path, output: Path) -> None:
    """Write the table anew, shard by shard."""
    with tempfile.TemporaryDirectory() as folder:
        for shard in tables.shards(table):
            rows = pq.read_table(shard)
            facts = rows.select(["objects", "width", "height"]).to_pylist()
            texts = [captions(row) for row in facts]
            source = ["crowding" if each else None for each in texts]
            for name, values in (("captions", texts), ("caption_source", source)):
                field = rows.schema.field(name)
                column = pa.array(values, field.type)
                rows = rows.set_column(rows.schema.get_field_index(name), field, column)
            pq.write_table(rows, Path(folder) / shard.name)
        manifest = repair.repair(Path(folder), output)
    print(f"{output}: {manifest['captions']:,} captions, such as {next(filter(None, texts), [])}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
