"""Classification on frozen features: zero-shot, k-NN, linear probe, few-shot, and their scores.

There are two protocols. "Honest" chooses what is to be chosen on images held out of the train set, never by
the test labels. "Paper" is that of RemoteCLIP's numbers (section IV, tables III and IV, figure 7; the code of
its ITRA, `linear_eval.py`), to compare with them: its probe reports the epoch that is best on the test set.

Arrays in, arrays out. Features are float [images, dim], one row an image; labels int [images], 0 ≤ label <
classes. Functions raise ValueError on labels that do not fit and on features that are not finite.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsclip.metrics import hit_rate

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]

K, TEMPERATURE = 20, 0.07
"""RemoteCLIP's k-NN."""
KS = (1, 5, 10, 20, 50, 100)
TEMPERATURES = (0.02, 0.07, 0.2)

COARSE = tuple(range(-2, 5))
"""Powers of ten that C is tried at first, from hardly more than class means to hardly a penalty."""
REFINE = (0.5, 0.25)
"""Then, one after the other, these steps of the logarithm to either side of the best."""

PAPER_BATCH = 10_000
VALIDATION_SHOTS = 4
SEARCHING, CONVERGED = 1e-5, 3e-8
"""Largest gradient of the mean loss: while C is searched for, and in the answer."""
SIMILARITIES_AT_ONCE = 1 << 24  # 64 MB of float32


def accuracy(scores: Floats, labels: Ints, ks: Sequence[int] = (1, 5)) -> dict[str, Any]:
    """Accuracies in percent, as CLIP_benchmark counts them, and what they are made of.

    scores: float [images, classes], higher is likelier; labels: int [images].

    Returns `top{k}` for each k; `mean_per_class`, the mean top-1 recall over the classes that have images;
    `per_class`, that recall of each class, None where it has no image; and `confusion`, int64 [classes,
    classes], rows the true class. Of equal scores each is as likely to be first: a hit counts with its
    probability, so that a model that says nothing scores chance. `confusion` counts the lowest such class.
    """
    scores = np.asarray(scores)
    classes = scores.shape[-1]
    labels = _checked(scores, labels, classes, finite=False)
    own = scores[np.arange(len(scores)), labels][:, None]
    greater, tied = (scores > own).sum(1), (scores == own).sum(1)
    hits = {k: 100 * hit_rate(greater, tied, np.ones_like(tied), k) for k in {1, *ks}}
    images = np.bincount(labels, minlength=classes)
    there = images > 0
    recall = np.bincount(labels, hits[1], classes) / np.maximum(images, 1)
    pairs = np.bincount(labels * classes + scores.argmax(1), minlength=classes * classes)
    return {
        **{f"top{k}": float(hits[k].mean()) for k in ks},
        "mean_per_class": float(recall[there].mean()),
        "per_class": [float(value) if known else None for value, known in zip(recall, there, strict=True)],
        "confusion": pairs.reshape(classes, classes),
    }


