"""Rich captions are true by another computation, for thousands of random scenes; false ones are caught."""

from __future__ import annotations

import random
import time
from typing import Any

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
        for number in range(rng.choice([1, 1, 2, 3, 5, 9, 14])):
            side = {"tiny": 0.02, "large": 0.3}.get(kind, 0.08) * min(width, height) * rng.uniform(0.7, 1.3)
            x, y = rng.uniform(0, width - side), rng.uniform(0, height - side)
            if kind == "row":
                x, y = min(number * side * 1.2, width - side), height / 3 + rng.uniform(-1, 1)
            elif kind == "cluster":
                x, y = width * rng.uniform(0.4, 0.5), height * rng.uniform(0.4, 0.5)
            elif kind == "grid":
                x, y = number % 4 * side * 1.1, number // 4 * side * 1.1
            w, h = side, side * rng.choice([1, 0.4])
            x, y = min(x, width - w), min(y, height - h)
            polygon = None
            if rng.random() < 0.8:
                lean = rng.choice([0, 0.1, 0.5]) * w
                polygon = [x + lean, y, x + w, y, x + w - lean, y + h, x, y + h]
            boxes.append(box(label, x, y, w, h, polygon))
    gsd = rng.choice([None, 0.3, 0.051, 12.345])
    left = 1.0
    cover = []
    for label in rng.sample(NOUNS, 2):
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
            assert len(text.split()) < 60
    assert min(seen.values()) > 30, seen  # every kind of statement was made


def test_drawn_scenes() -> None:
    for seed in range(40):
        scene = scenes.draw(["ship", "harbor", "vehicle"], seed, 256, 256, 12)
        record = Record("a", scene.boxes, 256, 256, gsd=0.5)
        texts = captions(record, str(seed), "rich", Words())
        assert contradictions(texts, record, Words(), ["ship", "harbor", "vehicle"]) == []


SWAPS = (
    ("to the left of", "to the right of"), ("above", "below"), ("very small", "large"),
    ("stand in a row", "form a cluster"), ("from left to right", "from top to bottom"),
    ("about half", "about a quarter"), ("almost all", "less than a tenth"), ("about a third", "almost all"),
)  # fmt: skip


def test_a_false_word_is_caught() -> None:
    rng = random.Random(1)
    caught = dict.fromkeys(SWAPS, 0)
    for number in range(1500):
        record = random_record(rng)
        for text in captions(record, f"i{number}", "rich", WORDS):
            for swap in SWAPS:
                for one, other in (swap, swap[::-1]):
                    head, rest = statements.parts(text)
                    if not rest or one not in rest[0]:
                        continue
                    wrong = f"{head[:-1]}; {rest[0].replace(one, other)}."
                    assert contradictions([wrong], record, WORDS, NOUNS) or "row" in swap[0], wrong
                    caught[swap] += 1
            if " m " in text and any(" is about " in part for part in statements.parts(text)[1]):
                number_, unit = text.rsplit(" is about ", 1)[1].split(" ", 1)
                wrong = text.rsplit(" is about ", 1)[0] + f" is about {float(number_) * 1.2:.6f} {unit}"
                assert contradictions([wrong], record, WORDS, NOUNS)
    assert min(count for swap, count in caught.items()) > 0, caught


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
