"""The campaign: damaged inputs of every format, each format in a process of its own; prints a table.

python tests/fuzz/run.py --inputs 10000 --format coco
python tests/fuzz/run.py --format coco --only 1234 --keep folder      # one input again, its dump kept
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import campaign  # noqa: E402

from rsdata import formats  # noqa: E402

COLUMNS = ("tracebacks", "hangs", "identity", "places", "boxes", "outside", "refusals", "memory", "crashes")
_ADDRESS_SPACE = 6 << 30


def child(name: str, seed: int, first: int, last: int, result: Path) -> None:
    """The inputs of a format; writes the number that is next, and at the end the report."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    held = campaign.Campaign(name, seed)

    def tell(number: int) -> None:
        # A decoder that never returns to Python ends with the process.
        faulthandler.dump_traceback_later(20 * campaign.LONGEST, exit=True)
        result.with_suffix(".next").write_text(str(number))

    report = held.run(first, last, tell)
    held.close()
    result.write_text(json.dumps({**vars(report), "peak": report.peak}))


def campaign_of(name: str, seed: int, first: int, last: int) -> dict[str, Any]:
    """The report of a format, over as many processes as crashes make needed."""
    total: dict[str, Any] = {"format": name, "broken": Counter(), "failures": [], "slowest": 0.0, "peak": 0}
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result"
        while first < last:
            result.unlink(missing_ok=True)
            numbers = [str(seed), str(first), str(last)]
            command = [sys.executable, __file__, "--child", name, *numbers, str(result)]
            done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
            following = last
            if not result.exists():
                following = int(result.with_suffix(".next").read_text())
                total["broken"]["crashes"] += 1
                why = done.stderr.decode(errors="replace")[-3000:]
                total["failures"].append(
                    f"{name} seed {seed} number {following}…: exit {done.returncode}\n{why}"
                )
                following += campaign.TOGETHER
            else:
                found = json.loads(result.read_text())
                for key in ("inputs", "refused", "rejected", "dropped", "written"):
                    total[key] = total.get(key, 0) + found[key]
                total["broken"].update(found["broken"])
                total["failures"] += found["failures"]
                total["slowest"] = max(total["slowest"], found["slowest"])
                total["peak"] = max(total["peak"], found["peak"])
            first = following
    return {**total, "seconds": time.time() - start}


def as_row(total: dict[str, Any]) -> str:
    counts = [total.get(key, 0) for key in ("inputs", "refused", "rejected", "dropped", "written")]
    cells = [total["format"], *(f"{count:,}" for count in counts)]
    cells += [str(total["broken"].get(column, 0)) for column in COLUMNS]
    cells += [f"{total['slowest']:.2f} s", f"{total['peak']} MB", f"{total['seconds']:.0f} s"]
    return "| " + " | ".join(cells) + " |"


def again(name: str, seed: int, number: int, keep: Path | None) -> None:
    """One input once more: its failure, and its dump if that is to be kept."""
    held = campaign.Campaign(name, seed)
    one, origin = held.input(number), held.seed_of(number)
    start = number - number % held.together(origin)
    options = held.options([held.input(start)], origin)
    print(f"{origin.recipe.name} {one.path} {len(one.data)} bytes, {options}: {one.data[:300]!r}")
    seconds, failure = held._timed([one], origin, options)
    if keep is not None:
        held._lay(origin)
        (held.dump / one.path).write_bytes(one.data)
        shutil.copytree(held.dump, keep)
    held.close()
    print(f"{seconds:.2f} s:", "holds" if failure is None else failure[1])


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], *map(int, sys.argv[3:6]), Path(sys.argv[6]))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=1000, help="damaged files a format")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", action="append", help="this one only; may be repeated")
    parser.add_argument("--only", type=int, help="this input again")
    parser.add_argument("--keep", type=Path, help="with --only: where to keep its dump")
    chosen = parser.parse_args()
    names = chosen.format or formats.names()
    if chosen.only is not None:
        again(names[0], chosen.seed, chosen.only, chosen.keep)
        return 0
    head = ("format", "inputs", "refused", "rejected", "dropped, repaired", "written")
    head += (*COLUMNS, "slowest", "peak", "time")
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)
    failed = False
    for name in names:
        total = campaign_of(name, chosen.seed, chosen.first, chosen.first + chosen.inputs)
        print(as_row(total), flush=True)
        for failure in total["failures"]:
            print(failure, file=sys.stderr, flush=True)
        failed |= bool(total["failures"])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
