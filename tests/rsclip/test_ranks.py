"""Several processes are one: gloo on the CPU, as torchrun starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from of_ranks import step
from test_step import close, vit

from rsclip import model

HERE = Path(__file__).parent
OPTIONS = [
    {},
    {"negatives": "mask-signature", "positives": 2},
    {"negatives": "mask-equal", "micro_batch": 2},
    {"loss": "siglip", "negatives": "mask-equal"},
]


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def environment():
    return {**os.environ, "PYTHONPATH": str(HERE)}


def torchrun(*words, check=True):
    """The words under torchrun, in two processes."""
    command = [*TORCHRUN, "2", *map(str, words)]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert not check or done.returncode == 0, done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two ranks with half of the batch each find, for each of OPTIONS."""
    path = tmp_path_factory.mktemp("ranks") / "found.pt"
    torchrun(HERE / "of_ranks.py", json.dumps(OPTIONS), path)
    return torch.load(path)


@pytest.mark.parametrize("number", range(len(OPTIONS)))
def test_two_processes_have_the_loss_gradients_and_weights_of_one(two, number):
    one = step(OPTIONS[number])
    torch.testing.assert_close(two[number]["loss"], one["loss"], atol=1e-5, rtol=1e-5)
    assert "logit_scale" in one["gradients"]
    close(two[number]["gradients"], one["gradients"], 1e-5)
    close(two[number]["weights"], one["weights"], 1e-4)


def losses(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line)["loss"] for line in lines if line.endswith("\n")]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with a CLIP of two transformers, to start runs from."""
    folder = tmp_path_factory.mktemp("small") / "start"
    vision = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
    text = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    model.save(folder, vit()._replace(config={"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}))
    return folder


def test_a_run_of_two_that_is_told_to_stop_goes_on_as_one(shapes, small, tmp_path):
    words = ["train", str(shapes), "--model", f"local-dir:{small}", "--batch-size", "16", "--steps", "60"]
    words += ["--lr", "1e-5", "--warmup", "0", "--log-every", "1", "--device", "cpu"]
    alone = [sys.executable, "-m", "rsclip", *words]
    straight, mixed = tmp_path / "straight", tmp_path / "mixed"
    subprocess.run([*alone, "-o", straight], check=True, capture_output=True, timeout=300)
    two = subprocess.Popen(
        [*TORCHRUN, "2", "-m", "rsclip", *words, "-o", str(mixed)], env=environment(), stderr=subprocess.PIPE
    )
    while two.poll() is None and len(losses(mixed)) < 4:
        time.sleep(0.01)
    two.terminate()
    _, told = two.communicate(timeout=300)
    assert b"go on with --resume" in told
    done = len(losses(mixed))
    assert 4 <= done < 60
    resumed = subprocess.run(
        [*alone, "-o", mixed, "--resume"], capture_output=True, text=True, timeout=300, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert losses(mixed) == pytest.approx(losses(straight), abs=1e-4)


def test_a_mistake_ends_all_processes(shapes, tmp_path):
    words = [
        "-m",
        "rsclip",
        "train",
        shapes,
        "-o",
        tmp_path / "run",
        "--model",
        "rsclip-tiny",
        "--device",
        "cpu",
    ]
    done = torchrun(*words, "--batch-size", "15", check=False)
    assert done.returncode == 1
    assert "--batch-size 15 cannot be shared by 2 processes" in done.stderr
    assert not (tmp_path / "run").exists()
