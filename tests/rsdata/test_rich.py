"""Rich captions are true by another computation, for thousands of random scenes; false ones are caught."""

from __future__ import annotations

import math
import random
import re
import time
from typing import Any

import numpy as np
import pytest

from rsdata import box_to_caption, scenes, statements
from rsdata.box_to_caption import captions, contradictions
from rsdata.records import Box, Record
from rsdata.templates import rich
from rsdata.words import Words

NOUNS = ["ship", "harbor", "large vehicle", "person", "water"]
WORDS = Words({"person": "people", "water": ""})


def box(label: str, x: float, y: float, w: float, h: float, polygon: Any = None) -> Box:
    return Box(label, label, x, y, x + w, y + h, polygon)


def said(record: Record, seed: int = 0) -> set[str]:
    """All statements that some seed makes of a record."""
    found = set()
    for number in range(60):
        for caption in captions(record, f"image{number + seed}", "rich", WORDS):
            found.update(statements.parts(caption)[1])
    return found


def random_record(rng: random.Random) -> Record:
    width, height = rng.choice([(100, 100), (400, 200), (1000, 1000)])
    boxes = []
    for label in rng.sample(NOUNS, rng.randint(1, 4)):
        kind = rng.choice(["anywhere", "row", "cluster", "tiny", "large", "grid"])
        shape = rng.choice([(1, 1), (1, 0.4), (0.4, 1)])
        for number in range(rng.choice([1, 1, 2, 3, 5, 9, 14])):
            side = {"tiny": 0.02, "large": 0.3}.get(kind, 0.08) * min(width, height) * rng.uniform(0.7, 1.3)
            x, y = rng.uniform(0, width - side), rng.uniform(0, height - side)
            if kind == "row":
                x, y = min(number * side * 1.2, width - side), height / 3 + rng.uniform(-1, 1)
            elif kind == "cluster":
                x, y = width * rng.uniform(0.4, 0.5), height * rng.uniform(0.4, 0.5)
            elif kind == "grid":
                x, y = number % 4 * side * 1.1, number // 4 * side * 1.1
            w, h = (side * narrow for narrow in shape)
            x, y = min(x, width - w), min(y, height - h)
            polygon = None
            if rng.random() < 0.8:
                lean = rng.choice([0, 0.1, 0.5]) * w
                polygon = [x + lean, y, x + w, y, x + w - lean, y + h, x, y + h]
            boxes.append(box(label, x, y, w, h, polygon))
    gsd = rng.choice([None, 0.3, 0.051, 12.345])
    left = 1.0
    cover = []
    for label in rng.sample(NOUNS, rng.choice([0, 2])):
        share = rng.uniform(0, left)
        left -= share
        cover.append((label, share))
    return Record("a", boxes, width, height, gsd=gsd, cover=cover)


def test_nothing_that_is_said_of_random_scenes_is_false() -> None:
    rng = random.Random(0)
    seen: dict[str, int] = {}
    for number in range(3000):
        record = random_record(rng)
        texts = captions(record, f"i{number}", "rich", WORDS)
        assert len(texts) == len(set(texts)) == (5 if record.boxes else 0)
        assert contradictions(texts, record, WORDS, NOUNS) == []
        for text in texts:
            for statement in statements.parts(text)[1]:
                for pattern, _ in statements._JUDGES:
                    seen[pattern.pattern] = seen.get(pattern.pattern, 0) + bool(pattern.fullmatch(statement))
            assert len(text.split()) <= rich.MOST_WORDS
    assert min(seen.values()) > 30, seen  # every kind of statement was made


def test_drawn_scenes() -> None:
    for seed in range(40):
        scene = scenes.draw(["ship", "harbor", "vehicle"], seed, 256, 256, 12)
        record = Record("a", scene.boxes, 256, 256, gsd=0.5)
        texts = captions(record, str(seed), "rich", Words())
        assert contradictions(texts, record, Words(), ["ship", "harbor", "vehicle"]) == []


SWAPS = (
    ("to the left of", "to the right of"), ("above", "below"), ("very small in it", "large in it"),
    ("stand in a row", "form a cluster"), ("from left to right", "from top to bottom"),
    ("about half", "about a quarter"), ("almost all", "less than a tenth"), ("about a third", "almost all"),
)  # fmt: skip


