"""Batches of images, each with one or several of its captions, in an order that needs no history.

Everything random is a pure function of (seed, epoch, image): the order, the caption, the crop. So a run can
stop after any step and go on as if it had not, with any number of workers and ranks.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from rsclip.loss import Marks
from rsclip.pixels import Pixels, mix
from rsclip.store import Row, Store

Tokenise = Callable[[list[str]], Tensor]


class Lost(NamedTuple):
    """A row that could not serve when its turn came: its image id, and which of REASONS."""

    image_id: str
    reason: str


REASONS = ("unreadable", "without_image", "without_captions")


class Batch(NamedTuple):
    """Pairs as the model takes them: P captions and H hard negatives an image.

    images: uint8 [pairs, 3, height, width]; tokens: int64 [pairs, P + H, length]; marks: as `rsclip.loss`.
    A pair whose image cannot be decoded stays in its place, is not `valid`, and is named in `lost`.
    """

    images: Tensor
    tokens: Tensor
    marks: Marks
    lost: list[Lost]

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in memory from which a GPU copies while the program goes on."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        marks = Marks(*map(change, self.marks))
        return Batch(change(self.images), change(self.tokens), marks, self.lost)


class Item(NamedTuple):
    """One pair: uint8 image or None, texts (P captions, then H hard negatives; None is a gap), and marks."""

    image: Tensor | None
    texts: list[str | None]
    image_id: str
    signature: int
    lost: str | None


@dataclass(frozen=True)
class Draw:
    """What an epoch makes of a row. All chance comes from (seed, epoch, turn, image id).

    captions: "random" or "first". positives: captions an image. hard: hard negatives an image.
    """

    pixels: Pixels
    captions: str = "random"
    positives: int = 1
    hard: int = 0
    seed: int = 0

    def __call__(self, row: Row, epoch: int, turn: int = 0, caption: int | None = None) -> Item:
        """turn: how often this epoch has met the row before. caption: the one to take, if it is settled."""
        key = (self.seed, epoch, row.image_id, turn) if turn else (self.seed, epoch, row.image_id)
        said = row.captions or []
        if not said or not row.image:
            texts: list[str | None] = [None] * (self.positives + self.hard)
            reason = "without_captions" if row.image else "without_image"
            return Item(None, texts, row.image_id, row.signature, reason)
        chosen = [caption] if caption is not None else self.choice(len(said), mix(*key, "caption"))
        texts = [said[place] for place in chosen] + [None] * (self.positives - len(chosen))
        if self.hard:
            texts += self.contrasts(row, chosen, mix(*key, "hard"))
        try:
            image = self.pixels(row.image, mix(*key, "augment"))
        except Exception:  # Pillow's plugins raise almost anything on broken bytes
            return Item(None, texts, row.image_id, row.signature, "unreadable")
        return Item(image, texts, row.image_id, row.signature, None)

    def choice(self, count: int, seed: int) -> list[int]:
        """Which of `count` captions: distinct ones, as many as there are and are wanted."""
        wanted = min(self.positives, count)
        if self.captions == "first":
            return list(range(wanted))
        return [seed % count] if wanted == 1 else random.Random(seed).sample(range(count), wanted)

    def contrasts(self, row: Row, chosen: Sequence[int], seed: int) -> list[str | None]:
        """Hard negatives of the chosen captions, as many as are wanted, None where there are too few."""
        made = sorted({text for place in chosen for text in row.hard[place]}) if row.hard else []
        some = random.Random(seed).sample(made, min(self.hard, len(made)))
        return [*some, *[None] * (self.hard - len(some))]


class Pairs(Dataset[Item]):
    """The rows of a store; item (epoch, unit, turn) is what that epoch makes of a unit.

    A unit is an image, or with captions "all" an image with one of its captions.
    parts: how many units each table of the store has.
    """

    def __init__(self, store: Store, draw: Draw) -> None:
        self.store, self.draw = store, draw
        self.every = draw.captions == "all"
        self._ends = np.cumsum(store.captions) if self.every else None
        cuts = np.cumsum([0, *store.parts])
        sizes = [int(store.captions[one:two].sum()) for one, two in pairwise(cuts)]
        self.parts = sizes if self.every else list(store.parts)

    def __len__(self) -> int:
        return sum(self.parts)

    def __getitem__(self, item: tuple[int, int, int]) -> Item:
        epoch, unit, turn = item
        caption = None
        if self._ends is not None:
            row = int(np.searchsorted(self._ends, unit, side="right"))
            caption, unit = unit - (int(self._ends[row - 1]) if row else 0), row
        return self.draw(self.store[unit], epoch, turn, caption)


@dataclass(frozen=True)
class Order:
    """Which units each step takes, a pure function of (seed, epoch, step).

    parts: units of each table; weights: how often a table's units occur in an epoch, 0.5 for half of them,
    each time others. An epoch is a permutation of what occurs in it. Units left over by whole batches sit
    that epoch out; each epoch it is others.
    """

    parts: Sequence[int]
    batch_size: int
    weights: Sequence[float] = ()
    seed: int = 0

    def __len__(self) -> int:
        """Units in an epoch."""
        return sum(full * size + some for full, some, size in self._shares())

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return max(1, len(self) // self.batch_size)

    def _shares(self) -> Iterator[tuple[int, int, int]]:
        for size, weight in zip(self.parts, self.weights or [1.0] * len(self.parts), strict=True):
            yield int(weight), round((weight - int(weight)) * size), size

    def epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Units of an epoch in their order, and of each how often it occurred before in some order."""
        units, turns, start = [], [], 0
        for part, (full, some, size) in enumerate(self._shares()):
            for turn in range(full):
                units.append(np.arange(start, start + size))
                turns.append(np.full(size, turn))
            if some:
                units.append(start + generator(self.seed, "part", part, epoch).permutation(size)[:some])
                turns.append(np.full(some, full))
            start += size
        if not units:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        order = generator(self.seed, "order", epoch).permutation(len(self))
        return np.concatenate(units)[order], np.concatenate(turns)[order]

    def batches(
        self, start: int, stop: int, rank: int = 0, world: int = 1
    ) -> Iterator[list[tuple[int, int, int]]]:
        """(epoch, unit, turn) of each pair of this rank in the steps [start, stop)."""
        shuffled, units, turns = -1, np.empty(0, np.int64), np.empty(0, np.int64)
        for step in range(start, stop):
            epoch, place = divmod(step, self.steps)
            if epoch != shuffled:
                (units, turns), shuffled = self.epoch(epoch), epoch
            first, last = place * self.batch_size, min((place + 1) * self.batch_size, len(units))
            share = (last - first) // world
            mine = slice(first + rank * share, first + (rank + 1) * share)
            yield [(epoch, int(unit), int(turn)) for unit, turn in zip(units[mine], turns[mine], strict=True)]


