"""Folders by class (EuroSAT, AID, RESISC45 …): no annotation file; the folder of an image is its class.

EuroSAT/AnnualCrop/AnnualCrop_1.jpg     level 1: AnnualCrop
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rsdata.classes import Classes
from rsdata.records import Record, Rejection

ONE_FILE = "none"
LAYOUTS = [("{split}/*/**.*", ""), ("*/**.*", "")]


def read(root: Path, path: str, classes: Classes, level: int = 1) -> Iterator[Record | Rejection]:
    """The Record of one image, its class in `label`; of an unknown class it is rejected (E17).

    level: which folder names the class, 1 for that of the image, 2 for the one above it.
    """
    folders = path.split("/")[:-1]
    if not 1 <= level <= len(folders):
        why = f"level {level}: the image has {len(folders)} folders above it"
        yield Rejection("rejected", "E17", path, 0, path, why)
    elif noun := classes[folders[-level]]:
        yield Record(path, label=noun, annotation=path)
    else:
        yield Rejection("rejected", "E17", path, 0, path, f"unknown class {folders[-level]!r}")
