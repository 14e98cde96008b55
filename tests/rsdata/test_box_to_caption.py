from __future__ import annotations

import random
import re
from array import array
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsdata.box_to_caption import Claim, captions, contradictions, judge, names, parse
from rsdata.errors import RecipeError
from rsdata.records import Box, Record
from rsdata.words import Words

SIZE = 800
MIDDLE, EDGE = (400, 400), (50, 50)
IRREGULAR = {"water": "", "low vegetation": "", "truck and trailer": "trucks and trailers"}
# Overlapping, irregular, invariant and mass nouns, and such as look like parts of our sentences.
NOUNS = [
    *("airplane", "vehicle", "large vehicle", "car", "car park", "T junction", "overpass", "person"),
    *("aircraft", "bus", "lot", "truck", "trailer", *IRREGULAR),
]
WORDS = Words(IRREGULAR)


def box(label, centre=MIDDLE, size=20, flags=()):
    x, y = centre
    return Box(label, label, x - size / 2, y - size / 2, x + size / 2, y + size / 2, None, flags)


def record(*boxes, width=SIZE, height=SIZE):
    return Record("a.png", boxes, width, height)


def write(template, *boxes, image_id="d/train/a", seed=0, width=SIZE, **options):
    return captions(record(*boxes, width=width), image_id, template, WORDS, seed, **options)


def many(template, *boxes, **options):
    return [caption for seed in range(60) for caption in write(template, *boxes, seed=seed, **options)]


# --- the sentences


def test_the_sets_are_the_files():
    assert {"a2c", "remoteclip"} <= set(names())
    assert not [name for name in names() if name.startswith("_")]


def test_location_captions_name_all_classes_of_the_zone_by_count_then_name():
    boxes = [box("large vehicle", EDGE)] * 4 + [box("airplane", EDGE)] * 5 + [box("vehicle", EDGE)]
    middle, edge = write("remoteclip", box("car"), box("airplane"), *boxes)[:2]
    assert middle == "An airplane and a car in the middle of the picture."
    assert edge == "5 airplanes, 4 large vehicles and a vehicle at the edge of the picture."


def test_captions_never_change():
    boxes = [box("car")] * 3 + [box("person", EDGE)] * 12 + [box("water", EDGE)]
    assert write("remoteclip", *boxes) == [
        "3 cars in the middle of the picture.",
        "Lots of people and a place with water at the edge of the picture.",
        "There are both cars and people in the picture.",
        "There are lots of people and a place with water in this remote sensing picture.",
        "3 cars and a place with water are located in this remote sensing picture.",
    ]
    assert write("a2c", *boxes) == [
        "There are a large number of people, 3 cars and a place with water in this image.",
        "There are 3 cars in the center, and a large number of people and a place with water "
        "at the edge of this image.",
    ]


def test_count_captions_take_the_forms_of_the_figure():
    written = set(many("remoteclip", *[box("car")] * 3, *[box("person")] * 2, box("airplane")))
    assert {
        "There are 3 cars in the picture.",
        "There are both cars and people in the picture.",
        "There are 3 cars and 2 people in this remote sensing picture.",
        "3 cars are located in this remote sensing picture.",
        "3 cars, 2 people and an airplane are located in the picture.",
        "An airplane is located in the picture.",
        "There is an airplane in the picture.",
    } <= written


def test_verbs_agree():
    written = set(many("remoteclip", box("car"), box("bus")))
    assert {"A bus and a car are located in the picture.", "A bus is located in the picture."} <= written
    assert "There is a bus and a car in the picture." in written


def test_at_most_three_classes_in_a_count_caption():
    boxes = [box(label) for label in ("car", "bus", "airplane", "person", "lot")]
    sizes = {len(parse(text, WORDS, NOUNS)) for text in many("remoteclip", *boxes) if "middle" not in text}
    assert sizes == {1, 2, 3}


