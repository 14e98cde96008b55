from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from rsclip import classify

REAL = Path(os.environ.get("RSDATA_REAL", Path(__file__).parents[2].parent / "shared"))
REFERENCE = REAL / "reference" / "retrieval.json"


def scenes(seed=0, images=400, dim=24, classes=6, noise=1.0):
    """Features as an image tower gives them: far from the origin, of falling variance, no unit length."""
    rng = np.random.default_rng(seed)
    spread = np.arange(1, dim + 1) ** -0.6
    centres = 1.2 * rng.standard_normal((classes, dim)) * spread
    labels = rng.integers(0, classes, images)
    features = centres[labels] + noise * spread * rng.standard_normal((images, dim)) + 2 / math.sqrt(dim)
    return features.astype(np.float32), labels


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def sklearn_fit(features, labels, c):
    model = LogisticRegression(C=c, tol=1e-9, max_iter=20_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        return model.fit(features.astype(np.float64), labels)


def softmax(logits):
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def test_importing_it_does_not_import_torch():
    code = "import sys, rsclip.classify; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# scores


def test_accuracy_equals_sklearn_on_classes_of_uneven_size():
    rng = np.random.default_rng(0)
    labels = rng.choice(9, 300, p=np.arange(1, 10) / 45)
    scores = (rng.standard_normal((300, 9)) + 1.5 * np.eye(9)[labels]).astype(np.float32)
    found = classify.accuracy(scores, labels, ks=(1, 2, 5))
    for k in (1, 2, 5):
        assert found[f"top{k}"] == pytest.approx(100 * top_k_accuracy_score(labels, scores, k=k), abs=1e-9)
    assert found["mean_per_class"] == pytest.approx(
        100 * balanced_accuracy_score(labels, scores.argmax(1)), abs=1e-9
    )
    confusion = confusion_matrix(labels, scores.argmax(1), labels=range(9))
    assert found["confusion"].tolist() == confusion.tolist()
    assert found["per_class"] == pytest.approx(100 * np.diag(confusion) / confusion.sum(1), abs=1e-9)


def test_accuracy_equals_the_topk_of_open_clip():
    rng = np.random.default_rng(1)
    scores, labels = rng.standard_normal((200, 12)).astype(np.float32), rng.integers(0, 12, 200)
    places = torch.from_numpy(scores).topk(5, 1, True, True).indices.t()
    correct = places.eq(torch.from_numpy(labels).view(1, -1).expand_as(places))
    found = classify.accuracy(scores, labels)
    for k in (1, 5):
        assert found[f"top{k}"] == pytest.approx(100 * correct[:k].float().sum().item() / 200, abs=1e-6)


def test_equal_scores_count_at_the_mean_over_every_order_of_classes():
    rng = np.random.default_rng(2)
    scores, labels = rng.integers(0, 3, (40, 4)).astype(np.float32), rng.integers(0, 4, 40)
    hits = np.zeros((24, 2))
    for number, order in enumerate(permutations(range(4))):
        places = np.array(order)[np.argsort(-scores[:, order], axis=1, kind="stable")]
        hits[number] = [100 * (places[:, :k] == labels[:, None]).any(1).mean() for k in (1, 2)]
    found = classify.accuracy(scores, labels, ks=(1, 2))
    assert [found["top1"], found["top2"]] == pytest.approx(hits.mean(0), abs=1e-9)


def test_scores_that_say_nothing_give_chance():
    found = classify.accuracy(np.zeros((60, 8), np.float32), np.arange(60) % 8)
    assert found["top1"] == found["mean_per_class"] == pytest.approx(12.5)
    assert found["top5"] == pytest.approx(62.5)


def test_a_class_without_images_has_no_recall_and_no_part_in_the_mean():
    found = classify.accuracy(np.eye(4, dtype=np.float32)[[0, 0, 3, 2]], np.array([0, 0, 3, 3]), ks=(1, 9))
    assert found["per_class"] == [100.0, None, None, 50.0]
    assert found["mean_per_class"] == 75.0
    assert found["top9"] == 100.0
    assert found["confusion"].tolist() == [[2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (7, 7), (3, 7), (1, 1), (1968, 2000)])
def test_wilson_equals_scipy(hits, n):
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert classify.wilson(hits, n) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-9)


