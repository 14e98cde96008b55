from __future__ import annotations

import pickle

import pytest

from rsdata.errors import RecipeError
from rsdata.words import Words, listing


@pytest.mark.parametrize(
    ("noun", "one", "three"),
    [
        ("airplane", "an airplane", "3 airplanes"),
        ("ground track field", "a ground track field", "3 ground track fields"),
        ("overpass", "an overpass", "3 overpasses"),
        ("storage tank", "a storage tank", "3 storage tanks"),
        ("bus", "a bus", "3 buses"),
        ("small-vehicle", "a small-vehicle", "3 small-vehicles"),
        ("university", "a university", "3 universities"),
        ("T junction", "a T junction", "3 T junctions"),
        ("X junction", "an X junction", "3 X junctions"),
        ("bridge over water", "a bridge over water", "3 bridges over water"),
        ("person", "a person", "3 people"),
        ("aircraft", "an aircraft", "3 aircraft"),
        ("sheep", "a sheep", "3 sheep"),
        ("mine", "a mine", "3 mines"),
        ("A220", "an A220", "3 A220s"),
    ],
)
def test_counted_nouns(noun, one, three):
    words = Words()
    assert (words.phrase(noun, 1), words.phrase(noun, 3)) == (one, three)
    assert words.phrase(noun, "many") == three.replace("3", "many")


def test_the_recipe_overrules_inflect():
    words = Words({"person": "persons", "lorry": "lorrys"})
    assert words.plural("person") == "persons"
    assert words.phrase("lorry", 2) == "2 lorrys"


def test_a_mass_noun_is_counted_in_places():
    words = Words({"water": "", "low vegetation": ""})
    assert words.is_mass("water")
    assert not words.is_mass("building")
    assert words.phrase("water", 1) == "a place with water"
    assert words.phrase("low vegetation", 4) == "4 places with low vegetation"
    assert words.phrase("water", "lots of") == "lots of places with water"


@pytest.mark.parametrize(
    ("noun", "one", "ten"),
    [
        ("overpass", "one overpass", "ten overpasses"),
        ("person", "one person", "ten people"),
        ("storage tank", "one storage tank", "ten storage tanks"),
        ("water", "one place with water", "ten places with water"),
    ],
)
def test_numbers_as_words(noun, one, ten):
    words = Words({"water": ""})
    assert (words.spelled(noun, 1), words.spelled(noun, 10)) == (one, ten)
    said = [words.spelled(noun, number).partition(" ")[0] for number in range(1, 11)]
    assert said == ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def test_singular_knows_only_nouns_that_were_asked_about():
    words = Words({"person": "people"})
    assert words.singular("people") is None
    words.plural("person")
    assert words.singular("people") == "person"
    assert words.singular("cars") is None


def test_two_nouns_with_one_plural_are_refused():
    words = Words({"aircraft": "airplanes"})
    words.plural("airplane")
    with pytest.raises(RecipeError, match="'airplane' and 'aircraft' have one plural, 'airplanes'"):
        words.plural("aircraft")


def test_a_blank_noun_is_refused():
    with pytest.raises(RecipeError, match="blank"):
        Words().phrase(" ", 2)


def test_listing():
    assert listing([]) == ""
    assert listing(["a car"]) == "a car"
    assert listing(["a car", "3 ships"]) == "a car and 3 ships"
    assert listing(["a car", "3 ships", "a bus"]) == "a car, 3 ships and a bus"


def test_words_travel_to_worker_processes():
    words = Words({"water": ""})
    words.phrase("airplane", 2)
    assert pickle.loads(pickle.dumps(words)).phrase("water", 2) == "2 places with water"
