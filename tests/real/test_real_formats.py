"""Genuine files of the formats beyond the first six, as tests/real/test_real.py does it."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image
from rasterio.warp import transform_geom
from test_real import Object, Real, call, check_objects, convert

from rsdata import pictures
from rsdata.rasters import Rendering

pytestmark = pytest.mark.real


def test_au_air(real: Real, tmp_path: Path) -> None:
    source = real("au-air")
    document = json.loads((source / "annotations.json").read_text())
    names = document["categories"]
    expected, sizes = {}, {}
    for frame in document["annotations"]:
        image = f"images/{frame['image_name']}"
        objects = [
            Object(
                names[box["class"]],
                (box["left"], box["top"], box["left"] + box["width"], box["top"] + box["height"]),
            )
            for box in frame["bbox"]
        ]
        expected[image] = ("annotations.json", objects)
        sizes[image] = Image.open(source / image).size
    assert len(expected) == 30
    table = convert(tmp_path / "t", source, "--recipe", "au-air")
    assert {path: len(row["objects"]) for path, row in table.rows.items()} == {
        path: len(objects) for path, (_, objects) in expected.items()
    }
    for path, (_, objects) in expected.items():
        row = table.rows[path]
        assert (row["width"], row["height"]) == sizes[path]
        held = Counter((o["raw_label"], o["xmin"], o["ymin"], o["xmax"], o["ymax"]) for o in row["objects"])
        assert held == Counter((item.label, *map(float, item.edges)) for item in objects)
    assert table.manifest["datasets"]["au-air"]["images"]["found"] == 30


def test_stanford_drone(real: Real, tmp_path: Path) -> None:
    """The tracks of one film on blank frames: every 30th of them, and two that lie between."""
    source = real("stanford-drone")
    (tracks,) = source.rglob("annotations.txt")
    scene = tracks.relative_to(source / "annotations").parent
    size = Image.open(tracks.with_name("reference.jpg")).size
    dump = tmp_path / "dump"
    (dump / "annotations" / scene).mkdir(parents=True)
    (dump / "annotations" / scene / "annotations.txt").write_bytes(tracks.read_bytes())
    (dump / "frames" / scene).mkdir(parents=True)
    numbers = [0, 30, 31, 300, 301, 3000]
    for number in numbers:
        Image.new("L", size).save(dump / "frames" / scene / f"{number:06}.png")
    expected: dict[int, list[Object]] = {0: [], 30: [], 300: [], 3000: []}
    lost = 0
    with tracks.open() as file:
        for line, row in enumerate(csv.reader(file, delimiter=" "), 1):
            if int(row[5]) in expected and row[6] == "0":
                expected[int(row[5])].append(Object(row[9], tuple(map(float, row[1:5])), line))  # type: ignore[arg-type]
            lost += int(row[5]) % 30 == 0 and int(row[5]) in expected and row[6] == "1"
    table = convert(tmp_path / "t", dump, "--recipe", "stanford-drone")
    annotation = f"annotations/{scene.as_posix()}/annotations.txt"
    images = {f"frames/{scene.as_posix()}/{number:06}.png": number for number in expected}
    assert table.rows.keys() == images.keys()
    for image, number in images.items():
        row = table.rows[image]
        assert row["annotation"] == annotation
        held = Counter((o["raw_label"], o["xmin"], o["ymin"], o["xmax"], o["ymax"]) for o in row["objects"])
        inside = Counter(
            (
                item.label,
                max(item.edges[0], 0),
                max(item.edges[1], 0),
                min(item.edges[2], size[0]),
                min(item.edges[3], size[1]),
            )
            for item in expected[number]
        )
        assert set(held) <= set(inside)
        assert sum(inside.values()) - sum(held.values()) <= 2  # duplicates, or hardly inside
    ignored = [item for item in table.listed if item["code"] == "E19"]
    assert len(ignored) == lost
    assert sum(len(items) for items in expected.values()) > 50


def test_hrsc(real: Real, tmp_path: Path) -> None:
    source = real("hrsc2016")
    (path,) = source.rglob("*.xml")
    tree = ElementTree.parse(path).getroot()
    size = (int(tree.findtext("Img_SizeWidth") or 0), int(tree.findtext("Img_SizeHeight") or 0))
    dump = tmp_path / "dump/FullDataSet"
    for folder in ("AllImages", "Annotations"):
        (dump / folder).mkdir(parents=True)
    (dump / "Annotations" / path.name).write_bytes(path.read_bytes())
    Image.new("RGB", size).save(dump / "AllImages" / f"{path.stem}.bmp")
    tags = ("box_xmin", "box_ymin", "box_xmax", "box_ymax")
    objects = [
        Object(node.findtext("Class_ID") or "", tuple(float(node.findtext(tag) or 0) for tag in tags))  # type: ignore[arg-type]
        for node in tree.iter("HRSC_Object")
    ]
    image = f"FullDataSet/AllImages/{path.stem}.bmp"
    table = convert(tmp_path / "t", tmp_path / "dump", "--recipe", "hrsc2016")
    check_objects(table, {image: (f"FullDataSet/Annotations/{path.name}", objects)}, {image: size})
    (row,) = table.rows.values()
    assert {held["label"] for held in row["objects"]} == {"ship"}
    for held, node in zip(row["objects"], tree.iter("HRSC_Object"), strict=True):
        corners = np.reshape(held["polygon"], (4, 2))
        bow = np.array([float(node.findtext(tag) or 0) for tag in ("header_x", "header_y")])
        width = float(node.findtext("mbox_w") or 0)
        ends = [(corners[i] + corners[(i + 1) % 4]) / 2 for i in range(4)]
        assert min(np.hypot(*(end - bow)) for end in ends) < max(25, 0.1 * width)


def test_dior_r(real: Real, tmp_path: Path) -> None:
    source = real("dior-r")
    (path,) = source.rglob("*.xml")
    tree = ElementTree.parse(path).getroot()
    corners = [
        f"{axis}_{corner}"
        for corner in ("left_top", "right_top", "right_bottom", "left_bottom")
        for axis in "xy"
    ]
    quads = [
        (node.findtext("name"), [float(node.findtext(f"robndbox/{tag}") or "nan") for tag in corners])
        for node in tree.iter("object")
    ]
    table = convert(tmp_path / "t", source, "--recipe", "dior-r")
    (row,) = table.rows.values()
    assert [(held["raw_label"], held["polygon"]) for held in row["objects"]] == [
        (name, np.float32(quad).tolist()) for name, quad in quads
    ]


def test_aerial_cars(real: Real, tmp_path: Path) -> None:
    source = real("aerial-cars")
    names = (source / "aerial.names").read_text().split()
    expected = {}
    for path in sorted(source.glob("DJI*.txt")):
        width, height = Image.open(path.with_suffix(".jpg")).size
        objects = []
        for line in path.read_text().splitlines():
            index, cx, cy, w, h = line.split()
            x, y, w, h = float(cx) * width, float(cy) * height, float(w) * width, float(h) * height
            objects.append((names[int(index)], x - w / 2, y - h / 2, x + w / 2, y + h / 2))
        expected[f"{path.stem}.jpg"] = (objects, (width, height))
    assert len(expected) == 12
    for words in (("--format", "yolo"), ()):  # named, and found by itself
        table = convert(tmp_path / f"t{len(words)}", source, *words)
        assert table.rows.keys() == expected.keys()
        for image, (objects, (width, height)) in expected.items():
            row = table.rows[image]
            assert (row["width"], row["height"]) == (width, height)
            held = sorted(
                (o["raw_label"], o["xmin"], o["ymin"], o["xmax"], o["ymax"]) for o in row["objects"]
            )
            inside = sorted(
                (name, *(round(v, 1) for v in (max(a, 0), max(b, 0), min(c, width), min(d, height))))
                for name, a, b, c, d in objects
            )
            assert [item[0] for item in held] == [item[0] for item in inside]
            assert np.allclose([item[1:] for item in held], [item[1:] for item in inside], atol=0.11)


@pytest.mark.parametrize(
    ("recipe", "name", "classes", "images"), [("eurosat", "eurosat", 10, 200), ("rs2800", "rsscn7", 7, 56)]
)
def test_scenes(real: Real, tmp_path: Path, recipe: str, name: str, classes: int, images: int) -> None:
    source = real(name)
    for words in (("--recipe", recipe), ()):
        table = convert(tmp_path / f"t{len(words)}", source, *words)
        assert len(table.rows) == images
        by_folder: dict[str, set[str]] = {}
        for path, row in table.rows.items():
            by_folder.setdefault(path.split("/")[0], set()).add(row["label"])
            assert row["image"]["bytes"] == (source / path).read_bytes()
        assert len(by_folder) == classes
        assert all(len(labels) == 1 for labels in by_folder.values())


@pytest.mark.parametrize("crs_of_labels", ["as published", "EPSG:4326"])
@pytest.mark.parametrize("labels", ["geotiff_labels.geojson", "gt.geojson"])
def test_footprints_on_a_geotiff(real: Real, tmp_path: Path, labels: str, crs_of_labels: str) -> None:
    """Worked out with rasterio's transform_geom and the affine alone, also from longitude and latitude."""
    source = real("geo")
    with rasterio.open(source / "sample_geotiff.tif") as raster:
        crs, inverse, size = raster.crs, ~raster.transform, (raster.width, raster.height)
    document = json.loads((source / labels).read_text())
    stated = document["crs"]["properties"]["name"]
    expected = []
    for feature in document["features"]:
        moved = transform_geom(stated, crs, feature["geometry"])
        polygons = [moved["coordinates"]] if moved["type"] == "Polygon" else moved["coordinates"]
        points = [inverse @ point[:2] for polygon in polygons for point in polygon[0]]
        xs, ys = zip(*points, strict=True)
        edges = (max(min(xs), 0), max(min(ys), 0), min(max(xs), size[0]), min(max(ys), size[1]))
        whole = (max(xs) - min(xs)) * (max(ys) - min(ys))
        across, down = edges[2] - edges[0], edges[3] - edges[1]
        if across > 0 and down > 0 and across * down >= max(1, 0.2 * whole):
            expected.append(edges)
    dump = tmp_path / "dump"
    (dump / "images").mkdir(parents=True)
    (dump / "geojson").mkdir()
    (dump / "images/a.tif").write_bytes((source / "sample_geotiff.tif").read_bytes())
    if crs_of_labels == "EPSG:4326":
        for feature in document["features"]:
            feature["geometry"] = transform_geom(stated, crs_of_labels, feature["geometry"])
        del document["crs"]
    (dump / "geojson/a.geojson").write_text(json.dumps(document))
    table = convert(tmp_path / "t", dump, "--recipe", "spacenet")
    (row,) = table.rows.values()
    held = sorted((o["xmin"], o["ymin"], o["xmax"], o["ymax"]) for o in row["objects"])
    assert len(document["features"]) == table.manifest["objects"]["found"]
    if labels == "geotiff_labels.geojson":
        assert held
    assert len(held) == len(expected)
    assert np.allclose(held, sorted(expected), atol=0.05) or not held
    assert row["gsd"] == pytest.approx(0.5)
    bounds = shapely.from_wkb(row["geometry"]).bounds
    assert bounds == pytest.approx((-84.4814, 33.6363, -84.4765, 33.6405), abs=1e-3)


