"""`rsclip train` beside open_clip's own trainer: images/s and loss of the same model on the same data.

    python tests/benchmarks/training.py [--peer PYTHON] [--steps 60] [--images 1300] [--repeat 1]
    python tests/benchmarks/training.py [--peer PYTHON] --curves --steps 200

Synthetic DOTA scenes of 256 pixels with box captions, converted by `rsdata`; the peer reads the same bytes as
files and the first caption of each from a CSV. ViT-S-32 at 128 pixels, batches of 64, AdamW with 0.1 decay,
10 steps of warm-up to 1e-4, cosine; two loader processes, seed 0, on the CPU; options name others. Each run
is a process of its own, one after the other, `--repeat` times over; speed is the median of the steps after
the first ten. --curves compares losses alone. --peer: a Python with `open_clip_torch[training]==3.3.0`, if
not this one. Exit code 1 where trimming changes the loss. On a GPU:

    … --device cuda --model ViT-B-32 --image-size 224 --batch-size 1024 --workers 12 --images 20480
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

WARMUP, WINDOW = 10, 20
EXACT = 1e-5
"""The most that trimming may change the loss of a step in the warm-up. Later steps amplify what is rounded in
another way, as they do where the same run is given another number of threads."""
SHARED = ["--lr", "1e-4", "--wd", "0.1", "--warmup", str(WARMUP)]
OURS = ["--captions", "first", "--augment", "crop", "--log-every", "1"]
THEIRS = ["--dataset-type", "csv", "--csv-img-key", "filepath", "--csv-caption-key", "title"]
THEIRS += ["--log-every-n-steps", "1", "--save-frequency", "0"]
STEP = re.compile(r"Train Epoch: .*?, (\S+)/s, .* Loss: (\S+) \(")


class Run(NamedTuple):
    """Of each step the loss and images/s; seconds of the whole process."""

    losses: list[float]
    speeds: list[float]
    seconds: float


class Line(NamedTuple):
    """A line of the table."""

    who: str
    precision: str
    options: tuple[str, ...] = ()


PEER = "open_clip_train"
PIL = ("--resize", "pil")
LINES = [
    Line(PEER, "fp32"),
    Line(PEER, "bf16"),
    Line("rsclip, texts not trimmed", "fp32", (*PIL, "--no-trim")),
    Line("rsclip", "fp32", PIL),
    Line("rsclip", "bf16", PIL),
    Line("rsclip, fast resize", "bf16"),
]
UNTRIMMED, TRIMMED = LINES[2], LINES[3]


def process(command: list[str], folder: Path | None = None) -> tuple[subprocess.CompletedProcess[str], float]:
    """A process that has ended, what it printed, and its seconds. Where it fails, shows that and raises."""
    print(" ".join(command), file=sys.stderr, flush=True)
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        print(f"{done.stdout[-3000:]}{done.stderr[-3000:]}", file=sys.stderr, flush=True)
    done.check_returncode()
    return done, seconds


def export(table: Path, folder: Path, split: str = "train") -> tuple[Path, int]:
    """A split as files and a CSV of open_clip, one caption an image; and its rows."""
    import pyarrow.parquet as pq

    folder.mkdir()
    listed, rows = folder / "train.csv", 0
    with listed.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["filepath", "title"])
        for shard in sorted(table.glob(f"data/{split}-*.parquet")):
            for group in pq.ParquetFile(shard).iter_batches(100, columns=["image", "captions"]):
                for row in group.to_pylist():
                    path = folder / f"{rows:06d}{Path(row['image']['path']).suffix}"
                    path.write_bytes(row["image"]["bytes"])
                    writer.writerow([path, row["captions"][0]])
                    rows += 1
    return listed, rows


def shared(options: argparse.Namespace) -> list[str]:
    """What both are told."""
    held = ["--model", options.model, "--batch-size", str(options.batch_size), "--device", options.device]
    return [*held, "--workers", str(options.workers), *SHARED]


def theirs(options: argparse.Namespace, line: Line, listed: Path, epochs: int, root: Path) -> Run:
    """A run of open_clip_train, read from its log."""
    precision = {"fp32": "fp32", "bf16": "amp_bf16"}[line.precision]
    command = [
        options.peer,
        "-m",
        "open_clip_train.main",
        "--train-data",
        str(listed),
        *shared(options),
        *THEIRS,
    ]
    command += ["--force-image-size", str(options.image_size), "--epochs", str(epochs), "--seed", "0"]
    command += ["--precision", precision, "--logs", str(root), "--name", "run"]
    done, seconds = process(command, root)
    steps = STEP.findall(done.stderr)
    return Run([float(loss) for _, loss in steps], [float(speed) for speed, _ in steps], seconds)


def ours(options: argparse.Namespace, line: Line, table: Path, steps: int, root: Path, seed: int = 0) -> Run:
    """A run of rsclip, read from its metrics."""
    command = [sys.executable, "-m", "rsclip", "train", str(table), "-o", str(root / "run")]
    command += [*shared(options), *OURS, *line.options, "--image-size", str(options.image_size)]
    command += ["--steps", str(steps), "--precision", line.precision, "--seed", str(seed)]
    _, seconds = process(command)
    logged = [json.loads(text) for text in (root / "run/metrics.jsonl").read_text().splitlines()]
    each = {entry["step"]: entry for entry in logged if "loss" in entry}.values()
    return Run([step["loss"] for step in each], [step["images_per_second"] for step in each], seconds)


def speed(runs: list[Run]) -> float:
    """Median images/s of the steps after the warm-up, over all runs."""
    return statistics.median(each for run in runs for each in after_warmup(run.speeds))


def after_warmup(values: list[float]) -> list[float]:
    """Without the first ten; of a short run, without the first half."""
    return values[min(WARMUP, len(values) // 2) :]


def apart(one: list[float], other: list[float]) -> float:
    """Mean difference of two loss curves after the warm-up, each smoothed."""
    curves = []
    for losses in (one, other):
        values = after_warmup(losses)
        window = min(WINDOW, len(values))
        parts = range(len(values) - window + 1)
        curves.append([statistics.fmean(values[at : at + window]) for at in parts])
    return statistics.fmean(abs(a - b) for a, b in zip(*curves, strict=True))


def widest(one: list[float], other: list[float]) -> float:
    """The largest difference at a step."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def agree(mine: Run, peer: Run, other_seed: Run) -> str:
    """How far the loss curves are apart, beside what another seed makes."""
    return (
        f"Over {len(mine.losses)} steps (fp32), smoothed over {min(WINDOW, len(after_warmup(peer.losses)))}, "
        f"rsclip's loss and the peer's are {apart(mine.losses, peer.losses):.4f} apart on average after the "
        f"warm-up; two runs of rsclip that differ in their seed alone, "
        f"{apart(mine.losses, other_seed.losses):.4f}."
    )


