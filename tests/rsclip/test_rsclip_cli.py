from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image
from shapes import row, scene_rows, shape_rows, write_table

from rsclip import cli, train
from rsclip import config as configs

TINY = ["--model", "rsclip-tiny", "--epochs", "1", "--batch-size", "16", "--device", "cpu"]


def call(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    done = call("train", shapes, "-o", folder, *TINY)
    assert done.exit_code == 0, done.output
    assert "step 3" in done.stdout
    return folder


OTHERS = ["train", "wise-ft", "search", "embed", "heatmap"]
COMMANDS = [*OTHERS, *(f"eval {name}" for name in (*cli.task_names(), "all"))]


@pytest.mark.parametrize(
    ("commands", "unwanted"),
    [
        (["", *OTHERS], ["torch", "open_clip", "numpy", "pyarrow"]),
        (["eval", *COMMANDS], ["torch", "open_clip", "matplotlib", "sklearn"]),
    ],
)
def test_help_loads_nothing_heavy(commands, unwanted):
    code = (
        "import sys; from click.testing import CliRunner; from rsclip.cli import main\n"
        f"for words in {commands}:\n"
        "    done = CliRunner().invoke(main, [*words.split(), '--help'])\n"
        "    assert done.exit_code == 0, done.output\n"
        f"print([m for m in {unwanted} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_help_of_eval_lists_every_task():
    listed = re.findall(r"^  ([a-z-]+)  ", call("eval", "--help").output, re.MULTILINE)
    tasks = {"counting", "fewshot", "hard-negatives", "knn", "linear-probe", "retrieval", "zeroshot"}
    assert tasks == set(cli.task_names())
    assert set(listed) == {*tasks, "all"}


@pytest.mark.parametrize("words", COMMANDS)
def test_each_help_ends_its_text_with_an_example_that_parses(words):
    shown = call(*words.split(), "--help").output
    (example,) = re.findall(rf"Example:\n\s+rsclip {words} (.*)\n", shown)
    group, _, name = words.rpartition(" ")
    command = (cli.tasks if group else cli.main).get_command(None, name)
    assert command.make_context(name, shlex.split(example)).params


def test_options_are_the_fields_of_the_configuration():
    options = {parameter.name for parameter in cli.main.commands["train"].params} - set(cli.NOT_IN_CONFIG)
    assert options == set(train.Config.__dataclass_fields__)
    shown = {
        p.name: p.default for p in cli.main.commands["train"].params if p.name in options and p.show_default
    }
    assert shown == {name: getattr(train.Config(), name) for name in shown}


def test_eval_prints_a_table_or_one_json_object(shapes, run):
    shown = call("eval", "retrieval", "--checkpoint", run, "--data", shapes)
    assert shown.exit_code == 0, shown.output
    assert "mean recall" in shown.stdout
    assert "24 images, 120 captions" in shown.stdout
    done = call("eval", "retrieval", "--checkpoint", run, "--data", shapes, "--split", "train", "--json")
    result = json.loads(done.stdout)
    assert result["task"] == "retrieval"
    assert result["images"] == 48
    assert 0 <= result["mean_recall"] <= 100
    file = run / "checkpoint.pt"
    by_file = call("eval", "retrieval", "--checkpoint", file, "--model", "rsclip-tiny", "--data", shapes)
    assert by_file.stdout == shown.stdout


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Six train and three test images of each of four classes."""
    rows = scene_rows(6, "train") + scene_rows(3, "test", seed=1)
    return write_table(tmp_path_factory.mktemp("scenes") / "table", rows)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("zeroshot --prompts skyscript --ensemble raw", {"prompts": ["skyscript"], "ensemble": "raw"}),
        ("linear-probe --seed 3", {"protocol": "honest", "seed": 3}),
        ("knn --protocol paper", {"protocol": "paper", "k": 20, "temperature": 0.07}),
        ("fewshot --shots 2 --shots 1 --repeats 3", {"shots": [1, 2], "repeats": 3}),
        ("counting --numbers agree", None),
        ("hard-negatives", None),
    ],
)
def test_each_task_takes_its_options(run, scenes, words, said):
    done = call("eval", *words.split(), "--checkpoint", run, "--data", scenes, "--json")
    if said is None:  # scenes have no caption
        assert done.exit_code == 1
        assert "no row has both a caption and a readable image" in done.stderr
        return
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (
        result.items()
        >= {
            "task": words.split()[0],
            "checkpoint": str(run),
            "data": [str(scenes)],
            "images": 12,
            **said,
        }.items()
    )
    assert "Warning: only 12 test images" in done.stderr
    assert "whether the model was trained on its images is not known" in done.stderr
    table = call("eval", *words.split(), "--checkpoint", run, "--data", scenes)
    assert "12 test images, 4 classes; chance 25.00" in table.stdout


def test_features_are_kept_where_the_options_say(run, shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    words = ["eval", "retrieval", "--checkpoint", run, "--data", shapes]
    assert call(*words, "--no-cache").exit_code == 0
    assert not list(tmp_path.iterdir())
    assert call(*words, "--cache", tmp_path / "mine").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert call(*words).exit_code == 0
    (folder,) = (tmp_path / "home" / "rsclip").iterdir()
    assert {path.name.partition("-")[0] for path in folder.iterdir()} == {"about.json", "images", "texts"}


def test_search_prints_the_nearest_and_draws_them(run, shapes, tmp_path):
    words = ["search", shapes, "two red circles", "--checkpoint", run, "-n", 4]
    done = call(*words, "-o", tmp_path / "sheet.png")
    assert done.exit_code == 0, done.output
    hits = [line.split("\t") for line in done.stdout.splitlines()]
    assert len({image for _, image in hits}) == 4
    assert all(image.startswith("shapes/") for _, image in hits)
    assert [score for score, _ in hits] == sorted((score for score, _ in hits), key=float, reverse=True)
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.format == "PNG"
    tested = call(*words, "--split", "test").stdout.splitlines()
    assert all("shapes/test/" in line for line in tested)


def test_embed_writes_parquet_once(run, shapes, tmp_path):
    words = ["embed", shapes, "--checkpoint", run, "-o", tmp_path / "features"]
    done = call(*words)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{tmp_path / 'features'}: 72 images in ")
    files = sorted((tmp_path / "features").rglob("*.parquet"))
    assert all(file.name in done.stdout for file in files)
    rows = pa.concat_tables(pq.read_table(file) for file in files)
    assert rows.num_rows == len(set(rows["image_id"].to_pylist())) == 72
    assert {len(each) for each in rows["embedding"].to_pylist()} == {128}
    again = call(*words)
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    assert call(*words, "--overwrite").exit_code == 0


def test_heatmap_writes_a_png(run, tmp_path):
    Image.new("RGB", (90, 60), (90, 120, 60)).save(tmp_path / "field.png")
    words = ["heatmap", tmp_path / "field.png", "ship", "--checkpoint", run, "-o", tmp_path / "map.png"]
    done = call(*words, "--grid", 3)
    assert done.exit_code == 0, done.output
    assert re.fullmatch(rf"{tmp_path / 'map.png'}: cosine similarity -?0\.\d+ to -?0\.\d+\n", done.stdout)
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.format == "PNG"


def test_what_is_missing_is_named(run, shapes, tmp_path):
    """By search, embed and heatmap: one line, no traceback."""
    given = ["--checkpoint", run]
    (tmp_path / "text.jpg").write_text("no image")
    for words, why in (
        (["search", tmp_path, "a ship", *given], f"{tmp_path}: not a table"),
        (["search", shapes, " ", *given], "empty"),
        (["search", shapes, "a ship", *given, "--split", "tset"], "no split 'tset'"),
        (["embed", tmp_path / "none", "-o", tmp_path / "out", *given], "none: not a table"),
        (["heatmap", tmp_path / "none.jpg", "ship", "-o", tmp_path / "m.png", *given], "none.jpg"),
        (["heatmap", tmp_path / "text.jpg", "ship", "-o", tmp_path / "m.png", *given], "text.jpg"),
        (["search", shapes, "a ship", "--checkpoint", tmp_path], "not a folder that rsclip wrote"),
    ):
        done = call(*words)
        assert done.exit_code == 1, done.output
        assert done.stderr.startswith("Error: ")
        assert why in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not done.stdout
    for words in (["search", shapes, "x"], ["embed", shapes, "-o", "x"], ["heatmap", "x", "y", "-o", "z"]):
        done = call(*words, "--checkpoint", "laion2b_e16")
        assert done.exit_code == 2
        assert "--checkpoint laion2b_e16 is no folder of a run: add --model NAME" in done.stderr


def test_warnings_go_to_stderr_and_leave_json_alone(run, tmp_path):
    rows = [*shape_rows(3, "test"), row("x", "test", b"j", []), row("y", "test", b"no image", ["a"])]
    table = write_table(tmp_path / "table", rows)
    done = call("eval", "retrieval", "--checkpoint", run, "--data", table, "--json")
    assert json.loads(done.stdout)["images"] == 3
    assert "1 rows have no caption" in done.stderr
    assert "1 images cannot be decoded and were left out: y" in done.stderr


def test_wrong_usage_exits_2(shapes, run, tmp_path):
    unknown = call("eval", "retreival", "--checkpoint", run, "--data", shapes)
    assert unknown.exit_code == 2
    there_are = ", ".join([*cli.task_names(), "all"])
    assert f"no task 'retreival'; there are: {there_are}" in unknown.stderr
    assert call("eval", "knn", "--checkpoint", run, "--data", shapes, "--protocol", "mine").exit_code == 2
    assert call("train", "-o", tmp_path).exit_code == 2
    assert call("train", shapes, "-o", tmp_path, "--augment", "some").exit_code == 2
    nameless = call("eval", "retrieval", "--checkpoint", run / "checkpoint.pt", "--data", shapes)
    assert nameless.exit_code == 2
    assert "--model" in nameless.stderr


def test_failures_exit_1_with_one_line(shapes, run, tmp_path):
    absent = call("train", tmp_path / "none", "-o", tmp_path / "run", *TINY)
    device = call("eval", "retrieval", "--checkpoint", run, "--data", shapes, "--device", "abacus")
    again = call("train", shapes, "-o", run, *TINY)
    split = call("eval", "retrieval", "--checkpoint", run, "--data", shapes, "--split", "val")
    for done, why in (
        (absent, "not a table"),
        (again, "--resume"),
        (split, "no split 'val'"),
        (device, "abacus"),
    ):
        assert done.exit_code == 1
        assert done.stderr.startswith("Error: ")
        assert why in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not done.stdout


def test_an_interruption_exits_3(shapes, tmp_path, monkeypatch):
    def interrupted(*_):
        raise train.RunInterruptedError("stopped")

    monkeypatch.setattr(train, "train", interrupted)
    assert call("train", shapes, "-o", tmp_path / "run").exit_code == 3


def test_the_command_line_wins_over_the_file(shapes, tmp_path):
    file = tmp_path / "tiny.toml"
    file.write_text('model = "rsclip-tiny"\nepochs = 7\nbatch-size = 24\nsplit = ["test"]\n')
    run = tmp_path / "run"
    done = call("train", shapes, "-o", run, "--config", file, "--epochs", "2", "--device", "cpu")
    assert done.exit_code == 0, done.output
    held = tomllib.loads((run / "config.toml").read_text())
    assert (held["model"], held["epochs"], held["batch-size"], held["split"]) == (
        "rsclip-tiny",
        2,
        24,
        ["test"],
    )
    again = call("train", shapes, "-o", tmp_path / "again", "--config", run / "config.toml")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again" / "config.toml").read_text() == (run / "config.toml").read_text()


@pytest.mark.parametrize("name", configs.names())
def test_each_recipe_is_a_configuration(name):
    words = ["table", "-o", "run", "--config", name]
    context = cli.main.commands["train"].make_context("train", words)
    options = {key: value for key, value in context.params.items() if key not in cli.NOT_IN_CONFIG}
    train.check(configs.Config(**options), 1)
    assert options["pretrained"]


def test_the_papers_recipes_have_the_papers_figures():
    """PAPER.md section 5: table of learning rates and batch sizes, 108,215 steps for all."""
    found = {}
    for name in ("remoteclip-rn50", "remoteclip-vit-b-32", "remoteclip-vit-l-14"):
        held = tomllib.loads(configs.path_of(name).read_text())
        found[name] = held["lr"], held["batch-size"], held["steps"], held["augment"]
    assert found == {
        "remoteclip-rn50": (7e-5, 256, 108_215, "remoteclip"),
        "remoteclip-vit-b-32": (4e-5, 256, 108_215, "remoteclip"),
        "remoteclip-vit-l-14": (1e-4, 28, 108_215, "remoteclip"),
    }


def test_an_unknown_recipe_is_answered_with_those_there_are(shapes, tmp_path):
    done = call("train", shapes, "-o", tmp_path / "run", "--config", "remoteclip-b32")
    assert done.exit_code == 2
    assert "remoteclip-vit-b-32" in done.stderr


def test_wise_ft_blends_a_run_with_its_start(shapes, run, tmp_path):
    tuned = tmp_path / "tuned"
    assert (
        call(
            "train", shapes, "-o", tuned, *TINY, "--pretrained", run / "open_clip_model.safetensors"
        ).exit_code
        == 0
    )
    done = call("wise-ft", tuned, "-o", tmp_path / "half", "--alpha", "0.3")
    assert done.exit_code == 0, done.output
    assert "0.3 of" in done.stdout
    assert call("eval", "retrieval", "--checkpoint", tmp_path / "half", "--data", shapes).exit_code == 0
    assert call("wise-ft", run, "-o", tmp_path / "no").exit_code == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batchsize = 3", "no option 'batchsize'; did you mean batch_size?"),
        ("epochs = 'many'", "'many' is not a valid integer"),
        ("epochs = ", "tiny.toml"),
    ],
)
def test_a_wrong_configuration_is_named(shapes, tmp_path, text, said):
    file = tmp_path / "tiny.toml"
    file.write_text(text)
    done = call("train", shapes, "-o", tmp_path / "run", "--config", file)
    assert done.exit_code == 2
    assert said in done.stderr


def test_without_the_extra_it_says_what_to_install(shapes, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from rsclip.cli import main\n"
        f"main(['train', {str(shapes)!r}, '-o', {str(tmp_path / 'run')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: rsclip needs the train extra: pip install 'rsdata[train]'\n"