def test_a_projection_of_its_own(real: Real) -> None:
    """Three bands of 16 bits, in a CRS without a code."""
    path = real("geo") / "sample_geotiff_custom_proj.tif"
    picture = pictures.look(path, Rendering())
    assert Image.open(io.BytesIO(picture.data)).mode == "RGB"
    assert (picture.width, picture.height, picture.gsd) == (512, 512, pytest.approx(30))
    bounds = shapely.from_wkb(picture.geometry).bounds
    assert bounds == pytest.approx((-104.1858, 41.7759, -103.9844, 41.9244), abs=0.02)


def test_pairs_of_rsitmd(real: Real, tmp_path: Path) -> None:
    source = real("captions") / "rsitmd-text"
    captions = (source / "test_caps.txt").read_text(encoding="utf-8").splitlines()
    files = (source / "test_filename.txt").read_text(encoding="utf-8").split()
    assert len(captions) == 5 * 452
    names = files if len(files) == len(captions) else [name for name in files for _ in range(5)]
    dump = tmp_path / "dump"
    (dump / "images").mkdir(parents=True)
    for name in dict.fromkeys(names):
        Image.new("L", (8, 8)).save(dump / "images" / name)
    with (dump / "test.tsv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["title", "filepath"])
        writer.writerows(zip(captions, names, strict=True))
    table = convert(tmp_path / "t", dump, "--format", "pairs")
    expected: dict[str, list[str]] = {}
    for name, caption in zip(names, captions, strict=True):
        expected.setdefault(f"images/{name}", []).append(caption)
    held = {path: row["captions"] for path, row in table.rows.items()}
    blank = sum(item["code"] == "E34" for item in table.listed)
    assert sum(map(len, held.values())) + blank == len(captions)
    assert {path: len(texts) for path, texts in held.items()} == {
        path: sum(bool(text.strip()) for text in texts) for path, texts in expected.items()
    }
    assert all(text in expected[path] for path, texts in held.items() for text in texts)


def test_sydney_by_recipe(real: Real, tmp_path: Path) -> None:
    source = real("captions") / "sydney"
    document = json.loads((source / "dataset_sydney.json").read_text())
    here = {path.name for path in (source / "images").iterdir()}
    manifest = call("convert", source, "--recipe", "sydney", "-o", tmp_path / "t")
    assert manifest["images"]["written"] == len(here)
    assert manifest["images"]["found"] == len(document["images"])
