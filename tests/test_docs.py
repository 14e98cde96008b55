"""The pages are true: links lead somewhere, blocks of code run, what they print is what a page shows."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
import shell
from stores import remove, upload

from rsdata import box_to_caption, corpora, formats, recipes, statements
from rsdata.words import Words

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FROM_CODE = {*(DOCS / "formats").glob("*.md"), DOCS / "datasets.md", *DOCS.glob("cli-*.md")}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
NOT_RUN = 12
"""Blocks that may be left out, each with its reason: what needs the network, a cluster, several GPUs."""

DUMPS = """
small="--images 8 --size 96x96 --objects 6"
sample() { rsdata sample "$@" > sampled.txt; }
sample dota data/DOTA $small --split train; sample remotecount count --images 24 --size 96x96 --objects 8
mv count/val data/DOTA
sample dior data/DIOR --images 16 --size 96x96 --objects 2; sample rsicd data/RSICD --images 24 --size 64x64
sample rsitmd data/RSITMD --images 12 --size 64x64
sample eurosat data/EuroSAT --images 40 --size 64x64
sample potsdam data/Potsdam --images 2 --size 64x64; sample coco mine $small
sample hrrsd data/HRRSD $small; sample loveda masks $small
echo junk >> data/HRRSD/Annotations/test_00000.xml
sed -i '0,/<xmax>[0-9]*</s//<xmax>9119</' data/HRRSD/Annotations/train_00002.xml
cat > oriented.toml <<END
format = "dota"
[splits.train]
images = "scenes/*/*.*"
annotations = "labels/*/*.txt"
END
sample oriented.toml oriented $small
(cd data/RSICD && python -m zipfile -c ../RSICD.zip *)
"""
"""What lies in the home of every page."""
TABLES = """
for name in DOTA DIOR RSICD EuroSAT; do
    rsdata convert ~/data/$name --recipe ${name,,} -o made/tables/${name,,} > made.txt
