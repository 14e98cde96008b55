"""Retrieval recall by rank counting, independent of the order of rows.

The protocol is RemoteCLIP's (section IV-B; the code of its `retrieval.py` and of CLIP_benchmark): scores are
dot products of L2-normalised features, image → text is a hit if any caption of the image is among the first
k, and the mean recall is the mean of all recalls before rounding. Captions that several images share count
as wrong for all but their own image, as in those papers; `recall_at_k` gives the other reading beside it.
`unique_text_recall` is SkyScript's protocol (arXiv 2312.12856; the code of its `cross_modal_retrieval`).

Equal scores are where the published code depends on the order of its input: `topk` keeps whichever of two
equal captions stands first. Here a hit counts with its probability under random tie-breaking instead, which
equals the published number where no scores tie, and is the same for every order of rows.

A query hits at k if fewer than k items score above its best positive, so nothing is sorted: the scores are
computed a tile at a time, each tile serves both directions, and memory beyond the features grows with the
numbers of images and captions, not with their product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]

TIES = ("expected", "optimistic", "pessimistic")
"""Where a query's positives stand among items of equal score: at random, before them, behind them."""
TILE = {"cpu": 1024, "cuda": 4096}
"""Images, and texts, scored at once: on a CPU what its caches hold, on a GPU what keeps it busy."""
KEPT = 16
"""No more tiles than that are all kept: what is scored in the first pass need not be in the second."""
EXACT = 1 << 24
"""Up to here float32 counts exactly."""
_ZERO = np.float32(0)
"""Added to features it makes −0, which equals 0, the same bytes."""


class Ranks(NamedTuple):
    """Of each query: items scored above its best positive; items at that score, positives included; those."""

    greater: Ints
    tied: Ints
    positives: Ints

    def repeated(self, times: Ints) -> Ranks:
        """Each query so many times."""
        return Ranks(*(np.repeat(each, times) for each in self))

    def broken(self, ties: str) -> Ranks:
        """With positives before or behind the items that tie with them, or left as they are ("expected")."""
        if ties == "expected":
            return self
        behind = self.tied - self.positives if ties == "pessimistic" else 0
        return Ranks(self.greater + behind, self.positives, self.positives)


def recall_at_k(
    images: Floats,
    texts: Floats,
    owners: Ints,
    ks: Sequence[int] = (1, 5, 10),
    places: Ints | None = None,
    ties: str = "expected",
    device: str = "cpu",
) -> dict[str, float]:
    """Recall in percent, both directions, and their mean, under both readings of captions that repeat.

    images: float32 [images, dim]; texts: float32 [distinct texts, dim]; rows L2-normalised.
    owners: int [captions], the row of the image that each caption belongs to; each image owns at least one.
    places: int [captions], the row of `texts` that each caption has; None: each has its own row of `texts`,
        and equal rows are the same text.
    ties: one of `TIES`; "expected" is the mean over all orders of equal items.
    device: where the products are computed, as torch names it; in float32 everywhere.

    Returns `i2t_R@k` (image → text) and `t2i_R@k` (text → image) for each k, and `mean_recall`. The same as
    `equal_i2t_R@k`, `equal_t2i_R@k`, `equal_mean_recall`, where a caption of another image is right too if
    its text is one of the image's own, and an image if it has the caption's text. `tied_queries`: percentage
    of the queries of both directions whose best positive ties with an item that is no positive, by the first
    reading. In both readings each image and each caption is one query.

    Equal rows tie exactly. Other scores are rounded to float32: two that differ in the last bit may change
    places from one device, or order of rows, to another.

    Raises ValueError on shapes that do not fit, non-finite features, an image without a caption, a text that
    no caption has, or unknown `ties`.
    """
    found = _ranked(images, texts, owners, places, ties, device)
    pairs = found.pairs
    carried = _sums(pairs.texts, pairs.captions)
    to_text = found.to_text(pairs.captions)
    to_image = found.to_image().repeated(pairs.captions)
    to_equal, to_carrier = found.to_text(carried[pairs.texts]), found.to_carrier().repeated(carried)
    equal = _recalls(to_equal.broken(ties), to_carrier.broken(ties), ks)
    return {
        **_recalls(to_text.broken(ties), to_image.broken(ties), ks),
        **{f"equal_{name}": value for name, value in equal.items()},
        "tied_queries": _tied(to_text, to_image),
    }


