"""Damage to real tables is found; tables that other programs have rewritten become ours again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dumps import rows_of, run, sample_dump

from rsdata import tables
from rsdata.errors import TableError
from rsdata.repair import repair
from rsdata.validate import check


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dota")
    sample_dump("dota", folder / "dump", images=6)
    run("dota", folder / "dump", folder / "table")
    return folder / "table"


@pytest.fixture
def table(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "table")
    return tmp_path / "table"


@pytest.mark.parametrize("name", ["dota", "potsdam", "rsicd", "eurosat", "stanford-drone"])
def test_what_convert_writes_is_whole(name: str, tmp_path: Path) -> None:
    sample_dump(name, tmp_path / "dump")
    run(name, tmp_path / "dump", tmp_path / "t")
    assert check(tmp_path / "t", deep=True) == []


def rewrite(table: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    path = tables.shards(table)[0]
    held = pq.read_table(path)
    rows = held.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, held.schema), path)


def set_to(key: str, value: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[1][key] = value

    return change


def in_object(key: str, value: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(rows: list[dict[str, Any]]) -> None:
        next(row for row in rows if row["objects"])["objects"][0][key] = value

    return change


def twice(rows: list[dict[str, Any]]) -> None:
    rows[1]["image_id"] = rows[0]["image_id"]


def other_image(rows: list[dict[str, Any]]) -> None:
    rows[1]["image"]["bytes"] = rows[0]["image"]["bytes"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (twice, "is given 2 times"),
        (other_image, "sha256 is not that of the image"),
        (set_to("width", 7), "the row says 7x"),
        (set_to("split", "val"), "in a shard of"),
        (set_to("image_id", "x"), "does not begin with dataset and split"),
        (set_to("captions", ["a", " "]), "a caption is blank"),
        (set_to("captions", []), "do not go together"),
        (set_to("annotation", None), "annotation is null"),
        (set_to("phash", 5), "phash is not that of the image"),
        (in_object("xmin", -5.0), "is not inside"),
        (in_object("xmax", 5000.0), "is not inside"),
        (in_object("ymax", float("nan")), "no extent"),
        (in_object("label", ""), "without a label"),
        (lambda rows: rows.pop(), "rows stated"),
        (lambda rows: rows[0]["objects"].clear(), "objects stated"),
    ],
)
def test_damaged_rows(table: Path, change: Callable[[list[dict[str, Any]]], None], why: str) -> None:
    rewrite(table, change)
    problems = check(table, deep=True)
    assert any(why in str(problem) for problem in problems), problems


def test_damaged_files(table: Path) -> None:
    first = tables.shards(table)[0]
    whole = first.read_bytes()
    first.write_bytes(whole[:-20])
    assert any("cannot be read" in problem.why for problem in check(table))
    first.write_bytes(whole)
    (table / tables.REJECTIONS).unlink()
    assert [problem.path for problem in check(table)] == [tables.REJECTIONS]
    manifest = json.loads((table / tables.MANIFEST).read_text())
    manifest["images"]["found"] += 1
    (table / tables.MANIFEST).write_text(json.dumps(manifest))
    assert any("the parts sum to" in problem.why for problem in check(table))
    (table / tables.MANIFEST).write_text('{"splits": {"train": 5}}')
    with pytest.raises(TableError, match="not whole"):
        check(table)


def by_pandas(source: Path, path: Path) -> None:
    pandas.read_parquet(source).to_parquet(path)


def by_polars(source: Path, path: Path) -> None:
    frame = polars.read_parquet(source)
    frame.select(sorted(frame.columns)).write_parquet(path)


def by_duckdb(source: Path, path: Path) -> None:
    duckdb.sql(f"copy (select * from '{source}') to '{path}' (format parquet)")


def by_datasets(source: Path, path: Path) -> None:
    import datasets

    frame = datasets.Dataset.from_parquet(str(source), cache_dir=str(path.parent / "cache"))
    frame.to_parquet(str(path))


@pytest.mark.parametrize("by", [by_pandas, by_polars, by_duckdb, by_datasets])
def test_what_others_rewrote_is_repaired(
    table: Path, tmp_path: Path, by: Callable[[Path, Path], None]
) -> None:
    before = rows_of(table)
    for path in tables.shards(table):
        by(path, tmp_path / "edited.parquet")
        shutil.move(tmp_path / "edited.parquet", path)
    assert check(table)
    manifest = repair(table, tmp_path / "mended")
    assert check(tmp_path / "mended", deep=True) == []
    assert rows_of(tmp_path / "mended") == before
    assert manifest["rsdata"]["licence"]
    assert manifest["images"]["written"] == len(before)


def test_a_lone_file_with_fewer_rows(table: Path, tmp_path: Path) -> None:
    path = tables.shards(table)[0]
    frame = pandas.read_parquet(path).drop(columns=["phash", "gsd", "cover", "geometry"]).iloc[1:]
    frame.to_parquet(tmp_path / "edited.parquet")
    manifest = repair(tmp_path / "edited.parquet", tmp_path / "mended")
    assert manifest["images"]["found"] == len(frame)
    assert "unknown" in manifest["rsdata"]["licence"]
    assert check(tmp_path / "mended") == []
    assert [row["phash"] for row in rows_of(tmp_path / "mended")] == [None] * len(frame)


def test_what_cannot_be_repaired(table: Path, tmp_path: Path) -> None:
    path = tables.shards(table)[0]
    frame = pandas.read_parquet(path)
    frame.drop(columns=["objects", "width"]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(TableError, match="no column width, objects"):
        repair(tmp_path / "a.parquet", tmp_path / "t")
    frame.assign(width="wide").to_parquet(tmp_path / "b.parquet")
    with pytest.raises(TableError, match="column width does not fit int32"):
        repair(tmp_path / "b.parquet", tmp_path / "t")
    (tmp_path / "c.parquet").write_bytes(b"no")
    with pytest.raises(TableError):
        repair(tmp_path / "c.parquet", tmp_path / "t")
    with pytest.raises(TableError, match="no Parquet file"):
        repair(tmp_path / "none", tmp_path / "t")
    with pytest.raises(TableError, match="name another folder"):
        repair(table, table)
    assert not (tmp_path / "t").exists() or not list((tmp_path / "t").rglob("*.parquet"))