def test_a_false_word_is_caught() -> None:
    rng = random.Random(1)
    caught = dict.fromkeys([one for swap in SWAPS for one in (swap, swap[::-1])], 0)
    missed = dict(caught)
    for number in range(1500):
        record = random_record(rng)
        for text in captions(record, f"i{number}", "rich", WORDS):
            head, rest = statements.parts(text)
            for one, other in caught:
                if rest and one in rest[0]:
                    wrong = f"{head[:-1]}; {rest[0].replace(one, other)}."
                    told = contradictions([wrong], record, WORDS, NOUNS)
                    caught[one, other] += bool(told)
                    missed[one, other] += not told
    assert min(caught.values()) > 5, caught
    for swap, times in missed.items():
        # A short row is within the bounds of a cluster, a slim cluster within those of a row.
        assert times <= (caught[swap] / 2 if "stand in a row" in swap else 0), (swap, times, caught[swap])


def test_a_false_number_is_caught() -> None:
    rng = random.Random(2)
    caught = dict.fromkeys(["m long", "m wide"], 0)
    for number in range(500):
        record = random_record(rng)
        for text in captions(record, f"i{number}", "rich", WORDS):
            for unit in caught:
                if found := re.search(rf"[0-9.]+(?= {unit})", text):
                    for factor in (0.8, 1.2, 10):
                        false = f"{float(found[0]) * factor:.6f}"
                        wrong = f"{text[: found.start()]}{false}{text[found.end() :]}"
                        assert contradictions([wrong], record, WORDS, NOUNS), wrong
                        caught[unit] += 1
    assert min(caught.values()) > 30, caught


