"""Each flag of the audit by hand-made tables: what is flagged, and what only looks like it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import box, row, written

from rsdata import spellings, stats, tables
from rsdata.errors import TableError
from rsdata.flags import FLAGS
from rsdata.hashing import Hashes
from rsdata.records import Box


def flagged(tmp_path: Path, rows: Sequence[tables.Row], *more: Sequence[tables.Row]) -> dict[str, Any]:
    """The flags of a corpus of one table or several, by name."""
    paths = [written(tmp_path / str(at), held) for at, held in enumerate((rows, *more))]
    held = stats.audit(paths)["flags"]
    order = [flag["flag"] for flag in held]
    assert order == [name for name in FLAGS if name in order]
    return {flag.pop("flag"): flag for flag in held}


def whole(name: str, **values: Any) -> tables.Row:
    """A row that nothing is odd about."""
    return row(name, **({"objects": [box("ship", 5, 5)], "captions": [f"{name} is a ship"]} | values))


def hashed(phash: int, low_info: bool = False, pixels: str | None = None) -> Hashes:
    return Hashes(phash, [], [], low_info, pixels)


def test_a_clean_corpus_has_no_flag(tmp_path: Path) -> None:
    rows = [
        whole(f"{at:03d}", split=split, hashes=hashed(at + 1, pixels=f"{at}"))
        for at, split in enumerate(["train", "val"] * 60)
    ]
    assert flagged(tmp_path, rows) == {}
    assert "flags" not in stats.render(stats.audit([tmp_path / "0"]))


@pytest.mark.filterwarnings("error")
def test_boxes(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    edges = [
        *(
            (0, 0, 100, 80),
            (0.2, 0.2, 100, 79.8),
            (0, 0, 99, 79),
        ),  # all of the image, 99.3 % and 97.8 % of it
        *((-0.5, 0, 10, 10), (0, 0, 100.5, 10), (0, 0, 10, 80.5), (-10, -10, 110, 90)),
        *((5, 5, 5, 9), (9, 5, 5, 9), (nan, 0, 5, 5), (-inf, 0, inf, inf)),
    ]
    found = flagged(tmp_path, [whole("a", objects=[Box("ship", "", *each) for each in edges])])
    assert {flag: held["count"] for flag, held in found.items()} == {
        "boxes-without-area": 4,
        "boxes-outside": 4,
        "boxes-of-whole-image": 3,
    }
    assert found["boxes-without-area"]["share"] == 4 / 11
    assert found["boxes-outside"]["examples"] == [
        {"what": "TEST/train/a", "why": "ship (-0.5, 0, 10, 10) in 100 x 80"}
    ]


def test_boxes_of_images_without_size_reach_over_the_origin_alone(tmp_path: Path) -> None:
    objects = [Box("ship", "", 0, 0, 9999, 9999), Box("ship", "", -1, 0, 5, 5)]
    found = flagged(tmp_path, [whole("a", objects=objects, width=None, height=None)])
    assert {flag: held["count"] for flag, held in found.items()} == {
        "boxes-outside": 1,
        "images-without-size": 1,
    }
    assert found["boxes-outside"]["examples"][0]["why"] == "ship (-1, 0, 5, 5) in ? x ?"


def test_examples_are_of_the_five_smallest_ids(tmp_path: Path) -> None:
    rows = [whole(f"{at:02d}", width=None) for at in range(30)]
    random.Random(0).shuffle(rows)
    held = flagged(tmp_path, rows)["images-without-size"]
    assert (held["count"], held["share"], held["unit"]) == (30, 1.0, "images")
    assert [each["what"] for each in held["examples"]] == [f"TEST/train/{at:02d}" for at in range(5)]


def test_images_are_empty_without_objects_captions_and_label(tmp_path: Path) -> None:
    rows = [
        row("a"),
        row("b", label="beach"),
        row("c", captions=["a"]),
        row("d", objects=[box("ship", 5, 5)]),
    ]
    held = flagged(tmp_path, rows)["empty-images"]
    assert held["count"] == 1
    assert held["examples"] == [{"what": "TEST/train/a", "why": "TEST, train"}]


def test_images_with_several_captions_that_are_all_equal(tmp_path: Path) -> None:
    texts = [["a ship"] * 5, ["a ship"], ["a ship"] * 4 + ["A ship"], ["", ""]]
    rows = [whole(str(at), captions=captions) for at, captions in enumerate(texts)]
    held = flagged(tmp_path, rows)["equal-captions"]
    assert held["count"] == 2
    assert held["examples"][0] == {"what": "TEST/train/0", "why": "5 times: a ship"}


def test_a_caption_is_widespread_on_more_than_one_percent_of_the_images(tmp_path: Path) -> None:
    captions = [[f"caption {at}", "on all"] for at in range(5000)]
    for at in range(50):
        captions[at].append("on 50")
    for at in range(4900, 4951):  # in the last batch
        captions[at] += ["on 51"] * 2
    held = flagged(tmp_path, [whole(f"{at:04d}", captions=each) for at, each in enumerate(captions)])
    assert held["widespread-captions"] == {
        "title": FLAGS["widespread-captions"][1],
        "unit": "captions",
        "count": 2,
        "share": None,
        "examples": [
            {"what": "on all", "why": "on 5,000 of 5,000 images (100.0%)"},
            {"what": "on 51", "why": "on 51 of 5,000 images (1.0%)"},
        ],
    }


@pytest.mark.parametrize(("images", "count"), [(99, 0), (100, 1)])
def test_no_caption_is_widespread_in_a_small_corpus(tmp_path: Path, images: int, count: int) -> None:
    found = flagged(tmp_path, [whole(str(at), captions=["a ship"]) for at in range(images)])
    assert len(found) == count


def split_of(train: int, val: int, **values: Any) -> list[tables.Row]:
    """So many images with a ship in two splits."""
    return [
        whole(f"{split}{values.get('dataset', '')}{at}", split=split, **values)
        for split, number in (("train", train), ("val", val))
        for at in range(number)
    ]


PLANE = [box("plane", 5, 5)]


@pytest.mark.parametrize(
    ("train", "val", "planes", "told"),
    [
        (50, 50, 10, True),  # 0.5 ** 10 < 1 %
        (50, 50, 9, False),  # fewer than ten objects
        (95, 5, 40, False),  # 0.95 ** 40 = 13 %
        (95, 5, 90, True),  # 0.95 ** 90 = 1.0 %, 0.988 in full
        (100, 0, 60, False),
    ],
)
def test_classes_in_one_split(tmp_path: Path, train: int, val: int, planes: int, told: bool) -> None:
    rows = split_of(train, val)
    rows = [each._replace(objects=PLANE) if at < planes else each for at, each in enumerate(rows)]
    found = flagged(tmp_path, rows)
    assert ("classes-in-one-split" in found) is told
    if told:
        assert found["classes-in-one-split"]["count"] == 1
        assert found["classes-in-one-split"]["share"] == 1 / 2
        assert found["classes-in-one-split"]["examples"] == [
            {"what": "plane", "why": f"all {planes} objects are in train"}
        ]


def test_many_objects_in_one_image_are_one_draw(tmp_path: Path) -> None:
    rows = split_of(50, 50)
    rows[0] = rows[0]._replace(objects=PLANE * 40)
    assert flagged(tmp_path, rows) == {}


def test_a_class_of_a_dataset_without_other_annotated_splits_is_in_one_split_by_design(
    tmp_path: Path,
) -> None:
    other = split_of(50, 0, dataset="OTHER", objects=PLANE)
    other += [row(f"o{at}", dataset="OTHER", split="val", captions=[f"no box {at}"]) for at in range(40)]
    other = [each._replace(sha256=f"other {at}") for at, each in enumerate(other)]
    assert flagged(tmp_path, split_of(50, 50), other) == {}


def test_odd_spellings(tmp_path: Path) -> None:
    labels = {"storage tank": 9, "storage-tank": 4, "StorageTanks": 1, "vehicle": 7, "vehcile": 2, "ship": 8}
    objects = [box(label, 5, 5) for label, number in labels.items() for _ in range(number)]
    held = flagged(tmp_path, [whole("a", objects=objects)])["class-spellings"]
    assert (held["count"], held["share"]) == (3, 3 / 6)
    assert held["examples"] == [
        {"what": "storage-tank", "why": "objects: 4, of “storage tank” 9"},
        {"what": "StorageTanks", "why": "objects: 1, of “storage tank” 9"},
        {"what": "vehcile", "why": "objects: 2, of “vehicle” 7"},
    ]


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("ship", "Ship", True),
        ("storagetank", "storage_tank", True),
        ("ship", "ships", True),
        ("bus", "buses", True),
        ("ferry", "ferries", True),
        ("vehicle", "vehcile", True),
        ("small vehicle", "small vehicel", True),
        ("harbor", "harbour", True),
        ("car", "cat", False),  # too short for a slip
        ("ship", "shop", False),
        ("small vehicle", "large vehicle", False),
        ("type A", "type B", False),
        ("A320", "A330", False),
        ("Boeing737", "Boeing747", False),
        ("Boeing 737", "boeing-737", True),
        ("bridge", "brdige s", False),
        ("plane", "plan", False),  # the shorter has four letters
        ("classes", "classics", False),
        ("港口", "港 口", True),
    ],
)
def test_near_names(one: str, other: str, near: bool) -> None:
    assert spellings.near(one, other) is near
    assert spellings.near(other, one) is near
    assert bool(spellings.odd({one: 2, other: 1})) is near


def distance(one: str, other: str) -> int:
    """Damerau's, of neighbours swapped once (optimal string alignment), by the recurrence."""
    if not one or not other:
        return len(one) + len(other)
    steps = [
        distance(one[1:], other) + 1,
        distance(one, other[1:]) + 1,
        distance(one[1:], other[1:]) + (one[0] != other[0]),
    ]
    if one[:2] == other[1::-1] and len(one) > 1 and len(other) > 1:
        steps.append(distance(one[2:], other[2:]) + 1)
    return min(steps)


