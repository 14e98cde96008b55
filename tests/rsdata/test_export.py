"""Out and back: what other tools open, and the same rows once it is converted again."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from dumps import contents, rows_of, run, sample_dump, sample_table
from PIL import Image
from pycocotools.coco import COCO

from rsdata import recipes, tables
from rsdata.errors import RecipeError, TableError
from rsdata.export import EXPORTERS, export
from rsdata.formats import coco
from rsdata.records import Box, Record
from rsdata.tiles import Tiling


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of DOTA: two splits, polygons, captions."""
    return sample_table("dota", tmp_path_factory.mktemp("dota"), images=7)


def held(row: dict[str, Any]) -> list[tuple[Any, ...]]:
    return sorted(
        (o["label"], o["xmin"], o["ymin"], o["xmax"], o["ymax"], tuple(o["polygon"] or ()))
        for o in row["objects"]
    )


def by_image(table: Path) -> dict[str, dict[str, Any]]:
    return {row["sha256"]: row for row in rows_of(table)}


@pytest.mark.parametrize(("to", "tolerance"), [("coco", 0), ("yolo", 0)])
def test_there_and_back(table: Path, tmp_path: Path, to: str, tolerance: float) -> None:
    counts = export(table, tmp_path / "out", to)
    assert counts["images"] == len(rows_of(table))
    if to == "coco":
        of = recipes.from_format("coco", "images/{split}/**.*", "annotations/{split}.json")
    else:
        of = recipes.from_format("yolo")
    outcome = run(of, tmp_path / "out", tmp_path / "back")
    assert outcome.rejections == []
    before, after = by_image(table), by_image(tmp_path / "back")
    assert before.keys() == after.keys()
    for digest, row in before.items():
        again = after[digest]
        assert again["image"]["bytes"] == row["image"]["bytes"]
        assert again["split"] == row["split"]
        for one, other in zip(held(row), held(again), strict=True):
            assert one[0] == other[0]
            assert np.allclose(one[1:5], other[1:5], atol=tolerance, rtol=0)
            assert np.allclose(one[5], other[5], atol=tolerance, rtol=0)


@pytest.mark.parametrize("to", ["coco", "yolo"])
def test_odd_numbers_come_back_to_the_digit(tmp_path: Path, to: str) -> None:
    """Thirds and tiny edges, in images whose sides no power of two divides."""
    rng = np.random.default_rng(3)
    for folder in ("images", "labelTxt"):
        (tmp_path / "dump" / folder).mkdir(parents=True)
    for number in range(12):
        width, height = (int(side) for side in rng.integers(50, 3000, 2))
        Image.new("L", (width, height)).save(tmp_path / f"dump/images/{number}.png")
        lines = []
        for _ in range(20):
            x, y = rng.uniform(0, width - 20), rng.uniform(0, height - 20)
            x, y = (0.0, y) if rng.random() < 0.2 else (x, y)
            right, bottom = x + rng.uniform(1, 19), y + rng.uniform(1, 19)
            lines.append(f"{x!r} {y!r} {right!r} {y!r} {right!r} {bottom!r} {x!r} {bottom!r} ship 0")
        (tmp_path / f"dump/labelTxt/{number}.txt").write_text("\n".join(lines))
    run(recipes.from_format("dota"), tmp_path / "dump", tmp_path / "t")
    export(tmp_path / "t", tmp_path / "out", to)
    outcome = run(recipes.from_format(to), tmp_path / "out", tmp_path / "back")
    assert outcome.rejections == []
    before, after = (
        {(row["width"], row["height"]): held(row) for row in rows_of(tmp_path / name)}
        for name in ("t", "back")
    )
    assert before == after


@pytest.mark.parametrize("to", ["coco", "yolo"])
def test_boxes_without_polygons_come_back_to_the_digit(tmp_path: Path, to: str) -> None:
    rng = np.random.default_rng(5)
    records = []
    (tmp_path / "dump/images/train").mkdir(parents=True)
    (tmp_path / "dump/annotations").mkdir()
    for number in range(12):
        width, height = (int(side) for side in rng.integers(50, 3000, 2))
        Image.new("L", (width, height)).save(tmp_path / f"dump/images/train/{number}.png")
        edges = np.float32(rng.uniform([0, 0, 1, 1], [width - 20, height - 20, 20, 20], (20, 4)))
        boxes = [Box("", "ship", *map(float, (x, y, x + w, y + h))) for x, y, w, h in edges]
        records.append(Record(f"{number}.png", boxes, width, height))
    coco.write(tmp_path / "dump/annotations/train.json", records)
    run(recipes.from_format("coco"), tmp_path / "dump", tmp_path / "t")
    export(tmp_path / "t", tmp_path / "out", to)
    assert run(recipes.from_format(to), tmp_path / "out", tmp_path / "back").rejections == []
    before, after = (
        {(row["width"], row["height"]): held(row) for row in rows_of(tmp_path / name)}
        for name in ("t", "back")
    )
    assert sum(map(len, before.values())) == 240
    assert before == after