@pytest.mark.parametrize(
    ("boxes", "extra", "statement"),
    [
        (
            [box("ship", 0, 40, 10, 10), box("harbor", 80, 40, 15, 15)],
            {},
            "the ship is to the left of the harbor",
        ),
        (
            [box("person", 0, 80, 9, 9), box("person", 20, 80, 9, 9), box("ship", 9, 9, 9, 9)],
            {},
            "the people are below the ship",
        ),
        ([box("ship", 1, 1, 40, 40)], {}, "the ship is large in it"),
        ([box("ship", 1, 1, 2, 2)], {}, "the ship is very small in it"),
        ([box("ship", 10 * i, 10, 8, 8) for i in range(6)], {}, "the ships are densely packed"),
        ([box("ship", 10 * i, 10 + i, 8, 8) for i in range(6)], {}, "the ships stand in a row"),
        (
            [box("ship", 10 + i % 2 * 9, 10 + i // 2 * 9, 8, 8) for i in range(4)],
            {},
            "the ships form a cluster",
        ),
        (
            [
                box(
                    "ship",
                    10,
                    10 + 20 * i,
                    30,
                    8,
                    [10, 10 + 20 * i, 40, 10 + 20 * i, 40, 18 + 20 * i, 10, 18 + 20 * i],
                )
                for i in range(2)
            ],
            {},
            "the long sides of the ships run from left to right",
        ),
        ([box("ship", 10, 10, 50, 8)], {"gsd": 0.5}, "the ship is about 25 m long"),
        (
            [box("ship", 10, 10, 50, 8), box("ship", 1, 1, 9, 9)],
            {"gsd": 2.0},
            "the longest ship is about 100 m long",
        ),
        ([box("ship", 10, 10, 50, 8)], {"gsd": 0.3}, "a pixel is 0.3 m wide on the ground"),
        (
            [box("ship", 10, 10, 50, 8)],
            {"cover": [("water", 0.5), ("person", 0.34)]},
            "about half of the picture is covered by water",
        ),
        (
            [box("ship", 10, 10, 50, 8)],
            {"cover": [("water", 0.5), ("person", 0.34)]},
            "about a third of the picture is covered by people",
        ),
    ],
)
def test_each_kind_of_statement(boxes: list[Box], extra: dict[str, Any], statement: str) -> None:
    record = Record("a", boxes, 100, 100, **extra)
    assert statement in said(record)
    assert statements.fault(statement, record, WORDS, NOUNS) is None


def quad(label: str, *corners: float, flags: tuple[str, ...] = ()) -> Box:
    xs, ys = corners[0::2], corners[1::2]
    return Box(label, label, min(xs), min(ys), max(xs), max(ys), corners, flags)


def pair(width: float, height: float, shape: str) -> list[Box]:
    """Two oriented boxes, one above the other."""
    corners = {
        "rectangle": ((0, 0), (1, 0), (1, 1), (0, 1)),
        "crossed": ((0, 0), (1, 0), (0, 1), (1, 1)),
        "triangle": ((0, 0), (1, 0), (1, 0), (0, 1)),
    }[shape]
    return [
        quad("ship", *(value for x, y in corners for value in (width * x, top + height * y)))
        for top in (1, 50)
    ]


def test_the_pair_has_a_heading() -> None:
    """So that it is the shape that takes it away below."""
    assert "the long sides of the ships run from left to right" in said(
        Record("a", pair(40, 9, "rectangle"), 100, 100)
    )


def lying(y: float, *flags: str, x: float = 10) -> Box:
    return quad("ship", x, y, x + 40, y, x + 40, y + 8, x, y + 8, flags=flags)


def leaning(degrees: float, y: float) -> Box:
    """40 long and 8 wide; at 0 degrees it lies, at 45 it leads down to the right."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(20, 4), (-20, 4), (-20, -4), (20, -4)]
    return quad(
        "ship", *(value for u, v in corners for value in (50 + cos * u - sin * v, y + sin * u + cos * v))
    )


@pytest.mark.parametrize(
    ("degrees", "text"),
    [
        *((degrees, "from left to right") for degrees in (-13, 0, 13, 170, 193)),
        *((degrees, "from the top left to the bottom right") for degrees in (33, 45, 58, 225)),
        *((degrees, "from top to bottom") for degrees in (77, 90, 103, -90)),
        *((degrees, "from the bottom left to the top right") for degrees in (122, 135, 148, -45)),
    ],
)
def test_directions(degrees: float, text: str) -> None:
    boxes = [leaning(degrees, 30), leaning(degrees + 180, 70)]
    record = Record("a", boxes, 100, 100)
    headings = {one for one in said(record) if "long sides" in one}
    assert headings == {f"the long sides of the ships run {text}"}
    assert statements.fault(headings.pop(), record, WORDS, NOUNS) is None


def standing(x: float) -> Box:
    return quad("ship", x, 50, x + 8, 50, x + 8, 90, x, 90)


@pytest.mark.parametrize(
    ("boxes", "extra", "word"),
    [
        pytest.param([box("harbor", 1, 1, 90, 40), box("ship", 60, 9, 2, 2)], {}, "right", id="a box within"),
        pytest.param(
            [box("ship", 1, 1, 90, 40), box("harbor", 60, 9, 2, 2)], {}, "left", id="within another"
        ),
        pytest.param([box("ship", 9, 1, 2, 2), box("harbor", 1, 1, 90, 40)], {}, "left", id="within it"),
        pytest.param(
            [box("ship", 5, 5, 4, 4), box("ship", 85, 5, 4, 4), box("person", 50, 5, 4, 4)],
            {},
            "right",
            id="between two",
        ),
        pytest.param([box("ship", 40, 5, 4, 4), box("person", 49, 5, 4, 4)], {}, "right", id="too near"),
        pytest.param([box("ship", x, 9, 8, 8) for x in (1, 11, 80)], {}, "row", id="a gap in the row"),
        pytest.param([box("ship", x, 9, 8, 8) for x in (1, 9, 20)], {}, "row", id="a short row"),
        pytest.param([box("ship", x, 9, 2, 2) for x in (1, 4, 7, 10)], {}, "cluster", id="a row, no cluster"),
        pytest.param([box("ship", x, 9, 8, 8) for x in (1, 10, 19, 28)], {}, "packed", id="four, not five"),
        pytest.param([lying(10), standing(50)], {}, "long sides", id="across"),
        pytest.param([leaning(20, 10), leaning(20, 50)], {}, "long sides", id="between directions"),
        pytest.param([leaning(44, 10), leaning(0, 50)], {}, "long sides", id="two directions"),
        pytest.param([lying(10), box("ship", 10, 30, 40, 8)], {}, "long sides", id="an upright box"),
        pytest.param(pair(40, 9, "crossed"), {}, "long sides", id="crossed"),
        pytest.param(pair(60, 9, "triangle"), {}, "long sides", id="triangles"),
        pytest.param(pair(12, 9, "rectangle"), {}, "long sides", id="not long"),
        pytest.param([box("ship", 10, 10, 40, 30)], {"gsd": 1.0}, "m long", id="a ship askew"),
        pytest.param([lying(9), box("ship", 50, 50, 30, 30)], {"gsd": 1.0}, "m long", id="a longer"),
        pytest.param([lying(10, "truncated")], {"gsd": 1.0}, "m long", id="cut off"),
        *(
            pytest.param([box("ship", *at)], {"gsd": 1.0}, "m long", id=f"at the {where} border")
            for where, at in {
                "left": (0, 9, 40, 8),
                "right": (60, 9, 40, 8),
                "upper": (9, 0, 8, 40),
                "lower": (9, 60, 8, 40),
            }.items()
        ),
        pytest.param(
            [quad("ship", 10, 10, 50, 10, 50, 18, 20, 14)], {"gsd": 1.0}, "m long", id="no rectangle"
        ),
        pytest.param(
            [box("ship", 9, 9, 22.3606798, 22.3606798)], {}, "large", id="large, but not as float32"
        ),
        pytest.param([lying(10)], {"cover": [("water", 0.45)]}, "half", id="half, but not as float32"),
        pytest.param([lying(10)], {"gsd": 1.0, "cover": [("ship", 0.2)]}, "m long", id="regions of a mask"),
        pytest.param([lying(10)], {"gsd": 0.02}, "m long", id="below a metre"),
        *(
            pytest.param([lying(10)], {"gsd": gsd}, " m ", id=f"gsd {gsd}")
            for gsd in (0.0, -1.0, 1e-12, 1e30, math.nan, math.inf)
        ),
        pytest.param([lying(10)], {"cover": [("water", 0.6)]}, "covered", id="between the fractions"),
    ],
)
def test_what_is_not_clear_is_not_said(boxes: list[Box], extra: dict[str, Any], word: str) -> None:
    assert not [one for one in said(Record("a", boxes, 100, 100, **extra)) if word in one]


def test_no_statement_where_a_caption_is_long_already() -> None:
    nouns = [f"{'very ' * 8}{noun}" for noun in ("ship", "harbor", "car", "plane", "bridge", "tank")]
    boxes = [box(noun, 10 * i, 40, 5, 5) for i, noun in enumerate(nouns)]
    texts = captions(Record("a", boxes, 100, 100, gsd=1.0), "i", "rich", Words())
    assert all(len(text.split()) <= rich.MOST_WORDS for text in texts if ";" in text)
    assert any(";" not in text for text in texts)


def test_the_same_from_float32() -> None:
    """Coordinates, gsd and shares as the table gives them back."""
    rng = random.Random(6)
    for number in range(300):
        record = random_record(rng)
        boxes = [
            each._replace(
                **{name: stored(getattr(each, name)) for name in ("xmin", "ymin", "xmax", "ymax")},
                polygon=each.polygon and [stored(value) for value in each.polygon],
            )
            for each in record.boxes
        ]
        gsd = record.gsd and stored(record.gsd)
        again = record._replace(
            boxes=boxes, gsd=gsd, cover=[(label, stored(share)) for label, share in record.cover]
        )
        assert captions(record, f"i{number}", "rich", WORDS) == captions(again, f"i{number}", "rich", WORDS)


def stored(value: float) -> float:
    return float(np.float32(value))


def test_nothing_to_count_and_no_size() -> None:
    assert captions(Record("a", [], 100, 100, gsd=1.0), "i", "rich", WORDS) == []
    texts = captions(Record("a", [box("ship", 1, 1, 5, 5)]), "i", "rich", WORDS)
    assert len(texts) == 5
    assert not any(";" in text for text in texts)


@pytest.mark.parametrize(
    "text", ["the ship flies", "the dragons are densely packed", "the ship is large in it; and so"]
)
def test_what_is_no_statement(text: str) -> None:
    record = Record("a", [box("ship", 1, 1, 50, 50)], 100, 100)
    assert contradictions([f"There is a ship in the picture; {text}."], record, WORDS, NOUNS)


def test_the_order_of_boxes_and_a_crowd_have_no_part_in_it() -> None:
    rng = random.Random(5)
    for number in range(50):
        record = random_record(rng)
        mixed = record._replace(boxes=rng.sample(list(record.boxes), len(record.boxes)))
        crowd = record._replace(boxes=[*record.boxes, box("ship", 0, 0, 9, 9)._replace(flags=("crowd",))])
        texts = captions(record, f"i{number}", "rich", WORDS)
        assert (
            texts
            == captions(mixed, f"i{number}", "rich", WORDS)
            == captions(crowd, f"i{number}", "rich", WORDS)
        )


def test_many_boxes_take_no_long_time() -> None:
    rng = random.Random(2)
    boxes = [box("ship", rng.uniform(0, 3900), rng.uniform(0, 3900), 20, 10) for _ in range(5000)]
    start = time.perf_counter()
    assert len(captions(Record("a", boxes, 4000, 4000), "i", "rich", WORDS)) == 5
    assert time.perf_counter() - start < 5  # a quadratic search over all would take far longer
    assert box_to_caption.needs_polygons("rich")
    assert not box_to_caption.needs_polygons("remoteclip")
    assert rich.MOST < 5000