@pytest.mark.parametrize("repeats", [2, 3, 4, 5, 6, 10, 31, 200])
def test_interval_equals_scipy(repeats):
    values = np.random.default_rng(repeats).normal(70, 5, repeats)
    mean, half = classify.interval(list(values))
    low, high = stats.t.interval(0.95, repeats - 1, loc=values.mean(), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high), abs=1e-9)


def test_a_single_repeat_has_no_interval():
    assert classify.interval([71.5]) == (71.5, None)


def test_bad_input_is_refused_rather_than_scored():
    features, labels = scenes(images=20)
    with pytest.raises(ValueError, match="NaN"):
        classify.accuracy(features * np.nan, labels)
    with pytest.raises(ValueError, match="infinity"):
        classify.knn(features * np.inf, labels, features, 6)
    with pytest.raises(ValueError, match="infinity"):
        classify.probe(features, labels, features * np.nan, 6)
    with pytest.raises(ValueError, match="from 0 to 2"):
        classify.logistic(features, labels, 3, 1.0)
    with pytest.raises(ValueError, match="a label each"):
        classify.probe(features, labels[:-1], features, 6)
    with pytest.raises(ValueError, match="no values"):
        classify.interval([])
    with pytest.raises(ValueError, match="3 hits of 2"):
        classify.wilson(3, 2)


# zero-shot


@pytest.mark.parametrize("ensemble", ["normalised", "raw"])
def test_zero_shot_weights_equal_the_published_formulas(ensemble):
    rng = np.random.default_rng(0)
    prompts = [10 * rng.random((n, 1)) * rng.standard_normal((n, 32)) for n in (1, 2, 7)]
    prompts = [features.astype(np.float32) for features in prompts]
    found = classify.zero_shot_weights(prompts, ensemble)
    for row, features in zip(found, map(torch.from_numpy, prompts), strict=True):
        if ensemble == "normalised":
            features = torch.nn.functional.normalize(features, dim=-1)
        mean = features.mean(dim=0)
        assert row == pytest.approx((mean / mean.norm()).numpy(), abs=1e-6)
    assert found.dtype == np.float32


def test_zero_shot_weights_need_a_prompt_a_class_and_a_known_ensemble():
    with pytest.raises(ValueError, match="class 1"):
        classify.zero_shot_weights([np.ones((2, 3)), np.ones((0, 3))])
    with pytest.raises(ValueError, match="'mean'"):
        classify.zero_shot_weights([np.ones((2, 3))], "mean")


# k-NN


@pytest.mark.parametrize(("tested", "k"), [(7, 20), (150, 1), (150, 20), (150, 500)])
def test_knn_equals_sklearn(tested, k, monkeypatch):
    monkeypatch.setattr(classify, "SIMILARITIES_AT_ONCE", 250 * 40)  # several blocks
    features, labels = scenes(images=250 + tested)
    train, test = features[:250], features[250:]
    model = KNeighborsClassifier(
        min(k, 250), metric="cosine", algorithm="brute", weights=lambda away: np.exp((1 - away) / 0.07)
    ).fit(train.astype(np.float64), labels[:250])
    found = classify.knn(train, labels[:250], test, 6, k=k)
    assert found == pytest.approx(model.predict_proba(test.astype(np.float64)), abs=1e-6)


def test_knn_at_a_low_temperature_is_the_nearest_neighbour():
    features, labels = scenes(images=200)
    train, test = features[:150], features[150:]
    found = classify.knn(train, labels[:150], test, 6, k=50, temperature=1e-4)
    nearest = labels[:150][(unit(test) @ unit(train).T).argmax(1)]
    assert np.isfinite(found).all()
    assert found.argmax(1).tolist() == nearest.tolist()


def test_honest_knn_takes_the_k_that_validation_favours_and_votes_with_all_train_images():
    # Sites of eight near-identical images, a tenth of them mislabelled: the best k is above 1 and below 8.
    rng = np.random.default_rng(0)
    sites = np.repeat(unit(rng.standard_normal((40, 3))), 8, axis=0)
    labels = np.repeat(rng.integers(0, 4, 40), 8)
    labels[rng.random(320) < 0.1] = 0
    features = (sites + 0.01 * rng.standard_normal(sites.shape)).astype(np.float32)
    test = (sites[::8] + 0.01).astype(np.float32)
    found = classify.knn_honest(features, labels, test, 4, seed=1)
    chosen = found["k"], found["temperature"]
    assert np.array_equal(found["scores"], classify.knn(features, labels, test, 4, *chosen))
    fitted, held = classify._hold_out(labels, 1)
    reached = {
        (k, temperature): classify.accuracy(
            classify.knn(features[fitted], labels[fitted], features[held], 4, k, temperature), labels[held]
        )["top1"]
        for k in classify.KS
        for temperature in classify.TEMPERATURES
    }
    best = max(reached.values())
    assert chosen[0] == 5
    assert chosen == min(choice for choice, value in reached.items() if value == best)


