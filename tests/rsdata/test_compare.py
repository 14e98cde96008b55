"""What came, went and shifted between two corpora, against counts by hand and other libraries' distances."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rows import box, row, write_table, written
from scipy.spatial.distance import jensenshannon

from rsdata import compare, stats, tables
from rsdata.cli import main
from rsdata.errors import TableError
from rsdata.records import Box

BEFORE = [
    row("a", objects=[box("ship", 5, 5), box("plane", 5, 5)], captions=["a ship", "a plane"]),
    row("b", objects=[box("ship", 5, 5)], captions=["a ship"]),
    row("c", objects=[box("plane", 5, 5)], captions=["one plane"], split="val"),
    row("gone", captions=["nothing"]),
    row("old name", captions=["nothing at all"], dataset="OTHER"),
]
NOW = [
    row("a", objects=[box("plane", 5, 5), box("ship", 5, 5)], captions=["a plane", "a ship"]),  # other order
    row("b", objects=[box("ship", 5, 6)], captions=["a big ship"]),
    row("c", objects=[box("plane", 5, 5)], captions=["one plane"], split="val", sha256="other"),
    row("new", objects=[box("ship", 5, 5)], captions=["a ship"]),
    row("new name", captions=["nothing at all"], dataset="OTHER", sha256="old name"),
]


def counts(now: int, before: int) -> dict[str, int]:
    return {"now": now, "before": before, "change": now - before}


def near(now: float, before: float) -> Any:
    return pytest.approx({"now": now, "before": before, "change": now - before})


def test_every_number_of_two_small_corpora(tmp_path: Path) -> None:
    now, before = written(tmp_path / "now", NOW), written(tmp_path / "before", BEFORE)
    found = compare.compare([now], [before])
    words = found.pop("words")
    assert found == {
        "tables": [str(now)],
        "against": [str(before)],
        "images": {"came": 2, "went": 2, "stayed": 3, "renamed": 1},
        "changed": {"captions": 1, "objects": 1, "files": 1},
        "examples": {
            "came": ["TEST/train/new", "TEST/train/new name"],
            "went": ["TEST/train/gone", "TEST/train/old name"],
            "captions": ["TEST/train/b"],
            "objects": ["TEST/train/b"],
            "files": ["TEST/train/c"],
        },
        "corpus": {"images": counts(5, 5), "captions": counts(6, 6), "objects": counts(5, 4)},
        "splits": {
            "train": {"images": counts(4, 4), "captions": counts(5, 5), "objects": counts(4, 3)},
            "val": {"images": counts(1, 1), "captions": counts(1, 1), "objects": counts(1, 1)},
        },
        "datasets": {
            "OTHER": {"images": counts(1, 1), "captions": counts(1, 1), "objects": counts(0, 0)},
            "TEST": {"images": counts(4, 4), "captions": counts(5, 5), "objects": counts(5, 4)},
        },
        "classes": {
            "total_variation": pytest.approx(0.1),
            "jensen_shannon": pytest.approx(jensenshannon([3 / 5, 2 / 5], [1 / 2, 1 / 2], base=2)),
            "shares": {"plane": near(2 / 5, 1 / 2), "ship": near(3 / 5, 1 / 2)},
        },
        "caption_words": {
            "now": {"min": 2, "mean": 14 / 6, "median": 2.0, "max": 3},
            "before": {"min": 1, "mean": 12 / 6, "median": 2.0, "max": 3},
            "change": pytest.approx(2 / 6),
        },
    }
    # Of 14: a 4, ship 3, plane 2, and once one, nothing, at, all, big.
    # Of 12: a 3, ship 2, plane 2, nothing 2, and once one, at, all.
    assert words["gained"][:2] == [{"word": "big", **_shares(1, 0)}, {"word": "ship", **_shares(3, 2)}]
    assert words["lost"][0] == {"word": "nothing", **_shares(1, 2)}
    assert {held["word"] for held in words["gained"]} == {"a", "big", "ship"}
    assert {held["word"] for held in words["lost"]} == {"nothing", "plane", "one", "at", "all"}


def _shares(now: int, before: int) -> Any:
    share = {"now": now / 14, "before": before / 12, "change": now / 14 - before / 12}
    return {key: pytest.approx(value) for key, value in share.items()}


def test_equal_corpora_differ_in_nothing(tmp_path: Path) -> None:
    table = written(tmp_path / "t", BEFORE)
    again = written(tmp_path / "again", random.Random(1).sample(BEFORE, len(BEFORE)), shards=2)
    found = compare.compare([again], [table])
    assert found["images"] == {"came": 0, "went": 0, "stayed": 5, "renamed": 0}
    assert set(found["changed"].values()) == {0}
    assert not any(found["examples"].values())
    for distances in (found["classes"], found["words"]):
        assert distances["total_variation"] == 0
        assert distances["jensen_shannon"] == pytest.approx(0, abs=1e-7)
    assert (found["words"]["gained"], found["words"]["lost"]) == ([], [])


def random_rows(rng: random.Random, names: list[str]) -> list[tables.Row]:
    words, labels = [f"w{at}" for at in range(40)], ["ship", "plane", "tank"]
    return [
        row(
            name,
            captions=[" ".join(rng.choices(words, k=4)) for _ in range(rng.randrange(3))],
            objects=[box(rng.choice(labels), rng.randrange(1, 4), 5) for _ in range(rng.randrange(3))],
            sha256=rng.choice([None, "x", "y"]),
        )
        for name in names
    ]


def test_random_corpora_of_several_tables_and_batches(tmp_path: Path) -> None:
    rng = random.Random(2)
    before = random_rows(rng, [f"{at:05d}" for at in range(5000)])
    now = random_rows(rng, [f"{at:05d}" for at in range(500, 5500)])
    one, other = written(tmp_path / "one", now[:2000], shards=3), written(tmp_path / "other", now[2000:])
    found = compare.compare([one, other], [written(tmp_path / "before", before)])
    ours, theirs = ({each.image_id: each for each in held} for held in (now, before))
    both = sorted(ours.keys() & theirs.keys())
    changed = {
        "captions": [x for x in both if Counter(ours[x].captions) != Counter(theirs[x].captions)],
        "objects": [x for x in both if Counter(ours[x].objects) != Counter(theirs[x].objects)],
        "files": [x for x in both if {ours[x].sha256, theirs[x].sha256} == {"x", "y"}],
    }
    assert found["changed"] == {key: len(ids) for key, ids in changed.items()}
    assert {key: found["examples"][key] for key in changed} == {k: ids[:5] for k, ids in changed.items()}
    assert (found["images"]["came"], found["images"]["went"]) == (500, 500)
    assert found["examples"]["came"] == [f"TEST/train/{at:05d}" for at in range(5000, 5005)]
    assert found["examples"]["went"] == [f"TEST/train/{at:05d}" for at in range(5)]
    said = [Counter(" ".join(c for each in held for c in each.captions).split()) for held in (now, before)]
    left, right = (np.array([each[f"w{at}"] for at in range(40)]) for each in said)
    assert found["words"]["jensen_shannon"] == pytest.approx(jensenshannon(left, right, base=2))
    assert found["words"]["total_variation"] == pytest.approx(
        np.abs(left / left.sum() - right / right.sum()).sum() / 2
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([Box("ship", "", 1, 2, 3, 4)], [Box("boat", "", 1, 2, 3, 4)]),
        ([Box("ship", "", 1, 2, 3, 4)], [Box("ship", "", 1, 2, 4, 3)]),
        ([Box("ship", "", 1, 2, 3, 4)], [Box("ship", "", 1, 2, 3, 4)] * 2),
        (
            [Box("a", "", 1, 2, 3, 4), Box("b", "", 5, 6, 7, 8)],
            [Box("b", "", 1, 2, 3, 4), Box("a", "", 5, 6, 7, 8)],
        ),
    ],
)
def test_other_objects(tmp_path: Path, one: list[Box], other: list[Box]) -> None:
    now, before = written(tmp_path / "n", [row(objects=one)]), written(tmp_path / "b", [row(objects=other)])
    assert compare.compare([now], [before])["changed"] == {"captions": 0, "objects": 1, "files": 0}


def test_disjoint_words_are_one_apart(tmp_path: Path) -> None:
    now, before = (written(tmp_path / text, [row(captions=[text])]) for text in ("ships", "planes"))
    words = compare.compare([now], [before])["words"]
    assert (words["total_variation"], words["jensen_shannon"]) == (1, 1)


def test_nothing_against_something(tmp_path: Path) -> None:
    empty, table = write_table(tmp_path / "e", {"train": []}), written(tmp_path / "t", BEFORE)
    for now, before, came, went in (([empty], [table], 0, 5), ([table], [empty], 5, 0), ([], [table], 0, 5)):
        found = compare.compare(now, before)
        assert (found["images"]["came"], found["images"]["went"]) == (came, went)
        assert found["classes"]["jensen_shannon"] is None
        assert found["caption_words"]["change"] is None
        assert compare.render(found)


def test_the_comparison_is_json(tmp_path: Path) -> None:
    found = compare.compare([written(tmp_path / "n", NOW)], [written(tmp_path / "b", BEFORE)])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_render(tmp_path: Path) -> None:
    text = compare.render(compare.compare([written(tmp_path / "n", NOW)], [written(tmp_path / "b", BEFORE)]))
    assert "all          5   +0         6   +0        5   +1\n" in text
    assert "came, 1 under another name       2  40.0%  TEST/train/new\n" in text
    assert "with other captions              1  33.3%  TEST/train/b\n" in text
    assert "ship   50.00%  60.00%  +10.00\n" in text
    assert max(map(len, text.splitlines())) <= 100


def test_render_shows_no_character_that_a_terminal_obeys(tmp_path: Path) -> None:
    rows = [row("\x1b[31m", objects=[box("\x1b[2J", 5, 5)], captions=["ship"], dataset="\x07" * 200)]
    found = compare.compare([written(tmp_path / "n", rows)], [written(tmp_path / "b", BEFORE)])
    text = compare.render(found)
    assert not {"\x1b", "\x07"} & set(text)
    assert max(map(len, text.splitlines())) <= 100


def test_damaged_and_unfinished_tables_are_named(tmp_path: Path) -> None:
    good, bad = written(tmp_path / "good", NOW), written(tmp_path / "bad", BEFORE)
    tables.shards(bad)[0].write_bytes(b"PAR1 not a table")
    with pytest.raises(TableError, match=r"bad.*damaged"):
        compare.compare([good], [bad])
    (bad / tables.MANIFEST).unlink()
    with pytest.raises(TableError, match="bad: an unfinished table"):
        compare.compare([good], [bad])


def test_the_command(tmp_path: Path) -> None:
    now, before = written(tmp_path / "now", NOW), written(tmp_path / "before", BEFORE)
    command = ["stats", str(now), "--against", str(before)]
    assert json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)["images"]["came"] == 2
    assert "came, 1 under another name" in CliRunner().invoke(main, command).stdout
    wrong = CliRunner().invoke(main, [*command, "--html", "x.html"])
    assert wrong.exit_code == 2
    assert "leave --against out" in wrong.stderr
    (before / tables.MANIFEST).unlink()
    failed = CliRunner().invoke(main, command)
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert "an unfinished table" in failed.stderr


def test_the_counts_are_those_of_the_audit(tmp_path: Path) -> None:
    now, before = written(tmp_path / "now", NOW), written(tmp_path / "before", BEFORE)
    found, audit = compare.compare([now], [before]), stats.audit([now])
    assert {name: units["captions"]["now"] for name, units in found["datasets"].items()} == {
        name: units["captions"] for name, units in audit["datasets"].items()
    }
