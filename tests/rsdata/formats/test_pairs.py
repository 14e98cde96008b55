from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import Read, read_written

from rsdata.errors import AnnotationError
from rsdata.formats import folders, pairs
from rsdata.records import Record

EXPECTED = [("a.jpg", ["many planes .", "two, ships"], "train"), ("b/c.jpg", ["a port"], "train")]


def told(found: object) -> list[tuple[str, list[str], str]]:
    return [(one.image, list(one.captions), one.split) for one in found.records]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'filepath,title\na.jpg,many planes .\nb/c.jpg,a port\na.jpg,"two, ships"\n'),
        ("a.csv", "title\tfilepath\nmany planes .\ta.jpg\na port\tb/c.jpg\ntwo, ships\ta.jpg\n"),
        ("a.tsv", "\ufeffImage\tCaption\r\na.jpg\tmany planes .\r\nb/c.jpg\ta port\r\na.jpg\ttwo, ships\r\n"),
        ("a.csv", "id;path;text\n1;a.jpg;many planes .\n2;b/c.jpg;a port\n3;a.jpg;two, ships"),
        (
            "a.jsonl",
            '{"image": "a.jpg", "captions": ["many planes .", "two, ships"]}\n\n'
            '{"image": "b/c.jpg", "captions": "a port"}',
        ),
    ],
)
def test_tables(read: Read, name: str, text: str) -> None:
    found = read(pairs, name, text)
    assert found.issues == []
    assert told(found) == EXPECTED


def test_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {"filename": ["a.jpg", "b/c.jpg"], "text": [["many planes .", "two, ships"], ["a port"]], "x": [1, 2]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = read_written(tmp_path, pairs, "a.parquet", (tmp_path / "a.parquet").read_bytes())
    assert told(found) == EXPECTED
    with pytest.raises(AnnotationError, match="not a Parquet file"):
        read_written(tmp_path, pairs, "a.parquet", b"PAR1 and no more")


def test_a_split_column_and_lines(read: Read) -> None:
    text = 'split,image,caption\ntest,a.jpg,"one\ncaption"\nval,b.jpg,\nval,b.jpg,x,y\n,c.jpg,z\n'
    found = read(pairs, "a.csv", text)
    assert found.issues == [("dropped", "E34", 4), ("dropped", "E34", 5)]
    assert told(found) == [
        ("a.jpg", ["one\ncaption"], "test"),
        ("b.jpg", [], "val"),
        ("c.jpg", ["z"], "train"),
    ]
    assert [one.place for one in found.records] == [2, 4, 6]


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv", "a.jpg,many planes\n1,2\n"), ("a.csv", "image,note\n1,2\n"), ("a.jsonl", '{"image": "a"}\n')],
)
def test_without_the_columns(read: Read, name: str, text: str) -> None:
    with pytest.raises(AnnotationError, match="no column"):
        read(pairs, name, text)


def test_columns_of_other_names(read: Read) -> None:
    found = read(pairs, "a.csv", "bild,satz\na.jpg,x\n", image_column="bild", caption_column="Satz")
    assert told(found) == [("a.jpg", ["x"], "train")]


@pytest.mark.parametrize(
    "line", ['{"image": ', "5", '{"image": 5, "caption": "x"}', '{"image": "a", "caption": 5}', "[" * 9999]
)
def test_rows_that_do_not_parse(read: Read, line: str) -> None:
    found = read(pairs, "a.jsonl", json.dumps({"image": "a", "caption": "b"}) + "\n" + line + "\n")
    assert found.issues == [("dropped", "E34", 2)]


def test_folders(tmp_path: Path) -> None:
    nouns = {"AnnualCrop": "annual crop land"}
    (record,) = read_written(tmp_path, folders, "x/annual_crop/1.jpg", b"", nouns).records
    assert record == Record(
        "x/annual_crop/1.jpg", label="annual crop land", annotation="x/annual_crop/1.jpg", boxes=[]
    )
    (record,) = read_written(tmp_path, folders, "annual_crop/y/1.jpg", b"", nouns, level=2).records
    assert record.label == "annual crop land"
    for path, level in (("x/sea/1.jpg", 1), ("1.jpg", 1), ("x/1.jpg", 2), ("x/1.jpg", 0)):
        found = read_written(tmp_path, folders, path, b"", nouns, level=level)
        assert [(item.action, item.code) for item in found.rejections] == [("rejected", "E17")]
        assert found.records == []