def made(folder: Path, dumped: dict[str, list[str]]) -> Path:
    """A table of blank images of different sizes: SPLIT/NAME.SUFFIX -> lines of a DOTA label file."""
    for number, (name, lines) in enumerate(dumped.items()):
        split, _, file = name.partition("/")
        for part in ("images", "labels"):
            (folder / "dump" / split / part / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (64 + number, 64)).save(folder / "dump" / split / "images" / file)
        label = (folder / "dump" / split / "labels" / file).with_suffix(".txt")
        label.write_text("".join(f"{line}\n" for line in lines))
    splits = dict.fromkeys(name.partition("/")[0] for name in dumped)
    layouts = {
        split: {"images": f"{split}/images/**.*", "annotations": f"{split}/labels/**.txt"} for split in splits
    }
    run(recipes.parse("mine", {"format": "dota", "splits": layouts}), folder / "dump", folder / "t")
    return folder / "t"


SHIP = "1 1 9 1 9 9 1 9 ship 0"
PLANE = "1 1 20 1 20 20 1 20 plane 0"


def changed(table: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    path = tables.shards(table)[0]
    whole = pq.read_table(path)
    rows = whole.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, whole.schema), path)


def test_a_class_has_one_id_in_all_splits(tmp_path: Path) -> None:
    table = made(tmp_path, {"train/a.png": [PLANE, SHIP], "val/b.png": [SHIP]})
    export(table, tmp_path / "out", "coco")
    train, val = (COCO(str(tmp_path / f"out/annotations/{split}.json")) for split in ("train", "val"))
    assert train.cats == val.cats
    assert [val.cats[one["category_id"]]["name"] for one in val.anns.values()] == ["ship"]


def test_names_that_become_alike_stay_apart(tmp_path: Path) -> None:
    dumped = {f"train/{name}": [SHIP] * 1 + [PLANE] * (number % 2) for number, name in enumerate(
        ["a b.png", "a_b.jpg", "x.y.png", "x_y.png", "d/e.png", "d_e.png", "A_B.bmp"]
    )}  # fmt: skip
    table = made(tmp_path, dumped)
    rows = {row["image_id"]: row for row in rows_of(table)}
    assert len(rows) == len(dumped)
    counts = export(table, tmp_path / "yolo", "yolo")
    labels = list((tmp_path / "yolo/labels").rglob("*.txt"))
    assert len(labels) == len(rows)
    assert sum(len(path.read_text().splitlines()) for path in labels) == counts["objects"]
    export(table, tmp_path / "wds", "webdataset")
    with tarfile.open(tmp_path / "wds/train-000000.tar") as tar:
        names = tar.getnames()
    assert len(set(names)) == len(names)
    assert sum(name.endswith(".json") for name in names) == len(rows)
    assert all(name.count(".") == 1 for name in names)


def test_ultralytics_finds_each_label_and_reads_it_right(tmp_path: Path) -> None:
    """Its rule: the last images/ of a path becomes labels/; and a file is all segments or none."""
    table = made(tmp_path, {"train/images/a.png": [SHIP, PLANE], "val/b.png": [SHIP]})
    changed(table, lambda rows: rows[0]["objects"][0].update(polygon=None))
    export(table, tmp_path / "out", "yolo")
    pictures = list((tmp_path / "out/images").rglob("*.png"))
    assert len(pictures) == 2
    for path in pictures:
        label = Path("/labels/".join(path.as_posix().rsplit("/images/", 1))).with_suffix(".txt")
        assert {len(line.split()) for line in label.read_text().splitlines()} == {9}
    about = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert about.keys() == {"train", "val", "names"}
    assert all((tmp_path / "out" / about[split]).is_dir() for split in ("train", "val"))
    of = recipes.from_format("yolo")
    assert run(of, tmp_path / "out", tmp_path / "back").rejections == []
    shapes = [
        sorted((one["label"], one["xmin"], one["ymin"], one["xmax"], one["ymax"]) for one in row["objects"])
        for where in (table, tmp_path / "back")
        for row in sorted(rows_of(where), key=lambda row: row["sha256"])
    ]
    assert shapes[:2] == shapes[2:]


