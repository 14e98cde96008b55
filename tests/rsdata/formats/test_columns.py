from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from reading import Read

from rsdata import recipes
from rsdata.classes import Classes
from rsdata.errors import RecipeError
from rsdata.formats import columns, tracks
from rsdata.records import Box, Record

NOUNS = {"1": "pedestrian", "4": "car", "9": "bus"}
VISDRONE = {"fields": "left top width height score class truncated occluded", "separators": ","}
SDD = {"fields": "- xmin ymin xmax ymax frame lost occluded generated class"}


def test_visdrone(read: Read) -> None:
    text = (
        "684,8,273,116,1,4,0,0\n1,2,3,4,1,1,1,2,\n 5, 6 ,7,8,1,9,0,1\n9,9,4,4,0,4,0,0\n0.5,0,1.5,2,1,4,0,0\n"
    )
    found = read(columns, "a.txt", text, NOUNS, ("0", "11"), **VISDRONE)
    assert found.issues == []
    assert found.records == [
        Record(
            "",
            [
                Box("car", "4", 684, 8, 957, 124, None, ()),
                Box("pedestrian", "1", 1, 2, 4, 6, None, ("truncated", "occluded")),
                Box("bus", "9", 5, 6, 12, 14, None, ("occluded",)),
                Box("car", "4", 9, 9, 13, 13, None, ("ignored",)),
                Box("car", "4", 0.5, 0, 2, 2, None, ()),
            ],
            annotation="a.txt",
            lines=[1, 2, 3, 4, 5],
        )
    ]


@pytest.mark.parametrize(
    ("text", "options", "box"),
    [
        ("650 463 746 538 1", {}, Box("1", "1", 650, 463, 746, 538)),
        ("650 463 746 538 1", {"base": 1}, Box("1", "1", 649, 462, 746, 538)),
        ("(563,478),(630,573),10 ", {"separators": "(),"}, Box("10", "10", 563, 478, 630, 573)),
        (
            "10;20;4;6;a b",
            {"separators": ";", "fields": "cx cy width height class"},
            Box("a b", "a b", 8, 17, 12, 23),
        ),
        (
            'x "T junction" 1 2 3 4',
            {"fields": "- class xmin ymin xmax ymax"},
            Box("T junction", "T junction", 1, 2, 3, 4),
        ),
        ("a 1 2 3 4", {"fields": "class xmin ymin xmax ymax difficult?"}, Box("a", "a", 1, 2, 3, 4)),
        (
            "a 1 2 3 4 1",
            {"fields": "class xmin ymin xmax ymax difficult?"},
            Box("a", "a", 1, 2, 3, 4, None, ("difficult",)),
        ),
        (
            "5 9 9 5 1 1 3 3 a",
            {"fields": "x1 x2 x3 x4 y1 y2 y3 y4 class"},
            Box("a", "a", 5, 1, 9, 3, [5, 1, 9, 1, 9, 3, 5, 3]),
        ),
        ("1 2 3 4 7.0", {}, Box("7", "7", 1, 2, 3, 4)),
    ],
)
def test_profiles(read: Read, text: str, options: dict[str, object], box: Box) -> None:
    found = read(columns, "a.txt", text, {box.raw_label: box.label}, **options)
    assert (found.issues, found.boxes) == ([], [box])


