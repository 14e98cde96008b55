"""The examples solve what they say they solve, on dumps that are drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import shell

from rsdata import tables

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Dumps, tables of two of them, and a run."""
    home = tmp_path_factory.mktemp("examples")
    script = """
    rsdata sample coco coco --images 8 --size 64x64 --objects 4 > made.txt
    rsdata sample dota dota --images 8 --size 64x64 --objects 4 > made.txt
    rsdata sample eurosat eurosat --images 20 --size 64x64 > made.txt
    rsdata convert dota --recipe dota -o tables/dota
    rsdata convert coco --format coco -o tables/benchmark
    rsclip train tables/dota -o run --model rsclip-tiny --steps 2 --batch-size 4
    """
    done = shell.run(script, home, home)
    assert done.returncode == 0, done.stdout
    return home


def example(home, name, *words):
    path = EXAMPLES / name
    start = "bash" if name.endswith(".sh") else "python"
    done = shell.run(f"{start} {path} {' '.join(words)}", home, home)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_every_example_is_listed_and_run():
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh", ".ipynb")}
    listed = re.findall(r"\]\((\S+)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    assert set(listed) == names
    run = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in names if f'"{name}"' not in run and name != "demo.sh"] == []  # `make demo` is it


def test_private_coco_becomes_a_corpus_without_what_leaks(home):
    shown = example(home, "private-coco.sh", "coco", "corpus", "tables/benchmark")
    assert "corpus/clean: whole" in shown
    held = json.loads((home / "corpus/clean/manifest.json").read_text())
    assert held["images"]["leaks"] == 2  # the benchmark is the same dump: its val and test images are in it
    assert list((home / "corpus/shards").glob("*.tar"))


def test_own_captions_are_a_table_like_any_other(home):
    example(home, "own_captions.py", "tables/dota", "tables/crowding")
    (row,) = pq.read_table(tables.shards(home / "tables/crowding", ["val"])[0]).to_pylist()
    assert row["caption_source"] == "crowding"
    area = sum((box["xmax"] - box["xmin"]) * (box["ymax"] - box["ymin"]) for box in row["objects"])
    word = "nearly empty" if area / 64**2 < 0.01 else "sparse" if area / 64**2 < 0.1 else "crowded"
    assert re.fullmatch(rf"A {word} scene, most of all of the class [\w ]+\.", *row["captions"])
    done = shell.run("rsdata validate tables/crowding --deep", home, home)
    assert done.returncode == 0, done.stdout


def test_score_folders_prints_accuracy_and_confusions(home):
    shown = example(home, "score_folders.py", "eurosat", "run")
    assert "top-1" in shown
    assert re.search(r"^\d+ x [\w ]+ taken for [\w ]+$", shown, re.M)


def test_the_most_similar_image_to_one_of_the_table_is_itself(home):
    done = shell.run("rsclip embed tables/dota --checkpoint run -o embedded", home, home)
    assert done.returncode == 0, done.stdout
    shown = example(home, "similar_images.py", "embedded", "dota/train/images/train_00003.png", "run")
    score, image_id = shown.splitlines()[0].split("\t")
    assert image_id == "dota/train/train_00003"
    assert float(score) == pytest.approx(1, abs=1e-3)


def test_notebook_runs_and_holds_no_outputs(home, tmp_path):
    book = json.loads((EXAMPLES / "first-look.ipynb").read_text(encoding="utf-8"))
    assert book["nbformat"] == 4
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    program = tmp_path / "cells.py"
    program.write_text("\n".join("".join(cell["source"]) for cell in cells), encoding="utf-8")
    done = shell.run(f"MPLBACKEND=agg python {program}", home, tmp_path)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "first-look/table/manifest.json").exists()