def main() -> None:
    """Measure and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--peer", default=sys.executable, metavar="PYTHON")
    arguments.add_argument("--steps", type=int, default=60, help="rounded to whole epochs")
    arguments.add_argument("--images", type=int, default=1300)
    arguments.add_argument("--repeat", type=int, default=1)
    arguments.add_argument("--model", default="ViT-S-32")
    arguments.add_argument("--image-size", type=int, default=128)
    arguments.add_argument("--batch-size", type=int, default=64)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--curves", action="store_true", help="losses in fp32 alone")
    options = arguments.parse_args()
    runs: dict[Line, list[Run]] = {}
    failed: dict[Line, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        dump, table = Path(scratch, "dump"), Path(scratch, "table")
        rsdata = [sys.executable, "-m", "rsdata"]
        sample = ["sample", "dota", str(dump), "--images", str(options.images), "--size", "256x256"]
        process([*rsdata, *sample, "--objects", "6", "--split", "train"])
        process([*rsdata, "convert", str(dump), "--recipe", "dota", "-o", str(table)])
        listed, rows = export(table, Path(scratch, "files"))
        in_epoch = rows // options.batch_size
        if not in_epoch:
            arguments.error(f"{rows} images are less than a batch of {options.batch_size}")
        epochs = max(1, round(options.steps / in_epoch))
        steps = epochs * in_epoch
        print(f"{rows:,} images, {steps} steps, {epochs} epochs", file=sys.stderr, flush=True)

        def run(line: Line, seed: int = 0) -> Run:
            root = Path(scratch, "runs")
            root.mkdir()
            done = (
                theirs(options, line, listed, epochs, root)
                if line.who == PEER
                else ours(options, line, table, steps, root, seed)
            )
            shutil.rmtree(root)
            if len(done.losses) != steps:
                raise SystemExit(f"{line.who}, {line.precision}: {len(done.losses)} of {steps} steps logged")
            print(f"{line.who}, {line.precision}: {done.seconds:.0f} s", file=sys.stderr, flush=True)
            return done

        for _ in range(options.repeat):
            for line in (LINES[0], TRIMMED) if options.curves else LINES:
                if line in failed:
                    continue
                try:
                    runs.setdefault(line, []).append(run(line))
                except subprocess.CalledProcessError as error:
                    if (line.who, line.precision) != (PEER, "bf16"):
                        raise SystemExit(f"{line.who}, {line.precision}: failed") from error
                    failed[line] = error.stderr.strip().rpartition("\n")[2]
                    shutil.rmtree(Path(scratch, "runs"))
        other_seed = run(TRIMMED, seed=1)
    agreement = agree(runs[TRIMMED][0], runs[LINES[0]][0], other_seed)
    sys.exit(print(agreement) if options.curves else show(runs, failed, agreement))


def show(runs: dict[Line, list[Run]], failed: dict[Line, str], agreement: str) -> int:
    """Print the table and what the losses say; 1 where trimming changed them."""
    peers = {line.precision: speed(found) for line, found in runs.items() if line.who == PEER and found}
    steps = len(runs[TRIMMED][0].losses)
    print(f"{steps} steps\n")
    print("| trainer | precision | images/s | x peer | x peer's fp32 | whole run, s | loss, last fifth |")
    print("|---|---|---|---|---|---|---|")
    for line in LINES:
        if line in failed:
            print(f"| {line.who} | {line.precision} | fails on the CPU: {failed[line]} | | | | |")
            continue
        found = runs[line]
        mine, last = speed(found), found[0].losses[-max(1, steps // 5) :]
        same = f"{mine / peers[line.precision]:.2f}" if line.precision in peers else ""
        seconds = statistics.median(run.seconds for run in found)
        print(
            f"| {line.who} | {line.precision} | {mine:.1f} | {same} | {mine / peers['fp32']:.2f} "
            f"| {seconds:.0f} | {statistics.fmean(last):.3f} |"
        )
    trimmed, untrimmed = runs[TRIMMED][0].losses, runs[UNTRIMMED][0].losses
    start = widest(trimmed[:WARMUP], untrimmed[:WARMUP])
    verdict = "" if start <= EXACT else f" (more than {EXACT:.0e}!)"
    print(
        f"\nTrimming the texts changes the loss of a step by at most {start:.1e}{verdict} in the warm-up, "
        f"{widest(trimmed, untrimmed):.1e} in all {steps} steps (fp32)."
    )
    print(f"\n{agreement}")
    return int(start > EXACT)


if __name__ == "__main__":
    main()