def test_alternatives_of_other_lengths(read: Read) -> None:
    fields = [
        "class xmin ymin xmax ymax",
        "xmin ymin width height track class".replace("track", "-").replace("xmin ymin", "left top"),
    ]
    found = read(columns, "a.txt", "a 1 2 3 4\n1 2 3 4 9 a\n1 2 3\n", {"a": "a"}, fields=fields)
    assert [box[2:6] for box in found.boxes] == [(1, 2, 3, 4), (1, 2, 4, 6)]
    assert found.issues == [("dropped", "E05", 3)]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("1 2 3 4", "E05"),
        ("1 2 3 4 a b", "E05"),
        ("1 2 3 x a", "E06"),
        ("1 2 3 4 4.5", "E06"),
        ("1 2 3 4 nan", "E06"),
        ("1 2 3 4 inf", "E06"),
        ('1 2 3 "4 a', "E06"),
    ],
)
def test_lines_that_do_not_parse(read: Read, line: str, code: str) -> None:
    assert read(columns, "a.txt", f"1 2 3 4 a\n{line}\n", {"a": "a"}).issues == [("dropped", code, 2)]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ("xmin ymin xmax ymax", "expected class"),
        ("class xmin ymin", "expected class, and edges"),
        ("class x1 y1 x2 y2", "expected class, and edges"),
        ("class xmin ymin xmax ymaks", "'ymaks' is not known"),
    ],
)
def test_profiles_that_say_too_little(tmp_path: Path, fields: str, why: str) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(RecipeError, match=why):
        list(columns.read(tmp_path, "a.txt", Classes(None), fields))


LEVIR = recipes.load("levir")


@pytest.mark.parametrize("order", range(4))
def test_what_the_columns_mean_is_settled_by_the_dump(tmp_path: Path, order: int) -> None:
    """Boxes all over the image fit one reading of LEVIR's columns only."""
    Image.new("L", (800, 600)).save(tmp_path / "a.png")
    boxes = [
        (700, 500, 790, 590),
        (20, 300, 60, 500),
        (400, 10, 700, 40),
        (5, 5, 9, 12),
        (799, 590, 800, 600),
    ]
    lines = []
    for number, (a, b, c, d) in enumerate(boxes):
        values = (a, b, c, d) if order < 2 else (a, b, c - a, d - b)
        kind = (1 + number % 3,)
        lines.append(" ".join(map(str, (*kind, *values) if order % 2 == 0 else (*values, *kind))))
    (tmp_path / "a.txt").write_text("\n".join(lines))
    options = LEVIR.splits["unsplit"][0].options
    settled = columns.prepare(tmp_path, [("a.txt", "a.png")], options, LEVIR.classes())
    assert settled["fields"] == [options["fields"][order]]
    (record,) = columns.read(tmp_path, "a.txt", LEVIR.classes(), **settled)
    assert isinstance(record, Record)
    assert [box[2:6] for box in record.boxes] == boxes


@pytest.mark.parametrize("text", ["1 1 2 3 3\n", "-1 -1 -1 -1 -1\n"])
def test_what_the_columns_mean_is_not_guessed(tmp_path: Path, text: str) -> None:
    Image.new("L", (800, 600)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(text)
    options = LEVIR.splits["unsplit"][0].options
    with pytest.raises(RecipeError, match=r"not guessed: .* of 1 lines.*--option fields="):
        columns.prepare(tmp_path, [("a.txt", "a.png")], options, LEVIR.classes())
    said = {**options, "fields": "class xmin ymin xmax ymax"}
    assert columns.prepare(tmp_path, [("a.txt", "a.png")], said, LEVIR.classes()) == said


def test_tracks_by_frame_and_step(read: Read) -> None:
    text = (
        '7 1 2 3 4 60 0 0 0 "Biker"\n7 1 2 3 4 30 0 1 1 "Biker"\n'
        '8 5 6 7 8 30 1 0 0 "Car"\n7 1 2 3 4 31 0 0 0 "Biker"\n'
    )
    found = read(tracks, "annotations.txt", text, step=30, **SDD)
    assert found.issues == []
    assert found.records == [
        Record(
            "30",
            [
                Box("Biker", "Biker", 1, 2, 3, 4, None, ("occluded", "generated")),
                Box("Car", "Car", 5, 6, 7, 8, None, ("ignored",)),
            ],
            annotation="annotations.txt",
            lines=[2, 3],
        ),
        Record("60", [Box("Biker", "Biker", 1, 2, 3, 4)], annotation="annotations.txt", lines=[1]),
    ]
    assert len(read(tracks, "annotations.txt", text, **SDD).records) == 3
    with pytest.raises(RecipeError, match="step = 0"):
        read(tracks, "annotations.txt", text, step=0, **SDD)
