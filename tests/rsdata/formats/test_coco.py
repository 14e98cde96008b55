from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as reference
from reading import Read

from rsdata import files
from rsdata.classes import Classes
from rsdata.errors import AnnotationError, RecipeError
from rsdata.formats import coco
from rsdata.records import Box, Record

NOUNS = {"ship": "ship", "Small_Vehicle": "small vehicle"}
CATEGORIES = [{"id": 7, "name": "ship"}, {"id": 0, "name": "small-vehicle"}, {"id": 3, "name": "tree"}]
IMAGES = [
    {"id": 1, "file_name": "a.jpg", "width": 64, "height": 48},
    {"id": 2, "file_name": "b.jpg"},
    {"id": "c", "file_name": "sub/c.jpg", "width": None, "height": 0},
]
TRIANGLE = [1.0, 1.0, 9.0, 1.0, 5.0, 9.0]


def one(
    index: int = 0, image: Any = 1, category: Any = 7, bbox: Any = (1, 2, 3, 4), **more: Any
) -> dict[str, Any]:
    return {"id": index, "image_id": image, "category_id": category, "bbox": bbox, **more}


def text_of(
    annotations: Sequence[Any], images: Sequence[Any] = IMAGES, categories: Sequence[Any] = CATEGORIES
) -> str:
    """A document with one element a line, so that element i of `annotations` is at line_of(images, i)."""
    parts = {"images": images, "annotations": annotations, "categories": categories}
    lines = [
        f'"{key}": [\n'
        + ",\n".join(item if isinstance(item, str) else json.dumps(item) for item in items)
        + "\n]"
        for key, items in parts.items()
    ]
    return '{"info": {"version": 1},\n' + ",\n".join(lines) + "\n}\n"


def line_of(images: Sequence[Any], index: int) -> int:
    """The line of annotation `index`, from 0, in what `text_of` writes."""
    return 3 + len(images) + 2 + index


ALL = [
    one(0, segmentation=[TRIANGLE], iscrowd=0, area=32),
    one(1, "c", 0, [0.5, 0.25, 1.5, 2], segmentation=[]),
    one(2, 1, 3, [5, 5, 5, 5]),
    one(3, segmentation=None, iscrowd=True),
    one(4, bbox=None, segmentation=[TRIANGLE, [20, 20, 30, 20, 30, 40, 20, 40]]),
    one(
        5,
        bbox=None,
        segmentation={"size": [48, 64], "counts": [48 * 2 + 3, 4, 44, 4, 48 * 64 - 151]},
        iscrowd=1,
    ),
    one(6, ignore=1),
    one(7, segmentation={"size": [48, 64], "counts": [0, 48 * 64]}),
    {"id": 8, "image_id": 1, "category_id": 7, "segmentation": [TRIANGLE]},
]


def test_every_feature_of_the_grammar(read: Read) -> None:
    found = read(coco, "a.json", text_of(ALL), NOUNS)
    assert found.issues == []
    ship = ("ship", "ship")
    plain = Box(*ship, 1, 2, 4, 6)
    assert found.records == [
        Record(
            "a.jpg",
            [
                plain._replace(polygon=TRIANGLE),
                Box("", "tree", 5, 5, 10, 10),
                plain._replace(flags=("crowd",)),
                Box(*ship, 1, 1, 30, 40, [20, 20, 30, 20, 30, 40, 20, 40]),
                Box(*ship, 2, 3, 4, 7, None, ("crowd",)),
                plain._replace(flags=("ignored",)),
                plain,
                Box(*ship, 1, 1, 9, 9, TRIANGLE),
            ],
            64,
            48,
            annotation="a.json",
            lines=[0, 2, 3, 4, 5, 6, 7, 8],
            element="annotations",
            place=0,
        ),
        Record("b.jpg", [], annotation="a.json", lines=[], element="annotations", place=1),
        Record(
            "sub/c.jpg",
            [Box("small vehicle", "small-vehicle", 0.5, 0.25, 2, 2.25)],
            annotation="a.json",
            lines=[1],
            element="annotations",
            place=2,
        ),
    ]
    lines = files.element_lines.__wrapped__(Path("/"), "none.json", "annotations")
    assert list(lines) == []


