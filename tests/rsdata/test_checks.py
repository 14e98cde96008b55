"""Every failure code of boxes with its exact outcome, and the identity found = kept + dropped."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import Polygon

from rsdata import checks
from rsdata.classes import Classes
from rsdata.formats import coco
from rsdata.records import Box, Record, Rejection

CLASSES = Classes({"ship": "ship", "car": "car"}, ignored=("background",))
WIDTH, HEIGHT = 64, 48


def box(
    *edges: float, raw: str = "ship", polygon: list[float] | None = None, flags: tuple[str, ...] = ()
) -> Box:
    xmin, ymin, xmax, ymax = map(float, edges)
    return Box(CLASSES[raw], raw, xmin, ymin, xmax, ymax, polygon, flags)


def judged(
    *boxes: Box, width: int | None = WIDTH, height: int | None = HEIGHT
) -> tuple[list[Box], list[Rejection]]:
    record = Record("a.png", boxes, annotation="a.txt", lines=range(11, 11 + len(boxes)))
    kept, found = checks.boxes(record, width, height, CLASSES)
    return list(kept), found


SOUND = box(1, 2, 3, 4)
NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("given_box", "code", "kept"),
    [
        (box(0, 0, WIDTH, HEIGHT), None, (0, 0, WIDTH, HEIGHT)),
        (box(10, 10, 20, 20, flags=("difficult", "crowd")), None, (10, 10, 20, 20)),
        (box(10, 10, 20, 20, raw="Ship"), None, (10, 10, 20, 20)),
        (box(10, 10, 20, 20, raw="tank"), "E17", None),
        (box(10, 10, 20, 20, raw="background"), "E19", None),
        (box(10, 10, 20, 20, flags=("ignored",)), "E19", None),
        (box(NAN, 10, 20, 20), "E06", None),
        (box(10, 10, 20, INF), "E06", None),
        (box(-INF, 10, 20, 20), "E06", None),
        (box(10, 10, 20, 20, polygon=[10, 10, 20, NAN, 20, 20]), "E06", None),
        (SOUND, "E15", None),
        (box(20, 10, 10, 20), "E11", (10, 10, 20, 20)),
        (box(20, 20, 10, 10), "E11", (10, 10, 20, 20)),
        (box(3, 4, 1, 2), "E15", None),
        (box(10, 10, 10, 20), "E12", None),
        (box(10, 20, 20, 20), "E12", None),
        (box(-8, 10, 2, 20), "E13", (0, 10, 2, 20)),
        (box(-8.1, 10, 2, 20), "E13", None),
        (box(60, 40, 70, 50), "E13", (60, 40, 64, 48)),
        (box(-10, -10, WIDTH + 10, HEIGHT + 10), "E13", (0, 0, WIDTH, HEIGHT)),
        (box(-10, 0, 0, 10), "E14", None),
        (box(64, 0, 74, 10), "E14", None),
        (box(0, 48, 10, 58), "E14", None),
        (box(11568, 0, 11600, 10), "E14", None),
        (box(-1e38, 10, 1e38, 20), "E13", None),
        (box(-1e39, 10, 20, 20), "E06", None),
        (box(10, 10, 20, 20, polygon=[10, 10, 20, 1e39, 20, 20]), "E06", None),
        (box(10, 10, 10 + 1e-12, 20), "E12", None),  # none as float32
        (box(10, 10, 10 + 1e-5, 20), None, (10, 10, 10 + 1e-5, 20)),
        (box(10, 10, 20, 20, polygon=[10, 10, 20, 20, 20, 10, 10, 20]), "E20", (10, 10, 20, 20)),
        (box(10, 10, 20, 20, polygon=[10, 10, 20, 20, 10, 10, 20, 20]), "E12", None),
        (box(10, 10, 20, 20, polygon=[10, 10, 20, 10, 20, 20, 10, 20]), None, (10, 10, 20, 20)),
        (box(10, 10, 20, 20, polygon=[10, 10, 20, 10, 12, 12, 10, 20]), None, (10, 10, 20, 20)),
    ],
)
def test_each_case(given_box: Box, code: str | None, kept: tuple[float, ...] | None) -> None:
    """Each stands beside a sound box, and alone, where it is no duplicate."""
    boxes, found = judged(SOUND, given_box)
    assert [tuple(one[2:6]) for one in boxes] == [(1, 2, 3, 4), *([kept] if kept else [])]
    expected = (
        [] if code is None else [("dropped" if kept is None else "repaired", code, "a.txt", 12, "a.png")]
    )
    notes = [item[:5] for item in found if item.action == "dropped" or kept]
    assert notes == expected
    if code is None:
        assert boxes[1] == given_box
    if code != "E15":
        assert [item[:3] for item in judged(given_box)[1]] == [item[:3] for item in found]


def test_a_box_turned_and_cut_is_noted_for_both() -> None:
    kept, found = judged(box(70, 20, 60, 10))
    assert [item[:2] for item in found] == [("repaired", "E11"), ("repaired", "E13")]
    assert kept == [box(60, 10, 64, 20)]


def test_boxes_that_become_equal_are_one() -> None:
    kept, found = judged(
        box(60, 0, 70, 10), box(60, 0, 72, 10), box(60, 0, 64, 10), box(60, 0, 64, 10, raw="car")
    )
    assert kept == [box(60, 0, 64, 10), box(60, 0, 64, 10, raw="car")]
    assert [(item.action, item.code, item.line) for item in found] == [
        ("repaired", "E13", 11),
        ("repaired", "E13", 12),
        ("dropped", "E15", 12),
        ("dropped", "E15", 13),
    ]


def test_equal_boxes_of_other_polygons_are_two() -> None:
    parts = [[0, 0, 9, 0, 9, 9], [0, 0, 9, 9, 0, 9]]
    kept, found = judged(*(box(0, 0, 9, 9, polygon=part) for part in parts))
    assert len(kept) == 2
    assert found == []


def test_without_a_size_nothing_is_outside() -> None:
    kept, found = judged(box(500, 500, 9000, 9000), box(-5, 0, 5, 10), width=None, height=None)
    assert [one[2:6] for one in kept] == [(500, 500, 9000, 9000), (0, 0, 5, 10)]
    assert [item.code for item in found] == ["E13"]


def test_elements_are_carried_on() -> None:
    record = Record("a.png", [box(5, 5, 5, 5)], annotation="a.json", lines=[7], element="annotations")
    (item,) = checks.boxes(record, WIDTH, HEIGHT, CLASSES)[1]
    assert (item.line, item.element, item.image) == (7, "annotations", "a.png")


@pytest.mark.parametrize(
    ("claimed", "edges", "aligned", "expected"),
    [
        ((WIDTH, HEIGHT), (0, 0, 90, 90), False, None),
        ((None, None), (0, 0, 90, 90), False, None),
        ((WIDTH, None), (0, 0, 90, 90), True, None),
        ((32, 32), (0, 0, 9, 9), False, ("repaired", "E10")),
        ((32, 32), (0, 0, WIDTH + 1, HEIGHT + 1), False, ("repaired", "E10")),
        ((HEIGHT, WIDTH), (0, 0, 9, HEIGHT + 2), False, ("rejected", "E10")),
        ((128, 96), (70, 0, 90, 9), False, ("rejected", "E10")),
        ((32, 32), (0, 0, NAN, 9), False, ("repaired", "E10")),
        ((32, 32), (0, 0, INF, 9), False, ("repaired", "E10")),
        ((32, 32), (0, 0, 9, 9), True, ("rejected", "E22")),
    ],
)
def test_the_size_that_a_label_claims(
    claimed: tuple[int | None, int | None], edges: tuple[float, ...], aligned: bool, expected: Any
) -> None:
    record = Record("a.png", [box(*edges)], *claimed, annotation="a.xml")
    item = checks.size(record, WIDTH, HEIGHT, aligned)
    assert (item and item[:5]) == (expected and (*expected, "a.xml", 0, "a.png"))


coordinates = st.one_of(
    st.integers(-20, 80).map(float),
    st.floats(-100, 100),
    st.floats(),
    st.sampled_from([0.0, -0.0, 48.0, 64.0, NAN, INF, -INF, 1e308, 5e-324]),
)
polygons = st.none() | st.lists(coordinates, min_size=6, max_size=10).filter(lambda part: len(part) % 2 == 0)
boxes_of_all_kinds = st.builds(
    Box,
    st.sampled_from(["ship", "ship", "car", ""]),
    st.sampled_from(["ship", "background"]),
    *[coordinates] * 4,
    polygons,
    st.sampled_from([(), (), ("crowd",), ("ignored",)]),
)
sides = st.none() | st.integers(1, 100)


@settings(max_examples=400, deadline=None)
@given(st.lists(boxes_of_all_kinds, max_size=6), sides, sides)
def test_found_is_kept_and_dropped_and_what_is_kept_is_sound(
    given_boxes: list[Box], width: int | None, height: int | None
) -> None:
    kept, found = judged(*given_boxes, *given_boxes[:1], width=width, height=height)
    total = len(given_boxes) + len(given_boxes[:1])
    assert len(kept) + sum(item.action == "dropped" for item in found) == total
    assert {item.action for item in found} <= {"dropped", "repaired"}
    for one in kept:
        assert one.label
        assert 0 <= one.xmin < one.xmax <= (width or INF)
        assert 0 <= one.ymin < one.ymax <= (height or INF)
        assert np.isfinite(np.array([*one[2:6], *(one.polygon or ())], np.float32)).all()
    assert judged(*kept, width=width, height=height) == (kept, [])


@settings(max_examples=500, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=8, max_size=8))
def test_quadrilaterals_are_judged_as_by_shapely(quad: list[int]) -> None:
    polygon = Polygon(list(zip(quad[0::2], quad[1::2], strict=True)))
    valid = polygon.is_valid and polygon.area > 0
    kept, found = judged(box(0, 0, 9, 9, polygon=quad))
    assert (found == []) == valid
    for one in kept:
        assert one.polygon is not None
        hull = Polygon(list(zip(one.polygon[0::2], one.polygon[1::2], strict=True)))
        assert hull.is_valid
        assert hull.equals(polygon if valid else polygon.convex_hull)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(boxes_of_all_kinds, st.integers(0, 3)), max_size=12))
def test_boxes_in_columns_are_judged_as_boxes_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Box, int]]
) -> None:
    """COCO hands over columns, which take a path of their own."""
    images = [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in range(4)]
    annotations = [
        {
            "image_id": image,
            "category_id": one.raw_label,
            "bbox": [one.xmin, one.ymin, one.xmax - one.xmin, one.ymax - one.ymin],
            "segmentation": [one.polygon] if one.polygon else None,
        }
        for one, image in rows
        if all(
            map(math.isfinite, (*one[2:6], *(one.polygon or ()), one.xmax - one.xmin, one.ymax - one.ymin))
        )
    ]
    categories = [{"id": name, "name": name} for name in ("ship", "background")]
    path = tmp_path_factory.mktemp("columns") / "a.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    records = [item for item in coco.read(Path(path.parent), path.name, CLASSES) if isinstance(item, Record)]
    assert len(records) == 4
    for record in records:
        plain = record._replace(boxes=list(record.boxes))
        assert plain.boxes == record.boxes
        kept, found = checks.boxes(record, WIDTH, HEIGHT, CLASSES)
        assert (list(kept), found) == checks.boxes(plain, WIDTH, HEIGHT, CLASSES)
