"""Damage to real tables is found; tables that other programs have rewritten become ours again."""

from __future__ import annotations

import hashlib
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
from dumps import rows_of, run, sample_dump, sample_table

from rsdata import tables
from rsdata.errors import TableError
from rsdata.export import export
from rsdata.hashing import HASH_SPEC
from rsdata.records import SCHEMA, Rejection
from rsdata.repair import repair
from rsdata.validate import check


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_table("dota", tmp_path_factory.mktemp("dota"), images=6)


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


def image_of(data: bytes, **others: Any) -> Callable[[list[dict[str, Any]]], None]:
    """Other bytes, with the digest that belongs to them."""

    def change(rows: list[dict[str, Any]]) -> None:
        digest = hashlib.sha256(data).hexdigest()
        rows[1].update({"image": {"bytes": data, "path": "x.png"}, "sha256": digest, **others})

    return change


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
        (set_to("phashes", [5] * 32), "phashes is not that of the image"),
        (set_to("dhash", None), "dhash is not that of the image"),
        (set_to("low_info", True), "low_info is not that of the image"),
        (set_to("pixels", "ab"), "pixels is not that of the image"),
        (in_object("xmin", -5.0), "is not inside"),
        (in_object("xmax", 5000.0), "is not inside"),
        (in_object("ymax", float("nan")), "not of finite numbers"),
        (in_object("ymax", 0.0), "no extent"),
        (in_object("polygon", [1.0, float("nan"), 2.0, 3.0]), "polygon is not of pairs"),
        (in_object("polygon", [1.0, 2.0, 3.0]), "polygon is not of pairs"),
        (in_object("label", "boat"), "objects of class 'boat' stated, 1 found"),
        (set_to("objects", None), "objects is null"),
        (set_to("captions", None), "captions is null"),
        (image_of(b"no image", phash=None), "no image format"),
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
    with pytest.raises(TableError, match="convert the dump again"):
        check(table)