@pytest.mark.parametrize(
    ("encoding", "end", "issues"),
    [
        ("utf-8", "\r\n", []),
        ("utf-8-sig", "\n", []),
        ("utf-8", "\r", []),
        ("utf-16", "\n", [("repaired", "E03", 0)]),
        ("gb18030", "\n", [("repaired", "E03", 0)]),
    ],
)
def test_encodings_and_line_ends(
    read: Read, encoding: str, end: str, issues: list[tuple[str, str, int]]
) -> None:
    images = ['{"id": 1, "file_name": "船.jpg"}']
    text = text_of([one()], images)
    found = read(coco, "a.json", text.replace("\n", end).encode(encoding), NOUNS)
    assert found.issues == issues
    assert [(record.image, record.boxes) for record in found.records] == [
        ("船.jpg", [Box("ship", "ship", 1, 2, 4, 6)])
    ]


def test_corners_where_the_recipe_says_so(read: Read) -> None:
    text = text_of([one(bbox=[10, 20, 30, 40]), one(bbox=[5, 5, 7, 7], iscrowd=1)])
    found = read(coco, "a.json", text, NOUNS, bbox="xyxy")
    assert [box[2:6] for box in found.boxes] == [(10, 20, 30, 40), (5, 5, 7, 7)]
    with pytest.raises(RecipeError, match="bbox is 'cxcywh', expected 'xywh' or 'xyxy'"):
        read(coco, "a.json", text, NOUNS, bbox="cxcywh")


SYNTAX = [
    (one(0), None),
    (one(1, bbox=["1", "2", "3.5", "4"]), None),
    (one(2, bbox=["a", 2, 3, 4]), ("dropped", "E05")),
    (one(3, bbox=[1, 2, 3]), ("dropped", "E05")),
    (one(4, bbox=[1, 2, 3, 4, 0.5], segmentation=[]), ("dropped", "E05")),
    (one(5, bbox=[1, 2, 3, 4, 0.5], segmentation=[TRIANGLE]), ("repaired", "E06")),
    ('{"id": 6, "image_id": 1, "category_id": 7, "bbox": [1, 2, NaN, 4]}', ("dropped", "E06")),
    ('{"id": 7, "image_id": 1, "category_id": 7, "bbox": [1, 2, Infinity, 4]}', ("dropped", "E06")),
    ({"id": 8, "category_id": 7, "bbox": [1, 2, 3, 4]}, ("dropped", "E05")),
    ({"id": 9, "image_id": 1, "bbox": [1, 2, 3, 4]}, ("dropped", "E05")),
    ('"no object"', ("dropped", "E05")),
    ("null", ("dropped", "E05")),
    (one(12, image=99), ("dropped", "E07")),
    (one(13, image=1.0, bbox=[3.0, 3, 3, 3]), None),
    (one(14, bbox=None), ("dropped", "E33")),
    (one(15, bbox=None, segmentation=[[1, 1, 5, 5]]), ("dropped", "E33")),
    (one(16, bbox=[7, 7, 2, 2], segmentation=[[1, 1, 5]]), ("repaired", "E33")),
    (one(17, bbox=[8, 7, 2, 2], segmentation="rle"), ("repaired", "E33")),
    (one(18, category=999), ("dropped", "E17")),
    (one(19, category=3), ("dropped", "E17")),
    (one(20), ("dropped", "E15")),
    (one(21, bbox=[5, 5, 0, 5]), ("dropped", "E12")),
    (one(22, bbox=[30, 30, -5, -2]), ("repaired", "E11")),
    (one(23, bbox=[60, 40, 10, 10]), ("repaired", "E13")),
    (one(24, bbox=[-9, 0, 10, 10]), ("dropped", "E13")),
    (one(25, bbox=[64, 0, 10, 10]), ("dropped", "E14")),
    (one(26, ignore=1), ("dropped", "E19")),
]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("strict", [False, True])
def test_the_dirty_twin(read: Read, strict: bool, end: str) -> None:
    """Each object has its own line; without the syntax errors the file takes the typed path."""
    lax = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13}
    rows = [row for index, row in enumerate(SYNTAX) if not (strict and index in lax)]
    text = text_of([item for item, _ in rows]).replace("\n", end)
    found = read(coco, "a.json", text, NOUNS, size=(64, 48))
    expected = [(*issue, line_of(IMAGES, index)) for index, (_, issue) in enumerate(rows) if issue]
    assert sorted(found.issues) == sorted(expected)
    kept = [(1, 2, 4, 6), (7, 7, 9, 9), (8, 7, 10, 9), (25, 28, 30, 30), (60, 40, 64, 48)]
    if not strict:
        kept += [(1, 2, 4.5, 6), (1, 1, 9, 9), (3, 3, 6, 6)]
    assert sorted(box[2:6] for box in found.boxes) == sorted(kept)


