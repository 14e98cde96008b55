from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from rsdata import corpora, formats, recipes
from rsdata.classes import Classes
from rsdata.errors import RecipeError
from rsdata.recipes import Layout, load, parse

WHOLE = """\
title = "Mine"
homepage = "https://example.org"
licence = "CC0"
citation = "Me"
format = "voc"
ignore = ["tree", 7]

[paper]
images = 5
splits = ["train"]

[options]
base = 1

[splits.train]
images = ["a/*.*", "b/*.*"]
annotations = "x/*.xml"
list = ["train.txt", "sets/train.txt"]

[[splits.test]]
images = "test/{u,v}/*.*"
annotations = ["y/{u,v}/*.xml", "z/*.xml"]
base = 0
[[splits.test]]
images = "test/*.*"
annotations = "z/*.xml"
names = ["one"]

[classes]
ship = "ship"
man = ["person", "people"]
lake = ["water", ""]
"""


def written(folder: Path, text: str | bytes) -> str:
    path = folder / "mine.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_all_that_a_recipe_may_say(tmp_path: Path) -> None:
    recipe = load(written(tmp_path, WHOLE))
    assert (recipe.name, recipe.title, recipe.format) == ("mine", "Mine", "voc")
    assert (recipe.homepage, recipe.licence, recipe.citation) == ("https://example.org", "CC0", "Me")
    assert recipe.nouns == {"ship": "ship", "man": "person", "lake": "water"}
    assert recipe.irregular == {"person": "people", "water": ""}
    assert recipe.ignore == ["tree", "7"]
    assert recipe.paper == {"images": 5, "splits": ["train"]}
    assert recipe.reader is formats.load("voc")
    train = [
        Layout(images, "x/*.xml", names, [], options={"base": 1})
        for names in ("train.txt", "sets/train.txt")
        for images in ("a/*.*", "b/*.*")
    ]
    test = [
        Layout("test/{u,v}/*.*", "y/{u,v}/*.xml", "", [], options={"base": 0}),
        Layout("test/*.*", "z/*.xml", "", ["one"], options={"base": 1}),
    ]
    assert recipe.splits == {"train": train, "test": test}
    classes = recipe.classes()
    assert (classes["man"], classes["tree"], classes["house"]) == ("person", "", "")
    assert classes.ignores("tree")
    assert not classes.ignores("house")


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf" + WHOLE.encode(), WHOLE.replace("\n", "\r\n").encode()])
def test_a_bom_and_windows_line_ends(tmp_path: Path, data: bytes) -> None:
    plain = load(written(tmp_path, WHOLE))
    other = load(written(tmp_path, data))
    assert other.splits == plain.splits
    assert other.nouns == plain.nouns
    assert other.digest != plain.digest


MINIMAL: dict[str, Any] = {
    "format": "dota",
    "splits": {"train": {"images": "a/*.*", "annotations": "b/*.txt"}},
}


def changed(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**MINIMAL, **changes}.items() if value is not None}


