"""Tables on disk: the schema and its metadata, and that other tools open what is written here."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from dumps import rows_of, run, sample_dump, sample_table
from PIL import Image

import rsdata
from rsdata import recipes, tables
from rsdata.errors import TableError
from rsdata.hashing import Hashes
from rsdata.records import OBJECT, REJECTION_SCHEMA, SCHEMA, Box, Rejection
from rsdata.tables import Row

DESIGN = (
    "image_id dataset split image width height objects captions caption_source label phash phashes dhash "
    "low_info pixels sha256 annotation gsd cover geometry"
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of DIOR: three splits, with objects, captions and images."""
    return sample_table("dior", tmp_path_factory.mktemp("dior"), images=7)


@pytest.fixture(scope="module")
def rows(table: Path) -> list[dict[str, Any]]:
    return rows_of(table)


def hashes(phash: int) -> Hashes:
    return Hashes(phash, [phash, *range(31)], [0, 1, 2, 2**64 - 1], False, "ab")


def row(number: int, image: bytes | None = b"x", **changes: Any) -> Row:
    held = Row(
        f"d/train/{number}",
        "d",
        "train",
        image,
        f"{number}.png",
        9,
        7,
        [],
        ["a ship."],
        "human",
        None,
        hashes(5),
        "ff",
        "a",
    )
    return held._replace(**changes)


def test_schema_and_metadata(table: Path) -> None:
    assert SCHEMA.names == DESIGN.split()
    for path in tables.shards(table):
        schema = pq.read_schema(path)
        assert schema.remove_metadata() == SCHEMA
        assert json.loads(schema.metadata[b"huggingface"]) == {
            "info": {"features": {"image": {"_type": "Image"}}}
        }
        about = json.loads(schema.metadata[b"rsdata"])
        assert about == tables.about(table) == tables.manifest(table)["rsdata"]
    recipe = recipes.load("dior")
    assert about["dataset"] == "dior"
    assert about["datasets"]["dior"]["recipe"] == recipe.digest
    assert (about["captions"], about["large_count"], about["seed"]) == ("remoteclip", "vague", 0)
    assert about["licence"] == recipe.licence
    assert about["versions"]["rsdata"] == rsdata.__version__
    assert pq.read_schema(table / tables.REJECTIONS).remove_metadata() == REJECTION_SCHEMA
    assert OBJECT.names == list(Box._fields) == [field.name for field in OBJECT]
    names = [*Row._fields[:3], "image", *Row._fields[5:]]
    place = names.index("hashes")
    assert [*names[:place], *Hashes._fields, *names[place + 1 :]] == SCHEMA.names
    assert REJECTION_SCHEMA.names == list(Rejection._fields[:6])
    assert not list(table.rglob("_metadata"))


def test_storage(table: Path) -> None:
    """Image bytes as they are, all else zstd, with a page index."""
    for path in tables.shards(table):
        footer = pq.read_metadata(path)
        for group in range(footer.num_row_groups):
            for number in range(footer.num_columns):
                column = footer.row_group(group).column(number)
                plain = column.path_in_schema == "image.bytes"
                assert column.compression == ("UNCOMPRESSED" if plain else "ZSTD")
                assert column.has_offset_index
        assert path.read_bytes().count(b"IHDR") == footer.num_rows  # PNG as shipped, each once


def test_row_groups_are_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def groups(rows: list[Row]) -> list[int]:
        with tables.shard_writer(tmp_path / "x.parquet", {}) as writer:
            for each in rows:
                writer.add(each)
        footer = pq.read_metadata(tmp_path / "x.parquet")
        return [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]

    assert groups([row(number) for number in range(250)]) == [100, 100, 50]
    assert groups([row(number, None) for number in range(250)]) == [250]
    assert groups([row(number, None) for number in range(2_501)]) == [2_500, 1]
    monkeypatch.setattr(tables, "BYTES_PER_GROUP", 10)
    assert groups([row(number, b"1234") for number in range(5)]) == [2, 2, 1]
    assert groups([row(0, b"1" * 99), row(1, b"2"), row(2, b"3" * 99)]) == [1, 1, 1]
    assert groups([]) == []
    assert tables.BYTES_PER_GROUP == 10
    monkeypatch.undo()
    assert (tables.ROWS_PER_GROUP, tables.BYTES_PER_GROUP) == (100, 64 << 20)


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    """Odd values: none of anything, polygons of several lengths, flags, large hashes, text beyond ASCII."""
    quad = [0.5, 1, 2, 3, 4, 5, 6, 7]
    boxes = [
        Box("ship", "Ship", 0.1, 0.25, 3.5, 4, quad, ("difficult", "truncated")),
        Box("船", "船", 1, 2, 3, 4),
        Box("car", "car", 1, 2, 3, 4, [], ()),
    ]
    given = [
        row(0, objects=boxes, hashes=hashes(2**64 - 1)),
        row(
            1,
            None,
            objects=(),
            captions=(),
            caption_source=None,
            hashes=None,
            sha256=None,
            width=None,
            height=None,
        ),
        row(2, b"", captions=["Ein Schiff – größer", ""], label="harbor"),
        row(3, objects=boxes[1:2], path="\udcff.png"),
    ]
    with tables.shard_writer(tmp_path / "x.parquet", {"a": 1}) as writer:
        for each in given:
            writer.add(each)
    found = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert [each["image_id"] for each in found] == [each.image_id for each in given]
    assert [each["image"]["bytes"] for each in found] == [b"x", None, b"", b"x"]
    for name in Hashes._fields:
        held = [each.hashes and getattr(each.hashes, name) for each in given]
        assert [each[name] for each in found] == held
    assert [each["captions"] for each in found] == [list(each.captions) for each in given]
    assert found[3]["image"]["path"] == "?.png"
    first, second, third = found[0]["objects"]
    assert first["polygon"] == quad
    assert first["flags"] == ["difficult", "truncated"]
    assert first["xmin"] == pytest.approx(0.1)
    assert (second["label"], second["polygon"], second["flags"]) == ("船", None, [])
    assert third["polygon"] == []
    assert found[1]["objects"] == []
    assert found[1]["width"] is found[1]["caption_source"] is found[1]["sha256"] is None


