from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import warnings
from fractions import Fraction
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch

from rsclip import metrics
from rsclip.metrics import TIES, chance, hit_rate, recall_at_k, unique_text_recall

REAL = Path(os.environ.get("RSDATA_REAL", Path(__file__).parents[2].parent / "shared"))
REFERENCE = REAL / "reference" / "retrieval.json"
KS = (1, 5, 10)
KEYS = ["i2t_R@1", "i2t_R@5", "i2t_R@10", "t2i_R@1", "t2i_R@5", "t2i_R@10", "mean_recall"]


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


def by_sorting(score, positive, ks, ties):
    """Mean hit@k over the queries, the rows of `score`, each sorted by itself; and which of them tie."""
    hits, tied = {k: [] for k in ks}, []
    for row, right in zip(score, positive, strict=True):
        order = np.lexsort((~right if ties == "optimistic" else right, -row))
        place = int(np.flatnonzero(right[order])[0])
        equal = row == row[order[place]]
        t, p, greater = int(equal.sum()), int((equal & right).sum()), int((row > row[order[place]]).sum())
        tied.append(t > p)
        for k in ks:
            s = min(max(k - greater, 0), t)
            hits[k].append(1 - Fraction(comb(t - p, s), comb(t, s)) if ties == "expected" else place < k)
    return {k: 100 * float(Fraction(sum(each), len(each))) for k, each in hits.items()}, tied


def two_sided(score, positive, ks, ties):
    """Both directions of `score` [images, texts or captions]: named recalls, their mean, tied queries."""
    texts, tied = by_sorting(score, positive, ks, ties)
    images, also_tied = by_sorting(score.T, positive.T, ks, ties)
    named = {f"i2t_R@{k}": texts[k] for k in ks} | {f"t2i_R@{k}": images[k] for k in ks}
    mean = {"mean_recall": sum(named.values()) / len(named)}
    return {**named, **mean, "tied_queries": 100 * float(np.mean(tied + also_tied))}


def oracle(images, texts, owners, places, ks, ties):
    """`recall_at_k` from the whole matrix of images by captions. Float64, rounded: equal rows tie."""
    score = np.round(images.astype(float) @ texts[places].astype(float).T, 10)
    own = owners == np.arange(len(images))[:, None]
    said = [set(places[owners == image]) for image in range(len(images))]
    same = np.array([[place in mine for place in places] for mine in said])
    equal = two_sided(score, same, ks, ties)
    del equal["tied_queries"]
    return two_sided(score, own, ks, ties) | {f"equal_{name}": value for name, value in equal.items()}


def unique_oracle(images, texts, owners, places, ks, ties):
    score = np.round(images.astype(float) @ texts.astype(float).T, 10)
    carries = np.zeros(score.shape, bool)
    carries[owners, places] = True
    return two_sided(score, carries, ks, ties)


def table(seed, images=40, texts=60, dim=6, grid=0.0, twins=0.0, most=6):
    """Features of images and distinct texts, and captions: ragged, shared among images, repeated in one."""
    rng = np.random.default_rng(seed)
    owners = rng.permutation(np.repeat(np.arange(images), rng.integers(1, most, images)))
    places = np.unique(rng.integers(0, texts, len(owners)), return_inverse=True)[1]
    features = [rng.standard_normal((count, dim)) for count in (images, places.max() + 1)]
    if grid:
        features = [np.round(each * grid) / grid for each in features]
    for each in features:
        copies = rng.random(len(each)) < twins
        each[copies] = each[rng.integers(0, len(each), copies.sum())]
    return features[0].astype(np.float32), features[1].astype(np.float32), owners, places


TABLES = {
    "shared captions": {},
    "few texts": {"texts": 5},
    "one caption each": {"texts": 100_000, "most": 2},
    "ties": {"grid": 1.0, "dim": 3},
    "ties and few texts": {"grid": 1.0, "dim": 2, "texts": 12},
    "equal images, and other texts with equal features": {"twins": 0.4},
    "one dimension": {"dim": 1, "grid": 1.0},
}


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("kind", TABLES)
def test_both_readings_and_tied_queries_equal_a_sort_of_the_whole_matrix(kind, ties):
    for seed in range(4):
        given = table(seed, **TABLES[kind])
        images, texts, owners, places = given
        found = recall_at_k(images, texts, owners, (1, 2, 5, 10), places, ties)
        assert found == pytest.approx(oracle(*given, (1, 2, 5, 10), ties), abs=1e-9)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("kind", TABLES)
def test_unique_text_recall_equals_a_sort_of_the_whole_matrix(kind, ties):
    for seed in range(4):
        given = table(seed, **TABLES[kind])
        images, texts, owners, places = given
        found = unique_text_recall(images, texts, owners, places, (1, 5, 10, 30), ties)
        assert found == pytest.approx(unique_oracle(*given, (1, 5, 10, 30), ties), abs=1e-9)


