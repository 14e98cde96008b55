"""`rsclip eval all`: two models on a folder of tables of all kinds, some of them unusable."""

from __future__ import annotations

import functools
import json
import shutil
from collections import Counter

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from shapes import scene_rows, shape_rows, write_table

from rsclip import classify, cli, encode, evaluate, model, train
from rsclip.config import Config
from rsdata import tables
from rsdata.errors import TableError

CLASSES = {"red": "Forest", "green": "River", "blue": "Highway", "yellow": "AnnualCrop"}
EXPECTED = {
    "scenes": Counter({"zeroshot": 3, "linear-probe": 2, "knn": 2, "fewshot": 2}),
    "people": Counter({"retrieval": 1}),
    "count": Counter({"counting": 3}),
    "boxes": Counter({"hard-negatives": 1}),
}
"""How often each task runs on a table."""


def call(*arguments):
    return CliRunner().invoke(cli.main, ["eval", "all", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def data(converted, sampled, counted, tmp_path_factory):
    """Scenes, captions of people, numbers, captions of boxes; no caption, a torn file, a torn manifest."""
    folder, made = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("made")
    for each in scene_rows(6, "unsplit"):
        colour, _, number = each["image_id"].rpartition("/")
        path = made / "dump/2750" / CLASSES[colour.rpartition("/")[2]] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(each["image"]["bytes"])
    converted(made / "dump", "eurosat", folder / "scenes")
    sampled("ucm", made / "people", images=6)
    counted(made / "count", [("plane", 1), ("plane", 2), ("ship", 3), ("harbor", 2)])
    sampled("dota", made / "boxes", images=8, seed=3)
    sampled("dota", made / "empty", captions="none", images=1, seed=4)
    for name in ("people", "count", "boxes", "empty"):
        shutil.copytree(made / name, folder / name)
    shutil.copytree(made / "people", folder / "torn")
    for path in tables.shards(folder / "torn"):
        path.write_bytes(path.read_bytes()[:-9])
    (folder / "unclosed").mkdir()
    (folder / "unclosed/manifest.json").write_text('{"splits": ')
    (folder / "unfinished/data").mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def checkpoints(data, tmp_path_factory):
    """A run of two steps on one of the tables, and the folder of a model of random weights."""
    folder = tmp_path_factory.mktemp("models")
    train.train(
        [data / "boxes"], folder / "run", Config(model="rsclip-tiny", steps=2, batch_size=8, device="cpu")
    )
    torch.manual_seed(1)
    model.save(folder / "random", model.create("rsclip-tiny"))
    return [folder / "run", folder / "random"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def done(data, checkpoints, cache, tmp_path_factory):
    """The report's folder and what was printed. The paper's probe is cut to five of its 1,000 epochs."""
    folder = tmp_path_factory.mktemp("report") / "scores"
    words = [word for each in checkpoints for word in ("--checkpoint", each)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classify, "paper_probe", functools.partial(classify.paper_probe, epochs=5))
        shown = call(*words, "--data", data, "-o", folder, "--cache", cache, "--device", "cpu", "--json")
    assert shown.exit_code == 0, shown.output
    return folder, shown


@pytest.fixture(scope="module")
def scores(done):
    return json.loads((done[0] / "scores.json").read_text())


def test_every_task_runs_where_it_applies_for_each_model(scores, checkpoints):
    assert [each["name"] for each in scores["checkpoints"]] == ["run", "random"]
    assert [each["path"] for each in scores["checkpoints"]] == [str(path) for path in checkpoints]
    assert [each["model"] for each in scores["checkpoints"]] == ["rsclip-tiny", ""]
    for name in ("run", "random"):
        found = {}
        for each in scores["results"]:
            if each["checkpoint"] == name:
                found.setdefault(each["data"], Counter())[each["task"]] += 1
        assert found == EXPECTED
    assert {each["data"]: each["datasets"] for each in scores["results"]} == {
        "scenes": ["eurosat"],
        "people": ["ucm"],
        "count": ["remotecount"],
        "boxes": ["dota"],
    }


def test_both_protocols_all_prompts_and_all_forms_of_numbers_are_there(scores):
    options = {
        task: [
            each["options"]
            for each in scores["results"]
            if each["task"] == task and each["checkpoint"] == "run"
        ]
        for task in ("linear-probe", "knn", "fewshot", "zeroshot", "counting")
    }
    both = [{"protocol": "honest"}, {"protocol": "paper"}]
    assert options["linear-probe"] == options["knn"] == options["fewshot"] == both
    assert options["zeroshot"] == [{"names": [name]} for name in ("remoteclip", "clip-eurosat", "rs5m")]
    assert options["counting"] == [{"numbers": form} for form in ("words", "digits", "agree")]
    for each in scores["results"]:
        for key in ("protocol", "numbers"):
            assert each["result"].get(key) == each["options"].get(key, each["result"].get(key))


def test_what_cannot_be_used_is_skipped_with_the_reason(scores, done):
    why = {each["data"]: each["why"] for each in scores["skipped"]}
    assert Counter(each["data"] for each in scores["skipped"]) == {"empty": 2, "torn": 2, "unclosed": 2}
    assert why["empty"] == "has neither classes nor captions that a task takes"
    assert "torn/data" in why["torn"]
    assert "unclosed/manifest.json" in why["unclosed"]
    for each in scores["skipped"]:
        assert f"Warning: {each['data']}: skipped: {each['why']}" in done[1].stderr


def test_a_model_is_doubted_on_what_it_was_trained_on_alone(scores, data):
    doubted = {
        (each["checkpoint"], each["data"])
        for each in scores["results"]
        if any("were trained on" in note for note in each["result"]["notes"])
    }
    assert doubted == {("run", "boxes")}


def test_the_report_is_printed_and_written_in_each_form_under_names_of_its_own(scores, done):
    folder, shown = done
    assert json.loads(shown.stdout) == scores
    names = [path.name for path in folder.iterdir()]
    assert {"scores.json", "scores.md", "scores.tex"} < {*names}
    figures = [name for name in names if name.endswith(".png")]
    kinds = Counter(each["task"] for each in scores["results"])
    assert len(figures) >= len(kinds) - 1  # retrieval has too many numbers for bars
    for name in figures:
        with Image.open(folder / name) as picture:
            assert picture.format == "PNG"
        assert name in (folder / "scores.md").read_text()
    text = (folder / "scores.md").read_text()
    for word in ("run", "random", "scenes", "people", "count", "boxes"):
        assert word in text
    assert r"\begin{tabular}" in (folder / "scores.tex").read_text()


def test_the_same_task_alone_gives_the_same_numbers(scores, data, checkpoints, cache):
    words = ["eval", "knn", "--checkpoint", checkpoints[1], "--data", data / "scenes", "--cache", cache]
    alone = CliRunner().invoke(cli.main, [*map(str, words), "--protocol", "paper", "--json"])
    assert alone.exit_code == 0, alone.output
    (found,) = (
        each["result"]
        for each in scores["results"]
        if (each["checkpoint"], each["task"]) == ("random", "knn") and each["options"]["protocol"] == "paper"
    )
    assert found.items() <= json.loads(alone.stdout).items()


def test_a_second_run_embeds_no_image_again(scores, data, checkpoints, cache, tmp_path, monkeypatch, done):
    monkeypatch.setattr(encode.model, "image_features", lambda *_: pytest.fail("embedded an image again"))
    words = [word for each in checkpoints for word in ("--checkpoint", each)]
    words += ["--data", data, "-o", tmp_path / "scores", "--cache", cache, "--device", "cpu"]
    again = call(*words, "--task", "knn", "--task", "retrieval", "--task", "zeroshot")
    assert again.exit_code == 0, again.output
    assert again.stdout == (tmp_path / "scores/scores.md").read_text() + "\n"
    found = json.loads((tmp_path / "scores/scores.json").read_text())["results"]
    assert found == [each for each in scores["results"] if each["task"] in ("knn", "retrieval", "zeroshot")]


def test_one_table_will_do_for_data_and_a_split_may_be_named(data, checkpoints, cache, tmp_path):
    words = ["--checkpoint", checkpoints[1], "--data", data / "people", "-o", tmp_path, "--cache", cache]
    assert call(*words, "--split", "train").exit_code == 0
    (found,) = json.loads((tmp_path / "scores.json").read_text())["results"]
    assert found["result"]["images"] == tables.manifest(data / "people")["splits"]["train"]["rows"]
    wrong = call(*words, "--split", "tset")
    assert wrong.exit_code == 1
    assert "Error: nothing could be scored: " in wrong.stderr
    assert "'tset'" in wrong.stderr


def test_tables_and_checkpoints_of_one_name_are_told_apart_by_their_paths(checkpoints, cache, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(checkpoints[1], tmp_path / name / "model")
        write_table(tmp_path / name / "tables/shapes", shape_rows(4, "test"))
    write_table(tmp_path / "two/tables/other", shape_rows(4, "test"))
    roots = [tmp_path / name / "tables" for name in ("one", "two")]
    found = evaluate.benchmarks([*roots, roots[0] / "shapes"])
    one, two = (str(root / "shapes") for root in roots)
    assert [each.name for each in found] == [one, "other", two]
    words = [word for name in ("one", "two") for word in ("--checkpoint", tmp_path / name / "model")]
    done = call(*words, "--data", roots[0], "-o", tmp_path / "scores", "--cache", cache, "--json")
    names = [each["name"] for each in json.loads(done.stdout)["checkpoints"]]
    assert names == [str(tmp_path / name / "model") for name in ("one", "two")]


def test_a_folder_without_a_table_is_told(tmp_path):
    with pytest.raises(TableError, match=r"no table in it \(rsdata convert writes them\)"):
        evaluate.benchmarks([tmp_path, tmp_path / "none"])


def test_nothing_scored_is_a_failure(data, checkpoints, tmp_path):
    done = call("--checkpoint", checkpoints[1], "--data", data / "empty", "-o", tmp_path, "--no-cache")
    assert done.exit_code == 1
    assert done.stderr == (
        "Error: nothing could be scored: has neither classes nor captions that a task takes\n"
    )


def test_weights_and_their_models(data, checkpoints, cache, tmp_path):
    files = [tmp_path / name / "weights.safetensors" for name in ("one", "two")]
    for path in files:
        path.parent.mkdir()
        shutil.copy(checkpoints[1] / model.WEIGHTS, path)
    words = ["--data", data / "people", "--cache", cache, "--json", "-o", tmp_path / "scores"]
    both = [word for path in files for word in ("--checkpoint", path)]
    folder = ["--checkpoint", checkpoints[0]]
    for given, models in (
        ([*both, "--model", "rsclip-tiny"], ["rsclip-tiny"] * 2),
        ([*both, "--model", "rsclip-tiny", "--model", "rsclip-tiny"], ["rsclip-tiny"] * 2),
        ([*both, *folder, "--model", "rsclip-tiny"], ["rsclip-tiny"] * 3),
    ):
        done = call(*given, *words)
        assert done.exit_code == 0, done.output
        assert [each["model"] for each in json.loads(done.stdout)["checkpoints"]] == models
    for given in (both, [*both, *folder], [*both, *["--model", "rsclip-tiny"] * 3]):
        done = call(*given, *words)
        assert done.exit_code == 2
        assert "2 checkpoints are no folders of runs" in done.stderr
        assert "give --model once, or once each" in done.stderr


def test_a_checkpoint_that_cannot_be_read_is_one_clear_line(data, checkpoints, cache, tmp_path):
    torn = tmp_path / "torn.pt"
    torn.write_bytes(b"no weights")
    (tmp_path / "nothing").mkdir()
    words = ["--data", data / "people", "--cache", cache, "-o", tmp_path / "scores"]
    for given, why in (
        (["--checkpoint", torn, "--model", "rsclip-tiny"], f"Error: {torn}: "),
        (["--checkpoint", tmp_path / "nothing"], f"{tmp_path / 'nothing'}: not a folder that rsclip wrote"),
        (["--checkpoint", "none", "--model", "rsclip-tiny"], "none: neither a file nor a tag"),
        (["--checkpoint", checkpoints[0], "--model", "x", "--checkpoint", torn], "x: no such model"),
    ):
        done = call(*given, *words)
        assert done.exit_code == 1
        *progress, last = done.stderr.splitlines()
        assert last.startswith("Error: ")
        assert why in last
        assert all(line.startswith(("people: retrieval", "Warning: ")) for line in progress)
    # the model before the last was scored, and its report is there
    held = json.loads((tmp_path / "scores/scores.json").read_text())
    assert [each["name"] for each in held["checkpoints"]] == ["run"]
    assert held["results"]