def train(**changes: Any) -> dict[str, Any]:
    return changed(splits={"train": {**MINIMAL["splits"]["train"], **changes}})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (changed(formt="x"), "recipe mine: 'formt' is not known; did you mean 'format'?"),
        (changed(zzz="x"), "recipe mine: 'zzz' is not known; known: title, homepage"),
        (changed(format=None), "recipe mine: no format"),
        (changed(format=5), "recipe mine: format is no text"),
        (changed(format="dotta"), "no format 'dotta'; did you mean 'dota'? (known: "),
        (changed(format="_fields"), "no format '_fields'"),
        (changed(splits=None), "recipe mine: no splits"),
        (changed(splits={}), "recipe mine: no splits"),
        (changed(splits={"train": []}), "recipe mine: a split without a layout"),
        (changed(splits="x"), "recipe mine: splits is no table"),
        (changed(splits={"train": "x"}), "recipe mine, split train: expected a table"),
        (
            changed(splits={"test-dev": MINIMAL["splits"]["train"]}),
            "recipe mine, split test-dev: a split's name is",
        ),
        (changed(title=5), "recipe mine: title is no text"),
        (changed(paper=5), "recipe mine, [paper]: expected a table"),
        (changed(paper={"image": 5}), "recipe mine, [paper]: 'image' is not known; did you mean 'images'?"),
        (
            changed(paper={"splits": ["val"]}),
            "recipe mine, [paper]: splits names 'val', which the recipe has not",
        ),
        (changed(options={"base": 1}), "recipe mine, split train: 'base' is not known"),
        (changed(options=[1]), "recipe mine: options is no table"),
        (changed(ignore="255"), "recipe mine: ignore is no array of labels"),
        (changed(counted=5), "recipe mine: counted is a text or an array of texts"),
        (
            changed(counted=["ship", "a"], classes={"a": "ship"}),
            "recipe mine: counted names 'a', which is no noun of [classes]",
        ),
        (changed(classes={"a": 5}), "recipe mine, class 'a': expected a noun or [noun, plural]"),
        (changed(classes={"a": ""}), "recipe mine, class 'a': expected a noun"),
        (changed(classes={"a": []}), "recipe mine, class 'a': expected a noun"),
        (changed(classes={"a": ["b", "c", "d"]}), "recipe mine, class 'a': expected a noun"),
        (train(imags="x"), "recipe mine, split train: 'imags' is not known; did you mean 'images'?"),
        (train(images=5), "recipe mine, split train: images is a text or an array of texts"),
        (train(images=[]), "recipe mine, split train: images and annotations are patterns"),
        (train(images="a/*/*.*"), "recipe mine, split train: images and annotations pair by stars"),
        (
            {
                "format": "masks",
                "splits": {"val": {"images": "*.*", "annotations": "m/*.png", "min_aera": 5}},
            },
            "recipe mine, split val: 'min_aera' is not known; did you mean 'min_area'?",
        ),
        (
            {
                "format": "masks",
                "splits": {"val": {"images": "*.*", "annotations": "m/*.png", "min_area": "5"}},
            },
            "recipe mine, split val: min_area = '5', expected int",
        ),
        (
            {"format": "voc", "options": {"base": 1.5}, "splits": MINIMAL["splits"]},
            "recipe mine, split train: base = 1.5, expected int | str",
        ),
    ],
)
def test_what_is_wrong_is_said(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse("mine", raw)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "text",
    ["format = ", "format = 'x'\nformat = 'y'", b"title = '\xff'", "a = " + "9" * 5000, "a = 1\rb = 2"],
)
def test_bad_toml(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(RecipeError, match=r"mine\.toml: not valid TOML"):
        load(written(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "hint"),
    [("dotta", "; did you mean 'dota'?"), ("qqq", ""), ("", ""), ("none.toml", ""), ("../recipes/none", "")],
)
def test_an_unknown_recipe_gets_the_nearest_name(name: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(name)
    assert str(caught.value).startswith(f"no recipe {name!r}{hint} (see `rsdata recipes`")
    assert str(caught.value).endswith("or give a .toml file)")


@pytest.mark.parametrize("name", recipes.names())
def test_shipped_recipes_are_whole(name: str) -> None:
    recipe = load(name)
    assert recipe.name == name
    assert recipe.title
    assert recipe.licence
    assert recipe.citation
    assert recipe.homepage.startswith(("https://", "http://"))
    assert recipe.format in formats.names()
    if recipe.paper:
        assert recipe.paper["images"] > 0
        assert recipe.paper["of"]
        assert recipe.paper.get("boxes", recipe.paper["images"]) >= recipe.paper["images"]
    if recipe.nouns is not None:
        classes = recipe.classes()
        assert all(classes[raw] == noun for raw, noun in recipe.nouns.items())
        assert not set(recipe.nouns) & set(recipe.ignore)
    assert len(recipe.digest) == 64


def test_the_seventeen_of_the_paper_are_shipped() -> None:
    corpus = corpora.load("remoteclip")
    assert len(corpus.datasets) == 17
    counts = [recipe.paper for recipe in corpus.datasets]
    assert sum(paper["images"] for paper in counts) == 165_561
    assert sum(paper.get("boxes", 0) for paper in counts) == 2_234_057
    assert corpus.total == 165_745


@pytest.mark.parametrize("name", formats.names())
def test_a_bare_format_is_a_recipe(name: str) -> None:
    recipe = recipes.from_format(name)
    reader = recipe.reader
    assert ("*" if getattr(reader, "NAMES_SPLITS", False) else "train") in recipe.splits
    assert recipe.nouns is None
    annotations = "" if reader.ONE_FILE == "none" else "a/*.x"
    images = "i/*/*.*" if getattr(reader, "FRAMES", False) else "i/*.*"
    own = recipes.from_format(name, images, annotations)
    (layouts,) = own.splits.values()
    assert layouts == [Layout(images, annotations, names=[])]
    if annotations:
        with pytest.raises(RecipeError, match="give both patterns, --images and --annotations, or neither"):
            recipes.from_format(name, images="i/*.*")


def test_a_split_in_the_patterns_of_a_format() -> None:
    own = recipes.from_format("dota", "{split}/i/*.*", "{split}/a/*.x")
    assert own.splits == {
        split: [Layout(f"{word}/i/*.*", f"{word}/a/*.x", names=[]) for word in words]
        for split, words in (
            ("val", ("val", "valid", "validation")),
            ("test", ("test", "testing")),
            ("train", ("train", "training")),
        )
    }


def test_options_of_the_command_line_win() -> None:
    recipe = recipes.adapted(load("hrrsd"), "mine", {"base": 1})
    assert recipe.name == "mine"
    assert {layout.options["base"] for layouts in recipe.splits.values() for layout in layouts} == {1}
    assert recipe.digest != load("hrrsd").digest
    for options, message in [
        ({"bas": 1}, "'bas' is not known"),
        ({"base": []}, r"base = \[\], expected int | str"),
    ]:
        with pytest.raises(RecipeError, match=message):
            recipes.adapted(load("hrrsd"), None, options)


@pytest.mark.parametrize(
    "spelling", ["storage-tank", "Storage Tank", "storage_tank", "STORAGETANK", " storage  tank "]
)
def test_labels_are_compared_folded(spelling: str) -> None:
    classes = Classes({"storage-tank": "storage tank", "T junction": "T junction"}, ignored=("Back-Ground",))
    assert classes[spelling] == "storage tank"
    assert classes["t_junction"] == "T junction"
    assert classes["tank"] == ""
    assert classes["background"] == ""
    assert classes.ignores("BACK GROUND")
    assert not classes.ignores(spelling)


def test_of_labels_that_fold_alike_the_exact_one_wins() -> None:
    classes = Classes({"AB": "one", "a-b": "two"})
    assert (classes["AB"], classes["a-b"]) == ("one", "two")


@pytest.mark.parametrize(
    ("raw", "noun"),
    [
        ("small-vehicle", "small vehicle"),
        ("  T_junction ", "T junction"),
        ("7", ""),
        ("0,0,255", ""),
        ("船", "船"),
        ("", ""),
    ],
)
def test_without_a_recipe_a_label_is_its_own_noun(raw: str, noun: str) -> None:
    assert Classes(None)[raw] == noun


@pytest.mark.parametrize("nouns", [None, {"small-vehicle": "small vehicle"}])
def test_classes_reach_a_worker(nouns: dict[str, str] | None) -> None:
    classes = Classes(nouns, ("tree",))
    labels = ["small_vehicle", "tree", "house", "5"]
    expected = [classes[label] for label in labels]
    again = pickle.loads(pickle.dumps(classes))
    assert [again[label] for label in labels] == expected
    assert again["another one"] == classes["another one"]
    assert [again.ignores(label) for label in labels] == [False, True, False, False]


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"scene": "P"}, "expected a family"),
        ({"family": "x"}, "expected a family, and either scene or file"),
        ({"family": "x", "scene": "P", "file": "Q"}, "either scene or file"),
        ({"family": "x", "scene": 3}, "expected str"),
        ({"family": "x", "scene": "["}, "is no pattern"),
        ({"family": "x", "file": "(a*)*"}, "too much of a pattern"),
        ({"family": "x", "sceen": "P"}, "did you mean 'scene'"),
        (["x"], "expected a table"),
    ],
)
def test_an_origin_that_is_wrong(table: Any, why: str) -> None:
    layout = {"images": "i/*.*", "annotations": "a/*.txt"}
    with pytest.raises(RecipeError, match=re.escape(why)):
        recipes.parse("mine", {"format": "dota", "splits": {"train": layout}, "origin": table})


def test_origins_of_the_shipped_recipes() -> None:
    held = {name: recipes.load(name).origin for name in recipes.names()}
    assert {name for name, origin in held.items() if origin} == {
        "dota",
        "isaid",
        "rsicd",
        "rsitmd",
        "ucm",
        "aid",
        "remotecount",
    }
    assert recipes.name_pattern(held["dota"]["scene"]).match("P0706__1__0___0")
