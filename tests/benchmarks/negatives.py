"""Do captions that are no negatives help? Retrieval on held-out scenes, at equal steps, over seeds.

    python tests/benchmarks/negatives.py [--seeds 5] [--steps 250] [--images 500] [--batch-size 64]

Sample scenes of sets with many classes and with few (DOTA, RSOD, LEVIR, HRSC2016), with box captions;
rsclip-tiny from random weights; another set of scenes, drawn from another seed, is scored. All runs of a seed
start from the same weights and see the same images in the same order, so differences to plain InfoNCE are of
pairs; the interval is Student's, 95 %. A score is the mean recall with an equal caption counted as right
("any"), and by image as the papers count.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from training import process

VARIANTS: dict[str, dict[str, object]] = {
    "all (InfoNCE)": {},
    "mask-equal": {"negatives": "mask-equal"},
    "mask-signature": {"negatives": "mask-signature"},
}
SETS = ("dota", "rsod", "levir", "hrsc2016")
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Two-sided 95 % quantile for so many values."""


def tables(scratch: Path, images: int, seed: int) -> list[Path]:
    """A table of each set."""
    made = []
    for name in SETS:
        dump, table = scratch / f"{name}-{seed}", scratch / f"{name}-{seed}-table"
        count = ["--images", str(images), "--size", "96x96", "--objects", "4", "--seed", str(seed)]
        process([sys.executable, "-m", "rsdata", "sample", name, str(dump), *count])
        process([sys.executable, "-m", "rsdata", "convert", str(dump), "--recipe", name, "-o", str(table)])
        made.append(table)
    return made


def trained(
    tables: list[Path], run: Path, seed: int, options: argparse.Namespace, cache: Path, **choice: object
) -> None:
    """Train rsclip-tiny from random weights."""
    from rsclip import train
    from rsclip.config import Config

    config = Config(
        model="rsclip-tiny",
        steps=options.steps,
        batch_size=options.batch_size,
        lr=1e-3,
        seed=seed,
        augment="none",
        cache=str(cache),
        device="cpu",
        **choice,  # type: ignore[arg-type]
    )
    train.train(tables, run, config)


def scores(run: Path, held_out: list[Path]) -> tuple[float, float]:
    """Mean recall where an equal caption is right, and where it is not."""
    from rsclip import features, metrics, model
    from rsclip.encode import Encoder

    found = features.read(Encoder(model.load(run), batch_size=256), held_out)
    held = found.images, found.texts, found.owners
    by_any = metrics.unique_text_recall(*held, found.places, ks=(1, 5, 10))["mean_recall"]
    return by_any, metrics.recall_at_k(*held, places=found.places)["mean_recall"]


def main() -> None:
    """Train and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--steps", type=int, default=250)
    arguments.add_argument("--images", type=int, default=500, help="of each set")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--batch-size", type=int, default=64)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        seen, held_out = tables(place, options.images, 0), tables(place, options.images // 4, 1)
        for seed in range(options.seeds):
            for name, choice in VARIANTS.items():
                run = place / f"{seed}-{name}"
                trained(seen, run, seed, options, place / "cache", **choice)
                results[name].append(scores(run, held_out))
                print(f"seed {seed}, {name}: {results[name][-1]}", file=sys.stderr, flush=True)
        equal = collisions(place / "cache", options.batch_size)
    print(f"{options.seeds} seeds, {options.steps} steps of {options.batch_size}; ", end="")
    print(f"{100 * equal:.0f} % of the captions in a batch are equal to another's\n")
    print("| negatives | mean recall, any | difference | mean recall, by image | difference |")
    print("|---|---|---|---|---|")
    plain = results["all (InfoNCE)"]
    for name, found in results.items():
        cells = []
        for side in (0, 1):
            cells.append(f"{statistics.fmean(each[side] for each in found):.2f}")
            apart = [mine[side] - theirs[side] for mine, theirs in zip(found, plain, strict=True)]
            cells.append("" if found is plain else interval(apart))
        print(f"| {name} | {' | '.join(cells)} |")


def interval(values: list[float]) -> str:
    """Mean and 95 % interval."""
    if len(values) < 2:
        return f"{values[0]:+.2f}"
    half = STUDENT.get(len(values), 2.0) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):+.2f} ± {half:.2f}"


def collisions(cache: Path, batch_size: int) -> float:
    """Share of the captions of a batch, one an image, that another image of it has too."""
    from rsclip.store import Store

    held = Store([path for path in sorted(cache.iterdir()) if "hard" not in path.name])
    rng, shares = np.random.default_rng(0), []
    for _ in range(50):
        rows = [held[int(place)] for place in rng.permutation(len(held))[:batch_size]]
        said = [(row.captions or [""])[int(rng.integers(5))] for row in rows if len(row.captions or []) == 5]
        shares.append(statistics.fmean(said.count(caption) > 1 for caption in said))
    return statistics.fmean(shares)


if __name__ == "__main__":
    main()
