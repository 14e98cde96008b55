"""Runs that stop before their end: killed, disk full, workers that die, a dump that changes or goes."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from dumps import check_account, contents, rows_of, run, sample_dump

from rsdata import convert as flow
from rsdata import journal, recipes, tables
from rsdata.convert import convert
from rsdata.engine import Engine
from rsdata.errors import TableError, UnfinishedError
from rsdata.shard import Options

COMMAND = """
import sys
sys.path[:0] = {paths!r}
import rsdata.convert
rsdata.convert.SHARD_ROWS = 2
if __name__ == "__main__":
    from rsdata.cli import run
    run()
"""
DIE = """
import os, signal, sys
def hook(event, arguments):
    if event == "open" and {name!r} in str(arguments[0]) and not os.path.exists({once!r}):
        if {once!r}: open({once!r} + ".", "w").close(); os.rename({once!r} + ".", {once!r})
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""
"""A sitecustomize: whichever process opens a certain file dies, each time or once."""


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """12 images in train and 2 in val: with two images a shard, 7 shards."""
    sample_dump("dota", tmp_path / "dump", images=12)
    return tmp_path / "dump"


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "SHARD_ROWS", 2)


@pytest.fixture
def reference(dump: Path, small_shards: None, tmp_path: Path) -> dict[str, bytes]:
    run("dota", dump, tmp_path / "reference")
    return contents(tmp_path / "reference")


def stop_after(images: int) -> Any:
    def stop(step: flow.Step) -> None:
        if step.images >= images:
            raise KeyboardInterrupt

    return stop


def command(tmp_path: Path, *words: object) -> list[str]:
    script = tmp_path / "command.py"
    script.write_text(COMMAND.format(paths=[str(Path(__file__).parents[2])]))
    return [sys.executable, str(script), "convert", *map(str, words)]


def go(tmp_path: Path, *words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(tmp_path, *words), check=False, capture_output=True, text=True, **options)


def with_hook(tmp_path: Path, name: str, once: str = "") -> dict[str, str]:
    """The environment in which whoever opens a file of that name dies."""
    folder = tmp_path / "hook"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(DIE.format(name=name, once=once))
    return {**os.environ, "PYTHONPATH": str(folder)}