def test_a_shard_that_fails_is_not_there(tmp_path: Path) -> None:
    def fails() -> None:
        with tables.shard_writer(tmp_path / "x.parquet", {}) as writer:
            writer.add(row(0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert list(tmp_path.iterdir()) == []


def _datasets_script() -> str:
    return """
import json, sys
from pathlib import Path
import datasets
table = sys.argv[1]
splits = json.loads(Path(table, "manifest.json").read_text())["splits"]
files = {split: [f"{table}/{name}" for name in held["files"]] for split, held in splits.items()}
by_file = datasets.load_dataset("parquet", data_files=files)
by_folder = datasets.load_dataset(table)
found = []
for held in (by_file, by_folder):
    rows = {}
    for split in held:
        for row in held[split]:
            image = row.pop("image")
            assert type(image).__module__.startswith("PIL."), type(image)
            assert type(row["captions"]) is list, type(row["captions"])
            assert all(type(caption) is str for caption in row["captions"])
            assert list(image.convert("RGB").getdata())
            pixel = image.convert("RGB").getpixel((3, 4))
            rows[row["image_id"]] = {**row, "size": image.size, "pixel": pixel}
    found.append({"splits": {split: held[split].num_rows for split in held}, "rows": rows})
streamed = datasets.load_dataset(table, streaming=True)
found.append({split: [row["image_id"] for row in streamed[split]] for split in streamed})
print(json.dumps(found))
"""


def test_hugging_face_datasets(table: Path, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """As files and as a folder with a card, offline, images decoded, captions plain lists."""
    home = {
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", _datasets_script(), str(table)],
        env={"PATH": "/usr/bin:/bin", **home},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    by_file, by_folder, streamed = json.loads(done.stdout)
    splits = {split: held["rows"] for split, held in tables.manifest(table)["splits"].items()}
    assert by_file["splits"] == by_folder["splits"] == splits
    assert by_file["rows"] == by_folder["rows"]
    assert len(by_file["rows"]) == len(rows)
    assert [name for names in streamed.values() for name in names] == [each["image_id"] for each in rows]
    for each in rows:
        found = by_file["rows"][each["image_id"]]
        image = Image.open(io.BytesIO(each["image"]["bytes"]))
        assert found["size"] == list(image.size) == [each["width"], each["height"]]
        assert tuple(found["pixel"]) == image.getpixel((3, 4))
        assert all(found[key] == value for key, value in each.items() if key not in ("image",))


def test_arrow_polars_pandas_duckdb(table: Path, rows: list[dict[str, Any]]) -> None:
    pattern = str(table / "data/*.parquet")
    order = sorted(rows, key=lambda each: each["image_id"])
    assert ds.dataset(table / "data").to_table().sort_by("image_id").to_pylist() == order
    assert pl.read_parquet(pattern).sort("image_id").to_dicts() == order
    assert pl.scan_parquet(pattern).select(pl.col("objects").list.len().sum()).collect().item() == sum(
        len(each["objects"]) for each in rows
    )
    frame = pd.concat([pd.read_parquet(path) for path in tables.shards(table)]).sort_values("image_id")
    assert list(frame.columns) == SCHEMA.names
    for key in ("image_id", "split", "sha256", "phash", "width", "annotation"):
        assert frame[key].tolist() == [each[key] for each in order]
    assert [list(captions) for captions in frame["captions"]] == [each["captions"] for each in order]
    assert [image["bytes"] for image in frame["image"]] == [each["image"]["bytes"] for each in order]
    query = duckdb.connect().execute(
        "SELECT image_id, image.bytes, captions, phash, list_transform(objects, lambda o: o.xmax - o.xmin), "
        f"list_transform(objects, lambda o: o.label) FROM '{pattern}' ORDER BY image_id"
    )
    assert query.fetchall() == [
        (
            each["image_id"],
            each["image"]["bytes"],
            each["captions"],
            each["phash"],
            [found["xmax"] - found["xmin"] for found in each["objects"]],
            [found["label"] for found in each["objects"]],
        )
        for each in order
    ]


def test_card(table: Path) -> None:
    yaml = pytest.importorskip("yaml")
    manifest = tables.manifest(table)
    text = (table / tables.CARD).read_text()
    _, front, body = text.split("---\n", 2)
    held = yaml.safe_load(front)
    (config,) = held["configs"]
    assert config["config_name"] == "default"
    assert config["data_files"] == [
        {"split": split, "path": f"data/{split}-*.parquet"} for split in manifest["splits"]
    ]
    for entry in config["data_files"]:
        files = sorted(path.name for path in table.glob(entry["path"]))
        assert [f"data/{name}" for name in files] == manifest["splits"][entry["split"]]["files"]
    assert held["pretty_name"] == "DIOR (rsdata)"
    recipe = recipes.load("dior")
    for fact in (recipe.homepage, recipe.licence, recipe.citation, tables.REJECTIONS):
        assert fact in body


def test_a_card_of_odd_names_is_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    about = {"dataset": "x", "title": 'A: "b" – #1\n', "captions": "none", "versions": {"rsdata": "1"}}
    counts = {"found": 1, "written": 1, "rejected": 0}
    manifest = {
        "rsdata": about,
        "images": counts,
        "objects": counts,
        "splits": {"on": {"rows": 1, "files": []}},
    }
    held = yaml.safe_load(tables.card(manifest).split("---\n")[1])
    assert held["pretty_name"] == 'A: "b" – #1\n (rsdata)'
    assert held["configs"][0]["data_files"][0]["split"] == "on"


def test_splits_whose_names_begin_alike(tmp_path: Path) -> None:
    """A card's pattern of "test" must not take the files of "test_dev"."""
    recipe = recipes.parse(
        "mine",
        {
            "format": "dota",
            "splits": {
                name: {"images": f"{name}/*.png", "annotations": f"{name}/*.txt"}
                for name in ("test", "test_dev")
            },
        },
    )
    sample_dump(recipe, tmp_path / "dump", splits=("test", "test_dev"))
    run(recipe, tmp_path / "dump", tmp_path / "t")
    for split, held in tables.manifest(tmp_path / "t")["splits"].items():
        assert [f"data/{path.name}" for path in tmp_path.glob(f"t/data/{split}-*.parquet")] == held["files"]
    assert {each["split"] for each in rows_of(tmp_path / "t")} == {"test", "test_dev"}


def test_reading_splits(table: Path) -> None:
    splits = tables.manifest(table)["splits"]
    assert list(splits) == ["train", "val", "test"]
    for split, held in splits.items():
        paths = tables.shards(table, [split])
        assert [path.relative_to(table).as_posix() for path in paths] == held["files"]
        assert sum(map(tables.rows_in, paths)) == held["rows"]
    assert tables.shards(table) == [path for split in splits for path in tables.shards(table, [split])]
    with pytest.raises(TableError, match="no split 'dev'; it has train, val, test"):
        tables.shards(table, ["dev"])


def test_tables_that_cannot_be_read(table: Path, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="not a table: it has no manifest"):
        tables.manifest(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(TableError, match="an unfinished table"):
        tables.shards(tmp_path)
    for text, why in (("{", "manifest.json"), ("[1]", "JSON object"), ("\ud800", "manifest.json")):
        (tmp_path / "manifest.json").write_bytes(text.encode(errors="surrogatepass"))
        with pytest.raises(TableError, match=why):
            tables.manifest(tmp_path)
    manifest = tables.manifest(table)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(TableError, match="named in the manifest, but missing"):
        tables.shards(tmp_path)
    for split in manifest["splits"].values():
        for name in split["files"]:
            pq.write_table(pa.table({"a": [1]}), tmp_path / name)
    with pytest.raises(TableError, match="written by another program"):
        tables.about(tmp_path)


def test_rejections_are_a_table(tmp_path: Path) -> None:
    listed = [
        Rejection("dropped", "E05", "a/b.txt", 3, "a.png", "2 fields", ""),
        Rejection("rejected", "E07", "\udcff.txt", 2**40, "", "–"),
    ]
    tables.write_rejections(tmp_path / "r.parquet", listed)
    found = [tuple(each.values()) for each in pq.read_table(tmp_path / "r.parquet").to_pylist()]
    assert found == [listed[0][:6], ("rejected", "E07", "?.txt", 2**40, "", "–")]
    tables.write_rejections(tmp_path / "none.parquet", [])
    assert pq.read_table(tmp_path / "none.parquet").schema.remove_metadata() == REJECTION_SCHEMA
