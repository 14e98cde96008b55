"""Recipes: what a dataset is, as TOML, without conditions or code.

    title = "DOTA v1.0"
    homepage = "…"
    licence = "…"
    citation = "…"
    format = "dota"
    ignore = ["0"]                        # raw labels left out on purpose; first what sample masks lie on
    keep_unknown = true                   # a label that [classes] leaves out is its own noun
    folders = ["OPT2017"]                 # how publishers call the dump's folder, beside the recipe's name
    gsd = 0.3                             # metres per pixel, of all images
    counted = ["ship"]                    # the nouns that a counting benchmark asks for; without: all
    [origin]                              # which images of other datasets show the same: see leaks
    family = "dota"                       # datasets made of the same pictures
    scene = 'P\\d{4}'                     # the part of a file's name that names its scene; or:
    file = ".+"                           # the part that names the very picture
    [paper]                               # counts to report against
    images = 1409
    boxes = 98990
    of = "train split of v1.0"            # what was counted
    splits = ["train"]                    # the splits to compare with it; without: all
    [benchmark]                           # what it is scored on: see benchmarks in docs/recipes.md
    prompts = ["remoteclip", "rs5m"]      # of recipes/prompts, the first is the default
    train_share = 0.8                     # no published split: the first of each class train
    test_images = 2000                    # as its papers count them
    [image]                               # how images are read: see rasters.Rendering
    border = 100
    bands = [3, 2, 1]
    stretch = [2, 98]
    [tiles]                               # large images are cut: see tiles.Tiling
    size = 512
    overlap = 256
    visible = 0.5
    [options]                             # of the format's reader, for all splits
    [splits.train]
    images = "train/images/*.*"           # .* at the end: any image extension
    annotations = "train/labelTxt/*.txt"  # pairs by positional stars
    list = "ImageSets/Main/train.txt"     # optional: the names of the split, one a line
    names = ["2_10", "2_11"]              # optional: the same, in place
    background = "negative/*.*"           # optional: images without annotation that hold no object
    instances = "train/ids/*.png"         # optional: instance masks beside class masks
    videos = "videos/*/*/video.mov"       # optional: films, for formats whose file describes one
    [classes]                             # raw label = noun, or [noun, plural]; plural "" for a mass noun
    "small-vehicle" = "small vehicle"

Where mirrors differ, `images`, `annotations` and `list` are arrays of patterns; the first combination that
finds a pair is the layout; `[[splits.test]]` twice gives whole tables to be tried in turn. `[splits."*"]` is
for formats whose annotation file names the split of each image.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, get_type_hints

from rsdata import files, formats, places
from rsdata.classes import Classes
from rsdata.errors import RecipeError
from rsdata.rasters import Rendering
from rsdata.tiles import Tiling

T = TypeVar("T")
_TEXTS = ("title", "homepage", "licence", "citation")
_KEYS = (
    *_TEXTS,
    *("format", "ignore", "keep_unknown", "folders", "gsd", "counted", "origin"),
    *("paper", "benchmark", "image", "tiles", "options", "splits", "classes"),
)
_PAPER = ("images", "boxes", "classes", "of", "splits")
_BENCHMARK = {"prompts": list, "train_share": float, "test_images": int}
_LAYOUT = ("images", "annotations", "list", "names", "background", "instances", "videos")
_GIVEN = ("image", "instances", "window")
"""Parameters of a reader that the flow fills in, and no user."""
_SPLIT_WORDS = {
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
    "train": ("train", "training"),
}
"""What `{split}` stands for in a format's layouts; train is last, as it also takes what no split names."""


