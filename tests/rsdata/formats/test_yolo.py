from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from reading import Read

from rsdata import recipes
from rsdata.classes import Classes
from rsdata.errors import AnnotationError, RecipeError
from rsdata.files import Dump
from rsdata.formats import yolo
from rsdata.plan import Plan, Unit
from rsdata.records import Box


@pytest.fixture
def image(tmp_path: Path) -> str:
    Image.new("L", (200, 100)).save(tmp_path / "a.png")
    return "a.png"


def test_boxes_segments_and_oriented_boxes(read: Read, image: str) -> None:
    text = (
        "0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.2 0.1 0.2 0.2\n\n"
        "1.0\t0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n2 0.5 0.5 1 1\n"
    )
    found = read(yolo, "a.txt", text, names=["ship", "dock"], image=image)
    assert found.issues == []
    assert found.boxes == [
        Box("ship", "ship", 75, 25, 125, 75),
        Box("dock", "dock", 20, 10, 40, 20, [20, 10, 40, 10, 40, 20]),
        Box("dock", "dock", 20, 10, 40, 20, [20, 10, 40, 10, 40, 20, 20, 20]),
        Box("", "2", 0, 0, 200, 100),
    ]


def test_an_image_is_needed(read: Read, image: str) -> None:
    with pytest.raises(AnnotationError, match="whose size is needed"):
        read(yolo, "a.txt", "0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(AnnotationError, match="cannot be opened"):
        read(yolo, "a.txt", "0 0.5 0.5 0.1 0.1\n", image="none.png")


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ({"data.yaml": "nc: 2\nnames: [ship, storage tank]\n"}, ["ship", "storage tank"]),
        ({"data.yaml": "names:\n  0: ship\n  2: dock\n"}, ["ship", "1", "dock"]),
        ({"labels/classes.txt": "ship\r\n\r\ndock\n", "data.yaml": "names: [other]"}, ["ship", "dock"]),
        ({"obj.names": "a b\nc"}, ["a b", "c"]),
        ({"mine.yml": "names: ['1', 2]"}, ["1", "2"]),
        ({"data.yaml": "train: x\n"}, []),
        ({}, []),
    ],
)
def test_where_names_come_from(tmp_path: Path, files: dict[str, str], names: list[str]) -> None:
    (tmp_path / "labels/train").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    options = yolo.prepare(tmp_path, [("labels/train/a.txt", "")], {}, Classes(None))
    assert options.get("names", []) == names
    given = {"names": ["mine"]}
    assert yolo.prepare(tmp_path, [("labels/train/a.txt", "")], given, Classes(None)) == given


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("names: [a\n", "not valid YAML"),
        ("a: &x [1]\nnames: [*x]\n", "anchors are refused"),
        ("names: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("#" * (1 << 20) + "\nnames: [a]", "more than"),
    ],
)
def test_a_hostile_names_file(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(RecipeError, match=why):
        yolo.prepare(tmp_path, [("a.txt", "")], {}, Classes(None))


def test_names_above_the_dump_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: [secret]")
    (tmp_path / "dump").mkdir()
    assert yolo.prepare(tmp_path / "dump", [("a.txt", "")], {}, Classes(None)) == {}


def test_lists_of_names_and_images_are_no_labels(tmp_path: Path) -> None:
    """Darknet's layout: all in one folder, and an image without a file holds no object."""
    for name in ("a.png", "b.png"):
        Image.new("L", (9, 9)).save(tmp_path / name)
    for name in ("a.txt", "classes.txt", "train.txt", "README.txt"):
        (tmp_path / name).write_text("0 0.5 0.5 0.2 0.2\n" if name == "a.txt" else "x\n")
    items = list(Plan(recipes.from_format("yolo"), Dump(tmp_path)))
    assert all(isinstance(item, Unit) for item in items)
    assert {
        (unit.image, unit.annotation, unit.record is None) for unit in items if isinstance(unit, Unit)
    } == {
        ("a.png", "a.txt", True),
        ("b.png", "", False),
    }
