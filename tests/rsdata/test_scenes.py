"""Synthetic scenes: the truth that comes with the pixels is exact, and the captions agree with it."""

from __future__ import annotations

import random
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from rsdata import scenes
from rsdata.errors import RecipeError
from rsdata.mask_to_box import regions
from rsdata.scenes import Scene, describe, draw
from rsdata.words import Words

RECIPES = Path(__file__).parents[2] / "recipes"
IRREGULAR = {
    "person": "people",
    "water": "",
    "agriculture": "",
    "barren land": "",
    "low vegetation": "",
}
SETS = [
    ("dota", False),
    ("dior", False),
    ("visdrone", False),
    ("hrrsd", False),
    ("loveda", True),
    ("potsdam", True),
]


def nouns_of(recipe: str) -> list[str]:
    classes = tomllib.loads((RECIPES / f"{recipe}.toml").read_text())["classes"]
    return list(dict.fromkeys(noun if isinstance(noun, str) else noun[0] for noun in classes.values()))


def components(scene: Scene) -> list[tuple[int, int, int, int, int]]:
    """(class, xmin, ymin, xmax, ymax) of each 8-connected region, by scipy."""
    found = []
    for value in np.unique(scene.mask[scene.mask >= 0]).tolist():
        labels, _ = ndimage.label(scene.mask == value, np.ones((3, 3)))
        found += [(value, x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)]
    return sorted(found)


def check_truth(scene: Scene, nouns: list[str]) -> None:
    height, width = scene.mask.shape
    assert scene.pixels.shape == (height, width, 3)
    assert scene.pixels.dtype == np.uint8
    assert scene.mask.dtype == np.int16
    boxes = sorted((nouns.index(b.label), b.xmin, b.ymin, b.xmax, b.ymax) for b in scene.boxes)
    assert boxes
    assert boxes == components(scene)
    _, separate = ndimage.label(scene.mask >= 0, np.ones((3, 3)))
    assert separate == len(boxes), "objects of two classes touch"
    assert (scene.mask[:2] < 0).all()
    assert (scene.mask[-2:] < 0).all()
    assert (scene.mask[:, :2] < 0).all()
    assert (scene.mask[:, -2:] < 0).all()
    for box in scene.boxes:
        assert box.raw_label == box.label
        points = np.array(box.polygon).reshape(-1, 2)
        spread = (*points.min(axis=0), *points.max(axis=0))
        np.testing.assert_allclose(spread, box[2:6], atol=1.0)
        assert (points >= (box.xmin, box.ymin)).all()
        assert (points <= (box.xmax, box.ymax)).all()
        x, y = points.T
        assert np.dot(x, np.roll(y, -1)) > np.dot(y, np.roll(x, -1)), "not clockwise on screen"


@pytest.mark.parametrize(("recipe", "land_cover"), SETS)
def test_truth_is_exact(recipe: str, land_cover: bool) -> None:
    nouns = nouns_of(recipe)
    drawn: set[str] = set()
    for seed in range(60):
        scene = draw(nouns, seed, land_cover=land_cover)
        check_truth(scene, nouns)
        assert len(scene.boxes) <= 12
        drawn |= {box.label for box in scene.boxes}
        if not land_cover:
            assert all(len(box.polygon or ()) == 8 for box in scene.boxes)
            assert 1 <= len({box.label for box in scene.boxes}) <= 4
    assert drawn == set(nouns)


@pytest.mark.parametrize(("width", "height"), [(32, 32), (64, 64), (100, 48), (640, 400)])
@pytest.mark.parametrize("land_cover", [False, True])
def test_truth_is_exact_at_any_size(width: int, height: int, land_cover: bool) -> None:
    nouns = nouns_of("dota") + nouns_of("dior")[1:] + nouns_of("loveda")
    nouns = list(dict.fromkeys(nouns))
    for seed in range(12):
        scene = draw(nouns, seed, width, height, most=30, land_cover=land_cover)
        assert scene.mask.shape == (height, width)
        check_truth(scene, nouns)


