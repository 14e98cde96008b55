"""Sample dumps: each recipe and each bare format reads back what was drawn, to the pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rsdata import checks, formats, recipes, samples, tiles
from rsdata.classes import Classes
from rsdata.errors import RecipeError
from rsdata.files import Dump
from rsdata.plan import Plan, Unit
from rsdata.recipes import Recipe
from rsdata.records import Box, Record, Rejection
from rsdata.samples import Sample

NAMES = [("recipe", name) for name in recipes.names()] + [("format", name) for name in formats.names()]
SIZE = (112, 80)
MASKS = {
    "format": "masks",
    "ignore": ["9"],
    "splits": {"train": {"images": "*.png", "annotations": "m/*.png"}},
    "classes": {"1": "road"},
}


@pytest.fixture(params=NAMES, ids=" ".join)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    kind, name = request.param
    return recipes.load(name) if kind == "recipe" else recipes.from_format(name)


def classes_of(recipe: Recipe) -> Classes:
    """The recipe's; where the labels are numbers and no recipe names them, what the sample drew."""
    if recipe.nouns is None and getattr(recipe.reader, "NUMERIC", False):
        return Classes({raw: noun for noun, raw in samples.labels(recipe).items()}, ["0"])
    return recipe.classes()


def plan_of(recipe: Recipe, folder: Path) -> dict[str, Unit]:
    """Image path -> Unit of a dump that holds nothing else."""
    plan = Plan(recipe, Dump(folder))
    items = list(plan)
    assert [item for item in items if isinstance(item, Rejection)] == []
    assert plan.unclaimed() == []
    units = {item.image: item for item in items if isinstance(item, Unit)}
    assert len(units) == len(items)
    assert len({(unit.split, unit.name) for unit in units.values()}) == len(items)
    return units


def read(recipe: Recipe, folder: Path, unit: Unit) -> Record:
    if unit.record is not None:
        return unit.record
    given = {"image": unit.image, "instances": unit.instances}
    given = {name: value for name, value in given.items() if name in recipes.given(recipe.reader)}
    items = recipe.reader.read(folder, unit.annotation, classes_of(recipe), **unit.layout.options, **given)
    (record,) = items  # one Record and no Rejection
    assert isinstance(record, Record)
    if border := recipe.rendering.border:
        size = {"width": SIZE[0], "height": SIZE[1]} if record.width else {}
        record = record._replace(boxes=tiles.shifted(record.boxes, border, border), **size)
    return record._replace(image=unit.image)


def edges(boxes: Any) -> list[tuple[Any, ...]]:
    return sorted(box[:6] for box in boxes)


def check_record(record: Record, truth: Record, recipe: Recipe) -> None:
    assert record.image == truth.image
    assert record.width in (None, truth.width)
    assert record.height in (None, truth.height)
    if record.captions:
        assert record.captions == truth.captions
        return
    if recipe.reader.ONE_FILE == "none":
        assert record.label == truth.label is not None
        return
    assert record.boxes
    if recipe.nouns is None and getattr(recipe.reader, "NUMERIC", False):
        nouns = classes_of(recipe)
        record = record._replace(boxes=[box._replace(label=nouns[box.raw_label]) for box in record.boxes])
    assert edges(record.boxes) == edges(truth.boxes)
    polygons = {box[:6]: box.polygon for box in truth.boxes}
    for box in record.boxes:
        assert box.flags == ()
        assert box.polygon is None or list(box.polygon) == polygons[box[:6]]
    assert checks.size(record, *SIZE, aligned=True) is None
    assert checks.boxes(record, *SIZE, classes_of(recipe)) == (list(record.boxes), [])


def check_dump(recipe: Recipe, folder: Path, written: list[str], truth: dict[str, Sample]) -> None:
    on_disk = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert written == on_disk
    units = plan_of(recipe, folder)
    assert units.keys() == truth.keys()
    for image, unit in units.items():
        sample = truth[image]
        assert unit.split == sample.split
        assert unit.annotation == sample.annotation
        check_record(read(recipe, folder, unit), sample.record, recipe)
        pixels = np.asarray(Image.open(folder / image)).astype(int)
        if border := recipe.rendering.border:
            assert (pixels[:border] == 255).all()
            pixels = pixels[border:-border, border:-border]
        assert pixels.shape == (*SIZE[::-1], 3)
        assert np.abs(pixels - sample.scene.pixels).mean() <= (4 if image.endswith(".jpg") else 0)


