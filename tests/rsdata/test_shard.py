"""Images that are cut, cropped, rendered or taken out of a film, through the whole converter."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import cv2
import imagehash
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from dumps import codes, contents, rows_of, run, sample_dump
from PIL import Image
from scipy import ndimage

from rsdata import recipes, samples
from rsdata.errors import RsdataError
from rsdata.recipes import Recipe
from rsdata.tiles import Tiling

RNG = np.random.default_rng(0)


def tiled(name: str, *tiling: Any) -> Recipe:
    recipe = recipes.load(name) if name in recipes.names() else recipes.from_format(name)
    return recipes.adapted(recipe, None, {}, Tiling(*tiling) if tiling else None)


def pixels(row: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))


def window_of(row: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(part) for part in row["image_id"].rsplit("#", 1)[1].split(","))


@pytest.mark.parametrize("name", ["potsdam", "vaihingen", "loveda"])
def test_masks_are_cut_before_boxes_are_made(name: str, tmp_path: Path) -> None:
    """Each window holds the regions of its own part of the mask, as scipy finds them."""
    recipe = tiled(name, 64, 16)
    truth = sample_dump(recipe, tmp_path / "dump", images=2, size=(150, 100), most=20)
    outcome = run(recipe, tmp_path / "dump", tmp_path / "t")
    assert outcome.rejections == []
    rows = rows_of(tmp_path / "t")
    windows = Tiling(64, 16).windows(150, 100)
    assert len(rows) == len(truth) * len(windows) == outcome.manifest["images"]["found"]
    nouns = list(samples.labels(recipe))
    for row in rows:
        sample = truth[row["image"]["path"]]
        x, y, width, height = window_of(row)
        assert (row["width"], row["height"]) == (width, height) == (64, 64)
        assert (
            pixels(row) == sample.scene.pixels[y : y + height, x : x + width]
        ).all() or sample.image.endswith("jpg")
        part = sample.scene.mask[y : y + height, x : x + width]
        expected = []
        for index, noun in enumerate(nouns):
            regions, _ = ndimage.label(part == index, np.ones((3, 3)))
            for rows_, columns in ndimage.find_objects(regions):
                expected.append((noun, columns.start, rows_.start, columns.stop, rows_.stop))
        held = [(o["label"], o["xmin"], o["ymin"], o["xmax"], o["ymax"]) for o in row["objects"]]
        assert sorted(held) == sorted(expected)
        cover = {item["label"]: item["share"] for item in row["cover"]}
        shares = {noun: float(np.mean(part == index)) for index, noun in enumerate(nouns)}
        assert cover == pytest.approx({noun: share for noun, share in shares.items() if share})
        assert row["gsd"] == pytest.approx(recipe.gsd)


def test_instances_of_isaid_touch_and_have_parts(tmp_path: Path) -> None:
    """Two vehicles side by side are two objects, one behind a tree is one; a fleck is none."""
    folder = tmp_path / "dump/train/images"
    folder.mkdir(parents=True)
    classes = np.zeros((60, 80, 3), np.uint8)
    ids = np.zeros((60, 80), np.int64)
    classes[10:20, 10:30] = (0, 0, 127)
    ids[10:20, 10:20], ids[10:20, 20:30] = 1234, 70000
    classes[30:40, 10:20] = classes[30:40, 40:50] = (0, 127, 255)
    ids[30:40, 10:20] = ids[30:40, 40:50] = 99
    classes[39, 49] = (0, 0, 63)
    Image.new("RGB", (80, 60)).save(folder / "P0002.png")
    Image.fromarray(classes).save(folder / "P0002_instance_color_RGB.png")
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(colours).save(folder / "P0002_instance_id_RGB.png")
    outcome = run("isaid", tmp_path / "dump", tmp_path / "t")
    assert outcome.rejections == []
    (row,) = rows_of(tmp_path / "t")
    assert [(o["label"], o["xmin"], o["ymin"], o["xmax"], o["ymax"]) for o in row["objects"]] == [
        ("small vehicle", 10, 10, 20, 20),
        ("small vehicle", 20, 10, 30, 20),
        ("plane", 10, 30, 50, 40),
    ]
    (folder / "P0002_instance_id_RGB.png").unlink()
    with pytest.raises(RsdataError, match="no instance mask"):
        run("isaid", tmp_path / "dump", tmp_path / "t2")


def test_boxes_are_shared_out_and_counted(tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    (dump / "images").mkdir(parents=True)
    (dump / "labelTxt").mkdir()
    whole = RNG.integers(0, 255, (100, 200, 3)).astype(np.uint8)
    Image.fromarray(whole).save(dump / "images/a.png")
    lines = [
        "10 10 30 10 30 30 10 30 ship 0",  # in the first window
        "90 40 110 40 110 60 90 60 ship 1",  # half in each, in both rows none
        "95 20 105 20 105 30 95 30 plane 0",  # half in each
        "500 10 530 10 530 30 500 30 ship 0",  # outside
    ]
    (dump / "labelTxt/a.txt").write_text("\n".join(lines))
    outcome = run(tiled("dota", 100, 0, 0.5), dump, tmp_path / "t")
    left, right = rows_of(tmp_path / "t")
    assert [row["image_id"] for row in (left, right)] == [
        "dota/unsplit/a#0,0,100,100",
        "dota/unsplit/a#100,0,100,100",
    ]
    assert (pixels(left) == whole[:, :100]).all()
    assert (pixels(right) == whole[:, 100:]).all()
    assert [(o["label"], o["xmin"], o["xmax"], o["flags"]) for o in left["objects"]] == [
        ("ship", 10, 30, []),
        ("ship", 90, 100, ["difficult", "truncated"]),
        ("plane", 95, 100, ["truncated"]),
    ]
    assert [(o["label"], o["xmin"], o["xmax"]) for o in right["objects"]] == [
        ("ship", 0, 10),
        ("plane", 0, 5),
    ]
    assert codes(outcome, "dropped") == ["E14"]
    assert outcome.manifest["objects"] == {"found": 6, "written": 5, "dropped": 1}
    strict = run(tiled("dota", 100, 0, 0.6), dump, tmp_path / "t2")
    assert sorted(codes(strict, "dropped")) == ["E13", "E13", "E14"]
    assert strict.manifest["objects"] == {"found": 4, "written": 1, "dropped": 3}


def test_small_images_stay_as_shipped(tmp_path: Path) -> None:
    truth = sample_dump("dota", tmp_path / "dump")
    run("dota", tmp_path / "dump", tmp_path / "whole")
    run(tiled("dota", 96), tmp_path / "dump", tmp_path / "tiled")
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "tiled")
    assert truth


@pytest.mark.parametrize("name", ["potsdam", "dota", "coco"])
def test_the_same_bytes_for_any_workers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiled(name, 48, 8)
    sample_dump(recipe, tmp_path / "dump", size=(150, 100), images=4)
    run(recipe, tmp_path / "dump", tmp_path / "one", workers=1)
    run(recipe, tmp_path / "dump", tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def geotiff(path: Path, bands: np.ndarray[Any, Any], **options: Any) -> None:
    count, height, width = bands.shape
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(2, 0, 5e5, 0, -2, 5e6)}
    shape = {"width": width, "height": height, "count": count, "dtype": bands.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place, **options) as raster:
        raster.write(bands)


def test_a_georeferenced_scene_with_a_border_of_no_data(tmp_path: Path) -> None:
    """Windows without data are told (E36), the others have their footprint; GeoParquet readers see it."""
    dump = tmp_path / "dump"
    (dump / "images").mkdir(parents=True)
    (dump / "labelTxt").mkdir()
    bands = RNG.integers(200, 3000, (4, 64, 192)).astype(np.uint16)
    bands[:, :, :64] = 0
    geotiff(dump / "images/a.tif", bands, nodata=0)
    (dump / "labelTxt/a.txt").write_text("70 10 90 10 90 30 70 30 ship 0\n5 5 20 5 20 20 5 20 ship 0\n")
    outcome = run(tiled("dota", 64), dump, tmp_path / "t")
    assert [(item.code, item.image) for item in outcome.rejections] == [("E36", "images/a.tif#0,0,64,64")]
    assert outcome.manifest["images"] == {
        "found": 3,
        "written": 2,
        "duplicates": 0,
        "leaks": 0,
        "rejected": 1,
    }
    assert outcome.manifest["objects"] == {"found": 2, "written": 1, "dropped": 1}
    rows = rows_of(tmp_path / "t")
    assert {row["gsd"] for row in rows} == {2.0}
    (path,) = (tmp_path / "t/data").iterdir()
    geo = json.loads(pq.read_schema(path).metadata[b"geo"])
    assert geo["primary_column"] == "geometry"
    assert geo["columns"]["geometry"]["encoding"] == "WKB"
    import shapely

    footprints = [shapely.from_wkb(row["geometry"]) for row in rows]
    assert footprints[0].bounds[0] < footprints[1].bounds[0]
    assert footprints[0].bounds == pytest.approx((15.00163, 45.1523, 15.0033, 45.1535), abs=1e-3)


def test_a_border_is_cut_and_boxes_move(tmp_path: Path) -> None:
    recipe = recipes.load("dronevehicle")
    truth = sample_dump(recipe, tmp_path / "dump", images=2)
    outcome = run(recipe, tmp_path / "dump", tmp_path / "t")
    assert outcome.rejections == []
    for row in rows_of(tmp_path / "t"):
        sample = truth[row["image"]["path"]]
        assert (pixels(row) == sample.scene.pixels).all()
        assert row["image_id"].endswith(sample.name)


def test_frames_come_out_of_the_film(tmp_path: Path) -> None:
    """Stanford Drone as shipped: annotations and a video; the step is that of the recipe, or the user's."""
    for folder in ("annotations/bookstore/video0", "videos/bookstore/video0"):
        (tmp_path / "dump" / folder).mkdir(parents=True)
    writer = cv2.VideoWriter(
        str(tmp_path / "dump/videos/bookstore/video0/video.mov"),
        cv2.VideoWriter.fourcc(*"mp4v"),
        30,
        (64, 48),
    )
    for number in range(70):
        writer.write(np.full((48, 64, 3), 3 * number, np.uint8))
    writer.release()
    rows = [f'1 5 6 25 26 {number} 0 0 0 "Biker"' for number in (60, 0, 30, 31, 90)]
    (tmp_path / "dump/annotations/bookstore/video0/annotations.txt").write_text("\n".join(rows))
    outcome = run("stanford-drone", tmp_path / "dump", tmp_path / "t")
    held = rows_of(tmp_path / "t")
    video = "videos/bookstore/video0/video.mov"
    assert [row["image"]["path"] for row in held] == [f"{video}#frame={number}" for number in (0, 30, 60)]
    assert [row["image_id"].rsplit("/", 2)[1:] for row in held] == [["video0", str(n)] for n in (0, 30, 60)]
    assert [round(float(pixels(row).mean())) for row in held] == pytest.approx([0, 90, 180], abs=5)
    assert all(row["captions"] for row in held)
    assert [(item.code, item.image) for item in outcome.rejections] == [("E35", video)]  # frame 90 of 70
    ten = recipes.adapted(recipes.load("stanford-drone"), None, {"step": 31})
    run(ten, tmp_path / "dump", tmp_path / "t2")
    assert [row["image"]["path"] for row in rows_of(tmp_path / "t2")] == [
        f"{video}#frame=0",
        f"{video}#frame=31",
    ]