@pytest.mark.parametrize("broken", [False, True])
def test_images_that_are_no_images(read: Read, broken: bool) -> None:
    """The places of later images stay true, whatever stood before them."""
    images: list[Any] = [
        {"id": 1, "file_name": "a.jpg"},
        {"id": 1, "file_name": "again.jpg"},
        {"id": 1, "file_name": "a.jpg"},
        {"id": 2, "file_name": "b.jpg", "width": "64", "height": 48.0},
    ]
    if broken:
        images[1:1] = [{"id": 9}, {"file_name": "n.jpg"}, 5, {"id": 8, "file_name": 5}]
    text = text_of([one(0), one(1, 2), one(2, 9)], images)
    found = read(coco, "a.json", text, NOUNS)
    lines = {item.image: line for item, (_, _, line) in zip(found.rejections, found.issues, strict=True)}
    shift = 4 if broken else 0
    duplicates = [("rejected", "E16", 4 + shift), ("rejected", "E16", 5 + shift)]
    orphan = [("dropped", "E07", line_of(images, 2))]
    syntax = [("rejected", "E05", line) for line in (4, 5, 6, 7)] if broken else []
    assert sorted(found.issues) == sorted(duplicates + orphan + syntax)
    assert set(lines) == {"again.jpg", "a.jpg", ""} | (
        {"images[1]", "n.jpg", "images[3]", "images[4]"} if broken else set()
    )
    assert [(record.image, record.place, len(record.boxes), record.width) for record in found.records] == [
        ("a.jpg", 0, 1, None),
        ("b.jpg", 3 + shift, 1, 64),
    ]


@pytest.mark.parametrize("side", [-5, 0, 10**30, None])
def test_a_size_that_is_none_is_not_believed(read: Read, side: int | None) -> None:
    images = [{"id": 1, "file_name": "a.jpg", "width": side, "height": side}]
    (record,) = read(coco, "a.json", text_of([one()], images), NOUNS).records
    assert (record.width, record.height, len(record.boxes)) == (None, None, 1)


def test_without_categories_every_object_is_of_an_unknown_class(read: Read) -> None:
    text = json.dumps({"images": IMAGES, "annotations": [one(0), one(1, 2)]})
    found = read(coco, "a.json", text, None, size=(64, 48))
    assert [len(record.boxes) for record in found.records] == [0, 0, 0]
    assert [issue[:2] for issue in found.issues] == [("dropped", "E17")] * 2
    assert [item.why for item in found.rejections] == ["unknown class '7'"] * 2


def test_images_without_boxes_beside_unknown_classes(tmp_path: Path) -> None:
    """The boxes of one image are asked for, whatever its neighbours hold."""
    (tmp_path / "a.json").write_text(text_of([one(0, category=55)], categories=[]))
    records = [item for item in coco.read(tmp_path, "a.json", Classes(NOUNS)) if isinstance(item, Record)]
    assert [list(record.boxes) for record in records[1:]] == [[], []]


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        ("", "E01", 1),
        ("[]", "E01", 1),
        ('{"images": [],\n"annotations": [\n{"image_id": 1, "cat', "E01", 3),
        ('{"images": [],\n"annotations": [],}', "E01", 2),
        ('{"images": [],\n"annotations": [],\n }', "E01", 3),
        ('{"images": [{"id": 1, "file_name": "a"},\n],"annotations": []}', "E01", 2),
        ('{"images": [],\n"annotations": []}\n{"images": []}', "E01", 3),
        ('{"images": [],\n"annotations": []}\0\0', "E01", 2),
        ('{"images": [],\n1: []}', "E01", 2),
        ('{"images": []}', "E01", 0),
        ('{"annotations": []}', "E01", 0),
        ('{"images": [], "annotations": [\n' + "9" * 5000 + "]}", "E01", 2),
        ('{"images": [], "annotations": [' + "[" * 100_000, "E01", 1),
        ('{"images": [], "annotations": [], "x": ' + "[" * 100_000, "E01", 1),
        ("\u8239".encode("utf-16-le"), "E01", 1),
    ],
)
def test_files_that_are_refused_whole(tmp_path: Path, content: str | bytes, code: str, line: int) -> None:
    (tmp_path / "a.json").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(AnnotationError) as caught:
        list(coco.read(tmp_path, "a.json", Classes(NOUNS)))
    assert (caught.value.path, caught.value.code, caught.value.line) == ("a.json", code, line)


def test_half_of_a_surrogate_pair_is_replaced(read: Read) -> None:
    images = ['{"id": 1, "file_name": "\\ud83d.jpg"}', '{"id": 2, "file_name": "\\ud83d\\ude00\\uDC00.jpg"}']
    found = read(coco, "a.json", text_of([], images), NOUNS)
    assert [record.image for record in found.records] == ["\ufffd.jpg", "\U0001f600\ufffd.jpg"]


