"""Which images of a dump a recipe names, each with its split and its annotation."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from rsdata import files
from rsdata.errors import AnnotationError, RecipeError
from rsdata.files import Dump, fold
from rsdata.recipes import Layout, Recipe
from rsdata.records import Record, Rejection


class Unit(NamedTuple):
    """One image to convert. name: unique within dataset and split. record: set where it has been read."""

    split: str
    name: str
    image: str
    annotation: str
    layout: Layout
    record: Record | None = None


class Plan:
    """The units of a dump, in a deterministic order, and what is rejected before any image is opened.

    Iterate it once: it yields Units and Rejections, and each image that the dump holds or names comes out
    as exactly one Unit or one Rejection of action "rejected".
    """

    def __init__(
        self, recipe: Recipe, dump: Dump, splits: Collection[str] = (), annotations_only: bool = False
    ) -> None:
        """Raises RecipeError where nothing of the recipe is found, or a split is not in it."""
        self.recipe, self.dump, self.annotations_only = recipe, dump, annotations_only
        self.wanted = frozenset(splits)
        if "*" not in recipe.splits and (unknown := self.wanted - set(recipe.splits)):
            raise RecipeError(
                f"recipe {recipe.name} has no split {sorted(unknown)[0]!r}; it has {', '.join(recipe.splits)}"
            )
        self.prefix = _prefix(recipe, dump)
        self.notes: list[str] = []
        if self.prefix:
            self.notes.append(f"the dump lies in {self.prefix}")
        self._claimed: set[str] = set()
        self._options = getattr(recipe.reader, "prepare", None)
        self._layouts = {split: self._choose(split) for split in recipe.splits}

    def __iter__(self) -> Iterator[Unit | Rejection]:
        yield from self.dump.refused
        per_image = self.recipe.reader.ONE_FILE == "image"
        for split, layout in self._layouts.items():
            if layout is not None and self._takes(split):
                yield from (self._pairs if per_image else self._documents)(split, layout)
        if not self.annotations_only:
            yield from self._unlabelled()
        if per_image:
            yield from self._without_image()

    def unclaimed(self) -> list[str]:
        """Image files of the dump that no split of the recipe matches, neither images nor annotations."""
        matched = set(self._claimed)
        for layouts in self.recipe.splits.values():
            for layout in layouts:
                for pattern in (layout.images, layout.annotations):
                    matched.update(match.path for match in self.dump.match(pattern, self.prefix))
        return [
            path for path in self.dump.paths if path not in matched and path.lower().endswith(files.IMAGE_SUFFIXES)
        ]

    def _takes(self, split: str) -> bool:
        return not self.wanted or split == "*" or split in self.wanted

    def _choose(self, split: str) -> Layout | None:
        """The first layout in which an image and an annotation pair, else one that has either, else None."""
        best: tuple[int, Layout] | None = None
        for layout in self.recipe.splits[split]:
            if layout.list and self.dump.find(self.prefix + layout.list) != self.prefix + layout.list:
                continue
            annotations = {_key(match.stars) for match in self.dump.match(layout.annotations, self.prefix)}
            images = {_key(match.stars) for match in self.dump.match(layout.images, self.prefix)}
            paired = bool(annotations & images) if self.recipe.reader.ONE_FILE == "image" else bool(annotations)
            rank = 0 if paired else 1 if annotations else 2 if images else 3
            if rank < 3 and (best is None or rank < best[0]):
                best = (rank, layout)
        if best is None:
            return None
        if self._options is None:
            return best[1]
        paths = [match.path for match in self.dump.match(best[1].annotations, self.prefix)]
        options = self._options(self.dump.root, paths, best[1].options)
        for key, value in options.items():
            if best[1].options.get(key) != value:
                self.notes.append(f"split {split}: {key} = {value}, as the files say")
        return Layout(best[1].images, best[1].annotations, best[1].list, best[1].names, options)

    def _pairs(self, split: str, layout: Layout) -> Iterator[Unit | Rejection]:
        annotations = {_key(match.stars): match.path for match in self.dump.match(layout.annotations, self.prefix)}
        listed = self._listed(layout)
        taken: dict[tuple[str, ...], str] = {}
        found = set()
        for match in self.dump.match(layout.images, self.prefix):
            key = _key(match.stars)
            if match.path in self._claimed or (listed is not None and key[-1] not in listed):
                continue
            found.add(key[-1])
            annotation = annotations.get(key)
            if annotation is None or annotation == match.path:
                continue
            self._claimed.add(match.path)
            if key in taken:
                why = f"{match.path} and {taken[key]} are two images for one annotation"
                yield Rejection("rejected", "E26", annotation, 0, match.path, why)
                continue
            taken[key] = match.path
            self._claimed.add(annotation)
            yield Unit(split, "/".join(match.stars), match.path, annotation, layout)
        for name in sorted((listed or {}).keys() - found - {key[-1] for key in annotations}):
            original, line = (listed or {})[name]
            why = f"{original} is listed, but there is neither image nor annotation"
            yield Rejection("rejected", "E07", layout.list and self.prefix + layout.list, line, original, why)

    def _listed(self, layout: Layout) -> dict[str, tuple[str, int]] | None:
        """The folded names of a split with the name as written and its line; None where all belong."""
        if layout.names:
            return {fold(name): (name, 0) for name in layout.names}
        if not layout.list:
            return None
        text, _ = files.read_text(self.dump.root, self.prefix + layout.list)
        listed = {}
        for number, line in enumerate(text.split("\n"), 1):
            name = re.sub(r"\s+-?[01]$", "", line.strip()).replace("\\", "/").rsplit("/", 1)[-1]
            if name.lower().endswith(files.IMAGE_SUFFIXES):
                name = name.rsplit(".", 1)[0]
            if name:
                listed.setdefault(fold(name), (name, number))
        return listed

    def _documents(self, split: str, layout: Layout) -> Iterator[Unit | Rejection]:
        folder = self.prefix + re.split(r"[*{]", layout.images)[0].rsplit("/", 1)[0].rstrip("/")
        folders = (folder + "/" if folder and not folder.endswith("/") else folder, self.prefix)
        documents = [match.path for match in self.dump.match(layout.annotations, self.prefix)]
        for document in documents:
            self._claimed.add(document)
            try:
                for item in self.recipe.reader.read(
                    self.dump.root, document, self.recipe.classes(), **layout.options
                ):
                    yield from self._named(item, split, layout, document, folders)
            except AnnotationError as error:
                yield Rejection("dropped", error.code, error.path, error.line, "", error.why)

    def _named(
        self, item: Record | Rejection, split: str, layout: Layout, document: str, folders: Sequence[str]
    ) -> Iterator[Unit | Rejection]:
        if isinstance(item, Rejection):
            if item.action == "rejected" and (path := self.dump.find(item.image, folders)):
                self._claimed.add(path)
            yield item
            return
        if split == "*":
            split = re.sub(r"\W", "_", item.split or "unsplit")
        path = self.dump.find(item.image, folders)
        if self.wanted and split not in self.wanted:
            self._claimed.update([path] if path else [])
            return
        if path is None and not self.annotations_only:
            why = "the image is not in the dump"
            yield Rejection("rejected", "E07", document, item.place, item.image, why, "images")
            return
        path = path or item.image.replace("\\", "/")
        if path in self._claimed:
            why = f"{path} was named before"
            yield Rejection("rejected", "E16", document, item.place, item.image, why, "images")
            return
        self._claimed.add(path)
        name = path.removeprefix(folders[0])
        stem, dot, suffix = name.rpartition(".")
        name = stem if dot and "/" not in suffix else name
        yield Unit(split, name, path, document, layout, item._replace(image=path))

    def _unlabelled(self) -> Iterator[Rejection]:
        """Images that some split's pattern matches and that have no annotation (E08)."""
        seen = set()
        for split, layout in self._layouts.items():
            if layout is None or not self._takes(split):
                continue
            listed = self._listed(layout) if self.recipe.reader.ONE_FILE == "image" else None
            for match in self.dump.match(layout.images, self.prefix):
                if match.path in self._claimed or match.path in seen:
                    continue
                if listed is not None and self.wanted and _key(match.stars)[-1] not in listed:
                    continue
                seen.add(match.path)
                in_list = listed is None or _key(match.stars)[-1] in listed
                why = "no annotation for this image" if in_list else "in no list of the splits"
                yield Rejection("rejected", "E08", match.path, 0, match.path, why)

    def _without_image(self) -> Iterator[Unit | Rejection]:
        """Annotations that some split's pattern matches and whose image is missing (E07)."""
        seen = set()
        for split, layout in self._layouts.items():
            if layout is None or not self._takes(split):
                continue
            listed = self._listed(layout)
            for match in self.dump.match(layout.annotations, self.prefix):
                if match.path in self._claimed or match.path in seen:
                    continue
                if listed is not None and _key(match.stars)[-1] not in listed:
                    continue
                seen.add(match.path)
                image = files.fill_pattern(layout.images, match.stars, "")
                if self.annotations_only:
                    yield Unit(split, "/".join(match.stars), image, match.path, layout)
                else:
                    why = "the annotation has no image in the dump"
                    yield Rejection("rejected", "E07", match.path, 0, image, why)


def _key(stars: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(fold, stars)) or ("",)


def _prefix(recipe: Recipe, dump: Dump) -> str:
    """The folder of the dump below which the recipe's patterns fit: "" where they fit as they stand."""
    layouts = [layout for layouts in recipe.splits.values() for layout in layouts]
    if any(dump.match(pattern) for layout in layouts for pattern in (layout.annotations, layout.images)):
        return ""
    for layout in layouts:
        prefixes = dump.prefixes(layout.annotations)
        if len(prefixes) > 1:
            names = ", ".join(sorted(prefixes)[:5])
            raise RecipeError(f"{dump.root}: several dumps of {recipe.name}: name one of {names}")
        if prefixes:
            return prefixes.pop()
    first = layouts[0]
    folders = sorted({path.split("/")[0] + "/" * ("/" in path) for path in dump.paths})[:6]
    raise RecipeError(
        f"{dump.root}: no dump of {recipe.name}: expected {first.images} and {first.annotations}, "
        f"found {', '.join(folders) or 'nothing'} (`rsdata sample {recipe.name} DIR` shows the layout)"
    )
