"""Which images of a dump a recipe names, each with its split and its annotation."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from rsdata import files
from rsdata.errors import AnnotationError, RecipeError
from rsdata.files import Dump, Match, fold
from rsdata.recipes import Layout, Recipe
from rsdata.records import Record, Rejection

_SPLIT_NAME = 48
"""Characters of a split's name that a document gives: it names files, of which a name has 255 bytes."""


class Unit(NamedTuple):
    """One image to convert. name: unique within dataset and split. record: set where it has been read.

    instances: its mask of ids, "" where there is none. frame: of the film `image`, -1 where it is no film.
    """

    split: str
    name: str
    image: str
    annotation: str
    layout: Layout
    record: Record | None = None
    instances: str = ""
    frame: int = -1


class Plan:
    """The units of a dump, in a deterministic order, and what is rejected before any image is opened.

    Iterate it once: it yields Units and Rejections, and each image that the dump holds or names comes out
    as exactly one Unit or one Rejection of action "rejected".
    """

    def __init__(
        self,
        recipe: Recipe,
        dump: Dump,
        splits: Collection[str] = (),
        annotations_only: bool = False,
    ) -> None:
        """Raises RecipeError where nothing of the recipe is found, or a split is not in it."""
        self.recipe, self.dump, self.annotations_only = recipe, dump, annotations_only
        self.wanted = frozenset(splits)
        recipe.check_splits(self.wanted)
        self.prefix = _prefix(recipe, dump)
        self.notes: list[str] = []
        if self.prefix:
            self.notes.append(f"the dump lies in {self.prefix}")
        self._claimed: set[str] = set()
        self._missing: set[str] = set()
        self._annotated: set[str] = set()
        self._lists: dict[str, dict[str, tuple[str, int]]] = {}
        self.one_file = recipe.reader.ONE_FILE
        self._places = getattr(recipe.reader, "PLACES", "images")
        self._frames = bool(getattr(recipe.reader, "FRAMES", False))
        self._options = getattr(recipe.reader, "prepare", None)
        self._settled: dict[tuple[str, str], dict[str, Any]] = {}
        self._layouts = {split: self._choose(split) for split in recipe.splits}
        self.notes.extend(self._absent())

    def __iter__(self) -> Iterator[Unit | Rejection]:
        yield from self.dump.refused
        kinds = {"image": self._pairs, "split": self._documents, "none": self._alone}
        layouts = [
            (split, layout) for split, layout in self._layouts.items() if layout and self._takes(split)
        ]
        for _, layout in layouts:
            self._annotated.update(self._files(layout.annotations, layout.instances))
        for split, layout in layouts:
            yield from kinds[self.one_file](split, layout)
        for split, layout in layouts:
            yield from self._empty(split, layout)
        if not self.annotations_only:
            yield from self._unlabelled()
        if self.one_file == "image":
            yield from self._without_image()

    def present(self) -> list[str]:
        """The recipe's splits of which the dump holds images or annotations."""
        return [split for split, layout in self._layouts.items() if layout is not None]

    def expected(self) -> int | None:
        """About how many images there are to convert, None where only documents know."""
        found: set[str] = set()
        for _, layout, listed in self._taken_layouts():
            if layout.names or (self.annotations_only and self.one_file == "split"):
                return None
            alone = self.annotations_only and self.one_file == "image"
            matches = self._labels(layout) if alone else self._pictures(layout)
            if listed is not None:
                matches = [match for match in matches if _key(match.stars)[-1] in listed]
            found.update(match.path for match in matches)
        return len(found)

    def unclaimed(self) -> list[str]:
        """Image files of the dump that no split of the recipe matches, neither images nor annotations."""
        matched = set(self._claimed)
        for layouts in self.recipe.splits.values():
            for layout in layouts:
                patterns = (layout.images, layout.annotations, layout.background, layout.instances)
                matched.update(self._files(*patterns))
        return [
            path
            for path in self.dump.paths
            if path not in matched and path.lower().endswith(files.IMAGE_SUFFIXES)
        ]

    def _files(self, *patterns: str) -> Iterator[str]:
        """The files of some patterns, of which "" has none."""
        for pattern in filter(None, patterns):
            yield from (match.path for match in self._match(pattern))

    def _match(self, pattern: str) -> list[Match]:
        return self.dump.match(pattern, self.prefix)

    def _labels(self, layout: Layout) -> list[Match]:
        """The annotation files of a layout, without those that lie among them and are none."""
        aside = getattr(self.recipe.reader, "ASIDE", None)
        found = self._match(layout.annotations) if layout.annotations else []
        return [match for match in found if not aside(match.path)] if aside else found

    def _pictures(self, layout: Layout) -> list[Match]:
        """The images of a layout, without the annotations that its pattern matches too."""
        found = self._match(layout.images)
        if self.one_file != "image":
            return found
        return [match for match in found if match.path not in self._annotated]

    def _takes(self, split: str) -> bool:
        return not self.wanted or split == "*" or split in self.wanted

    def _choose(self, split: str) -> Layout | None:
        """The first layout in which an image and an annotation pair, else one that has either, else None."""
        best: tuple[int, Layout] | None = None
        for layout in self.recipe.splits[split]:
            if layout.list and self._list_path(layout) is None:
                continue
            annotations = {_key(match.stars) for match in self._labels(layout)}
            images = {_key(match.stars) for match in self._match(layout.images)}
            if self._frames:
                images = {stars[:-1] for stars in images}
                images.update(_key(match.stars) for match in self._match(layout.videos) if layout.videos)
            if self.one_file == "none":
                paired = bool(images)
            else:
                paired = bool(
                    annotations & images if self.one_file == "image" or self._frames else annotations
                )
            rank = 0 if paired else 1 if annotations else 2 if images else 3
            if rank < 3 and (best is None or rank < best[0]):
                best = (rank, layout)
        if best is None:
            return None
        if self._options is None or not self._takes(split):
            return best[1]
        settled = (best[1].annotations, repr(best[1].options))
        if settled not in self._settled:  # splits share folders, and each file is opened for this
            options = self._options(
                self.dump.root, self._named_pairs(best[1]), best[1].options, self.recipe.classes()
            )
            news = [f"{key} = {value}" for key, value in options.items() if best[1].options.get(key) != value]
            self.notes.extend(f"{best[1].annotations}: {new}, as the files say" for new in news)
            self._settled[settled] = options
        return replace(best[1], options=self._settled[settled])

    def _named_pairs(self, layout: Layout) -> list[tuple[str, str]]:
        """(annotation, its image or "") of all that a layout matches."""
        images: dict[tuple[str, ...], str] = {}
        if self.one_file == "image" and not self.annotations_only:
            images = {_key(match.stars): match.path for match in self._match(layout.images)}
        return [(match.path, images.get(_key(match.stars), "")) for match in self._labels(layout)]

    def _absent(self) -> Iterator[str]:
        for split, layout in self._layouts.items():
            if layout is None or not self._takes(split):
                continue
            there = {_key(match.stars)[-1] for match in self._match(layout.images)}
            absent = [name for name in layout.names if fold(name) not in there]
            if absent:
                which = ", ".join(absent[:3]) + " …" * (len(absent) > 3)
                yield f"split {split}: {len(absent)} of {len(layout.names)} images are not here: {which}"

    def _pairs(self, split: str, layout: Layout) -> Iterator[Unit | Rejection]:
        annotations = self._labels(layout)
        images = self._pictures(layout)
        partners = _partners(images, annotations)
        instances = self._partners_of(images, layout.instances)
        listed = self._listed(layout)
        taken: dict[str, str] = {}
        found = {_key(match.stars)[-1] for match in annotations}
        for match in images:
            key = _key(match.stars)
            if match.path in self._claimed or (listed is not None and key[-1] not in listed):
                continue
            found.add(key[-1])
            annotation = partners.get(match.path)
            if annotation is None or annotation == match.path:
                continue
            self._claimed.add(match.path)
            if annotation in taken:
                why = f"{match.path} and {taken[annotation]} are two images for one annotation"
                yield Rejection("rejected", "E26", annotation, 0, match.path, why)
                continue
            taken[annotation] = match.path
            self._claimed.add(annotation)
            beside = instances.get(match.path, "")
            if layout.instances and not beside:
                why = f"no instance mask of {match.path}: expected {layout.instances}"
                yield Rejection("rejected", "E07", annotation, 0, match.path, why)
                continue
            self._claimed.update([beside] if beside else [])
            yield Unit(split, "/".join(match.stars), match.path, annotation, layout, None, beside)
        # Names that the recipe gives are no part of the dump: their absence is a note, see _absent.
        if listed is None or layout.names:
            return
        for name in sorted(listed.keys() - found - self._missing):
            self._missing.add(name)
            original, line = listed[name]
            why = f"{original} is listed, but there is neither image nor annotation"
            yield Rejection("rejected", "E07", self._list_path(layout) or "", line, original, why)

    def _partners_of(self, images: Sequence[Match], pattern: str) -> dict[str, str]:
        return _partners(images, self._match(pattern)) if pattern else {}

    def _alone(self, split: str, layout: Layout) -> Iterator[Unit]:
        """Images that need no annotation file, because their folder says what they show."""
        listed = self._listed(layout)
        for match in self._pictures(layout):
            if match.path not in self._claimed and (listed is None or _key(match.stars)[-1] in listed):
                self._claimed.add(match.path)
                yield Unit(split, "/".join(match.stars), match.path, match.path, layout)

    def _empty(self, split: str, layout: Layout) -> Iterator[Unit]:
        """Images without an annotation that hold no object, as the format or the recipe says."""
        pattern = layout.images if getattr(self.recipe.reader, "BACKGROUND", False) else layout.background
        if not pattern:
            return
        listed = self._listed(layout)
        for match in self._match(pattern):
            if match.path in self._claimed or match.path in self._annotated:
                continue
            if listed is not None and _key(match.stars)[-1] not in listed:
                continue
            self._claimed.add(match.path)
            name = "/".join(match.stars) if pattern == layout.images else _stem(match.path, self.prefix)
            yield Unit(split, name, match.path, "", layout, Record(match.path))

    def _list_path(self, layout: Layout) -> str | None:
        """The list file of a layout, None where it is not in the dump."""
        path = self.dump.find(self.prefix + layout.list)
        return path if path is not None and fold(path) == fold(self.prefix + layout.list) else None

    def _listed(self, layout: Layout) -> dict[str, tuple[str, int]] | None:
        """The folded names of a split with the name as written and its line; None where all belong."""
        if layout.names:
            return {fold(name): (name, 0) for name in layout.names}
        if not layout.list:
            return None
        path = self._list_path(layout) or layout.list
        if path in self._lists:
            return self._lists[path]
        text, _ = files.read_text(self.dump.root, path)
        listed = self._lists[path] = dict[str, tuple[str, int]]()
        for number, line in enumerate(text.split("\n"), 1):
            name = re.sub(r"\s+-?[01]$", "", line.strip()).replace("\\", "/").rsplit("/", 1)[-1]
            if name.lower().endswith(files.IMAGE_SUFFIXES):
                name = name.rsplit(".", 1)[0]
            if name:
                listed.setdefault(fold(name), (name, number))
        return listed

    def _documents(self, split: str, layout: Layout) -> Iterator[Unit | Rejection]:
        folders = (self.prefix + files.fixed_folder(layout.images), self.prefix)
        for match in self._labels(layout):
            document = match.path
            if document in self._claimed:
                continue
            self._claimed.add(document)
            rejected = []
            film = self._film(match, layout) if self._frames else None
            if film is not None and not film.frames and not film.video and not self.annotations_only:
                why = f"neither frames ({layout.images}) nor a film ({layout.videos or 'no pattern'})"
                yield Rejection("rejected", "E07", document, 0, document, why)
                continue
            try:
                for item in self.recipe.reader.read(
                    self.dump.root, document, self.recipe.classes(), **layout.options
                ):
                    if isinstance(item, Record) and film is not None:
                        yield from self._frame(item, split, layout, film)
                    elif isinstance(item, Record):
                        yield from self._named(item, split, layout, document, folders)
                    elif item.action == "rejected":
                        rejected.append(item)
                    else:
                        yield item
            except AnnotationError as error:
                yield Rejection("dropped", error.code, error.path, error.line, "", error.why)
            for item in rejected:  # last, because an entry that can be read speaks for its image
                path = self.dump.find(item.image, folders) or item.image
                again = path in self._claimed
                self._claimed.add(path)
                yield item._replace(action="dropped", code="E16") if again else item
            if film is not None:
                yield from self._between(film, split, layout)

    def _film(self, match: Match, layout: Layout) -> _Film:
        """The frames of a document, and its film."""
        key = _key(match.stars)
        frames: dict[int, str] = {}
        for image in self._match(layout.images):
            *stars, number = _key(image.stars)
            if tuple(stars) == key and number.isascii() and number.isdigit():
                frames.setdefault(int(number), image.path)
        videos = (
            [video.path for video in self._match(layout.videos) if _key(video.stars) == key]
            if layout.videos
            else []
        )
        self._claimed.update(videos)
        return _Film(match.path, "/".join(match.stars), frames, videos[0] if videos else "")

    def _frame(self, item: Record, split: str, layout: Layout, film: _Film) -> Iterator[Unit]:
        """The unit of a frame, if it was extracted or can be taken out of the film."""
        number = int(item.image)
        name = f"{film.name}/{number}"
        if number in film.frames:
            path = film.frames[number]
            self._claimed.add(path)
            yield Unit(split, name, path, film.document, layout, item._replace(image=path))
        elif not film.frames and (film.video or self.annotations_only):
            path = film.video or f"{film.document}#frame={number}"
            frame = number if film.video else -1
            yield Unit(split, name, path, film.document, layout, item._replace(image=path), "", frame)

    def _between(self, film: _Film, split: str, layout: Layout) -> Iterator[Unit]:
        """Frames that were extracted and have no row: in them nothing is seen, unless they are skipped."""
        step = int(layout.options.get("step", 1))
        skipped = 0
        for number, path in sorted(film.frames.items()):
            if path in self._claimed:
                continue
            self._claimed.add(path)
            if number % step:
                skipped += 1
                continue
            yield Unit(split, f"{film.name}/{number}", path, film.document, layout, Record(path))
        if skipped:
            self.notes.append(
                f"{film.name}: {skipped} frames between steps of {step} are left out (--option step=1)"
            )

    def _named(
        self, item: Record, split: str, layout: Layout, document: str, folders: Sequence[str]
    ) -> Iterator[Unit | Rejection]:
        if split == "*":
            named = 0 < len(item.split) <= _SPLIT_NAME
            split = re.sub(r"\W", "_", item.split) if named else "unsplit"
        path = self.dump.find(item.image, folders)
        if self.wanted and split not in self.wanted:
            self._claimed.update([path] if path else [])
            return
        missing = path is None and not self.annotations_only
        path = path or item.image.replace("\\", "/")
        if path in self._claimed:
            left_out = f"{len(item.boxes)} objects and {len(item.captions)} captions"
            why = f"{path} was named before; the {left_out} given here are left out"
            yield Rejection("dropped", "E16", document, item.place, item.image, why, self._places)
            return
        self._claimed.add(path)
        if missing:
            why = "the image is not in the dump"
            yield Rejection("rejected", "E07", document, item.place, item.image, why, self._places)
            return
        name = _stem(path, folders[0])
        record = item if path == item.image else item._replace(image=path)
        yield Unit(split, name, path, document, layout, record)

    def _unlabelled(self) -> Iterator[Rejection]:
        """Images that some split's pattern matches and that have no annotation (E08)."""
        seen = set()
        layouts = self._taken_layouts()
        names = [listed for _, _, listed in layouts]
        for _, layout, listed in layouts:
            if self._shares_images(layout):
                continue
            for match in self._pictures(layout):
                name = _key(match.stars)[-1]
                if match.path in self._claimed or match.path in seen:
                    continue
                if listed is not None and self.wanted and name not in listed:
                    continue
                seen.add(match.path)
                in_list = any(some is None or name in some for some in names)
                why = "no annotation for this image" if in_list else "in no list of the splits"
                yield Rejection("rejected", "E08", match.path, 0, match.path, why)

    def _taken_layouts(self) -> list[tuple[str, Layout, dict[str, tuple[str, int]] | None]]:
        """The splits to convert, each with its layout and its names."""
        return [
            (split, layout, self._listed(layout))
            for split, layout in self._layouts.items()
            if layout is not None and self._takes(split)
        ]

    def _shares_images(self, layout: Layout) -> bool:
        """Whether a split that is not wanted, whose document is not read, may name the images of this one."""
        return self.one_file == "split" and any(
            other is not None and not self._takes(split) and other.images == layout.images
            for split, other in self._layouts.items()
        )

    def _without_image(self) -> Iterator[Unit | Rejection]:
        """Annotations that a split's pattern matches and whose image is missing (E07), or has one (E26)."""
        seen = set()
        unlisted: dict[str, str] = {}
        for split, layout, listed in self._taken_layouts():
            images = {_key(match.stars): match.path for match in self._pictures(layout)}
            for match in self._labels(layout):
                key = _key(match.stars)
                if match.path in self._claimed or match.path in seen:
                    continue
                image = self.prefix + files.fill_pattern(layout.images, match.stars, "")
                if listed is not None and key[-1] not in listed:
                    if key not in images:
                        unlisted.setdefault(match.path, image)
                    continue
                seen.add(match.path)
                if taken := images.get(key) or (image if image in self._claimed else ""):
                    why = f"another annotation of {taken}"
                    yield Rejection("dropped", "E26", match.path, 0, taken, why)
                    continue
                self._claimed.add(image)
                if self.annotations_only:
                    yield Unit(split, "/".join(match.stars), image, match.path, layout)
                else:
                    why = "the annotation has no image in the dump"
                    yield Rejection("rejected", "E07", match.path, 0, image, why)
        for path, image in unlisted.items():
            if path not in seen and image not in self._claimed and not self.wanted:
                self._claimed.add(image)
                why = "the annotation has no image in the dump, and is in no list of the splits"
                yield Rejection("rejected", "E07", path, 0, image, why)


