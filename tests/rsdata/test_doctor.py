from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from rsdata import doctor
from rsdata.cli import main

HERE = """
import sys
from rsdata.cli import main
try:
    main(["doctor", "--json"])
finally:
    assert "torch" not in sys.modules, "torch was imported"
"""


def lines(check, what):
    return [line for line in check() if line.what == what]


def test_a_machine_that_runs_the_tests_is_fit_and_torch_is_not_imported():
    """In a process of its own, with a limit on open files that is too low."""
    words = ["bash", "-c", f"ulimit -n 300; exec {sys.executable} -c '{HERE}'"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    held = {each["what"]: each for each in json.loads(done.stdout)["checks"]}
    assert {each["state"] for each in held.values()} <= {"ok", "warning"}
    assert held["python"]["found"].startswith(sys.version.split()[0])
    assert "GDAL" in held["rasterio"]["found"]
    assert held["open files"]["state"] == "warning"
    assert held["open files"]["found"] == "at most 300"
    assert held["self-test"]["found"].endswith("images converted and read back")


def test_every_warning_and_failure_says_what_to_do(monkeypatch):
    monkeypatch.setattr(doctor, "LEAST_DISK", 1 << 80)
    monkeypatch.setattr(doctor, "LEAST_MEMORY", 1 << 80)
    monkeypatch.setattr(doctor, "LEAST_FILES", 1 << 80)
    found = list(doctor.resources())
    assert [line.what for line in found if line.state == doctor.WARNING] == [
        "memory",
        "disk here",
        "disk of temporaries",
        "open files",
    ]
    assert all(bool(line.advice) == (line.state != doctor.OK) for line in found)
    shown = doctor.render(found).splitlines()
    assert len(shown) == len(found) + 4


def test_a_package_that_cannot_be_imported_is_a_failure(monkeypatch):
    monkeypatch.setitem(sys.modules, "shapely", None)
    (line,) = lines(doctor.packages, "shapely")
    assert line.state == doctor.FAIL
    assert line.advice == "pip install --force-reinstall shapely"
    assert {each.state for each in doctor.packages() if each.what != "shapely"} == {doctor.OK}


def test_an_extra_is_there_or_not_or_in_parts(monkeypatch):
    there = {"torch", "s3fs", "gcsfs", "huggingface-hub", "universal-pathlib"}
    monkeypatch.setattr(doctor, "_version", lambda name: "1" if name.replace("_", "-") in there else "")
    found = {line.what: line for line in doctor.extras()}
    assert found.keys() == {"extra train", "extra remote", "extra ray", "extra search"}
    assert found["extra train"].state == doctor.WARNING
    assert "open-clip-torch" in found["extra train"].found.replace("_", "-")
    assert found["extra train"].advice == "pip install 'rsdata[train]'"
    assert found["extra remote"].state == found["extra ray"].state == doctor.OK
    assert found["extra ray"].found == "not installed (pip install 'rsdata[ray]')"


@pytest.mark.parametrize(
    ("program", "what", "state", "found"),
    [
        ("""print('["2.9", "13.0", ["H200"], true]')""", "gpu", "ok", "H200, CUDA 13.0, bf16"),
        ("""print('["2.9", "13.0", ["T4", "T4"], false]')""", "gpu", "warning", "T4, T4"),
        (
            "raise OSError('libcudart.so.13: cannot open')",
            "torch",
            "FAIL",
            "OSError: libcudart.so.13: cannot open",
        ),
        ("import os; os.abort()", "torch", "FAIL", None),
    ],
)
def test_gpu_is_what_a_process_of_its_own_finds(program, what, state, found, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda package: "2.9")
    monkeypatch.setattr(doctor, "_TORCH", program)
    (line,) = doctor.gpu()
    assert (line.what, line.state) == (what, state)
    assert bool(line.advice) == (state != "ok")
    assert found is None or line.found == found


def test_without_torch_nothing_is_said_of_gpus(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda package: "")
    assert list(doctor.gpu()) == []


def test_a_conversion_that_fails_ends_with_1_and_all_lines(monkeypatch):
    monkeypatch.setattr(doctor, "SELF_TESTS", {"no-such-recipe": "nothing"})
    monkeypatch.setattr(doctor, "CHECKS", (doctor.system, doctor.self_tests))
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert result.stderr == "Error: self-test: see above\n"
    shown = result.stdout.splitlines()
    assert shown[0].startswith("ok       python")
    assert shown[-2].startswith("FAIL     self-test")
    assert shown[-1].strip() == "report this, with all lines above"
