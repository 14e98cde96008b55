from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reading import Read

from rsdata.classes import Classes
from rsdata.errors import AnnotationError
from rsdata.formats import karpathy
from rsdata.records import Record


def image(name: str, *captions: Any, split: Any = "train", **more: Any) -> dict[str, Any]:
    sentences = [{"raw": item, "tokens": []} if isinstance(item, str) else item for item in captions]
    return {"filename": name, "imgid": 0, "split": split, "sentences": sentences, **more}


def text_of(*images: Any) -> str:
    """A document with one image a line, the first at line 3."""
    lines = ",\n".join(
        item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in images
    )
    return f'{{"dataset": "x",\n"images": [\n{lines}\n]}}\n'


def test_every_feature_of_the_grammar(read: Read) -> None:
    text = text_of(
        image("a.tif", "Many planes .", "Many planes .", " two ships", split="test"),
        image("b.jpg", {"tokens": ["a", "church", 5]}, {"raw": "it’s a port", "sentid": 3}, split="val"),
        image("c.jpg", filepath="val2014/"),
        image("d.jpg", "x", split=3),
        {"filename": "e.jpg", "sentences": [{"raw": "y"}]},
        '{"filename": "f.jpg", "sentences": ["plain text"]}',
    )
    found = read(karpathy, "dataset.json", text)
    assert found.issues == []
    assert [(record.image, record.captions, record.split, record.place) for record in found.records] == [
        ("a.tif", ["Many planes .", "Many planes .", " two ships"], "test", 3),
        ("b.jpg", ["a church 5", "it’s a port"], "val", 4),
        ("val2014/c.jpg", [], "train", 5),
        ("d.jpg", ["x"], "", 6),
        ("e.jpg", ["y"], "", 7),
        ("f.jpg", ["plain text"], "", 8),
    ]
    assert all(record.annotation == "dataset.json" and not record.boxes for record in found.records)


@pytest.mark.parametrize(
    ("encoding", "end", "issues"),
    [
        ("utf-8", "\n", []),
        ("utf-8-sig", "\r\n", []),
        ("utf-8", "\r", []),
        ("utf-16", "\n", [("repaired", "E03", 0)]),
        ("gb18030", "\n", [("repaired", "E03", 0)]),
    ],
)
def test_the_dirty_twin(read: Read, encoding: str, end: str, issues: list[tuple[str, str, int]]) -> None:
    text = text_of(
        image("a.jpg", "a 船 .", "", "  ", "a 船 ."),
        image("a.jpg", "again"),
        image("", "no name"),
        {"sentences": []},
        "5",
        {"filename": 5, "sentences": []},
        {"filename": "b.jpg"},
        image("c.jpg", {"sentid": 5}),
        image("d.jpg", 7),
        image("e.jpg", "whole"),
    )
    found = read(karpathy, "x.json", text.replace("\n", end).encode(encoding))
    assert found.issues == [
        *issues,
        ("dropped", "E34", 3),
        ("dropped", "E34", 3),
        *(("rejected", "E16" if line == 4 else "E05", line) for line in range(4, 12)),
    ]
    assert [(record.image, record.captions, record.place) for record in found.records] == [
        ("a.jpg", ["a 船 .", "a 船 ."], 3),
        ("e.jpg", ["whole"], 12),
    ]
    rejected = [item.image for item in found.rejections if item.action == "rejected"]
    assert rejected == ["a.jpg", "images[2]", "images[3]", "images[4]", "5", "b.jpg", "c.jpg", "d.jpg"]


def test_half_of_a_surrogate_pair_is_replaced(read: Read) -> None:
    text = text_of('{"filename": "a.jpg", "sentences": ["\\ud83d\\ude00 \\ud83d", "\\uDE00 船 \\u8239"]}')
    (record,) = read(karpathy, "x.json", text).records
    assert record.captions == ["\U0001f600 \ufffd", "\ufffd 船 船"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", 1),
        ("[1]", 1),
        ('{"dataset": "x"}', 0),
        ('{"airport": [{"filename": "a.jpg", "sentences": []}]}', 0),
        ('{"a": 1,\n\n"images": [,]}', 3),
    ],
)
def test_files_that_are_refused_whole(tmp_path: Path, content: str, line: int) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(AnnotationError) as caught:
        list(karpathy.read(tmp_path, "x.json", Classes(None)))
    assert (caught.value.path, caught.value.code, caught.value.line) == ("x.json", "E01", line)


def test_of_a_truncated_file_what_came_before_is_read(tmp_path: Path) -> None:
    text = text_of(image("a.jpg", "x"), image("b.jpg", "y"))
    (tmp_path / "x.json").write_text(text[: text.index("b.jpg")])
    items = karpathy.read(tmp_path, "x.json", Classes(None))
    first = next(items)
    assert isinstance(first, Record)
    assert first.image == "a.jpg"
    with pytest.raises(AnnotationError) as caught:
        next(items)
    assert (caught.value.code, caught.value.line) == ("E01", 4)


def test_no_images_are_no_error(read: Read) -> None:
    assert read(karpathy, "x.json", text_of()).issues == []


def test_write_is_the_inverse(tmp_path: Path) -> None:
    records = [
        Record("a.jpg", captions=["A ship .", "It’s a ship."], split="test"),
        Record("sub/b.jpg", captions=[], split="train"),
    ]
    karpathy.write(tmp_path / "dataset_x.json", records)
    assert json.loads((tmp_path / "dataset_x.json").read_text())["dataset"] == "x"
    again = list(karpathy.read(tmp_path, "dataset_x.json", Classes(None)))
    assert [(r.image, list(r.captions), r.split) for r in again if isinstance(r, Record)] == [
        (record.image, list(record.captions), record.split) for record in records
    ]


def test_nwpu_captions(read: Read) -> None:
    five = '"raw": "a", "raw_1": "b", "raw_2": "c", "raw_3": " ", "raw_4": "e"'
    text = (
        '{"tennis_court": [\n{"filename": "tennis_court_001.jpg", "split": "test", "imgid": 1, '
        + five
        + "},\n"
        '{"filename": "tennis_court_002.jpg", "split": "train", "raw": 5}],\n'
        '"airport": [{"filename": "airport_001.jpg", "split": "val", "raw": "x"}]}'
    )
    found = read(karpathy, "dataset_nwpu.json", text)
    assert found.issues == [("dropped", "E34", 2), ("rejected", "E05", 3)]
    assert [(one.image, one.captions, one.split, one.label, one.place) for one in found.records] == [
        ("tennis_court/tennis_court_001.jpg", ["a", "b", "c", "e"], "test", "tennis court", 2),
        ("airport/airport_001.jpg", ["x"], "val", "airport", 4),
    ]
