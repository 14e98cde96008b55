"""Sample dumps: synthetic scenes in the raw layout that a recipe or a bare format expects, with exact truth.

Where the files lie comes from the first layout of each split, so a new recipe needs nothing here::

    recipe's patterns ──▶ names ──▶ scenes.draw ──▶ image file
                                        │
                                        └──▶ Record ──▶ the format's `write`: annotation, mask or document
"""

from __future__ import annotations

import hashlib
import inspect
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsdata import files, places, scenes, tiles
from rsdata.errors import RecipeError
from rsdata.recipes import Layout, Recipe
from rsdata.records import Box, Record
from rsdata.scenes import Scene
from rsdata.words import Words

SPLITS = ("train", "val", "test")
"""The splits written for a format whose annotation file names them."""
FALLBACK = "unsplit"
"""The split that recipes keep for dumps in another layout; no sample is written for it unasked."""
OBJECTS = (
    "airplane", "ship", "vehicle", "storage tank", "tennis court", "basketball court",
    "swimming pool", "roundabout", "bridge", "building",
)  # fmt: skip
"""What is drawn where there are no [classes]: captions, and boxes of a bare format."""
LAND_COVER = ("building", "road", "lake", "forest", "meadow", "field", "tree")
"""What is drawn in the masks of a bare format."""


class Sample(NamedTuple):
    """One image of a sample dump.

    split: the split that a Plan must find it in. image, annotation, instances: paths relative to the dump.
    record: the truth: boxes (label: noun, raw_label: as written) whose polygons reach their edges, size,
        the captions of `scenes.describe`, split. A format writes the part of it that its grammar holds.
    """

    split: str
    name: str
    image: str
    annotation: str
    layout: Layout
    record: Record
    scene: Scene
    instances: str = ""