def generator(seed: int, *parts: int | str) -> np.random.Generator:
    """A stream of random numbers of its own for (seed, parts)."""
    return np.random.Generator(np.random.Philox(key=np.array([mix(seed, *parts), 0], np.uint64)))


def collate(items: Sequence[Item], tokenise: Tokenise, size: Sequence[int], positives: int) -> Batch:
    """Items as a batch. Texts that are missing are empty; in the place of an image that could not be decoded
    stands another of the batch, so that no batch norm sees what is no image.
    """
    texts = [text for item in items for text in item.texts]
    here = torch.tensor([item.image is not None for item in items])
    said = torch.tensor([text is not None for text in texts]).view(len(items), -1)
    tokens = tokenise([text or "" for text in texts])
    filler = next((item.image for item in items if item.image is not None), None)
    if filler is None:
        filler = torch.zeros(3, *size, dtype=torch.uint8)
    marks = Marks(
        valid=said & here[:, None],
        images=torch.tensor([key("image", item.image_id) for item in items]),
        signatures=torch.tensor([item.signature for item in items]),
        captions=torch.tensor(
            [[key("caption", text or "") for text in item.texts[:positives]] for item in items]
        ),
    )
    # Of torch's, because it stacks where the main process finds it, without another copy.
    images = default_collate([filler if item.image is None else item.image for item in items])
    lost = [Lost(item.image_id, item.lost) for item in items if item.lost]
    return Batch(images, tokens.view(len(items), -1, tokens.shape[-1]), marks, lost)


def key(*parts: str) -> int:
    """A number that fits an int64 and differs where `parts` do."""
    return mix(*parts) >> 1


def loader(
    pairs: Pairs,
    tokenise: Tokenise,
    order: Order,
    start: int,
    stop: int,
    workers: int = 0,
    pin: bool = False,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[Any]:
    """This rank's batches for the steps [start, stop): one loader for the run, no gap between epochs."""
    return DataLoader(
        pairs,
        batch_sampler=order.batches(start, stop, rank, world),
        num_workers=workers,
        collate_fn=partial(
            collate, tokenise=tokenise, size=pairs.draw.pixels.size, positives=pairs.draw.positives
        ),
        pin_memory=pin,
        worker_init_fn=leave_signals_to_parent,
    )


def leave_signals_to_parent(_: int) -> None:
    """Ctrl-C reaches the whole process group; the parent alone decides when to stop its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
