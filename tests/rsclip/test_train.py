from __future__ import annotations

import json
import math
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from shapes import row, shape_rows, write_table

from rsclip import data, features, model, train
from rsclip.tasks import retrieval
from rsdata import tables
from rsdata.errors import RsdataError, TableError

SMALL = train.Config(model="rsclip-tiny", epochs=2, batch_size=16, lr=1e-3, log_every=1, device="cpu")
STEPS = 6  # 48 images in batches of 16, twice


def weights(run):
    return torch.load(run / "checkpoint.pt", weights_only=True)


def metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


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
    run = tmp_path_factory.mktemp("straight") / "run"
    train.train([shapes], run, SMALL)
    return run


@pytest.fixture
def at_step(monkeypatch):
    """Have something happen at the end of a step, as from outside."""

    def arrange(step, act):
        whole, calls = train.train_step, []

        def train_step(*arguments):
            loss = whole(*arguments)
            calls.append(1)
            if len(calls) == step:
                act()
            return loss

        monkeypatch.setattr(train, "train_step", train_step)

    return arrange


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_run_that_was_told_to_stop_goes_on_to_the_bit(
    shapes, straight, tmp_path, at_step, monkeypatch, stop
):
    run = tmp_path / "run"
    at_step(stop, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(train.RunInterruptedError, match=f"after step {stop} of {STEPS}"):
        train.train([shapes], run, SMALL)
    assert weights(run)["step"] == stop
    monkeypatch.undo()
    train.train([shapes], run, replace(SMALL, workers=1), resume=True)
    ended, expected = weights(run), weights(straight)
    assert same(ended["state_dict"], expected["state_dict"])
    assert same(ended["optimizer"], expected["optimizer"])
    assert metrics(run) == metrics(straight)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_run_that_crashed_goes_on_from_its_last_checkpoint(
    shapes, straight, tmp_path, at_step, monkeypatch
):
    class PowerCutError(Exception):
        pass

    def crash():
        raise PowerCutError

    run, config = tmp_path / "run", replace(SMALL, checkpoint_every=2)
    at_step(6, crash)
    with pytest.raises(PowerCutError):
        train.train([shapes], run, config)
    assert weights(run)["step"] == 4
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 5, "lo')  # what a power cut leaves of a line
    monkeypatch.undo()
    train.train([shapes], run, config, resume=True)
    assert same(weights(run)["state_dict"], weights(straight)["state_dict"])
    assert metrics(run) == metrics(straight)


def test_a_finished_run_resumes_to_nothing_and_keeps_its_model(shapes, straight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    done = train.train([shapes], run, SMALL, resume=True)
    assert (done["steps"], done["images"]) == (STEPS, 0)
    assert same(weights(run), weights(straight))


def test_a_run_is_not_overwritten_nor_resumed_on_other_terms(shapes, straight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    with pytest.raises(RsdataError, match="--resume"):
        train.train([shapes], run, SMALL)
    with pytest.raises(RsdataError, match="--epochs was 2"):
        train.train([shapes], run, replace(SMALL, epochs=3), resume=True)
    other = write_table(tmp_path / "other", shape_rows(48, "train", seed=1))
    (other / "manifest.json").write_text(json.dumps({**tables.manifest(other), "seed": 1}))
    with pytest.raises(RsdataError, match="not those the run was started with"):
        train.train([other], run, SMALL, resume=True)
    (run / "checkpoint.pt").write_bytes(b"torn")
    with pytest.raises(RsdataError, match=r"checkpoint\.pt: cannot be read"):
        train.train([shapes], run, SMALL, resume=True)


def test_the_run_folder_says_what_was_done_and_opens_in_plain_open_clip(shapes, straight, in_plain_open_clip):
    about = json.loads((straight / "run.json").read_text())
    assert about["config"]["warmup"] == STEPS // 20
    assert about["config"]["precision"] == "fp32"
    assert about["tables"][0]["splits"] == ["train"]
    assert about["tables"][0]["manifest_sha256"] == data.manifest_digest(shapes)
    assert about["versions"]["open_clip_torch"]
    assert [line["step"] for line in metrics(straight)] == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in straight.iterdir()) == sorted(
        ["run.json", "metrics.jsonl", "checkpoint.pt", model.CONFIG, model.WEIGHTS]
    )
    opened = in_plain_open_clip(straight)
    assert len(opened) == 3
    assert opened[0][:2] == opened[1][:2] == opened[2][:2]


def test_training_lifts_retrieval_far_above_chance(tmp_path):
    rows = shape_rows(384, "train") + shape_rows(64, "test")
    table = write_table(tmp_path / "table", rows, row_group=100)
    config = replace(SMALL, epochs=12, batch_size=32, lr=2e-3)
    train.train([table], tmp_path / "run", config)
    result = retrieval.run(features.embed(model.load(tmp_path / "run"), [table], ["test"]))
    assert result["chance_mean_recall"] < 10
    assert result["mean_recall"] > 4 * result["chance_mean_recall"]


def test_a_run_without_any_readable_image_fails(tmp_path):
    broken = [row(f"broken{i}", "train", b"no image", ["a ship"]) for i in range(4)]
    table = write_table(tmp_path / "table", broken)
    with pytest.raises(RsdataError, match="none of the 4 images could be decoded"):
        train.train([table], tmp_path / "run", replace(SMALL, epochs=1, batch_size=2))


def test_bf16_and_wholly_unreadable_batches_do_not_stop_a_run(tmp_path):
    rows = shape_rows(4, "train") + [
        row(f"broken{i}", "train", b"\xff\xd8\xff", ["a ship"]) for i in range(4)
    ]
    table = write_table(tmp_path / "table", rows)
    config = replace(SMALL, epochs=4, batch_size=2, precision="bf16", augment="none")
    done = train.train([table], tmp_path / "run", config)
    assert done["unreadable"] == [f"broken{i}" for i in range(4)]
    assert done["images"] == 16
    assert math.isfinite(done["loss"])


def test_a_table_with_nothing_to_train_on_is_refused(tmp_path):
    table = write_table(tmp_path / "table", [row("a", "train", None, ["x"]), row("b", "train", b"j", [])])
    with pytest.raises(TableError, match="1 rows have no image bytes, 1 have no caption"):
        train.train([table], tmp_path / "run", SMALL)


def test_a_loss_that_is_not_finite_ends_the_run_before_a_checkpoint(shapes, tmp_path):
    with pytest.raises(RsdataError, match="the loss is nan at step"):
        train.train([shapes], tmp_path / "run", replace(SMALL, lr=1e30, log_every=100, epochs=3))
    if (tmp_path / "run" / "checkpoint.pt").exists():
        assert all(t.isfinite().all() for t in weights(tmp_path / "run")["state_dict"].values())


def test_rate_climbs_linearly_then_falls_by_a_cosine():
    config = replace(SMALL, lr=2.0, warmup=4)
    rates = [train.learning_rate(step, 12, config) for step in range(1, 13)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4:] == pytest.approx([1 + math.cos(math.pi * i / 8) for i in range(8)])
    assert train.learning_rate(1, 12, replace(config, warmup=0)) == 2.0


def test_defaults_follow_the_start():
    scratch = train.resolved(replace(SMALL, lr=None), 100)
    tuned = train.resolved(replace(SMALL, lr=None, pretrained="openai"), 100)
    assert (scratch.lr, tuned.lr, scratch.warmup) == (5e-4, 4e-5, 5)


def test_norms_biases_and_the_logit_scale_are_not_decayed():
    clip = model.create("rsclip-tiny").model
    spared, decayed = train.build_optimizer(clip, replace(SMALL, wd=0.3)).param_groups
    named = {id(p): n for n, p in clip.named_parameters()}
    assert (spared["weight_decay"], decayed["weight_decay"]) == (0.0, 0.3)
    assert {"logit_scale", "ln_final.weight", "visual.layer1.0.downsample.1.weight"} <= {
        named[id(p)] for p in spared["params"]
    }
    decays = {named[id(p)] for p in decayed["params"]}
    assert {"token_embedding.weight", "positional_embedding", "visual.conv1.weight"} <= decays
    assert len(spared["params"]) + len(decayed["params"]) == len(named)


def test_the_logit_scale_stays_below_a_hundred(shapes, tmp_path):
    clip = model.create("rsclip-tiny")
    with torch.no_grad():
        clip.model.logit_scale.fill_(9.0)
    optimizer = train.build_optimizer(clip.model, SMALL)
    batch = data.Batch(torch.randn(4, 3, 64, 64), clip.tokenizer(["a", "b", "c", "d"]), [])
    train.train_step(clip.model, optimizer, batch, 1e-3, SMALL)
    assert train.logit_scale(clip.model) == pytest.approx(100, abs=1e-3)