def test_unique_text_recall_is_a_hit_where_k_reaches_the_size_of_the_gallery():
    images, texts, owners, places = table(3, images=20, texts=30)
    for ties in TIES:
        found = unique_text_recall(images, texts, owners, places, (1, 100), ties)
        assert found["i2t_R@100"] == found["t2i_R@100"] == 100
        assert found["t2i_R@1"] < 50


@pytest.mark.parametrize("function", [recall_at_k, unique_text_recall])
@pytest.mark.parametrize("kind", TABLES)
def test_tiles_of_any_size_find_the_same(kind, function, monkeypatch):
    images, texts, owners, places = table(7, **TABLES[kind])
    whole = function(images, texts, owners, places=places)
    monkeypatch.setattr(metrics, "KEPT", 0)
    for edge in (1, 7, 64):
        monkeypatch.setattr(metrics, "TILE", {"cpu": edge})
        assert function(images, texts, owners, places=places) == pytest.approx(whole, abs=1e-9)


def test_a_row_for_each_caption_finds_the_same_as_a_row_for_each_text():
    images, texts, owners, places = table(5, texts=20, dim=16)
    for function in (recall_at_k, unique_text_recall):
        by_text = function(images, texts, owners, places=places)
        assert function(images, texts[places], owners) == pytest.approx(by_text, abs=1e-9)


def test_where_no_text_is_shared_an_equal_caption_makes_no_difference():
    found = recall_at_k(*embeddings(seed=3, n=60, cpi=5, d=24, sig=0.2))
    assert all(found[f"equal_{name}"] == found[name] for name in KEYS)
    assert found["tied_queries"] == 0


def test_an_equal_caption_of_another_image_is_right_in_the_other_reading_alone():
    images = np.eye(3, dtype=np.float32)
    texts = np.array([[0.6, 0.8, 0], [0, 0, 1]], np.float32)
    # Images 0 and 1 have the same caption, which the model takes for image 1's.
    found = recall_at_k(images, texts, np.array([0, 1, 2]), (1,), np.array([0, 0, 1]))
    assert found["i2t_R@1"] == pytest.approx(100 * (0.5 + 0.5 + 1) / 3)
    assert found["t2i_R@1"] == pytest.approx(100 * 2 / 3)
    assert found["equal_i2t_R@1"] == found["equal_t2i_R@1"] == 100
    assert found["tied_queries"] == pytest.approx(100 * 2 / 6)


def test_zero_of_either_sign_is_the_same_text():
    images = np.array([[1, 0], [0, 1]], np.float32)
    texts = np.array([[0.0, 1], [-0.0, 1]], np.float32)
    found = recall_at_k(images, texts, np.array([0, 1]), (1,))
    assert found["equal_t2i_R@1"] == 100


def test_features_that_differ_by_rounding_alone_score_as_chance_does():
    """A positive's score must come from the same sum as the others', or rounding would tell it from them."""
    rng = np.random.default_rng(0)
    one = rng.standard_normal(512) / 512**0.5
    owners = np.repeat(np.arange(1500), 2)
    images, texts = ((one + 1e-7 * rng.standard_normal((n, 512))).astype(np.float32) for n in (1500, 3000))
    found, floor = recall_at_k(images, texts, owners, (500,)), chance(owners, (500,))
    assert {name: found[name] for name in floor} == pytest.approx(floor, abs=5)


def test_scores_are_float32_whatever_the_trainer_allowed():
    rng = np.random.default_rng(0)
    # Scores so close to each other that any coarser product puts them in another order.
    images, texts = ((1 + 1e-3 * rng.standard_normal((n, 256))).astype(np.float32) for n in (300, 900))
    owners = np.repeat(np.arange(300), 3)
    expected = recall_at_k(images, texts, owners)
    torch.set_float32_matmul_precision("medium")
    try:
        assert recall_at_k(images, texts, owners) == expected
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_captions_beyond_what_float32_counts_are_counted():
    many = metrics.EXACT + 1
    images, texts = np.eye(2, dtype=np.float32), np.array([[1, 0.5], [1, 1]], np.float32)
    line = np.arange(2)
    pairs = metrics._Pairs(line, line, np.array([many, 1]))
    tiles = metrics._Tiles(images, texts, line, line, "cpu")
    _, of_images, _ = metrics._counted(tiles, pairs, line, line, np.array([many, 2]))
    assert of_images.tolist() == [[0, 0], [many + 2, 2]]


