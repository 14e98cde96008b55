"""Copies of real images as people make them, and what of them the search finds.

Used by tests and by tests/benchmarks/planted.py. Tiles of 256 pixels are cut from the large images; of films
one frame, so that no two tiles show the same.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from rsdata import dedup, fingerprints, pictures
from rsdata.fingerprints import FINGERPRINT
from rsdata.hashing import HASH_SPEC, Hashes, hashes
from rsdata.leaks import VARIANTS
from rsdata.rasters import Rendering

SIDE = 256
CUT = (
    "scenes/dota_demo.jpg",
    "stanford-drone/annotations/deathCircle/video2/reference.jpg",
    "dior-r/JPEGImage/00001.jpg",
    "dota/train/images/P1888.png",
    "potsdam-tile/images/2_10_0_0_512_512.png",
    "rareplanes/images/Adelaide_Airport_0_0_101.png",
    "aerial-cars/DJI-00760-00001.jpg",
    "aerial-cars/DJI_0005-0018.jpg",
    "loveda/Train/Urban/images_png/*.png",
    "geo/sample_geotiff.tif",
    "au-air/images/frame_20190829091111_x_0000249.jpg",
    "au-air/images/frame_20190905091750_x_0004722.jpg",
    "au-air/images/frame_20190905103112_x_0003767.jpg",
)
WHOLE = ("rsscn7/*/*.jpg", "captions/*/images/*", "scenes/airport.jpg", "dota-tiles/images/*.png")
SMALL = ("eurosat/*/*.jpg",)
"""Images of 64 pixels, on which JPEG and cropping weigh more."""

Change = Callable[[Image.Image], Image.Image]


def tiles(root: Path) -> list[Image.Image]:
    """Tiles of 200 to 500 pixels: some 370."""
    found = []
    for path in _paths(root, CUT):
        image = _opened(path)
        for top in range(0, image.height - SIDE + 1, SIDE):
            for left in range(0, image.width - SIDE + 1, SIDE):
                found.append(image.crop((left, top, left + SIDE, top + SIDE)))
    return found + [_opened(path) for path in _paths(root, WHOLE)]


def small(root: Path) -> list[Image.Image]:
    """200 images of 64 pixels."""
    return [_opened(path) for path in _paths(root, SMALL)]


def _paths(root: Path, patterns: Sequence[str]) -> Iterator[Path]:
    for pattern in patterns:
        yield from sorted(root.glob(pattern))


def _opened(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(pictures.look(path, Rendering()).data)).convert("RGB")


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image as a JPEG file, opened."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(io.BytesIO(data.getvalue()))


def _crop(share: float) -> Change:
    def change(image: Image.Image) -> Image.Image:
        width, height = image.size
        left, top = round(width * share), round(height * share)
        return image.crop((left, top, width - left, height - top))

    return change


def _text(image: Image.Image) -> Image.Image:
    """A bar of a tenth of the height at the bottom, with text."""
    image = image.copy()
    pen, top = ImageDraw.Draw(image), int(image.height * 0.9)
    pen.rectangle((0, top, image.width, image.height), fill="black")
    pen.text((4, top + 2), "Imagery 2019 by some provider", fill="white")
    return jpeg(image, 75)


def _scaled(factor: float, quality: int = 0) -> Change:
    def change(image: Image.Image) -> Image.Image:
        size = (round(image.width * factor), round(image.height * factor))
        resized = image.resize(size, Image.Resampling.BICUBIC)
        return jpeg(resized, quality) if quality else resized

    return change


def _enhanced(kind: Any, factor: float) -> Change:
    return lambda image: kind(image).enhance(factor)


def _turned(symmetry: Image.Transpose) -> Change:
    return lambda image: jpeg(image.transpose(symmetry), 75)


CHANGES: dict[str, Change] = {
    **{f"JPEG {quality}": (lambda image, quality=quality: jpeg(image, quality)) for quality in (95, 75, 50)},
    "resize 0.875": _scaled(0.875),
    "resize 0.5": _scaled(0.5),
    "resize 2, JPEG 75": _scaled(2, 75),
    "brightness -30 %": _enhanced(ImageEnhance.Brightness, 0.7),
    "brightness -20 %": _enhanced(ImageEnhance.Brightness, 0.8),
    "brightness +20 %": _enhanced(ImageEnhance.Brightness, 1.2),
    "brightness +30 %": _enhanced(ImageEnhance.Brightness, 1.3),
    "contrast +30 %": _enhanced(ImageEnhance.Contrast, 1.3),
    "contrast -30 %": _enhanced(ImageEnhance.Contrast, 0.7),
    "blur 1": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    **{f"{each.name.lower()}, JPEG 75": _turned(each) for each in Image.Transpose},
    "text bar, JPEG 75": _text,
    **{f"crop {share:.0%}": _crop(share) for share in (0.01, 0.02, 0.03, 0.05, 0.07, 0.1)},
}


def hashed(image: Image.Image) -> Hashes:
    """The hashes of an image as its file would be read."""
    return hashes(image, image.copy)


def fingerprint(path: Path, name: str, found: Sequence[Hashes | int]) -> fingerprints.Source:
    """A fingerprint file of images 0, 1, … of which these hashes are known, or only the phash."""
    rows = []
    for number, each in enumerate(found):
        held = each if isinstance(each, Hashes) else Hashes(each, [each] * VARIANTS, [0] * 4, False, None)
        row: dict[str, Any] = dict.fromkeys(FINGERPRINT.names)
        row |= {"image_id": f"{name}/test/{number:08d}", "dataset": name, "split": "test"}
        row |= {**held._asdict(), "human": False, "objects": 0}
        rows.append(row)
    about = {"dataset": name, "datasets": {name: {}}, "hash_spec": HASH_SPEC}
    table = pa.Table.from_pylist(rows, schema=FINGERPRINT.with_metadata({"rsdata": json.dumps(about)}))
    pq.write_table(table, path)
    return fingerprints.open_source(path)


def found(copies: Sequence[Hashes], originals: fingerprints.Source, folder: Path) -> Mapping[str, set[int]]:
    """Copies that the default search against the originals finds by the right original: removed, and suspect.

    wrong: copies that were laid to another image.
    """
    source = fingerprint(folder / "copies.parquet", "copies", copies)
    decision = dedup.decide([source], [originals], dedup.Options(method="none"))
    told: dict[str, set[int]] = {"removed": set(), "suspect": set(), "wrong": set()}
    for kind, table in (("removed", decision.removed), ("suspect", decision.suspects)):
        for item in table.to_pylist():
            number, twin = (int(item[key][-8:]) for key in ("image_id", "twin"))
            told[kind if number == twin else "wrong"].add(number)
    return told


def merged(found: Sequence[Hashes], folder: Path) -> int:
    """How many of images that are all distinct the default search takes for duplicates, turned ones too."""
    source = fingerprint(folder / "distinct.parquet", "distinct", found)
    return int(dedup.decide([source], [], dedup.Options(symmetries=True)).removed.num_rows)
