"""What an unfinished run has done, so that the same command goes on where it stopped.

TABLE/.unfinished/job.json                what the run is about: options, recipes, versions, sources
TABLE/.unfinished/dump-0.parquet          the files of each source, with size and time of change
TABLE/.unfinished/data/SPLIT-00000.parquet    a shard, whole or not there
TABLE/.unfinished/done/SPLIT-00000.json   what a shard came to, written by its worker after the shard
TABLE/.unfinished/data/.SPLIT-00000.at    which of its units a worker has in hand

The plan of a run follows from its dump and options alone, so shard 7 of an equal run is the same shard 7.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from rsdata import places
from rsdata.files import Dump

JOB = "job.json"
DONE = "done"

Result = TypeVar("Result")


class _Line(msgspec.Struct):
    """size: of the shard in bytes, -1 where no row came of its units."""

    size: int
    result: msgspec.Raw


def changes(staging: Path, job: Mapping[str, Any], dumps: Sequence[Dump]) -> list[str] | None:
    """How a run differs from the unfinished one in `staging`: [] is not at all, None that there is none."""
    try:
        before = json.loads((staging / JOB).read_text(encoding="utf-8"))
        told = list(_differences("", before, json.loads(json.dumps(job))))
        if not told:
            for number, dump in enumerate(dumps):
                held = pq.read_table(**places.arrow(staging / _index_name(number)))
                told += _changed_files(held, _index(dump), dump)
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return None
    return told


def begin(staging: Path, job: Mapping[str, Any], dumps: Sequence[Dump]) -> None:
    """Note what a run is about, before its first shard."""
    places.make_folder(staging / DONE)
    for number, dump in enumerate(dumps):
        with places.atomic_write(staging / _index_name(number)) as file:
            pq.write_table(_index(dump), file, compression="zstd")
    with places.atomic_write(staging / JOB, "w") as file:
        json.dump(job, file)


def count(staging: Path) -> int:
    """How many shards are done."""
    return sum(path.suffix == ".json" for path in (staging / DONE).iterdir())


def note(shard: Path, result: Any) -> None:
    """Note what a shard came to. A result is a NamedTuple of what JSON has."""
    size = shard.stat().st_size if shard.is_file() else -1
    with places.atomic_write(_line(shard)) as file:
        file.write(msgspec.json.encode({"size": size, "result": result}))


def done(shard: Path, kind: type[Result]) -> Result | None:
    """What a shard came to, None where it is still to do."""
    try:
        line = msgspec.json.decode(_line(shard).read_bytes(), type=_Line)
        size = shard.stat().st_size if shard.is_file() else -1
        return msgspec.json.decode(line.result, type=kind) if size == line.size else None
    except (OSError, msgspec.MsgspecError):
        return None


@contextmanager
def in_hand(shard: Path) -> Iterator[int]:
    """A file descriptor for `hold`; the file is gone when its worker is through, and stays if that dies."""
    path = _mark(shard)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def hold(descriptor: int, unit: int) -> None:
    """Note which unit of its shard a worker has in hand."""
    os.pwrite(descriptor, unit.to_bytes(8, "little"), 0)


def was_in_hand(shard: Path) -> int | None:
    """The unit that a worker which died had in hand, if it opened any image; asked again, None."""
    try:
        held = _mark(shard).read_bytes()
        _mark(shard).unlink()  # the next worker may die before it has anything in hand
    except OSError:
        return None
    return int.from_bytes(held, "little") if len(held) == 8 else None


def _line(shard: Path) -> Path:
    return shard.parent.parent / DONE / f"{shard.stem}.json"


def _mark(shard: Path) -> Path:
    return shard.parent / f".{shard.stem}.at"


def _index_name(number: int) -> str:
    return f"dump-{number}.parquet"


def _index(dump: Dump) -> pa.Table:
    return pa.table(
        {
            "path": pa.array(dump.paths, pa.string()),
            "size": pa.array([dump.sizes[path] for path in dump.paths], pa.int64()),
            "stamp": pa.array(dump.stamps, pa.int64()),
        }
    )


def _differences(key: str, before: Any, now: Any) -> Iterator[str]:
    """The values that differ, by their keys."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted({*before, *now}):
            yield from _differences(f"{key}.{name}" if key else name, before.get(name), now.get(name))
    elif before != now:
        yield f"{key} was {json.dumps(before)}, is {json.dumps(now)}"


def _changed_files(before: pa.Table, now: pa.Table, dump: Dump) -> Iterator[str]:
    """One line: the first file that differs, and how many more do."""
    if before.equals(now):
        return
    old, new = (
        {path: (size, stamp) for path, size, stamp in zip(*table.to_pydict().values(), strict=True)}
        for table in (before, now)
    )
    differ = sorted(path for path in {*old, *new} if old.get(path) != new.get(path))
    first = differ[0]
    what = "is new" if first not in old else "is gone" if first not in new else "has changed"
    more = f", and {len(differ) - 1:,} more files differ" if len(differ) > 1 else ""
    yield f"{dump.root}: {first} {what}{more}"
