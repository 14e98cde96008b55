"""Hard negatives of random scenes: proven false, and false in one thing alone."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest
from test_box_to_caption import EDGE, IRREGULAR, MIDDLE, NOUNS, WORDS, assert_english, box, record

from rsdata import recipes, statements
from rsdata.box_to_caption import captions, contradictions, judge, names, parse
from rsdata.hard_negatives import KINDS, NEAR, hard_negatives
from rsdata.records import Box, Record
from rsdata.words import Words

SETS = [name for name in names() if not judge(name)]
"""Those that tell of every image."""


def negatives(caption, truth, seed=0, nouns=NOUNS, words=WORDS):
    return hard_negatives(caption, truth, words, nouns, random.Random(seed))


def drawn(caption, truth, kind, nouns=NOUNS):
    """What many seeds make of a caption."""
    return {negatives(caption, truth, seed, nouns).get(kind) for seed in range(200)}


def random_record(rng):
    boxes = [
        box(label, (rng.uniform(10, 790), rng.uniform(10, 790)), flags=rng.choice([(), (), ("crowd",)]))
        for label in rng.sample(NOUNS, rng.randint(1, 6))
        for _ in range(rng.choice([1, 1, 2, 2, 3, 9, 10, 11, 25]))
    ]
    size = rng.choice([800, 800, 800, None])
    cover = [(rng.choice(NOUNS), 0.5)] if rng.random() < 0.3 else []
    return record(*boxes, width=size, height=size)._replace(gsd=0.3, cover=cover)


def written(seed, images):
    """(template, caption, record) of random scenes."""
    rng = random.Random(seed)
    for image in range(images):
        truth = random_record(rng)
        for template in SETS:
            options = {"large_count": rng.choice(["vague", "exact", "mixed"])}
            for caption in captions(truth, str(image), template, WORDS, **options):
                yield template, caption, truth


def claims(caption):
    return parse(statements.parts(caption)[0], WORDS, NOUNS)


# --- random scenes


def test_every_negative_is_false_and_differs_in_its_kind_alone():
    made, asked = Counter(), Counter()
    for number, (template, caption, truth) in enumerate(written(seed=0, images=300)):
        found = negatives(caption, truth, seed=number)
        assert list(found) == [kind for kind in KINDS if kind in found]
        asked[template] += 1
        for kind, false in found.items():
            made[template, kind] += 1
            assert false != caption
            assert contradictions([false], truth, WORDS, NOUNS) != []
            (head, said), (true_head, true_said) = statements.parts(false), statements.parts(caption)
            assert said == true_said
            assert contradictions([head], truth, WORDS, NOUNS) != []
            assert_english(head)
            assert_one_difference(kind, parse(true_head, WORDS, NOUNS), parse(head, WORDS, NOUNS), truth)
    for template in SETS:
        assert made[template, "class"] > 0.99 * asked[template]
        assert made[template, "number"] > 0.85 * asked[template]
        assert made[template, "place"] > 0.2 * asked[template]


def assert_one_difference(kind, true, false, truth):
    if kind == "place":
        turned = {"middle": "edge", "edge": "middle"}
        moved = [claim._replace(place=turned[claim.place]) for claim in true]
        assert sorted(false, key=repr) == sorted(moved, key=repr)
        return
    changed = [(one, other) for one, other in zip(true, false, strict=True) if one != other]
    assert len(changed) == 1
    (one, other), present = changed[0], {each.label for each in truth.boxes}
    if kind == "number":
        assert other == one._replace(least=other.least, most=other.least)
        assert 1 <= other.least <= 10
        assert one.most is None or one.most > 12 or abs(other.least - one.most) <= NEAR
    else:
        assert other == one._replace(label=other.label)
        assert other.label not in present | {label for label, _ in truth.cover}


def test_the_order_of_a_list_tells_nothing():
    """Else a model could learn it and never look at the picture."""
    kept = Counter()
    for number, (_, caption, truth) in enumerate(written(seed=1, images=200)):
        for kind, false in negatives(caption, truth, seed=number).items():
            for place in ("middle", "edge", "anywhere"):
                ranks = [(-c.most, c.label) for c in claims(false) if c.place == place and c.most]
                kept[kind, ranks == sorted(ranks)] += 1
    for kind in KINDS:
        assert kept[kind, False] < 0.01 * kept[kind, True]


def test_chance_comes_from_the_generator_alone():
    for number, (_, caption, truth) in enumerate(written(seed=2, images=20)):
        first = negatives(caption, truth, number, NOUNS)
        assert negatives(caption, truth, number, frozenset(NOUNS[::-1]), Words(IRREGULAR)) == first
    assert len(drawn("3 cars in the picture.", record(*[box("car")] * 3), "class")) > 5


def test_the_recipes_nouns():
    recipe = recipes.load("dota")
    nouns, words = sorted(set(recipe.nouns.values())), Words(recipe.irregular)
    rng = random.Random(0)
    for image in range(30):
        labels = [noun for noun in rng.sample(nouns, 3) for _ in range(rng.choice([1, 2, 12]))]
        truth = record(*[box(label, rng.choice([MIDDLE, EDGE])) for label in labels])
        for caption in captions(truth, str(image), "a2c", words):
            found = hard_negatives(caption, truth, words, nouns, rng)
            assert {"number", "class"} <= found.keys()
            for false in found.values():
                assert parse(false, words, nouns)
                assert contradictions([false], truth, words, nouns) != []


# --- the sentences


def test_negatives_never_change():
    """Nor does the order of a set, which is another in each process, have a part in them."""
    truth = record(*[box("large vehicle", EDGE)] * 4, box("airport", EDGE), box("soccer ball field", EDGE))
    nouns = {"large vehicle", "ship", "harbor", "bridge", "storage tank", "airplane"}
    caption = "4 large vehicles, an airport and a soccer ball field at the edge of the picture."
    found = negatives(caption, truth, 0, nouns, Words())
    assert found == {
        "number": "4 large vehicles, 3 airports and a soccer ball field at the edge of the picture.",
        "class": "4 harbors, an airport and a soccer ball field at the edge of the picture.",
        "place": "4 large vehicles, an airport and a soccer ball field in the middle of the picture.",
    }
    page = (Path(__file__).parents[2] / "docs/captions.md").read_text(encoding="utf-8")
    assert [text for text in found.values() if text not in page] == []


def test_numbers_inflect_noun_and_verb():
    one, two = record(box("person", EDGE)), record(box("person", EDGE), box("person", EDGE))
    assert drawn("There is a person in the picture.", one, "number") == {
        "There are 2 people in the picture.",
        "There are 3 people in the picture.",
    }
    assert "A person is located in the picture." in drawn(
        "2 people are located in the picture.", two, "number"
    )
    assert drawn("A person is located in the picture.", one, "number") == {
        "2 people are located in the picture.",
        "3 people are located in the picture.",
    }
    mixed = record(box("bus"), box("person"))
    assert drawn("A bus and a person are located in the picture.", mixed, "number") == {
        "2 buses and a person are located in the picture.",
        "3 buses and a person are located in the picture.",
    }


def test_words_become_words():
    one, ten = record(box("person")), record(*[box("bus")] * 10)
    assert drawn("There is one person in the picture.", one, "number") == {
        "There are two people in the picture.",
        "There are three people in the picture.",
    }
    assert drawn("There are ten buses in the picture.", ten, "number") == {
        "There are eight buses in the picture.",
        "There are nine buses in the picture.",
    }
    two = record(*[box("water")] * 2)
    assert drawn("There are two places with water in the picture.", two, "number") == {
        "There is one place with water in the picture.",
        "There are three places with water in the picture.",
        "There are four places with water in the picture.",
    }
    assert drawn("There is one person in the picture.", one, "class", ["airplane", "water"]) == {
        "There is one airplane in the picture.",
        "There is one place with water in the picture.",
    }
    assert drawn("There are ten buses in the picture.", ten, "class", ["person"]) == {
        "There are ten people in the picture."
    }


def test_mass_nouns_are_counted_in_places():
    truth = record(*[box("water", EDGE)] * 2)
    assert drawn("2 places with water at the edge of the picture.", truth, "number") == {
        "A place with water at the edge of the picture.",
        "3 places with water at the edge of the picture.",
        "4 places with water at the edge of the picture.",
    }
    assert drawn("2 places with water in the picture.", truth, "class", ["low vegetation", "overpass"]) == {
        "2 places with low vegetation in the picture.",
        "2 overpasses in the picture.",
    }


def test_classes_take_article_and_plural():
    truth = record(box("car"), *[box("bus")] * 12)
    found = drawn(
        "A car and lots of buses in the middle of the picture.", truth, "class", ["airplane", "person"]
    )
    assert found == {
        "An airplane and lots of buses in the middle of the picture.",
        "A car and lots of airplanes in the middle of the picture.",
        "A person and lots of buses in the middle of the picture.",
        "A car and lots of people in the middle of the picture.",
    }


def test_quantifiers_become_numbers():
    found = drawn("A lot of lots in the picture.", record(*[box("lot")] * 11), "number")
    assert found == {"A lot in the picture.", *(f"{number} lots in the picture." for number in range(2, 11))}


def test_both_keeps_its_form_and_has_no_number():
    truth = record(*[box("truck and trailer")] * 2, *[box("person")] * 2)
    caption = "There are both trucks and trailers and people in the picture."
    assert negatives(caption, truth).keys() == {"class"}
    assert drawn(caption, truth, "class", ["bus", "water"]) == {
        "There are both buses and people in the picture.",
        "There are both trucks and trailers and buses in the picture.",
    }
    assert drawn(caption, truth, "class", ["water"]) == {None}


def test_nouns_that_overlap_are_changed_as_the_parser_means_them():
    truth = record(box("large vehicle"), box("vehicle"), *[box("car park")] * 2)
    caption = "2 car parks, a large vehicle and a vehicle in the middle of the picture."
    assert drawn(caption, truth, "class", ["bus", "windmill"]) == {
        "2 buses, a large vehicle and a vehicle in the middle of the picture.",
        "2 windmills, a large vehicle and a vehicle in the middle of the picture.",
        "2 car parks, a bus and a vehicle in the middle of the picture.",
        "2 car parks, a large vehicle and a windmill in the middle of the picture.",
    }
    truth, words = record(*[box("2 car train")] * 2), Words({"a and b": "a and bs"})
    found = negatives("2 2 car trains in the picture.", truth, 0, ["a and b"], words)
    assert re.fullmatch("(A|3|4) 2 car trains? in the picture.", found["number"])
    assert found["class"] == "2 a and bs in the picture."


def test_what_would_be_read_otherwise_is_not_returned():
    nouns = ["lot of cars", "airplane"]
    assert drawn("3 buses in the picture.", record(*[box("bus")] * 3), "class", nouns) == {
        "3 lots of cars in the picture.",
        "3 airplanes in the picture.",
    }
    truth = record(box("bus"), box("car"))
    assert drawn("A bus in the picture.", truth, "class", nouns) == {"An airplane in the picture."}


def test_what_may_be_present_is_no_other_class():
    truth = record(box("large vehicle"), box("bus", flags=("crowd",)))._replace(cover=[("water", 0.5)])
    caption = "A large vehicle in the middle of the picture."
    assert drawn(caption, truth, "class", ["vehicle", "bus", "water"]) == {None}
    truth, caption = record(box("vehicle")), "A vehicle in the middle of the picture."
    assert drawn(caption, truth, "class", ["large vehicle"]) == {None}
    assert drawn("A car in the picture.", record(box("car")), "class", ["car park"]) == {
        "A car park in the picture."
    }


def test_places_are_turned():
    truth = record(box("car"), box("bus", EDGE), box("bus", EDGE))
    for caption, false in {
        "A car in the middle of the picture.": "A car at the edge of the picture.",
        "2 buses at the edge of the picture.": "2 buses in the middle of the picture.",
        "There is a car in the center of this image.": "There is a car at the edge of this image.",
        "There are 2 buses at the edge of this image.": "There are 2 buses in the center of this image.",
        "There is a car in the center, and 2 buses at the edge of this image.": (
            "There are 2 buses in the center, and a car at the edge of this image."
        ),
    }.items():
        assert negatives(caption, truth)["place"] == false
    assert "place" not in negatives("A car in the picture.", truth)


def test_what_happens_to_be_true_is_not_returned():
    alike = record(box("car"), box("car", EDGE))
    assert "place" not in negatives("A car in the middle of the picture.", alike)
    both = "There is a car in the center, and a car at the edge of this image."
    assert contradictions([both], alike, WORDS, NOUNS) == []
    assert "place" not in negatives(both, alike)
    vague = record(*[box("car")] * 12, *[box("car", EDGE)] * 14)
    assert "place" not in negatives("Many cars in the middle of the picture.", vague)


def test_statements_stay_and_what_they_name_is_changed_last():
    truth = record(box("bus"), box("car", EDGE))
    for noun in ("bus", "car"):
        said = f"in the picture; the {noun} is very small in it."
        pair = "a bus and a camel" if noun == "bus" else "a camel and a car"
        found = drawn(f"There is a bus and a car {said}", truth, "class", ["camel"])
        assert found == {f"There is {pair} {said}"}
    alone = "There is a bus in the picture; the bus is very small in it."
    assert drawn(alone, truth, "class", ["camel"]) == {
        "There is a camel in the picture; the bus is very small in it."
    }


@pytest.mark.parametrize(
    "caption",
    [
        *("", ".", "A car", "A car in the picture", "A car in the picture .", "there are cars here ."),
        *("Many planes are parked next to a long building in an airport .", "A red car in the picture."),
        "A unicorn in the picture.",
    ],
)
def test_of_other_captions_there_is_none(caption):
    assert negatives(caption, record(box("car"))) == {}


def test_of_what_the_boxes_do_not_show_there_is_none():
    assert negatives("A car in the picture.", record(box("car"))) != {}
    assert negatives("2 cars in the picture.", record(box("car"))) == {}
    assert negatives("A car in the middle of the picture.", record(box("car"), width=None)) == {}
    crowd = Record("a", [Box("car", "car", 0, 0, 1, 1, None, ("crowd",))], 800, 800)
    assert negatives("A car in the picture.", crowd) == {}
