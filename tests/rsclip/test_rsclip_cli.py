from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib

import pytest
from click.testing import CliRunner
from shapes import row, shape_rows, write_table

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


def test_help_loads_neither_torch_nor_open_clip():
    code = (
        "import sys; from click.testing import CliRunner; from rsclip.cli import main\n"
        "for words in (['--help'], ['train', '--help'], ['eval', '--help']):\n"
        "    assert CliRunner().invoke(main, words).exit_code == 0\n"
        "print([m for m in ('torch', 'open_clip', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["train", "eval"])
def test_each_help_ends_its_text_with_an_example_that_parses(command):
    shown = call(command, "--help").output
    (example,) = re.findall(rf"Example:\n\s+rsclip {command} (.*)\n", shown)
    parsed = cli.main.commands[command].make_context(command, example.split())
    assert parsed.params


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
    assert "there are: retrieval" in unknown.stderr
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
