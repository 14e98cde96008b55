"""The counting benchmark: which images it takes, how it is balanced, and that nothing is lost on the way."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from dumps import check_account, contents, rows_of, run, sample_dump
from PIL import Image
from test_box_to_caption import NOUNS, WORDS, box, record

from rsdata import box_to_caption, caption, convert, detect, recipes, selection, tables, templates
from rsdata.box_to_caption import Claim
from rsdata.cli import main
from rsdata.convert import Outcome
from rsdata.errors import RsdataError
from rsdata.hard_negatives import hard_negatives
from rsdata.templates.remotecount import ineligible
from rsdata.words import Words

NUMBERS = {
    **{"one": 1, "two": 2, "three": 3, "four": 4, "five": 5},
    **{"six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10},
}
THIRTEEN = {
    *("plane", "helicopter", "roundabout", "bridge", "baseball diamond", "ground track field"),
    *("basketball court", "tennis court", "harbor", "soccer field", "swimming pool", "ship", "storage tank"),
}


def lines(number: int, label: str = "plane", difficult: int = 0, start: int = 0) -> list[str]:
    """So many objects of 4 x 4 pixels, side by side."""
    found = []
    for place in range(start, start + number):
        x, y = 1 + 6 * (place % 10), 1 + 6 * (place // 10)
        found.append(f"{x} {y} {x + 4} {y} {x + 4} {y + 4} {x} {y + 4} {label} {difficult}")
    return found


def write_dump(folder: Path, labels: Mapping[str, Sequence[str]], split: str = "val") -> Path:
    """A DOTA dump of images of 64 x 64 pixels, each with a colour of its own."""
    for part in ("images", "labelTxt"):
        (folder / split / part).mkdir(parents=True, exist_ok=True)
    for number, (name, held) in enumerate(labels.items()):
        colour = (number % 256, number // 256, 9)
        Image.new("RGB", (64, 64), colour).save(folder / f"{split}/images/{name}.png")
        (folder / f"{split}/labelTxt/{name}.txt").write_text("".join(f"{line}\n" for line in held))
    return folder


def count(dump: Path, table: Path | None, recipe: str = "remotecount", **options: Any) -> Outcome:
    return run(recipe, dump, table, captions="remotecount", **options)


def said(table: Path) -> dict[str, str]:
    """The caption of each image, by the last part of its id."""
    rows = rows_of(table)
    assert all(len(row["captions"]) == 1 for row in rows)
    assert {row["caption_source"] for row in rows} == {"remotecount"}
    return {row["image_id"].rpartition("/")[2]: row["captions"][0] for row in rows}


def whys(outcome: Outcome, code: str = "E38") -> dict[str, str]:
    return {Path(item.image).stem: item.why for item in outcome.rejections if item.code == code}


# --- which images


FIT = {
    "one": (lines(1), "There is one plane in the picture."),
    "two": (lines(2, "ship"), "There are two ships in the picture."),
    "ten": (lines(10, "soccer-ball-field"), "There are ten soccer fields in the picture."),
    "tank": (lines(3, "storage_tank"), "There are three storage tanks in the picture."),
    "over": (["-1 9 5 9 5 15 -1 15 ship 0"], "There is one ship in the picture."),  # cut by a pixel: repaired
    "twice": (
        [*lines(2), lines(1)[0]],
        "There are two planes in the picture.",
    ),  # a copy of an object is none
}
UNFIT = {
    "none": ([], "no object"),
    "eleven": (lines(11), "11 objects"),
    "mixed": (lines(1) + lines(1, "ship", start=1) + lines(1, "bridge", start=2), "3 classes"),
    "beside_a_car": (lines(2) + lines(1, "small-vehicle", start=2), "2 classes"),
    "cars": (lines(2, "small-vehicle"), "small vehicle is not counted"),
    "hard": (lines(2) + lines(1, difficult=1, start=2), "an object is difficult"),
    "cut": (lines(2) + lines(1, difficult=2, start=2), "an object is truncated"),
    "unknown": (lines(2) + lines(1, "zeppelin", start=2), "an object was dropped (E17)"),
    "unread": ([*lines(2), "1 2 3 plane"], "an object was dropped (E05)"),
    "flat": ([*lines(2), "9 50 9 50 9 50 9 50 plane 0"], "an object was dropped (E12)"),
}


def test_which_images_are_taken_and_why_the_others_are_not(tmp_path: Path) -> None:
    held = {name: each for name, (each, _) in {**FIT, **UNFIT}.items()}
    outcome = count(write_dump(tmp_path / "dump", held), tmp_path / "t")
    assert said(tmp_path / "t") == {name: text for name, (_, text) in FIT.items()}
    assert whys(outcome) == {name: why for name, (_, why) in UNFIT.items()}
    listed = pq.read_table(tmp_path / "t" / tables.REJECTIONS).to_pylist()
    first = next(item for item in listed if item["code"] == "E38")
    assert first["path"].startswith("val/labelTxt/")
    assert first["image"].startswith("val/images/")
    assert outcome.manifest["images"]["rejected"] == len(UNFIT)


@pytest.mark.parametrize("flag", ["crowd", "difficult", "truncated", "generated"])
def test_an_object_that_may_not_be_one(flag: str) -> None:
    assert ineligible(["ship"] * 2, {flag, "occluded"}, ()) == f"an object is {flag}"
    assert ineligible(["ship"] * 2, {"occluded"}, ()) is None


def test_the_caption_is_written_where_the_image_fits_and_proven() -> None:
    """Over random boxes, against the rule in other words; a false number is proven false."""
    rng = random.Random(0)
    written = 0
    for image in range(600):
        labels = rng.sample(NOUNS, rng.choice([1, 1, 1, 2])) if rng.random() < 0.95 else []
        boxes = [
            box(label, flags=rng.choice([()] * 15 + [("crowd",), ("occluded",)]))
            for label in labels
            for _ in range(rng.randint(1, 12))
        ]
        truth = record(*boxes, width=rng.choice([800, None]))
        captions = box_to_caption.captions(truth, str(image), "remotecount", WORDS, seed=image)
        sure = all(set(each.flags) <= {"occluded"} for each in boxes)
        assert len(captions) == (len(labels) == 1 and 1 <= len(boxes) <= 10 and sure)
        for text in captions:
            written += 1
            word = re.fullmatch(r"There (?:is|are) (\w+) .+ in the picture\.", text)
            assert word
            assert NUMBERS[word[1]] == len(boxes)
            assert box_to_caption.contradictions([text], truth, WORDS, NOUNS) == []
            fewer = truth._replace(boxes=boxes[1:])
            assert box_to_caption.contradictions([text], fewer, WORDS, NOUNS) != []
            false = hard_negatives(text, truth, WORDS, NOUNS, rng)
            assert set(false) == {"number", "class"}
            (claim,) = box_to_caption.parse(false["number"], WORDS, NOUNS)
            assert claim.label == labels[0]
            assert 0 < abs(claim.least - len(boxes)) <= 2
            assert false["number"].split()[2] in NUMBERS
            assert false["class"].split()[2] == word[1]
    assert written > 150


def test_an_object_that_a_window_cuts_rules_it_out(tmp_path: Path) -> None:
    """However little of it is seen: a seventieth in the third window."""
    across = [(500, 520), (880, 1026), (1100, 1130), (1600, 1630), (1700, 1730)]
    quads = [f"{left} 9 {right} 9 {right} 60 {left} 60 ship 0" for left, right in across]
    dump = write_dump(tmp_path / "dump", {"wide": quads})
    Image.new("RGB", (2048, 512), (1, 2, 3)).save(dump / "val/images/wide.png")
    outcome = count(dump, tmp_path / "t")
    cut = {item.image: item.why for item in outcome.rejections}
    assert cut == {f"val/images/wide.png#{x},0,512,512": "an object is truncated" for x in (0, 512, 1024)}
    assert said(tmp_path / "t") == {"wide#1536,0,512,512": "There are two ships in the picture."}


def test_every_dump_of_boxes_will_do(tmp_path: Path) -> None:
    """Without a recipe that says otherwise all its classes count."""
    recipe = recipes.from_format("coco")
    truth = sample_dump(recipe, tmp_path / "dump", images=40, most=4)
    held = {Path(image).stem: sample.record.boxes for image, sample in truth.items()}
    labels = {name: [each.label for each in boxes] for name, boxes in held.items()}
    count(tmp_path / "dump", tmp_path / "t", recipe)
    nouns = {each for held in labels.values() for each in held}
    claims = {name: box_to_caption.parse(text, Words(), nouns) for name, text in said(tmp_path / "t").items()}
    assert claims == {
        name: [Claim(each[0], len(each), len(each), "anywhere")]
        for name, each in labels.items()
        if len(set(each)) == 1
    }
    assert len(claims) >= 5


# --- which of them stay

MANY = {
    **{f"a{number}": lines(1) for number in range(40)},
    **{f"b{number}": lines(2) for number in range(9)},
    **{f"c{number}": lines(3) for number in range(4)},
    **{f"d{number}": lines(4, "ship") for number in range(30)},
}
"""Cells of 40, 9, 4 and 30 images; the lower median is 9."""


def cells(table: Path) -> Counter[str]:
    return Counter(name[0] for name in said(table))


@pytest.mark.parametrize(("least", "most"), [(5, 9), (20, 20), (100, 100)])
def test_a_cell_keeps_as_many_as_the_median_cell_has(
    least: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "LEAST", least)
    outcome = count(write_dump(tmp_path / "dump", MANY), tmp_path / "t")
    assert cells(tmp_path / "t") == {"a": min(40, most), "b": 9, "c": 4, "d": min(30, most)}
    full = whys(outcome, "E39")
    assert len(full) == sum(max(0, size - most) for size in (40, 9, 4, 30))
    assert set(full.values()) <= {
        f"cell full: {most} images of a plane stay",
        f"cell full: {most} images of 4 ships stay",
    }


def test_what_stays_hangs_on_seed_and_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "LEAST", 5)
    dump = write_dump(tmp_path / "dump", MANY)
    count(dump, tmp_path / "t")
    first = said(tmp_path / "t").keys()
    # Other cells, and so another order of rows, and a smaller median: a part of the same images.
    more = {**{f"0{number}": lines(7) for number in range(2)}, **{f"1{n}": lines(8) for n in range(2)}}
    count(write_dump(dump, more), tmp_path / "more", splits=("val",))
    fewer = {name for name in said(tmp_path / "more") if name[0] in "abcd"}
    assert Counter(name[0] for name in fewer) == {"a": 5, "b": 5, "c": 4, "d": 5}
    assert fewer < first
    assert {int(name[1:]) for name in first if name[0] == "a"} != set(range(9))
    count(dump, tmp_path / "seed", seed=1)
    assert said(tmp_path / "seed").keys() != said(tmp_path / "more").keys()


def test_each_split_is_balanced_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "LEAST", 1)
    dump = write_dump(
        tmp_path / "dump",
        {f"{name}{n}": lines(k) for name, k, size in (("a", 1, 9), ("b", 2, 3)) for n in range(size)},
    )
    write_dump(dump, {f"a{n}": lines(1) for n in range(6)}, "train")
    outcome = count(dump, tmp_path / "t", "dota")
    assert {split: held["rows"] for split, held in outcome.manifest["splits"].items()} == {
        "train": 6,
        "val": 6,
    }
    only = count(dump, tmp_path / "val", "dota", splits=("val",))
    assert {row["image_id"] for row in rows_of(tmp_path / "val")} < {
        row["image_id"] for row in rows_of(tmp_path / "t")
    }
    assert only.manifest["images"] == {"found": 12, "written": 6, "duplicates": 0, "leaks": 0, "rejected": 6}


# --- the account and the bytes


def test_the_account_holds_and_images_are_copied_as_they_are(tmp_path: Path) -> None:
    labels = {name: each for name, (each, _) in {**FIT, **UNFIT}.items()}
    dump = write_dump(tmp_path / "dump", {**labels, **MANY})
    (dump / "val/images/two.png").write_bytes(b"no image")
    outcome = count(dump, tmp_path / "t")  # check_account is in `run`
    manifest = outcome.manifest
    rows = rows_of(tmp_path / "t")
    assert json.loads(json.dumps(manifest)) == tables.manifest(tmp_path / "t")
    assert manifest["reasons"]["rejected"] == {"E35": 1, "E38": len(UNFIT), "E39": 31}
    held = manifest["datasets"]["remotecount"]
    assert held["images"] == manifest["images"]
    assert held["objects"] == manifest["objects"]
    assert held["captions"] == manifest["captions"] == len(rows)
    assert held["classes"] == dict(
        sorted(Counter(each["label"] for row in rows for each in row["objects"]).items())
    )
    for row in rows:
        assert row["image"]["bytes"] == (dump / row["image"]["path"]).read_bytes()


def test_converted_counted_or_counted_afterwards_the_bytes_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "SHARD_ROWS", 7)
    monkeypatch.setattr(selection, "LEAST", 6)
    cars = {f"z{number}": lines(1, "small-vehicle") for number in range(14)}  # shards of which nothing stays
    dump = write_dump(
        tmp_path / "dump", {**MANY, **{name: each for name, (each, _) in UNFIT.items()}, **cars}
    )
    count(dump, tmp_path / "one", seed=3)
    count(dump, tmp_path / "two", seed=3, workers=2)
    for template in ("none", "remoteclip"):
        run("remotecount", dump, tmp_path / template, captions=template)
        caption.caption(tmp_path / template, tmp_path / f"from-{template}", "remotecount", seed=3)
    caption.caption(tmp_path / "one", tmp_path / "again", "remotecount", seed=3)
    one = contents(tmp_path / "one")
    assert len(tables.shards(tmp_path / "one")) > 2
    assert len(tables.shards(tmp_path / "none")) > len(tables.shards(tmp_path / "one"))
    for other in ("two", "from-none", "from-remoteclip"):
        assert contents(tmp_path / other) == one
    assert rows_of(tmp_path / "again") == rows_of(tmp_path / "one")


def test_a_dry_run_tells_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "LEAST", 6)
    dump = write_dump(tmp_path / "dump", MANY)
    outcome = count(dump, tmp_path / "t")
    before = set(tmp_path.rglob("*"))
    dry = count(dump, None, dry_run=True)
    assert dry == outcome
    assert set(tmp_path.rglob("*")) == before


def test_a_run_that_stops_while_it_selects_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "SHARD_ROWS", 20)
    monkeypatch.setattr(selection, "LEAST", 6)
    dump = write_dump(tmp_path / "dump", MANY)
    count(dump, tmp_path / "whole")
    written: list[Path] = []
    write = caption._write

    def stop(groups: Any, path: Path, *more: Any) -> int:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        return write(groups, path, *more)

    monkeypatch.setattr(caption, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        count(dump, tmp_path / "t")
    monkeypatch.setattr(caption, "_write", write)
    steps: list[convert.Step] = []
    count(dump, tmp_path / "t", progress=steps.append)
    assert steps[-1].kept == len(MANY)  # no image was read twice
    assert contents(tmp_path / "t") == contents(tmp_path / "whole")


def test_nothing_to_count(tmp_path: Path) -> None:
    dump = write_dump(tmp_path / "dump", {"a": lines(11)})
    with pytest.raises(
        RsdataError, match=r"no image fits .* remotecount, such as val/images/a\.png: 11 objects"
    ):
        count(dump, tmp_path / "t")
    sample_dump("ucm", tmp_path / "ucm")
    run("ucm", tmp_path / "ucm", tmp_path / "people")
    with pytest.raises(RsdataError, match="no object"):
        caption.caption(tmp_path / "people", tmp_path / "t", "remotecount")
    assert contents(tmp_path / "t") == {}


def test_captions_of_people_give_way(tmp_path: Path) -> None:
    """In a set that selects an image has the set's caption and no other."""
    run("dota", write_dump(tmp_path / "dump", {"a": lines(2), "b": lines(11)}), tmp_path / "people")
    (shard,) = tables.shards(tmp_path / "people")
    table = tables.read(shard)
    human = pa.array(["human"] * 2)
    with tables.shard_writer(shard, tables.about(tmp_path / "people")) as writer:
        writer.write(
            table.set_column(table.schema.get_field_index("caption_source"), "caption_source", human)
        )
    manifest = caption.caption(tmp_path / "people", tmp_path / "t", "remotecount")
    assert said(tmp_path / "t") == {"a": "There are two planes in the picture."}
    assert manifest["captions"] == 1


