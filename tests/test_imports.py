"""The import rule of the design: downwards only, in whole modules and inside functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import rsdata

TIERS = [
    ["rsdata"],
    ["errors"],
    ["records", "places", "engine", "progress", "grid"],
    [
        "arguments",
        "files",
        "classes",
        "words",
        "columns",
        "mask_to_box",
        "hashing",
        "hamming",
        "rasters",
        "page",
        "charts",
        "paper",
        "tiles",
        "tally",
        "spellings",
    ],
    [
        "formats",
        "templates",
        "journal",
        "checks",
        "tables",
        "pictures",
        "statements",
        "duplicates",
        "removals",
        "texts",
        "flags",
    ],
    ["recipes", "box_to_caption", "split_leaks", "scenes", "fingerprints", "cards"],
    [
        "plan",
        "samples",
        "selection",
        "hard_negatives",
        "export",
        "validate",
        "repair",
        "leaks",
        "gallery",
        "view",
        "show",
        "replay",
        "stats",
    ],
    ["shard", "detect", "dedup", "caption", "compare"],
    ["convert", "clean"],
    ["corpora", "doctor"],
    ["report"],
    ["cli"],
    ["__main__"],
]
"""Lowest first. A module may import from lower tiers only; one of `formats` or `templates` also what its own
folder keeps for all of them under a name with an underscore."""

FORBIDDEN = ("torch", "open_clip", "rsclip")

ROOT = Path(rsdata.__file__).parent
TIER = {name: number for number, names in enumerate(TIERS) for name in names}
MODULES = {
    ".".join(("rsdata", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imported(module: str, source: str) -> Iterator[tuple[int, str]]:
    """(line, name) of each import; names of this package as far as they are modules of it."""
    package = module if MODULES.get(module, Path()).name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield node.lineno, full if full in MODULES else base


def tier(module: str) -> int:
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else parts[0]
    if name not in TIER:
        pytest.fail(f"{module} is in no tier: add it to TIERS in {Path(__file__).name}, and to the design")
    return TIER[name]


def violations(module: str, source: str) -> list[str]:
    found = []
    own = module.rpartition(".")[0]
    for line, name in imported(module, source):
        if name.split(".")[0] in FORBIDDEN:
            found.append(f"{module}:{line} imports {name}")
        elif name.split(".")[0] == "rsdata":
            private = name == own or name.startswith(f"{own}._")
            if not (tier(name) < tier(module) or (own.count(".") == 1 and private)):
                found.append(f"{module}:{line} imports {name}, which is not below it")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    assert violations(module, MODULES[module].read_text(encoding="utf-8")) == []


def test_every_tier_is_of_modules_that_exist() -> None:
    there = {module.split(".")[1] if "." in module else module for module in MODULES}
    assert there == TIER.keys()


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("rsdata.records", "from rsdata.errors import RsdataError", 0),
        ("rsdata.records", "from rsdata.files import fold", 1),
        ("rsdata.records", "def f():\n    import rsdata.tables", 1),
        ("rsdata.tables", "from rsdata import files, errors", 0),
        ("rsdata.tables", "from rsdata import files, convert", 1),
        ("rsdata.tables", "from . import files, convert", 1),
        ("rsdata.formats.coco", "from rsdata.formats._fields import text", 0),
        ("rsdata.formats.coco", "from ._fields import text\nfrom .. import files", 0),
        ("rsdata.formats.coco", "from rsdata.formats import voc", 1),
        ("rsdata.formats.coco", "from rsdata.formats.voc import read", 1),
        ("rsdata.formats.coco", "from rsdata.templates._grammar import count", 1),
        ("rsdata.formats.coco", "from ..plan import Plan", 1),
        ("rsdata.cli", "if x:\n    import torch.nn", 1),
        ("rsdata.cli", "from rsclip.data import load", 1),
        ("rsdata.cli", "import rsdata, json\nfrom rsdata.convert import convert", 0),
    ],
)
def test_the_rule_itself(module: str, source: str, wrong: int) -> None:
    assert len(violations(module, source)) == wrong