def test_honest_knn_prefers_the_published_choice_where_nothing_is_better():
    apart = np.repeat(np.eye(3, 8, dtype=np.float32), 50, axis=0)
    labels = np.repeat(np.arange(3), 50)
    found = classify.knn_honest(apart, labels, apart, 3)
    assert (found["k"], found["temperature"]) == (20, 0.07)
    found = classify.knn_honest(apart[::50], labels[::50], apart, 3)  # one image a class: nothing to hold out
    assert (found["k"], found["temperature"]) == (20, 0.07)


# logistic regression


@pytest.mark.parametrize("c", [1e-3, 1e-1, 1.0, 1e1, 1e2, 1e3])
@pytest.mark.parametrize(
    ("images", "dim", "noise"), [(400, 24, 1.0), (400, 24, 3.0), (30, 64, 1.0)], ids=["apart", "mixed", "few"]
)
def test_logistic_equals_sklearn(images, dim, noise, c):
    features, labels = scenes(images=images + 200, dim=dim, noise=noise)
    features = unit(features)
    train, test = features[:images], features[images:]
    weights, bias = classify.logistic(train, labels[:images], 6, c)
    model = sklearn_fit(train, labels[:images], c)
    logits = test @ weights.T + bias
    assert softmax(logits) == pytest.approx(model.predict_proba(test.astype(np.float64)), abs=1e-3)
    truth = labels[images:]
    assert (logits.argmax(1) == truth).mean() == pytest.approx(
        model.score(test.astype(np.float64), truth), abs=1e-3
    )


def test_logistic_of_two_classes_is_that_of_sklearn_at_twice_c():
    features, labels = scenes(classes=2)
    weights, bias = classify.logistic(features, labels, 2, 5.0)
    expected = sklearn_fit(features, labels, 10.0).predict_proba(features.astype(np.float64))
    assert softmax(features @ weights.T + bias) == pytest.approx(expected, abs=1e-4)


def test_the_gradient_of_the_stated_objective_vanishes_on_features_of_any_scale():
    features, labels = scenes(noise=2.0)
    features *= 30
    weights, bias = (part.astype(np.float64) for part in classify.logistic(features, labels, 6, 0.01))
    error = softmax(features @ weights.T + bias) - np.eye(6)[labels]
    assert 0.01 * error.T @ features + weights == pytest.approx(np.zeros_like(weights), abs=1e-4)
    assert error.sum(0) == pytest.approx(np.zeros(6), abs=1e-3)


def test_a_class_without_train_images_is_never_predicted_and_changes_nothing():
    features, labels = scenes()
    there = np.array([0, 2, 3, 5, 6, 8])
    weights, bias = classify.logistic(features, there[labels], 9, 1.0)
    alone = classify.logistic(features, labels, 6, 1.0)
    assert np.array_equal(weights[there], alone[0])
    assert np.array_equal(bias[there], alone[1])
    probability = softmax(features @ weights.T + bias)
    assert (np.delete(probability, there, axis=1) == 0).all()
    found = classify.probe(features, there[labels], features, 9)
    assert not np.isnan(found["scores"]).any()
    assert classify.accuracy(found["scores"], np.ones(len(labels), int))["top1"] == 0.0


def test_a_single_class_is_always_predicted():
    features, _ = scenes(images=10)
    weights, bias = classify.logistic(features, np.full(10, 1), 3, 1.0)
    assert (features @ weights.T + bias).argmax(1).tolist() == [1] * 10


# probes


def searched_by_sklearn(fitted, labels, held, truth):
    """The protocol in scikit-learn: C and its accuracy."""
    reached = {}

    def tried(exponents):
        for exponent in exponents:
            reached[exponent] = 100 * sklearn_fit(fitted, labels, 10.0**exponent).score(held, truth)
        best = max(reached.values())
        return min(exponent for exponent, value in reached.items() if value == best)

    at = tried([-2, -1, 0, 1, 2, 3, 4])
    for step in (0.5, 0.25):
        at = tried([at - step, at + step])
    return 10.0**at, reached[at]


