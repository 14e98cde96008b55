"""Raw annotation grammars; the file name is the format's name and the folder is the registry.

A format is a module with

- `ONE_FILE`: "image" where each image has an annotation file of its own (paired by stars), "split" where
  one file holds many images and names them (and `NAMES_SPLITS = True` where it also names their splits),
  "none" where the folder says it all. `FRAMES = True`: the file describes a film, each Record's `image` is
  the number of a frame, which is the last star of the images.
- `NUMERIC = True` where a raw label is a number: no class has a noun then without a recipe.
- `LAYOUTS`: the (images, annotations) patterns tried for `--format NAME` without a recipe; `{split}` in them
  stands for the folder of a split. `BACKGROUND = True`: an image without a file holds no object.
  `ASIDE(path)`: whether a file among the annotations is none.
- `PLACES`: the array or tag whose `Record.place`-th element describes an image ("images"); "" where
  `Record.place` is its line.
- `prepare(root, pairs, options, classes)`: settles the options over a whole split, whose (annotation, image)
  pairs it is given, before any file is read.
- `read(root, path, classes, **options)`: the Records of the annotation file `path` of the dump `root`,
  and a Rejection for each part of it that does not parse. A per-image reader leaves `Record.image` empty.
  `classes[raw_label]` is the recipe's noun, "" for a class that it leaves out. The reader judges syntax
  only: geometry, duplicates and unknown classes are judged by `checks`, at one place for all formats.
  Parameters called `image`, `instances` and `window` are filled in by the flow, where a reader has them: the
  image's path, that of its instance mask, and the part of a mask that is wanted (x, y, width, height).
- `read_many(root, paths, classes, **options)`, if it is many times as fast: the Record of each file in which
  all is as it should be, None for others, which `read` reads.
- `write(path, records, **options)`: the inverse, which sample dumps and round-trip tests use. A format
  whose file is a raster has `write(path, mask, raw_labels, background)` and `ALIGNED = True`: its size
  must be the image's. `GEOREFERENCED = True`: sample images are GeoTIFFs. `accompany(folder, raw_labels)`
  writes what a dump has once, such as a list of names.

Names that start with an underscore are no formats.
"""

from __future__ import annotations

import difflib
import pkgutil
from functools import cache
from importlib import import_module
from types import ModuleType

from rsdata.errors import RecipeError


@cache
def names() -> list[str]:
    """All formats, by name."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name[0] != "_")


@cache
def load(name: str) -> ModuleType:
    """The module of a format. Raises RecipeError with the nearest name where there is none."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RecipeError(f"no format {name!r}{hint} (known: {', '.join(names())})")
    return import_module(f"{__name__}.{name}")
