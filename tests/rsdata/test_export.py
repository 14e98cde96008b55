"""Out and back: what other tools open, and the same rows once it is converted again."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from dumps import contents, rows_of, run, sample_dump
from PIL import Image
from pycocotools.coco import COCO

from rsdata import recipes
from rsdata.errors import RecipeError, TableError
from rsdata.export import EXPORTERS, export
from rsdata.tiles import Tiling


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of DOTA: two splits, polygons, captions."""
    folder = tmp_path_factory.mktemp("dota")
    sample_dump("dota", folder / "dump", images=7)
    run("dota", folder / "dump", folder / "table")
    return folder / "table"


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
