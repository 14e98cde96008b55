"""Raw annotation grammars; the file name is the format's name and the folder is the registry.

A format is a module with

- `ONE_FILE`: "image" where each image has an annotation file of its own (paired by stars), "split" where
  one file holds many images and names them (and `NAMES_SPLITS = True` where it also names their splits).
- `NUMERIC = True` where a raw label is a number: no class has a noun then without a recipe.
- `LAYOUTS`: the (images, annotations) patterns tried for `--format NAME` without a recipe.
- `read(root, path, classes, **options)`: the Records of the annotation file `path` of the dump `root`,
  and a Rejection for each part of it that does not parse. A per-image reader leaves `Record.image` empty.
  `classes[raw_label]` is the recipe's noun, "" for a class that it leaves out. The reader judges syntax
  only: geometry, duplicates and unknown classes are judged by `checks`, at one place for all formats.
- `write(path, records, **options)`: the inverse, which sample dumps and round-trip tests use. A format
  whose file is a raster has `write(path, mask, raw_labels, background)` and `ALIGNED = True`: its size
  must be the image's.

Names that start with an underscore are no formats.
"""

from __future__ import annotations

import difflib
import pkgutil
from importlib import import_module
from types import ModuleType

from rsdata.errors import RecipeError


def names() -> list[str]:
    """All formats, by name."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name[0] != "_")


def load(name: str) -> ModuleType:
    """The module of a format. Raises RecipeError with the nearest name where there is none."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RecipeError(f"no format {name!r}{hint} (known: {', '.join(names())})")
    return import_module(f"{__name__}.{name}")
