"""Run the benchmarks of whole conversions and write what they print into docs/benchmarks.md.

    python tests/benchmarks/write.py [--peers PYTHON] [--clip-peers PYTHON] [NAME...]

A page's part between `<!-- NAME -->` and `<!-- end -->` is what `tests/benchmarks/NAME.py` prints.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs/benchmarks.md"
PEERS = {"trees": "--peers", "training": "--peer", "loader": "--peer"}
"""The option by which a benchmark takes a Python with its peers; those of the last two are `--clip-peers`."""


def main() -> None:
    """Run each, and replace its part of the page."""
    parts = re.findall(r"<!-- (\w+) -->", PAGE.read_text(encoding="utf-8"))
    names = [name for name in parts if name != "end"]
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--peers", default=sys.executable)
    arguments.add_argument("--clip-peers", default=sys.executable)
    arguments.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    options = arguments.parse_args()
    for name in options.names or names:
        if name not in names:
            arguments.error(f"{name} is not one of {', '.join(names)}")
        command = [sys.executable, str(HERE / f"{name}.py")]
        if name in PEERS:
            command += [PEERS[name], options.peers if name == "trees" else options.clip_peers]
        print(" ".join(command), file=sys.stderr, flush=True)
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        page = PAGE.read_text(encoding="utf-8")
        start, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, _, rest = page.partition(start)
        after = rest.partition(end)[2]
        PAGE.write_text(f"{before}{start}{printed}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
