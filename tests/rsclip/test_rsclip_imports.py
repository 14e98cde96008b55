from __future__ import annotations

import ast
from pathlib import Path

import rsclip

FROM_RSDATA = {"records", "tables", "errors", "places", "arguments", "words", "hard_negatives"}
FROM_RSDATA |= {"dedup", "fingerprints"}  # the leak guard
FROM_RSDATA |= {"pictures", "rasters"}  # images from files, read as carefully as `convert` does


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_rsclip_leans_on_few_modules_of_rsdata_and_nothing_of_open_clip_train():
    names = {name for path in Path(rsclip.__file__).parent.rglob("*.py") for name in imported(path)}
    used = {name.split(".")[1] for name in names if name.startswith("rsdata.")}
    assert used
    assert used <= FROM_RSDATA
    assert not [name for name in names if name.startswith("open_clip_train")]
