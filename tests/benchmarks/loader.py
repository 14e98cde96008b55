"""Images/s of the data path of training alone, ours and open_clip's, and how far the resizes are apart.

    python tests/benchmarks/loader.py [--peer PYTHON] [--images 2000] [--repeat 3]

JPEGs of 256 to 512 pixels (noise of many scales and shapes, quality 90, about 35 KB) with a caption each; two
workers, batches of 64, random crops of 224 pixels, the tokens of ViT-B-32, files in the page cache. The
peer's loader is the one that its CSV option makes; ours reads the table's Arrow copy, made before. An image
counts when it is in the main process: the peer's as floats, ours as bytes, of which the model's device makes
floats, or ("floats") as floats made there by the same two cores. The clock starts when each worker has
delivered a batch. One pass is a process of its own; passes take turns, the first of each does not count, and
the median does. --peer: a Python with `open_clip_torch[training]==3.3.0`, if not this one.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from training import process

MODEL, SIZE, BATCH, WORKERS = "ViT-B-32", 224, 64, 2
EDGE = 256
PEER = "open_clip, CSV"
OURS: dict[str, tuple[str, int | None]] = {
    "rsclip --resize pil": ("pil", None),
    "rsclip": ("fast", None),
    f"rsclip, copy with an edge of {EDGE}": ("fast", EDGE),
    "rsclip, floats": ("fast", None),
    f"rsclip, copy with an edge of {EDGE}, floats": ("fast", EDGE),
}
"""Resize, and the shorter side of the images in the copy."""


def draw(rng: np.random.Generator) -> Image.Image:
    """Ground of many scales, with roofs, tanks and roads on it."""
    width, height = (int(side) for side in rng.integers(256, 513, 2))
    ground = np.zeros((height, width, 3), np.float32)
    for scale in (4, 16, 64, 256):
        noise = Image.fromarray(rng.integers(0, 256, (scale, scale, 3), np.uint8))
        layer = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        ground += (layer - 128) / scale**0.5
    picture = Image.fromarray(np.clip(110 + 0.9 * ground, 0, 255).astype(np.uint8))
    canvas = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(5, 30))):
        x, y, wide, high = (int(each) for each in rng.integers((0, 0, 8, 8), (width, height, 80, 80)))
        shape = canvas.ellipse if rng.random() < 0.3 else canvas.rectangle
        shape((x, y, x + wide, y + high), fill=tuple(int(each) for each in rng.integers(40, 230, 3)))
    return picture


def make(dump: Path, count: int) -> Path:
    """JPEGs, and their captions in a CSV as open_clip reads it."""
    rng = np.random.default_rng(0)
    (dump / "images").mkdir(parents=True)
    listed = dump / "train.tsv"
    with listed.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["filepath", "title"])
        for number in range(count):
            path = f"images/{number:06d}.jpg"
            draw(rng).save(dump / path, quality=90)
            ships, trucks = (int(each) for each in rng.integers(2, 11, 2))
            writer.writerow(
                [path, f"{ships} ships and {trucks} large vehicles in the middle of the picture."]
            )
    return listed


def clock(batches: Iterable[Any]) -> float:
    """Images/s of a loader, once each worker has delivered a batch."""
    arrived = []
    for _ in batches:
        arrived.append(time.perf_counter())
    return BATCH * (len(arrived) - WORKERS) / (arrived[-1] - arrived[WORKERS - 1])


def theirs(listed: Path) -> float:
    """Images/s of the loader that open_clip_train makes for a CSV."""
    from open_clip import get_tokenizer, image_transform
    from open_clip_train.data import get_csv_dataset

    keys = {"csv_img_key": "filepath", "csv_caption_key": "title", "csv_separator": "\t"}
    usual = {"train_data": str(listed), "distributed": False, "batch_size": BATCH, "workers": WORKERS}
    transform = image_transform(SIZE, is_train=True)
    args = SimpleNamespace(**keys, **usual)
    return clock(get_csv_dataset(args, transform, is_train=True, tokenizer=get_tokenizer(MODEL)).dataloader)


def ours(table: Path, resize: str, edge: int | None, floats: bool) -> float:
    """Images/s of rsclip's loader; its copy of the table, images of that edge, is made where it lacks."""
    import torch
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, get_tokenizer

    from rsclip import data, store
    from rsclip.pixels import Pixels

    copy = table.with_name(f"{table.name}-{edge}.arrow")
    if not copy.exists():
        store.copy(store.Source(table, ("train",)), copy, edge)
    pixels = Pixels({"size": SIZE}, augment="crop", resize=resize)
    pairs = data.Pairs(store.Store([copy]), data.Draw(pixels, captions="first"))
    order = data.Order(pairs.parts, BATCH)
    mean, std = (255 * torch.tensor(each).view(3, 1, 1) for each in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    batches = data.loader(pairs, get_tokenizer(MODEL), order, 0, order.steps, WORKERS)
    return clock(batch.images.float().sub_(mean).div_(std) if floats else batch for batch in batches)


def resizes_apart(paths: list[Path]) -> tuple[float, int]:
    """Mean and largest difference (0 to 255) of Pillow's and torchvision's resized crops, of equal boxes."""
    import torch
    from torchvision.transforms import InterpolationMode, RandomResizedCrop
    from torchvision.transforms.functional import pil_to_tensor
    from torchvision.transforms.functional import resized_crop as on_pillow
    from torchvision.transforms.v2.functional import resized_crop as on_bytes

    torch.manual_seed(0)
    means, largest = [], 0
    for path in paths:
        image = Image.open(path).convert("RGB")
        box = RandomResizedCrop.get_params(image, [0.9, 1.0], [3 / 4, 4 / 3])
        how: dict[str, Any] = {"size": [SIZE, SIZE], "interpolation": InterpolationMode.BICUBIC}
        one = pil_to_tensor(on_pillow(image, *box, **how, antialias=True))
        other = on_bytes(pil_to_tensor(image), *box, **how, antialias=True)
        difference = (one.int() - other.int()).abs()
        means.append(float(difference.float().mean()))
        largest = max(largest, int(difference.max()))
    return statistics.fmean(means), largest


def main() -> None:
    """Measure and print the table; with --role, one pass."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--peer", default=sys.executable, metavar="PYTHON")
    arguments.add_argument("--images", type=int, default=2000)
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument("--role", nargs=2, metavar=("WHO", "PATH"), help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.role:
        who, path = options.role
        print(theirs(Path(path)) if who == PEER else ours(Path(path), *OURS[who], who.endswith("floats")))
        return
    if options.images // BATCH <= WORKERS:
        arguments.error(f"--images: at least {(WORKERS + 1) * BATCH}")
    with tempfile.TemporaryDirectory() as scratch:
        dump, table = Path(scratch, "dump"), Path(scratch, "table")
        listed = make(dump, options.images)
        paths = sorted(dump.glob("images/*.jpg"))
        size = statistics.fmean(path.stat().st_size for path in paths) / 1000
        convert = ["convert", str(dump), "--format", "pairs", "-o", str(table)]
        process([sys.executable, "-m", "rsdata", *convert])
        script = str(Path(__file__).resolve())
        passes = {PEER: [options.peer, script, "--role", PEER, str(listed)]}
        passes |= {who: [sys.executable, script, "--role", who, str(table)] for who in OURS}
        speeds: dict[str, list[float]] = {who: [] for who in passes}
        for number in range(1 + options.repeat):
            for who, command in passes.items():
                done, _ = process(command, dump)
                if number:
                    speeds[who].append(float(done.stdout))
                print(f"{number}: {who}: {float(done.stdout):.0f} images/s", file=sys.stderr, flush=True)
        mean, largest = resizes_apart(paths)
    print(f"{options.images:,} JPEGs, {size:.0f} KB on average; median of {options.repeat}\n")
    print("| loader | images/s | lowest to highest | x peer |\n|---|---|---|---|")
    peer = statistics.median(speeds[PEER])
    for who, found in speeds.items():
        middle = statistics.median(found)
        print(f"| {who} | {middle:.0f} | {min(found):.0f} to {max(found):.0f} | {middle / peer:.2f} |")
    print(
        f"\nPillow's resized crop and torchvision's of bytes, with equal boxes, differ by {mean:.3f} of 255 "
        f"on average and by {largest} at most."
    )


if __name__ == "__main__":
    main()
