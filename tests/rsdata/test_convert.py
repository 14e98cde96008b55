"""The converter on sample dumps of every recipe: rows equal the truth, bytes repeat, nothing is lost."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pytest
import rasterio
from dumps import check_account, codes, contents, rows_of, run, sample_dump
from PIL import Image

from rsdata import box_to_caption, rasters, recipes, tables
from rsdata import convert as flow
from rsdata.convert import convert
from rsdata.engine import Engine
from rsdata.errors import RecipeError, RsdataError, TableError
from rsdata.recipes import Recipe
from rsdata.records import Box, Record
from rsdata.samples import Sample
from rsdata.shard import Options
from rsdata.words import Words

NAMES = recipes.names()
COCO = recipes.from_format("coco")


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Sample]]]:
    """A sample dump of each recipe, and of COCO, which has none: folder and truth. Never written to."""
    root = tmp_path_factory.mktemp("dumps")
    made = {name: (root / name, sample_dump(name, root / name)) for name in NAMES}
    return {**made, "coco": (root / "coco", sample_dump(COCO, root / "coco"))}


def recipe_of(name: str) -> Recipe:
    return COCO if name == "coco" else recipes.load(name)


def edges(boxes: Any) -> list[tuple[Any, ...]]:
    keys = ("label", "raw_label", "xmin", "ymin", "xmax", "ymax")
    return sorted(
        tuple(box[key] for key in keys) if isinstance(box, dict) else tuple(box[:6]) for box in boxes
    )


def check_row(row: dict[str, Any], sample: Sample, recipe: Recipe, folder: Path) -> None:
    shipped = row["image"]["bytes"] if recipe.rendering.border else (folder / sample.image).read_bytes()
    assert row["image_id"].startswith(f"{recipe.name}/{sample.split}/")
    name = row["image_id"].rsplit("/", 1)[-1]
    frames = getattr(recipe.reader, "FRAMES", False)
    assert (int(name), int(sample.name)) == (int(sample.name),) * 2 if frames else name == sample.name
    assert (row["dataset"], row["split"]) == (recipe.name, sample.split)
    assert row["image"] == {"bytes": shipped, "path": sample.image}
    assert (row["width"], row["height"]) == (sample.record.width, sample.record.height)
    assert row["sha256"] == hashlib.sha256(shipped).hexdigest()
    theirs = int(str(imagehash.phash(Image.open(io.BytesIO(shipped)))), 16)
    assert (row["phash"] ^ theirs).bit_count() <= 2
    assert row["annotation"] == sample.annotation
    assert row["label"] == sample.record.label
    if recipe.reader.ONE_FILE == "none":
        assert (row["objects"], row["captions"]) == ([], [])
    elif recipe.format in ("karpathy", "pairs"):
        assert row["objects"] == []
        assert (row["captions"], row["caption_source"]) == (list(sample.record.captions), "human")
    else:
        assert edges(row["objects"]) == edges(sample.record.boxes)
        assert len(row["captions"]) == 5
        assert row["caption_source"] == "remoteclip"
        check_captions(row, recipe)


def check_captions(row: dict[str, Any], recipe: Recipe) -> None:
    """No caption says what the boxes of its row do not."""
    boxes = [Box(**found) for found in row["objects"]]
    record = Record("", boxes, row["width"], row["height"])
    nouns = set((recipe.nouns or {}).values())
    words = Words(recipe.irregular)
    assert box_to_caption.contradictions(row["captions"], record, words, nouns) == []


@pytest.mark.parametrize("name", [*NAMES, "coco"])
def test_rows_are_the_truth(name: str, dumps: Any, tmp_path: Path) -> None:
    recipe = recipe_of(name)
    folder, truth = dumps[name]
    outcome = run(recipe, folder, tmp_path / "t")
    assert outcome.rejections == []
    rows = rows_of(tmp_path / "t")
    assert {row["image"]["path"] for row in rows} == truth.keys()
    assert len({row["image_id"] for row in rows}) == len(rows) == len(truth)
    for row in rows:
        check_row(row, truth[row["image"]["path"]], recipe, folder)
    (dataset,) = outcome.manifest["datasets"].values()
    assert dataset["paper"] == recipe.paper
    assert dataset["unclaimed"] == 0
    held = {split: {"images": 0, "objects": 0} for split in dict.fromkeys(row["split"] for row in rows)}
    for row in rows:
        held[row["split"]]["images"] += 1
        held[row["split"]]["objects"] += len(row["objects"])
    assert dataset["splits"] == held
    labels = [found["label"] for row in rows for found in row["objects"]]
    assert dataset["classes"] == {label: labels.count(label) for label in sorted(set(labels))}


@pytest.mark.parametrize("name", [*NAMES, "coco"])
def test_same_bytes_for_any_workers_and_run(name: str, dumps: Any, tmp_path: Path) -> None:
    folder, _ = dumps[name]
    for table, workers in (("one", 1), ("again", 1), ("two", 2)):
        run(recipe_of(name), folder, tmp_path / table, workers=workers)
    one, again, two = (contents(tmp_path / table) for table in ("one", "again", "two"))
    assert {"manifest.json", "README.md", "rejections.parquet"} < one.keys()
    assert one == again
    assert one == two


@pytest.mark.parametrize("name", [*NAMES, "coco"])
def test_dry_run_gives_the_same_account_and_writes_nothing(name: str, dumps: Any, tmp_path: Path) -> None:
    folder, _ = dumps[name]
    before = contents(tmp_path), contents(folder)
    dry = run(recipe_of(name), folder, None, dry_run=True)
    dry_with_name = convert([folder], tmp_path / "t", recipe_of(name), Options(dry_run=True))
    assert (contents(tmp_path), contents(folder)) == before
    assert not (tmp_path / "t").exists()
    wet = run(recipe_of(name), folder, tmp_path / "t")
    assert dry == dry_with_name == wet


@pytest.mark.parametrize("name", ["dota", "loveda", "ucm", "coco"])
def test_no_images(name: str, dumps: Any, tmp_path: Path) -> None:
    folder, _ = dumps[name]
    run(recipe_of(name), folder, tmp_path / "with")
    run(recipe_of(name), folder, tmp_path / "without", no_images=True)
    there, without = rows_of(tmp_path / "with"), rows_of(tmp_path / "without")
    assert all(row["image"]["bytes"] for row in there)
    assert without == [{**row, "image": {**row["image"], "bytes": None}} for row in there]


@pytest.mark.parametrize("name", [*NAMES, "coco"])
def test_annotations_only_opens_no_image(name: str, tmp_path: Path) -> None:
    truth = sample_dump(recipe_of(name), tmp_path / "dump", images=2)
    for sample in truth.values():  # an image that was opened would be rejected
        (tmp_path / "dump" / sample.image).write_bytes(b"no image")
    if name == "levir" or "image" in recipes.given(recipe_of(name).reader):
        with pytest.raises(RsdataError, match=r"not guessed|is needed"):
            run(recipe_of(name), tmp_path / "dump", tmp_path / "t", annotations_only=True)
        return
    outcome = run(recipe_of(name), tmp_path / "dump", tmp_path / "t", annotations_only=True)
    assert outcome.rejections == []
    assert outcome.manifest["rsdata"]["hash_spec"] is None
    rows = rows_of(tmp_path / "t")
    assert len(rows) == len(truth)
    for row in rows:
        record = truth[row["image"]["path"]].record
        assert row["image"]["bytes"] is row["sha256"] is row["phash"] is None
        if recipe_of(name).format in ("voc", "coco", "masks", "auair", "soda", "xbd"):
            assert (row["width"], row["height"]) == (record.width, record.height)
        else:
            assert row["width"] is row["height"] is None
        if row["objects"]:
            assert edges(row["objects"]) == edges(record.boxes)
            assert row["captions"]
            check_captions(row, recipe_of(name))
        elif recipe_of(name).reader.ONE_FILE != "none":
            assert row["captions"] == list(record.captions)


@pytest.mark.parametrize("name", ["voc", "dota", "coco"])
def test_annotations_only_needs_no_image(name: str, tmp_path: Path) -> None:
    recipe = recipes.from_format(name)
    truth = sample_dump(recipe, tmp_path / "dump")
    for sample in truth.values():
        (tmp_path / "dump" / sample.image).unlink()
    run(recipe, tmp_path / "dump", tmp_path / "t", annotations_only=True)
    assert sum(len(row["objects"]) for row in rows_of(tmp_path / "t")) == sum(
        len(sample.record.boxes) for sample in truth.values()
    )
    with pytest.raises(RsdataError, match=r"no image could be used.*E07"):
        run(recipe, tmp_path / "dump", tmp_path / "u")
    assert not (tmp_path / "u").exists()


def test_splits_are_chosen(dumps: Any, tmp_path: Path) -> None:
    for name, splits in (("dior", ("test", "train")), ("rsicd", ("val",)), ("loveda", ("val",))):
        folder, truth = dumps[name]
        outcome = run(name, folder, tmp_path / name, splits=splits)
        rows = rows_of(tmp_path / name)
        assert outcome.rejections == []
        assert set(outcome.manifest["splits"]) == set(splits)
        assert sorted(row["image"]["path"] for row in rows) == sorted(
            sample.image for sample in truth.values() if sample.split in splits
        )
    with pytest.raises(RecipeError, match=r"no split 'vla'; did you mean 'val'\? \(it has train, val"):
        run("loveda", dumps["loveda"][0], tmp_path / "x", splits=("vla",))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("bound", ["SHARD_ROWS", "SHARD_BYTES"])
def test_several_shards(bound: str, dumps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, truth = dumps["dota"]
    run("dota", folder, tmp_path / "one")
    monkeypatch.setattr(flow, bound, 2 if bound == "SHARD_ROWS" else 1)
    outcome = run("dota", folder, tmp_path / "many")
    train = sum(sample.split == "train" for sample in truth.values())
    count = -(-train // 2) if bound == "SHARD_ROWS" else train
    assert count > 1
    assert outcome.manifest["splits"]["train"] == {
        "files": [f"data/train-{number:05d}-of-{count:05d}.parquet" for number in range(count)],
        "rows": train,
    }
    on_disk = sorted(f"data/{path.name}" for path in (tmp_path / "many/data").iterdir())
    assert on_disk == sorted(name for held in outcome.manifest["splits"].values() for name in held["files"])
    assert rows_of(tmp_path / "many") == rows_of(tmp_path / "one")


def test_a_shard_without_rows_leaves_no_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = sample_dump("dota", tmp_path / "dump", splits=["train"])
    bad = sorted(truth)[1]
    (tmp_path / "dump" / bad).write_bytes(b"no image")
    monkeypatch.setattr(flow, "SHARD_ROWS", 1)
    run("dota", tmp_path / "dump", tmp_path / "t")
    names = [f"train-{number:05d}-of-00003.parquet" for number in range(3)]
    assert sorted(path.name for path in (tmp_path / "t/data").iterdir()) == names
    assert [row["image"]["path"] for row in rows_of(tmp_path / "t")] == [
        path for path in sorted(truth) if path != bad
    ]


def test_a_finished_table_is_replaced_only_when_asked(dumps: Any, tmp_path: Path) -> None:
    run("dota", dumps["dota"][0], tmp_path / "t")
    before = contents(tmp_path / "t")
    with pytest.raises(TableError, match=r"holds a finished table.*--overwrite"):
        run("ucm", dumps["ucm"][0], tmp_path / "t")
    assert contents(tmp_path / "t") == before
    run("ucm", dumps["ucm"][0], tmp_path / "t", overwrite=True)
    run("ucm", dumps["ucm"][0], tmp_path / "fresh")
    assert contents(tmp_path / "t") == contents(tmp_path / "fresh")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_folder_is_refused_and_left_alone(overwrite: bool, dumps: Any, tmp_path: Path) -> None:
    for name, files, why in (
        ("notes", {"data/mine.txt": "mine", "README.md": "mine"}, "not a table of ours"),
        ("extension", {"manifest.json": '{"manifest_version": 3}', "data/x.parquet": ""}, "splits"),
        ("other", {"manifest.json": '{"splits": {}}', "data/x.parquet": ""}, "is not ours"),
        ("broken", {"manifest.json": "{", "data/x.parquet": ""}, "manifest.json"),
        ("list", {"manifest.json": "[]"}, "expected a JSON object"),
    ):
        for path, text in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(text)
        before = contents(tmp_path / name)
        with pytest.raises(TableError, match=why):
            run("dota", dumps["dota"][0], tmp_path / name, overwrite=overwrite)
        assert contents(tmp_path / name) == before
        assert not (tmp_path / name / ".unfinished").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(TableError, match="is a file"):
        run("dota", dumps["dota"][0], tmp_path / "file", overwrite=overwrite)
    with pytest.raises(TableError, match="cannot be written"):
        run("dota", dumps["dota"][0], tmp_path / "file" / "below", overwrite=overwrite)
    assert (tmp_path / "file").read_text() == "mine"


def test_what_a_killed_run_left_is_reused(dumps: Any, tmp_path: Path) -> None:
    run("dota", dumps["dota"][0], tmp_path / "fresh")
    stale = tmp_path / "t/.unfinished/data/train-00000.parquet"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"half a shard")
    run("dota", dumps["dota"][0], tmp_path / "t")
    assert contents(tmp_path / "t") == contents(tmp_path / "fresh")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_stops_leaves_no_table_and_goes_on(
    error: type[BaseException], workers: int, dumps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(step: flow.Step) -> None:
        nonlocal done
        done = step.images
        if done > 2:
            raise error

    monkeypatch.setattr(flow, "SHARD_ROWS", 1)
    done = 0
    folder = dumps["dota"][0]
    with pytest.raises(error):
        convert([folder], tmp_path / "t", recipes.load("dota"), Options(engine=Engine(workers=workers)), stop)
    assert done == 3
    held = contents(tmp_path / "t")
    assert {name.partition("/")[0] for name in held} == {".unfinished"}
    assert not [name for name in held if name.endswith((".tmp", ".at"))]
    with pytest.raises(TableError, match="not a table"):
        tables.manifest(tmp_path / "t")
    run("dota", folder, tmp_path / "t")
    run("dota", folder, tmp_path / "fresh")
    assert contents(tmp_path / "t") == contents(tmp_path / "fresh")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_publishing_that_fails_can_be_run_again(
    overwrite: bool, dumps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up between the shards and the manifest."""
    run("dota", dumps["dota"][0], tmp_path / "fresh")
    if overwrite:
        run("ucm", dumps["ucm"][0], tmp_path / "t")

    def full(manifest: Any) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "card", full)
        with pytest.raises(RsdataError, match="No space left on device"):
            run("dota", dumps["dota"][0], tmp_path / "t", overwrite=overwrite)
    with pytest.raises(TableError, match="it has no manifest"):
        tables.manifest(tmp_path / "t")
    run("dota", dumps["dota"][0], tmp_path / "t")
    assert contents(tmp_path / "t") == contents(tmp_path / "fresh")


