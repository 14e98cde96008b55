from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from shapes import row, shape_rows, write_table

from rsclip import cli, train

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
    held = json.loads((run / "run.json").read_text())["config"]
    assert (held["model"], held["epochs"], held["batch_size"], held["split"]) == (
        "rsclip-tiny",
        2,
        24,
        ["test"],
    )


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