@given(st.text("abk", min_size=5, max_size=6), st.text("abk", min_size=5, max_size=6))
def test_a_slip_is_an_edit(one: str, other: str) -> None:
    assert spellings.near(one, other) is (distance(one, other) <= 1)


@given(st.dictionaries(st.text("ab cS-", min_size=1, max_size=8), st.integers(1, 9), max_size=8))
def test_every_name_near_a_commoner_one_is_found(names: dict[str, int]) -> None:
    found = spellings.odd(names)
    order = sorted(names, key=lambda name: (-names[name], name))
    expected = {}
    for at, name in enumerate(order):
        twins = [twin for twin in order[:at] if spellings.near(name, twin)]
        if twins:
            expected[name] = twins[0]
    assert found == expected


def test_thousands_of_hostile_names_take_no_time() -> None:
    names = {f"{'x' * 80}{at:x} {at:x}{'y' * 500}"[: 60 + at % 90]: 1 for at in range(20_000)}
    spellings.odd(names)


def test_an_image_of_two_splits_by_file_pixels_or_hash(tmp_path: Path) -> None:
    rows = [
        whole("file", sha256="1"),
        whole("file again", split="val", sha256="1"),
        whole("pixels", hashes=hashed(5, pixels="p")),
        whole("pixels again", split="test", hashes=hashed(6, pixels="p")),
        whole("hash", hashes=hashed(7)),
        whole("hash again", split="val", hashes=hashed(7)),
    ]
    held = flagged(tmp_path, rows)["split-leaks"]
    assert (held["count"], held["share"]) == (6, 1.0)
    assert sorted(held["examples"], key=lambda each: each["what"]) == [
        {
            "what": f"TEST/train/{name} again",
            "why": f"the same {rule} in train: TEST/train/{name}",
            "twin": f"TEST/train/{name}",
        }
        for name, rule in (("file", "file"), ("hash", "perceptual hash"), ("pixels", "pixels"))
    ]