def unique_text_recall(
    images: Floats,
    texts: Floats,
    owners: Ints,
    places: Ints | None = None,
    ks: Sequence[int] = (1, 5, 10, 100),
    ties: str = "expected",
    device: str = "cpu",
) -> dict[str, float]:
    """Recall in percent over distinct texts, each right for every image that has it: SkyScript's protocol.

    Arguments and errors as for `recall_at_k`. A text is one item and one query, however many captions have
    it. Returns `i2t_R@k` and `t2i_R@k` for each k, `mean_recall`, and `tied_queries`. Where k is at least the
    size of the gallery every query hits.
    """
    found = _ranked(images, texts, owners, places, ties, device, unique=True)
    to_text, to_carrier = found.to_text(np.ones_like(found.pairs.texts)), found.to_carrier()
    recalls = _recalls(to_text.broken(ties), to_carrier.broken(ties), ks)
    return {**recalls, "tied_queries": _tied(to_text, to_carrier)}


def chance(owners: Ints, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """What `recall_at_k` gives, in expectation, for a random ranking: the floor to print beside a score.

    owners: int [captions], as for `recall_at_k`. Exact: a random ranking is one where all scores tie.
    """
    owners = np.asarray(owners)
    captions = np.bincount(owners)
    to_text = Ranks(np.zeros_like(captions), np.full_like(captions, len(owners)), captions)
    to_image = Ranks(np.zeros_like(owners), np.full_like(owners, len(captions)), np.ones_like(owners))
    return _recalls(to_text, to_image, ks)


def hit_rate(
    greater: Floats | Ints, tied: Floats | Ints, positives: Floats | Ints, k: int
) -> NDArray[np.float64]:
    """Probability, for each query, that one of its positives is among the first k.

    greater: items scored above the query's best positive; tied: items at that score, positives included;
    positives: the positives at that score. With s = k − greater places left for the tied items, a random
    order misses with C(tied − positives, s) / C(tied, s), here as a product of s quotients.
    """
    free = k - np.asarray(greater)
    miss = np.ones(len(free))
    for place in range(min(k, int(np.max(tied)))):
        quotient = np.maximum(tied - positives - place, 0) / np.maximum(tied - place, 1)
        miss *= np.where(place < free, quotient, 1.0)
    return 1.0 - miss


def _recalls(to_text: Ranks, to_image: Ranks, ks: Sequence[int]) -> dict[str, float]:
    sides = {"i2t": to_text, "t2i": to_image}
    recalls = {
        f"{side}_R@{k}": 100 * float(hit_rate(*ranks, k).mean()) for side, ranks in sides.items() for k in ks
    }
    return {**recalls, "mean_recall": sum(recalls.values()) / len(recalls)}


def _tied(*sides: Ranks) -> float:
    """Percentage of all queries that tie with an item that is no positive."""
    return 100 * float(np.concatenate([side.tied > side.positives for side in sides]).mean())


class _Pairs(NamedTuple):
    """Each text with each image that has it, once: their rows, and how many captions say so."""

    texts: Ints
    images: Ints
    captions: Ints


class _Ranked(NamedTuple):
    """How the best positives stand.

    own: float32 [pairs], their scores. of_images: int64 [2, images], the items among the texts that score
    above an image's best pair, and equal to it. of_pairs: int64 [2, pairs], the images that score with a
    pair's text above the pair, and equal to it.
    """

    pairs: _Pairs
    own: Floats
    of_images: Ints
    of_pairs: Ints

    def to_text(self, positives: Ints) -> Ranks:
        """Of each image. positives: int [pairs], the right items that each pair stands for."""
        images = self.pairs.images
        best = self.own == _greatest(self.own, images)[images]
        greater, tied = self.of_images
        return Ranks(greater, tied, _sums(images[best], positives[best]))

    def to_image(self) -> Ranks:
        """Of each pair's text, the pair's image alone being right."""
        greater, tied = self.of_pairs
        return Ranks(greater, tied, np.ones_like(tied))

    def to_carrier(self) -> Ranks:
        """Of each text, every image that has it being right: the ranks of its best pair."""
        texts = self.pairs.texts
        best = np.flatnonzero(self.own == _greatest(self.own, texts)[texts])
        positives = np.bincount(texts[best])
        one = np.empty_like(positives)
        one[texts[best]] = best
        greater, tied = self.of_pairs[:, one]
        return Ranks(greater, tied, positives)


def _greatest(own: Floats, groups: Ints) -> Floats:
    greatest = np.full(groups.max() + 1, -np.inf, np.float32)
    np.maximum.at(greatest, groups, own)
    return greatest


def _sums(groups: Ints, values: Ints) -> Ints:
    return np.bincount(groups, values).astype(np.int64)


def _ranked(
    images: Floats,
    texts: Floats,
    owners: Ints,
    places: Ints | None,
    ties: str,
    device: str,
    unique: bool = False,
) -> _Ranked:
    """Score and count. unique: a text is one item; otherwise as many as it has captions."""
    if ties not in TIES:
        raise ValueError(f"ties must be one of {', '.join(TIES)}, not {ties}")
    images, texts, owners = np.asarray(images, np.float32), np.asarray(texts, np.float32), np.asarray(owners)
    says = np.arange(len(texts)) if places is None else np.asarray(places)
    _check(images, texts, owners, says)
    # A matrix product may round equal rows differently at the edges of its blocks. Scoring each distinct row
    # once makes equal rows tie exactly.
    rows, row = _distinct(images)
    columns, column = _distinct(texts)
    if places is None:
        says, column = column, np.arange(len(columns))
    keys, captions = np.unique(says.astype(np.int64) * len(images) + owners, return_counts=True)
    pairs = _Pairs(*np.divmod(keys, len(images)), captions)
    order = _by_image(row[pairs.images], column[pairs.texts])
    columns, column = columns[order], np.argsort(order)[column]
    items = np.ones_like(column) if unique else _sums(pairs.texts, captions)
    with _full_precision():
        tiles = _Tiles(images, texts, rows, columns, device)
        order = np.lexsort((column[pairs.texts], tiles.holding(row[pairs.images], column[pairs.texts])))
        pairs = _Pairs(*(each[order] for each in pairs))
        return _Ranked(pairs, *_counted(tiles, pairs, row, column, _sums(column, items)))


def _check(images: Floats, texts: Floats, owners: Ints, places: Ints) -> None:
    if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1]:
        raise ValueError(f"expected rows of equal width, got images {images.shape} and texts {texts.shape}")
    if owners.shape != places.shape:
        raise ValueError(f"expected one owner for each of {len(places)} captions, got shape {owners.shape}")
    for name, named, count, what in (
        ("owners", owners, len(images), "images"),
        ("places", places, len(texts), "texts"),
    ):
        if not np.array_equal(np.unique(named), np.arange(count)):
            raise ValueError(f"{name} must name each of the {count} {what} at least once, and nothing else")
    for features in (images, texts):
        if not np.isfinite([features.min(), features.max()]).all():
            raise ValueError("features hold NaN or infinity")