def written_and_truth(recipe: Recipe, folder: Path, **options: Any) -> tuple[list[str], dict[str, Sample]]:
    truth = {sample.image: sample for sample in samples.draw(recipe, size=SIZE, **options)}
    return samples.write(recipe, folder, size=SIZE, **options), truth


def test_round_trip(recipe: Recipe, tmp_path: Path) -> None:
    written, truth = written_and_truth(recipe, tmp_path, images=10, seed=3)
    check_dump(recipe, tmp_path, written, truth)
    counts = [sample.split for sample in truth.values()]
    first = "train" if "train" in counts else counts[0]
    assert counts.count(first) == 10
    assert all(counts.count(split) == 2 for split in set(counts) - {first})


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("dior", ["train", "val", "test"]),
        ("hrrsd", ["train", "val", "test"]),
        ("dota", ["train", "val"]),
        ("loveda", ["train", "val"]),
        ("potsdam", ["train", "test"]),
        ("visdrone", ["train", "val", "test_dev"]),
        ("rsicd", ["train", "val", "test"]),
    ],
)
def test_splits_are_the_published_ones(name: str, splits: list[str]) -> None:
    drawn = samples.draw(recipes.load(name), 1, size=(32, 32), most=1)
    assert [sample.split for sample in drawn] == splits


def test_every_split_alone(recipe: Recipe, tmp_path: Path) -> None:
    """Also those that catch other layouts."""
    for split in samples.SPLITS if "*" in recipe.splits else recipe.splits:
        written, truth = written_and_truth(recipe, tmp_path / split, images=2, splits=[split])
        check_dump(recipe, tmp_path / split, written, truth)
        assert [sample.split for sample in truth.values()] == [split] * 2


