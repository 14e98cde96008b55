from __future__ import annotations

from pathlib import Path

import pytest
from reading import Read

from rsdata import recipes
from rsdata.classes import Classes
from rsdata.formats import visdrone
from rsdata.records import Box, Record

NOUNS = {"1": "pedestrian", "4": "car", "9": "bus"}
IGNORED = ("0", "11")


def test_every_feature_of_the_grammar(read: Read) -> None:
    text = (
        "684,8,273,116,1,4,0,0\n1,2,3,4,1,1,1,2,\n 5, 6 ,7,8,1,9,0,1\n9,9,4,4,0,4,0,0\n0.5,0,1.5,2,1,4,0,0\n"
    )
    found = read(visdrone, "a.txt", text, NOUNS, IGNORED)
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


DIRTY = """\
1,1,10,10,1,4,0,0

1,1,10,10,1,4,0,0
1,1,10,10,1,4,0
7,1,1,1,10,10,1,4,0,0
1,1,ten,10,1,4,0,0
1,1,nan,10,1,4,0,0
1,1,10,10,1,nan,0,0
1,1,10,10,1,inf,0,0
1,1,10,10,1,4.5,0,0
1,1,10,0,1,4,0,0
20,20,-5,-5,1,4,0,0
60,40,10,10,1,4,0,0
64,0,10,10,1,4,0,0
-9,0,10,10,1,4,0,0
3,3,4,4,0,4,0,0
3,3,4,4,1,0,0,0
3,3,4,4,1,11,0,0
3,3,4,4,1,12,0,0
2,2,4,4,1,9,0,0,
"""


def test_the_dirty_twin(read: Read) -> None:
    found = read(visdrone, "a.txt", DIRTY, NOUNS, IGNORED, size=(64, 48))
    assert found.issues == [
        ("dropped", "E05", 4),
        ("dropped", "E05", 5),
        ("dropped", "E06", 6),
        ("dropped", "E06", 8),
        ("dropped", "E06", 9),
        ("dropped", "E06", 10),
        ("dropped", "E15", 3),
        ("dropped", "E06", 7),
        ("dropped", "E12", 11),
        ("repaired", "E11", 12),
        ("repaired", "E13", 13),
        ("dropped", "E14", 14),
        ("dropped", "E13", 15),
        ("dropped", "E19", 16),
        ("dropped", "E19", 17),
        ("dropped", "E19", 18),
        ("dropped", "E17", 19),
    ]
    assert [(box.label, *box[2:6]) for box in found.boxes] == [
        ("car", 1, 1, 11, 11),
        ("car", 15, 15, 20, 20),
        ("car", 60, 40, 64, 48),
        ("bus", 2, 2, 6, 6),
    ]
    assert "VisDrone-VID" in next(item.why for item in found.rejections if item.line == 5)


@pytest.mark.parametrize(
    ("encoding", "end", "issues"),
    [
        ("utf-8-sig", "\r\n", []),
        ("utf-8", "\r", []),
        ("utf-16", "\r\n", [("repaired", "E03", 0)]),
    ],
)
def test_encodings_and_line_ends(
    read: Read, encoding: str, end: str, issues: list[tuple[str, str, int]]
) -> None:
    text = "1,1,10,10,1,4,0,0\n2,2,4,4,1,9,0,0\n"
    found = read(visdrone, "a.txt", text.replace("\n", end).encode(encoding), NOUNS)
    assert found.records == read(visdrone, "a.txt", text, NOUNS).records
    assert found.issues == issues


def test_without_a_recipe_no_number_is_a_class(read: Read) -> None:
    found = read(visdrone, "a.txt", "1,1,10,10,1,4,0,0\n", None, size=(64, 48))
    assert found.issues == [("dropped", "E17", 1)]


def test_write_is_the_inverse(tmp_path: Path) -> None:
    boxes = [
        Box("car", "4", 1, 2, 11, 8, None, ("truncated",)),
        Box("person", "2", 3, 3, 9, 9, None, ("occluded",)),
    ]
    visdrone.write(tmp_path / "a.txt", [Record("", boxes)])
    assert (tmp_path / "a.txt").read_text() == "1,2,10,6,1,4,1,0\n3,3,6,6,1,2,0,1\n"
    (again,) = visdrone.read(tmp_path, "a.txt", recipes.load("visdrone").classes())
    assert isinstance(again, Record)
    assert again.boxes == boxes


def test_the_recipe_ignores_regions_and_others() -> None:
    classes = recipes.load("visdrone").classes()
    assert isinstance(classes, Classes)
    assert [classes[str(number)] for number in range(12)][0::11] == ["", ""]
    assert all(classes[str(number)] for number in range(1, 11))
    assert classes.ignores("0")
    assert classes.ignores("11")
    assert not classes.ignores("12")
