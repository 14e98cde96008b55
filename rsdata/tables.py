"""Tables on disk: a folder `data/SPLIT-00000-of-00008.parquet` + `README.md` + `manifest.json`."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rsdata.errors import TableError


def manifest(table: Path) -> dict[str, Any]:
    """The manifest that closed the run which wrote `table`.

    Raises TableError where the folder is no table, or an unfinished one.
    """
    path = Path(table) / "manifest.json"
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = "an unfinished table" if (Path(table) / "data").is_dir() else "not a table"
        raise TableError(f"{table}: {what}: it has no manifest.json") from None
    except (OSError, ValueError) as error:
        raise TableError(f"{path}: {error}") from error
    if not isinstance(loaded, dict):
        raise TableError(f"{path}: expected a JSON object")
    return loaded


def shards(table: Path, splits: Collection[str] = ()) -> list[Path]:
    """The Parquet files of a table in order, of all splits or of those named.

    Raises TableError where the table is unfinished, has no such split, or lacks a file.
    """
    held = manifest(table)["splits"]
    for split in splits:
        if split not in held:
            raise TableError(f"{table}: no split {split!r}; it has {', '.join(held)}")
    files = [Path(table) / name for split in splits or held for name in held[split]["files"]]
    for file in files:
        if not file.is_file():
            raise TableError(f"{file}: named in the manifest, but missing")
    return files