def test_stuff_is_counted_in_places():
    written = set(many("remoteclip", *[box("low vegetation")] * 3, box("water", EDGE)))
    assert "3 places with low vegetation in the middle of the picture." in written
    assert "There is a place with water in this remote sensing picture." in written


def test_both_is_said_of_count_nouns_in_the_plural_alone():
    assert not [text for text in many("remoteclip", *[box("car")] * 2, box("bus")) if "both" in text]
    assert not [text for text in many("remoteclip", *[box("car")] * 2, *[box("water")] * 2) if "both" in text]


@pytest.mark.parametrize(("place", "empty"), [(MIDDLE, "edge"), (EDGE, "middle")])
def test_an_empty_zone_becomes_a_count_caption(place, empty):
    written = write("remoteclip", box("car", place))
    assert len(set(written)) == 5
    assert not [text for text in written if empty in text]


def test_without_image_size_no_caption_tells_a_place():
    written = write("remoteclip", box("car"), width=None)
    assert len(set(written)) == 5
    assert not re.search("middle|edge", " ".join(written))
    assert write("a2c", box("car"), width=None) == ["There is a car in this image."]


def test_a2c_tells_all_classes_then_both_zones():
    assert write("a2c", box("car"), *[box("bus", EDGE)] * 3, box("car", EDGE)) == [
        "There are 3 buses and 2 cars in this image.",
        "There is a car in the center, and 3 buses and a car at the edge of this image.",
    ]


def test_a2c_omits_an_empty_half():
    assert write("a2c", box("car"), box("car"))[1] == "There are 2 cars in the center of this image."
    assert write("a2c", box("car", EDGE))[1] == "There is a car at the edge of this image."


@pytest.mark.parametrize("template", ["remoteclip", "a2c"])
def test_no_boxes_no_captions(template):
    assert write(template) == []
    assert write(template, box("car", flags=("crowd",))) == []


@pytest.mark.parametrize("template", ["remoteclip", "a2c"])
def test_crowd_boxes_are_neither_counted_nor_named(template):
    boxes = [box("car"), box("car", flags=("difficult",))]
    crowd = [box("car", flags=("occluded", "crowd")), box("bus", EDGE, flags=("crowd",))]
    assert write(template, *boxes, *crowd) == write(template, *boxes)
    assert "2 cars" in write(template, *boxes)[0]


# --- the middle half


@pytest.mark.parametrize(
    ("centre", "zone"),
    [
        ((200, 200), "middle"),
        ((199.99, 400), "edge"),
        ((400, 199.99), "edge"),
        ((599.99, 599.99), "middle"),
        ((600, 400), "edge"),
        ((400, 600), "edge"),
    ],
)
def test_the_middle_half_holds_its_lower_bound(centre, zone):
    assert write("remoteclip", box("car", centre))[zone == "edge"] == (
        f"A car {'in the middle' if zone == 'middle' else 'at the edge'} of the picture."
    )


def test_width_and_height_are_not_swapped():
    wide = Record("a", [box("car", (500, 100))], width=1000, height=200)
    tall = Record("a", [box("car", (100, 500))], width=200, height=1000)
    off = Record("a", [box("car", (900, 100))], width=1000, height=200)
    for each in (wide, tall):
        assert "A car in the middle of the picture." in captions(each, "i", "remoteclip", WORDS)
    assert "A car at the edge of the picture." in captions(off, "i", "remoteclip", WORDS)


def test_a_centre_on_the_border_is_judged_as_the_table_stores_it():
    above = Box("car", "car", 159.9999999999, 300, 240, 320)  # 160 as float32: centre on the border
    assert write("remoteclip", above)[0] == "A car in the middle of the picture."


# --- large counts


def test_more_than_ten_are_vague_and_ten_are_not():
    assert "10 cars in the middle" in write("remoteclip", *[box("car")] * 10)[0]
    written = [text for text in many("remoteclip", *[box("car")] * 11) if "middle" in text]
    assert not re.search(r"\d", " ".join(written))
    assert {text.partition(" cars")[0] for text in written} == {
        *("Many", "Lots of", "A lot of", "A quantity of", "A crowd of", "A large number of")
    }


