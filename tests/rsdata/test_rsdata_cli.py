"""The `rsdata` command: exit codes, what goes to stdout and what to stderr, examples that run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from dumps import contents, rows_of, sample_dump

import rsdata
from rsdata import formats, recipes, tables
from rsdata.cli import main

COMMANDS = sorted(main.commands)
IN_A_SHELL = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def call(*words: Any) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def done(*words: Any) -> str:
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def data(*words: Any) -> Any:
    """The one JSON object on stdout."""
    text = done(*words, "--json")
    assert text.endswith("}\n")
    return json.loads(text)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    sample_dump("dota", tmp_path / "dump")
    return tmp_path / "dump"


@pytest.fixture
def damaged(dump: Path) -> Path:
    """`dump` with a line that is dropped and an image that is rejected."""
    label = sorted((dump / "train/labelTxt").iterdir())[0]
    label.write_text(label.read_text() + "1 2 3 ship\n")
    sorted((dump / "train/images").iterdir())[1].write_bytes(b"no image")
    return dump


def test_convert(dump: Path, tmp_path: Path) -> None:
    result = call("convert", dump, "--recipe", "dota", "-o", tmp_path / "t", "--workers", 1)
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    rows = rows_of(tmp_path / "t")
    number, objects = len(rows), sum(len(row["objects"]) for row in rows)
    assert lines[0] == f"{tmp_path / 't'}: train 4, val 1 images, {5 * number} captions"
    assert lines[1] == f"images: {number} found = {number} written + 0 duplicates + 0 leaks + 0 rejected"
    assert lines[2] == f"objects: {objects} found = {objects} written + 0 dropped"
    assert any("1,409" in line and "paper" in line for line in lines[3:])


def test_convert_as_json(damaged: Path, tmp_path: Path) -> None:
    manifest = data("convert", damaged, "--recipe", "dota", "-o", tmp_path / "t", "--workers", 1)
    assert manifest == tables.manifest(tmp_path / "t")
    dry = data("convert", damaged, "--recipe", "dota", "--dry-run")
    assert [(item["action"], item["code"]) for item in dry.pop("rejections")] == [
        ("dropped", "E05"),
        ("rejected", "E35"),
    ]
    assert dry == manifest


def test_convert_tells_what_was_left_out(damaged: Path, tmp_path: Path) -> None:
    words = ("convert", damaged, "--recipe", "dota")
    text = done(*words, "-o", tmp_path / "t")
    label = sorted((damaged / "train/labelTxt").iterdir())[0]
    line = len(label.read_text().splitlines())
    assert f"  train/labelTxt/{label.name}:{line}: E05 4 fields" in text
    assert "rejected 1 with E35, such as" in text
    assert f"all of them: {tmp_path / 't' / 'rejections.parquet'}" in text
    dry = done(*words, "--dry-run")
    assert dry.startswith("dry run, nothing written: train 3, val 1 images")
    assert f"dropped: train/labelTxt/{label.name}:{line}: E05" in dry


def test_strict(dump: Path, damaged: Path, tmp_path: Path) -> None:
    words = ("convert", "--recipe", "dota", "--strict")
    result = call(*words, damaged, "-o", tmp_path / "t")
    assert result.exit_code == 1
    assert "--strict" in result.stderr
    assert "E35" in result.stdout
    assert len(rows_of(tmp_path / "t")) == 4  # the table is there all the same
    assert call(*words, damaged, "--dry-run").exit_code == 1
    sample_dump("dota", tmp_path / "clean")
    assert call(*words, tmp_path / "clean", "-o", tmp_path / "u").exit_code == 0


def test_convert_a_private_dump(tmp_path: Path) -> None:
    recipe = recipes.from_format("coco", "jpg/**.*", "labels.json")
    truth = sample_dump(recipe, tmp_path / "mine")
    patterns = ("--images", "jpg/**.*", "--annotations", "labels.json")
    words = (
        "convert",
        tmp_path / "mine",
        "--format",
        "coco",
        *patterns,
        "--name",
        "mine",
        "-o",
        tmp_path / "t",
    )
    manifest = data(*words, "--captions", "a2c", "--large-count", "exact", "--seed", 3, "--no-images")
    assert manifest["images"]["written"] == len(truth)
    about = manifest["rsdata"]
    assert (about["dataset"], about["captions"], about["large_count"], about["seed"]) == (
        "mine",
        "a2c",
        "exact",
        3,
    )
    assert {row["image_id"].split("/")[0] for row in rows_of(tmp_path / "t")} == {"mine"}
    assert data(*words, "--overwrite", "--annotations-only")["rsdata"]["hash_spec"] is None


def test_reader_options(tmp_path: Path) -> None:
    sample_dump("loveda", tmp_path / "dump")
    words = ("convert", tmp_path / "dump", "--recipe", "loveda", "--dry-run")
    every = data(*words)["objects"]
    some = data(*words, "--option", "min_area=200")
    assert some["objects"]["found"] == every["found"] == every["written"]
    assert 0 < some["objects"]["dropped"] == some["reasons"]["dropped"]["E12"]
    digests = [each["rsdata"]["datasets"]["loveda"]["recipe"] for each in (some, data(*words))]
    assert digests[0] != digests[1]


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    """As `recipes NAME > mine.toml` gives it: the same bytes but for the name."""
    (tmp_path / "mine.toml").write_text(done("recipes", "dior"))
    sample_dump("dior", tmp_path / "dump")
    manifest = data("convert", tmp_path / "dump", "--recipe", tmp_path / "mine.toml", "-o", tmp_path / "t")
    assert manifest["rsdata"]["dataset"] == "mine"
    assert manifest["rsdata"]["datasets"]["mine"]["recipe"] == recipes.load("dior").digest


def test_split(tmp_path: Path) -> None:
    sample_dump("ucm", tmp_path / "dump")
    words = ("convert", tmp_path / "dump", "--recipe", "ucm", "--dry-run")
    assert list(data(*words, "--split", "val", "--split", "test")["splits"]) == ["val", "test"]


def test_stats(damaged: Path, tmp_path: Path) -> None:
    done("convert", damaged, "--recipe", "dota", "-o", tmp_path / "t")
    report = data("stats", tmp_path / "t", tmp_path / "t")
    assert report["images"] == 2 * len(rows_of(tmp_path / "t"))
    assert report["account"]["holds"] is True
    text = done("stats", tmp_path / "t")
    assert "E35" in text
    assert max(map(len, text.splitlines())) <= 100


def test_formats() -> None:
    assert list(data("formats")) == formats.names()
    assert len(done("formats").splitlines()) == len(formats.names())
    for name in formats.names():
        held = data("formats", name)
        assert held["name"] == name
        assert [tuple(layout) for layout in held["layouts"]] == formats.load(name).LAYOUTS
        text = done("formats", name)
        assert text.startswith(f"{name}: ")
        assert all(f"Option {option}" in text for option in held["options"])
    assert data("formats", "masks")["options"] == {"min_area": 1, "tolerance": 8}


def test_recipes() -> None:
    assert list(data("recipes")) == recipes.names()
    assert len(done("recipes").splitlines()) == len(recipes.names())
    for name in recipes.names():
        text = done("recipes", name)
        assert text.encode() == recipes.path_of(name).read_bytes()
        held, raw = data("recipes", name), tomllib.loads(text)
        assert (held["title"], held["format"]) == (raw["title"], raw["format"])
        assert held["splits"] == list(raw["splits"])
        assert held["paper"] == raw.get("paper", {})
        assert (held["classes"] or {}).keys() == raw.get("classes", {}).keys()


@pytest.mark.parametrize("name", [*recipes.names(), *formats.names()])
def test_sample_then_convert_as_it_says(name: str, tmp_path: Path) -> None:
    words = ("--images", 3, "--size", "64x48", "--objects", 4, "--seed", 5)
    result = call("sample", name, tmp_path / "dump", *words)
    assert result.exit_code == 0
    listed = result.stdout.splitlines()
    assert listed == sorted(contents(tmp_path / "dump"))
    assert result.stderr.startswith(f"{len(listed)} files")
    hint = re.search(r"rsdata (convert .*) -o TABLE\n", result.stderr)
    if name in ("masks", "visdrone") and name not in recipes.names():
        assert hint is None
    else:
        assert hint is not None
        assert data(*hint[1].split(), "--dry-run")["images"]["rejected"] == 0


def test_caption(dump: Path, tmp_path: Path) -> None:
    done("convert", dump, "--recipe", "dota", "-o", tmp_path / "t", "--captions", "none")
    words = ("caption", tmp_path / "t", "-o", tmp_path / "u", "--captions", "a2c")
    number = len(rows_of(tmp_path / "t"))
    assert done(*words).startswith(f"{tmp_path / 'u'}: {number} images, ")
    assert {row["caption_source"] for row in rows_of(tmp_path / "u")} == {"a2c"}
    assert data(*words, "--overwrite", "--seed", 1) == tables.manifest(tmp_path / "u")
    assert data(*words[:-1], "none", "--overwrite")["captions"] == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("convert", "Missing argument 'SOURCE...'"),
        ("convert .", "name the table to write: -o FOLDER"),
        ("convert . -o t", "no recipe and no format fits it: name one (--recipe, --format"),
        ("convert . -o t --images a --annotations b", "--images and --annotations go with --format"),
        ("convert . -o t --recipe dota --format dota", "not both"),
        ("convert . -o t --recipe remoteclip --format dota", "a corpus goes without --format"),
        ("convert . . -o t --recipe remoteclip", "a corpus takes one SOURCE"),
        ("convert . -o t --recipe dota --tile big", "expected SIZE or SIZE:OVERLAP in pixels, or none"),
        ("convert . -o t --recipe dota --tile 64:64", "overlap = 64, expected 0 to 63 pixels"),
        ("convert . -o t --recipe dota --visible 0.5", "--visible goes with --tile"),
        ("convert . -o t --recipe dotta", "did you mean 'dota'?"),
        ("convert . -o t --recipe dota.toml", "no recipe 'dota.toml'"),
        ("convert . -o t --recipe broken.toml", "not valid TOML"),
        ("convert . -o t --format cocoa", "did you mean 'coco'?"),
        ("convert . -o t --format masks", "a recipe must say what they mean"),
        ("convert . -o t --format coco --images *.*", "give both patterns"),
        ("convert . -o t --format dota --images *.* --annotations x.txt", "same number"),
        ("convert . -o t --recipe dota --images *.* --annotations *.txt", "go with --format"),
        ("convert . -o t --recipe dota --captions remotclip", "did you mean 'remoteclip'?"),
        ("convert . -o t --recipe dota --large-count few", "'vague', 'exact', 'mixed'"),
        ("convert . -o t --recipe dota --split trian", "did you mean 'train'?"),
        ("convert . -o t --recipe loveda --option min_aera=3", "did you mean 'min_area'?"),
        ("convert . -o t --recipe loveda --option min_area", "expected KEY=VALUE"),
        ("convert . -o t --recipe dota --name a/b", "letters, digits, points, dashes"),
        ("convert . -o t --recipe dota --workers 0", "x>=1"),
        ("convert . -o t --recipe dota --seed one", "not a valid integer"),
        ("convert . -o t --recpie dota", "--recipe"),
        ("convert nowhere -o t --recipe dota", "'nowhere' does not exist"),
        ("convrt", "No such command 'convrt'"),
        ("stats", "Missing argument 'TABLE...'"),
        ("formats vocc", "did you mean 'voc'?"),
        ("recipes diorrr", "did you mean 'dior-r'?"),
        ("sample dota", "Missing argument 'DIR'"),
        ("sample dotaa s", "did you mean 'dota'?"),
        ("sample dota s --size 9x9", "32 to 8192"),
        ("sample dota s --size big", "WIDTHxHEIGHT"),
        ("sample dota s --images 0", "x>=1"),
        ("sample dota s --split tset", "no split 'tset'"),
        ("sample dota full", "not an empty folder"),
        ("caption t -o u --captions a2d", "did you mean 'a2c'?"),
        ("caption t", "Missing option '-o'"),
        ("export t -o u --to cocoa", "expected one of coco, yolo"),
    ],
)
def test_wrong_usage(words: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    (tmp_path / "broken.toml").write_text("format = \n")
    before = contents(tmp_path)
    result = call(*words.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.sub(r"\s+", " ", why) in re.sub(r"\s+", " ", result.stderr)
    assert result.stderr.startswith("Usage: ")
    assert contents(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"full", "broken.toml"}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("convert empty -o t --recipe dota", "no dump of dota: expected train/images/*.*"),
        ("convert set.zip -o t --recipe dota", "set.zip: cannot be read: File is not a zip file"),
        ("convert dump -o full --recipe dota", "not a table of ours"),
        ("convert dump -o full/mine.txt --recipe dota", "is a file"),
        ("convert dump empty -o t --recipe dota", "no dump of dota"),
        ("convert bad -o t --recipe dota", "no image could be used: 2 found, 2 rejected; the first: "),
        ("convert bad --dry-run --recipe dota", "no image could be used"),
        ("stats empty", "not a table"),
        ("stats nowhere", "not a table"),
        ("caption empty -o t", "not a table"),
        ("export empty -o t --to coco", "not a table"),
        ("validate empty", "not a table"),
        ("repair empty -o t", "no Parquet file"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_what_fails(
    words: str, why: str, as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    (tmp_path / "set.zip").write_bytes(b"PK")
    sample_dump("dota", tmp_path / "dump", images=1)
    sample_dump("dota", tmp_path / "bad", images=1)
    for path in (tmp_path / "bad").rglob("*.png"):
        path.write_bytes(b"no image")
    before = contents(tmp_path)
    result = call(*words.split(), *["--json"] * as_json)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert why in result.stderr
    assert contents(tmp_path) == before


def test_notes_go_to_stderr(tmp_path: Path) -> None:
    sample_dump("dota", tmp_path / "up/DOTA")
    result = call("convert", tmp_path / "up", "--recipe", "dota", "--dry-run", "--json")
    assert result.stderr == "the dump lies in DOTA/\n"
    assert json.loads(result.stdout)["images"]["written"] == 5


@pytest.fixture
def doubled(tmp_path: Path) -> Path:
    """A table in which each training image of a sample dump is there twice."""
    sample_dump("dota", tmp_path / "dump")
    images, labels = (tmp_path / "dump/train" / name for name in ("images", "labelTxt"))
    for path in [*images.iterdir(), *labels.iterdir()]:
        shutil.copy(path, path.with_stem(f"{path.stem}_again"))
    done("convert", tmp_path / "dump", "--recipe", "dota", "-o", tmp_path / "table")
    return tmp_path / "table"


def test_dedup(doubled: Path, tmp_path: Path) -> None:
    report = data("dedup", doubled, "--dry-run")["dedup"]
    assert report["duplicates"] == {"sha256": 4}
    assert not (tmp_path / "clean").exists()
    words = ("--report", tmp_path / "pairs.html", "--list", tmp_path / "gone.parquet")
    result = call("dedup", doubled, "-o", tmp_path / "clean", "--against", doubled, *words)
    assert result.exit_code == 0
    assert "duplicates: 4 of 9 images (4 by equal files; star, at most 4 bits)" in result.stdout
    assert "images: 9 found = 5 written + 4 duplicates + 0 leaks + 0 rejected" in result.stdout
    assert "benchmark dota: 1 images of val" in result.stderr
    assert done("validate", tmp_path / "clean", "--deep")
    assert (tmp_path / "pairs.html").read_text().count('<figure class="pair">') == 4
    again = data("dedup", doubled, "-o", tmp_path / "again", "--removed", tmp_path / "gone.parquet")
    assert again["images"] == tables.manifest(tmp_path / "clean")["images"]
    assert again["dedup"]["listed"]["removed"] == 4


def test_dedup_by_fingerprints(doubled: Path, tmp_path: Path) -> None:
    file = tmp_path / "fingerprints.parquet"
    assert data("fingerprint", doubled, "-o", file) == {"images": 9}
    assert data("dedup", file, "--dry-run", "--method", "paper")["dedup"]["duplicates"] == {"phash": 4}
    leaks = data("dedup", doubled, "--against", file, "--against-split", "train", "--dry-run")["dedup"][
        "leaks"
    ]
    assert leaks[0]["images"] == 8
    result = call("dedup", file, "-o", tmp_path / "x")
    assert result.exit_code == 1
    assert "has no images to write: use --dry-run" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ([], 2, "name the table to write"),
        (["--dry-run", "--memory", "much"], 2, "expected a size such as 500MB"),
        (["--dry-run", "--memory", "0"], 2, "expected a size such as 500MB"),
        (["--dry-run", "--distance", "99"], 2, "--distance"),
        (["--dry-run", "--method", "clip"], 2, "--method"),
        (["--dry-run", "--against", "nowhere"], 1, "nowhere: no such table or fingerprint file"),
        (["--dry-run", "--removed", "nowhere"], 1, "nowhere: no list of removed images"),
        (["--dry-run", "--against-split", "test"], 1, "no benchmark has a split 'test'"),
        (["--dry-run", "--report", "/dev/null/page.html"], 1, "/dev/null/page.html"),
    ],
)
def test_dedup_wrongly(doubled: Path, words: list[str], code: int, why: str) -> None:
    result = call("dedup", doubled, *words)
    assert result.exit_code == code
    assert why in result.stderr


@pytest.mark.parametrize("size", ["100000", "5k", "7 MB", "2GB"])
def test_dedup_in_little_memory(doubled: Path, size: str) -> None:
    assert data("dedup", doubled, "--dry-run", "--memory", size) == data("dedup", doubled, "--dry-run")


def test_version() -> None:
    assert rsdata.__version__ in done("--version")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_ends_with_an_example(command: str) -> None:
    for flag in ("-h", "--help"):
        text = done(*command.split(), flag)
        assert max(map(len, text.splitlines())) <= 110
        assert examples(command)


def examples(command: str) -> list[str]:
    """The lines under "Example:", the last part of the text above the options."""
    text = done(*command.split(), "--help")
    found = re.search(r"\n  Example:\n((?:    \S.*\n)+)\n(?:Options|Commands):", text)
    assert found, text
    return [line.strip() for line in found[1].splitlines()]


TAKE_TABLES = ("stats", "view", "show", "caption", "export", "validate", "repair", "dedup", "fingerprint")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_examples_run_as_they_stand(command: str, tmp_path: Path) -> None:
    """In a shell, in an empty folder; those that need a dump or a table find one where they look."""
    home = tmp_path / "home"
    shell: dict[str, Any] = {"cwd": tmp_path, "env": {**IN_A_SHELL, "HOME": str(home)}, "check": True}
    if command == "convert":
        sample_dump("dota", home / "data/DOTA")
        sample_dump("rsicd", home / "data/RSICD")
        sample_dump(recipes.from_format("coco", "jpg/**.*", "labels.json"), home / "mine")
    if command in TAKE_TABLES:
        for name in ("dota", "rsicd"):
            sample_dump(name, tmp_path / name)
            for path in [*(tmp_path / "dota").rglob("train_00000.*")]:
                path.rename(path.with_stem("P0001"))
            done("convert", tmp_path / name, "--recipe", name, "-o", tmp_path / "tables" / name)
    if command == "repair":
        (tmp_path / "tables/dota/data/train-00000-of-00001.parquet").rename(tmp_path / "edited.parquet")
    for line in examples(command):
        assert line.startswith("rsdata ")
        assert command in line
        run = subprocess.run(["bash", "-c", line], capture_output=True, text=True, **shell)
        assert run.stdout or ">" in line
    for written in {"convert": ["dota", "mine", "remoteclip"], "caption": ["dota-a2c"]}.get(command, []):
        assert rows_of(tmp_path / "tables" / written)


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupt(workers: int, tmp_path: Path) -> None:
    """Ctrl-C, which reaches every process of the terminal: exit 3, no table, and the same command goes on."""
    sample_dump("visdrone", tmp_path / "dump", splits=["train"], images=8)
    folder = tmp_path / "dump/VisDrone2019-DET-train"
    for path in list(folder.rglob("*.*")):
        for number in range(150):
            shutil.copyfile(path, path.with_stem(f"{path.stem}_{number}"))
    words = ["convert", str(tmp_path / "dump"), "--recipe", "visdrone", "-o", str(tmp_path / "t")]
    # A shell's background job, and so this test in one, is born with the signal ignored.
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    start += "; from rsdata.cli import run; run()"
    command = [sys.executable, "-c", start, *words, "--workers", str(workers), "--json"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    for _ in range(5):
        with subprocess.Popen(command, start_new_session=True, **pipes) as process:
            while process.poll() is None and not list(tmp_path.glob("t/.unfinished/data/*")):
                time.sleep(0.002)
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=60)
        if not (tmp_path / "t/manifest.json").exists():
            break
        shutil.rmtree(tmp_path / "t")  # on a busy machine the signal came too late
    assert process.returncode == 3
    assert out == ""
    assert err == "Interrupted: what is done is kept; the same command goes on\n"
    assert [path.name for path in (tmp_path / "t").iterdir()] == [".unfinished"]
    other = subprocess.run([*command, "--captions", "none"], check=False, **pipes)
    assert other.returncode == 1
    assert 'options.captions was "remoteclip", is "none"' in other.stderr
    again = subprocess.run(command, check=False, **pipes)
    assert again.returncode == 0
    assert json.loads(again.stdout)["images"]["written"] == 8 * 151


def test_a_pipe_that_closes(dump: Path, tmp_path: Path) -> None:
    """`rsdata … | head` ends without a traceback."""
    line = f"{sys.executable} -m rsdata convert {dump} --recipe dota --dry-run | true"
    run = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert "Traceback" not in run.stderr
    assert "Broken pipe" not in run.stderr


def test_help_imports_nothing_but_click() -> None:
    """So it takes no time, whatever else the machine does (0.3 s is a bar of the project)."""
    code = (
        "import sys\nbefore = set(sys.modules)\nfrom rsdata.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "top = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(top - set(sys.stdlib_module_names)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("['click', 'rsdata']\n")


LIGHT = """
import pkgutil, sys
from importlib import import_module
import rsdata
found = [module.name for module in pkgutil.walk_packages(rsdata.__path__, "rsdata.")]
names = [name for name in found if "__main__" not in name]
for name in names:
    import_module(name)