def test_extracted_frames_between_steps_are_left_out(tmp_path: Path) -> None:
    for folder in ("annotations/a/v", "frames/a/v"):
        (tmp_path / "dump" / folder).mkdir(parents=True)
    (tmp_path / "dump/annotations/a/v/annotations.txt").write_text('1 5 6 25 26 0 0 0 0 "Biker"\n')
    for number in (0, 7, 30):
        Image.new("L", (64, 48)).save(tmp_path / f"dump/frames/a/v/{number:04}.png")
    from rsdata.convert import convert
    from rsdata.shard import Options

    said: list[str] = []
    outcome = convert(
        [tmp_path / "dump"], tmp_path / "t", recipes.load("stanford-drone"), Options(), say=said.append
    )
    assert outcome.manifest["images"]["found"] == 2
    assert [len(row["objects"]) for row in rows_of(tmp_path / "t")] == [1, 0]
    assert any("1 frames between steps of 30 are left out" in line for line in said)


@pytest.mark.parametrize(
    ("mode", "name", "kind"), [("RGB", "a.jpg", "JPEG"), ("L", "a.png", "PNG"), ("P", "a.png", "PNG")]
)
def test_images_are_scaled_down(mode: str, name: str, kind: str, tmp_path: Path) -> None:
    """Boxes, polygons, size and gsd are those of the stored pixels; smaller images stay as they are."""
    (tmp_path / "dump/images").mkdir(parents=True)
    (tmp_path / "dump/labelTxt").mkdir()
    for stem, size in (("large", (300, 200)), ("small", (100, 50))):
        suffix = name.rpartition(".")[2]
        picture = Image.effect_noise(size, 60).convert(mode)
        picture.save(tmp_path / f"dump/images/{stem}.{suffix}")
        label = "gsd:0.5\n30 20 90 20 90 50 30 50 ship 0\n"
        (tmp_path / f"dump/labelTxt/{stem}.txt").write_text(label)
    recipe = recipes.adapted(recipes.from_format("dota"), None, {}, max_edge=100)
    run(recipe, tmp_path / "dump", tmp_path / "t")
    large, small = rows_of(tmp_path / "t")
    stored = Image.open(io.BytesIO(large["image"]["bytes"]))
    assert (stored.size, stored.format) == ((100, 67), kind)
    assert (large["width"], large["height"]) == (100, 67)
    (box,) = large["objects"]
    assert [box[edge] for edge in ("xmin", "xmax")] == [10, 30]
    assert [box[edge] for edge in ("ymin", "ymax")] == pytest.approx([20 * 0.335, 50 * 0.335])
    assert box["polygon"][:4] == pytest.approx([10, 6.7, 30, 6.7])
    assert large["gsd"] == pytest.approx(1.5, rel=0.01)
    assert large["sha256"] == hashlib.sha256(large["image"]["bytes"]).hexdigest()
    assert (large["phash"] ^ int(str(imagehash.phash(stored)), 16)).bit_count() <= 2
    suffix = name.rpartition(".")[2]
    assert small["image"]["bytes"] == (tmp_path / f"dump/images/small.{suffix}").read_bytes()
    assert (small["width"], small["gsd"]) == (100, 0.5)
