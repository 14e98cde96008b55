"""What box captions add to human ones: a tiny model at equal compute, scored on images it has not seen.

    python tests/benchmarks/captions.py [--seeds 5] [--steps 400] [--images 800] [--real DIR]

(a) sample scenes in RSICD's layout, with captions in the manner of people; (b) these, and scenes of DOTA,
RSOD, VisDrone and LEVIR with the captions of RemoteCLIP's rules (B2C); (c) the same with `rich` captions;
(d) as (b), with equal captions no negatives (mask-equal). In (b) to (d) there are as many images with box
captions as with human ones. rsclip-tiny from random weights; every run has the same steps and pairs.
Scored are other scenes, drawn from another seed: retrieval on RSICD's layout by image, zero-shot on scenes of
objects of one of eight kinds (mean recall and top-1 in percent). --real: a folder with `data/eurosat` and
`data/rsscn7`, genuine images; zero-shot on all of them is scored too. The interval is Student's, 95 %, of the
difference to (a) over seeds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from negatives import interval, trained
from training import process

BOXES = ("dota", "rsod", "visdrone", "levir")
VARIANTS: dict[str, tuple[str | None, str]] = {
    "(a) human": (None, "all"),
    "(b) human + B2C": ("remoteclip", "all"),
    "(c) human + rich": ("rich", "all"),
    "(d) human + B2C, mask-equal": ("remoteclip", "mask-equal"),
}
"""The caption set of the boxes, and what the captions of other images are."""
NOUNS = (
    "airplane",
    "ship",
    "storage tank",
    "bridge",
    "vehicle",
    "harbor",
    "tennis court",
    "baseball diamond",
)
OBJECTS = """title = "Scenes of objects of one kind"
format = "folders"
[splits.unsplit]
images = "*/*.*"
[classes]
"""
REAL = {"eurosat": "eurosat", "rs2800": "rsscn7"}


def table(scratch: Path, name: str, images: int, seed: int, captions: str = "none") -> Path:
    """Sample scenes of a recipe as a table."""
    stem = Path(name).stem
    dump, made = scratch / f"{stem}-{seed}", scratch / f"{stem}-{seed}-{captions}"
    if not dump.exists():
        count = ["--images", str(images), "--size", "96x96", "--objects", "4", "--seed", str(seed)]
        process([sys.executable, "-m", "rsdata", "sample", name, str(dump), *count])
    convert(dump, name, made, captions)
    return made


def convert(dump: Path, recipe: str, made: Path, captions: str = "none") -> None:
    """Convert a dump, unless it was."""
    if not made.exists():
        words = ["convert", str(dump), "--recipe", recipe, "-o", str(made), "--captions", captions]
        process([sys.executable, "-m", "rsdata", *words])


def scores(run: Path, told: Path, scenes: dict[str, Path]) -> dict[str, float]:
    """Mean recall on `told`, and top-1 on each of `scenes`."""
    from rsclip import model
    from rsclip.encode import Encoder
    from rsclip.tasks import retrieval, zeroshot

    encoder = Encoder(model.load(run), batch_size=256)
    found = {"retrieval": retrieval.run(encoder, [told])["mean_recall"]}
    for name, held in scenes.items():
        split = ["unsplit"]  # all of it: nothing is trained on it
        found[f"zero-shot, {name}"] = zeroshot.run(encoder, [held], split)["top1"]
    return found


def main() -> None:
    """Train and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--steps", type=int, default=400)
    arguments.add_argument("--images", type=int, default=800, help="with human captions")
    arguments.add_argument("--batch-size", type=int, default=64)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--real", type=Path)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        human = table(place, "rsicd", options.images, 0)
        told = table(place, "rsicd", options.images // 2, 1)
        recipe = place / "objects.toml"
        recipe.write_text(OBJECTS + "".join(f'"{noun}" = "{noun}"\n' for noun in NOUNS), encoding="utf-8")
        scenes = {"objects": table(place, str(recipe), 800, 1)}
        for name, folder in REAL.items() if options.real else ():
            convert(options.real / "data" / folder, name, place / name)
            scenes[f"genuine {name}"] = place / name
        for seed in range(options.seeds):
            for name, (captions, negatives) in VARIANTS.items():
                boxes = [table(place, each, options.images // 4, 0, captions) for each in BOXES if captions]
                run = place / f"{seed}-{name[1]}"
                trained([human, *boxes], run, seed, options, place / "cache", negatives=negatives)
                results[name].append(scores(run, told, scenes))
                print(f"seed {seed}, {name}: {results[name][-1]}", file=sys.stderr, flush=True)
    write(results, options)


def write(results: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> None:
    """Print means, and differences to the first."""
    plain = next(iter(results.values()))
    print(f"{options.seeds} seeds, {options.steps} steps of {options.batch_size}\n")
    print(f"| trained on | {' | '.join(f'{name} | difference' for name in plain[0])} |")
    print(f"|---|{'---|' * (2 * len(plain[0]))}")
    for name, found in results.items():
        cells = []
        for score in plain[0]:
            cells.append(f"{statistics.fmean(each[score] for each in found):.2f}")
            apart = [mine[score] - theirs[score] for mine, theirs in zip(found, plain, strict=True)]
            cells.append("" if found is plain else interval(apart))
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