def masks(seed: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 30, 2))
    mask = rng.random((height, width)) < rng.choice([0.02, 0.1, 0.5, 1.0])
    return np.asfortranarray(mask.astype(np.uint8))


@pytest.mark.parametrize("compressed", [False, True])
def test_run_lengths_give_the_box_of_pycocotools(read: Read, compressed: bool) -> None:
    annotations, expected = [], []
    for seed in range(120):
        mask = masks(seed)
        if not mask.any():
            mask[0, 0] = 1
        packed = reference.encode(mask)
        flat = mask.ravel(order="F")
        changes = np.flatnonzero(np.diff(np.concatenate(([0], flat))))
        counts = np.diff(np.concatenate(([0], changes, [flat.size]))).tolist()
        segmentation = {
            "size": list(mask.shape),
            "counts": packed["counts"].decode() if compressed else counts,
        }
        annotations.append(one(seed, image=2, bbox=None, segmentation=segmentation))
        x, y, width, height = reference.toBbox(packed)
        expected.append((x, y, x + width, y + height))
    found = read(coco, "a.json", text_of(annotations), NOUNS)
    assert found.issues == []
    assert [box[2:6] for box in found.boxes] == expected


@pytest.mark.parametrize(
    ("counts", "box"),
    [([4, 0, 1, 2, 9], (1, 1, 2, 3)), ([0, 0, 0, 3, 13], (0, 0, 1, 3)), ([3, 2, 4, 0, 7], (0, 0, 2, 4))],
)
def test_empty_runs_cover_nothing(read: Read, counts: list[int], box: tuple[int, ...]) -> None:
    segmentation = {"size": [4, 4], "counts": counts}
    found = read(coco, "a.json", text_of([one(0, 2, bbox=None, segmentation=segmentation)]), NOUNS)
    assert [tuple(box[2:6]) for box in found.boxes] == [box]


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [48, 64], "counts": [48 * 64 + 1]},
        {"size": [48, 64], "counts": [10, 10]},
        {"size": [48, 64], "counts": [48 * 64 + 5, -5]},
        {"size": [64, 48], "counts": [0, 48 * 64]},
        {"size": [48, 64], "counts": []},
        {"size": [48, 64], "counts": ""},
        {"size": [48, 64], "counts": "\u8239"},
        {"size": [48, 64], "counts": "oooo"},
        {"size": [48, 64], "counts": "o" * 50_000},
        {"size": [48, 64], "counts": [48 * 64]},
        {"size": [48, 64], "counts": [9, 0, 48 * 64 - 9]},
        {"size": [48], "counts": [48]},
        {"size": [0, 0], "counts": []},
    ],
)
@pytest.mark.parametrize("bbox", [None, (1, 2, 3, 4)])
def test_run_lengths_that_do_not_add_up(read: Read, segmentation: Any, bbox: Any) -> None:
    found = read(coco, "a.json", text_of([one(), one(bbox=bbox, segmentation=segmentation)]), NOUNS)
    counts = segmentation["counts"]
    empty = counts in ([48 * 64], [9, 0, 48 * 64 - 9])
    if bbox is None:
        assert found.issues == [("dropped", "E33", line_of(IMAGES, 1))]
    else:
        assert found.issues == ([] if empty else [("repaired", "E33", line_of(IMAGES, 1))])
    assert len(found.boxes) == 1 + (bbox is not None)


def test_run_lengths_of_an_image_beyond_32_bits(read: Read) -> None:
    segmentation = {"size": [10**6, 10**6], "counts": [10**12 - 5, 5]}
    found = read(coco, "a.json", text_of([one(0, 2, bbox=None, segmentation=segmentation)]), NOUNS)
    assert not found.boxes
    assert [code for _, code, _ in found.issues] == ["E33"]


def test_write_is_the_inverse(tmp_path: Path) -> None:
    boxes = [
        Box("ship", "ship", 1, 2, 11.5, 8.25, TRIANGLE),
        Box("ship", "ship", 1, 2, 5, 5, None, ("crowd",)),
    ]
    records = [Record("a.jpg", boxes, 64, 48), Record("b.jpg", [], 64, 48)]
    for bbox in ("xywh", "xyxy"):
        coco.write(tmp_path / "a.json", records, bbox=bbox)
        again = list(coco.read(tmp_path, "a.json", Classes(NOUNS), bbox=bbox))
        assert [(r.image, list(r.boxes), r.width, r.height) for r in again if isinstance(r, Record)] == [
            tuple(record[:4]) for record in records
        ]
