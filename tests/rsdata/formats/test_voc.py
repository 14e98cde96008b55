from __future__ import annotations

import math
from pathlib import Path

import pytest
from reading import Read

from rsdata.classes import Classes
from rsdata.errors import AnnotationError, RecipeError
from rsdata.formats import voc
from rsdata.records import Box, Record

NOUNS = {"ship": "ship", "T junction": "T junction", "船": "ship", "airplane": "airplane"}


def bndbox(xmin: object, ymin: object, xmax: object, ymax: object) -> str:
    return f"<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>"


def ship(*corners: object, name: str = "ship", more: str = "") -> str:
    return f"<object><name>{name}</name>{more}{bndbox(*corners)}</object>"


CLEAN = f"""\
<?xml version="1.0" encoding="utf-8"?>
<annotation>
  <folder>x</folder><filename> 00001.jpg </filename>
  <size><height>600</height><width>800.0</width><depth>3</depth></size>
  <object>
    <pose>Unspecified</pose><truncated>Unspecified</truncated><difficult> 1 </difficult>
    <bndbox><ymax>40</ymax><xmax>30.0</xmax><ymin> 20 </ymin><xmin>10</xmin></bndbox>
    <part><name>bow</name>{bndbox(1, 1, 2, 2)}</part>
    <name> ship </name>
  </object>
  {ship(1, 2, 3, 4, name="T junction", more="<truncated>1</truncated><occluded>1</occluded>")}
  <object><name>ship</name>{bndbox(1, 2, 3, 4)}{bndbox(5, 6, 7, 8)}</object>
  <object><name>ship</name>
    <robndbox><x_right_top>20</x_right_top><y_right_top>5</y_right_top>
      <x_left_top>10</x_left_top><y_left_top>8</y_left_top><x_left_bottom>12</x_left_bottom>
      <y_left_bottom>18</y_left_bottom><x_right_bottom>22</x_right_bottom>
      <y_right_bottom>15</y_right_bottom></robndbox></object>
  <object><name>ship</name>{bndbox(10, 10, 50, 50)}
    <polygon><x1>10</x1><y1>10</y1><x2>50</x2><y2>10</y2><x3>30</x3><y3>50</y3></polygon></object>
  <objects><object><name>ship</name>{bndbox(2, 3, 4, 5)}</object></objects>
</annotation>
"""


def test_every_feature_of_the_grammar(read: Read) -> None:
    found = read(voc, "a.xml", CLEAN, NOUNS)
    assert found.issues == []
    assert found.records == [
        Record(
            "00001.jpg",
            [
                Box("ship", "ship", 10, 20, 30, 40, None, ("difficult",)),
                Box("T junction", "T junction", 1, 2, 3, 4, None, ("truncated", "occluded")),
                Box("ship", "ship", 1, 2, 3, 4),
                Box("ship", "ship", 5, 6, 7, 8),
                Box("ship", "ship", 10, 5, 22, 18, [10, 8, 20, 5, 22, 15, 12, 18]),
                Box("ship", "ship", 10, 10, 50, 50, [10, 10, 50, 10, 30, 50]),
                Box("ship", "ship", 2, 3, 4, 5),
            ],
            800,
            600,
            annotation="a.xml",
            lines=[0, 1, 2, 2, 3, 4, 5],
            element="object",
        )
    ]


def test_the_first_pixel_is_at_one_in_base_1(read: Read) -> None:
    found = read(voc, "a.xml", CLEAN, NOUNS, base=1)
    assert [box[2:6] for box in found.boxes] == [
        (9, 19, 30, 40), (0, 1, 3, 4), (0, 1, 3, 4), (4, 5, 7, 8),
        (9, 4, 21, 17), (9, 9, 50, 50), (1, 2, 4, 5),
    ]  # fmt: skip
    assert found.boxes[4].polygon == [9, 7, 19, 4, 21, 14, 11, 17]
    assert found.boxes[5].polygon == [9, 9, 49, 9, 29, 49]