def test_deep_finds_a_truncated_image_that_has_no_hash(table: Path) -> None:
    whole = rows_of(table)[1]["image"]["bytes"]
    rewrite(table, image_of(whole[: len(whole) // 2], phash=None))
    assert check(table) == []
    assert [problem.why for problem in check(table, deep=True)] == [
        "the image cannot be read: image file is truncated"
    ]


@pytest.mark.parametrize("text", ["no", "[1]", "\udcff"])
def test_damaged_metadata(table: Path, text: str) -> None:
    path = tables.shards(table)[0]
    damaged = {"huggingface": "{}", "rsdata": text.encode(errors="surrogatepass")}
    pq.write_table(pq.read_table(path).replace_schema_metadata(damaged), path)
    assert any("rsdata metadata is no JSON object" in problem.why for problem in check(table))


def test_shards_that_the_manifest_does_not_name(table: Path) -> None:
    path = tables.shards(table)[0]
    stray = path.with_name("train-00009-of-00010.parquet")
    shutil.copy(path, stray)
    assert [(problem.path, problem.row) for problem in check(table)] == [(f"data/{stray.name}", -1)]
    stray.unlink()
    manifest = json.loads((table / tables.MANIFEST).read_text())
    manifest["splits"]["train"]["files"] = ["../x.parquet"]
    manifest["splits"]["a/b"] = {"files": [], "rows": 0}
    path.rename(table.parent / "x.parquet")
    (table / tables.MANIFEST).write_text(json.dumps(manifest))
    problems = [problem.why for problem in check(table)]
    assert "'../x.parquet' is no shard in data" in problems
    assert "split 'a/b' cannot name a file" in problems


def test_rejections_that_the_manifest_does_not_count(table: Path) -> None:
    tables.write_rejections(table / tables.REJECTIONS, [Rejection("rejected", "E07", "a", 0, "a", "gone")])
    assert [problem.why for problem in check(table)] == ["1 are rejected, 0 stated"]


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
    before, told = rows_of(table), tables.manifest(table)
    for path in tables.shards(table):
        by(path, tmp_path / "edited.parquet")
        shutil.move(tmp_path / "edited.parquet", path)
    assert check(table)
    manifest = repair(table, tmp_path / "mended")
    assert check(tmp_path / "mended", deep=True) == []
    assert rows_of(tmp_path / "mended") == before
    assert manifest["rsdata"]["licence"]
    assert manifest == tables.manifest(tmp_path / "mended") == told
    assert manifest["images"]["written"] == len(before)


def test_a_lone_file_with_fewer_rows(table: Path, tmp_path: Path) -> None:
    path = tables.shards(table)[0]
    frame = pandas.read_parquet(path).drop(columns=["phash", "gsd", "cover", "geometry"]).iloc[1:]
    frame.to_parquet(tmp_path / "edited.parquet")
    manifest = repair(tmp_path / "edited.parquet", tmp_path / "mended")
    assert manifest["images"]["found"] == len(frame)
    assert "unknown" in manifest["rsdata"]["licence"]
    assert check(tmp_path / "mended") == []
    assert manifest["rsdata"]["hash_spec"] == HASH_SPEC
    assert check(tmp_path / "mended", deep=True) == []


def test_edited_labels_and_captions_are_counted_anew(table: Path, tmp_path: Path) -> None:
    """As many rows as before: what the old manifest says of the classes is then wrong all the same."""
    for path in tables.shards(table):
        frame = pandas.read_parquet(path)
        frame["objects"] = [[{**held, "label": "boat"} for held in row] for row in frame["objects"]]
        frame["captions"] = [row[:1] for row in frame["captions"]]
        frame.to_parquet(path)
    manifest = repair(table, tmp_path / "mended")
    assert check(tmp_path / "mended", deep=True) == []
    (entry,) = manifest["datasets"].values()
    assert entry["classes"] == {"boat": manifest["objects"]["written"]}
    assert entry["captions"] == manifest["captions"] == len(rows_of(table))
    assert export(tmp_path / "mended", tmp_path / "out", "yolo")["objects"] == entry["classes"]["boat"]


def test_hashes_of_another_spec_are_computed_anew(table: Path, tmp_path: Path) -> None:
    before = rows_of(table)
    older = {**tables.about(table), "hash_spec": "phash64: of old"}
    for path in tables.shards(table):
        held = pq.read_table(path)
        held = held.set_column(10, SCHEMA.field("phash"), pa.array([7] * held.num_rows, pa.uint64()))
        pq.write_table(held.replace_schema_metadata({"rsdata": json.dumps(older)}), path)
    manifest = repair(table, tmp_path / "mended")
    assert manifest["rsdata"]["hash_spec"] == tables.about(tmp_path / "mended")["hash_spec"] == HASH_SPEC
    assert rows_of(tmp_path / "mended") == before


def test_hashes_that_pandas_made_floats_are_computed_anew(table: Path, tmp_path: Path) -> None:
    before = [row["phash"] for row in rows_of(table)]
    rewrite(table, set_to("phash", None))
    for path in tables.shards(table):
        by_pandas(path, path)
    assert pq.read_schema(tables.shards(table)[0]).field("phash").type == pa.float64()
    repair(table, tmp_path / "mended")
    assert [row["phash"] for row in rows_of(tmp_path / "mended")] == before


def test_rejections_that_come_along_are_counted(tmp_path: Path) -> None:
    sample_dump("dota", tmp_path / "dump")
    next((tmp_path / "dump").rglob("*.png")).write_bytes(b"junk")
    run("dota", tmp_path / "dump", tmp_path / "table")
    path = tables.shards(tmp_path / "table")[0]
    pandas.read_parquet(path).iloc[1:].to_parquet(path)
    manifest = repair(tmp_path / "table", tmp_path / "mended")
    images = manifest["images"]
    assert (images["rejected"], images["found"]) == (1, images["written"] + 1)
    assert sum(manifest["reasons"]["rejected"].values()) == 1
    assert check(tmp_path / "mended") == []


@pytest.mark.parametrize("split", [None, "", "../../../evil", "a/b", "a[b]", "."])
def test_splits_that_cannot_name_a_file(table: Path, tmp_path: Path, split: str | None) -> None:
    frame = pandas.read_parquet(tables.shards(table)[0])
    frame.loc[frame.index[-1], "split"] = split
    frame.to_parquet(tmp_path / "edited.parquet")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(TableError, match="cannot name a file"):
        repair(tmp_path / "edited.parquet", tmp_path / "mended")
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before and path.is_file()] == []


def test_what_cannot_be_repaired(table: Path, tmp_path: Path) -> None:
    path = tables.shards(table)[0]
    frame = pandas.read_parquet(path)
    frame.drop(columns=["objects", "width"]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(TableError, match="no column width, objects"):
        repair(tmp_path / "a.parquet", tmp_path / "t")
    frame.assign(width="wide").to_parquet(tmp_path / "b.parquet")
    with pytest.raises(TableError, match="column width does not fit int32"):
        repair(tmp_path / "b.parquet", tmp_path / "t")
    frame.iloc[:0].to_parquet(tmp_path / "d.parquet")
    with pytest.raises(TableError, match="no row"):
        repair(tmp_path / "d.parquet", tmp_path / "t")
    pandas.concat([frame, frame]).to_parquet(tmp_path / "e.parquet")
    with pytest.raises(TableError, match="is given twice"):
        repair(tmp_path / "e.parquet", tmp_path / "t")
    (tmp_path / "c.parquet").write_bytes(b"no")
    with pytest.raises(TableError):
        repair(tmp_path / "c.parquet", tmp_path / "t")
    with pytest.raises(TableError, match="no Parquet file"):
        repair(tmp_path / "none", tmp_path / "t")
    with pytest.raises(TableError, match="name another folder"):
        repair(table, table)
    assert not (tmp_path / "t").exists() or not list((tmp_path / "t").rglob("*.parquet"))