def test_webdataset_has_no_caption_file_without_a_caption(tmp_path: Path) -> None:
    export(made(tmp_path, {"train/a.png": []}), tmp_path / "out", "webdataset")
    with tarfile.open(tmp_path / "out/train-000000.tar") as tar:
        assert tar.getnames() == ["mine_a.png", "mine_a.json"]


def test_imagefolder_of_scenes_among_others(tmp_path: Path) -> None:
    import datasets

    table = made(tmp_path, {"train/a.png": [SHIP], "train/b.png": [SHIP], "train/c.png": []})
    changed(table, lambda rows: [rows[0].update(label="ship yard"), rows[1].update(label="..")])
    export(table, tmp_path / "out", "imagefolder")
    folders = {path.parent.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.png")}
    assert {path.as_posix() for path in folders} == {"train/ship_yard/mine", "train/_/mine", "train/mine"}
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "c")
    )["train"]
    found = {(row["image"].size, row["label"], tuple(row["captions"])) for row in loaded}
    rows = rows_of(table)
    assert found == {((row["width"], row["height"]), row["label"], tuple(row["captions"])) for row in rows}


@pytest.mark.parametrize("suffix", [".gif", ".jp2", ".webp", ".bmp", ".tif"])
def test_other_image_formats_come_back(tmp_path: Path, suffix: str) -> None:
    table = made(tmp_path, {f"train/a{suffix}": [SHIP]})
    export(table, tmp_path / "out", "coco")
    assert [path.name for path in (tmp_path / "out/images/train/mine").iterdir()] == [f"a{suffix}"]
    of = recipes.from_format("coco", "images/{split}/**.*", "annotations/{split}.json")
    assert run(of, tmp_path / "out", tmp_path / "back").rejections == []
    (row,), (again,) = rows_of(table), rows_of(tmp_path / "back")
    assert (again["sha256"], held(again)) == (row["sha256"], held(row))


def test_long_names_of_windows(tmp_path: Path) -> None:
    name = "ü" * 122
    recipe = recipes.adapted(recipes.from_format("dota"), "mine", {}, Tiling(32))
    for part in ("images", "labelTxt"):
        (tmp_path / "dump" / part).mkdir(parents=True)
    Image.new("L", (64, 32)).save(tmp_path / f"dump/images/{name}.png")
    (tmp_path / f"dump/labelTxt/{name}.txt").write_text(SHIP)
    run(recipe, tmp_path / "dump", tmp_path / "t")
    assert export(tmp_path / "t", tmp_path / "out", "yolo")["images"] == 2
    assert len(list((tmp_path / "out/images").rglob("*.png"))) == 2


