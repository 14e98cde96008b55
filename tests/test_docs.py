from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


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
    from rsdata import convert, recipes, samples
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