def test_exact_and_mixed_large_counts():
    boxes = [box("aircraft")] * 15
    assert all("15 aircraft" in text for text in many("remoteclip", *boxes, large_count="exact"))
    mixed = ["15" in text for text in many("remoteclip", *boxes, large_count="mixed")]
    assert 0.4 < sum(mixed) / len(mixed) < 0.6


# --- the driver


@pytest.mark.parametrize("template", ["remoteclip", "a2c"])
def test_neither_box_order_nor_other_images_matter(template):
    boxes = [box(label, place) for label in NOUNS for place in (MIDDLE, EDGE, EDGE)]
    first = write(template, *boxes)
    random.Random(3).shuffle(boxes)
    write(template, box("car"), image_id="other")
    assert write(template, *boxes) == first


def test_chance_comes_from_seed_and_image_id():
    boxes = [box(label) for label in NOUNS]
    written = [tuple(write("remoteclip", *boxes, image_id=i, seed=s)) for i, s in product("ab", range(2))]
    assert len(set(written)) == 4


@pytest.mark.parametrize(
    ("template", "options", "message"),
    [
        ("remoteclop", {}, "no caption set 'remoteclop'; did you mean 'remoteclip'"),
        ("_grammar", {}, "no caption set '_grammar'"),
        ("../a2c", {}, r"no caption set '\.\./a2c'"),
        ("a2c", {"large_counts": "exact"}, "no option 'large_counts'; did you mean 'large_count'"),
        ("a2c", {"rng": None}, "no option 'rng'"),
        ("remoteclip", {"large_count": "exactly"}, "large_count: 'exactly' is none of vague, exact, mixed"),
    ],
)
def test_wrong_use_names_the_nearest_valid(template, options, message):
    with pytest.raises(RecipeError, match=message):
        captions(record(box("car")), "i", template, WORDS, **options)


# --- the parser


@pytest.mark.parametrize(
    ("caption", "claims"),
    [
        (
            "4 large vehicles, a vehicle and 5 airplanes at the edge of the picture.",
            [("large vehicle", 4, 4), ("vehicle", 1, 1), ("airplane", 5, 5)],
        ),
        ("A lot in the middle of the picture.", [("lot", 1, 1)]),
        ("A lot of lots in the middle of the picture.", [("lot", 11, None)]),
        ("Many trucks and trailers are located in the picture.", [("truck and trailer", 11, None)]),
        ("3 trucks and trailers and 2 cars in the picture.", [("truck and trailer", 3, 3), ("car", 2, 2)]),
        ("2 trucks and 3 trailers are located in the picture.", [("truck", 2, 2), ("trailer", 3, 3)]),
        (
            "There are both trucks and trailers and people in the picture.",
            [("truck and trailer", 2, None), ("person", 2, None)],
        ),
        ("There are both cars and buses in the picture.", [("car", 2, None), ("bus", 2, None)]),
        ("There are 15 aircraft in the picture.", [("aircraft", 15, 15)]),
        ("An aircraft is located in the picture.", [("aircraft", 1, 1)]),
        ("There are 3 places with water in the picture.", [("water", 3, 3)]),
        ("There is one bus in the picture.", [("bus", 1, 1)]),
        ("There are three buses in the picture.", [("bus", 3, 3)]),
        ("There is one place with water in the picture.", [("water", 1, 1)]),
        ("Ten people and one lot in the picture.", [("person", 10, 10), ("lot", 1, 1)]),
        (
            "Two trucks and trailers and seven trailers in the picture.",
            [("truck and trailer", 2, 2), ("trailer", 7, 7)],
        ),
    ],
)
def test_parse(caption, claims):
    found = re.search("middle|edge", caption)
    place = found[0] if found else "anywhere"
    assert parse(caption, WORDS, NOUNS) == [Claim(*claim, place) for claim in claims]