done
rsdata convert ~/data/DOTA --recipe remotecount --captions remotecount -o made/tables/remotecount > made.txt
rsdata convert ~/mine --format coco -o made/tables/mine > made.txt
tables="made/tables/dota made/tables/rsicd"
rsclip train $tables -o made/runs/first --model rsclip-tiny --steps 2 --batch-size 8
"""
FOUND = {
    "README.md": ["tables/rsicd"],
    "captions.md": ["tables/dior"],
    "dedup.md": ["tables/dota", "tables/rsicd", "tables/mine"],
    "evaluation.md": ["tables/dior", "tables/rsicd", "runs/first"],
    "how-to.md": ["tables/rsicd", "tables/eurosat"],
    "training.md": ["tables/rsicd"],
}
"""What of the tables and runs of TABLES a page starts with, beside what it makes itself."""
FIRST = {
    "how-to.md": "cp tables/rsicd/data/train-*.parquet edited.parquet",
    "training.md": "cp -r tables/rsicd tables/clean",
}
"""What is done first for a page alone."""


@functools.cache
def render():
    """The module docs/render.py."""
    spec = importlib.util.spec_from_file_location("render", DOCS / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Block(NamedTuple):
    """A fenced block. line: of the opening fence, from 1. marker: the comment on the line before it."""

    language: str
    line: int
    lines: list[str]
    marker: str


def blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").split("\n")
    start = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            assert not re.match(r" +```", line), f"{page.name}:{number + 1}: an indented fence"
        elif start is None:
            start = number
        else:
            comment = re.fullmatch(r"<!-- (.*) -->", lines[start - 1])
            yield Block(lines[start][3:], start + 1, lines[start + 1 : number], comment[1] if comment else "")
            start = None
    assert start is None, f"{page.name}: a fence that is not closed"


def script_of(page: Path) -> str:
    """The page as a script: every line of code has the number that it has on the page."""
    lines = [""] * (len(page.read_text(encoding="utf-8").split("\n")) + 1)
    lines[0] = f"trap 'echo \"{page.name}: line $LINENO failed\"' ERR"
    for language, line, code, marker in blocks(page):
        if marker.startswith("not run") or language in ("", "text") or (language == "toml" and not marker):
            continue
        lines[line : line + len(code)] = code
        if language in ("python", "toml"):
            name = marker.removeprefix("file: ")
            begin = "python -" if language == "python" else f"cat > {shlex.quote(name)}"
            lines[line - 1] = f"{begin} <<'END_OF_BLOCK'"
            lines[line + len(code)] = "END_OF_BLOCK"
    return "\n".join(lines)


def missing_lines(wanted: list[str], output: str) -> list[str]:
    """Lines of a ```text block that the output lacks, in their order; "…" is anything."""
    left = [" ".join(line.split()) for line in output.splitlines()]
    for number, line in enumerate(wanted):
        pattern = re.escape(" ".join(line.split())).replace("…", ".*")
        hits = (place for place, text in enumerate(left) if re.fullmatch(pattern, text))
        if line != "…" and (place := next(hits, None)) is None:
            return wanted[number:]
        left = left if line == "…" else left[place + 1 :]
    return []


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with dumps, and in `made` the tables and a run that pages start with."""
    home = tmp_path_factory.mktemp("home")
    done = shell.run(DUMPS + TABLES, home, home)
    assert done.returncode == 0, done.stdout
    return home


WITH_CODE = [page for page in PAGES if page not in FROM_CODE and any(each.language for each in blocks(page))]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_page_runs_as_it_stands(page, home, tmp_path, request):
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("data", "mine", "oriented", "masks"):
        shutil.copytree(home / name, tmp_path / name)
    for name in FOUND.get(page.name, []):
        shutil.copytree(home / "made" / name, folder / name)
    script = f"{FIRST.get(page.name, 'true')}; {script_of(page)}"
    environment = {}
    if "s3://" in script:
        environment["AWS_ENDPOINT_URL"] = request.getfixturevalue("server")
        remove("s3://corpus/tables")  # of other tests, which share the server
        upload(home / "data/DOTA", "s3://corpus/DOTA")
    done = shell.run(script, tmp_path, folder, **environment)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:]
    shown = [each for each in blocks(page) if each.language == "text" and not each.marker]
    assert [lacking for each in shown if (lacking := missing_lines(each.lines, done.stdout))] == []


def test_blocks_that_are_not_run_say_why_and_are_few():
    left_out = []
    for page in PAGES:
        for block in blocks(page):
            where = f"{page.name}:{block.line}"
            assert block.language in ("sh", "python", "toml", "text", ""), where
            if block.marker.startswith("not run"):
                assert re.fullmatch(r"not run: \w.{10,}", block.marker), where
                left_out.append(where)
            if not block.language and page not in FROM_CODE:
                commands = [
                    line for line in block.lines if re.match(r"\s*(\$ )?(rs\w+|pip|make|python) ", line)
                ]
                assert commands == [], where
    assert len(left_out) <= NOT_RUN, left_out


def test_fragments_of_recipes_load(tmp_path):
    """A ```toml block that is no file of its page is a part of a recipe."""
    path = tmp_path / "whole.toml"
    parts = 0
    for page in WITH_CODE:
        for block in blocks(page):
            if block.language == "toml" and not block.marker:
                whole = ['format = "dota"', *block.lines, "[splits.train]", 'images = "a/*.*"']
                path.write_text("\n".join([*whole, 'annotations = "b/*.txt"']), encoding="utf-8")
                assert recipes.load(str(path)).splits
                parts += 1
    assert parts


def test_captions_that_are_shown_are_captions():
    """The sentences of captions.md without a language parse back, of those nouns that they name."""
    page = DOCS / "captions.md"
    nouns = (
        "airport,large vehicle,soccer ball field,ship,harbor,plane,car,building,storage tank,low vegetation"
    )
    shown = [line for each in blocks(page) if not each.language for line in each.lines]
    assert len(shown) >= 12
    for line in shown:
        counts, _ = statements.parts(line)
        assert box_to_caption.parse(counts, Words({}), nouns.split(",")), line


def test_every_dataset_of_the_corpus_is_on_the_page_that_reproduces_it():
    page = (DOCS / "reproduce-remoteclip.md").read_text(encoding="utf-8")
    for recipe in corpora.load("remoteclip").datasets:
        row = re.search(rf"^\| `{recipe.name}` \| .*$", page, re.M)
        assert row, recipe.name
        assert f"]({recipe.homepage})" in row[0]
        assert f"| {recipe.paper['images']:,} |" in row[0]


def test_every_failure_code_is_explained_and_no_other():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "rsdata").rglob("*.py")]
    emitted = {code for source in sources for code in re.findall(r'"(E\d\d)"', source)}
    explained = re.findall(r"^\| (E\d\d) \|", (DOCS / "failures.md").read_text(encoding="utf-8"), re.M)
    assert sorted(explained) == sorted(emitted)


def test_tests_that_the_threat_model_names_are_there():
    page = (DOCS / "security.md").read_text(encoding="utf-8").partition("## What is done")[2]
    named = [
        cell
        for row in re.findall(r"^\|.*\| (.*`.*) \|$", page, re.M)
        for cell in re.findall(r"`([^`]+)`", row)
    ]
    assert len(named) >= 25
    files = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    for each in named:
        file, _, test = each.removeprefix("formats/").partition("::") if ".py" in each else ("", "", each)
        assert f"def {test}(" in files[file or "test_hostile.py"] if test else file in files, each


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_rendered_pages_are_those_of_the_code():
    pages = render().pages()
    assert pages.keys() == FROM_CODE
    stale = [path.name for path, text in pages.items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run python docs/render.py"


def test_recipes_and_readers_are_short():
    """The bars of the design: a median recipe of 20 lines without its classes, a median reader of 60."""
    lengths = []
    for name in recipes.names():
        head = recipes.path_of(name).read_text(encoding="utf-8").split("\n[classes]")[0]
        lengths.append(sum(bool(line.strip()) for line in head.splitlines()))
    assert statistics.median(lengths) <= 20
    lengths = []
    for name in formats.names():
        tree = ast.parse(Path(formats.load(name).__file__).read_text(encoding="utf-8"))
        tree.body = [node for node in tree.body if getattr(node, "name", "") not in ("write", "accompany")]
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.FunctionDef)) and ast.get_docstring(node):
                node.body = node.body[1:] or [ast.Pass()]
        lengths.append(len(ast.unparse(tree).splitlines()))
    assert statistics.median(lengths) <= 60


def test_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    """Every page is in it, is rendered whole, and takes scripts, styles and pictures from the site itself."""
    pytest.importorskip("zensical")
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    words = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "build/site"
    for page in DOCS.rglob("*.md"):
        name = page.relative_to(DOCS).as_posix().replace("README.md", "index.md").removesuffix(".md")
        html = (site / f"{name}.html").read_text(encoding="utf-8")
        text = re.sub(r"<(pre|code|script|style)\b.*?</\1>", "", html, flags=re.S)
        assert re.findall(r"```|\*\*|^\s*\| .*", text, re.M) == [], f"{name}: Markdown that was not rendered"
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?([^\s\">]+)", html)
        loaded += re.findall(r"<link\b[^>]*\bhref=\"?([^\s\">]+)", html)
        assert [each for each in loaded if re.match(r"\w+:|//", each)] == []


def test_every_page_is_in_the_navigation_and_in_the_index():
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    site = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    assert set(re.findall(r'"([\w/-]+\.md)"', site)) == pages
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"\]\(([^)#]+)\)", index))
    assert {page for page in pages if "/" not in page} - {"README.md"} == listed


def test_every_command_and_option_says_what_it_does():
    for name, group in render().PROGRAMS.items():
        for words, command in render().commands(name, group):
            options = [each for each in command.params if isinstance(each, click.Option)]
            assert command.help, words
            assert [each.name for each in options if not each.help] == [], words
            assert isinstance(command, click.Group) or "\nExample:\n" in inspect.cleandoc(command.help), words


COMPLETED = {
    "conv": "convert",
    "convert --rec": "--recipe",
    "convert --recipe visd": "visdrone",
    "convert --recipe remotecl": "remoteclip remoteclip-csv",
    "convert dump --format geo": "geojson",
    "convert dump --captions a2": "a2c",
    "recipes dota": "dota",
    "formats panop": "panoptic",
    "sample auai": "auair",
    "dedup --method pa": "paper",
}


def test_bash_completes_commands_options_and_names(tmp_path):
    """By the completion that how-to.md installs, as bash calls it."""
    lines = ['eval "$(_RSDATA_COMPLETE=bash_source rsdata)"']
    for begun in COMPLETED:
        lines += [f"COMPREPLY=() COMP_WORDS=(rsdata {begun}) COMP_CWORD={len(begun.split())}"]
        lines += ["_rsdata_completion rsdata", 'echo "${COMPREPLY[*]}"']
    done = shell.run("\n".join(lines), tmp_path, tmp_path)
    assert done.stdout.split("\n")[:-1] == list(COMPLETED.values())


def test_examples_of_rsclip_run(home, tmp_path):
    """Those of cli-rsclip.md, but `train`, which needs the weights of OpenAI; those of rsdata have others."""
    shown = [each.lines for each in blocks(DOCS / "cli-rsclip.md") if each.language == "sh"]
    examples = [line for lines in shown for line in lines if not line.startswith("rsclip train")]
    assert len(examples) == 12  # one a command
    script = """
    mkdir runs; cp -r made/runs/first runs/one; cp -r made/runs/first runs/two
    cp -r made/tables/rsicd rsitmd; cp -r made/tables .
    rsdata sample eurosat scenes --images 250 --size 32x32; rsdata convert scenes --recipe eurosat -o eurosat
    rsdata sample dior airport --images 1 --size 640x640 --split test
    cp airport/JPEGImages-test/*.png airport.jpg
    rsclip train tables/dota -o runs/dior --model local-dir:runs/one --steps 1 --batch-size 8
    """
    shutil.copytree(home / "made", tmp_path / "made")
    done = shell.run("\n".join([script, *examples]), tmp_path, tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    assert {"airplanes.png", "airports.png", "scores"} <= {path.name for path in tmp_path.iterdir()}