@pytest.mark.parametrize("seed", range(3))
def test_the_probe_chooses_c_as_sklearn_would_and_fits_all_train_images_with_it(seed):
    features, labels = scenes(seed, images=260, dim=12, classes=4, noise=2.0)
    train, test = features[:200], features[200:]
    found = classify.probe(train, labels[:200], test, 4, seed=seed)
    wide = unit(train).astype(np.float64)
    fitted, held = classify._hold_out(labels[:200], seed)
    c, reached = searched_by_sklearn(wide[fitted], labels[fitted], wide[held], labels[held])
    assert found["C"] == pytest.approx(c)
    assert found["validation_top1"] == pytest.approx(reached)
    expected = sklearn_fit(wide, labels[:200], c).predict_proba(unit(test).astype(np.float64))
    assert softmax(found["scores"]) == pytest.approx(expected, abs=1e-3)


def test_the_probe_takes_the_smallest_of_equally_good_c():
    apart = np.repeat(np.eye(3, 8, dtype=np.float32), 20, axis=0)
    found = classify.probe(apart, np.repeat(np.arange(3), 20), apart, 3)
    assert found["C"] == pytest.approx(10**-2.75)
    assert found["validation_top1"] == 100.0


def test_the_probe_sees_directions_only():
    features, labels = scenes(images=150)
    lengths = np.random.default_rng(0).uniform(0.1, 10, (150, 1)).astype(np.float32)
    found = classify.probe(features * lengths, labels, features, 6)
    assert found["scores"] == pytest.approx(classify.probe(features, labels, features, 6)["scores"], abs=1e-2)


def test_with_nothing_to_hold_out_c_is_one():
    features, _ = scenes(images=5)
    found = classify.probe(features, np.arange(5), features, 5)
    assert (found["C"], found["validation_top1"]) == (1.0, None)
    assert found["scores"].argmax(1).tolist() == list(range(5))


def test_a_fifth_of_each_class_is_held_out_by_seed():
    labels = np.repeat(np.arange(5), [1, 2, 4, 10, 53])
    fitted, held = classify._hold_out(labels, 0)
    assert sorted([*fitted, *held]) == list(range(len(labels)))
    assert np.bincount(labels[held], minlength=5).tolist() == [0, 1, 1, 2, 10]
    assert held.tolist() == classify._hold_out(labels, 0)[1].tolist()
    assert held.tolist() != classify._hold_out(labels, 1)[1].tolist()


def test_the_paper_probe_is_that_of_its_code(monkeypatch):
    monkeypatch.setattr(classify, "PAPER_BATCH", 70)
    features, labels = scenes(2, images=300, noise=2.0)
    train, test, truth = features[:200], features[200:], labels[200:]
    found = classify.paper_probe(train, labels[:200], test, truth, 6, seed=3, epochs=40)

    order = np.argsort(labels[:200], kind="stable")
    pairs = torch.utils.data.TensorDataset(
        torch.from_numpy(train[order]), torch.from_numpy(labels[:200][order])
    )
    layer = torch.nn.Linear(24, 6)
    layer.weight.data.normal_(0, 0.01, generator=torch.Generator().manual_seed(3))
    layer.bias.data.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.8, momentum=0.9, weight_decay=4e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40, eta_min=0)
    reached, logits = [], []
    for _ in range(40):
        for batch, targets in torch.utils.data.DataLoader(pairs, batch_size=70):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(batch), targets).backward()
            optimizer.step()
        schedule.step()
        logits.append(layer(torch.from_numpy(test)).detach().numpy())
        reached.append(100 * float((logits[-1].argmax(1) == truth).mean()))
    assert len(set(reached)) > 3
    assert reached.count(max(reached)) > 1  # the first counts
    assert found["best_epoch"] == 1 + reached.index(max(reached))
    assert found["scores"] == pytest.approx(logits[found["best_epoch"] - 1], abs=1e-3)
    assert found["last_top1"] == pytest.approx(reached[-1])


def test_the_paper_probe_is_the_same_for_a_seed_and_any_order_of_classes():
    features, labels = scenes(images=200)
    order = np.random.default_rng(0).permutation(200)
    probes = [
        classify.paper_probe(features[rows], labels[rows], features, labels, 6, seed, epochs=5)["scores"]
        for rows, seed in ((np.arange(200), 0), (np.arange(200), 0), (order, 0), (np.arange(200), 1))
    ]
    assert np.array_equal(probes[0], probes[1])
    assert probes[2] == pytest.approx(probes[0], abs=1e-4)
    assert probes[3] != pytest.approx(probes[0], abs=1e-4)