def test_each_primitive_is_one_region_at_any_length() -> None:
    rng = np.random.default_rng(0)
    for kind in scenes.KINDS:
        for length in (3, 5, 8, 14, 24, 50, 90):
            for angle in rng.uniform(0, 7, 6):
                tile, _, _ = scenes._raster(scenes._posed(kind.paint(rng), length, angle))
                assert ndimage.label(tile, np.ones((3, 3)))[1] == 1, (kind.words, length, angle)


def test_gap_between_objects() -> None:
    nouns = nouns_of("visdrone")
    for seed in range(10):
        scene = draw(nouns, seed, most=40)
        labels, count = ndimage.label(scene.mask >= 0, np.ones((3, 3)))
        for one in range(1, count + 1):
            around = ndimage.binary_dilation(labels == one, np.ones((7, 7)))
            assert set(np.unique(labels[around])) <= {0, one}


def test_mask_is_what_is_drawn() -> None:
    """Red cars on any ground: red pixels and the mask are the same region, within a pixel."""
    for seed in range(20):
        scene = draw(["car"], seed, most=5)
        pixels = scene.pixels.astype(int)
        red = pixels[..., 0] - pixels[..., 1:].max(axis=2) > 75
        mask = scene.mask == 0
        assert red.sum() > 0.5 * mask.sum()
        assert not (red & ~mask).any()
        filled = ndimage.binary_fill_holes(ndimage.binary_closing(red, np.ones((9, 9))))
        inner = ndimage.binary_erosion(mask, np.ones((3, 3)))
        assert (filled & inner).sum() > 0.97 * inner.sum()


def test_same_arguments_same_pixels_and_captions() -> None:
    nouns = nouns_of("dota")
    one, two = draw(nouns, 5, 200, 120), draw(tuple(nouns), 5, 200, 120)
    assert np.array_equal(one.pixels, two.pixels)
    assert np.array_equal(one.mask, two.mask)
    assert one.boxes == two.boxes
    assert describe(one, random.Random(1)) == describe(two, random.Random(1))
    assert not np.array_equal(one.pixels, draw(nouns, 6, 200, 120).pixels)
    assert not np.array_equal(one.pixels, draw(nouns[::-1], 5, 200, 120).pixels)


def test_class_sets_and_counts_vary() -> None:
    nouns = nouns_of("dota")
    drawn = [Counter(box.label for box in draw(nouns, seed).boxes) for seed in range(100)]
    assert len({frozenset(counts) for counts in drawn}) > 60
    assert {len(counts) for counts in drawn} == {1, 2, 3, 4}
    assert set(range(1, 8)) <= {count for counts in drawn for count in counts.values()}


def test_unknown_nouns_have_their_own_look() -> None:
    nouns = ["nuclear plant", "zeppelin", "cemetery", "solar panel"]
    check_truth(draw(nouns, 1), nouns)
    check_truth(draw(nouns, 1, land_cover=True), nouns)
    looks = []
    for noun in nouns:
        _, colour = scenes._kind(noun).paint(np.random.default_rng(0))[0]
        scene = draw([noun], 3, most=1)
        middle = scene.pixels[scene.mask == 0].astype(int).mean(axis=0)
        assert np.abs(middle - scene.pixels[scene.mask < 0].mean(axis=0)).max() > 15
        looks.append((colour, len(scenes._kind(noun).paint(np.random.default_rng(0))[0][0])))
    assert len(set(looks)) == len(nouns)


@pytest.mark.parametrize(
    ("noun", "not_noun"),
    [
        ("airplane", "airport"),
        ("helipad", "helicopter"),
        ("small vehicle", "large vehicle"),
        ("tricycle", "awning tricycle"),
        ("bicycle", "tricycle"),
        ("basketball court", "baseball diamond"),
        ("ground track field", "soccer ball field"),
        ("expressway service area", "expressway toll station"),
        ("pedestrian", "person"),
        ("T junction", "crossroad"),
        ("car", "container crane"),
        ("bus", "motor"),
        ("agriculture", "golf field"),
        ("storage tank", "train station"),
    ],
)
def test_nouns_that_share_words_look_different(noun: str, not_noun: str) -> None:
    assert scenes._kind(noun) is not scenes._kind(not_noun)