def test_parse_the_two_places_of_a2c():
    assert parse("There is a car in the center, and 3 buses at the edge of this image.", WORDS, NOUNS) == [
        Claim("car", 1, 1, "middle"),
        Claim("bus", 3, 3, "edge"),
    ]


@pytest.mark.parametrize(
    "caption",
    [
        *("", ".", "A car", "There are in the picture.", "A car in the middle of the road."),
        *("A unicorn in the middle of the picture.", "3 car in the middle of the picture."),
        *("A cars in the middle of the picture.", "1 cars in the picture.", "Cars in the picture."),
        *("A water in the picture.", "3 waters in the picture.", "A place with car in the picture."),
        *("A car and a bus and a lot in the picture.", "A car, a bus in the picture."),
        *("A car and a unicorn in the picture.", "There are both cars and a bus in the picture."),
        *("There is one buses in the picture.", "There are two bus in the picture."),
        *("There are eleven buses in the picture.", "There are zero buses in the picture."),
        "A red car in the picture.",
    ],
)
def test_what_is_no_caption_of_ours_does_not_parse(caption):
    with pytest.raises(ValueError, match="does not parse"):
        parse(caption, WORDS, NOUNS)


def test_parse_knows_no_other_nouns():
    with pytest.raises(ValueError, match="no known noun"):
        parse("A large vehicle in the picture.", WORDS, ["vehicle"])


# --- the truth


def test_what_is_false_is_told():
    truth = record(box("car"), box("car"), box("bus", EDGE), box("bus", EDGE, flags=("crowd",)))
    false = {
        "3 cars in the middle of the picture.": "claims 3 of 'car' (middle), but the boxes hold 2",
        "A car in the picture.": "claims 1 of 'car' (anywhere), but the boxes hold 2",
        "2 cars at the edge of the picture.": "claims 2 of 'car' (edge), but the boxes hold 0",
        "Many cars in the picture.": "claims at least 11 of 'car' (anywhere), but the boxes hold 2",
        "There are 2 buses in the picture.": "claims 2 of 'bus' (anywhere), but the boxes hold 1",
        "A lot in the picture.": "claims 1 of 'lot' (anywhere), but the boxes hold 0",
        "There are both cars and buses in the picture.": "claims at least 2 of 'bus' (anywhere), but",
    }
    true = ["2 cars in the middle of the picture.", "There is a bus and 2 cars in this image."]
    told = contradictions([*true, *false], truth, WORDS, NOUNS)
    assert len(told) == len(false)
    for line, (caption, why) in zip(told, false.items(), strict=True):
        assert line.startswith(f"{caption!r} {why}")


def test_unknown_words_and_unknown_size_are_told():
    assert "no known noun" in contradictions(["A lot in the picture."], record(box("car")), WORDS)[0]
    unsized = record(box("car"), width=None)
    told = contradictions(["A car in the middle of the picture."], unsized, WORDS)
    assert told == [
        "'A car in the middle of the picture.' claims a place for 'car', but the image size is unknown"
    ]


CROWDED = [box("car")] * 11 + [box("bus")] * 2 + [box("car", EDGE)] * 3 + [box("water", EDGE)]


@pytest.mark.parametrize("template", ["remoteclip", "a2c"])
@pytest.mark.parametrize(
    "mutated",
    [
        pytest.param(CROWDED[1:], id="a quantifier loses its eleventh"),
        pytest.param(CROWDED[:-1], id="the last of a class removed"),
        pytest.param([*CROWDED, box("bus")], id="one added"),
        pytest.param([box("car", EDGE), *CROWDED[1:]], id="one moved to the edge"),
        pytest.param([*CROWDED[:-1], box("bus", EDGE)], id="one relabelled"),
        pytest.param([*CROWDED[:-1], box("water", EDGE, flags=("crowd",))], id="one made a crowd"),
        pytest.param([], id="all removed"),
    ],
)
def test_changed_boxes_are_caught(template, mutated):
    written = write(template, *CROWDED)
    assert contradictions(written, record(*CROWDED), WORDS, NOUNS) == []
    assert contradictions(written, record(*mutated), WORDS, NOUNS) != []


