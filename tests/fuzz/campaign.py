"""Dumps with damaged files through the whole of `convert`, and what must hold whatever they are.

The oracle of a dump: nothing but RsdataError escapes, and UnfinishedError never; the account of images and
objects adds up; what is listed names a file of the dump and a line that it has; boxes of rows are finite and
inside of the image; no file outside of the dump is read, none outside of the output written; all this in
LONGEST seconds.

An input is a damaged file. Formats with a file an image have many of them in a dump, beside one image that
nobody damaged, which must be converted; a dump that fails is repeated with each input alone, so that the one
at fault is named. An input follows from (format, seed, number).
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import mutate
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsdata import recipes, samples, tables
from rsdata.convert import Outcome, convert
from rsdata.engine import Engine
from rsdata.errors import RsdataError, UnfinishedError
from rsdata.recipes import Recipe
from rsdata.shard import Options
from rsdata.tiles import Tiling

LONGEST = 5.0
"""Seconds that an input may take."""
SIZE = (48, 32)
TOGETHER = 15
"""Inputs in a dump of a format with a file an image."""
MOST_MEMORY = 1 << 30
_IMAGES = (".png", ".tif")


class Hang(BaseException):
    """Raised in the middle of what takes too long; no handler of Exception stops it."""


class BrokenError(AssertionError):
    """The oracle's verdict. kind: a column of the report."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(f"{kind}: {why}")
        self.kind = kind


