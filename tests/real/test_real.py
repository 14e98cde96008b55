"""Genuine files of each format, through the command, against a parse that shares no code with rsdata.

What a table must hold is worked out here with `str.split`, ElementTree, json and scipy alone: each object
with its class and edges, less what must be dropped or cut (outside the image, no extent), which must be
listed.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy import ndimage

from rsdata.cli import main

pytestmark = pytest.mark.real

Real = Callable[[str], Path]
Edges = tuple[float, float, float, float]


class Object(NamedTuple):
    """line: where it stands in its annotation file, 0 where that has no lines."""

    label: str
    edges: Edges
    line: int = 0


class Table(NamedTuple):
    manifest: dict[str, Any]
    rows: dict[str, dict[str, Any]]
    listed: list[dict[str, Any]]
    stats: dict[str, Any]

    def places(self, action: str) -> list[tuple[str, str, int]]:
        """(code, path, line) of what was listed under an action."""
        return sorted(
            (item["code"], item["path"], item["line"]) for item in self.listed if item["action"] == action
        )


def call(*words: Any) -> dict[str, Any]:
    result = CliRunner().invoke(main, [*map(str, words), "--json"])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    held: dict[str, Any] = json.loads(result.stdout)
    return held


def convert(table: Path, *words: Any) -> Table:
    """Convert with the command, and check the account against the files on disk and `rsdata stats`."""
    manifest = call("convert", *words, "-o", table, "--workers", 1)
    rows = [row for path in sorted(table.glob("data/*.parquet")) for row in pq.read_table(path).to_pylist()]
    listed = pq.read_table(table / "rejections.parquet").to_pylist()
    images, objects = manifest["images"], manifest["objects"]
    rejected = sum(item["action"] == "rejected" for item in listed)
    assert images == {
        "found": len(rows) + rejected, "written": len(rows), "duplicates": 0, "leaks": 0, "rejected": rejected
    }  # fmt: skip
    written = sum(len(row["objects"]) for row in rows)
    assert objects == {
        "found": written + objects["dropped"],
        "written": written,
        "dropped": objects["dropped"],
    }
    stats = call("stats", table)
    assert (stats["images"], stats["objects"]) == (len(rows), written)
    assert stats["captions"] == sum(len(row["captions"]) for row in rows) == manifest["captions"]
    labels = Counter(found["label"] for row in rows for found in row["objects"])
    assert {label: held["objects"] for label, held in stats["classes"].items()} == labels
    assert stats["account"]["holds"]
    by_path = {row["image"]["path"]: row for row in rows}
    assert len(by_path) == len(rows)
    return Table(manifest, by_path, listed, stats)


def held(row: Mapping[str, Any]) -> list[tuple[str, Edges]]:
    edges = ("xmin", "ymin", "xmax", "ymax")
    return sorted((found["raw_label"], tuple(found[edge] for edge in edges)) for found in row["objects"])


def fate(found: Object, width: int, height: int) -> tuple[str, Edges | None]:
    """What must become of an object in an image of this size: "" or the code that lists it, and its edges."""
    xmin, ymin, xmax, ymax = found.edges
    if xmin == xmax or ymin == ymax:
        return "E12", None
    inside = (max(xmin, 0.0), max(ymin, 0.0), min(xmax, width), min(ymax, height))
    across, down = inside[2] - inside[0], inside[3] - inside[1]
    if across <= 0 or down <= 0:
        return "E14", None
    if inside == found.edges:
        return "", inside
    share = across * down / ((xmax - xmin) * (ymax - ymin))
    return "E13", inside if share >= 0.2 else None


def check_objects(
    table: Table, expected: Mapping[str, tuple[str, Sequence[Object]]], sizes: Mapping[str, tuple[int, int]]
) -> None:
    """expected: image -> (annotation, its objects as published). sizes: image -> (width, height)."""
    assert table.rows.keys() == expected.keys()
    dropped = []
    cut = []
    for image, (annotation, objects) in expected.items():
        row = table.rows[image]
        assert row["annotation"] == annotation
        assert (row["width"], row["height"]) == sizes[image]
        kept = []
        for found in objects:
            code, edges = fate(found, *sizes[image])
            if edges is None:
                dropped.append((code, annotation, found.line))
            else:
                kept.append((found.label, tuple(float(np.float32(edge)) for edge in edges)))
                if code:
                    cut.append((code, annotation, found.line))
        assert held(row) == sorted(kept)
    assert table.places("dropped") == sorted(dropped)
    assert [item for item in table.places("repaired") if item[0] == "E13"] == sorted(cut)
    assert table.manifest["objects"]["found"] == sum(len(objects) for _, objects in expected.values())


def dota_objects(path: Path) -> list[Object]:
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        words = line.split()
        if len(words) >= 9:
            xs, ys = [float(word) for word in words[0:8:2]], [float(word) for word in words[1:8:2]]
            found.append(Object(words[8], (min(xs), min(ys), max(xs), max(ys)), number))
    return found


def test_dota(real: Real, tmp_path: Path) -> None:
    """One image with its label file; five label files whose images are elsewhere (E07)."""
    shutil.copytree(real("dota") / "train", tmp_path / "dump/train")
    others = sorted((real("dota") / "labels-without-images").iterdir())
    for path in others:
        shutil.copy(path, tmp_path / "dump/train/labelTxt")
    table = convert(tmp_path / "t", tmp_path / "dump", "--recipe", "dota")
    label = "train/labelTxt/P1888.txt"
    objects = dota_objects(tmp_path / "dump" / label)
    assert len(objects) == 64
    image = "train/images/P1888.png"
    check_objects(table, {image: (label, objects)}, {image: Image.open(tmp_path / "dump" / image).size})
    assert table.places("rejected") == [("E07", f"train/labelTxt/{path.name}", 0) for path in others]


def test_dota_labels_alone(real: Real, tmp_path: Path) -> None:
    """All six label files, without images: every object is there, nothing is known to be outside."""
    paths = [*real("dota").glob("train/labelTxt/*.txt"), *real("dota").glob("labels-without-images/*.txt")]
    (tmp_path / "dump/train/labelTxt").mkdir(parents=True)
    for path in paths:
        shutil.copy(path, tmp_path / "dump/train/labelTxt")
    table = convert(tmp_path / "t", tmp_path / "dump", "--recipe", "dota", "--annotations-only")
    rows = {Path(row["annotation"]).name: row for row in table.rows.values()}
    assert rows.keys() == {path.name for path in paths}
    for path in paths:
        repeated = Counter((found.label, found.edges) for found in dota_objects(path))
        there = Counter(held(rows[path.name]))
        assert {(label, edges) for label, edges in there} == repeated.keys()
        assert there.total() == len(dota_objects(path)) - sum(
            item["code"] == "E15" and item["path"].endswith(path.name) for item in table.listed
        )
    assert {item["action"] for item in table.listed} <= {"dropped", "repaired"}


def test_dota_tile(real: Real, tmp_path: Path) -> None:
    """No header lines, decimals; three of the four objects lie outside the image that is here."""
    folder = real("dota-tiles")
    table = convert(tmp_path / "t", folder, "--recipe", "dota")
    image, label = "images/P0004__1__0___0.png", "labelTxt/P0004__1__0___0.txt"
    check_objects(
        table, {image: (label, dota_objects(folder / label))}, {image: Image.open(folder / image).size}
    )
    assert len(table.places("dropped")) == 3


def voc_objects(path: Path) -> list[Object]:
    starts = [number for number, line in enumerate(path.read_text().split("\n"), 1) if "<object>" in line]
    found = []
    nodes = ElementTree.parse(path).getroot().findall("object")
    for node, line in zip(nodes, starts, strict=True):
        corners = {child.tag: float(child.text or "") for child in node.find("bndbox") or ()}
        edges = (corners["xmin"], corners["ymin"], corners["xmax"], corners["ymax"])
        found.append(Object(node.findtext("name") or "", edges, line))
    return found


def voc_size(path: Path) -> tuple[int, int]:
    size = ElementTree.parse(path).getroot().find("size")
    assert size is not None
    return int(size.findtext("width") or 0), int(size.findtext("height") or 0)


def test_hrrsd(real: Real, tmp_path: Path) -> None:
    """300 label files, with blank images of the stated size."""
    shutil.copytree(real("hrrsd"), tmp_path / "dump")
    (tmp_path / "dump/JPEGImages").mkdir()
    expected, sizes = {}, {}
    for path in sorted((tmp_path / "dump/Annotations").iterdir()):
        image = f"JPEGImages/{path.stem}.png"
        sizes[image] = voc_size(path)
        expected[image] = f"Annotations/{path.name}", voc_objects(path)
        Image.new("1", sizes[image]).save(tmp_path / "dump" / image)
    table = convert(tmp_path / "t", tmp_path / "dump", "--recipe", "hrrsd")
    assert len(expected) == 300
    check_objects(table, expected, sizes)
    shutil.rmtree(tmp_path / "dump/JPEGImages")
    alone = convert(tmp_path / "u", tmp_path / "dump", "--recipe", "hrrsd", "--annotations-only")
    assert {row["annotation"]: held(row) for row in alone.rows.values()} == {
        row["annotation"]: held(row) for row in table.rows.values()
    }


def test_dior_r(real: Real, tmp_path: Path) -> None:
    """Oriented corners (robndbox). No corner of the set is 0, so it is read as 1-based."""
    folder = real("dior-r")
    patterns = ("--images", "JPEGImage/*.*", "--annotations", "Annotations/Oriented Bounding Boxes/*.xml")
    table = convert(tmp_path / "t", folder, "--format", "voc", *patterns)
    label = "Annotations/Oriented Bounding Boxes/00001.xml"
    node = ElementTree.parse(folder / label).getroot().find("object")
    assert node is not None
    corners = {child.tag: float(child.text or "") - 1 for child in node.find("robndbox") or ()}
    xs, ys = ([value for tag, value in corners.items() if tag[0] == axis] for axis in "xy")
    image = "JPEGImage/00001.jpg"
    found = Object(node.findtext("name") or "", (min(xs), min(ys), max(xs), max(ys)))
    check_objects(table, {image: (label, [found])}, {image: Image.open(folder / image).size})
    (row,) = table.rows.values()
    assert row["objects"][0]["polygon"] == list(corners.values())


def test_rareplanes(real: Real, tmp_path: Path) -> None:
    """An xml that is like VOC and is not: each object is listed at its line, none is lost in silence."""
    folder = real("rareplanes")
    patterns = ("--images", "images/*.*", "--annotations", "xmls/*.xml")
    table = convert(tmp_path / "t", folder, "--format", "voc", *patterns)
    label = "xmls/Adelaide_Airport_0_0_101.xml"
    lines = (folder / label).read_text().split("\n")
    starts = [number for number, line in enumerate(lines, 1) if "<object " in line]
    assert starts
    assert table.places("dropped") == [("E05", label, line) for line in starts]
    assert table.manifest["objects"] == {"found": len(starts), "written": 0, "dropped": len(starts)}


def mask_objects(path: Path, classes: Mapping[int, str]) -> list[Object]:
    """Each 8-connected region of each class, by scipy."""
    mask = np.asarray(Image.open(path))
    found = []
    for value in classes:
        regions, _ = ndimage.label(mask == value, np.ones((3, 3)))
        for rows, columns in ndimage.find_objects(regions):
            edges = (float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))
            found.append(Object(str(value), edges))
    return found


LOVEDA = {2: "building", 3: "road", 4: "water", 5: "barren land", 6: "forest", 7: "agriculture"}
POTSDAM = {2: "building", 3: "low vegetation", 4: "tree", 5: "car"}


@pytest.mark.parametrize(
    ("name", "recipe", "images", "masks", "classes"),
    [
        ("loveda", "loveda", "Train/Urban/images_png", "Train/Urban/masks_png", LOVEDA),
        ("potsdam-tile", "potsdam", "images", "labels", POTSDAM),
    ],
)
def test_masks(
    name: str, recipe: str, images: str, masks: str, classes: dict[int, str], real: Real, tmp_path: Path
) -> None:
    folder = real(name)
    table = convert(tmp_path / "t", folder, "--recipe", recipe)
    expected, sizes = {}, {}
    for path in sorted((folder / masks).iterdir()):
        image = f"{images}/{path.name}"
        expected[image] = f"{masks}/{path.name}", mask_objects(path, classes)
        sizes[image] = Image.open(folder / image).size
    check_objects(table, expected, sizes)
    found = Counter(classes[int(found.label)] for _, objects in expected.values() for found in objects)
    assert table.manifest["datasets"][recipe]["classes"] == dict(sorted(found.items()))


@pytest.mark.parametrize(
    ("name", "document", "choice"),
    [
        ("captions/ucm", "dataset_ucm.json", ("--recipe", "ucm")),
        ("captions/sydney", "dataset_sydney.json", ("--format", "karpathy")),
    ],
)
def test_captions(name: str, document: str, choice: tuple[str, str], real: Real, tmp_path: Path) -> None:
    """Every caption of every image, with its split; images that are not here are listed."""
    folder = real(name)
    entries = json.loads((folder / document).read_text(encoding="utf-8"))["images"]
    expected = {
        entry["filename"]: (entry["split"], [sentence["raw"] for sentence in entry["sentences"]])
        for entry in entries
    }
    assert len(expected) == len(entries)
    alone = convert(tmp_path / "alone", folder, *choice, "--annotations-only")
    assert {Path(path).name: (row["split"], row["captions"]) for path, row in alone.rows.items()} == expected
    assert {row["caption_source"] for row in alone.rows.values()} == {"human"}
    assert alone.listed == []
    assert {split: held["captions"] for split, held in alone.stats["splits"].items()} == Counter(
        split for split, captions in expected.values() for _ in captions
    )
    table = convert(tmp_path / "t", folder, *choice)
    there = {path.name for path in (folder / "images").iterdir()}
    assert {Path(path).name for path in table.rows} == there
    assert all(row["captions"] == expected[Path(path).name][1] for path, row in table.rows.items())
    missing = [item for item in table.listed if item["action"] == "rejected"]
    assert {item["code"] for item in missing} == {"E07"}
    assert sorted(item["image"] for item in missing) == sorted(expected.keys() - there)
    lines = (folder / document).read_text(encoding="utf-8").split("\n")
    for item in missing:
        if len(lines) == 1:
            assert item["line"] == 1
        else:
            first = next(line for line in lines[item["line"] - 1 :] if '"filename"' in line)
            assert json.dumps(item["image"]) in first


def test_nwpu_vhr10(real: Real, tmp_path: Path) -> None:
    """COCO json without its images; then with blank ones for some of them."""
    document = json.loads((real("nwpu-vhr10") / "annotations.json").read_text(encoding="utf-8-sig"))
    names = {category["id"]: category["name"] for category in document["categories"]}
    expected: dict[str, tuple[str, list[Object]]] = {
        image["file_name"]: ("annotations.json", []) for image in document["images"]
    }
    sizes = {image["file_name"]: (image["width"], image["height"]) for image in document["images"]}
    by_id = {image["id"]: image["file_name"] for image in document["images"]}
    for found in document["annotations"]:
        x, y, width, height = found["bbox"]
        item = Object(names[found["category_id"]], (x, y, x + width, y + height))
        expected[by_id[found["image_id"]]][1].append(item)
    assert (len(expected), sum(len(objects) for _, objects in expected.values())) == (650, 3921)
    table = convert(tmp_path / "t", real("nwpu-vhr10"), "--format", "coco", "--annotations-only")
    check_objects(table, expected, sizes)
    polygons = [found["polygon"] for row in table.rows.values() for found in row["objects"]]
    assert sum(polygon is not None for polygon in polygons) == sum(
        bool(found["segmentation"]) for found in document["annotations"]
    )
    shutil.copytree(real("nwpu-vhr10"), tmp_path / "dump")
    some = sorted(expected)[::40]
    (tmp_path / "dump/images").mkdir()
    for name in some:
        Image.new("1", sizes[name]).save(tmp_path / "dump/images" / name, "PNG")
    few = convert(tmp_path / "few", tmp_path / "dump", "--format", "coco")
    assert {Path(path).name: held(row) for path, row in few.rows.items()} == {
        name: held(table.rows[name]) for name in some
    }
    assert sorted(item["image"] for item in few.listed) == sorted(expected.keys() - set(some))
    assert {item["code"] for item in few.listed} == {"E07"}