def test_on_the_command_line(tmp_path: Path) -> None:
    dump = write_dump(tmp_path / "dump", {**MANY, "x": lines(11)})
    words = ["--captions", "remotecount", "-o"]
    call = CliRunner().invoke(
        main, ["convert", str(dump), "--recipe", "remotecount", *words, str(tmp_path / "t")]
    )
    assert call.exit_code == 0, call.output
    assert call.stdout.splitlines()[1] == (
        "images: 84 found = 53 written + 0 duplicates + 0 leaks + 31 rejected"
    )
    assert "E39 cell full: 20 images of a plane stay" in call.stdout
    CliRunner().invoke(main, ["convert", str(dump), "--recipe", "dota", "-o", str(tmp_path / "all")])
    call = CliRunner().invoke(main, ["caption", str(tmp_path / "all"), *words, str(tmp_path / "u")])
    assert call.stdout.splitlines() == [
        f"{tmp_path / 'u'}: 53 images, 53 captions (remotecount)",
        "images: 84 found = 53 written + 0 duplicates + 0 leaks + 31 rejected",
    ]


# --- the parts


def test_any_caption_set_may_select(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets/pairs.py").write_text(
        "def ineligible(labels, flags, counted):\n"
        "    return None if len(labels) == 2 else 'no pair'\n"
        "def write(record, rng, words, large_count='vague'):\n"
        "    return ['A pair.'] * (len(record.boxes) == 2)\n"
    )
    monkeypatch.setattr(templates, "__path__", [*templates.__path__, str(tmp_path / "sets")])
    dump = write_dump(
        tmp_path / "dump", {"a": lines(2), "b": lines(1), "c": lines(1) + lines(1, "ship", start=1)}
    )
    outcome = run("dota", dump, tmp_path / "t", captions="pairs")
    assert [row["captions"] for row in rows_of(tmp_path / "t")] == [["A pair."], ["A pair."]]
    assert [(item.code, item.why) for item in outcome.rejections] == [("E38", "no pair")]


def test_the_recipe(tmp_path: Path) -> None:
    recipe, dota = recipes.load("remotecount"), recipes.load("dota")
    assert {*recipe.counted} == THIRTEEN
    assert recipe.nouns is not None
    assert dota.nouns is not None
    assert recipe.nouns.keys() == dota.nouns.keys()  # a class without a noun would vanish
    assert list(recipe.splits["val"]) == list(dota.splits["val"])
    assert recipe.origin == dota.origin
    sample_dump(recipe, tmp_path / "dump", images=20)
    outcome = count(tmp_path / "dump", tmp_path / "t")
    check_account(outcome, tmp_path / "t")
    assert detect.detect(tmp_path / "dump").name == "dota"
