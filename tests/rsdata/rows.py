"""Small tables made by hand: rows with defaults, written without a conversion."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rsdata import tables
from rsdata.records import Box, Rejection

ABOUT = {"dataset": "TEST", "captions": "none", "versions": {"rsdata": "0"}, "datasets": {}}


def row(name: str = "a", **values: Any) -> tables.Row:
    given: dict[str, Any] = {
        "image_id": f"TEST/train/{name}",
        "dataset": "TEST",
        "split": "train",
        "image": b"\xff\xd8" * 20,
        "path": f"images/{name}.jpg",
        "width": 100,
        "height": 80,
        "objects": (),
        "captions": (),
        "caption_source": None,
        "label": None,
        "hashes": None,
        "sha256": name,
        "annotation": f"labels/{name}.txt",
    }
    return tables.Row(**(given | values))


def box(label: str, width: float, height: float) -> Box:
    return Box(label, label.upper(), 1.5, 2.5, 1.5 + width, 2.5 + height, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0))


def account(
    found: int, written: int, rejected: int = 0, duplicates: int = 0, leaks: int = 0
) -> dict[str, int]:
    return {
        "found": found,
        "written": written,
        "duplicates": duplicates,
        "leaks": leaks,
        "rejected": rejected,
    }


def write_table(
    path: Path,
    rows: Mapping[str, Sequence[Sequence[tables.Row]]],
    rejections: Sequence[Rejection] | None = None,
    **manifest: Any,
) -> Path:
    """A finished table: `rows` are split -> shards -> rows."""
    splits: dict[str, Any] = {}
    for split, shards in rows.items():
        names = tables.shard_names(split, len(shards))
        for name, held in zip(names, shards, strict=True):
            with tables.shard_writer(path / name, ABOUT) as writer:
                for item in held:
                    writer.add(item)
        splits[split] = {"files": names, "rows": sum(map(len, shards))}
    written = sum(held["rows"] for held in splits.values())
    path.mkdir(parents=True, exist_ok=True)
    if rejections is not None:
        tables.write_rejections(path / tables.REJECTIONS, rejections)
    held = [item for shards in rows.values() for shard in shards for item in shard]
    objects = sum(len(item.objects) for item in held)
    reasons: dict[str, dict[str, int]] = {"rejected": {}, "dropped": {}, "repaired": {}}
    for (action, code), number in Counter(each[:2] for each in rejections or ()).items():
        reasons[action][code] = number
    stated = {
        "rsdata": ABOUT,
        "splits": splits,
        "images": account(written, written),
        "objects": {"found": objects, "written": objects, "dropped": 0},
        "captions": sum(len(item.captions) for item in held),
        "reasons": reasons,
        "datasets": {},
        **manifest,
    }
    (path / tables.MANIFEST).write_text(json.dumps(stated), encoding="utf-8")
    return path


def written(path: Path, rows: Iterable[tables.Row], shards: int = 1) -> Path:
    """A table of rows by their split, in so many shards."""
    by_split: dict[str, list[tables.Row]] = {}
    for item in rows:
        by_split.setdefault(item.split, []).append(item)
    return write_table(
        path, {split: [held[at::shards] for at in range(shards)] for split, held in by_split.items()}
    )