@pytest.mark.parametrize(
    "tags",
    [
        "<robndbox><cx>50</cx><cy>40</cy><w>20</w><h>10</h><angle>{}</angle></robndbox>",
        "<rotated_box><cx>50</cx><cy>40</cy><width>20</width><height>10</height><rot>{}</rot></rotated_box>",
    ],
)
def test_rotated_boxes_turn_clockwise_on_the_screen(read: Read, tags: str) -> None:
    text = f"<annotation><object><name>ship</name>{tags.format(math.pi / 6)}</object></annotation>"
    (box,) = read(voc, "a.xml", text, NOUNS).boxes
    cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
    right = (50 + 10 * cos, 40 + 10 * sin)
    assert box.polygon is not None
    x, y = box.polygon[0::2], box.polygon[1::2]
    assert ((x[1] + x[2]) / 2, (y[1] + y[2]) / 2) == pytest.approx(right)
    assert box[2:6] == pytest.approx((min(x), min(y), max(x), max(y)))
    assert box.xmax - box.xmin == pytest.approx(20 * cos + 10 * sin)


OBJECTS = [
    ship(10, 10, 20, 20),
    ship(10, 10, 20, 20),
    ship(1, 1, "x", 9),
    ship(1, 1, "", 9),
    ship(1, 1, "nan", 9),
    ship(1, 1, "inf", 9),
    "<object><name>ship</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax></bndbox></object>",
    "<object><name>ship</name></object>",
    f"<object>{bndbox(1, 1, 9, 9)}</object>",
    ship(1, 1, 9, 9, name="submarine"),
    ship(5, 5, 5, 9),
    ship(30, 30, 25, 28),
    ship(60, 40, 70, 50),
    ship(64, 0, 70, 9),
    ship(-9, 0, 1, 9),
    "<object><name>ship</name><polygon><x1>1</x1><y1>1</y1><x2>2</x2><y2>2</y2></polygon></object>",
    "<object><name>ship</name><polygon><x1>1</x1><y1>q</y1></polygon></object>",
    ship(1, 1, 9, 9, name="background"),
]
ISSUES = [
    ("dropped", "E06", 3),
    ("dropped", "E06", 4),
    ("dropped", "E05", 7),
    ("dropped", "E05", 8),
    ("dropped", "E05", 9),
    ("dropped", "E05", 16),
    ("dropped", "E06", 17),
    ("dropped", "E15", 2),
    ("dropped", "E06", 5),
    ("dropped", "E06", 6),
    ("dropped", "E17", 10),
    ("dropped", "E12", 11),
    ("repaired", "E11", 12),
    ("repaired", "E13", 13),
    ("dropped", "E14", 14),
    ("dropped", "E13", 15),
    ("dropped", "E19", 18),
]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("encoding", "declared", "extra"),
    [
        ("utf-8", "utf-8", []),
        ("utf-8-sig", "utf-8", []),
        ("utf-16", "utf-16", []),
        ("gb18030", "gb2312", [("repaired", "E03", 0)]),
        ("gb18030", "utf-8", [("repaired", "E03", 0)]),
        ("utf-8", "no-such-encoding", []),
    ],
)
def test_the_dirty_twin(
    read: Read, end: str, encoding: str, declared: str, extra: list[tuple[str, str, int]]
) -> None:
    head = f'<?xml version="1.0" encoding="{declared}"?>\n<annotation>\n<!-- 船 -->\n\n'
    text = head + "\n\n".join(OBJECTS) + "\n</annotation>\n"
    found = read(
        voc, "a.xml", text.replace("\n", end).encode(encoding), NOUNS, ("background",), size=(64, 48)
    )
    lines = {number: 5 + 2 * (number - 1) for number in range(1, len(OBJECTS) + 1)}
    assert found.issues == [*extra, *((action, code, lines[number]) for action, code, number in ISSUES)]
    assert [box[2:6] for box in found.boxes] == [(10, 10, 20, 20), (25, 28, 30, 30), (60, 40, 64, 48)]


