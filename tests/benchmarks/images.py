"""Images to a table with their hashes, beside the least that any converter must do; and the memory of both.

    python tests/benchmarks/images.py [--images 5000] [--repeat 3]

JPEGs of 512 to 2,000 pixels (noise of many scales, quality 90: about as many bytes a pixel as aerial
images have). The floor reads each file, decodes it once at an eighth of its size, and appends its bytes
to Parquet in row groups of a hundred, in two processes; it computes no hash and no digest. Ours is `rsdata
convert` of folders by class, whole process, two workers. Memory is that of all processes, pages that they
share once; a tenth of the images shows whether it grows.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import Measured, measure
from PIL import Image

DISTINCT = 250
SIDES = (512, 600, 800, 1000, 1024, 1333, 1600, 2000)
FLOOR = """
import io, sys
from multiprocessing import get_context
import pyarrow as pa, pyarrow.parquet as pq
from PIL import Image
from pathlib import Path
SCHEMA = pa.schema([("bytes", pa.binary()), ("path", pa.string())])
def work(job):
    paths, out = job
    with pq.ParquetWriter(out, SCHEMA, compression="none", use_dictionary=False) as writer:
        for start in range(0, len(paths), 100):
            datas = []
            for path in paths[start : start + 100]:
                with open(path, "rb") as file:
                    data = file.read()
                image = Image.open(io.BytesIO(data))
                image.draft("L", (64, 64))
                image.convert("L")
                datas.append(data)
            names = [str(path) for path in paths[start : start + 100]]
            writer.write_table(pa.table([pa.array(datas, pa.binary()), pa.array(names)], SCHEMA))
if __name__ == "__main__":
    paths = sorted(Path(sys.argv[1]).rglob("*.jpg"))
    parts = [(paths[at::16], f"{sys.argv[2]}-{at}") for at in range(16)]
    with get_context("spawn").Pool(2) as pool:
        list(pool.imap_unordered(work, parts))
"""


def make(root: Path, count: int) -> None:
    """JPEGs by class folder; of each of the distinct ones several links."""
    rng = np.random.default_rng(0)
    drawn = root.parent / "drawn"
    drawn.mkdir(parents=True)
    for number in range(min(DISTINCT, count)):
        side = SIDES[number % len(SIDES)]
        layers = np.zeros((side, side, 3), np.float32)
        for scale in (4, 16, 64, 256, 1024):
            small = rng.normal(0, 1, (min(side, scale), min(side, scale), 3)).astype(np.float32)
            spread = [
                np.asarray(Image.fromarray(small[..., band]).resize((side, side), 2)) for band in range(3)
            ]
            layers += np.stack(spread, axis=2) / scale**0.25
        picture = np.clip(128 + 40 * layers, 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(drawn / f"{number}.jpg", quality=90)
    for number in range(count):
        path = root / f"class-{number % 20:02d}/{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(drawn / f"{number % DISTINCT}.jpg", path)


def stages(paths: list[Path], table: Path) -> dict[str, float]:
    """Milliseconds an image of each stage, alone and one after the other, in this process."""
    from rsdata import hashing, pictures, rasters, tables
    from rsdata.rasters import Rendering

    spent: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        spent[name] = 1000 * (time.perf_counter() - start) / len(paths)
        return result

    files = timed("read the file", lambda: [path.read_bytes() for path in paths])
    timed("SHA-256", lambda: [hashlib.sha256(data).hexdigest() for data in files])

    def decode(data: bytes) -> None:
        image = Image.open(io.BytesIO(data))
        image.draft("L", (64, 64))
        image.convert("L")

    timed("one scaled decode", lambda: [decode(data) for data in files])
    opened = [rasters.open_image(data) for data in files]
    timed("all hashes, with that decode", lambda: [hashing.hashes(image) for image in opened])  # type: ignore
    looked = timed("look: all of the above", lambda: [pictures.look(path, Rendering()) for path in paths])

    def write() -> None:
        with tables.shard_writer(table, {}) as writer:
            for path, held in zip(paths, looked, strict=True):
                picture = (held.width, held.height, [], [], None, None, held.sample, held.sha256)
                writer.add(tables.Row(str(path), "x", "train", held.data, str(path), *picture, ""))

    timed("write the shard, synced", write)
    return spent


def main() -> None:
    """Measure and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--images", type=int, default=5000)
    arguments.add_argument("--repeat", type=int, default=3)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch, "floor.py")
        script.write_text(FLOOR)
        runs: dict[str, list[Measured]] = {}
        for count in (options.images, options.images // 10):
            dump = Path(scratch, str(count), "dump")
            make(dump, count)
            size = sum(path.stat().st_size for path in dump.rglob("*.jpg")) / 1e6
            print(f"{count:,} images, {size:,.0f} MB", file=sys.stderr, flush=True)
            convert = [
                sys.executable,
                "-m",
                "rsdata",
                "convert",
                str(dump),
                "--format",
                "folders",
                "--overwrite",
            ]
            convert += ["-o", str(Path(scratch, "table")), "--workers", "2", "--captions", "none"]
            work = {
                f"floor, {count:,}": [sys.executable, str(script), str(dump), str(Path(scratch, "floor"))],
                f"rsdata convert, {count:,}": convert,
            }
            for _ in range(options.repeat):
                for name, command in work.items():
                    runs.setdefault(name, []).append(measure(command))
        print("| stage, one process | ms an image |\n|---|---|")
        paths = sorted(dump.rglob("*.jpg"))[:DISTINCT]
        for name, milliseconds in stages(paths, Path(scratch, "shard.parquet")).items():
            print(f"| {name} | {milliseconds:.2f} |")
        print()
    floor = min(run.seconds for run in runs[f"floor, {options.images:,}"])
    print("| work | seconds | images/s | speed, % of the floor | peak MB |\n|---|---|---|---|---|")
    for name, measured in runs.items():
        count = int(name.rpartition(" ")[2].replace(",", ""))
        seconds = min(run.seconds for run in measured)
        share = f"{100 * floor / seconds:.0f}" if count == options.images else ""
        peak = max(run.peak for run in measured)
        print(f"| {name} images | {seconds:.1f} | {count / seconds:,.0f} | {share} | {peak:.0f} |")


if __name__ == "__main__":
    main()