def wilson(hits: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a proportion, in percent (Wilson 1927). hits: of n, at their expected value."""
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} hits of {n}")
    if n == 0:
        return 0.0, 100.0
    z = NormalDist().inv_cdf(0.975)
    share, weight = hits / n, z * z / n
    half = z * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    low, high = ((share + weight / 2 + side) / (1 + weight) for side in (-half, half))
    return 100 * max(low, 0.0), 100 * min(high, 1.0)


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean of repeats, and half the width of its 95 % interval (Student's t); None for a single one."""
    if not len(values):
        raise ValueError("no values")
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, _student_t(len(values) - 1) * error


def zero_shot_weights(features_per_class: Sequence[Floats], ensemble: str = "normalised") -> Floats:
    """One vector a class from the features of its prompts: float32 [classes, dim], rows L2-normalised.

    features_per_class: for each class float [prompts, dim], as the text encoder gives them.
    ensemble: "normalised", the mean of the normalised features (CLIP, open_clip, CLIP_benchmark, SkyScript);
        "raw", that of the features themselves (ITRA, GeoRSCLIP).

    The score of an image is the dot product of its normalised features with these.
    """
    if ensemble not in ("normalised", "raw"):
        raise ValueError(f"ensemble is normalised or raw, not {ensemble!r}")
    means = []
    for place, prompts in enumerate(features_per_class):
        if np.ndim(prompts) != 2 or not len(prompts) or not np.isfinite(prompts).all():
            raise ValueError(f"class {place} needs finite features [prompts, dim] of one prompt or more")
        wide = np.asarray(prompts, np.float64)
        means.append((_unit(wide, np.float64) if ensemble == "normalised" else wide).mean(0))
    return _unit(np.stack(means), np.float64).astype(np.float32)


def knn(
    train: Floats,
    train_labels: Ints,
    test: Floats,
    classes: int,
    k: int = K,
    temperature: float = TEMPERATURE,
    device: str = "cpu",
) -> Floats:
    """Scores of the weighted vote of the k nearest train images: float32 [test images, classes].

    Neighbours by cosine similarity; each votes with exp(similarity / temperature), and a row is scaled to
    sum 1, so that no temperature overflows (RemoteCLIP, section IV-C; Wu et al. 2018). All train images vote
    where there are no more than k.
    """
    labels = _checked(train, train_labels, classes)
    return _vote(*_nearest(_unit(train), labels, _unit(test), k, device), classes, k, temperature)


def knn_honest(
    train: Floats, train_labels: Ints, test: Floats, classes: int, seed: int = 0, device: str = "cpu"
) -> dict[str, Any]:
    """`knn` of all train images, its `k` of `KS` and `temperature` of `TEMPERATURES` chosen by validation.

    A fifth of each class of the train images, drawn by seed, is held out. Of equal choices RemoteCLIP's (20,
    0.07) is taken, else that of smaller k, then temperature; RemoteCLIP's too if nothing could be held out.
    Returns `scores`, `k`, `temperature`.
    """
    labels = _checked(train, train_labels, classes)
    bank = _unit(train)
    fitted, held = _hold_out(labels, seed)
    k, temperature = K, TEMPERATURE
    if len(held):
        near = _nearest(bank[fitted], labels[fitted], bank[held], max(KS), device)
        choices = [(k, temperature), *itertools.product(KS, TEMPERATURES)]
        k, temperature = max(choices, key=lambda each: _top1(_vote(*near, classes, *each), labels[held]))
    scores = _vote(*_nearest(bank, labels, _unit(test), k, device), classes, k, temperature)
    return {"scores": scores, "k": k, "temperature": temperature}


def logistic(
    train: Floats, labels: Ints, classes: int, c: float, device: str = "cpu"
) -> tuple[Floats, Floats]:
    """Multinomial logistic regression: weights float32 [classes, dim] and bias float32 [classes].

    Minimises c · (sum of the cross-entropies) + ½ ‖weights‖², the bias free, as scikit-learn does for three
    classes and more (for two classes its C is twice this c). A class without a train image has weights 0 and
    bias -inf, its exact optimum.
    """
    return _Logistic(train, _checked(train, labels, classes), classes, device).fit(c)


def probe(
    train: Floats, labels: Ints, test: Floats, classes: int, seed: int = 0, device: str = "cpu"
) -> dict[str, Any]:
    """The honest linear probe: `logistic` on L2-normalised features, C chosen on a part of the train set.

    A fifth of each class, drawn by seed, is held out (one image at least where a class has two). C is tried
    at the powers of ten of `COARSE`, then at the steps of `REFINE` about the best; of equal accuracies the
    smaller C is taken. Then all train images are fitted (the protocol of CLIP, appendix A.3).

    Returns `scores`, float32 [test images, classes], logits, -inf for a class without a train image; `C`; and
    `validation_top1`, the accuracy in percent that chose it. If nothing could be held out C is 1, that None.
    """
    labels = _checked(train, labels, classes)
    features = _unit(train)
    fitted, held = _hold_out(labels, seed)
    search = _Logistic(features[fitted], labels[fitted], classes, device)
    c, top1 = _chosen(search, features[held], labels[held])
    del search  # its copy of the features
    weights, bias = logistic(features, labels, classes, c, device)
    return {"scores": _unit(test) @ weights.T + bias, "C": c, "validation_top1": top1}


def few_shot(
    train: Floats,
    labels: Ints,
    shots: Ints,
    validation: Ints,
    test: Floats,
    test_labels: Ints,
    classes: int,
    protocol: str = "honest",
    seed: int = 0,
    device: str = "cpu",
) -> float:
    """Top-1 in percent of a probe fitted on few images.

    shots, validation: int, rows of train, as `shots_of` draws them.
    protocol: "honest", the C of `probe` chosen on the rows `validation` (1 if there are none), the fit on
        `shots` alone; "paper", `paper_probe` on `shots`, seed its own, at the epoch best ON THE TEST SET.
    """
    few, few_labels = train[shots], labels[shots]
    if protocol == "paper":
        found = paper_probe(few, few_labels, test, test_labels, classes, seed, device)
        return _top1(found["scores"], test_labels)
    solver = _Logistic(_unit(few), _checked(few, few_labels, classes), classes, device)
    c, _ = _chosen(solver, _unit(train[validation]), labels[validation])
    weights, bias = solver.fit(c)
    return _top1(_unit(test) @ weights.T + bias, test_labels)


def shots_of(
    ids: Sequence[str], labels: Ints, shots: int, repeat: int, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and rows to validate on, for few-shot: int64, class by class.

    Each class takes its images in the order of a hash of (seed, repeat, id): the first `shots` train, the
    next min(shots, 4) validate, a class with fewer gives what it has. So the draw is the same for any model
    and order of rows, and a draw of more shots holds that of fewer. ids: distinct.
    """
    if shots < 1 or len(ids) != len(labels) or len(set(ids)) != len(ids):
        raise ValueError("expected distinct ids, a label each, and at least one shot")
    keys = [blake2b(f"{seed}\0{repeat}\0{id_}".encode(), digest_size=16).digest() for id_ in ids]
    order = np.array(sorted(range(len(ids)), key=lambda row: (labels[row], keys[row])), np.int64)
    ordered = np.asarray(labels)[order]
    place = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    last = shots + min(shots, VALIDATION_SHOTS)
    return order[place < shots], order[(place >= shots) & (place < last)]


def paper_probe(
    train: Floats,
    labels: Ints,
    test: Floats,
    test_labels: Ints,
    classes: int,
    seed: int = 0,
    device: str = "cpu",
    epochs: int = 1000,
) -> dict[str, Any]:
    """RemoteCLIP's linear probe (section IV-C; ITRA's `linear_eval.py`), which chooses ON THE TEST SET.

    One linear layer on the features as they are, weights from N(0, 0.01²) by seed, bias 0; SGD of momentum
    0.9, rate 0.8 by cosine to 0, weight decay 4e-5 (bias too); batches of `PAPER_BATCH`, not shuffled: in the
    order of classes, in which that code lists its files.

    Returns `best_epoch`, the first epoch, from 1, of highest accuracy on the test set; `scores`, float32
    [test images, classes], its logits, whose accuracy that code reports; and `last_top1`, the accuracy in
    percent of the last epoch.
    """
    import torch

    labels, test_labels = _checked(train, labels, classes), _checked(test, test_labels, classes)
    order = np.argsort(labels, kind="stable")
    x, x_test = (torch.tensor(part, dtype=torch.float32, device=device) for part in (train[order], test))
    y, y_test = (torch.from_numpy(part).to(device) for part in (labels[order], test_labels))
    start = torch.empty(classes, x.shape[1]).normal_(0, 0.01, generator=torch.Generator().manual_seed(seed))
    weights = start.to(device).requires_grad_()
    bias = torch.zeros(classes, device=device, requires_grad=True)
    optimizer = torch.optim.SGD([weights, bias], lr=0.8, momentum=0.9, weight_decay=4e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    best = last = -1
    for epoch in range(1, epochs + 1):
        for begin in range(0, len(x), PAPER_BATCH):
            batch = slice(begin, begin + PAPER_BATCH)
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(torch.addmm(bias, x[batch], weights.T), y[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            logits = torch.addmm(bias, x_test, weights.T)
        last = int((logits.argmax(1) == y_test).sum())
        if last > best:
            best, best_epoch, scores = last, epoch, logits
    return {
        "scores": scores.cpu().numpy(),
        "best_epoch": best_epoch,
        "last_top1": 100 * last / len(test_labels),
    }


def _chosen(solver: _Logistic, held: Floats, labels: Ints) -> tuple[float, float | None]:
    """The C whose fit has the highest top-1 on the images held out, and that; 1 and None if none are."""
    if not len(held):
        return 1.0, None

    def tried(exponents: Iterable[float]) -> list[tuple[float, float]]:
        fits = ((exponent, *solver.near(10.0**exponent)) for exponent in exponents)
        return [(_top1(held @ weights.T + bias, labels), -exponent) for exponent, weights, bias in fits]

    best = max(tried(COARSE))
    for step in REFINE:
        best = max(best, *tried([-best[1] - step, -best[1] + step]))
    return 10.0 ** -best[1], best[0]


class _Logistic:
    """Logistic regression of one train set, for one c after the other; each begins where the last ended.

    The unknowns are those of a problem that is nearly round, which L-BFGS solves in fewer and safer steps.
    Features are centred, which the free bias makes up for, and turned onto their principal axes, which leaves
    the penalty as it is. Along an axis of variance v the curvature is at most v/4 + 1/(c·images): that scales
    the unknown.
    """

    def __init__(self, features: Floats, labels: Ints, classes: int, device: str) -> None:
        import torch

        self.classes = classes
        self.present, compact = np.unique(labels, return_inverse=True)
        self.labels = torch.from_numpy(compact).to(device)
        x = torch.tensor(features, dtype=torch.float32, device=device)
        self.mean = x.mean(0)
        x -= self.mean
        # The weights lie in the span of the features: with fewer images than dimensions, no more unknowns.
        span = torch.linalg.qr(x.T).Q if len(x) < x.shape[1] else None
        x = x if span is None else x @ span
        variances, axes = torch.linalg.eigh((x.T @ x).double() / len(x))
        self.variances = variances.clamp(min=0)
        self.axes = axes.float() if span is None else span @ axes.float()
        self.x = x @ axes.float()
        self.weights = torch.zeros(len(self.present), self.x.shape[1], dtype=torch.float64, device=device)
        self.bias = torch.zeros(len(self.present), 1, dtype=torch.float64, device=device)

    def fit(self, c: float) -> tuple[Floats, Floats]:
        """The weights and bias as `logistic` returns them."""
        self.near(c)
        return self._descended(c, self.x.double(), CONVERGED)

    def near(self, c: float) -> tuple[Floats, Floats]:
        """Nearly so: to the precision of float32, in a fraction of the time."""
        return self._descended(c, self.x, SEARCHING)

    def _descended(self, c: float, x: Tensor, tolerance: float) -> tuple[Floats, Floats]:
        import torch

        scale = (self.variances / 4 + 1 / (c * len(self.x))).rsqrt()
        unknown = (self.weights / scale).requires_grad_()
        bias = self.bias.clone().requires_grad_()
        # Summed over images, not averaged: torch's L-BFGS ignores steps of a curvature below 1e-10.
        optimizer = torch.optim.LBFGS(
            [unknown, bias],
            max_iter=1000,
            tolerance_grad=tolerance * len(self.x),
            tolerance_change=1e-12,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            weights = unknown * scale
            logits = (weights.to(x.dtype) @ x.T).double() + bias  # this way round products are faster
            total = torch.nn.functional.cross_entropy(logits.T, self.labels, reduction="sum")
            total += weights.square().sum() / (2 * c)
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        self.weights, self.bias = (unknown * scale).detach(), bias.detach()
        return self._as_given()

    def _as_given(self) -> tuple[Floats, Floats]:
        """The weights and bias that fit the features as they came, with the classes that have no image."""
        turned = self.weights @ self.axes.double().T
        weights = np.zeros((self.classes, turned.shape[1]), np.float32)
        bias = np.full(self.classes, -np.inf, np.float32)
        weights[self.present] = turned.cpu().numpy()
        bias[self.present] = (self.bias[:, 0] - turned @ self.mean.double()).cpu().numpy()
        return weights, bias


def _nearest(train: Floats, labels: Ints, test: Floats, k: int, device: str) -> tuple[Floats, Ints]:
    """Of each test row the k nearest train rows, nearest first: their similarities and labels, [test, k]."""
    import torch

    k = min(k, len(train))
    bank = torch.from_numpy(train).to(device).T
    similarities, places = np.empty((len(test), k), np.float32), np.empty((len(test), k), np.int64)
    step = max(1, SIMILARITIES_AT_ONCE // len(train))
    for start in range(0, len(test), step):
        part = slice(start, start + step)
        nearest = (torch.from_numpy(test[part]).to(device) @ bank).topk(k)
        similarities[part], places[part] = nearest.values.cpu().numpy(), nearest.indices.cpu().numpy()
    return similarities, labels[places]


def _vote(similarities: Floats, labels: Ints, classes: int, k: int, temperature: float) -> Floats:
    """Of neighbours as `_nearest` gives them, the share of each class in the votes of the first k."""
    near = similarities[:, :k].astype(np.float64)
    votes = np.exp((near - near[:, :1]) / temperature)
    votes /= votes.sum(1, keepdims=True)
    cells = np.arange(len(near))[:, None] * classes + labels[:, :k]
    shares = np.bincount(cells.ravel(), votes.ravel(), len(near) * classes)
    return shares.reshape(-1, classes).astype(np.float32)


def _hold_out(labels: Ints, seed: int) -> tuple[Ints, Ints]:
    """Rows to fit on and rows to validate on: a fifth of each class, at least one of two or more."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        held[rows[: max(len(rows) // 5, min(len(rows) - 1, 1))]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def _top1(scores: Floats, labels: Ints) -> float:
    return float(accuracy(scores, labels, (1,))["top1"])


def _unit(features: Floats, dtype: type[np.floating] = np.float32) -> Floats:
    """L2-normalised rows; a row of zeros stays. Raises ValueError on NaN and infinity."""
    wanted = np.asarray(features, dtype)
    squares = np.einsum("ij,ij->i", wanted, wanted, dtype=np.float64)  # without an array of their size
    if not np.isfinite(squares).all():
        raise ValueError("features hold NaN or infinity")
    lengths = np.sqrt(np.maximum(squares, np.finfo(np.float32).tiny)).astype(dtype)
    return np.asarray(wanted / lengths[:, None])


def _checked(features: Floats, labels: Ints, classes: int, finite: bool = True) -> NDArray[np.int64]:
    labels = np.asarray(labels)
    if np.ndim(features) != 2 or labels.shape != (len(features),) or not len(labels):
        raise ValueError(f"expected a label each, and one at least: {np.shape(features)}, {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be integers from 0 to {classes - 1}")
    if not (np.isfinite(features).all() if finite else not np.isnan(features).any()):
        raise ValueError("features or scores hold NaN or infinity")
    return labels.astype(np.int64)


def _student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, by bisection of its closed form (Abramowitz and Stegun 26.7)."""
    low, high = 0.0, 13.0  # 12.7 at one degree of freedom is the largest
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 0.95 else (low, middle)
    return low


def _within(t: float, freedom: int) -> float:
    """Probability that |T| ≤ t."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for power in range(odd + 1, freedom + 1, 2) if freedom > 1 else ():
        total += term
        term *= math.cos(angle) ** 2 * power / (power + 1)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