def test_ships_lie_on_water_and_planes_do_not() -> None:
    seen = set()
    for seed in range(40):
        scene = draw(["ship", "plane"], seed)
        labels = {box.label for box in scene.boxes}
        seen.add(scene.setting)
        if labels == {"ship", "plane"}:
            assert scene.setting == "the coast"
        around = {}
        for value, noun in enumerate(("ship", "plane")):
            ring = ndimage.binary_dilation(scene.mask == value, np.ones((5, 5))) & (scene.mask < 0)
            if ring.any():
                around[noun] = np.median(scene.pixels[ring].astype(int), axis=0)
        # Water is the one ground that is bluer than it is red, by far.
        assert "ship" not in around or around["ship"][2] - around["ship"][0] > 30
        assert "plane" not in around or around["plane"][2] - around["plane"][0] < 20
    assert {"water", "the coast"} < seen


def test_land_cover_fills_has_holes_and_islands() -> None:
    nouns = nouns_of("loveda")
    holes = islands = 0
    covered, classes = [], []
    for seed in range(40):
        scene = draw(nouns, seed, land_cover=True)
        covered.append((scene.mask >= 0).mean())
        classes.append(len({box.label for box in scene.boxes}))
        for value in np.unique(scene.mask[scene.mask >= 0]):
            own = scene.mask == value
            inside = ndimage.binary_fill_holes(own, np.ones((3, 3))) & ~own
            holes += ndimage.label(inside, np.ones((3, 3)))[1]
            islands += len(set(np.unique(scene.mask[inside]).tolist()) - {-1})
    assert np.mean(covered) > 0.3
    assert np.mean([count >= 3 for count in classes]) > 0.9
    assert holes >= 10
    assert islands >= 5


@pytest.mark.parametrize("recipe", ["loveda", "potsdam"])
def test_mask_to_box_finds_the_boxes_again(recipe: str) -> None:
    nouns = nouns_of(recipe)
    for seed in range(20):
        scene = draw(nouns, seed, land_cover=True)
        found = regions(scene.mask.astype(np.int32), list(range(len(nouns))))
        boxes = sorted((nouns.index(b.label), b.xmin, b.ymin, b.xmax, b.ymax) for b in scene.boxes)
        assert sorted((r.value, r.xmin, r.ymin, r.xmax, r.ymax) for r in found) == boxes


def test_wrong_arguments() -> None:
    with pytest.raises(RecipeError, match="names none"):
        draw([], 0)
    with pytest.raises(ValueError, match="32x32"):
        draw(["car"], 0, 20, 256)
    with pytest.raises(ValueError, match="cannot draw 0"):
        draw(["car"], 0, most=0)


# Captions.

NUMBER = {"a": 1, "an": 1, **{word: value for value, word in enumerate(scenes.NUMBERS) if value > 1}}
MANY = ("many", "lots of", "a large number of")


def counts_said(caption: str, nouns: list[str], words: Words) -> dict[str, str]:
    """Noun -> the number word that stands before it, colours skipped. Fails on a noun without one."""
    forms = {
        form: noun
        for noun in nouns
        for form in (noun, words.plural(noun), f"area of {noun}", f"areas of {noun}")
    }
    number = "|".join((*MANY, *scenes.NUMBERS, "an", "a"))
    colours = "|".join(sorted({kind.colour for kind in scenes.KINDS} - {""}))
    things = "|".join(sorted(map(re.escape, forms), key=len, reverse=True))
    found = re.findall(rf"\b({number}) (?:(?:{colours}) )?({things})(?![\w-])", caption)
    return {forms[thing]: word for word, thing in found}


def check_caption(caption: str, scene: Scene, nouns: list[str], words: Words) -> set[str]:
    counts = Counter(box.label for box in scene.boxes)
    said = counts_said(caption, nouns, words)
    for noun, word in said.items():
        if word in MANY:
            assert counts[noun] > 10, caption
        else:
            assert counts[noun] == NUMBER[word], caption
    return set(said)


