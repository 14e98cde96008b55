from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace

import pytest
import torch
from shapes import row, shape_rows, write_table
from stores import upload

from rsclip import blend, guard, model, run, store, train
from rsclip.config import Config
from rsclip.encode import Encoder
from rsclip.step import Trainer
from rsclip.tasks import retrieval
from rsdata import tables
from rsdata.errors import RsdataError, TableError

SMALL = Config(model="rsclip-tiny", epochs=2, batch_size=16, lr=1e-3, log_every=1, device="cpu")
STEPS = 6  # 48 images in batches of 16, twice


def weights(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "data_wait")} for line in lines]


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.fixture(scope="module")
def straight(shapes, tmp_path_factory):
    """A run of all steps in one go."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    train.train([shapes], folder, SMALL)
    return folder


@pytest.fixture
def at_step(monkeypatch):
    """Have something happen at the end of a step, as from outside."""

    def arrange(number, act):
        whole, calls = Trainer.step, []

        def step(*arguments):
            loss = whole(*arguments)
            calls.append(1)
            if len(calls) == number:
                act()
            return loss

        monkeypatch.setattr(Trainer, "step", step)

    return arrange


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_run_that_was_told_to_stop_goes_on_to_the_bit(
    shapes, straight, tmp_path, at_step, monkeypatch, stop
):
    folder = tmp_path / "run"
    at_step(stop, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(train.RunInterruptedError, match=f"after step {stop} of {STEPS}"):
        train.train([shapes], folder, SMALL)
    assert weights(folder)["step"] == stop
    monkeypatch.undo()
    train.train([shapes], folder, replace(SMALL, workers=1), resume=True)
    ended, expected = weights(folder), weights(straight)
    assert same(ended["state_dict"], expected["state_dict"])
    assert same(ended["optimizer"], expected["optimizer"])
    assert metrics(folder) == metrics(straight)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


OPTIONS = {
    "plain": {},
    "stream": {"stream": True},
    "much": {
        "ema": 0.9,
        "lora": 2,
        "negatives": "mask-equal",
        "positives": 2,
        "micro_batch": 8,
        "workers": 1,
    },
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_run_that_was_killed_goes_on_to_the_bit(shapes, tmp_path, kind):
    options = {"model": "rsclip-tiny", "batch_size": 16, "steps": 16, "log_every": 1, "checkpoint_every": 1}
    options |= {"device": "cpu", **OPTIONS[kind]}
    folder, straight = tmp_path / "run", tmp_path / "straight"
    words = [sys.executable, "-m", "rsclip", "train", str(shapes), "-o", str(folder)]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    killed = subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True)
    while killed.poll() is None and not (folder / "checkpoint.pt").exists():
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert 1 <= weights(folder)["step"] < 16
    rest = Config(**{**options, "checkpoint_every": 1000})
    train.train([shapes], folder, rest, resume=True)
    train.train([shapes], straight, rest)
    assert metrics(folder) == metrics(straight)
    assert same(weights(folder), weights(straight))


def test_a_run_that_crashed_goes_on_from_its_last_checkpoint(
    shapes, straight, tmp_path, at_step, monkeypatch
):
    class PowerCutError(Exception):
        pass

    def crash():
        raise PowerCutError

    folder, options = tmp_path / "run", replace(SMALL, checkpoint_every=2)
    at_step(6, crash)
    with pytest.raises(PowerCutError):
        train.train([shapes], folder, options)
    assert weights(folder)["step"] == 4
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 5, "lo')  # what a power cut leaves of a line
    monkeypatch.undo()
    train.train([shapes], folder, options, resume=True)
    assert same(weights(folder)["state_dict"], weights(straight)["state_dict"])
    assert metrics(folder) == metrics(straight)


def test_a_finished_run_resumes_to_nothing_and_keeps_its_model(shapes, straight, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    done = train.train([shapes], folder, SMALL, resume=True)
    assert (done["steps"], done["images"]) == (STEPS, 0)
    assert same(weights(folder), weights(straight))


def test_a_run_is_not_overwritten_nor_resumed_on_other_terms(shapes, straight, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    with pytest.raises(RsdataError, match="--resume"):
        train.train([shapes], folder, SMALL)
    with pytest.raises(RsdataError, match="--epochs was 2"):
        train.train([shapes], folder, replace(SMALL, epochs=3), resume=True)
    other = write_table(tmp_path / "other", shape_rows(48, "train", seed=1))
    (other / "manifest.json").write_text(json.dumps({**tables.manifest(other), "seed": 1}))
    with pytest.raises(RsdataError, match="not those the run was started with"):
        train.train([other], folder, SMALL, resume=True)
    (folder / "checkpoint.pt").write_bytes(b"torn")
    with pytest.raises(RsdataError, match=r"checkpoint\.pt: cannot be read"):
        train.train([shapes], folder, SMALL, resume=True)


def test_the_run_folder_says_what_was_done_and_opens_in_plain_open_clip(shapes, straight, in_plain_open_clip):
    about = json.loads((straight / "run.json").read_text())
    options = tomllib.loads((straight / "config.toml").read_text())
    assert (options["warmup"], options["precision"], options["steps"]) == (STEPS // 20, "fp32", STEPS)
    assert about["tables"][0]["splits"] == ["train"]
    digest = store.manifest_digest(shapes)
    assert about["tables"][0]["manifest_sha256"] == digest
    assert about["versions"]["open_clip_torch"]
    assert [line["step"] for line in metrics(straight)] == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in straight.iterdir()) == sorted(
        [
            run.ABOUT,
            run.CONFIG,
            run.METRICS,
            run.CHECKPOINT,
            run.CURVES,
            run.CARD,
            guard.FINGERPRINTS,
            "tensorboard",
            model.CONFIG,
            model.WEIGHTS,
        ]
    )
    card = (straight / "README.md").read_text()
    assert digest in card
    assert 'model = "rsclip-tiny"' in card
    assert (straight / "curves.png").read_bytes().startswith(b"\x89PNG")
    opened = in_plain_open_clip(straight)
    assert len(opened) == 3
    assert opened[0][:2] == opened[1][:2] == opened[2][:2]


def test_the_stored_options_make_the_same_run(shapes, straight, tmp_path):
    held = tomllib.loads((straight / "config.toml").read_text())
    options = {name.replace("-", "_"): tuple(v) if isinstance(v, list) else v for name, v in held.items()}
    train.train([shapes], tmp_path / "run", Config(**options))
    assert metrics(tmp_path / "run") == metrics(straight)


def test_tensorboard_reads_what_was_logged(straight):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(straight / "tensorboard"))
    events.Reload()
    shown = [(each.step, each.value) for each in events.Scalars("train/loss")]
    assert shown == [(line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in metrics(straight)]


def test_training_lifts_retrieval_far_above_chance_and_keeps_the_best(tmp_path):
    rows = shape_rows(384, "train") + shape_rows(64, "test")
    table = write_table(tmp_path / "table", rows, row_group=100)
    options = replace(SMALL, epochs=12, batch_size=32, lr=2e-3, eval=(str(table),), eval_every=48)
    done = train.train([table], tmp_path / "run", options)
    scored = [line for line in metrics(tmp_path / "run") if "scores" in line]
    assert [line["step"] for line in scored] == [48, 96, 144]
    means = {line["step"]: line["scores"][str(table)]["mean_recall"] for line in scored}
    assert done["best"]["mean_recall"] == max(means.values()) == means[done["best"]["step"]]
    best = Encoder(model.load(tmp_path / "run" / "best"), batch_size=64, device="cpu")
    result = retrieval.run(best, [table], ["test"])
    assert result["mean_recall"] == pytest.approx(done["best"]["mean_recall"])
    assert result["chance_mean_recall"] < 10
    assert result["mean_recall"] > 4 * result["chance_mean_recall"]
    assert f"{result['mean_recall']:.2f}" in (tmp_path / "run" / "best" / "README.md").read_text()


def test_evaluation_on_the_way_changes_nothing(shapes, straight, tmp_path):
    options = replace(SMALL, eval=(str(shapes),), eval_every=2)
    train.train([shapes], tmp_path / "run", options)
    assert [line for line in metrics(tmp_path / "run") if "loss" in line] == metrics(straight)


def test_a_cache_is_made_once_and_kept(shapes, straight, tmp_path, monkeypatch):
    options = replace(SMALL, cache=str(tmp_path / "cache"))
    train.train([shapes], tmp_path / "one", options)
    (copied,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(store, "copy", lambda *_: pytest.fail("copied again"))
    train.train([shapes], tmp_path / "two", options)
    assert metrics(tmp_path / "one") == metrics(tmp_path / "two") == metrics(straight)
    assert copied.exists()
    monkeypatch.undo()
    train.train([shapes], tmp_path / "three", replace(options, cache_edge=32))
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert metrics(tmp_path / "three") != metrics(straight)


def test_weights_of_tables_and_several_tables(shapes, tmp_path):
    other = write_table(tmp_path / "other", shape_rows(16, "train", seed=3))
    done = train.train([shapes, other], tmp_path / "run", replace(SMALL, weight=(0.5, 2.0), epochs=1))
    assert done["steps"] == (24 + 32) // 16
    with pytest.raises(RsdataError, match="--weight is given 1 times for 2 tables"):
        train.train([shapes, other], tmp_path / "two", replace(SMALL, weight=(1.0,)))
    with pytest.raises(TableError, match="an epoch would have 0 images"):
        train.train([shapes], tmp_path / "three", replace(SMALL, weight=(0.001,)))


def test_pieces_of_a_model_with_batch_norm_are_warned_of(shapes, tmp_path, capsys):
    train.train([shapes], tmp_path / "run", replace(SMALL, epochs=1, micro_batch=8))
    assert "see pieces of 8 pairs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"captions": "all", "positives": 2}, "leave out --positives"),
        ({"captions": "all", "stream": True}, "leave out --captions all"),
        ({"freeze": ("image", "text")}, "nothing to train"),
    ],
)
def test_options_that_exclude_each_other_are_named(shapes, tmp_path, wrong, why):
    with pytest.raises(RsdataError, match=why):
        train.train([shapes], tmp_path / "run", replace(SMALL, **wrong))
    assert not (tmp_path / "run").exists()


def test_a_run_without_any_readable_image_fails(tmp_path):
    broken = [row(f"broken{i}", "train", b"no image", ["a ship"]) for i in range(4)]
    table = write_table(tmp_path / "table", broken)
    for stream in (False, True):
        options = replace(SMALL, epochs=1, batch_size=2, stream=stream)
        with pytest.raises(RsdataError, match="none of the 4 images could be decoded"):
            train.train([table], tmp_path / f"run{stream}", options)


def test_bf16_and_wholly_unreadable_batches_do_not_stop_a_run(tmp_path):
    rows = shape_rows(4, "train") + [
        row(f"broken{i}", "train", b"\xff\xd8\xff", ["a ship"]) for i in range(4)
    ]
    table = write_table(tmp_path / "table", rows)
    options = replace(SMALL, epochs=4, batch_size=2, precision="bf16", augment="none")
    done = train.train([table], tmp_path / "run", options)
    assert done["unreadable"] == [f"broken{i}" for i in range(4)]
    assert done["images"] == 16
    assert math.isfinite(done["loss"])


def test_what_a_stream_could_not_use_is_counted(tmp_path):
    rows = [
        *shape_rows(6, "train"),
        row("no image", "train", None, ["a"]),
        row("no caption", "train", b"j", []),
    ]
    table = write_table(tmp_path / "table", rows)
    done = train.train([table], tmp_path / "run", replace(SMALL, batch_size=8, stream=True))
    assert (done["without_image"], done["without_captions"], done["images"]) == (1, 1, 12)


def test_a_table_with_nothing_to_train_on_is_refused(tmp_path):
    table = write_table(tmp_path / "table", [row("a", "train", None, ["x"]), row("b", "train", b"j", [])])
    with pytest.raises(TableError, match="1 rows have no image bytes, 1 have no caption"):
        train.train([table], tmp_path / "run", SMALL)


def test_a_loss_that_is_not_finite_ends_the_run_before_a_checkpoint(shapes, tmp_path):
    with pytest.raises(RsdataError, match="the loss is nan at step"):
        train.train([shapes], tmp_path / "run", replace(SMALL, lr=1e30, log_every=100, epochs=3))
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_rate_climbs_linearly_then_falls_by_a_cosine():
    options = replace(SMALL, lr=2.0, warmup=4, steps=12)
    rates = [train.learning_rate(step, options) for step in range(1, 13)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4:] == pytest.approx([1 + math.cos(math.pi * i / 8) for i in range(8)])
    assert train.learning_rate(1, replace(options, warmup=0)) == 2.0


def test_defaults_follow_the_start():
    scratch = train.resolved(replace(SMALL, lr=None), 50)
    tuned = train.resolved(replace(SMALL, lr=None, pretrained="openai", steps=40), 50)
    assert (scratch.lr, tuned.lr) == (5e-4, 4e-5)
    assert (scratch.warmup, scratch.steps, tuned.warmup, tuned.steps) == (5, 100, 2, 40)


def test_the_sigmoid_loss_gives_a_model_its_bias_and_keeps_it(shapes, tmp_path, in_plain_open_clip):
    done = train.train([shapes], tmp_path / "run", replace(SMALL, loss="siglip"))
    assert math.isfinite(done["loss"])
    clip = model.load(tmp_path / "run")
    assert float(clip.model.logit_bias.detach()) != 0
    assert len(in_plain_open_clip(tmp_path / "run", ["local-dir"])) == 1


def test_a_blend_lies_between_start_and_end(shapes, straight, tmp_path):
    options = replace(SMALL, pretrained=str(straight / model.WEIGHTS))
    train.train([shapes], tmp_path / "tuned", options)
    blend.wise_ft(tmp_path / "tuned", tmp_path / "half", 0.25)
    assert (tmp_path / "half" / run.ABOUT).read_bytes() == (tmp_path / "tuned" / run.ABOUT).read_bytes()
    assert (tmp_path / "half" / guard.FINGERPRINTS).is_dir()
    start, end, half = (
        model.load(each).model.state_dict() for each in (straight, tmp_path / "tuned", tmp_path / "half")
    )
    name = "text_projection"
    torch.testing.assert_close(half[name], 0.75 * start[name] + 0.25 * end[name])
    assert not torch.equal(start[name], end[name])
    with pytest.raises(RsdataError, match="already holds a model"):
        blend.wise_ft(tmp_path / "tuned", tmp_path / "half", 0.5)
    with pytest.raises(RsdataError, match="random weights"):
        blend.wise_ft(straight, tmp_path / "other", 0.5)
    with pytest.raises(RsdataError, match="not the folder of a run"):
        blend.wise_ft(shapes, tmp_path / "other", 0.5)


@pytest.mark.parametrize("stream", [False, True])
def test_a_table_in_a_store_trains_as_one_on_disk(shapes, tmp_path, server, stream):
    url = upload(shapes, f"s3://corpus/shapes-{stream}")
    options = replace(SMALL, stream=stream)
    train.train([shapes], tmp_path / "disk", options)
    train.train([url], tmp_path / "store", replace(options, eval=(str(url),), workers=2 * stream))
    here, there = metrics(tmp_path / "disk"), metrics(tmp_path / "store")
    assert [line for line in there if "loss" in line] == here
    assert str(url) in (tmp_path / "store" / "README.md").read_text()
