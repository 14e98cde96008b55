"""Images/s of embedding a table, beside a bare loop of encode_image over tensors that are ready.

    python tests/benchmarks/embedding.py [--model ViT-B-32 …] [--images 256] [--repeat 3] [--device cpu]

JPEGs of 256 to 512 pixels as in loader.py, in an rsdata table. Ours reads the table, decodes and resizes as
open_clip's evaluation transform, normalises on the device, embeds in batches of 64 and writes the cache; the
bare loop holds all batches as normalised floats on the device, and only calls `encode_image`. Weights are
random. The two take turns in one process; the medians count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from loader import make
from training import process

BATCH = 64


def bare(clip: object, batches: list[torch.Tensor]) -> float:
    """Seconds to encode them all."""
    start = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            clip.model.encode_image(batch, normalize=True).cpu()  # type: ignore[attr-defined]
    return time.perf_counter() - start


def ready(clip: object, table: Path, device: str) -> list[torch.Tensor]:
    """The table's images as normalised floats on the device."""
    from rsclip import store
    from rsclip.pixels import decode
    from rsdata import tables

    made: list[torch.Tensor] = []
    for group in store.row_groups(tables.shards(table)):
        made += [clip.transform_eval(decode(row["bytes"])) for row in group["image"].to_pylist()]  # type: ignore[attr-defined]
    return [torch.stack(made[at : at + BATCH]).to(device) for at in range(0, len(made), BATCH)]


def ours(clip: object, table: Path, device: str, threads: int) -> float:
    """Seconds to embed the table with an empty cache."""
    from rsclip import features
    from rsclip.encode import Encoder

    with tempfile.TemporaryDirectory() as cache:
        encoder = Encoder(clip, BATCH, threads, device, Path(cache))  # type: ignore[arg-type]
        start = time.perf_counter()
        features.read(encoder, [table], wanted="image")
        return time.perf_counter() - start


def main() -> None:
    """Print a line a model."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", nargs="+", default=["ViT-B-32", "RN50"])
    arguments.add_argument("--images", type=int, default=256)
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--threads", type=int, default=os.cpu_count())
    options = arguments.parse_args()
    from rsclip import model

    with tempfile.TemporaryDirectory() as scratch:
        dump, table = Path(scratch) / "dump", Path(scratch) / "table"
        make(dump, options.images)
        words = ["convert", str(dump), "--format", "folders", "--images", "*/*.*", "-o", str(table)]
        process([sys.executable, "-m", "rsdata", *words])
        print("| images/s | bare loop | rsclip | ratio |\n|---|---|---|---|")
        for name in options.model:
            clip = model.create(name)
            clip.model.eval().to(options.device)
            batches = ready(clip, table, options.device)
            turns = [
                (bare(clip, batches), ours(clip, table, options.device, options.threads))
                for _ in range(options.repeat + 1)
            ][1:]
            loop, table_read = (statistics.median(each) for each in zip(*turns, strict=True))
            speeds = options.images / loop, options.images / table_read
            print(f"| {name} | {speeds[0]:.1f} | {speeds[1]:.1f} | {loop / table_read:.3f} |", flush=True)


if __name__ == "__main__":
    main()