heavy = {"torch", "open_clip", "rsclip", "datasets", "pandas"}
heavy |= {"cv2", "nltk", "inflect", "rasterio", "shapely"}
print(len(names), sorted(heavy & set(sys.modules)))
"""


def test_no_module_imports_what_is_heavy() -> None:
    run = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    number, heavy = run.stdout.split(" ", 1)
    files = [path for path in Path(rsdata.__file__).parent.rglob("*.py") if path.name != "__main__.py"]
    assert int(number) == len(files) - 1  # the package itself
    assert heavy == "[]\n"


def test_a_conversion_imports_no_torch(dump: Path) -> None:
    words = ["convert", str(dump), "--recipe", "dota", "--dry-run", "--workers", "1"]
    code = (
        f"import sys\nfrom rsdata.cli import main\nmain({words!r}, standalone_mode=False)\n"
        "sys.exit(bool({'torch', 'open_clip', 'rsclip'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_validate_tells_what_is_wrong(dump: Path, tmp_path: Path) -> None:
    done("convert", dump, "--recipe", "dota", "-o", tmp_path / "t")
    assert done("validate", tmp_path / "t", "--deep").strip().endswith("whole")
    assert data("validate", tmp_path / "t") == {"problems": []}
    (tmp_path / "t/rejections.parquet").unlink()
    result = call("validate", tmp_path / "t")
    assert result.exit_code == 1
    assert "rejections.parquet: cannot be read" in result.stdout
    assert "1 problems" in result.stderr


@pytest.mark.parametrize("fails", [False, True])
def test_log_json_is_json_and_nothing_else(fails: bool, dump: Path, tmp_path: Path) -> None:
    """Also what is said of the recipe that was found, and why a run ends."""
    words = ["convert", str(dump), "-o", str(tmp_path / "t"), "--log-json", "--workers", "1"]
    if fails:
        (tmp_path / "t").mkdir()
        (tmp_path / "t/a").touch()
    ended = CliRunner().invoke(main, words)
    events = [json.loads(line) for line in ended.stderr.splitlines()]
    assert ended.exit_code == fails
    assert [event["event"] for event in events] == (
        ["note", "error"] if fails else ["note", "progress", "done"]
    )
    assert events[0]["message"].startswith("taken for recipe")
