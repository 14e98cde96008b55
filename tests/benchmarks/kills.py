"""Runs that are killed at random times and given again until the table is whole: the same bytes each time?

    python tests/benchmarks/kills.py [--runs 50]

`kill -9` of the process alone, or of its whole group (a power cut), at a random moment of its life. Each
run starts in a new folder, is killed at least once, and repeated until it ends by itself; then its files are
compared with those of a run that nobody disturbed, and nothing else may be left, neither there nor in the
folder for temporary files.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

START = """
import rsdata.convert
rsdata.convert.SHARD_ROWS = 10
if __name__ == "__main__":
    from rsdata.cli import run
    run()
"""


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def main() -> None:
    """Kill and compare; exit code 1 where a table differs."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=50)
    arguments.add_argument("--images", type=int, default=300)
    options = arguments.parse_args()
    rng = random.Random(0)
    kills = different = 0
    with tempfile.TemporaryDirectory() as scratch:
        root, temporary = Path(scratch), Path(scratch, "tmp")
        temporary.mkdir()
        (root / "start.py").write_text(START)
        sample = [sys.executable, "-m", "rsdata", "sample", "dota", str(root / "dump")]
        subprocess.run([*sample, "--images", str(options.images)], check=True, capture_output=True)
        command = [sys.executable, str(root / "start.py"), "convert", str(root / "dump"), "--recipe", "dota"]
        command += ["--workers", "2", "-o"]
        env = {**os.environ, "TMPDIR": str(temporary)}
        usual = 1e9
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run([*command, str(root / "whole"), "--overwrite"], check=True, capture_output=True)
            usual = min(usual, time.perf_counter() - start)
        whole = contents(root / "whole")
        for number in range(options.runs):
            table = root / f"run-{number}"
            before = kills
            while kills == before or not (table / "manifest.json").is_file():
                if kills == before:  # it came through, undisturbed: again
                    shutil.rmtree(table, ignore_errors=True)
                process = subprocess.Popen(
                    [*command, str(table)],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    env=env,
                )
                try:
                    process.wait(rng.uniform(0, 1.2 * usual))
                except subprocess.TimeoutExpired:
                    kills += 1
                    if rng.random() < 0.5:
                        process.kill()
                    else:
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            found = contents(table)
            if found != whole or list(temporary.iterdir()) or list(table.glob(".unfinished/*")):
                different += 1
                print(f"run {number} differs: {sorted({*found} ^ {*whole})}")
    print(f"{options.runs} runs, {kills} kills at random times, {different} tables that differ.")
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
