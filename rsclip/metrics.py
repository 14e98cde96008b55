"""Retrieval recall by rank counting, independent of the order of rows.

The protocol is RemoteCLIP's (section IV-B; the code of its `retrieval.py` and of CLIP_benchmark): scores are
dot products of L2-normalised features, image → text is a hit if any caption of the image is among the first
k, and the mean recall is the mean of all recalls before rounding. Captions that several images share count
as wrong for all but their own image, as in those papers.

Equal scores are where the published code depends on the order of its input: `topk` keeps whichever of two
equal captions stands first. Here a hit counts with its probability under random tie-breaking instead, which
equals the published number where no scores tie, and is the same for every order of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
Ranks = tuple[Ints, Ints, Ints]
"""Of each query: (greater, tied, positives) as `hit_rate` takes them."""

SCORES_AT_ONCE = 1 << 24  # 64 MB of float32; the whole score matrix never stands in memory


def recall_at_k(
    image_features: Floats, text_features: Floats, owners: Ints, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Recall in percent, both directions, and their mean.

    image_features: float32 [images, dim]; text_features: float32 [captions, dim]; rows L2-normalised.
    owners: int [captions], the row of the image that each caption belongs to; each image owns at least one.

    Returns `i2t_R@k` (image → text) and `t2i_R@k` (text → image) for each k, and `mean_recall`.
    Raises ValueError on shapes that do not fit, non-finite features, or an image without a caption.
    """
    images, texts = np.asarray(image_features, np.float32), np.asarray(text_features, np.float32)
    owners = _checked_owners(owners, len(images), len(texts))
    if not (np.isfinite(images).all() and np.isfinite(texts).all()):
        raise ValueError("features hold NaN or infinity")
    rows = np.arange(len(images))
    return _recalls(_count_ranks(images, texts, rows, owners), _count_ranks(texts, images, owners, rows), ks)


def chance(owners: Ints, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """What `recall_at_k` gives, in expectation, for a random ranking: the floor to print beside a score.

    owners: int [captions], as for `recall_at_k`. Exact: a random ranking is one where all scores tie.
    """
    owners = np.asarray(owners)
    captions = np.bincount(owners)
    to_text = (np.zeros_like(captions), np.full_like(captions, len(owners)), captions)
    to_image = (np.zeros_like(owners), np.full_like(owners, len(captions)), np.ones_like(owners))
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
    for place in range(k):
        quotient = np.maximum(tied - positives - place, 0) / np.maximum(tied - place, 1)
        miss *= np.where(place < free, quotient, 1.0)
    return 1.0 - miss


def _recalls(to_text: Ranks, to_image: Ranks, ks: Sequence[int]) -> dict[str, float]:
    sides = {"i2t": to_text, "t2i": to_image}
    recalls = {
        f"{side}_R@{k}": 100 * float(hit_rate(*ranks, k).mean()) for side, ranks in sides.items() for k in ks
    }
    return {**recalls, "mean_recall": sum(recalls.values()) / len(recalls)}


def _count_ranks(queries: Floats, gallery: Floats, query_groups: Ints, gallery_groups: Ints) -> Ranks:
    """Ranks of each query in the gallery; a query and an item of equal group are a positive pair."""
    # A matrix product may round equal rows differently at the edges of its blocks. Scoring each distinct row
    # once and copying the score makes equal rows tie exactly.
    distinct, place = _distinct_rows(gallery)
    columns = distinct.T
    counts = np.empty((3, len(queries)), np.int64)
    step = max(1, SCORES_AT_ONCE // len(gallery))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        scores = (queries[part] @ columns)[:, place]
        positive = query_groups[part, None] == gallery_groups[None, :]
        best = np.where(positive, scores, -np.inf).max(axis=1, keepdims=True)
        tied = scores == best
        counts[:, part] = (scores > best).sum(1), tied.sum(1), (tied & positive).sum(1)
    return counts[0], counts[1], counts[2]


def _distinct_rows(rows: Floats) -> tuple[Floats, Ints]:
    """The distinct rows in order of first appearance, and for each row its place among them."""
    first: dict[bytes, int] = {}
    place = np.array([first.setdefault(row.tobytes(), len(first)) for row in rows])
    _, kept = np.unique(place, return_index=True)
    return rows[kept], place


def _checked_owners(owners: Ints, images: int, texts: int) -> Ints:
    owners = np.asarray(owners)
    if owners.shape != (texts,):
        raise ValueError(f"expected one owner for each of {texts} captions, got shape {owners.shape}")
    if not np.array_equal(np.unique(owners), np.arange(images)):
        raise ValueError(f"owners must name each of the {images} images at least once, and nothing else")
    return owners