def test_features_that_may_not_be_written_or_lie_in_columns_are_read():
    images, texts, owners, places = table(2)
    expected = recall_at_k(images, texts, owners, places=places)
    images.flags.writeable = texts.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recall_at_k(images, texts, owners, places=places) == expected
        turned = np.asfortranarray(images), np.asfortranarray(texts)
        assert recall_at_k(*turned, owners, places=places) == pytest.approx(expected, abs=1e-9)


def test_the_score_matrix_never_stands_in_memory():
    """2 GB of scores in a process of its own, and what it adds to the features."""
    code = """
import resource
import numpy as np
import torch
from rsclip.metrics import recall_at_k
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
rng = np.random.default_rng(0)
images, texts = (rng.standard_normal((count, 8), np.float32) for count in (10_000, 50_000))
recall_at_k(images[:50], texts[:50], np.arange(50))
before = peak()
recall_at_k(images, texts, np.repeat(np.arange(10_000), 5))
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 100


def test_metrics_do_not_import_torch_until_they_score():
    code = "import sys, rsclip.metrics as m; m.chance([0, 1]); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_hit_rate_is_hypergeometric():
    for greater, tied, k in itertools.product(range(4), range(1, 7), range(1, 9)):
        for positives in range(1, tied + 1):
            free = min(max(k - greater, 0), tied)
            expected = 1 - comb(tied - positives, free) / comb(tied, free)
            found = hit_rate(np.array([greater]), np.array([tied]), np.array([positives]), k)
            assert found[0] == pytest.approx(expected, abs=1e-12)


def test_mean_recall_is_the_mean_before_rounding():
    found = recall_at_k(*embeddings(seed=9, n=40, cpi=5, d=16, sig=0.3), KS)
    assert list(found) == [*KEYS, *(f"equal_{name}" for name in KEYS), "tied_queries"]
    assert found["mean_recall"] == pytest.approx(np.mean(list(found.values())[:6]), abs=1e-12)


def test_result_is_the_same_for_every_order_of_rows():
    images, texts, owners = embeddings(seed=4, n=120, cpi=5, d=48, sig=0.12, dup=0.3)
    whole = recall_at_k(images, texts, owners)
    rng = np.random.default_rng(0)
    text_order, image_order = rng.permutation(len(texts)), rng.permutation(len(images))
    place = np.argsort(image_order)
    turned = recall_at_k(images[image_order], texts[text_order], place[owners[text_order]])
    assert turned == pytest.approx(whole, abs=1e-9)
    assert 0 < whole["tied_queries"] < 100


@pytest.mark.parametrize("d", [3, 48, 511, 512, 768])
def test_equal_captions_tie_exactly_whatever_the_width(d):
    images, texts, owners = embeddings(seed=1, n=37, cpi=1, d=d, sig=0.5)
    texts[:] = texts[0]
    assert recall_at_k(images, texts, owners)["i2t_R@1"] == pytest.approx(100 / 37, abs=1e-9)


def test_chance_is_the_recall_of_features_that_say_nothing():
    owners = np.repeat(np.arange(9), [1, 2, 3, 4, 5, 5, 5, 1, 1])
    blank = np.ones((9, 4), np.float32), np.ones((len(owners), 4), np.float32)
    found = recall_at_k(*blank, owners)
    assert chance(owners) == pytest.approx({name: found[name] for name in KEYS}, abs=1e-9)
    assert found["equal_mean_recall"] == found["tied_queries"] == 100
    assert chance(np.repeat(np.arange(200), 5))["t2i_R@10"] == pytest.approx(5.0)


def test_bad_input_is_refused_rather_than_scored():
    images, texts, owners = embeddings(seed=0, n=5, cpi=2, d=4, sig=1.0)
    with pytest.raises(ValueError, match="NaN"):
        recall_at_k(images * np.nan, texts, owners)
    with pytest.raises(ValueError, match="each of the 5 images"):
        recall_at_k(images, texts, np.zeros(10, int))
    with pytest.raises(ValueError, match="one owner for each"):
        recall_at_k(images, texts, owners[:-1])
    with pytest.raises(ValueError, match="each of the 10 texts"):
        recall_at_k(images, texts, owners, places=np.zeros(10, int))
    with pytest.raises(ValueError, match="equal width"):
        recall_at_k(images[:, :3], texts, owners)
    with pytest.raises(ValueError, match="one of expected, optimistic, pessimistic"):
        unique_text_recall(images, texts, owners, ties="hopeful")


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
    for ties in TIES:
        found = recall_at_k(images, texts, owners, ties=ties)
        named = {name.replace("i2t", "image2text").replace("t2i", "text2image"): found[name] for name in KEYS}
        assert named == pytest.approx(case[f"rank_{ties}"], abs=1e-4)
        if case["clip_benchmark"] == case["clip_benchmark_permuted"]:  # no ties: topk is well defined
            assert named == pytest.approx(case["clip_benchmark"], abs=1e-4)
