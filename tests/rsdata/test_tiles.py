"""Windows and the boxes that they show, against counting in a drawn picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsdata.records import Box
from rsdata.tiles import Tiling, Window, cut, shifted

SQUARE = Box("ship", "1", 10, 20, 30, 40, None, ("occluded",))


@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.integers(32, 300).flatmap(lambda s: st.tuples(st.just(s), st.integers(0, s - 1))),
)
@settings(max_examples=60, deadline=None)
def test_windows_cover_the_image_and_nothing_else(width: int, height: int, tile: tuple[int, int]) -> None:
    tiling = Tiling(*tile)
    windows = tiling.windows(width, height)
    seen = np.zeros((height, width), dtype=int)
    for window in windows:
        assert (window.width, window.height) == (min(tiling.size, width), min(tiling.size, height))
        seen[window.y : window.y + window.height, window.x : window.x + window.width] += 1
    assert seen.min() == 1 or tiling.overlap
    assert seen.min() >= 1
    assert len(set(windows)) == len(windows)


@pytest.mark.parametrize(
    ("tiling", "sizes", "count"),
    [
        (Tiling(512), [(6000, 6000)] * 38, 5472),  # Potsdam, as mmsegmentation counts it
        (Tiling(896, 384), [(896, 896), (897, 896), (1408, 1409)], 1 + 2 + 2 * 3),
        (Tiling(512, 256), [(1024, 512), (1000, 300)], 3 + 3),
        (Tiling(512), [(512, 512), (100, 40)], 2),
    ],
)
def test_counts(tiling: Tiling, sizes: list[tuple[int, int]], count: int) -> None:
    assert sum(len(tiling.windows(*size)) for size in sizes) == count


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 31},
        {"size": 64, "overlap": 64},
        {"size": 64, "overlap": -1},
        {"size": 64, "visible": 0},
        {"size": 64.0},
    ],
)
def test_tilings_that_make_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Tiling(**wrong)


def test_a_box_inside_is_moved() -> None:
    found = cut([SQUARE], [Window(5, 10, 50, 50)], 0.5)
    assert found.boxes == [[Box("ship", "1", 5, 10, 25, 30, None, ("occluded",))]]
    assert found.unseen == []


def test_a_box_over_the_border_is_cut_flagged_and_kept_if_enough_is_seen() -> None:
    windows = [Window(0, 0, 25, 100), Window(25, 0, 75, 100)]
    found = cut([SQUARE], windows, 0.5)
    assert found.boxes == [[Box("ship", "1", 10, 20, 25, 40, None, ("occluded", "truncated"))], []]
    assert cut([SQUARE], windows, 0.2).boxes[1] == [
        Box("ship", "1", 0, 20, 5, 40, None, ("occluded", "truncated"))
    ]
    assert cut([SQUARE], windows[1:], 0.5).unseen == [0]


def test_a_polygon_is_clipped_and_decides_what_is_seen() -> None:
    """A triangle with its right angle at the left: 75 % of it lie in the left half of its box."""
    triangle = Box("ship", "1", 0, 0, 20, 20, [0, 0, 20, 0, 0, 20], ())
    left, right = Window(0, 0, 10, 50), Window(10, 0, 50, 50)
    found = cut([triangle], [left, right], 0.5)
    ((part,), nothing) = found.boxes
    assert nothing == []
    assert part[2:6] == (0, 0, 10, 20)
    assert sorted(zip(part.polygon[0::2], part.polygon[1::2], strict=True)) == [
        (0, 0),
        (0, 20),
        (10, 0),
        (10, 10),
    ]
    ((whole,),) = cut([triangle], [Window(0, 0, 50, 50)], 0.5).boxes
    assert whole == triangle


def test_a_polygon_that_crosses_itself_and_one_in_two_parts() -> None:
    bow = Box("a", "a", 0, 0, 20, 20, [0, 0, 20, 20, 20, 0, 0, 20], ())
    ((part,),) = cut([bow], [Window(0, 0, 10, 50)], 0.4).boxes
    assert part[2:6] == (0, 0, 10, 20)
    fork = Box("a", "a", 0, 0, 20, 30, [0, 0, 20, 0, 20, 10, 5, 10, 5, 20, 20, 20, 20, 30, 0, 30], ())
    ((part,),) = cut([fork], [Window(6, 0, 50, 50)], 0.2).boxes
    assert part[2:6] == (0, 0, 14, 30)  # both prongs; the polygon is that of one
    assert part.polygon is not None
    assert len(part.polygon) == 8


@given(
    st.lists(st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 40)] * 2), max_size=8),
    st.integers(32, 64),
    st.integers(0, 31),
)
@settings(max_examples=60, deadline=None)
def test_what_windows_show_is_what_is_drawn(
    raw: list[tuple[int, int, int, int]], size: int, overlap: int
) -> None:
    boxes = [Box("a", str(i), x, y, x + w, y + h, None, ()) for i, (x, y, w, h) in enumerate(raw)]
    windows = Tiling(size, overlap).windows(100, 100)
    found = cut(boxes, windows, 0.3)
    shown = set()
    for window, parts in zip(windows, found.boxes, strict=True):
        held = {part.raw_label: part for part in parts}
        for index, box in enumerate(boxes):
            drawn = np.zeros((100, 100), dtype=bool)
            drawn[int(box.ymin) : int(box.ymax), int(box.xmin) : int(box.xmax)] = True
            inside = drawn[window.y : window.y + window.height, window.x : window.x + window.width]
            assert (inside.sum() / drawn.sum() >= 0.3) == (str(index) in held)
            if part := held.get(str(index)):
                shown.add(index)
                rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
                assert part[2:6] == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
                assert ("truncated" in part.flags) == (inside.sum() < drawn.sum())
    assert set(found.unseen) == set(range(len(boxes))) - shown


def test_shifted() -> None:
    box = Box("a", "b", 10, 20, 30, 40, [10, 20, 30, 20, 30, 40], ("crowd",))
    assert shifted([box], 4, 8) == [Box("a", "b", 6, 12, 26, 32, [6, 12, 26, 12, 26, 32], ("crowd",))]