def _distinct(features: Floats) -> tuple[Ints, Ints]:
    """The first of each set of equal rows, ascending, and for each row its place among them."""
    # Rows with different beginnings differ, and in most features all do: the others alone are hashed.
    begins = np.ascontiguousarray(features[:, :2]) + _ZERO
    _, alike, times = np.unique(
        begins.view(f"V{begins[0].nbytes}")[:, 0], return_inverse=True, return_counts=True
    )
    repeated = np.flatnonzero(times[alike] > 1)
    digests = [blake2b(features[row] + _ZERO, digest_size=16).digest() for row in repeated]
    _, first, same = np.unique(np.array(digests, "V16"), return_index=True, return_inverse=True)
    place = np.arange(len(features))
    place[repeated] = repeated[first[same]]
    return np.unique(place, return_inverse=True)


def _by_image(rows: Ints, columns: Ints) -> Ints:
    """An order of the columns in which few tiles hold pairs: by row, those with several rows last.

    rows, columns: of the pairs; each column has one.
    """
    first = np.full(columns.max() + 1, rows.max())
    last = np.zeros_like(first)
    np.minimum.at(first, columns, rows)
    np.maximum.at(last, columns, rows)
    return np.lexsort((first, first != last))


@contextmanager
def _full_precision() -> Iterator[None]:
    """Float32 products in float32: a trainer may have allowed TF32 or bfloat16, which make ties."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class _Tiles:
    """The scores of distinct images by distinct texts, never all at once.

    rows, columns: which images and texts, as they stand in the scores. shape: tiles of columns, of rows.
    """

    def __init__(self, images: Floats, texts: Floats, rows: Ints, columns: Ints, device: str) -> None:
        import torch

        # Images lie whole where they are multiplied; the texts, of which there are more, come tile by tile.
        whole = len(rows) == len(images) and images.flags.writeable
        self.images = torch.from_numpy(images if whole else images[rows]).to(device)
        self.texts, self.columns = texts, columns
        self.edge = TILE.get(self.images.device.type, max(TILE.values()))
        self.shape = (-(-len(columns) // self.edge), -(-len(rows) // self.edge))
        self.kept: dict[tuple[int, int], Tensor] = {}

    def holding(self, rows: Ints, columns: Ints) -> Ints:
        """The number of the tile that each place of the scores is in."""
        return columns // self.edge * self.shape[1] + rows // self.edge

    def spare(self, dtype: torch.dtype) -> Tensor:
        """Room for a tile, to be written again and again: fresh pages take longer than the counting."""
        import torch

        return torch.empty(self.edge**2, dtype=dtype, device=self.images.device)

    def over(self, wanted: NDArray[np.bool_]) -> Iterator[tuple[int, int, Tensor]]:
        """Each tile's place x among the columns, y among the rows, and its scores.

        wanted: bool [*shape], the tiles. Scores: float32 [rows, columns], good until the next.
        """
        import torch

        room = self.spare(torch.float32)
        for x in np.flatnonzero(wanted.any(1)).tolist():
            part = self.columns[x * self.edge : (x + 1) * self.edge]
            texts = torch.from_numpy(self.texts[part]).to(room.device)
            for y in np.flatnonzero(wanted[x]).tolist():
                images = self.images[y * self.edge : (y + 1) * self.edge]
                if wanted.size > KEPT:
                    yield x, y, torch.mm(images, texts.T, out=_shaped(room, len(images), len(texts)))
                    continue
                if (x, y) not in self.kept:
                    self.kept[x, y] = torch.mm(images, texts.T)
                yield x, y, self.kept[x, y]


def _shaped(room: Tensor, rows: int, columns: int) -> Tensor:
    return room[: rows * columns].view(rows, columns)


class _Queries:
    """Rows (axis 0) or columns (axis 1) of the scores, each to be counted against a score of its own.

    lines: int [queries], the row or column of each, those of a tile together; own: float32 [queries].
    counts: int64 [2, queries], of items that score above, and equal.
    """

    def __init__(self, tiles: _Tiles, axis: int, lines: Ints, own: Tensor) -> None:
        import torch

        self.axis, self.edge, self.own = axis, tiles.edge, own
        self.lines = lines % self.edge
        self.starts = np.searchsorted(lines // self.edge, np.arange(tiles.shape[1 - axis] + 1))
        self.counts = torch.zeros(2, len(lines), dtype=torch.int64, device=own.device)

    def count(self, tile: int, scores: Tensor, weights: Tensor, gathered: Tensor, mask: Tensor) -> None:
        """Add what a tile has. tile: its place along the axis. weights: [other axis], how many an item is."""
        import torch

        for start in range(self.starts[tile], self.starts[tile + 1], self.edge):
            part = slice(start, min(start + self.edge, self.starts[tile + 1]))
            lines, found = self.lines[part], scores
            if not np.array_equal(lines, np.arange(scores.shape[self.axis])):
                rows, columns = scores.shape
                found = _shaped(gathered, *((len(lines), columns) if self.axis == 0 else (rows, len(lines))))
                which = torch.from_numpy(lines).to(scores.device)
                torch.index_select(scores, self.axis, which, out=found)
            against = self.own[part].unsqueeze(1 - self.axis)
            for counts, compare in zip(self.counts, (torch.gt, torch.eq), strict=True):
                # Ones and zeros as floats: a product with the weights sums them faster than any sum of bits.
                hits = compare(found, against, out=_shaped(mask, *found.shape))
                counts[part] += (hits @ weights if self.axis == 0 else weights @ hits).long()


def _counted(tiles: _Tiles, pairs: _Pairs, row: Ints, column: Ints, items: Ints) -> tuple[Floats, Ints, Ints]:
    """`_Ranked` without its pairs. row, column: of each image and text; items: how many a column is."""
    import torch

    device = tiles.images.device
    rows, columns = row[pairs.images], column[pairs.texts]
    wanted = np.ones(tiles.shape, bool)
    starts = np.searchsorted(tiles.holding(rows, columns), np.arange(wanted.size + 1))
    at = (torch.from_numpy(rows % tiles.edge).to(device), torch.from_numpy(columns % tiles.edge).to(device))

    def held(x: int, y: int) -> tuple[slice, tuple[Tensor, Tensor]]:
        tile = x * tiles.shape[1] + y
        part = slice(starts[tile], starts[tile + 1])
        return part, (at[0][part], at[1][part])

    own = torch.empty(len(rows), device=device)
    for x, y, scores in tiles.over(np.diff(starts).reshape(tiles.shape) > 0):
        part, places = held(x, y)
        own[part] = scores[places]

    by_row = np.argsort(row, kind="stable")
    best = torch.from_numpy(_greatest(own.cpu().numpy(), pairs.images)[by_row]).to(device)
    of_images, of_pairs = _Queries(tiles, 0, row[by_row], best), _Queries(tiles, 1, columns, own)
    same = np.bincount(row)
    exact = torch.float32 if max(items.sum(), same.sum()) <= EXACT else torch.float64
    gathered, mask = tiles.spare(torch.float32), tiles.spare(exact)
    texts, images = (
        torch.split(torch.from_numpy(each).to(device, exact), tiles.edge) for each in (items, same)
    )
    for x, y, scores in tiles.over(wanted):
        # A product need not repeat its last bits, and a pair must equal itself.
        part, places = held(x, y)
        scores[places] = own[part]
        of_images.count(y, scores, texts[x], gathered, mask)
        of_pairs.count(x, scores, images[y], gathered, mask)
    in_order = of_images.counts.cpu().numpy()[:, np.argsort(by_row)]
    return own.cpu().numpy(), in_order, of_pairs.counts.cpu().numpy()
