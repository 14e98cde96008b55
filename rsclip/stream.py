"""Batches straight from Parquet, for tables that lie elsewhere or are larger than the disk.

The row groups of an epoch are put in a random order and laid end to end; that row of images is cut into
lanes of equal length. Each step takes as many images from each lane, and each lane shuffles them in blocks as
it goes along. So a batch mixes images from all over the corpus, a lane reads a row group once, any lane can
start anywhere by arithmetic on the footers, and neither ranks nor workers, which share the lanes among them,
change which images a step sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from rsclip import store
from rsclip.data import Batch, Draw, Item, Tokenise, collate, generator, leave_signals_to_parent
from rsclip.store import Nouns, Row, Source
from rsdata.errors import RsdataError, TableError

LANES = 32
BLOCK = 256
"""With 32 lanes 8,192 rows are shuffled at a time."""


class Group(NamedTuple):
    """A row group: of which table, in which file, its number there, its rows."""

    table: int
    file: Path
    number: int
    rows: int


@dataclass(frozen=True)
class Plan:
    """Which rows each step takes, a pure function of (seed, epoch, step).

    weights: as `data.Order`. lanes: they divide the batch. block: rows that a lane shuffles at once.
    """

    groups: Sequence[Group]
    batch_size: int
    weights: Sequence[float] = ()
    seed: int = 0
    lanes: int = LANES
    block: int = BLOCK

    @property
    def per_lane(self) -> int:
        """Rows of an epoch in a lane."""
        sizes: dict[int, int] = {}
        for group in self.groups:
            sizes[group.table] = sizes.get(group.table, 0) + group.rows
        weights = self.weights or [1.0] * len(sizes)
        shares = ((int(weight), weight - int(weight), sizes[table]) for table, weight in enumerate(weights))
        return sum(full * size + round(some * size) for full, some, size in shares) // self.lanes

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return max(1, self.per_lane // (self.batch_size // self.lanes))

    def epoch(self, epoch: int) -> tuple[list[Group], list[int]]:
        """The row groups of an epoch in order, and of each how often it came before."""
        chosen: list[tuple[Group, int]] = []
        for table in sorted({group.table for group in self.groups}):
            mine = [group for group in self.groups if group.table == table]
            weight = self.weights[table] if self.weights else 1.0
            for turn in range(int(weight)):
                chosen += [(group, turn) for group in mine]
            wanted = round((weight - int(weight)) * sum(group.rows for group in mine))
            for place in generator(self.seed, "part", table, epoch).permutation(len(mine)):
                if wanted <= 0:
                    break
                chosen.append((mine[place], int(weight)))
                wanted -= mine[place].rows
        order = generator(self.seed, "order", epoch).permutation(len(chosen))
        return [chosen[place][0] for place in order], [chosen[place][1] for place in order]


class Lanes(IterableDataset[list[Item]]):
    """The items of some lanes, step by step; each worker takes its share of them.

    Item: one step's items of this worker's lanes, in the order of lanes.
    """

    def __init__(
        self,
        plan: Plan,
        draw: Draw,
        nouns: Sequence[Nouns | None],
        start: int,
        stop: int,
        rank: int,
        world: int,
    ) -> None:
        self.plan, self.draw, self.nouns, self.steps = plan, draw, nouns, range(start, stop)
        share = plan.lanes // world
        self.mine = range(rank * share, (rank + 1) * share)

    def __iter__(self) -> Iterator[list[Item]]:
        worker = get_worker_info()
        lanes = self.mine[worker.id :: worker.num_workers] if worker else self.mine
        readers = [self.lane(number) for number in lanes]
        for _ in self.steps:
            yield [item for reader in readers for item in next(reader)]

    def lane(self, number: int) -> Iterator[list[Item]]:
        """Each step's items of one lane."""
        plan, take = self.plan, self.plan.batch_size // self.plan.lanes
        take = min(take, max(1, plan.per_lane))
        shuffled = -1
        rows: Iterator[tuple[Row, int, int]] = iter(())
        for step in self.steps:
            epoch, place = divmod(step, plan.steps)
            if epoch != shuffled:
                rows, shuffled = self.rows(number, epoch, place * take), epoch
            yield [self.draw(*next(rows)) for _ in range(take)]

    def rows(self, number: int, epoch: int, start: int) -> Iterator[tuple[Row, int, int]]:
        """(row, epoch, turn) of a lane from its row `start` on."""
        groups, turns = self.plan.epoch(epoch)
        ends = np.cumsum([group.rows for group in groups])
        first, size = number * self.plan.per_lane, self.plan.per_lane
        held: dict[int, pa.Table] = {}
        length = self.plan.block
        for block in range(start // length, -(-size // length)):
            places = np.arange(block * length, min((block + 1) * length, size))
            generator(self.plan.seed, "block", number, block, epoch).shuffle(places)
            needed = np.searchsorted(ends, first + places, side="right")
            held = {
                at: held[at] if at in held else self.read(groups[at]) for at in sorted({*needed.tolist()})
            }
            skip = max(0, start - block * length)
            for at, place in zip(needed[skip:].tolist(), places[skip:].tolist(), strict=True):
                row = first + place - (int(ends[at - 1]) if at else 0)
                yield Row(*(column[row].as_py() for column in held[at].columns)), epoch, turns[at]

    def read(self, group: Group) -> pa.Table:
        """A row group as `store.SCHEMA`. Raises TableError."""
        nouns = self.nouns[group.table]
        with store.opened(group.file) as file:
            return store.prepared(file, group.number, nouns)


class Stream:
    """This rank's batches for the steps [start, stop), as `data.loader` gives them."""

    def __init__(
        self,
        lanes: Lanes,
        tokenise: Tokenise,
        workers: int = 0,
        pin: bool = False,
    ) -> None:
        self.lanes, self.tokenise, self.pin = lanes, tokenise, pin
        self.workers = min(workers, len(lanes.mine))

    def __iter__(self) -> Iterator[Batch]:
        # Spawned, not forked: the threads of fsspec's stores do not live on in a fork.
        context = "spawn" if self.workers else None
        parts: Any = DataLoader(
            self.lanes,
            batch_size=None,
            num_workers=self.workers,
            multiprocessing_context=context,
            collate_fn=_as_it_is,
            worker_init_fn=leave_signals_to_parent,
        )
        draw = self.lanes.draw
        items: list[list[Item]] = []
        for part in parts:
            items.append(part)
            if len(items) == max(1, self.workers):
                whole = [item for each in _interleaved(items, len(self.lanes.mine)) for item in each]
                batch = collate(whole, self.tokenise, draw.pixels.size, draw.positives)
                yield batch.pin_memory() if self.pin else batch
                items = []


def _as_it_is(items: list[Item]) -> list[Item]:
    return items


def _interleaved(parts: Sequence[list[Item]], lanes: int) -> Iterator[list[Item]]:
    """The items of the workers, lane after lane: worker w has the lanes w, w + workers, …"""
    take = sum(map(len, parts)) // lanes
    for lane in range(lanes):
        worker, place = lane % len(parts), lane // len(parts)
        yield parts[worker][place * take : (place + 1) * take]


def plan(sources: Sequence[Source], batch_size: int, weights: Sequence[float], seed: int, world: int) -> Plan:
    """The plan for the row groups of these tables.

    Raises RsdataError where ranks cannot share the lanes, TableError where there is not a row for each.
    """
    groups = []
    for number, source in enumerate(sources):
        for file in source.files():
            with store.opened(file) as opened:
                rows = [opened.metadata.row_group(at).num_rows for at in range(opened.num_row_groups)]
            groups += [Group(number, file, at, count) for at, count in enumerate(rows)]
    lanes = max(count for count in range(1, LANES + 1) if batch_size % count == 0)
    made = Plan(groups, batch_size, weights, seed, lanes)
    if made.lanes % world:
        raise RsdataError(
            f"--stream deals {made.lanes} lanes to {world} processes: choose a --batch-size that is a "
            f"multiple of {LANES}, and as many processes as divide {LANES}"
        )
    if not made.per_lane:
        held = sum(group.rows for group in groups)
        raise TableError(f"{sources[0].table}: {held} rows are too few to stream: leave out --stream")
    return made