# few-shot


def draw(shots, repeat=0, seed=0):
    labels = np.repeat(np.arange(4), [40, 20, 5, 1])
    return labels, classify.shots_of([f"image-{row}" for row in range(66)], labels, shots, repeat, seed)


def test_shots_are_counted_and_apart_from_the_images_that_validate():
    for shots, train, validation in (
        (1, [1, 1, 1, 1], [1, 1, 1, 0]),
        (4, [4, 4, 4, 1], [4, 4, 1, 0]),
        (16, [16, 16, 5, 1], [4, 4, 0, 0]),
        (32, [32, 20, 5, 1], [4, 0, 0, 0]),
    ):
        labels, (few, held) = draw(shots)
        assert np.bincount(labels[few], minlength=4).tolist() == train
        assert np.bincount(labels[held], minlength=4).tolist() == validation
        assert not set(few) & set(held)


def test_more_shots_hold_fewer_and_repeats_and_seeds_differ():
    draws = [set(draw(shots)[1][0]) for shots in (1, 4, 8, 16)]
    assert draws[0] < draws[1] < draws[2] < draws[3]
    assert len({frozenset(draw(4, repeat, seed)[1][0]) for repeat in range(3) for seed in range(3)}) == 9


def test_shots_are_the_same_for_any_order_of_rows():
    labels, (few, held) = draw(4)
    order = np.random.default_rng(0).permutation(66)
    again = classify.shots_of([f"image-{row}" for row in order], labels[order], 4, 0)
    assert [order[rows].tolist() for rows in again] == [few.tolist(), held.tolist()]


def test_shots_need_distinct_ids():
    with pytest.raises(ValueError, match="distinct ids"):
        classify.shots_of(["a", "a"], np.zeros(2, int), 1, 0)


@pytest.mark.parametrize("shots", [1, 8])
def test_few_shot_fits_the_shots_alone_with_the_c_that_validation_favours(shots):
    features, labels = scenes(images=500, dim=16, classes=4, noise=2.0)
    train, truth = unit(features[:300]).astype(np.float64), labels[300:]
    test = unit(features[300:]).astype(np.float64)
    few, held = classify.shots_of([str(row) for row in range(300)], labels[:300], shots, 0)
    c, _ = searched_by_sklearn(train[few], labels[few], train[held], labels[held])
    for validation, best in ((held, c), (held[:0], 1.0)):
        found = classify.few_shot(features[:300], labels[:300], few, validation, features[300:], truth, 4)
        expected = 100 * sklearn_fit(train[few], labels[few], best).score(test, truth)
        assert found == pytest.approx(expected, abs=1e-3)


def test_few_shot_by_the_paper_is_its_probe_at_the_best_test_epoch():
    features, labels = scenes(images=120)
    few, held = classify.shots_of([str(row) for row in range(60)], labels[:60], 2, 0)
    test, truth = features[60:], labels[60:]
    found = classify.few_shot(features[:60], labels[:60], few, held, test, truth, 6, "paper", seed=5)
    alone = classify.paper_probe(features[few], labels[few], test, truth, 6, seed=5)
    assert found == classify.accuracy(alone["scores"], truth)["top1"] >= alone["last_top1"]


# the reference


@pytest.mark.real
@pytest.mark.skipif(not REFERENCE.is_file(), reason="no reference/retrieval.json under RSDATA_REAL")
def test_knn_and_logistic_regression_reach_the_reference():
    case = json.loads(REFERENCE.read_text())["linear_knn"]
    rng = np.random.default_rng(case["seed"])
    centres = rng.standard_normal((case["C"], case["D"])) * 0.25
    labels = rng.integers(0, case["C"], case["N"])
    features = (centres[labels] + rng.standard_normal((case["N"], case["D"]))).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    train, test, known, truth = features[:4800], features[4800:], labels[:4800], labels[4800:]
    found = classify.accuracy(classify.knn(train, known, test, case["C"]), truth)
    assert found["top1"] == pytest.approx(100 * case["knn_k20_T0.07_acc"], abs=1e-6)
    for c, expected in case["sklearn_logreg_acc"].items():
        weights, bias = classify.logistic(train, known, case["C"], float(c))
        found = classify.accuracy(test @ weights.T + bias, truth)
        assert found["top1"] == pytest.approx(100 * expected, abs=1e-3)
