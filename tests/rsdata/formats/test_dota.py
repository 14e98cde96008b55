from __future__ import annotations

from pathlib import Path

import pytest
from reading import Read

from rsdata.classes import Classes
from rsdata.errors import AnnotationError
from rsdata.formats import dota
from rsdata.records import Box, Record

NOUNS = {"ship": "ship", "small-vehicle": "small vehicle", "plane": "plane"}

CLEAN = """\
imagesource:GoogleEarth
gsd:0.146343590398
2753 2408 2861 2385 2888 2468 2805 2502 plane 0
10 10 30.5 12.25 28 40 8 38 small-vehicle 1
10.0,10.0,20.0,10.0,20.0,20.0,10.0,20.0,ship,2
0 0 5 0 5 5 0 5 Small_Vehicle
"""

QUAD = "10 10 20 10 20 20 10 20"


def test_every_feature_of_the_grammar(read: Read) -> None:
    found = read(dota, "a.txt", CLEAN, NOUNS)
    (record,) = found.records
    assert found.issues == []
    assert record == Record(
        "",
        [
            Box(
                "plane", "plane", 2753, 2385, 2888, 2502,
                [2753, 2408, 2861, 2385, 2888, 2468, 2805, 2502], (),
            ),
            Box(
                "small vehicle", "small-vehicle", 8, 10, 30.5, 40,
                [10, 10, 30.5, 12.25, 28, 40, 8, 38], ("difficult",),
            ),
            Box("ship", "ship", 10, 10, 20, 20, [10, 10, 20, 10, 20, 20, 10, 20], ("truncated",)),
            Box("small vehicle", "Small_Vehicle", 0, 0, 5, 5, [0, 0, 5, 0, 5, 5, 0, 5], ()),
        ],
        annotation="a.txt",
        lines=[3, 4, 5, 6],
        gsd=0.146343590398,
    )  # fmt: skip


@pytest.mark.parametrize("text", ["", "\n\n", "imagesource:GF\ngsd:null\n", "\ufeffimagesource:GF\n"])
def test_a_file_without_objects_is_an_image_without_objects(read: Read, text: str) -> None:
    found = read(dota, "a.txt", text, NOUNS)
    assert found.issues == []
    assert found.records == [Record("", [], annotation="a.txt", lines=[])]


@pytest.mark.parametrize(
    ("encoding", "end", "issues"),
    [
        ("utf-8", "\n", []),
        ("utf-8", "\r\n", []),
        ("utf-8", "\r", []),
        ("utf-8-sig", "\r\n", []),
        ("utf-16", "\n", [("repaired", "E03", 0)]),
    ],
)
def test_encodings_and_line_ends_change_nothing(
    read: Read, encoding: str, end: str, issues: list[tuple[str, str, int]]
) -> None:
    found = read(dota, "a.txt", CLEAN.replace("\n", end).encode(encoding), NOUNS)
    assert found.records == read(dota, "a.txt", CLEAN, NOUNS).records
    assert found.issues == issues


def test_other_encodings_are_read_and_reported(read: Read) -> None:
    found = read(dota, "a.txt", f"{QUAD} 船 0\n".encode("gb18030"), {"船": "ship"})
    assert [(box.label, box.raw_label) for box in found.boxes] == [("ship", "船")]
    assert found.issues == [("repaired", "E03", 0)]
    found = read(dota, "a.txt", f"{QUAD} caf\xe9 0\n".encode("latin-1"), None)
    assert found.issues == [("repaired", "E03", 0)]


DIRTY = f"""\
imagesource:GoogleEarth

{QUAD} ship 0
{QUAD} ship
{QUAD} ship 0 extra
1 2 3 4 5 6 7
10 10 20 10 20 20 10 x ship 0
{QUAD} ship 7
nan 10 20 10 20 20 10 20 ship 0
10 10 inf 10 20 20 10 20 ship 0
{QUAD} submarine 0
5 5 5 9 5 12 5 5 ship 0
1 1 9 9 5 5 3 3 plane 0
-4 0 6 0 6 10 -4 10 ship 0
-9 0 1 0 1 10 -9 10 ship 0
100 0 120 0 120 10 100 10 ship 0
30 30 40 40 40 30 30 40 ship 0
\t1\t1  4 1 4 4 1 4 ship 1\t
"""


def test_the_dirty_twin(read: Read) -> None:
    found = read(dota, "a.txt", DIRTY, NOUNS, size=(64, 48))
    assert found.issues == [
        ("dropped", "E05", 5),
        ("dropped", "E05", 6),
        ("dropped", "E06", 7),
        ("dropped", "E06", 8),
        ("dropped", "E15", 4),
        ("dropped", "E06", 9),
        ("dropped", "E06", 10),
        ("dropped", "E17", 11),
        ("dropped", "E12", 12),
        ("dropped", "E12", 13),
        ("repaired", "E13", 14),
        ("dropped", "E13", 15),
        ("dropped", "E14", 16),
        ("repaired", "E20", 17),
    ]
    assert [box[2:6] for box in found.boxes] == [
        (10, 10, 20, 20),
        (0, 0, 6, 10),
        (30, 30, 40, 40),
        (1, 1, 4, 4),
    ]
    crossing = found.boxes[2].polygon
    assert crossing is not None
    assert sorted(zip(crossing[0::2], crossing[1::2], strict=True)) == [
        (30, 30),
        (30, 40),
        (40, 30),
        (40, 40),
    ]


def test_a_missing_file_is_an_annotation_error(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"none.txt: E01 cannot be read"):
        list(dota.read(tmp_path, "none.txt", Classes(None)))


def test_write_is_the_inverse(tmp_path: Path) -> None:
    boxes = [
        Box("ship", "ship", 1, 2, 11.5, 8.25, [1, 2, 11.5, 2, 11.5, 8.25, 1, 8.25], ("difficult",)),
        Box("plane", "plane", 3, 3, 9, 9, [3, 5, 5, 3, 9, 7, 7, 9], ("truncated",)),
        Box("plane", "plane", 0, 0, 9, 9, None, ()),
    ]
    dota.write(tmp_path / "a.txt", [Record("", boxes)])
    (again,) = dota.read(tmp_path, "a.txt", Classes(NOUNS))
    assert isinstance(again, Record)
    assert list(again.boxes) == [*boxes[:2], boxes[2]._replace(polygon=[0, 0, 9, 0, 9, 9, 0, 9])]


@pytest.mark.parametrize("header", ["gsd:null", "gsd:", "gsd:-1", "gsd:nan", "gsd:1e9", "imagesource:GF"])
def test_a_header_without_a_gsd(read: Read, header: str) -> None:
    (record,) = read(dota, "a.txt", f"{header}\n1 1 2 1 2 2 1 2 ship 0\n").records
    assert record.gsd is None
