from __future__ import annotations

import hashlib
import io
import json
import sys
import zlib

import duckdb
import faiss
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from shapes import row, shape_rows, write_table

from rsclip import model, search
from rsclip.encode import Encoder, digest, image_key
from rsclip.search import Hit
from rsdata.errors import RsdataError, TableError

QUERY = "two red circles"


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(model.create("rsclip-tiny"), batch_size=5)


def solid(colour, size=(64, 64)):
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "PNG")
    return data.getvalue()


def bomb(side=14_000):
    """A whole PNG of 196 black megapixels in some kilobytes."""
    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])  # one bit of grey
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes((1 + side // 8) * side))), (b"IEND", b""))
    parts = [
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def knows(encoder, data):
    return encoder.has_image(image_key(hashlib.sha256(data).hexdigest()))


def cosines(encoder, rows, text):
    """By open_clip alone, one image at a time."""
    clip = encoder.clip
    with torch.no_grad():
        said = clip.model.encode_text(clip.tokenizer([text]), normalize=True)[0]
        pictures = [clip.transform_eval(Image.open(io.BytesIO(r["image"]["bytes"]))) for r in rows]
        return [float(clip.model.encode_image(p[None], normalize=True)[0] @ said) for p in pictures]


def test_hits_are_those_of_open_clip_over_all_splits_with_captions_or_without(tmp_path, encoder):
    rows = shape_rows(9, "train") + shape_rows(6, "test")
    rows[2]["captions"] = []
    table = write_table(tmp_path / "table", rows, shards=2, row_group=2)
    hits, notes = search.search(encoder, [table], QUERY, limit=100)
    expected = dict(zip([r["image_id"] for r in rows], cosines(encoder, rows, QUERY), strict=True))
    assert {hit.image_id for hit in hits} == set(expected)
    assert [hit.score for hit in hits] == pytest.approx([expected[hit.image_id] for hit in hits], abs=1e-5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert notes == []


def test_a_search_keeps_to_its_limit_and_splits(tmp_path, encoder):
    table = write_table(tmp_path / "table", shape_rows(9, "train") + shape_rows(6, "test"))
    every = search.search(encoder, [table], QUERY, limit=100).hits
    assert search.search(encoder, [table], QUERY, limit=3).hits == every[:3]
    tested = search.search(encoder, [table], QUERY, limit=100, split=["test"]).hits
    assert tested == [hit for hit in every if hit.image_id.startswith("shapes/test/")]


def test_equal_images_are_in_the_order_of_their_ids_and_an_id_of_two_tables_is_found_once(tmp_path, encoder):
    data = [r["image"]["bytes"] for r in shape_rows(2, "train")]
    names = [f"{name}{i % 2}" for i, name in enumerate("hbgadfce")]
    rows = [row(name, "train", data[int(name[1])], []) for name in names]
    one = write_table(tmp_path / "one", rows)
    two = write_table(tmp_path / "two", rows[::-1][:5])
    found = [hit.image_id for hit in search.search(encoder, [one, two], QUERY).hits]
    runs = [sorted(name for name in names if name[1] == kind) for kind in "01"]
    assert found in (runs[0] + runs[1], runs[1] + runs[0])


def test_what_has_no_readable_image_is_left_out_and_told(tmp_path, encoder):
    rows = [*shape_rows(2, "train"), row("none", "train", None, ["a"]), row("bad", "train", b"no", ["a"])]
    table = write_table(tmp_path / "table", rows)
    hits, notes = search.search(encoder, [table], QUERY)
    assert {hit.image_id for hit in hits} == {"shapes/train/00000", "shapes/train/00001"}
    assert len(notes) == 2
    assert "bad" in notes[1]
    with pytest.raises(TableError, match="no row has a readable image"):
        search.search(encoder, [write_table(tmp_path / "bare", rows[2:])], QUERY)


def test_wrong_use_is_told_before_anything_is_embedded(tmp_path, encoder):
    rows = [row("a", "train", solid((1, 2, 3)), [])]
    table = write_table(tmp_path / "table", rows)
    for query, sheet, why in ((" ", None, "empty"), (QUERY, tmp_path / "sheet.gif", r"\.png, \.jpg")):
        with pytest.raises(RsdataError, match=why):
            search.search(encoder, [table], query, sheet=sheet)
    with pytest.raises(TableError, match="not a table"):
        search.search(encoder, [tmp_path / "nowhere"], QUERY)
    assert not knows(encoder, rows[0]["image"]["bytes"])


def centres(sheet, count, columns):
    """The pixels in the middle of a sheet's tiles; the first tile is found by its colour."""
    pixels = np.array(sheet)
    top = next(y for y in range(len(pixels)) if (pixels[y, search.GAP : search.GAP + 9] < 200).any(1).all())
    rows = -(-count // columns)
    pitch = (len(pixels) - top) // rows
    side = search.SIDE + search.GAP
    return [
        tuple(
            pixels[
                top + n // columns * pitch + search.SIDE // 2,
                search.GAP + n % columns * side + search.SIDE // 2,
            ].tolist()
        )
        for n in range(count)
    ]


def test_a_sheet_shows_the_hits_in_order_the_query_above_and_the_ids_below(tmp_path, encoder):
    colours = [(20 * i + 10, 100, 150) for i in range(8)]
    rows = [row(f"tile-{i}", "train", solid(colour), []) for i, colour in enumerate(colours)]
    table = write_table(tmp_path / "table", rows, row_group=3)
    path = tmp_path / "new" / "sheet.png"
    hits = search.search(encoder, [table], QUERY, limit=8, sheet=path).hits
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        shown = centres(sheet.convert("RGB"), 8, search.COLUMNS)
        ink = np.array(sheet.convert("L")) < 60
    assert shown == [colours[int(hit.image_id[5:])] for hit in hits]
    assert ink[search.GAP : search.GAP + 26].any()  # the query
    assert ink[-search.GAP - 40 :].any()  # the last names


def test_pictures_that_cannot_be_read_are_grey_tiles(tmp_path):
    rows = [
        row("good", "train", solid((10, 200, 30)), []),
        row("text", "train", b"no image", []),
        row("bomb", "train", bomb(), []),
        row("none", "train", None, []),
        row("line", "train", solid((200, 10, 30), (3000, 1)), []),
    ]
    table = write_table(tmp_path / "table", rows)
    hits = [Hit(0.5, name) for name in ("text", "good", "bomb", "none", "absent")]
    search.write_sheet(tmp_path / "sheet.jpg", QUERY, hits, [table])
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.format == "JPEG"
        pixels = np.array(sheet)
    quarter = slice(60, 60 + 40)  # of a tile's height, above the words in its middle
    for n, good in enumerate(name == "good" for _, name in hits):
        left = search.GAP + n * (search.SIDE + search.GAP)
        colour = pixels[quarter, left + 20 : left + 200].reshape(-1, 3).mean(0)
        np.testing.assert_allclose(colour, (10, 200, 30) if good else search._GREY, atol=5)
    search.write_sheet(tmp_path / "line.png", QUERY, [Hit(0.5, "line")], [table])
    with Image.open(tmp_path / "line.png") as sheet:
        assert (np.array(sheet) == (200, 10, 30)).all(-1).sum() == search.SIDE


def test_only_row_groups_with_a_hit_are_read_for_the_sheet(tmp_path):
    rows = [row(f"{i}", "train", solid((i, i, i)), []) for i in range(9)]
    table = write_table(tmp_path / "table", rows, row_group=3)
    (path,) = (table / "data").glob("*.parquet")
    group = pq.ParquetFile(path).metadata.row_group(2)
    column = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "image.bytes")
    start, size = column.dictionary_page_offset or column.data_page_offset, column.total_compressed_size
    held = path.read_bytes()
    path.write_bytes(held[:start] + bytes(size) + held[start + size :])
    search.write_sheet(tmp_path / "sheet.png", QUERY, [Hit(0.9, "4"), Hit(0.8, "0")], [table])
    with pytest.raises(TableError, match="parquet"):
        search.write_sheet(tmp_path / "other.png", QUERY, [Hit(0.9, "8")], [table])
    assert not (tmp_path / "other.png").exists()


def test_many_hits_make_a_sheet_about_as_high_as_wide_of_the_best(tmp_path):
    table = write_table(tmp_path / "table", [row("a", "train", solid((9, 9, 9)), [])])
    search.write_sheet(tmp_path / "sheet.png", QUERY, [Hit(0.5, f"{i}") for i in range(1000)], [table])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == search.GAP + 20 * (search.SIDE + search.GAP)
        assert sheet.width < sheet.height < 1.3 * sheet.width


@pytest.mark.parametrize(
    "text", ["", "a busy airport " * 12, "x" * 200, "one " + "P0012__1.0__1024#0,0,512,512/" * 4 + " end"]
)
def test_lines_fit_their_width_and_lose_nothing(text):
    font = search._font(13)
    lines = search._wrapped(text, font, 220)
    assert all(font.getlength(line) <= 220 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_names_become_one_printable_line_that_keeps_both_ends():
    assert search._short("a\n\tb\x1b[31m", 80) == "a b\ufffd[31m"
    short = search._short("start" + "x" * 500 + "end", 40)
    assert short.startswith("start")
    assert short.endswith("end")
    assert len(short) <= 43


@pytest.fixture
def two_tables(tmp_path):
    one = shape_rows(7, "train") + shape_rows(5, "test")
    one[1]["captions"] = []
    one[3]["label"] = "airport"
    bad = row("bad", "train", b"no image", ["a"])
    two = [*shape_rows(4, "train", seed=1), bad, *shape_rows(3, "val", seed=1)]
    for r in two:
        r["image_id"] = r["image_id"].replace("shapes", "more")
    return write_table(tmp_path / "one", one, shards=2), write_table(tmp_path / "two", two), one + two


def test_embeddings_are_one_row_an_image_in_the_tables_order(tmp_path, encoder, two_tables):
    one, two, rows = two_tables
    output = tmp_path / "new" / "out"
    done = search.embed(encoder, [one, two], output)
    readable = [r for r in rows if r["image_id"] != "bad"]
    expected = [r for split in ("test", "train", "val") for r in readable if r["split"] == split]
    assert done.rows == len(expected) == 19
    assert done.files == [f"data/{split}-00000-of-00001.parquet" for split in ("test", "train", "val")]
    assert done.notes == ["1 images cannot be decoded and were left out: bad"]
    held = [r for name in done.files for r in pq.read_table(output / name).to_pylist()]
    for name in ("image_id", "dataset", "split", "label", "captions"):
        assert [r[name] for r in held] == [r[name] for r in expected]
    assert [r["path"] for r in held] == [r["image"]["path"] for r in expected]
    vectors = np.array([r["embedding"] for r in held], np.float32)
    clip = encoder.clip
    with torch.no_grad():
        for number in (0, 8, 18):
            picture = clip.transform_eval(Image.open(io.BytesIO(expected[number]["image"]["bytes"])))
            feature = clip.model.encode_image(picture[None], normalize=True)[0]
            np.testing.assert_allclose(vectors[number], feature, atol=1e-5)
    np.testing.assert_allclose((vectors**2).sum(1), 1, atol=1e-5)
    assert sorted(p.name for p in output.parent.iterdir()) == ["out"]


def test_embeddings_say_whose_they_are(tmp_path, encoder, two_tables):
    one, two, _ = two_tables
    done = search.embed(encoder, [one, two], tmp_path / "out")
    weights = digest(encoder.clip)
    about = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert about == {
        "rows": 19,
        "files": done.files,
        "weights": weights,
        "tables": [str(one), str(two)],
    }
    footer = pq.ParquetFile(tmp_path / "out" / done.files[0])
    assert json.loads(footer.schema_arrow.metadata[b"rsclip"]) == {"weights": weights}
    assert footer.schema_arrow.field("embedding").type.list_size == 128
    group = footer.metadata.row_group(0)
    assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}


def test_the_index_counts_rows_over_the_files_as_a_pattern_finds_them(
    tmp_path, encoder, two_tables, monkeypatch
):
    monkeypatch.setattr(search, "ROWS_PER_FILE", 4)
    monkeypatch.setattr(search, "ROWS_PER_GROUP", 3)
    output = tmp_path / "out"
    done = search.embed(encoder, two_tables[:2], output, index=True)
    assert len(done.files) == 2 + 3 + 1
    assert done.files == sorted(f"data/{path.name}" for path in (output / "data").iterdir())
    ids = duckdb.sql(f"select image_id from '{output}/data/*.parquet'").fetchall()
    frame = pl.read_parquet(output / "data" / "*.parquet")
    assert frame["image_id"].to_list() == [each for (each,) in ids]
    assert pd.read_parquet(output / "data").image_id.tolist() == [each for (each,) in ids]
    index = faiss.read_index(str(output / search.INDEX))
    assert type(index) is faiss.IndexFlatIP
    scores, places = index.search(encoder.texts([QUERY]), 5)
    hits = search.search(encoder, two_tables[:2], QUERY, limit=5).hits
    assert [ids[place][0] for place in places[0]] == [hit.image_id for hit in hits]
    assert scores[0] == pytest.approx([hit.score for hit in hits], abs=1e-5)


def test_splits_can_be_chosen_and_one_that_is_no_name_names_no_file(tmp_path, encoder):
    rows = shape_rows(3, "train") + shape_rows(2, "test")
    done = search.embed(encoder, [write_table(tmp_path / "one", rows)], tmp_path / "some", split=["test"])
    assert (done.rows, done.files) == (2, ["data/test-00000-of-00001.parquet"])
    foreign = write_table(tmp_path / "two", rows)
    (path,) = (foreign / "data").glob("train-*")
    held = pq.read_table(path)
    pq.write_table(held.set_column(2, "split", [["../../evil", None, "train"]]), path)
    done = search.embed(encoder, [foreign], tmp_path / "all")
    assert [name.split("-")[0] for name in done.files] == ["data/rows", "data/test", "data/train"]
    assert pq.read_table(tmp_path / "all" / done.files[0])["split"].to_pylist() == ["../../evil", ""]


def test_what_is_in_the_way_stays_and_only_embeddings_are_replaced(tmp_path, encoder):
    data = solid((3, 2, 1))
    table = write_table(tmp_path / "table", [row("a", "train", data, [])])
    (tmp_path / "file").write_text("mine")
    for output, why in ((tmp_path / "file", "is a file"), (table, "nothing that embed wrote")):
        with pytest.raises(RsdataError, match=why):
            search.embed(encoder, [table], output, overwrite=True)
    assert not knows(encoder, data)
    output = tmp_path / "out"
    output.mkdir()
    search.embed(encoder, [table], output, index=True)
    with pytest.raises(RsdataError, match="--overwrite"):
        search.embed(encoder, [table], output)
    other = write_table(tmp_path / "other", shape_rows(2, "val"))
    search.embed(encoder, [other], output, overwrite=True)
    assert sorted(str(p.relative_to(output)) for p in output.rglob("*")) == [
        "data",
        "data/val-00000-of-00001.parquet",
        "manifest.json",
    ]
    assert not list(tmp_path.glob(".*"))


def test_a_run_that_fails_leaves_what_was_there(tmp_path, encoder, monkeypatch):
    table = write_table(tmp_path / "table", shape_rows(2, "val"))
    output = tmp_path / "out"
    search.embed(encoder, [table], output)
    before = (output / "manifest.json").read_bytes()
    monkeypatch.setattr(search, "ROWS_PER_GROUP", 0)  # the first file fails half-way
    with pytest.raises(ValueError, match="range"):
        search.embed(encoder, [table], output, overwrite=True)
    assert (output / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "table"]


def test_an_index_without_faiss_is_refused_before_anything_is_embedded(tmp_path, encoder, monkeypatch):
    data = solid((7, 8, 9))
    table = write_table(tmp_path / "table", [row("a", "train", data, [])])
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(RsdataError, match=r"pip install 'rsdata\[search\]'"):
        search.embed(encoder, [table], tmp_path / "out", index=True)
    assert not knows(encoder, data)
    assert search.embed(encoder, [table], tmp_path / "out").rows == 1
