from __future__ import annotations

import itertools
import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from rsclip import metrics
from rsclip.metrics import chance, hit_rate, recall_at_k

REAL = Path(os.environ.get("RSDATA_REAL", Path(__file__).parents[2].parent / "shared"))
REFERENCE = REAL / "reference" / "retrieval.json"
KS = (1, 5, 10)


def by_enumeration(scores, positive, k):
    """Exact mean hit@k over every order of the gallery that agrees with the scores."""
    hits = Fraction(0)
    for row, wanted in zip(scores, positive, strict=True):
        orders = [
            p for p in itertools.permutations(range(len(row))) if list(row[list(p)]) == sorted(row)[::-1]
        ]
        hits += Fraction(sum(any(wanted[j] for j in p[:k]) for p in orders), len(orders))
    return float(100 * hits / len(scores))


@pytest.mark.parametrize("seed", range(12))
def test_recall_equals_the_mean_over_every_tie_breaking_order(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 4, size=rng.integers(2, 4))
    counts[-1] = min(counts[-1], 7 - counts[:-1].sum())  # 7! orders is what a second can enumerate
    owners = np.repeat(np.arange(len(counts)), counts)
    rng.shuffle(owners)
    images = rng.integers(-1, 2, size=(len(counts), 2)).astype(np.float32)
    texts = rng.integers(-1, 2, size=(len(owners), 2)).astype(np.float32)
    ks = (1, 2, 3, 7)
    found = recall_at_k(images, texts, owners, ks)
    positive = owners[None, :] == np.arange(len(counts))[:, None]
    for k in ks:
        assert found[f"i2t_R@{k}"] == pytest.approx(by_enumeration(images @ texts.T, positive, k), abs=1e-9)
        assert found[f"t2i_R@{k}"] == pytest.approx(by_enumeration(texts @ images.T, positive.T, k), abs=1e-9)


def test_hit_rate_is_hypergeometric():
    from math import comb

    for greater, tied, k in itertools.product(range(4), range(1, 7), range(1, 9)):
        for positives in range(1, tied + 1):
            free = min(max(k - greater, 0), tied)
            expected = 1 - comb(tied - positives, free) / comb(tied, free)
            found = hit_rate(np.array([greater]), np.array([tied]), np.array([positives]), k)
            assert found[0] == pytest.approx(expected, abs=1e-12)


def test_mean_recall_is_the_mean_before_rounding():
    found = recall_at_k(*embeddings(seed=9, n=40, cpi=5, d=16, sig=0.3), KS)
    assert list(found) == ["i2t_R@1", "i2t_R@5", "i2t_R@10", "t2i_R@1", "t2i_R@5", "t2i_R@10", "mean_recall"]
    assert found["mean_recall"] == pytest.approx(np.mean(list(found.values())[:6]), abs=1e-12)


def test_result_is_the_same_for_every_order_of_rows_and_every_chunk(monkeypatch):
    images, texts, owners = embeddings(seed=4, n=120, cpi=5, d=48, sig=0.12, dup=0.3)
    whole = recall_at_k(images, texts, owners)
    rng = np.random.default_rng(0)
    text_order, image_order = rng.permutation(len(texts)), rng.permutation(len(images))
    place = np.argsort(image_order)
    assert recall_at_k(images[image_order], texts[text_order], place[owners[text_order]]) == pytest.approx(
        whole
    )
    monkeypatch.setattr(metrics, "SCORES_AT_ONCE", 7 * len(texts))
    assert recall_at_k(images, texts, owners) == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize("d", [3, 48, 511, 512, 768])
def test_equal_captions_tie_exactly_whatever_the_width(d):
    images, texts, owners = embeddings(seed=1, n=37, cpi=1, d=d, sig=0.5)
    texts[:] = texts[0]
    assert recall_at_k(images, texts, owners)["i2t_R@1"] == pytest.approx(100 / 37, abs=1e-9)


def test_chance_is_the_recall_of_features_that_say_nothing():
    owners = np.repeat(np.arange(9), [1, 2, 3, 4, 5, 5, 5, 1, 1])
    blank = np.ones((9, 4), np.float32), np.ones((len(owners), 4), np.float32)
    assert chance(owners) == pytest.approx(recall_at_k(*blank, owners), abs=1e-9)
    assert chance(np.repeat(np.arange(200), 5))["t2i_R@10"] == pytest.approx(5.0)


def test_bad_input_is_refused_rather_than_scored():
    images, texts, owners = embeddings(seed=0, n=5, cpi=2, d=4, sig=1.0)
    with pytest.raises(ValueError, match="NaN"):
        recall_at_k(images * np.nan, texts, owners)
    with pytest.raises(ValueError, match="each of the 5 images"):
        recall_at_k(images, texts, np.zeros(10, int))
    with pytest.raises(ValueError, match="one owner for each"):
        recall_at_k(images, texts, owners[:-1])


def embeddings(seed, n, cpi, d, sig, ragged=False, dup=0.0, quant=0.0):
    """Synthetic embeddings by the recipe that the reference file states."""
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((n, d)).astype(np.float32)
    counts = rng.integers(1, 6, n) if ragged else np.full(n, cpi)
    owners = np.repeat(np.arange(n), counts)
    texts = sig * images[owners] + rng.standard_normal((len(owners), d)).astype(np.float32)
    if dup:
        k = int(dup * len(texts))
        copies = rng.choice(len(texts), k, replace=False)
        texts[copies] = texts[rng.choice(len(texts), k)]
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    if quant:
        images, texts = np.round(images * quant) / quant, np.round(texts * quant) / quant
    return images.astype(np.float32), texts.astype(np.float32), owners


def reference_cases():
    return sorted(json.loads(REFERENCE.read_text())["cases"].items()) if REFERENCE.is_file() else []


@pytest.mark.real
@pytest.mark.skipif(not REFERENCE.is_file(), reason="no reference/retrieval.json under RSDATA_REAL")
@pytest.mark.parametrize(("name", "case"), reference_cases())
def test_recall_equals_clip_benchmark(name, case):
    images, texts, owners = embeddings(**case["params"])
    # The reference states a checksum, so that a changed random generator cannot pass for a wrong metric.
    assert float(images.sum(dtype=np.float64)) == pytest.approx(case["img_sum"], abs=1e-2)
    assert float(texts.sum(dtype=np.float64)) == pytest.approx(case["txt_sum"], abs=1e-2)
    found = recall_at_k(images, texts, owners)
    named = {
        key.replace("i2t", "image2text").replace("t2i", "text2image"): value for key, value in found.items()
    }
    assert named == pytest.approx(case["rank_expected"], abs=1e-4)
    if case["clip_benchmark"] == case["clip_benchmark_permuted"]:  # no ties: topk is well defined
        assert named == pytest.approx(case["clip_benchmark"], abs=1e-4)