def test_a_class_in_chinese_under_a_declared_gb_encoding(read: Read) -> None:
    text = f'<?xml version="1.0" encoding="GBK"?><annotation>{ship(1, 2, 3, 4, name="船")}</annotation>'
    assert read(voc, "a.xml", text.encode("gbk"), NOUNS).boxes == [Box("ship", "船", 1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b"", "E09", 0),
        (b" \n ", "E09", 0),
        (b"<annotation>\n<object>\n<name>ship</name>", "E01", 3),
        (b"<annotation>\n</object>\n</annotation>", "E01", 2),
        (b"not xml", "E01", 1),
        (b"\x89PNG\r\n\x1a\n\0\0", "E01", None),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "E29", 0),
        (
            '<?xml version="1.0"?><!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>'.encode("utf-16"),
            "E29",
            0,
        ),
        ("<!DOCTYPE a><annotation/>".encode("utf-16-be"), "E29", 0),
        (b'<annotation><!ENTITY x "y"></annotation>', "E29", 0),
        (b"<annotation>" + b"<a>" * 100_000, "E01", 1),
        (b"<HRSC_Image><HRSC_Objects><HRSC_Object/></HRSC_Objects></HRSC_Image>", "E01", 0),
    ],
)
def test_files_that_are_refused_whole(tmp_path: Path, content: bytes, code: str, line: int | None) -> None:
    (tmp_path / "a.xml").write_bytes(content)
    with pytest.raises(AnnotationError) as caught:
        list(voc.read(tmp_path, "a.xml", Classes(NOUNS)))
    assert (caught.value.path, caught.value.code) == ("a.xml", code)
    assert line is None or caught.value.line == line


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        ("0", None),
        ("-3", None),
        ("", None),
        ("x", None),
        ("nan", None),
        ("1e9999", None),
        ("1e30", None),
        ("7.0", 7),
    ],
)
def test_a_size_that_is_none_is_not_believed(read: Read, width: str, expected: int | None) -> None:
    text = f"<annotation><size><width>{width}</width><height>5</height></size></annotation>"
    (record,) = read(voc, "a.xml", text).records
    assert (record.width, record.height) == (expected, 5)


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("<xmin>1</xmin>", 1),
        ("<xmin>10</xmin><ymin>100.0</ymin>", 1),
        ("<xmin></xmin>", 1),
        ("<xmin>0.5</xmin>", 1),
        ("<xmax>0</xmax>", 1),
        ("<xmin>0</xmin>", 0),
        ("<ymin> 0.00 </ymin>", 0),
        ("<x_left_top>0</x_left_top>", 0),
        ("<polygon><x1>0</x1></polygon>", 0),
    ],
)
def test_auto_settles_the_base_over_the_whole_set(tmp_path: Path, text: str, base: int) -> None:
    (tmp_path / "a.xml").write_text("<xmin>7</xmin>")
    (tmp_path / "b.xml").write_text(text)
    names = ["a.xml", "gone.xml", "b.xml"]
    assert voc.prepare(tmp_path, [(name, "") for name in names], {}, Classes(None)) == {"base": base}
    assert voc.prepare(tmp_path, [(name, "") for name in names], {"base": "auto"}, Classes(None)) == {
        "base": base
    }
    assert voc.prepare(tmp_path, [(name, "") for name in names], {"base": 1 - base}, Classes(None)) == {
        "base": 1 - base
    }


def test_another_base_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<annotation/>")
    with pytest.raises(RecipeError, match="base is 2, expected 0, 1 or 'auto'"):
        list(voc.read(tmp_path, "a.xml", Classes(None), base=2))


@pytest.mark.parametrize("base", ["auto", 0, 1])
def test_write_is_the_inverse(tmp_path: Path, base: int | str) -> None:
    boxes = [
        Box("ship", "ship", 0, 2, 11.5, 8, None, ("difficult", "truncated")),
        Box("a < b", "a < b", 3, 3, 9, 9),
    ]
    voc.write(tmp_path / "a.xml", [Record("a & b.jpg", boxes, 64, 48)], base=base)
    options = voc.prepare(tmp_path, [("a.xml", "")], {"base": base}, Classes(None))
    (again,) = voc.read(tmp_path, "a.xml", Classes(None), **options)
    assert isinstance(again, Record)
    assert (again.image, again.width, again.height, list(again.boxes)) == ("a & b.jpg", 64, 48, boxes)
