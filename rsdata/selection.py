"""Caption sets that select: which rows of a table they take, balanced by class and number.

    shards ──▶ judge each row, without its image ──▶ cells (split, class, number) ──▶ the last hash of each
    shards ──▶ judge again, compare hashes       ──▶ the rows that stay, and a rejection of each other row

A cell keeps as many rows as the median cell of its split has, but not fewer than LEAST. Which ones hangs on a
hash of (seed, image_id) alone: neither the order of rows nor the number of workers has a part in it.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from rsdata import box_to_caption, tables
from rsdata.errors import RsdataError
from rsdata.records import Rejection
from rsdata.words import Words

LEAST = 20
"""Rows that a cell may have however few the others have: 13 classes make some hundreds of rows of it."""

_COLUMNS = (
    *("image_id", "dataset", "split", "image.path", "annotation"),
    *("objects.list.element.label", "objects.list.element.flags"),
)
_UNTOLD = ("E05", "E06", "E12", "E13", "E17", "E19", "E33")
"""Codes of dropped objects that the image may show all the same."""
_WINDOW = re.compile(r"(?:#\d+,\d+,\d+,\d+)?$")

Cell: TypeAlias = tuple[str, str, int]
"""Split, class, number."""


class _Row(NamedTuple):
    """What a row is judged by. labels, flags: of each of its objects."""

    image_id: str
    dataset: str
    split: str
    path: str
    annotation: str
    labels: list[str]
    flags: list[list[str]]

    @property
    def cell(self) -> Cell:
        return self.split, self.labels[0], len(self.labels)

    @property
    def image(self) -> str:
        """The image or window, as rejections name it."""
        return f"{self.path}{_WINDOW.findall(self.image_id)[0]}"


class Selection:
    """The rows of a table that its caption set takes.

    images: how many stay, by dataset. labels: their objects, by dataset and class. rejections: of the others.
    They are complete when `rows` of each shard has been read to its end.
    """

    def __init__(
        self, shards: Iterable[Path], about: Mapping[str, Any], rejections: Iterable[Rejection]
    ) -> None:
        """Look at every row once.

        about: the `rsdata` metadata of the table, whose caption set is one that selects. rejections: of the
        run that wrote the rows: where an object was dropped, nobody knows the number. Raises TableError where
        a shard is damaged.
        """
        judge = box_to_caption.judge(about["captions"])
        assert judge is not None
        self._judge, self._seed = judge, about["seed"]
        self._datasets = about["datasets"]
        self._dropped = {
            item.image: item.code for item in rejections if item.action == "dropped" and item.code in _UNTOLD
        }
        self._words = {name: Words(held["irregular"]) for name, held in self._datasets.items()}
        hashes: defaultdict[Cell, list[bytes]] = defaultdict(list)
        for path in shards:
            for group in tables.row_groups(path, _COLUMNS):
                for row in _rows(group):
                    if not self._why(row):
                        hashes[row.cell].append(self._hash(row))
        self._most = _most(hashes)
        self._last = {cell: sorted(held)[: self._most[cell[0]]][-1] for cell, held in hashes.items()}
        self.images: Counter[str] = Counter()
        self.labels: dict[str, Counter[str]] = {name: Counter() for name in self._datasets}
        self.rejections: list[Rejection] = []

    def rows(self, shard: Path) -> Iterator[pa.Table]:
        """The rows of a shard that stay, by row group. Raises TableError where it is damaged."""
        stay = {}
        for number, group in enumerate(tables.row_groups(shard, _COLUMNS)):
            stays = [self._stays(row) for row in _rows(group)]
            if any(stays):
                stay[number] = stays
        groups = tables.row_groups(shard, numbers=stay)
        for group, stays in zip(groups, stay.values(), strict=True):
            yield group.filter(pa.array(stays))

    def account(self, manifest: Mapping[str, Any], rows: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """The manifest of what stays.

        manifest: of all rows. rows: that stay, by split and shard. Raises RsdataError where none does.
        """
        if not rows:
            first = self.rejections[0]
            template = manifest["rsdata"]["captions"]
            raise RsdataError(f"no image fits the captions {template}, such as {first.image}: {first.why}")
        codes = Counter(manifest["reasons"]["rejected"])
        codes.update(item.code for item in self.rejections)
        datasets = {
            name: {
                **_reduced(held, self.images[name], self.labels[name].total()),
                "classes": dict(sorted(self.labels[name].items())),
            }
            for name, held in manifest["datasets"].items()
        }
        objects = sum(labels.total() for labels in self.labels.values())
        return {
            **_reduced(manifest, self.images.total(), objects),
            "splits": {
                split: {"files": tables.shard_names(split, len(counts)), "rows": sum(counts)}
                for split, counts in rows.items()
            },
            "reasons": {**manifest["reasons"], "rejected": dict(sorted(codes.items()))},
            "datasets": datasets,
        }

    def _why(self, row: _Row) -> str | None:
        """Why a row does not fit the set, None where it does."""
        counted = self._datasets[row.dataset].get("counted", ())
        why = self._judge(row.labels, {flag for flags in row.flags for flag in flags}, counted)
        if why is None and (code := self._dropped_from(row)):
            why = f"an object was dropped ({code})"
        return why

    def _dropped_from(self, row: _Row) -> str | None:
        """The code of an object that was dropped from the image; documents name it by the end of its path."""
        parts = row.path.split("/")
        names = (row.image, *("/".join(parts[start:]) for start in range(len(parts))))
        return next((self._dropped[name] for name in names if name in self._dropped), None)

    def _hash(self, row: _Row) -> bytes:
        return blake2b(f"{self._seed}\0{row.image_id}".encode(), digest_size=16).digest()

    def _stays(self, row: _Row) -> bool:
        """Whether a row stays; it is counted, or its rejection listed."""
        code, why = "E38", self._why(row)
        if why is None and self._hash(row) > self._last[row.cell]:
            counted = self._words[row.dataset].phrase(*row.cell[1:])
            code, why = "E39", f"cell full: {self._most[row.split]} images of {counted} stay"
        if why is None:
            self.images[row.dataset] += 1
            self.labels[row.dataset].update(row.labels)
            return True
        path = row.annotation or row.path
        self.rejections.append(Rejection("rejected", code, path, 0, row.image, why))
        return False


def _most(cells: Mapping[Cell, Sequence[bytes]]) -> dict[str, int]:
    """How many rows a cell may keep, by split."""
    sizes: defaultdict[str, list[int]] = defaultdict(list)
    for (split, _, _), held in cells.items():
        sizes[split].append(len(held))
    return {split: max(LEAST, median_low(each)) for split, each in sizes.items()}


def _rows(group: pa.Table) -> Iterator[_Row]:
    objects = group["objects"].combine_chunks()
    lengths = pc.list_value_length(objects).to_pylist()
    labels, flags = (iter(objects.flatten().field(name).to_pylist()) for name in ("label", "flags"))
    named = [group[name].to_pylist() for name in ("image_id", "dataset", "split")]
    paths = pc.struct_field(group["image"], "path").to_pylist()
    for image_id, dataset, split, path, annotation, length in zip(
        *named, paths, group["annotation"].to_pylist(), lengths, strict=True
    ):
        own = [(next(labels), next(flags)) for _ in range(length)]
        yield _Row(
            image_id,
            dataset,
            split,
            path or image_id,
            annotation or "",
            [label for label, _ in own],
            [each for _, each in own],
        )


def _reduced(counts: Mapping[str, Any], images: int, objects: int) -> dict[str, Any]:
    """The counts of a manifest, or of a dataset of it, where so many images and objects stay."""
    held, found = counts["images"], counts["objects"]
    left_out = {"rejected": held["rejected"] + held["written"] - images}
    dropped = {"dropped": found["dropped"] + found["written"] - objects}
    return {
        **counts,
        "images": {**held, "written": images, **left_out},
        "objects": {**found, "written": objects, **dropped},
        "captions": images,
    }