def test_what_is_no_leak_between_splits(tmp_path: Path) -> None:
    rows = [
        whole("flat", sha256="1", hashes=hashed(7, low_info=True)),
        whole("flat too", split="val", sha256="2", hashes=hashed(7, low_info=True)),
        whole("one file", sha256="3"),
        whole("one file twice", sha256="3"),
        whole("nothing known", sha256=None),
        whole("nothing known too", split="val", sha256=None),
    ]
    assert flagged(tmp_path, rows) == {}


def test_leaks_are_found_across_tables_and_told_by_the_surest_rule(tmp_path: Path) -> None:
    train = [whole(f"{at:02d}", sha256=f"{at}", hashes=hashed(at + 1, pixels=f"{at}")) for at in range(20)]
    test = [each._replace(split="test", image_id=each.image_id.replace("train", "test")) for each in train]
    assert len(flagged(tmp_path / "few", train, test[:2])["split-leaks"]["examples"]) == 2
    held = flagged(tmp_path, train, test[:12])["split-leaks"]
    assert held["count"] == 24
    assert len({each["what"] for each in held["examples"]}) == 5
    for each in held["examples"]:
        assert each["twin"] == each["what"].replace("test", "train")
        assert each["why"] == f"the same file in train: {each['twin']}"


def test_a_shard_that_is_damaged_meanwhile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = written(tmp_path / "t", [whole("a", sha256="1"), whole("b", split="val", sha256="1")])
    find = stats.SplitLeaks.find
    [shard, _] = tables.shards(table)

    def damaged(*given: Any) -> Any:
        shard.write_bytes(b"PAR1 not a table")
        return find(*given)

    monkeypatch.setattr(stats.SplitLeaks, "find", damaged)
    with pytest.raises(TableError, match=f"{shard.name}: damaged"):
        stats.audit([table])