# --- properties

COORDINATE = st.one_of(st.floats(0, SIZE), st.sampled_from(range(0, SIZE, 100)))
BOXES = st.builds(
    lambda label, x, y, w, h, flags: Box(label, label, x, y, min(x + w, SIZE), min(y + h, SIZE), None, flags),
    st.sampled_from(NOUNS),
    *[COORDINATE] * 4,
    st.sampled_from([(), (), (), ("difficult",), ("crowd",)]),
)
# Copies bring counts above ten, which independent draws almost never reach.
GROUPS = st.lists(st.tuples(BOXES, st.sampled_from([1, 1, 2, 3, 10, 11, 30])), max_size=12)
RECORDS = st.builds(
    lambda groups, size: Record("a", [each for each, copies in groups for _ in range(copies)], *size),
    GROUPS,
    st.sampled_from([(SIZE, SIZE), (SIZE, 2 * SIZE), (1001, 907), (None, None)]),
)
OPTIONS = st.sampled_from(["vague", "exact", "mixed"])


@settings(max_examples=200, deadline=None)
@given(RECORDS, OPTIONS, st.integers(0, 2**32))
def test_every_caption_is_true_distinct_and_english(sample, large_count, seed):
    objects = [each for each in sample.boxes if "crowd" not in each.flags]
    for template in names():
        options = {"large_count": large_count} if template in ("remoteclip", "a2c") else {}
        written = captions(sample, "i", template, WORDS, seed, **options)
        assert contradictions(written, sample, WORDS) == []
        assert len(set(written)) == len(written)
        assert bool(written) == bool(objects) or judge(template)
        for caption in written:
            assert_english(caption)
        if template == "remoteclip":
            assert len(written) == 5 * bool(objects)


@settings(max_examples=100, deadline=None)
@given(RECORDS.filter(lambda each: any("crowd" not in box.flags for box in each.boxes)), st.data())
def test_exact_a2c_captions_tell_any_lost_object(sample, data):
    objects = [each for each in sample.boxes if "crowd" not in each.flags]
    written = captions(sample, "i", "a2c", WORDS, large_count="exact")
    objects.pop(data.draw(st.integers(0, len(objects) - 1)))
    assert contradictions(written, sample._replace(boxes=objects), WORDS, NOUNS) != []


@settings(max_examples=100, deadline=None)
@given(RECORDS, st.randoms(use_true_random=False))
def test_captions_are_the_same_from_a_shuffled_table(sample, rng):
    stored = [Box(each[0], each[1], *array("f", each[2:6]), None, each.flags) for each in sample.boxes]
    rng.shuffle(stored)
    for template in names():
        read = captions(sample._replace(boxes=stored), "i", template, WORDS)
        assert read == captions(sample, "i", template, WORDS)


def assert_english(caption):
    assert re.fullmatch(r"(?:[A-Z]|[1-9][0-9]* ).*[a-z]\.", caption)
    assert "  " not in caption
    one = r"(?:an? (?!lot of|large number of|quantity of|crowd of)|one )"
    assert not re.search(r"\b(?:a [aeio]|an [^aeio])", caption, re.IGNORECASE)
    if there := re.match("There (is|are) (.*)", caption):
        assert (there[1] == "is") == bool(re.match(one, there[2]))
    if located := re.match("(.*) (is|are) located", caption):
        several = re.search(r", |\band\b", located[1].replace("truck and trailer", ""))
        assert (located[2] == "is") == bool(re.match(one, located[1], re.IGNORECASE) and not several)
