"""Training on genuine frames: 30 of AU-AIR, 1920 x 1080, with their boxes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")

from rsclip import cli as rsclip
from rsclip import store
from rsclip.pixels import Pixels
from rsdata import cli as rsdata

pytestmark = pytest.mark.real
Real = Callable[[str], Path]


@pytest.fixture(scope="module")
def table(real: Real, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("au-air") / "table"
    words = ["convert", str(real("au-air")), "--recipe", "au-air", "-o", str(folder)]
    done = CliRunner().invoke(rsdata.main, words)
    assert done.exit_code == 0, done.output
    return folder


def test_a_run_on_real_frames(table: Path, tmp_path: Path) -> None:
    words = ["train", str(table), "-o", str(tmp_path / "run"), "--model", "rsclip-tiny", "--batch-size", "10"]
    words += ["--epochs", "2", "--log-every", "1", "--device", "cpu", "--cache-edge", "80", "--workers", "2"]
    words += ["--negatives", "mask-signature", "--hard-negatives", "2", "--positives", "2"]
    done = CliRunner().invoke(rsclip.main, words)
    assert done.exit_code == 0, done.output
    assert "Warning" not in done.output
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert all(math.isfinite(line["loss"]) for line in lines)


def test_captions_of_real_boxes_have_hard_negatives(table: Path, tmp_path: Path) -> None:
    """Each of its five captions, with an absent class, another number or another place."""
    store.copy(store.Source(table, store.splits_of(table, (), "train")), tmp_path / "copy.arrow", hard=True)
    held = store.Store([tmp_path / "copy.arrow"])
    made = [len(false) for place in range(len(held)) for false in held[place].hard or []]
    assert len(made) == 5 * len(held) == 150
    assert sum(made) > 2 * len(made)
    assert min(made) >= 1


def test_the_fast_resize_of_real_frames_is_near_pillows(table: Path, tmp_path: Path) -> None:
    store.copy(store.Source(table, store.splits_of(table, (), "train")), tmp_path / "copy.arrow")
    held = store.Store([tmp_path / "copy.arrow"])
    preprocess = {"size": 224, "interpolation": "bicubic", "resize_mode": "shortest"}
    apart = []
    for place in range(0, len(held), 6):
        fast, pil = (Pixels(preprocess, "crop", way)(held[place].image or b"", 1) for way in ("fast", "pil"))
        apart.append(float((fast.float() - pil.float()).abs().mean()))
    assert max(apart) < 2  # decoded at half its size, of 255
