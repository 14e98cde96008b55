"""The page of an audit: seconds, peak memory and bytes, on a table of real JPEGs made here.

    python tests/benchmarks/report.py [--images 100000] [--folder DIR]

The table: drawn scenes of 256 pixels as JPEGs of about 30 kB, each under many ids, with ten boxes and five
captions an image. `rsdata stats` runs alone, the lower bound, then with `--html`, then `--against` the table
itself, and `rsdata view`, each in a process of its own; the peak is the resident memory of that process,
which has no children. With --folder the table stays there, and is found again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from rsdata import scenes, tables
from rsdata.box_to_caption import captions
from rsdata.records import Box, Record
from rsdata.words import Words

CLASSES = ("airplane", "ship", "storage tank", "building", "tennis court", "vehicle", "bridge", "harbor")
SCENES = 300
SHARD = 10_000


def pictures() -> list[bytes]:
    """Encoded scenes."""
    made = []
    for number in range(SCENES):
        held = io.BytesIO()
        pixels = scenes.draw(list(CLASSES[:5]), number, 256, 256).pixels
        Image.fromarray(pixels).save(held, "JPEG", quality=95, subsampling=0)
        made.append(held.getvalue())
    return made


def row(number: int, data: bytes) -> tables.Row:
    """An image of its own: boxes and captions drawn by its number."""
    rng = random.Random(number)
    boxes = []
    for _ in range(rng.randrange(20)):
        x, y, edge = rng.uniform(0, 200), rng.uniform(0, 200), rng.uniform(4, 56)
        label = rng.choice(CLASSES)
        boxes.append(Box(label, label, x, y, x + edge, y + edge))
    image_id = f"bench/train/{number:06}"
    record = Record(image_id, boxes, 256, 256)
    said = captions(record, image_id, "remoteclip", Words())
    return tables.Row(
        image_id, f"set-{number % 10}", "train" if number % 5 else "val", data, f"{number}.jpg", 256, 256,
        boxes, said, "remoteclip" if said else None, None, None, f"{number:064x}", "",
    )  # fmt: skip


def table(folder: Path, images: int) -> Path:
    """The table, made if it is not there yet."""
    path = folder / f"table-{images}"
    if (path / tables.MANIFEST).is_file():
        return path
    encoded = pictures()
    about = {"dataset": "bench", "datasets": {}, "captions": "remoteclip", "versions": {"rsdata": "0"}}
    names = tables.shard_names("train", -(-images // SHARD))
    objects = said = 0
    for start, name in zip(range(0, images, SHARD), names, strict=True):
        with tables.shard_writer(path / name, about) as writer:
            for number in range(start, min(images, start + SHARD)):
                made = row(number, encoded[number % SCENES])
                objects, said = objects + len(made.objects), said + len(made.captions)
                writer.add(made)
    manifest = {
        "rsdata": about,
        "splits": {"train": {"files": names, "rows": images}},
        "images": {"found": images, "written": images, "duplicates": 0, "leaks": 0, "rejected": 0},
        "objects": {"found": objects, "written": objects},
        "captions": said,
        "reasons": {},
        "datasets": {},
    }
    (path / tables.MANIFEST).write_text(json.dumps(manifest))
    return path


def measured(name: str, *arguments: object, page: Path | None = None) -> str:
    """A row of seconds, those of the processor, peak resident memory, and bytes of the page."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "rsdata", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command}: failed")
    seconds, worked = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    size = f"{page.stat().st_size / 1e6:.1f}" if page else ""
    return f"| {name} | {seconds:.1f} | {worked:.1f} | {usage.ru_maxrss >> 10:,} | {size} |"


def main() -> None:
    """Print the figures as a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        path = table(arguments.folder or Path(temporary), arguments.images)
        page = Path(temporary) / "page.html"
        size = sum(shard.stat().st_size for shard in tables.shards(path))
        measured("", "stats", path)  # so that all find the shards in memory, as far as it goes
        what = f"{arguments.images:,} images, {size >> 20:,} MB"
        print(f"| {what} | seconds | of the processor | peak MB | page MB |")
        print("|---|---|---|---|---|")
        print(measured("`stats`", "stats", path))
        print(measured("`stats --html`", "stats", path, "--html", page, page=page))
        print(measured("`stats --against`", "stats", path, "--against", path))
        print(measured("`view`", "view", path, "--where", "boxes > 10", "-o", page, page=page))


if __name__ == "__main__":
    main()