@dataclass(frozen=True)
class Layout:
    """Where one split lies: patterns relative to the dump, and the reader's options for it.

    annotations: "" for formats without annotation files. list: file of the split's image names, "" where
    there is none. names: those names themselves. background, instances, videos: "" where there are none.
    """

    images: str
    annotations: str
    list: str = ""
    names: Sequence[str] = ()
    background: str = ""
    instances: str = ""
    videos: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A dataset. nouns: raw label to noun, None for "as published"; irregular: noun to its plural."""

    name: str
    format: str
    splits: Mapping[str, Sequence[Layout]]
    nouns: Mapping[str, str] | None = None
    irregular: Mapping[str, str] = field(default_factory=dict)
    ignore: Sequence[str] = ()
    keep_unknown: bool = False
    folders: Sequence[str] = ()
    gsd: float | None = None
    rendering: Rendering = field(default_factory=Rendering)
    tiling: Tiling | None = None
    title: str = ""
    homepage: str = ""
    licence: str = ""
    citation: str = ""
    counted: Sequence[str] = ()
    origin: Mapping[str, str] = field(default_factory=dict)
    paper: Mapping[str, Any] = field(default_factory=dict)
    benchmark: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    @property
    def reader(self) -> ModuleType:
        """The module of the recipe's format."""
        return formats.load(self.format)

    def classes(self) -> Classes:
        """The mapping of raw labels that readers take."""
        return Classes(self.nouns, self.ignore, self.keep_unknown)

    def check_splits(self, wanted: Iterable[str]) -> None:
        """Raise RecipeError where the recipe has no split of some wanted name."""
        if "*" not in self.splits:
            for split in sorted(set(wanted) - set(self.splits)):
                near = difflib.get_close_matches(split, self.splits, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                known = f"{hint} (it has {', '.join(self.splits)})"
                raise RecipeError(f"recipe {self.name} has no split {split!r}{known}")


def names() -> list[str]:
    """All shipped recipes, by name."""
    return sorted(path.stem for path in places.recipes().glob("*.toml"))


def path_of(name: str) -> Path:
    """The file of a shipped recipe, or `name` itself where it is a TOML file.

    Raises RecipeError with the nearest name where there is none.
    """
    path = Path(name) if name.endswith(".toml") else places.recipes() / f"{name}.toml"
    if not path.is_file():
        near = difflib.get_close_matches(name, names(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RecipeError(f"no recipe {name!r}{hint} (see `rsdata recipes`, or give a .toml file)")
    return path


def load(name: str) -> Recipe:
    """A shipped recipe by name, or any by its file's path.

    Raises RecipeError: no such recipe (with the nearest name), not valid TOML, a key or an option that is
    not known, or a layout whose stars do not pair.
    """
    path = path_of(name)
    text = path.read_bytes()
    try:
        raw = tomllib.loads(text.decode("utf-8-sig").replace("\r\n", "\n"))
    except ValueError as error:
        raise RecipeError(f"recipe {path}: not valid TOML: {error}") from error
    return parse(path.stem, raw, hashlib.sha256(text).hexdigest())


def parse(name: str, raw: Mapping[str, Any], digest: str = "") -> Recipe:
    """A Recipe from parsed TOML. Raises RecipeError as `load`."""
    where = f"recipe {name}"
    _known(where, raw, _KEYS)
    for key in ("format", "splits"):
        if key not in raw:
            raise RecipeError(f"{where}: no {key}")
    texts = {key: _text(name, key, raw.get(key, "")) for key in _TEXTS}
    format_name = _text(name, "format", raw["format"])
    paper = raw.get("paper", {})
    _known(f"{where}, [paper]", paper, _PAPER)
    for key in ("splits", "classes", "options", "image", "tiles"):
        if not isinstance(raw.get(key, {}), Mapping):
            raise RecipeError(f"{where}: {key} is no table")
    if not raw["splits"]:
        raise RecipeError(f"{where}: no splits")
    if not all(raw["splits"].values()):
        raise RecipeError(f"{where}: a split without a layout")
    if not isinstance(raw.get("ignore", []), list):
        raise RecipeError(f"{where}: ignore is no array of labels")
    for split in _texts(f"{where}, [paper]", "splits", paper.get("splits", [])):
        if split not in raw["splits"] and "*" not in raw["splits"]:
            raise RecipeError(f"{where}, [paper]: splits names {split!r}, which the recipe has not")
    nouns, irregular = _classes(name, raw.get("classes", {}))
    counted = _texts(where, "counted", raw.get("counted", []))
    if strange := sorted({*counted} - {*nouns.values()}):
        raise RecipeError(f"{where}: counted names {strange[0]!r}, which is no noun of [classes]")
    shared = raw.get("options", {})
    splits = {
        split: [
            layout
            for table in (value if isinstance(value, list) else [value])
            for layout in _layouts(name, split, table, format_name, shared)
        ]
        for split, value in raw["splits"].items()
    }
    return Recipe(
        name,
        format_name,
        splits,
        nouns if "classes" in raw else None,
        irregular,
        [str(label) for label in raw.get("ignore", [])],
        _is(bool, where, "keep_unknown", raw.get("keep_unknown", False)),
        _texts(where, "folders", raw.get("folders", [])),
        _gsd(where, raw.get("gsd")),
        _made(Rendering, f"{where}, [image]", raw.get("image", {})),
        _made(Tiling, f"{where}, [tiles]", raw["tiles"]) if "tiles" in raw else None,
        counted=counted,
        origin=_origin(where, raw.get("origin", {})),
        paper=paper,
        benchmark=_benchmark(where, raw.get("benchmark", {}), nouns),
        digest=digest,
        **texts,
    )


def from_format(name: str, images: str | None = None, annotations: str | None = None) -> Recipe:
    """The recipe of a private dump in a known format: classes as published, split "train".

    Without patterns the format's usual layouts are tried. `{split}` in a pattern stands for the folder of a
    split (train, val or valid, test). Raises RecipeError as `load`.
    """
    reader = formats.load(name)
    if reader.ONE_FILE != "none" and bool(images) != bool(annotations):
        raise RecipeError("give both patterns, --images and --annotations, or neither")
    pairs = [(images, annotations or "")] if images else reader.LAYOUTS
    if getattr(reader, "NAMES_SPLITS", False):
        return Recipe(name, name, {"*": _of_split(name, pairs, "*", "*")})
    found = {split: _of_split(name, pairs, split, *words) for split, words in _SPLIT_WORDS.items()}
    return Recipe(name, name, {split: layouts for split, layouts in found.items() if layouts})


def _of_split(name: str, pairs: Sequence[tuple[str, str]], split: str, *words: str) -> list[Layout]:
    """The layouts of one split: patterns with `{split}`, and for the first split those without."""
    return [
        layout
        for images, annotations in pairs
        for word in words
        if "{split}" in images + annotations or (split in ("train", "*") and word == words[0])
        for layout in _layouts(
            name,
            split,
            {
                "images": images.replace("{split}", word),
                "annotations": annotations.replace("{split}", word) or [],
            },
            name,
            {},
        )
    ]


def adapted(
    recipe: Recipe,
    name: str | None,
    options: Mapping[str, Any],
    tiling: Tiling | str | None = "as it is",
    max_edge: int | None = None,
) -> Recipe:
    """`recipe` under another name, if one is given, with options, tiling and size that win over its own.

    Raises RecipeError for an option that the reader does not have.
    """
    where = f"recipe {recipe.name}"
    if name is not None and not re.fullmatch(r"[\w.-]+", name):
        raise RecipeError(f"{where}: a dataset's name is letters, digits, points, dashes: not {name!r}")
    _known(where, options, list(reader_options(recipe.reader)))
    _typed(where, options, recipe.reader)
    splits = {
        split: [replace(layout, options={**layout.options, **options}) for layout in layouts]
        for split, layouts in recipe.splits.items()
    }
    changes = json.dumps(options, sort_keys=True, default=str)
    digest = hashlib.sha256(f"{recipe.digest} {changes}".encode()).hexdigest() if options else recipe.digest
    cut = recipe.tiling if isinstance(tiling, str) else tiling
    drawn = recipe.rendering if max_edge is None else replace(recipe.rendering, max_edge=max_edge)
    name = name or recipe.name
    return replace(recipe, name=name, splits=splits, digest=digest, tiling=cut, rendering=drawn)


def reader_options(reader: ModuleType) -> dict[str, Any]:
    """The options of a format's reader with their defaults."""
    parameters = list(inspect.signature(reader.read).parameters.items())[3:]
    return {name: held.default for name, held in parameters if name not in _GIVEN}


def given(reader: ModuleType) -> frozenset[str]:
    """Which of image, instances and window a format's reader asks the flow for."""
    return frozenset(_GIVEN) & inspect.signature(reader.read).parameters.keys()


def _layouts(name: str, split: str, table: Any, format_name: str, shared: Mapping[str, Any]) -> list[Layout]:
    where = f"recipe {name}, split {split}"
    reader = formats.load(format_name)
    if split != "*" and not split.isidentifier():
        raise RecipeError(f"{where}: a split's name is letters, digits and underscores")
    valid = list(reader_options(reader))
    _known(where, table, (*_LAYOUT, *valid))
    _known(where, shared, valid)
    options = {**shared, **{key: item for key, item in table.items() if key not in _LAYOUT}}
    _typed(where, options, reader)
    images, annotations, lists, names, *others = (_texts(where, key, table.get(key, [])) for key in _LAYOUT)
    without = reader.ONE_FILE == "none"
    if not images or bool(annotations) == without:
        needed = "images is a pattern" if without else "images and annotations are patterns, and both are"
        raise RecipeError(f"{where}: {needed} needed{', without annotations' if without else ''}")
    if any(len(patterns) > 1 for patterns in others):
        raise RecipeError(f"{where}: {', '.join(_LAYOUT[4:])} are single patterns")
    background, instances, videos = (patterns[0] if patterns else "" for patterns in others)
    found = [
        Layout(left, right, listed, names, background, instances, videos, options)
        for listed, left, right in product(lists or [""], images, annotations or [""])
        if without or _pair(reader, left, right)
    ]
    if not found:
        raise RecipeError(
            f"{where}: images and annotations pair by stars, but have not the same number of them"
        )
    return found


def _pair(reader: ModuleType, images: str, annotations: str) -> bool:
    """Whether two patterns pair by their stars; those of frames have one more, the frame's number."""
    if reader.ONE_FILE == "split" and not getattr(reader, "FRAMES", False):
        return True
    return _stars(images) == _stars(annotations) + int(reader.ONE_FILE == "split")


def _stars(pattern: str) -> int:
    return len(files.star_choices(pattern))


def _texts(where: str, key: str, value: Any) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise RecipeError(f"{where}: {key} is a text or an array of texts")
    return values


def _is(kind: type[T], where: str, key: str, value: Any) -> T:
    if not isinstance(value, kind):
        raise RecipeError(f"{where}: {key} = {value!r}, expected {kind.__name__}")
    return value


def _gsd(where: str, value: Any) -> float | None:
    if value is not None and not (type(value) in (int, float) and 0 < value < math.inf):
        raise RecipeError(f"{where}: gsd = {value!r}, expected metres per pixel")
    return None if value is None else float(value)


def _origin(where: str, table: Any) -> Mapping[str, str]:
    """[origin]: a family, and what of a file's name tells the scene or the picture."""
    _known(f"{where}, [origin]", table, ("family", "scene", "file"))
    if table and ("family" not in table or ("scene" in table) == ("file" in table)):
        raise RecipeError(f"{where}, [origin]: expected a family, and either scene or file")
    for key, value in table.items():
        _is(str, f"{where}, [origin]", key, value)
        if key != "family":
            name_pattern(value)
    return dict(table)


def _benchmark(where: str, table: Any, nouns: Mapping[str, str]) -> Mapping[str, Any]:
    """[benchmark], and the classes of the recipe, so that a table knows which of them it lacks."""
    where = f"{where}, [benchmark]"
    _known(where, table, list(_BENCHMARK))
    for key, value in table.items():
        _is(_BENCHMARK[key], where, key, value)
        if isinstance(value, list):
            _texts(where, key, value)
    if not 0 < table.get("train_share", 0.5) < 1:
        raise RecipeError(f"{where}: train_share = {table['train_share']!r}, expected between 0 and 1")
    return {**table, "classes": list(dict.fromkeys(nouns.values()))} if table else {}


def name_pattern(text: str) -> re.Pattern[str]:
    """The pattern of an [origin], matched at the start of file names.

    Raises RecipeError where it is none, or might take for ever, as one from a stranger could be meant to: it
    has no groups and no alternatives, and at most two repetitions without an end.
    """
    try:
        found = re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise RecipeError(f"[origin]: {text!r} is no pattern: {error}") from error
    endless = sum(map(text.count, ("*", "+", ",")))
    if "(" in text or "|" in text or endless > 2 or len(text) > 100:
        raise RecipeError(f"[origin]: {text!r} is too much of a pattern: no groups, at most two of * and +")
    return found


def _made(kind: type[T], where: str, table: Mapping[str, Any]) -> T:
    """A Rendering or a Tiling from its table."""
    _known(where, table, [field.name for field in fields(kind)])  # type: ignore[arg-type]
    try:
        return kind(**table)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{where}: {error}") from error


def _known(where: str, table: Any, valid: Sequence[str]) -> None:
    if not isinstance(table, Mapping):
        raise RecipeError(f"{where}: expected a table")
    for key in table:
        if key not in valid:
            near = difflib.get_close_matches(key, valid, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(valid)}"
            raise RecipeError(f"{where}: {key!r} is not known; {hint}")


def _typed(where: str, options: Mapping[str, Any], reader: ModuleType) -> None:
    types = get_type_hints(reader.read)
    for key, value in options.items():
        if not isinstance(value, types[key]):
            expected = getattr(types[key], "__name__", str(types[key]))
            raise RecipeError(f"{where}: {key} = {value!r}, expected {expected}")


def _text(name: str, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RecipeError(f"recipe {name}: {key} is no text")
    return value


def _classes(name: str, table: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    nouns: dict[str, str] = {}
    irregular: dict[str, str] = {}
    for raw, value in table.items():
        words = [value] if isinstance(value, str) else value
        right = isinstance(words, list) and len(words) in (1, 2)
        if not right or not all(isinstance(word, str) for word in words) or not words[0].strip():
            raise RecipeError(f"recipe {name}, class {raw!r}: expected a noun or [noun, plural]")
        nouns[raw] = words[0]
        if len(words) == 2:
            irregular[words[0]] = words[1]
    return nouns, irregular