def test_nothing_usable_fails_with_the_first_reason(tmp_path: Path) -> None:
    truth = sample_dump("dota", tmp_path / "dump")
    for sample in truth.values():
        (tmp_path / "dump" / sample.image).write_bytes(b"no image")
    first = sorted(truth)[0]
    number = len(truth)
    with pytest.raises(RsdataError, match=f"{number} found, {number} rejected; the first: {first}: E35"):
        run("dota", tmp_path / "dump", tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_name_that_two_sources_share(dumps: Any, tmp_path: Path) -> None:
    one, truth = dumps["dota"]
    sample_dump("dota", tmp_path / "two", images=5, seed=9, splits=["train"])
    outcome = run("dota", [one, tmp_path / "two"], tmp_path / "t")
    train = [sample for sample in truth.values() if sample.split == "train"]
    assert codes(outcome, "rejected") == ["E16"] * len(train)
    assert [item.image for item in outcome.rejections] == sorted(sample.image for sample in train)
    assert "another image is named train/train_00000" in outcome.rejections[0].why
    assert outcome.manifest["images"]["found"] == len(truth) + 5
    held = {row["image"]["path"]: row["image"]["bytes"] for row in rows_of(tmp_path / "t")}
    assert len(held) == len(truth) + 1
    assert all(held[sample.image] == (one / sample.image).read_bytes() for sample in train)


def test_damaged_images(tmp_path: Path) -> None:
    """A truncated JPEG or PNG, an empty file, text under an image's name (E35)."""
    folder = tmp_path / "dump"
    truth = sample_dump("dota", folder, splits=["train"], images=8)
    paths = sorted(truth)
    jpeg = folder / paths[0].replace(".png", ".jpg")
    Image.open(folder / paths[0]).save(jpeg, quality=90)
    (folder / paths[0]).unlink()
    for path in (jpeg, folder / paths[1]):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (folder / paths[2]).write_bytes((folder / paths[2]).read_bytes()[:20])
    (folder / paths[3]).write_bytes(b"")
    (folder / paths[4]).write_text("<html>404</html>")
    data = bytearray((folder / paths[5]).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (folder / paths[5]).write_bytes(data)
    outcome = run("dota", folder, tmp_path / "t")
    assert codes(outcome, "rejected") == ["E35"] * 6
    gone = ["train/images/" + jpeg.name, *paths[1:6]]
    assert [item.path for item in outcome.rejections] == sorted(gone)
    assert [row["image"]["path"] for row in rows_of(tmp_path / "t")] == paths[6:]


def test_a_truncated_geotiff(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Of a kind that only GDAL opens; the reasons name nothing that differs from run to run."""
    truth = sample_dump("dota", tmp_path / "dump", splits=["train"])
    path = (tmp_path / "dump" / sorted(truth)[0]).with_suffix(".tif")
    path.with_suffix(".png").unlink()
    _geotiff(path, 4, "uint16", interleave="band", compress="deflate")
    banded = path.read_bytes()
    _geotiff(path, 5, "float32", interleave="pixel", compress="deflate")
    whole = path.read_bytes()
    assert rasters.size(path) == (96, 64)
    assert run("dota", tmp_path / "dump", None, dry_run=True).rejections == []
    for size in (len(whole) - 1, len(whole) // 2, 2000, 300, 20):
        path.write_bytes(whole[:size])
        outcomes = [run("dota", tmp_path / "dump", None, dry_run=True) for _ in range(2)]
        assert codes(outcomes[0], "rejected") == ["E35"]
        assert outcomes[0] == outcomes[1]
        path.write_bytes(banded[: size * len(banded) // len(whole)])
        assert codes(run("dota", tmp_path / "dump", None, dry_run=True), "rejected") == ["E35"]
    assert [str(each.message) for each in recwarn if "georef" not in str(each.message)] == []


def test_exif_orientation_is_reported_and_not_applied(tmp_path: Path) -> None:
    truth = sample_dump("dota", tmp_path / "dump", splits=["train"])
    name = sorted(truth)[0]
    path = tmp_path / "dump" / name
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path.with_suffix(".jpg"), exif=exif)
    path.unlink()
    outcome = run("dota", tmp_path / "dump", tmp_path / "t")
    (item,) = outcome.rejections
    assert (item.action, item.code, item.path) == ("repaired", "E32", name.replace(".png", ".jpg"))
    row = rows_of(tmp_path / "t")[0]
    assert (row["width"], row["height"]) == Image.open(path.with_suffix(".jpg")).size
    assert edges(row["objects"]) == edges(truth[name].record.boxes)


def test_size_mismatch(tmp_path: Path) -> None:
    """The image's size is used where the boxes fit it; else the image is rejected (E10)."""
    recipe = recipes.from_format("voc")
    folder = tmp_path / "dump"
    truth = sample_dump(recipe, folder)
    wide, small = sorted(truth)[:2]
    for image, old, new in ((wide, "<width>96<", "<width>960<"), (small, "<width>96<", "<width>95<")):
        path = folder / truth[image].annotation
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    with Image.open(folder / small) as image:
        image.resize((24, 16)).save(folder / small)
    outcome = run(recipe, folder, tmp_path / "t")
    assert [(item.action, item.code, item.image) for item in outcome.rejections] == [
        ("repaired", "E10", wide),
        ("rejected", "E10", small),
    ]
    rows = {row["image"]["path"]: row for row in rows_of(tmp_path / "t")}
    assert rows.keys() == truth.keys() - {small}
    assert rows[wide]["width"] == 96
    assert edges(rows[wide]["objects"]) == edges(truth[wide].record.boxes)


def test_mask_of_another_size(tmp_path: Path) -> None:
    truth = sample_dump("loveda", tmp_path / "dump", splits=["train"])
    one = next(iter(truth.values()))
    mask = Image.open(tmp_path / "dump" / one.annotation)
    mask.crop((0, 0, 95, 64)).save(tmp_path / "dump" / one.annotation)
    outcome = run("loveda", tmp_path / "dump", tmp_path / "t")
    assert [(item.action, item.code, item.image) for item in outcome.rejections] == [
        ("rejected", "E22", one.image)
    ]


def _geotiff(path: Path, bands: int, dtype: str, **layout: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (bands, 64, 96)).astype(dtype)
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(1, 0, 5e5, 0, -1, 5e6)}
    shape = {"width": 96, "height": 64, "count": bands, "dtype": dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place, **layout) as raster:
        raster.write(pixels)


def test_images_that_are_not_eight_bit_rgb(tmp_path: Path) -> None:
    """Alpha, a palette, one bit, CMYK: as shipped. 16 bits, floats, more bands: rendered to 8 bits (E25)."""
    folder = tmp_path / "dump"
    truth = sample_dump("dota", folder, splits=["train"], images=8)
    paths = sorted(truth)
    made = []
    for path in paths:
        (folder / path).unlink()
    for path, bands, dtype in zip(
        paths, (4, 4, 8, 1), ("uint16", "uint8", "float32", "float64"), strict=False
    ):
        made.append(path.replace(".png", ".tif"))
        _geotiff(folder / made[-1], bands, dtype)
    grey = np.random.default_rng(0).integers(0, 65535, (64, 96)).astype(np.uint16)
    for path, mode in zip(paths[4:], ("I;16", "P", "1", "CMYK"), strict=True):
        made.append(path.replace(".png", ".tif" if mode == "CMYK" else ".png"))
        picture = (
            Image.fromarray(grey) if mode == "I;16" else Image.fromarray(grey.astype("uint8")).convert(mode)
        )
        assert picture.mode == mode
        picture.save(folder / made[-1])
    rendered = (made[0], *made[2:5])
    modes = dict(zip(rendered, ("RGB", "RGB", "L", "L"), strict=True))
    outcome = run("dota", folder, tmp_path / "t")
    assert outcome.rejections == []
    rows = rows_of(tmp_path / "t")
    assert [row["image"]["path"] for row in rows] == sorted(made)
    for row in rows:
        shipped = (folder / row["image"]["path"]).read_bytes()
        picture = Image.open(io.BytesIO(row["image"]["bytes"]))
        if row["image"]["path"] in modes:
            assert (picture.format, picture.mode, picture.size) == (
                "PNG",
                modes[row["image"]["path"]],
                (96, 64),
            )
            assert row["sha256"] == hashlib.sha256(row["image"]["bytes"]).hexdigest()
            assert row["phash"] is not None
        else:
            assert row["image"]["bytes"] == shipped
        assert (row["width"], row["height"]) == (96, 64)
        assert edges(row["objects"]) == edges(
            truth[row["image"]["path"].replace(".tif", ".png")].record.boxes
        )


def test_published_captions_are_kept_as_they_are(tmp_path: Path) -> None:
    """Repeats and odd spacing included; blank ones are dropped and listed (E34)."""
    folder = tmp_path / "dump"
    truth = sample_dump("ucm", folder)
    path = folder / next(iter(truth.values())).annotation
    document = json.loads(path.read_text())
    published = ["a ship .", "a ship .", " A  Ship’s wake", "a ship ."]
    first = document["images"][0]
    first["sentences"] = [{"raw": text} for text in (*published[:2], "  ", *published[2:])]
    path.write_text(json.dumps(document, indent=1))
    for template in ("remoteclip", "none"):
        outcome = run("ucm", folder, tmp_path / template, captions=template)
        row = rows_of(tmp_path / template)[0]
        assert (row["captions"], row["caption_source"]) == (published, "human")
        assert [(item.action, item.code) for item in outcome.rejections] == [("dropped", "E34")]


def test_caption_sets(dumps: Any, tmp_path: Path) -> None:
    folder, _ = dumps["dior"]
    recipe = recipes.load("dior")
    seen = set()
    sets = [name for name in box_to_caption.names() if not box_to_caption.judge(name)]
    for template in (*sets, "none"):
        for large_count in ("vague", "exact", "mixed"):
            table = tmp_path / f"{template}-{large_count}"
            outcome = run(recipe, folder, table, captions=template, large_count=large_count)
            rows = rows_of(table)
            assert outcome.manifest["rsdata"]["captions"] == template
            for row in rows:
                check_captions(row, recipe)
                assert bool(row["captions"]) == (template != "none")
                assert row["caption_source"] == (None if template == "none" else template)
        seen.add(tuple(tuple(row["captions"]) for row in rows))
    assert len(seen) == len(sets) + 1
    for options, why in (
        ({"captions": "remotclip"}, "did you mean 'remoteclip'"),
        ({"large_count": "few"}, "few"),
    ):
        with pytest.raises(RecipeError, match=why):
            run(recipe, folder, tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


def test_the_seed_counts(dumps: Any, tmp_path: Path) -> None:
    folder, _ = dumps["dior"]
    drawn = []
    for seed in (0, 1):
        run("dior", folder, tmp_path / str(seed), seed=seed)
        drawn.append([row["captions"] for row in rows_of(tmp_path / str(seed))])
    assert drawn[0] != drawn[1]


def test_progress_and_notes(tmp_path: Path) -> None:
    truth = sample_dump("dota", tmp_path / "up/DOTA")
    Image.new("RGB", (8, 8)).save(tmp_path / "up/DOTA/logo.png")
    done: list[flow.Step] = []
    said: list[str] = []
    outcome = convert(
        [tmp_path / "up"], tmp_path / "t", recipes.load("dota"), Options(), done.append, said.append
    )
    check_account(outcome, tmp_path / "t")
    assert done[-1] == flow.Step(len(truth), len(truth), 0, 0)
    assert said == ["the dump lies in DOTA/", "1 image files fit no split of dota, such as DOTA/logo.png"]
    assert outcome.manifest["datasets"]["dota"]["unclaimed"] == 1


def test_two_dumps_of_a_recipe(dumps: Any, tmp_path: Path) -> None:
    """Each with its own prefix and rejections; lines refer to the right folder."""
    truth = sample_dump("dota", tmp_path / "two", images=2, splits=["val"], seed=5)
    one = next(sample for sample in truth.values())
    label = tmp_path / "two" / one.annotation
    label.rename(label.with_name("other.txt"))
    image = tmp_path / "two" / one.image
    image.rename(image.with_name("other.png"))
    label.with_name("other.txt").write_text(label.with_name("other.txt").read_text() + "1 2 3 ship\n")
    outcome = run("dota", [dumps["dota"][0], tmp_path / "two"], tmp_path / "t")
    dropped = next(item for item in outcome.rejections if item.action == "dropped")
    text = label.with_name("other.txt").read_text().split("\n")
    assert text[dropped.line - 1] == "1 2 3 ship"
    assert dropped.code == "E05"
    assert outcome.manifest["objects"]["dropped"] == 1


def test_lines_are_looked_up_anew_in_each_run(tmp_path: Path) -> None:
    """A file may be mended between two runs of one process."""
    truth = sample_dump(COCO, tmp_path / "dump", splits=["train"])
    path = tmp_path / "dump" / next(iter(truth.values())).annotation
    document = json.loads(path.read_text())
    document["annotations"][0]["bbox"] = [1, 2, 0, 0]
    document["annotations"][0]["segmentation"] = []
    for indent in (1, None):
        path.write_text(json.dumps(document, indent=indent))
        (item,) = run(COCO, tmp_path / "dump", None, dry_run=True).rejections
        lines = path.read_text().split("\n")
        start = next(number for number, line in enumerate(lines, 1) if '"annotations"' in line)
        assert (item.code, item.line) == ("E12", start if indent is None else start + 1)
