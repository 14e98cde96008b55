"""The leak guard on a real run of two steps: what was trained on is told of a benchmark, and nothing else."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from shapes import shape_rows, write_table

from rsclip import guard, model, run, train
from rsclip.config import Config
from rsdata import tables

OPTIONS = Config(model="rsclip-tiny", steps=2, batch_size=8, device="cpu")
UNKNOWN = "whether the model was trained on its images is not known: it, or {} of {} tables trained on"


@pytest.fixture(scope="module")
def corpus(sampled, tmp_path_factory):
    """16 train and 3 val images."""
    return sampled("dota", tmp_path_factory.mktemp("guard") / "corpus", images=16)


@pytest.fixture(scope="module")
def clean(sampled, tmp_path_factory):
    """Other pictures: 4 train, one val, one test image."""
    return sampled("ucm", tmp_path_factory.mktemp("guard") / "clean", images=4, seed=9)


@pytest.fixture(scope="module")
def trained(corpus, clean, tmp_path_factory):
    folder = tmp_path_factory.mktemp("guard") / "run"
    train.train([corpus], folder, replace(OPTIONS, eval=(str(clean),)))
    return folder


def pictures(table):
    """The images of a table by id, train first."""
    rows = [each for path in tables.shards(table) for each in tables.read(path).to_pylist()]
    return {each["image_id"]: Image.open(io.BytesIO(each["image"]["bytes"])).convert("RGB") for each in rows}


@pytest.fixture(scope="module")
def leaky(corpus, clean, converted, tmp_path_factory):
    """Scenes: five train images and two val images of the corpus as JPEG, and six of its own."""
    folder = tmp_path_factory.mktemp("guard")
    seen = {name: list(pictures(name).values()) for name in (corpus, clean)}
    copies = [*seen[corpus][:5], *seen[corpus][16:18]]
    for label, held in (("Forest", copies), ("River", seen[clean])):
        (folder / "dump/2750" / label).mkdir(parents=True)
        for number, picture in enumerate(held):
            picture.save(folder / f"dump/2750/{label}/{label}_{number}.jpg", quality=70)
    return converted(folder / "dump", "eurosat", folder / "leaky")


def test_images_that_were_trained_on_are_counted(trained, corpus):
    (told,) = guard.warnings(trained, corpus, ["train"])
    assert told == f"{corpus}: 16 of its images were trained on (as {corpus}): its scores mean nothing"
    assert list(guard.warnings(trained, corpus)) == [told]  # without a split test all are scored


def test_only_the_splits_that_were_trained_on_and_are_scored_count(trained, corpus):
    assert list(guard.warnings(trained, corpus, ["val"])) == []


def test_copies_under_other_names_are_counted_and_one_is_named(trained, corpus, leaky):
    (told,) = guard.warnings(trained, leaky)
    assert told.startswith(f"{leaky}: 5 of 13 images have near-duplicates in {corpus}, which was trained on")
    assert any(f"such as eurosat/unsplit/Forest/Forest_{number}:" in told for number in range(5))
    assert f"rsdata dedup {corpus} --against {leaky}" in told


def test_a_clean_benchmark_raises_no_doubt(trained, clean):
    assert list(guard.warnings(trained, clean)) == []
    assert list(guard.warnings(trained, clean, ["train", "val"])) == []


def test_the_best_model_and_the_checkpoint_of_a_run_are_of_the_run(trained, leaky):
    told = list(guard.warnings(trained, leaky))
    assert len(told) == 1
    for part in (run.BEST, run.CHECKPOINT, model.WEIGHTS):
        assert (trained / part).exists()
        assert list(guard.warnings(trained / part, leaky)) == told


def test_nothing_is_said_of_weights_that_no_run_made(trained, leaky, tmp_path, monkeypatch):
    shutil.copy(trained / model.WEIGHTS, tmp_path / "weights.safetensors")
    assert list(guard.warnings(tmp_path / "weights.safetensors", leaky)) == []
    assert list(guard.warnings(tmp_path, leaky)) == []
    monkeypatch.chdir(trained)
    assert list(guard.warnings(Path("openai"), leaky)) == []  # a tag, asked for from inside a run


def test_a_run_without_fingerprints_is_not_known(trained, leaky, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    shutil.rmtree(folder / guard.FINGERPRINTS)
    (told,) = guard.warnings(folder, leaky)
    assert UNKNOWN.format(1, 1) in told


def test_a_table_of_another_program_is_not_known_and_the_others_still_count(
    corpus, shapes, leaky, trained, tmp_path, capsys
):
    folder = tmp_path / "run"
    train.train([shapes, corpus], folder, OPTIONS)
    assert f"leaks into benchmarks will not be seen: {shapes}" in capsys.readouterr().err
    near, unknown = guard.warnings(folder, leaky)
    assert "5 of 13 images have near-duplicates" in near
    assert UNKNOWN.format(1, 2) in unknown
    other = write_table(tmp_path / "other", shape_rows(3, "test"))
    (told,) = guard.warnings(trained, other)
    assert UNKNOWN.format(1, 1) in told


def test_what_is_kept_of_a_table_is_no_pixel(trained, corpus):
    (kept,) = (trained / guard.FINGERPRINTS).iterdir()
    rows = tables.read(kept)
    assert rows.num_rows == 16
    assert set(rows["split"].to_pylist()) == {"train"}
    assert not {"image", "captions"} & {*rows.column_names}
    assert json.loads((trained / run.ABOUT).read_text())["tables"][0]["path"] == str(corpus)
