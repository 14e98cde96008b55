"""Speed and memory of hashing and of the pair search, beside their peers in one run.

    python tests/benchmarks/dedup.py [--count 1000000] [--largest 10000000]       (pip install faiss-cpu)

Hashing: JPEGs of 512, 800 and 2000 pixels from memory, ours (all hashes of a table) beside PIL and
imagehash.phash. Search: balanced hashes of which 5 % are others with 0 to 8 bits changed; faiss' exact
IndexBinaryFlat on a slice of the queries, extrapolated; each of ours in a process of its own, for its memory.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from PIL import Image

from rsdata import duplicates, hamming
from rsdata.hashing import hashes
from rsdata.scenes import draw


def balanced(count: int, seed: int = 0) -> Any:
    """Hashes of 32 bits set."""
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, count, 1 << 18):
        bits = rng.permuted(np.tile(np.arange(64) < 32, (min(1 << 18, count - start), 1)), axis=1)
        parts.append(np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64))
    return np.concatenate(parts)


def planted(count: int, equal: float = 0.0, seed: int = 0) -> Any:
    """Balanced hashes, 5 % of them near others, and a share equal to others (half of these to one)."""
    rng = np.random.default_rng(seed)
    found = balanced(count, seed)
    copies = rng.permutation(count)[: count // 20]
    changed = found[rng.integers(0, count, len(copies))]
    for _ in range(4):
        place = rng.integers(0, 64, len(copies))
        pair = (np.uint64(1) << place.astype(np.uint64)) | (
            np.uint64(1) << ((place + 7) % 64).astype(np.uint64)
        )
        changed = np.where(rng.random(len(copies)) < 0.6, changed ^ pair, changed)
    found[copies] = changed
    same = rng.permutation(count)[: int(equal * count)]
    found[same] = found[rng.integers(0, count, len(same))]
    found[same[: len(same) // 2]] = found[0]
    return found


def timed(function: Callable[[], Any], repeat: int) -> float:
    """Seconds of the fastest of some runs."""
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def hashing() -> None:
    print("| image | imagehash ms | ours ms | times as fast |\n|---|---|---|---|")
    classes = ["airplane", "ship", "storage tank", "building", "tennis court"]
    for side in (512, 800, 2000):
        files = []
        for seed in range(8):
            data = io.BytesIO()
            Image.fromarray(draw(classes, seed, side, side).pixels).save(data, "JPEG", quality=90)
            files.append(data.getvalue())

        def ours(files: list[bytes] = files) -> None:
            for data in files:
                hashes(Image.open(io.BytesIO(data)), lambda data=data: Image.open(io.BytesIO(data)))

        def theirs(files: list[bytes] = files) -> None:
            for data in files:
                imagehash.phash(Image.open(io.BytesIO(data)))

        one, other = (timed(each, 5) / len(files) * 1000 for each in (theirs, ours))
        size = sum(map(len, files)) / len(files) / 1024
        print(f"| {side} px, {size:.0f} KB | {one:.2f} | {other:.2f} | {one / other:.1f} |")


def search(options: argparse.Namespace) -> dict[str, Any]:
    """One search, in a process of its own: seconds, and MB beyond what the libraries take."""
    found = np.load(options.hashes, mmap_mode="r" if options.memory else None)
    keys = np.load(options.keys).reshape(-1, 8) if options.keys else None
    stars = np.zeros(0, np.int64)
    before, start = peak() - found.nbytes, time.perf_counter()
    values, repeated = hamming.distinct(found, options.memory)
    pairs = 0
    if keys is not None:
        pairs = int((duplicates.resembling(values, keys, options.distance, options.memory).twin >= 0).sum())
    else:
        for left, right in hamming.near(values, options.distance, options.memory):
            repeated[left] = repeated[right] = True
            pairs += len(left)
        involved = found[hamming.among(found, values[repeated])]
        stars = duplicates.stars(involved, involved[:, None], options.distance).twin
    seconds = time.perf_counter() - start
    gone = int((stars >= 0).sum())
    return {"seconds": seconds, "mb": (peak() - before) / 2**20, "pairs": pairs, "gone": gone}


def peak() -> int:
    """Bytes of memory this process has ever held."""
    with open("/proc/self/status") as file:  # noqa: PTH123
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measured(hashes: Path, distance: int, keys: Path | None = None, memory: int = 0) -> dict[str, Any]:
    """The fastest of three searches."""
    words = [sys.executable, __file__, "--hashes", str(hashes), "--distance", str(distance)]
    words += ["--memory", str(memory), *(["--keys", str(keys)] if keys else [])]
    runs = [subprocess.run(words, check=True, capture_output=True, text=True).stdout for _ in range(3)]
    return min(map(json.loads, runs), key=lambda run: run["seconds"])


def flat(count: int, distance: int, queries: int = 4000) -> float:
    """Seconds of faiss' exact search of all pairs, from a slice of the queries."""
    import faiss

    data = planted(count).view(np.uint8).reshape(count, 8)
    index = faiss.IndexBinaryFlat(64)
    index.add(data)
    start = time.perf_counter()
    index.range_search(data[:queries], distance + 1)  # whose radius is exclusive
    return (time.perf_counter() - start) * count / queries


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--largest", type=int, default=10_000_000)
    parser.add_argument("--hashes", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--distance", type=int, default=4, help=argparse.SUPPRESS)
    parser.add_argument("--keys", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hashes:
        options.memory = options.memory or None
        print(json.dumps(search(options)))
        return
    hashing()
    with tempfile.TemporaryDirectory() as folder:
        searches(Path(folder), options.count, options.largest)


def searches(folder: Path, count: int, largest: int) -> None:
    """The table of searches."""

    def saved(name: str, found: Any) -> Path:
        np.save(folder / name, found)
        return folder / f"{name}.npy"

    def show(name: str, found: dict[str, Any]) -> float:
        cells = f"{found['seconds']:.2f} | {found['mb']:.0f} | {found['pairs']:,} | {found['gone']:,}"
        print(f"| {name} | {cells} |", flush=True)
        return float(found["seconds"])

    print("\n| search | seconds | peak MB, hashes included | pairs | go |\n|---|---|---|---|---|")
    million = saved("million", planted(count))
    seconds = {bits: show(f"{count:,}, T = {bits}", measured(million, bits)) for bits in (2, 4, 6, 8)}
    equal = saved("equal", planted(count, 0.2))
    for bits in (2, 4):
        name = f"{count:,}, 20 % of them equal, T = {bits}"
        print(f"| … times as long | {show(name, measured(equal, bits)) / seconds[bits]:.2f} | | | |")
    keys = saved("keys", planted(480_000, seed=1))
    for bits in (4, 6):
        show(f"{count:,} against 60,000 x 8 keys, T = {bits}", measured(million, bits, keys))
    show(f"{count:,}, T = 4, --memory 16MB", measured(million, 4, memory=16 << 20))
    if largest:
        most = saved("most", planted(largest))
        for bits in (2, 4):
            show(f"{largest:,}, T = {bits}", measured(most, bits))
        show(f"{largest:,}, T = 4, --memory 100MB", measured(most, 4, memory=100 << 20))
    print(f"\nT = 4 takes {seconds[4] / seconds[2]:.1f} times as long as T = 2")
    try:
        for bits in (2, 4):
            theirs = flat(count, bits)
            print(
                f"faiss IndexBinaryFlat, T = {bits}: {theirs:.0f} s, {theirs / seconds[bits]:,.0f} times ours"
            )
    except ImportError:
        print("no faiss", file=sys.stderr)


if __name__ == "__main__":
    main()