def test_into_the_folder_where_one_is(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert export(table, Path(), "csv")["images"] == len(rows_of(table))
    assert (tmp_path / "here/train.csv").is_file()


def test_tables_that_are_not_whole(table: Path, tmp_path: Path) -> None:
    def refused(name: str, change: Callable[[list[dict[str, Any]]], None], why: str, to: str) -> None:
        shutil.copytree(table, tmp_path / name)
        changed(tmp_path / name, change)
        with pytest.raises(TableError, match=why):
            export(tmp_path / name, tmp_path / "in" / "out", to)
        assert not list(tmp_path.rglob("evil*"))
        assert not (tmp_path / "in" / "out").exists()

    refused("a", lambda rows: rows[0].update(split="../../../evil"), "cannot name a folder", "coco")
    refused("b", lambda rows: rows[0].update(objects=None), "a null in (objects|captions)", "coco")
    refused("c", lambda rows: rows[0].update(width=None), "whose size the table does not hold", "yolo")
    shutil.copytree(table, tmp_path / "d")
    path = tables.shards(tmp_path / "d")[0]
    pandas.read_parquet(path).drop(columns="gsd").to_parquet(path)
    with pytest.raises(TableError, match="not the columns of a table"):
        export(tmp_path / "d", tmp_path / "out", "webdataset")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(TableError, match="damaged"):
        export(tmp_path / "d", tmp_path / "out", "coco")


def test_coco_is_read_by_its_own_api(table: Path, tmp_path: Path) -> None:
    export(table, tmp_path / "out", "coco")
    rows = [row for row in rows_of(table) if row["split"] == "train"]
    api = COCO(str(tmp_path / "out/annotations/train.json"))
    assert len(api.imgs) == len(rows)
    assert len(api.anns) == sum(len(row["objects"]) for row in rows)
    captions = COCO(str(tmp_path / "out/annotations/captions_train.json"))
    assert len(captions.anns) == sum(len(row["captions"]) for row in rows)


def test_csv_as_open_clip_reads_it(table: Path, tmp_path: Path) -> None:
    export(table, tmp_path / "out", "csv")
    rows = [row for row in rows_of(table) if row["split"] == "val"]
    frame = pandas.read_csv(tmp_path / "out/val.csv", sep="\t")
    assert list(frame.columns) == ["filepath", "title"]
    assert sorted(frame["title"]) == sorted(text for row in rows for text in row["captions"])
    assert all((tmp_path / "out" / path).is_file() for path in frame["filepath"])
    outcome = run(recipes.from_format("pairs"), tmp_path / "out", tmp_path / "back")
    assert outcome.rejections == []
    texts = {row["sha256"]: row["captions"] for row in rows_of(tmp_path / "back")}
    assert texts == {row["sha256"]: row["captions"] for row in rows_of(table)}


def test_webdataset(table: Path, tmp_path: Path) -> None:
    export(table, tmp_path / "out", "webdataset")
    export(table, tmp_path / "again", "webdataset")
    assert contents(tmp_path / "out") == contents(tmp_path / "again")
    rows = {row["image_id"]: row for row in rows_of(table)}
    seen = 0
    for path in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for name, data in members.items():
            stem, _, kind = name.rpartition(".")
            if kind != "json":
                continue
            about = json.loads(data)
            row = rows[about["image_id"]]
            assert path.name.startswith(row["split"])
            assert about["captions"] == row["captions"]
            assert members[f"{stem}.txt"].decode() == row["captions"][0]
            assert members[f"{stem}.png"] == row["image"]["bytes"]
            seen += 1
    assert seen == len(rows)


def test_imagefolder_of_scenes_and_of_captions(table: Path, tmp_path: Path) -> None:
    import datasets

    sample_dump("eurosat", tmp_path / "dump", images=10)
    run("eurosat", tmp_path / "dump", tmp_path / "scenes")
    for row in rows_of(tmp_path / "scenes"):
        assert row["label"]
    export(tmp_path / "scenes", tmp_path / "out", "imagefolder")
    names = {path.name for path in (tmp_path / "out/unsplit").iterdir()}
    assert names == {row["label"].replace(" ", "_") for row in rows_of(tmp_path / "scenes")}
    export(table, tmp_path / "captions", "imagefolder")
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "captions"), cache_dir=str(tmp_path / "c")
    )
    assert sorted(map(tuple, loaded["train"]["captions"])) == sorted(
        tuple(row["captions"]) for row in rows_of(table) if row["split"] == "train"
    )


def test_windows_and_hostile_names_get_safe_files(tmp_path: Path) -> None:
    folder = tmp_path / "dump"
    (folder / "images").mkdir(parents=True)
    (folder / "labelTxt").mkdir()
    for stem in ("=cmd|' calc", "a b", "ünï", "x..y"):
        Image.new("RGB", (64, 32)).save(folder / f"images/{stem}.png")
        (folder / f"labelTxt/{stem}.txt").write_text("1 1 9 1 9 9 1 9 ship 0\n")
    cut = recipes.adapted(recipes.from_format("dota"), "mine", {}, Tiling(32))
    run(cut, folder, tmp_path / "t")
    assert len(rows_of(tmp_path / "t")) == 8
    export(tmp_path / "t", tmp_path / "out", "coco")
    files = [
        path.relative_to(tmp_path / "out/images/train") for path in (tmp_path / "out/images").rglob("*.png")
    ]
    assert len(files) == 8
    assert all(part[0] not in "=.-+@" and "'" not in part for path in files for part in path.parts)
    assert "mine/a_b_0_0_32_32.png" in {path.as_posix() for path in files}


def test_what_cannot_be_exported(table: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="expected one of coco, yolo"):
        export(table, tmp_path / "out", "cocoa")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    with pytest.raises(TableError, match="not an empty folder"):
        export(table, tmp_path / "full", "coco")
    sample_dump("dota", tmp_path / "dump")
    run("dota", tmp_path / "dump", tmp_path / "bare", no_images=True)
    for to in EXPORTERS:
        if to in ("webdataset", "imagefolder"):
            with pytest.raises(TableError, match="no image bytes"):
                export(tmp_path / "bare", tmp_path / to, to)
            assert not (tmp_path / to).exists()
        else:
            counts = export(tmp_path / "bare", tmp_path / to, to)
            assert counts["without_bytes"] == counts["images"]
    assert not list(tmp_path.glob(".*"))
    assert Image.open(io.BytesIO(rows_of(table)[0]["image"]["bytes"]))
