"""A small honest dataset: coloured shapes whose captions say which shapes, in what colours, how many.

The tables are built with pyarrow directly, so that these tests hold rsclip to the table's layout and not to
whatever rsdata.tables happens to write.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from rsdata.records import SCHEMA

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 220), "yellow": (230, 210, 40)}
SHAPES = ("circle", "square", "triangle")
WORDS = ("no", "one", "two", "three")


def draw(rng: np.random.Generator, size: int) -> tuple[bytes, list[str]]:
    """A JPEG of one to three shapes of one kind and one of another, and five captions that say so."""
    ground = tuple(int(v) for v in rng.integers(90, 150, 3))
    picture = Image.new("RGB", (size, size), ground)
    pen = ImageDraw.Draw(picture)
    kinds = rng.choice(len(SHAPES) * len(COLOURS), 2, replace=False)
    cells = rng.permutation(9)
    phrases = []
    for kind, count in zip(kinds, (int(rng.integers(1, 4)), 1), strict=True):
        shape, colour = SHAPES[kind // len(COLOURS)], list(COLOURS)[kind % len(COLOURS)]
        for _ in range(count):
            cell, cells = cells[0], cells[1:]
            stamp(pen, shape, COLOURS[colour], size, cell)
        phrases.append(f"{WORDS[count]} {colour} {shape}{'s' * (count > 1)}")
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=92)
    both, swapped = " and ".join(phrases), " and ".join(phrases[::-1])
    return data.getvalue(), [
        f"There are {both} in the picture .",
        f"{swapped} .",
        f"An image of {both} .",
        f"{both} can be seen .",
        f"A picture with {swapped} .",
    ]


def stamp(pen: ImageDraw.ImageDraw, shape: str, colour: tuple[int, int, int], size: int, cell: int) -> None:
    step = size / 3
    x, y, r = (cell % 3 + 0.5) * step, (cell // 3 + 0.5) * step, step * 0.36
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif shape == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=colour)
    else:
        pen.polygon((x, y - r, x + r, y + r, x - r, y + r), fill=colour)


def shape_rows(count: int, split: str, seed: int = 0, size: int = 64) -> list[dict]:
    rng = np.random.default_rng([seed, len(split)])
    drawn = [draw(rng, size) for _ in range(count)]
    return [row(f"shapes/{split}/{i:05d}", split, data, said) for i, (data, said) in enumerate(drawn)]


def scene_rows(
    per_class: int, split: str, classes: tuple[str, ...] = tuple(COLOURS), seed: int = 0
) -> list[dict]:
    """Scenes whose class is the colour of their one shape; their names are not in the order of numbers."""
    rng = np.random.default_rng([seed, 7])
    rows = []
    for name in classes:
        for number in range(per_class):
            picture = Image.new("RGB", (64, 64), tuple(int(v) for v in rng.integers(90, 150, 3)))
            shape = SHAPES[int(rng.integers(len(SHAPES)))]
            stamp(ImageDraw.Draw(picture), shape, COLOURS[name], 64, int(rng.integers(9)))
            data = io.BytesIO()
            picture.save(data, "PNG")
            made = row(f"scenes/{split}/{name}/{number}", split, data.getvalue(), [])
            path = f"{name}/{name}_{number}.png"
            rows.append({**made, "label": name, "image": {"bytes": data.getvalue(), "path": path}})
    return rows


def row(image_id: str, split: str, data: bytes | None, captions: list[str]) -> dict:
    blank = dict.fromkeys(SCHEMA.names)
    image = {"bytes": data, "path": f"{image_id}.jpg"}
    return {
        **blank,
        "image_id": image_id,
        "dataset": "shapes",
        "split": split,
        "image": image,
        "captions": captions,
    }


def write_table(
    folder: Path, rows: list[dict], shards: int = 1, row_group: int = 7, benchmark: dict | None = None
) -> Path:
    """`rows` as a closed table: data/SPLIT-00000-of-0000N.parquet and manifest.json.

    benchmark: what its metadata says of it as a benchmark; without it the table is another program's.
    """
    facts = {"shapes": {"irregular": {}, "benchmark": benchmark}}
    about = {"dataset": "shapes", "datasets": facts, "captions": "none", "versions": {"rsdata": "0"}}
    schema = SCHEMA.with_metadata({"rsdata": json.dumps(about)}) if benchmark else SCHEMA
    splits: dict[str, dict] = {}
    (folder / "data").mkdir(parents=True)
    for split in dict.fromkeys(r["split"] for r in rows):
        mine = [r for r in rows if r["split"] == split]
        files = [f"data/{split}-{i:05d}-of-{shards:05d}.parquet" for i in range(shards)]
        for name, part in zip(files, np.array_split(np.arange(len(mine)), shards), strict=True):
            table = pa.Table.from_pylist([mine[i] for i in part], schema=schema)
            pq.write_table(table, folder / name, row_group_size=row_group)
        splits[split] = {"files": files, "rows": len(mine)}
    (folder / "manifest.json").write_text(json.dumps({"splits": splits}))
    return folder
