"""Stores behind URLs for tests: a real S3 server on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from rsdata import places

KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def upload(folder: Path, url: str) -> Path:
    target = places.place(url)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            (target / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())
    return target


def remove(url: str) -> None:
    """What lies below a URL, if anything does."""
    target = cast(Any, places.place(url))
    if target.exists():
        target.fs.rm(target.path, recursive=True)
