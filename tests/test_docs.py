from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rsdata import formats, recipes

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_every_failure_code_is_explained_and_no_other():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "rsdata").rglob("*.py")]
    emitted = {code for source in sources for code in re.findall(r'"(E\d\d)"', source)}
    explained = re.findall(r"^\| (E\d\d) \|", (ROOT / "docs/failures.md").read_text(encoding="utf-8"), re.M)
    assert sorted(explained) == sorted(emitted)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_recipe_of_the_page_converts(tmp_path):
    from rsdata import convert, samples
    from rsdata.shard import Options

    page = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(re.findall(r"```toml\n(.*?)```", page, re.S)[0], encoding="utf-8")
    recipe = recipes.load(str(tmp_path / "mine.toml"))
    samples.write(recipe, tmp_path / "dump", images=4, size=(64, 64))
    outcome = convert.convert([tmp_path / "dump"], tmp_path / "table", recipe, Options())
    assert {split: held["rows"] for split, held in outcome.manifest["splits"].items()} == {
        "train": 4,
        "val": 1,
    }
    assert outcome.rejections == []


def test_rendered_pages_are_those_of_the_code():
    spec = importlib.util.spec_from_file_location("render", ROOT / "docs/render.py")
    render = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render)
    pages = render.pages()
    assert set((ROOT / "docs/formats").glob("*.md")) == pages.keys() - {ROOT / "docs/datasets.md"}
    stale = [path.name for path, text in pages.items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run python docs/render.py"


def test_add_a_dataset_word_for_word(tmp_path):
    page = (ROOT / "docs/add-a-dataset.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```toml\n(.*?)```", page, re.S)
    (tmp_path / "harbours.toml").write_text(textwrap.dedent("   " + recipe.lstrip()), encoding="utf-8")
    commands = [
        line.strip() for block in re.findall(r"```sh\n(.*?)```", page, re.S) for line in block.splitlines()
    ]
    commands = [line for line in commands if line]
    assert len(commands) == 6
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for line in commands:
        done = subprocess.run(line.split(), cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stderr)
    held = json.loads((tmp_path / "tables/try/manifest.json").read_text(encoding="utf-8"))
    assert {split: each["rows"] for split, each in held["splits"].items()} == {"train": 12, "val": 2}
    assert set(held["datasets"]["harbours"]["classes"]) == {"ship", "fishing boat", "oil tank", "aircraft"}


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
