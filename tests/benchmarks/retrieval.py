"""Retrieval metrics: time and memory on a large gallery, and beside CLIP_benchmark's on RSICD's size.

    python tests/benchmarks/retrieval.py [--images 10000] [--captions 50000] [--dim 512] [--repeat 5]

Features are noise around their image's, normalised. Each gallery is scored in a process of its own, once with
a text for each caption and once with a text for a hundred; its peak is the resident memory of that process,
torch and the features included. CLIP_benchmark's metric (`zeroshot_retrieval.py`: topk and one_hot over the
whole score matrix, 64 queries at a time) is written out here, and takes turns with ours in one process; the
medians count.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rsclip.metrics import recall_at_k

RSICD = (1093, 5465)
KS = (1, 5, 10)
BATCH = 64
Features = NDArray[np.float32]


def features(images: int, texts: int, dim: int) -> tuple[Features, Features]:
    """Images, and texts that lie near them in turn; made in place, so that the peak is the metric's."""
    rng = np.random.default_rng(0)
    pictures = np.empty((images, dim), np.float32)
    said = np.empty((texts, dim), np.float32)
    for made in (pictures, said):
        for start in range(0, len(made), 4096):
            part = made[start : start + 4096]
            rng.standard_normal(out=part, dtype=np.float32)
            if made is said:
                part += 0.12 * pictures[np.arange(start, start + len(part)) * images // texts]
    for made in (pictures, said):
        for start in range(0, len(made), 4096):
            part = made[start : start + 4096]
            part /= np.linalg.norm(part, axis=1, keepdims=True)
    return pictures, said


def gallery(images: int, captions: int, texts: int, dim: int) -> dict[str, float]:
    """Seconds, and MB: of torch and Python alone, of the features, at the peak."""
    before = _peak()
    pictures, said = features(images, texts, dim)
    owners = np.arange(captions) * images // captions
    places = np.arange(captions) % texts
    start = time.perf_counter()
    found = recall_at_k(pictures, said, owners, KS, places)
    seconds = time.perf_counter() - start
    size = (pictures.nbytes + said.nbytes) / 1e6
    return {"seconds": seconds, "before": before, "features": size, "peak": _peak(), **found}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def clip_benchmark(pictures: Features, said: Features, owners: NDArray[np.int64]) -> list[float]:
    """Recalls in percent, image → text and then text → image at each of KS, CLIP_benchmark's way."""
    scores = torch.from_numpy(said) @ torch.from_numpy(pictures).T
    positive = torch.zeros(scores.shape, dtype=torch.bool)
    positive[torch.arange(len(scores)), torch.from_numpy(owners)] = True
    recalls = []
    for score, right in ((scores.T, positive.T), (scores, positive)):
        for k in KS:
            hits = [
                _true_positives(score[start : start + BATCH], right[start : start + BATCH], k) > 0
                for start in range(0, len(score), BATCH)
            ]
            recalls.append(100 * float(torch.cat(hits).float().mean()))
    return recalls


def _true_positives(scores: torch.Tensor, positive: torch.Tensor, k: int) -> torch.Tensor:
    first = torch.nn.functional.one_hot(torch.topk(scores, k, dim=1)[1], num_classes=scores.shape[1])
    return (first * positive[:, None, :]).sum(dim=(1, 2)) / positive.sum(dim=1)


def beside_peer(repeat: int, dim: int) -> dict[str, float]:
    """Median ms of ours and of CLIP_benchmark's, and how far apart their recalls are at most."""
    images, captions = RSICD
    pictures, said = features(images, captions, dim)
    owners = np.arange(captions) * images // captions
    ways: dict[str, Callable[[], list[float]]] = {
        "ours": lambda: list(recall_at_k(pictures, said, owners, KS).values())[: 2 * len(KS)],
        "peer": lambda: clip_benchmark(pictures, said, owners),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, list[float]] = {}
    for turn in range(1 + repeat):
        for name, way in ways.items():
            start = time.perf_counter()
            found[name] = way()
            if turn:
                times[name].append(1000 * (time.perf_counter() - start))
    apart = float(np.abs(np.subtract(found["ours"], found["peer"])).max())
    return {name: statistics.median(each) for name, each in times.items()} | {"apart": apart}


def child(*role: str) -> dict[str, float]:
    """What a role prints in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--role", *role]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    print(" ".join(role), found.strip(), file=sys.stderr, flush=True)
    return dict(json.loads(found))


def main() -> None:
    """Measure and print the tables; with --role, one part."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--images", type=int, default=10_000)
    arguments.add_argument("--captions", type=int, default=50_000)
    arguments.add_argument("--dim", type=int, default=512)
    arguments.add_argument("--repeat", type=int, default=5)
    arguments.add_argument("--role", nargs="+", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.role:
        name, *numbers = options.role
        part = {"gallery": gallery, "peer": beside_peer}[name]
        print(json.dumps(part(*map(int, numbers))))
        return
    images, captions, dim = options.images, options.captions, options.dim
    print(f"{images:,} images, {captions:,} captions, {dim} numbers each;", end=" ")
    print(f"all scores at once would be {4 * images * captions / 1e6:,.0f} MB\n")
    print("| distinct texts | seconds | features, MB | peak MB | beyond features and imports, MB |")
    print("|---|---|---|---|---|")
    for texts in (captions, captions // 100):
        got = child("gallery", *map(str, (images, captions, texts, dim)))
        beyond = got["peak"] - got["features"] - got["before"]
        print(f"| {texts:,} | {got['seconds']:.1f} | {got['features']:,.0f} ", end="")
        print(f"| {got['peak']:,.0f} | {beyond:,.0f} |", flush=True)
    got = child("peer", str(options.repeat), str(dim))
    print(f"\n{RSICD[0]:,} images, {RSICD[1]:,} captions; median of {options.repeat}\n")
    print("| metric | ms | x ours |\n|---|---|---|")
    print(f"| rsclip, both readings | {got['ours']:.0f} | 1.0 |")
    print(f"| CLIP_benchmark's | {got['peer']:.0f} | {got['peer'] / got['ours']:.1f} |")
    print(f"\nThe six recalls differ by {got['apart']:.6f} of a percent at most.")


if __name__ == "__main__":
    main()