def test_boxes_are_the_extents_of_the_mask(recipe: Recipe) -> None:
    nouns = list(samples.labels(recipe))
    for sample in samples.draw(recipe, 5, size=SIZE):
        assert sample.scene.mask.shape == SIZE[::-1]
        assert len(sample.record.boxes) == len(sample.scene.boxes)
        for box, drawn in zip(sample.record.boxes, sample.scene.boxes, strict=True):
            left, top, right, bottom = map(int, box[2:6])
            index = 0 if sample.record.label else nouns.index(box.label)  # folders: one class an image
            own = sample.scene.mask[top:bottom, left:right] == index
            assert own.any(axis=0)[[0, -1]].all()
            assert own.any(axis=1)[[0, -1]].all()
            assert box.raw_label == samples.labels(recipe)[box.label]
            points, before = (np.reshape(np.asarray(each.polygon), (-1, 2)) for each in (box, drawn))
            assert (*points.min(axis=0), *points.max(axis=0)) == box[2:6]
            assert np.abs(points - before).max() <= 1 + 1 / 16
            assert np.array_equal(points, points.astype(np.float32))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_arguments_same_bytes(recipe: Recipe, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        samples.write(recipe, tmp_path / name, 3, seed, (64, 48), 5)
    one, again, other = (contents(tmp_path / name) for name in "abc")
    assert one == again
    assert one.keys() == other.keys()
    assert not any(one[name] == other[name] for name in one if name.endswith((".png", ".tif")))


def test_a_longer_dump_begins_with_a_shorter_one(recipe: Recipe) -> None:
    short = {sample.image: sample for sample in samples.draw(recipe, 2, 7, SIZE)}
    long = {sample.image: sample for sample in samples.draw(recipe, 10, 7, SIZE)}
    assert short.keys() < long.keys()
    for image, sample in short.items():
        assert sample.record == long[image].record
        assert np.array_equal(sample.scene.pixels, long[image].scene.pixels)
    pictures = {sample.scene.pixels.tobytes() for sample in long.values()}
    assert len(pictures) == len(long), "two images of a dump are the same"


def test_size_and_most(tmp_path: Path) -> None:
    recipe = recipes.load("dota")
    samples.write(recipe, tmp_path, 4, size=(200, 120), most=2)
    for path in tmp_path.rglob("*.png"):
        assert Image.open(path).size == (200, 120)
    for path in tmp_path.rglob("*.txt"):
        assert 1 <= len(path.read_text().splitlines()) - 2 <= 2  # behind two lines of header


def test_a_mask_is_all_colours_or_all_indices(tmp_path: Path) -> None:
    for name, known in (
        ("potsdam", {(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0)}),
        ("loveda", {1, 2, 3, 4, 5, 6, 7}),
    ):
        folder = tmp_path / name
        samples.write(recipes.load(name), folder, 10)
        masks = [np.asarray(Image.open(path)) for path in folder.rglob("*") if path.parts[-2] in
                 ("5_Labels_all", "masks_png")]  # fmt: skip
        assert masks
        depth = () if name == "loveda" else (3,)
        assert {mask.shape for mask in masks} == {(256, 256, *depth)}
        pixels = np.concatenate([mask.reshape(-1, *depth) for mask in masks]).tolist()
        assert {tuple(pixel) if depth else pixel for pixel in pixels} == known
    assert any((tmp_path / "loveda/Train/Urban/masks_png").iterdir())
    assert any((tmp_path / "loveda/Train/Rural/masks_png").iterdir())


VOC = {
    "format": "voc",
    "options": {"base": 0},
    "splits": {
        "train": [
            {"images": "pic/*/{a,b}/*.jpg", "annotations": "xml/*/{a,b}/*.xml", "names": ["p1", "p2", "p3"]},
            {"images": "never/*.png", "annotations": "never/*.xml"},
        ],
        "test": {"images": "pic/*/{a,b}/*.jpg", "annotations": "xml/*/{a,b}/*.xml", "list": "sets/test.txt"},
        "rest": {"images": "pic/*/{a,b}/*.jpg", "annotations": "xml/*/{a,b}/*.xml"},
    },
    "classes": {"Small_Car": "car", "auto": "car", "ship": "ship"},
}
COCO = {
    "format": "coco",
    "options": {"bbox": "xyxy"},
    "splits": {
        "train": {"images": "img/**.*", "annotations": "instances_train.json"},
        "val": {"images": "img/**.*", "annotations": "instances_val.json"},
    },
    "classes": {"storage tank": "tank"},
}


@pytest.mark.parametrize("raw", [VOC, COCO], ids=["voc", "coco"])
def test_a_private_recipe(raw: dict[str, Any], tmp_path: Path) -> None:
    """Lists, names, options, JPEG, several stars, splits in one folder."""
    recipe = recipes.parse("mine", raw)
    written, truth = written_and_truth(recipe, tmp_path, images=3)
    check_dump(recipe, tmp_path, written, truth)
    if raw is VOC:
        assert "sets/test.txt" in written
        assert {sample.image for sample in truth.values()} == {
            "pic/area/a/p1.jpg",
            "pic/area/b/p2.jpg",
            "pic/area/a/p3.jpg",
            "pic/area/a/test_00000.jpg",
        }
        assert {box.raw_label for sample in truth.values() for box in sample.record.boxes} == {
            "Small_Car",
            "ship",
        }
    else:
        assert '"file_name": "train_00000.png"' in (tmp_path / "instances_train.json").read_text()


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(RecipeError, match="not an empty folder"):
            samples.write(recipes.load("ucm"), folder, 1)
    assert contents(tmp_path) == {"mine.txt": b"mine"}


@pytest.mark.parametrize(
    ("recipe", "options", "why"),
    [
        (recipes.load("dota"), {"splits": ["test"]}, "no split 'test'; it has train, val, unsplit"),
        (recipes.load("ucm"), {"splits": ["../x"]}, r"no split '\.\./x'"),
        (recipes.load("potsdam"), {"images": 25}, "names 24 images, 25 are too many"),
        (recipes.parse("mine", {**MASKS, "ignore": ["0,0,0"]}), {}, "names no background"),
        (recipes.parse("mine", {**MASKS, "classes": {}}), {}, "no class to draw"),
        (recipes.from_format("dota", "x/{a,b}.*", "y/{a,b}.txt"), {}, r"x/\{a,b\}\.\* has no \*"),
    ],
)
def test_what_cannot_be_written(recipe: Recipe, options: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=why):
        samples.write(recipe, tmp_path / "new", **{"images": 2, **options})


def test_wrong_numbers() -> None:
    with pytest.raises(ValueError, match="cannot write 0 images"):
        list(samples.draw(recipes.load("ucm"), 0))
    with pytest.raises(ValueError, match="32x32"):
        list(samples.draw(recipes.load("ucm"), 1, size=(16, 16)))


def test_a_flat_polygon_is_left_out() -> None:
    flat = Box("road", "road", 2.0, 2.0, 9.0, 3.0, [2.0, 2.5, 9.0, 2.5, 9.0, 2.5, 2.0, 2.5])
    assert samples._snug(flat).polygon is None