@dataclass
class Report:
    """The counts of a campaign over one format."""

    inputs: int = 0
    refused: int = 0
    rejected: int = 0
    dropped: int = 0
    written: int = 0
    slowest: float = 0.0
    broken: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """MB that this process had at most."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


class Seed(NamedTuple):
    """A clean dump: its recipe and its files. images: the files of each image; others: those of no image."""

    recipe: Recipe
    files: Mapping[str, bytes]
    images: Sequence[Sequence[str]]
    others: Sequence[str]


class Input(NamedTuple):
    number: int
    path: str
    data: bytes


@cache
def seeds(name: str) -> list[Seed]:
    """The clean dumps of a format: of itself and of every shipped recipe in it."""
    held = [recipes.from_format(name)]
    held += [recipe for recipe in map(recipes.load, recipes.names()) if recipe.format == name]
    found = []
    for number, recipe in enumerate(held):
        with tempfile.TemporaryDirectory() as folder:
            seed = _seed(recipe, Path(folder) / "dump", number)
            if seed is not None:
                found.append(seed)
    assert found, f"no sample of {name} converts"
    return found


def _seed(recipe: Recipe, dump: Path, number: int) -> Seed | None:
    """None where a bare format has no classes that a sample could be read with."""
    split = "train" if {"*", "train"} & recipe.splits.keys() else next(iter(recipe.splits))
    alone = recipe.reader.ONE_FILE != "split"
    drawing: dict[str, Any] = {"images": TOGETHER + 1 if alone else 3, "seed": number, "splits": [split]}
    drawing.update(size=SIZE, most=4)
    samples.write(recipe, dump, **drawing)
    with suppress(RsdataError):
        outcome = convert([dump], None, recipe, Options(dry_run=True, engine=Engine("serial")))
        assert outcome.manifest["images"]["written"], outcome.rejections[:3]
        paths = [path for path in dump.rglob("*") if path.is_file()]
        held = {path.relative_to(dump).as_posix(): path.read_bytes() for path in paths}
        drawn = samples.draw(recipe, **drawing)
        images = [sorted({one.annotation, one.image, one.instances} - {""}) for one in drawn]
        return Seed(recipe, held, images, sorted(held.keys() - {path for image in images for path in image}))
    return None


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise Hang inside, once the seconds are over."""

    def late(number: int, frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Watch:
    """What is touched beside the dump: by Python (an audit hook), by libraries in `outside` (inotify)."""

    _on: Watch | None = None
    _hooked = False

    def __init__(self, work: Path, outside: Path) -> None:
        self._inside = tuple(str(work / name) for name in ("dump", "table", "tmp"))
        code = [sys.prefix, sys.base_prefix, Path(__file__).parents[2], *filter(None, sys.path)]
        self._system = ("/usr/", "/proc/", "/dev/", "/lib", *(str(Path(path).resolve()) for path in code))
        self.seen: list[str] = []
        self._notify = None
        if sys.platform == "linux":
            libc = ctypes.CDLL(None, use_errno=True)
            self._notify = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            if libc.inotify_add_watch(self._notify, str(outside).encode(), _TOUCHED) < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch")
        if not Watch._hooked:
            sys.addaudithook(Watch._audit)
            Watch._hooked = True

    @staticmethod
    def _audit(event: str, arguments: tuple[Any, ...]) -> None:
        watch = Watch._on
        if watch is None:
            return
        if event in _NEVER:
            watch.seen.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            path = os.path.abspath(os.fsdecode(arguments[0]))  # noqa: PTH100  # links are not to be followed
            reads = not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not path.startswith(watch._inside) and not (reads and path.startswith(watch._system)):
                watch.seen.append(f"open {path}")

    @contextmanager
    def on(self) -> Iterator[None]:
        self.seen.clear()
        Watch._on = self
        try:
            yield
        finally:
            Watch._on = None

    def check(self) -> None:
        """Raises BrokenError where something outside was touched."""
        if self._notify is not None:
            with suppress(BlockingIOError):
                events = os.read(self._notify, 1 << 16)
                length = struct.unpack_from("I", events, 12)[0]
                name = events[16 : 16 + length].rstrip(b"\0").decode() or "the folder"
                self.seen.append(f"a library touched {name} beside the dump")
        if self.seen:
            raise BrokenError("outside", "; ".join(dict.fromkeys(self.seen)))


_TOUCHED = 0x2 | 0x20 | 0x80 | 0x100 | 0x200
"""inotify's events of what is changed, opened, moved here, made, removed."""
_NEVER = ("socket.connect", "subprocess.Popen", "os.system", "os.exec", "pickle.find_class")


class Campaign:
    """Runs the inputs of one format in a folder of its own. Close it to remove that."""

    def __init__(self, name: str, seed: int = 0) -> None:
        self.name, self.seed, self.report = name, seed, Report()
        alone = self.report.peak < MOST_MEMORY >> 21  # else others have run in this process
        self._most_memory = (MOST_MEMORY >> 20) + (0 if alone else self.report.peak)
        shared = Path("/dev/shm")
        self.work = Path(tempfile.mkdtemp(prefix="fuzz-", dir=shared if shared.is_dir() else None)).resolve()
        self.dump, self.table, outside = self.work / "dump", self.work / "table", self.work / "outside"
        outside.mkdir()
        (self.work / "tmp").mkdir()
        self._tempdir, tempfile.tempdir = tempfile.tempdir, str(self.work / "tmp")
        for path in ("secret.png", "secret.txt", "secret.json"):
            (outside / path).write_bytes(next(iter(seeds(name)[0].files.values())))
        self.watch = Watch(self.work, outside)
        self._laid: Seed | None = None

    def close(self) -> None:
        tempfile.tempdir = self._tempdir
        shutil.rmtree(self.work)

    def run(self, first: int, last: int, tell: Callable[[int], None] = lambda number: None) -> Report:
        """The inputs from `first` up to `last`. tell: called with each number that comes next."""
        start = first
        while start < last:
            seed = self.seed_of(start)
            together = self.together(seed)
            end = min(last, (start // together + 1) * together)
            tell(start)
            self._try([self.input(number) for number in range(start, end)], seed)
            start = end
        return self.report

    def together(self, seed: Seed) -> int:
        return TOGETHER if seed.recipe.reader.ONE_FILE != "split" else 1

    def seed_of(self, number: int) -> Seed:
        found = seeds(self.name)
        return found[number // self.together(found[0]) % len(found)]

    def input(self, number: int) -> Input:
        """An input by its number."""
        seed = self.seed_of(number)
        rng = random.Random(f"{self.name} {self.seed} {number}")
        if self.together(seed) == 1:
            share = rng.random()
            named = {path for image in seed.images for path in image if not path.endswith(_IMAGES)}
            path = rng.choice(sorted(named if share < 0.9 else seed.files))
        elif seed.others and number % TOGETHER == 0 and rng.random() < 0.3:
            path = rng.choice(seed.others)
        else:
            path = rng.choice(seed.images[1 + number % TOGETHER])  # the first image stays whole
        return Input(number, path, mutate.mutated(seed.files[path], rng))

    def options(self, inputs: Sequence[Input], seed: Seed) -> tuple[Options, Tiling | None]:
        rng = random.Random(f"{self.name} {self.seed} {inputs[0].number // TOGETHER} options")
        plain = Options(engine=Engine("serial"), overwrite=True)
        kinds = [(plain, None)] * 6
        kinds += [(plain, Tiling(32, 8)), (replace(plain, captions="rich"), None)]
        kinds += [(replace(plain, captions="a2c"), Tiling(32))]
        if "image" not in recipes.given(seed.recipe.reader):
            kinds += [(replace(plain, annotations_only=True), None)]
        return rng.choice(kinds)

    def _try(self, inputs: Sequence[Input], seed: Seed) -> None:
        self.report.inputs += len(inputs)
        options = self.options(inputs, seed)
        seconds, failure = self._timed(inputs, seed, options)
        if failure is None and seconds < 1:
            self.report.slowest = max(self.report.slowest, seconds / len(inputs))
            return
        for one in inputs:  # alone, to name the one at fault
            seconds, failure = self._timed([one], seed, options, len(inputs) == 1)
            self.report.slowest = max(self.report.slowest, seconds)
            if failure is not None:
                kind, why = failure
                self.report.broken[kind] += 1
                where = f"{self.name} seed {self.seed} number {one.number} ({seed.recipe.name}, {one.path})"
                self.report.failures.append(f"{where}: {why}")

    def _timed(
        self, inputs: Sequence[Input], seed: Seed, options: tuple[Options, Tiling | None], count: bool = True
    ) -> tuple[float, tuple[str, str] | None]:
        """Seconds, and the kind of failure with its story, if any."""
        start, before = time.perf_counter(), self.report.peak
        failure = None
        try:
            with deadline(LONGEST * (2 if len(inputs) > 1 else 1)):
                self._convert(inputs, seed, *options, count)
        except Hang:
            failure = "hangs", f"more than {LONGEST} s\n" + traceback.format_exc(limit=-6)
        except BrokenError as error:
            failure = error.kind, str(error)
        except Exception as error:
            story = f"{type(error).__name__}: {str(error)[:300]}\n"
            failure = "tracebacks", story + traceback.format_exc(limit=-4)
        finally:
            self._restore(inputs, seed)
        if failure is None and self.report.peak > max(before, self._most_memory):
            failure = "memory", f"{self.report.peak} MB"
        return time.perf_counter() - start, failure

    def _lay(self, seed: Seed) -> None:
        if self._laid is seed:
            return
        shutil.rmtree(self.dump, ignore_errors=True)
        for path, data in seed.files.items():
            (self.dump / path).parent.mkdir(parents=True, exist_ok=True)
            (self.dump / path).write_bytes(data)
        self._laid = seed

    def _restore(self, inputs: Sequence[Input], seed: Seed) -> None:
        for one in inputs:
            (self.dump / one.path).write_bytes(seed.files[one.path])
        for path in self.work.iterdir():
            if path.name not in ("dump", "outside", "tmp"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _convert(
        self, inputs: Sequence[Input], seed: Seed, options: Options, tiling: Tiling | None, count: bool
    ) -> None:
        self._lay(seed)
        for one in inputs:
            (self.dump / one.path).write_bytes(one.data)
        recipe = replace(seed.recipe, tiling=tiling) if tiling else seed.recipe
        said: list[str] = []
        try:
            with self.watch.on():
                outcome = convert([self.dump], self.table, recipe, options, say=said.append)
        except UnfinishedError as error:
            raise BrokenError("tracebacks", f"UnfinishedError: {error}") from error
        except RsdataError as error:
            if "does not add up" in str(error):
                raise BrokenError("identity", str(error)) from error
            str(error).encode()
            self.watch.check()
            # LEVIR's columns are told by what all lines say, and the refusal says how to name them.
            meant = any(one.path in seed.others for one in inputs) or "not guessed" in str(error)
            if recipe.reader.ONE_FILE != "split" and not meant:
                raise BrokenError("refusals", f"one file refuses the dump: {error}") from error
            self.report.refused += count
            return
        self.watch.check()
        check(outcome, self.table, self.dump)
        kinds = Counter(item.action for item in outcome.rejections)
        self.report.rejected += count * kinds["rejected"]
        self.report.dropped += count * (kinds["dropped"] + kinds["repaired"])
        self.report.written += count * outcome.manifest["images"]["written"]


def check(outcome: Outcome, table: Path, dump: Path) -> None:
    """Raises BrokenError where the outcome of a conversion does not hold what every one must."""
    _check_account(outcome, table)
    _check_places(outcome, dump)
    for shard in tables.shards(table):
        _check_rows(tables.read(shard, ["image", "width", "height", "objects", "captions"]))
    (table / "README.md").read_text(encoding="utf-8")


def _check_account(outcome: Outcome, table: Path) -> None:
    images, objects = outcome.manifest["images"], outcome.manifest["objects"]
    listed = pq.read_table(table / tables.REJECTIONS)
    rejected = sum(item.action == "rejected" for item in outcome.rejections)
    sums = (
        images["found"] == sum(images[key] for key in ("written", "duplicates", "leaks", "rejected")),
        images["rejected"] == rejected,
        images["written"] == sum(map(tables.rows_in, tables.shards(table))),
        objects["found"] == objects["written"] + objects["dropped"],
        objects["dropped"] >= 0,
        len(listed) == len(outcome.rejections),
    )
    if not all(sums):
        raise BrokenError("identity", f"{sums} {images} {objects} {rejected} listed")


def _check_places(outcome: Outcome, dump: Path) -> None:
    counts: dict[str, int] = {}
    for item in outcome.rejections:
        if item.path not in counts:
            if not (dump / item.path).is_file():
                raise BrokenError("places", f"{item} names no file of the dump")
            text = (dump / item.path).read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            counts[item.path] = text.count(b"\n") + 1
        if not 0 <= item.line <= counts[item.path] or item.element or not item.why or not item.code:
            raise BrokenError("places", f"{item}: the file has {counts[item.path]} lines")


def _check_rows(rows: Any) -> None:
    lists = rows["objects"].combine_chunks()
    owner, held = pc.list_parent_indices(lists).to_numpy(), lists.flatten()
    width, height = (pc.fill_null(rows[key], 2**31 - 1).to_numpy()[owner] for key in ("width", "height"))
    xmin, ymin, xmax, ymax = (held.field(key).to_numpy() for key in ("xmin", "ymin", "xmax", "ymax"))
    sound = (xmin >= 0) & (xmin < xmax) & (xmax <= width) & (ymin >= 0) & (ymin < ymax) & (ymax <= height)
    if not sound.all() or not np.isfinite(held.field("polygon").flatten().to_numpy()).all():
        raise BrokenError("boxes", f"{held.filter(pc.invert(pa.array(sound))).to_pylist()[:2]}")
    captions = [text for texts in rows["captions"].to_pylist() for text in texts]
    if not all(held.field("label").to_pylist()) or not all(map(str.strip, captions)):
        raise BrokenError("boxes", "a label or a caption is blank")
    if not all(image["path"] for image in rows["image"].to_pylist()):
        raise BrokenError("boxes", "a row without a path")