@pytest.mark.parametrize(("recipe", "land_cover"), SETS)
def test_captions_count_right(recipe: str, land_cover: bool) -> None:
    nouns, words = nouns_of(recipe), Words(IRREGULAR)
    forms = set()
    for seed in range(40):
        scene = draw(nouns, seed, land_cover=land_cover, most=[12, 12, 30][seed % 3])
        captions = describe(scene, random.Random(seed), words)
        assert len(captions) == 5
        assert len(set(captions)) >= 3
        whole = 0
        for caption in captions:
            assert caption.endswith(" .")
            assert caption[0].islower()
            assert "  " not in caption
            said = check_caption(caption, scene, nouns, words)
            assert said, caption
            whole += said == {box.label for box in scene.boxes}
            forms.add(" ".join(caption.split()[:2]))
        assert whole >= 2
    assert len(forms) > 10


def test_captions_say_many_above_ten() -> None:
    scene = next(s for s in (draw(["pedestrian"], seed, most=30) for seed in range(50)) if len(s.boxes) > 10)
    text = " ".join(describe(scene, random.Random(0)))
    assert any(f"{word} " in text for word in MANY)
    assert not any(f" {word} " in f" {text} " for word in scenes.NUMBERS)


def test_places_and_relations_are_true() -> None:
    nouns = nouns_of("dota")
    seen = set()
    for seed in range(150):
        scene = draw(nouns, seed, most=4)
        groups: dict[str, Any] = {}
        for noun in {box.label for box in scene.boxes}:
            groups[noun] = np.array([box[2:6] for box in scene.boxes if box.label == noun])
        words = Words()
        for caption in describe(scene, random.Random(seed), words):
            said = list(counts_said(caption, nouns, words))
            first = groups[said[0]]
            x, y = (first[:, 0] + first[:, 2]) / 512, (first[:, 1] + first[:, 3]) / 512
            for phrase, holds in {
                "in the middle": ((x >= 1 / 3) & (x < 2 / 3) & (y >= 1 / 3) & (y < 2 / 3)).all(),
                "top left corner": ((x < 1 / 3) & (y < 1 / 3)).all(),
                "bottom right corner": ((x >= 2 / 3) & (y >= 2 / 3)).all(),
                "at the top": (y < 1 / 3).all(),
                "at the bottom": (y >= 2 / 3).all(),
                "on the left side": (x < 1 / 3).all(),
                "on the right side": (x >= 2 / 3).all(),
                "to the left of": len(said) < 2 or first[:, 2].max() < groups[said[-1]][:, 0].min(),
                "above": len(said) < 2 or first[:, 3].max() < groups[said[-1]][:, 1].min(),
            }.items():
                if phrase in caption:
                    seen.add(phrase)
                    assert holds, (seed, caption)
            if re.search(r" (near|next to) (?!the coast)", caption):
                seen.add("near")
                assert_each_has_a_neighbour(first, groups[said[-1]], 0.15 * 256)
    assert len(seen) == 10


def assert_each_has_a_neighbour(one: Any, two: Any, reach: float) -> None:
    apart = np.maximum(one[:, None, :2] - two[None, :, 2:], two[None, :, :2] - one[:, None, 2:])
    gaps = np.hypot(*np.moveaxis(np.maximum(apart, 0), -1, 0))
    assert (gaps.min(axis=0) < reach).all()
    assert (gaps.min(axis=1) < reach).all()


@pytest.mark.parametrize(("noun", "colour", "channel"), [("car", "red", 0), ("tennis court", "blue", 2)])
def test_captions_name_the_drawn_colour(noun: str, colour: str, channel: int) -> None:
    scene = draw([noun], 2, most=3)
    said = " ".join(" ".join(describe(scene, random.Random(seed))) for seed in range(4))
    assert f"{colour} {noun}" in said
    assert int(scene.pixels[scene.mask == 0].mean(axis=0).argmax()) == channel
