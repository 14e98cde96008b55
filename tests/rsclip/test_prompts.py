"""Prompt sets: those that are shipped, and what is said of files that are none."""

from __future__ import annotations

import pytest

from rsclip import prompts
from rsdata.errors import RecipeError

COUNTS = {"clip-eurosat": 3, "clip-resisc45": 18, "itra": 5, "remoteclip": 1, "rs5m": 105, "skyscript": 2}


def written(folder, text):
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_shipped_sets():
    assert {name: len(prompts.load(name).templates) for name in prompts.names()} == COUNTS
    for name in prompts.names():
        held = prompts.load(name)
        assert held.name == name
        assert held.ensemble == ("raw" if name in ("itra", "rs5m") else "normalised")
        assert len({*held.templates}) == len(held.templates)
        assert all(
            "{" not in text.format("ship") and "ship" in text.format("ship") for text in held.templates
        )


def test_the_single_prompt_of_the_paper():
    assert prompts.load("remoteclip").templates == ["a satellite photo of {}."]


def test_rs5m_has_35_forms_with_three_words_for_the_picture():
    """GeoRSCLIP: each of its 35 forms with "remote sensing image", "aerial image", "satellite image"."""
    templates = prompts.load("rs5m").templates
    pictures = ("remote sensing image", "aerial image", "satellite image")
    forms = [
        text.replace(f"an {picture}", "a PICTURE").replace(picture, "PICTURE")
        for picture in pictures
        for text in templates
        if picture in text
    ]
    assert len(forms) == 105
    assert len(set(forms)) == 35
    assert all(forms.count(form) == 3 for form in forms)
    assert not any("a aerial" in text or "an remote" in text or "an satellite" in text for text in templates)
    assert sum("an aerial image" in text for text in templates) == 15
    for text in (
        "an aerial image of many {}.",
        "a satellite image of the hard to see {}.",
        "a jpeg corrupted remote sensing image of a {}.",
    ):
        assert text in templates


def test_words_stand_for_each_of_theirs_in_turn_and_equal_templates_are_one(tmp_path):
    path = written(
        tmp_path,
        'templates = ["a {size} {view} of {}.", "a large photo of {}."]\n'
        '[words]\nview = ["photo", "map"]\nsize = ["large", "small"]\nunused = ["x"]\n',
    )
    assert prompts.load(path) == prompts.Prompts(
        "mine",
        [f"a {size} {view} of {{}}." for view in ("photo", "map") for size in ("large", "small")],
        "normalised",
    )


NOT_LISTS = "templates and each of [words] are lists of strings"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('templates = ["a ship."]', "one {} for the class, not ['a ship.']"),
        ('templates = ["{}.", "{} and {}."]', "one {} for the class, not ['{} and {}.']"),
        ('templates = ["{view} of {}."]', "one {} for the class, not ['{view} of {}.']"),
        ('templates = ["{}", "{0}"]', "one {} for the class, not ['{0}']"),
        ("templates = []", "one {} for the class, not none"),
        ('title = "nothing"', "one {} for the class, not none"),
        ('templates = ["{view} {}"]\n[words]\nview = []', "one {} for the class, not none"),
        ('templates = ["{}"]\ntemplate = "x"', "'template' is not known"),
        ('templates = ["{}"]\nensemble = "mean"', "ensemble = 'mean', expected normalised or raw"),
        ('templates = "a {}."', NOT_LISTS),
        ("templates = [1]", NOT_LISTS),
        ('templates = ["{view} {}"]\n[words]\nview = "map"', NOT_LISTS),
        ('templates = ["{view} {}"]\n[words]\nview = [1]', NOT_LISTS),
        ('templates = ["{}"]\nwords = ["a"]', NOT_LISTS),
        ("templates = [", "not valid TOML"),
    ],
)
def test_a_file_that_is_no_set_is_told_in_one_line(tmp_path, text, why):
    path = written(tmp_path, text)
    with pytest.raises(RecipeError) as told:
        prompts.load(path)
    assert str(told.value).startswith(f"prompts {path}: ")
    assert why in str(told.value)
    assert "\n" not in str(told.value)


def test_bytes_that_are_no_text_are_no_toml(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b'title = "\xff"')
    with pytest.raises(RecipeError, match="not valid TOML"):
        prompts.load(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("name", "hint"), [("rs5", "did you mean 'rs5m'"), ("xyz", "there are clip-eurosat, clip-resisc45, itra")]
)
def test_an_unknown_name_is_answered_with_what_there_is(name, hint):
    with pytest.raises(RecipeError, match=hint):
        prompts.load(name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"no prompts '.*none\.toml'"):
        prompts.load(str(tmp_path / "none.toml"))