def write(
    recipe: Recipe,
    folder: Path,
    images: int = 12,
    seed: int = 0,
    size: tuple[int, int] = (256, 256),
    most: int = 12,
    splits: Sequence[str] = (),
) -> list[str]:
    """Write a sample dump into `folder` and return its files: relative POSIX paths in byte order.

    The arguments are those of `draw`; bytes depend on them alone. Images are PNG unless the recipe's pattern
    says otherwise.

    Raises RecipeError where `folder` is no empty folder, or as `draw`.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RecipeError(f"{folder}: not an empty folder; a sample dump is written into a new or empty one")
    reader = recipe.reader
    raws = labels(recipe)
    documents: dict[str, tuple[Layout, list[Record]]] = {}
    listed: defaultdict[str, list[str]] = defaultdict(list)
    written = []
    for sample in draw(recipe, images, seed, size, most, splits):
        path = _made(folder, sample.image)
        _save(path, _framed(sample.scene.pixels, recipe), getattr(reader, "GEOREFERENCED", False))
        written.append(sample.image)
        if sample.layout.list:
            listed[sample.layout.list].append(sample.name)
        record = _published(sample, recipe)
        if reader.ONE_FILE == "split":
            documents.setdefault(sample.annotation, (sample.layout, []))[1].append(record)
        elif _aligned(recipe):
            reader.write(
                _made(folder, sample.annotation), sample.scene.mask, list(raws.values()), background(recipe)
            )
            written.append(sample.annotation)
            if sample.instances:
                reader.write_instances(_made(folder, sample.instances), _instances(sample.scene.mask))
                written.append(sample.instances)
        elif reader.ONE_FILE == "image":
            _write_records(recipe, _made(folder, sample.annotation), sample.layout, [record], path)
            written.append(sample.annotation)
    for document, (layout, records) in documents.items():
        _write_records(recipe, _made(folder, document), layout, records)
    if hasattr(reader, "accompany"):
        written += reader.accompany(folder, list(raws.values()))
    for name_list, names in listed.items():
        _made(folder, name_list).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return sorted([*written, *documents, *listed])


def draw(
    recipe: Recipe,
    images: int = 12,
    seed: int = 0,
    size: tuple[int, int] = (256, 256),
    most: int = 12,
    splits: Sequence[str] = (),
) -> Iterator[Sample]:
    """The samples of a dump, drawn one at a time: exactly those that `write` writes.

    images: of the split train, else of the first; each other gets a fifth of it, at least one. size: (width,
    height) in pixels, 32 or more. most: objects an image. splits: which to write, in the recipe's order;
    without it all but those that only catch other layouts ("unsplit", DIOR's "trainval"). An image depends on
    the seed, its split and its index, so a longer dump begins with a shorter one.

    Raises RecipeError: a split that the recipe does not have, more images than it names, an image pattern
    without a star, no class to draw, no background for a mask. Raises ValueError as `scenes.draw`.
    """
    if images < 1:
        raise ValueError(f"cannot write {images} images: give 1 or more")
    raws, words = labels(recipe), Words(recipe.irregular)
    chosen = _splits(recipe, splits)
    first = "train" if "train" in chosen else chosen[0]
    for split in chosen:
        layout = recipe.splits[split if split in recipe.splits else "*"][0]
        count = images if split == first else max(1, images // 5)
        for index, name in enumerate(_names(recipe, split, layout, count)):
            nouns = list(raws)
            if recipe.reader.ONE_FILE == "none":
                nouns = [nouns[index % len(nouns)]]
            stars = _stars(recipe, layout.images, name, index, raws[nouns[0]] if nouns else "")
            image = files.fill_pattern(layout.images, stars)
            annotation = _annotation(recipe, split, layout, stars)
            own = int.from_bytes(hashlib.sha256(f"{seed}/{split}/{index}".encode()).digest()[:8])
            scene = scenes.draw(nouns, own, *size, most, land_cover=_aligned(recipe))
            record = Record(
                image,
                [_snug(box)._replace(raw_label=raws[box.label]) for box in scene.boxes],
                *size,
                captions=scenes.describe(scene, random.Random(own), words),
                label=nouns[0] if recipe.reader.ONE_FILE == "none" else None,
                split=split,
                annotation=annotation or image,
            )
            instances = files.fill_pattern(layout.instances, stars) if layout.instances else ""
            yield Sample(split, name, image, annotation or image, layout, record, scene, instances)


def labels(recipe: Recipe) -> dict[str, str]:
    """What is drawn and how it is labelled: noun to raw label, one for each noun.

    Of several raw labels of a noun the first; all those of a mask are colours or all are indices, as the
    recipe's first. Without [classes] the nouns of this module, labelled with a number where the grammar has
    numbers only.
    """
    if recipe.nouns is None:
        nouns = LAND_COVER if _aligned(recipe) else OBJECTS
        if getattr(recipe.reader, "NUMERIC", False):
            return {noun: str(number) for number, noun in enumerate(nouns, 1)}
        return {noun: noun.replace(" ", "-") for noun in nouns}
    colours = any(map(_is_colour, list(recipe.nouns)[:1]))
    found: dict[str, str] = {}
    for raw, noun in recipe.nouns.items():
        if not _aligned(recipe) or _is_colour(raw) == colours:
            found.setdefault(noun, raw)
    return found


def background(recipe: Recipe) -> str:
    """The raw label of a mask where nothing is drawn: the first of `ignore` of the kind of the labels.

    Raises RecipeError where there is none.
    """
    if recipe.nouns is None:
        return "0"
    colours = any(map(_is_colour, labels(recipe).values()))
    for raw in recipe.ignore:
        if _is_colour(raw) == colours:
            return raw
    raise RecipeError(f"recipe {recipe.name}: `ignore` names no background to draw a sample mask on")


def _aligned(recipe: Recipe) -> bool:
    return bool(getattr(recipe.reader, "ALIGNED", False))


def _is_colour(raw: str) -> bool:
    return raw.count(",") == 2


def _splits(recipe: Recipe, wanted: Sequence[str]) -> list[str]:
    """The splits to write, in the recipe's order."""
    if "*" in recipe.splits:
        known = list(dict.fromkeys([*SPLITS, *(split for split in wanted if split.isidentifier())]))
        usual = list(SPLITS)
    else:
        known = list(recipe.splits)
        usual = [split for split in known if not _catches_others(recipe, split)] or known[:1]
    for split in wanted:
        if split not in known:
            raise RecipeError(f"recipe {recipe.name} has no split {split!r}; it has {', '.join(known)}")
    return [split for split in known if split in (wanted or usual)]


def _catches_others(recipe: Recipe, split: str) -> bool:
    """Whether a split only takes what an earlier one leaves: same files, and no names of its own."""
    first = recipe.splits[split][0]
    if split == FALLBACK or first.list or first.names:
        return split == FALLBACK
    names = list(recipe.splits)
    earlier = [layout for name in names[: names.index(split)] for layout in recipe.splits[name]]
    return any((first.images, first.annotations) == (other.images, other.annotations) for other in earlier)


def _names(recipe: Recipe, split: str, layout: Layout, count: int) -> list[str]:
    if _frames(recipe):
        return [f"{index * int(layout.options.get('step', 1)):06}" for index in range(count)]
    if not layout.names:
        return [f"{split}_{index:05}" for index in range(count)]
    if count > len(layout.names):
        raise RecipeError(
            f"recipe {recipe.name}, split {split}: it names {len(layout.names)} images, {count} are too many"
        )
    return list(layout.names[:count])


def _frames(recipe: Recipe) -> bool:
    return bool(getattr(recipe.reader, "FRAMES", False))


def _stars(recipe: Recipe, pattern: str, name: str, index: int, raw: str) -> list[str]:
    """A value for each star: the last free one is the image's name; {a,b} take turns.

    raw: what the folders are called where they are the class.
    """
    folder = raw if recipe.reader.ONE_FILE == "none" else "area"
    choices = files.star_choices(pattern)
    free = [place for place, words in enumerate(choices) if words is None]
    if not free:
        raise RecipeError(f"recipe {recipe.name}: {pattern} has no * where an image's name could stand")
    return [
        words[index % len(words)] if words else name if place == free[-1] else folder
        for place, words in enumerate(choices)
    ]


def _annotation(recipe: Recipe, split: str, layout: Layout, stars: Sequence[str]) -> str:
    if recipe.reader.ONE_FILE == "image" or _frames(recipe):
        return files.fill_pattern(layout.annotations, stars)
    if recipe.reader.ONE_FILE == "none":
        return ""
    own = "_sample" if "*" in recipe.splits else split
    choices = files.star_choices(layout.annotations)
    return files.fill_pattern(layout.annotations, [words[0] if words else own for words in choices])


def _snug(box: Box) -> Box:
    """`box` with its polygon stretched by less than a pixel to reach each edge.

    A format that keeps the polygon alone then gives the same edges as one that keeps the box.
    """
    points = np.reshape(np.asarray(box.polygon), (-1, 2))
    low, high = points.min(axis=0), points.max(axis=0)
    if not (low < high).all():
        return box._replace(polygon=None)
    start, end = np.array([box[2:4], box[4:6]])
    stretched = start + (points - low) / (high - low) * (end - start)
    # Eighths of a pixel are exact in float32, the type of a table's polygons.
    return box._replace(polygon=(np.round(stretched.ravel() * 8) / 8).tolist())


def _published(sample: Sample, recipe: Recipe) -> Record:
    """The truth as an annotation file tells it: pixels counted from the border's corner, frames by number."""
    record, border = sample.record, recipe.rendering.border
    if _frames(recipe):
        record = record._replace(image=str(int(sample.name)))
    if not border:
        return record
    width, height = sample.scene.pixels.shape[1] + 2 * border, sample.scene.pixels.shape[0] + 2 * border
    return record._replace(boxes=tiles.shifted(record.boxes, -border, -border), width=width, height=height)


def _framed(pixels: np.ndarray[Any, Any], recipe: Recipe) -> np.ndarray[Any, Any]:
    border = recipe.rendering.border
    return np.pad(pixels, ((border, border), (border, border), (0, 0)), constant_values=255)


def _instances(mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An id for each object of a scene's mask, 0 for none: no two objects touch."""
    import cv2

    return np.asarray(cv2.connectedComponents((mask >= 0).astype(np.uint8), connectivity=8)[1])


def _write_records(
    recipe: Recipe, path: Path, layout: Layout, records: Sequence[Record], image: Path | None = None
) -> None:
    folder = files.fixed_folder(layout.images)
    accepted = inspect.signature(recipe.reader.write).parameters
    given = {**layout.options, "image": image, "names": list(labels(recipe).values())}
    options = {key: value for key, value in given.items() if key in accepted}
    # Publishers name images as they lie in the images' folder.
    named = [record._replace(image=record.image.removeprefix(folder)) for record in records]
    recipe.reader.write(path, named, **options)


def _made(folder: Path, name: str) -> Path:
    """The path of a file to write, its folder made. Raises RecipeError where it is outside of `folder`."""
    if places.escapes(name):
        raise RecipeError(f"{name!r}: the recipe names a file outside of the dump, which is not written")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    return folder / name


_ENCODING: Mapping[str, Mapping[str, Any]] = {
    # Noise does not compress: level 1 costs a third of the time of 6 and a tenth more room.
    ".png": {"compress_level": 1},
    ".jpg": {"quality": 95},
    ".jpeg": {"quality": 95},
    ".webp": {"quality": 95},
}


def _save(path: Path, pixels: np.ndarray[Any, Any], georeferenced: bool) -> None:
    from PIL import Image

    if not georeferenced:
        Image.fromarray(pixels).save(path, **_ENCODING.get(path.suffix.lower(), {}))
        return
    import rasterio

    height, width, _ = pixels.shape
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000)}
    shape = {"width": width, "height": height, "count": 3, "dtype": "uint8", "photometric": "RGB"}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place) as raster:
        raster.write(np.moveaxis(pixels, -1, 0))