class _Film(NamedTuple):
    """What the images of a document that describes a film are: paths by frame number, or the film itself."""

    document: str
    name: str
    frames: dict[int, str]
    video: str


def _stem(path: str, folder: str) -> str:
    """`path` below `folder`, without its suffix."""
    name = path.removeprefix(folder)
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and "/" not in suffix else name


def _partners(images: Sequence[Match], annotations: Sequence[Match]) -> dict[str, str]:
    """The annotation of each image that has one.

    It is that of the same stars, else the only one left whose stars differ in case alone (E26).
    """
    exact = {match.stars: match.path for match in annotations}
    taken = {match.stars for match in images}
    loose: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for match in annotations:
        if match.stars not in taken:
            loose[_key(match.stars)].append(match.path)
    partners = {}
    for match in images:
        same = [exact[match.stars]] if match.stars in exact else loose.get(_key(match.stars), [])
        if len(same) == 1:
            partners[match.path] = same[0]
    return partners


@lru_cache(1 << 16)  # each is asked for some six times
def _key(stars: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(fold, stars)) or ("",)


def _prefix(recipe: Recipe, dump: Dump) -> str:
    """The folder of the dump below which the recipe's patterns fit: "" where they fit as they stand."""
    layouts = [layout for layouts in recipe.splits.values() for layout in layouts]
    patterns = [pattern for layout in layouts for pattern in (layout.annotations, layout.images) if pattern]
    if any(map(dump.match, patterns)):
        return ""
    for layout in layouts:
        prefixes = dump.prefixes(layout.annotations or layout.images)
        if len(prefixes) > 1:
            names = ", ".join(sorted(prefixes)[:5])
            raise RecipeError(f"{dump.root}: several dumps of {recipe.name}: name one of {names}")
        if prefixes:
            return prefixes.pop()
    first = layouts[0]
    folders = sorted({path.split("/")[0] + "/" * ("/" in path) for path in dump.paths})[:6]
    expected = " and ".join(filter(None, (first.images, first.annotations)))
    raise RecipeError(
        f"{dump.root}: no dump of {recipe.name}: expected {expected}, "
        f"found {', '.join(folders) or 'nothing'} (`rsdata sample {recipe.name} DIR` shows the layout)"
    )