def interrupted(dump: Path, table: Path, images: int, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        convert([dump], table, recipes.load("dota"), Options(**options), stop_after(images))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("images", [2, 7, 13])
def test_a_run_goes_on_where_it_stopped(
    images: int, workers: int, dump: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    table = tmp_path / "t"
    interrupted(dump, table, images, engine=Engine(workers=workers))
    before = {path: path.stat().st_mtime_ns for path in table.rglob("done/*.json")}
    assert len(before) >= images // 2
    said: list[str] = []
    steps: list[flow.Step] = []
    outcome = convert([dump], table, recipes.load("dota"), Options(), steps.append, said.append)
    check_account(outcome, table)
    assert contents(table) == reference
    assert said[-1].startswith("going on with the unfinished run")
    assert steps[0].kept >= images - images % 2
    assert steps[-1].images == steps[-1].total == outcome.manifest["images"]["found"]


def test_shards_that_are_done_are_not_made_again(
    dump: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    """Their images need not even be there any more to read, as long as the index is the same."""
    interrupted(dump, tmp_path / "t", 6)
    staging = tmp_path / "t/.unfinished"
    kept = {path.name: path.stat().st_ino for path in (staging / "data").glob("*.parquet")}
    run("dota", dump, tmp_path / "t")
    made = {path.stat().st_ino for path in (tmp_path / "t/data").iterdir()}
    assert len(kept) >= 3
    assert set(kept.values()) <= made


@pytest.mark.parametrize("damage", ["short", "gone", "not noted", "note damaged"])
def test_a_shard_that_is_not_whole_is_made_again(
    damage: str, dump: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    interrupted(dump, tmp_path / "t", 6)
    staging = tmp_path / "t/.unfinished"
    shard, note = staging / "data/train-00001.parquet", staging / "done/train-00001.json"
    if damage == "short":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "gone":
        shard.unlink()
    elif damage == "not noted":
        note.unlink()
    else:
        note.write_bytes(note.read_bytes()[:20])
    (staging / "data/.abc.tmp").write_bytes(b"half a shard")
    (staging / "data/.train-00001.at").write_bytes(b"12345678")
    run("dota", dump, tmp_path / "t")
    assert contents(tmp_path / "t") == reference


def test_rejections_are_kept(dump: Path, small_shards: None, tmp_path: Path) -> None:
    (dump / "train/images/train_00001.png").write_bytes(b"no image")
    label = dump / "train/labelTxt/train_00000.txt"
    label.write_text(label.read_text() + "1 2 3\n")
    fresh = run("dota", dump, tmp_path / "fresh")
    interrupted(dump, tmp_path / "t", 6)
    assert run("dota", dump, tmp_path / "t") == fresh
    assert contents(tmp_path / "t") == contents(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"captions": "a2c"}, 'options.captions was "remoteclip", is "a2c"'),
        ({"seed": 1}, "options.seed was 0, is 1"),
        ({"no_images": True}, "options.no_images was false, is true"),
        ({"splits": ("train",)}, "options.splits was [], is"),
        ({"recipe": {"max_edge": 32}}, "table.datasets.dota.image.max_edge was 0, is 32"),
    ],
)
def test_another_option_is_named(
    change: dict[str, Any], told: str, dump: Path, small_shards: None, tmp_path: Path
) -> None:
    recipe = recipes.adapted(recipes.load("dota"), None, {}, **change.pop("recipe", {}))
    interrupted(dump, tmp_path / "t", 6)
    held = contents(tmp_path / "t")
    with pytest.raises(TableError) as caught:
        convert([dump], tmp_path / "t", recipe, Options(**change))
    assert told in str(caught.value)
    assert "start anew (--overwrite)" in str(caught.value)
    assert contents(tmp_path / "t") == held
    said: list[str] = []
    convert([dump], tmp_path / "t", recipe, Options(overwrite=True, **change), say=said.append)
    assert any(told in line for line in said)
    run(recipe, dump, tmp_path / "fresh", **change)
    assert contents(tmp_path / "t") == contents(tmp_path / "fresh")


@pytest.mark.parametrize("change", ["has changed", "is gone", "is new"])
def test_another_dump_is_named(change: str, dump: Path, small_shards: None, tmp_path: Path) -> None:
    interrupted(dump, tmp_path / "t", 6)
    name = "train/images/train_00003.png"
    if change == "has changed":
        os.utime(dump / name, (1, 1))
    elif change == "is gone":
        (dump / name).unlink()
        (dump / "train/images/train_00004.png").unlink()
    else:
        name = "train/images/train_99999.png"
        shutil.copyfile(dump / "train/images/train_00003.png", dump / name)
    more = ", and 1 more files differ" if change == "is gone" else ""
    with pytest.raises(TableError, match=f"{name} {change}{more}. Repeat that one"):
        run("dota", dump, tmp_path / "t")


def test_another_source_is_named(dump: Path, small_shards: None, tmp_path: Path) -> None:
    interrupted(dump, tmp_path / "t", 6)
    sample_dump("dota", tmp_path / "more", images=2, seed=9)
    with pytest.raises(TableError, match="sources was 1, is 2"):
        run("dota", [dump, tmp_path / "more"], tmp_path / "t")


def test_the_number_of_workers_and_the_engine_may_change(
    dump: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    interrupted(dump, tmp_path / "t", 6, engine=Engine(workers=2))
    run("dota", dump, tmp_path / "t", engine=Engine("serial"))
    assert contents(tmp_path / "t") == reference


def test_a_finished_table_is_replaced_by_a_run_that_was_stopped(
    dump: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    """--overwrite in both commands: the old table stands until the new one is whole."""
    run("dota", dump, tmp_path / "t", captions="none")
    old = tables.manifest(tmp_path / "t")
    interrupted(dump, tmp_path / "t", 6, overwrite=True)
    assert tables.manifest(tmp_path / "t") == old
    run("dota", dump, tmp_path / "t", overwrite=True)
    assert contents(tmp_path / "t") == reference


def test_kills_at_random_times(small_shards: None, tmp_path: Path) -> None:
    """kill -9 of the process alone, after some more shards each time, until it comes through."""
    rng = random.Random(0)
    table, dump = tmp_path / "t", tmp_path / "large"
    sample_dump("dota", dump, images=60)
    run("dota", dump, tmp_path / "reference")
    kills = 0
    words = command(tmp_path, dump, "--recipe", "dota", "-o", table, "--workers", 2)
    while not (table / "manifest.json").is_file():
        shards = len(list(table.glob(".unfinished/done/*"))) + rng.randrange(8)
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and len(list(table.glob(".unfinished/done/*"))) <= shards:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.02))
            kills += process.poll() is None
            process.kill()
    time.sleep(0.5)  # workers that were killed a moment ago
    tables.unstage(tables.staging_of(table))  # a kill after the manifest leaves an empty folder
    assert kills > 1
    assert contents(table) == contents(tmp_path / "reference")


def test_an_image_that_kills_its_reader_is_left_out_and_told(
    dump: Path, small_shards: None, tmp_path: Path
) -> None:
    table = tmp_path / "t"
    env = with_hook(tmp_path, "train_00005.png")
    done = go(
        tmp_path, dump, "--recipe", "dota", "-o", table, "--workers", 2, "--split", "train", "--json", env=env
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert manifest["images"] == {"found": 12, "written": 11, "duplicates": 0, "leaks": 0, "rejected": 1}
    assert manifest["reasons"]["rejected"] == {"E37": 1}
    assert "train/images/train_00005.png" not in {row["image"]["path"] for row in rows_of(table)}
    (listed,) = tables.read(table / tables.REJECTIONS).to_pylist()
    assert (listed["path"], listed["code"]) == ("train/images/train_00005.png", "E37")
    assert not list(table.rglob(".*"))


def test_a_worker_that_is_killed_once_costs_nothing(
    dump: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    env = with_hook(tmp_path, "train_00005.png", once=str(tmp_path / "once"))
    done = go(tmp_path, dump, "--recipe", "dota", "-o", tmp_path / "t", "--workers", 2, env=env)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "once").exists()
    assert contents(tmp_path / "t") == reference


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_is_full(workers: int, dump: Path, reference: dict[str, bytes], tmp_path: Path) -> None:
    """No file may be larger than the limit, which the images of one shard exceed: no image is to blame."""
    table = tmp_path / "t"
    words = (dump, "--recipe", "dota", "-o", table, "--workers", workers)
    sizes = sorted(len(data) for name, data in reference.items() if name.startswith("data/"))
    limit = (sizes[-2] + sizes[-1]) // 2 if sizes[-2] < sizes[-1] else sizes[-1] - 1

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = go(tmp_path, *words, preexec_fn=small_disk)
    assert done.returncode == 3, done.stderr
    assert "Unfinished: " in done.stderr
    assert "File too large" in done.stderr
    assert "the same command goes on" in done.stderr
    assert not list(table.rglob(".*.tmp"))
    assert go(tmp_path, *words).returncode == 0
    assert contents(table) == reference


def test_a_dump_that_goes_away(dump: Path, reference: dict[str, bytes], tmp_path: Path) -> None:
    """Where all images are gone at once none is rejected: the run stops, and goes on later."""

    def unmount(step: flow.Step) -> None:
        if (dump / "train").is_dir():
            dump.rename(tmp_path / "elsewhere")

    with pytest.raises(UnfinishedError, match="the dump is gone"):
        convert([dump], tmp_path / "t", recipes.load("dota"), Options(), unmount)
    (tmp_path / "elsewhere").rename(dump)
    run("dota", dump, tmp_path / "t")
    assert contents(tmp_path / "t") == reference


def test_an_image_that_vanishes_meanwhile(dump: Path, small_shards: None, tmp_path: Path) -> None:
    def lose(step: flow.Step) -> None:
        (dump / "train/images/train_00011.png").unlink(missing_ok=True)

    outcome = convert([dump], tmp_path / "t", recipes.load("dota"), Options(), lose)
    assert [(item.code, item.path) for item in outcome.rejections] == [
        ("E35", "train/images/train_00011.png")
    ]
    check_account(outcome, tmp_path / "t")


def test_a_scheduler_that_asks_to_end(dump: Path, tmp_path: Path) -> None:
    """SIGTERM is as Ctrl-C."""
    words = command(tmp_path, dump, "--recipe", "dota", "-o", tmp_path / "t", "--workers", 2)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list(tmp_path.glob("t/.unfinished/job.json")):
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (3, "Interrupted: what is done is kept; the same command goes on\n")


def test_two_runs_do_not_write_one_table(dump: Path, small_shards: None, tmp_path: Path) -> None:
    def another(step: flow.Step) -> None:
        with pytest.raises(TableError, match="another run writes to it"):
            convert([dump], tmp_path / "t", recipes.load("dota"), Options())

    convert([dump], tmp_path / "t", recipes.load("dota"), Options(), another)
    assert tables.manifest(tmp_path / "t")["images"]["found"] == 14


def test_nothing_is_noted_in_a_dry_run(dump: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)
    convert([dump], tmp_path / "t", recipes.load("dota"), Options(dry_run=True))
    assert contents(tmp_path) == before
    assert journal.changes(tmp_path / "t", {}, []) is None
