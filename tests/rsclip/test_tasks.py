"""The tasks on a real model with random weights, each against plain open_clip, scikit-learn or numpy."""

from __future__ import annotations

import io
import itertools
import json
import warnings
from importlib import import_module

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from scipy import stats
from shapes import row, scene_rows, shape_rows, write_table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from rsclip import classify, cli, features, model, prompts, scoring, store
from rsclip.encode import Encoder
from rsclip.tasks import counting, fewshot, hard_negatives, knn, linear_probe, retrieval, zeroshot
from rsdata import box_to_caption, tables
from rsdata.errors import RecipeError, TableError
from rsdata.records import Box, Record
from rsdata.words import Words

LABELS = ("BareLand", "T junction", "dense_residential", "forest", "parkingLot", "pond", "river/lake", "ship")
SAID = ("bare land", "t junction", "dense residential", "forest", "parking lot", "pond", "river lake", "ship")
"""The labels as prompts say them."""
TRAINED = (linear_probe, knn, fewshot)
FEW = {"shots": (1, 2), "repeats": 2}


def tiny(seed=0):
    """Random weights, but batch norms that have seen images: without that all features are nearly equal."""
    torch.manual_seed(seed)
    clip = model.create("rsclip-tiny")
    clip.model.train()
    seen = torch.stack([clip.transform_eval(picture(each)) for each in shape_rows(32, "train", seed=5)])
    with torch.no_grad():
        for _ in range(20):
            clip.model.encode_image(seen)
    return Encoder(clip, batch_size=16, threads=2, device="cpu")


@pytest.fixture(scope="module")
def encoder():
    return tiny()


def classed(per_class, split, seed=0):
    """Scenes of the eight LABELS: each is one colour, of every second file."""
    rows = scene_rows(2 * per_class, split, seed=seed)
    return [{**each, "label": LABELS[number // per_class]} for number, each in enumerate(rows)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Twelve train and five test images of each class."""
    rows = classed(12, "train") + classed(5, "test", seed=1)
    return write_table(tmp_path_factory.mktemp("bench") / "table", rows)


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """30 images with 150 captions, all different."""
    rows = shape_rows(30, "test")
    rows = [{**each, "captions": [f"{n} {said}" for said in each["captions"]]} for n, each in enumerate(rows)]
    return write_table(tmp_path_factory.mktemp("captioned") / "table", rows)


@pytest.fixture(scope="module")
def boxed(sampled, tmp_path_factory):
    """Captions that rsdata wrote of boxes."""
    return sampled("dota", tmp_path_factory.mktemp("boxed") / "table", images=10)


COUNTS = [("plane", 1), ("plane", 3), ("plane", 3), ("ship", 2), ("ship", 3), ("harbor", 1)]
COUNTS += [("storage-tank", 5), ("soccer-ball-field", 10), ("storage-tank", 1), ("plane", 7)]
NOUNS = {"plane": "planes", "ship": "ships", "harbor": "harbors", "storage tank": "storage tanks"}
NOUNS |= {"soccer field": "soccer fields"}


@pytest.fixture(scope="module")
def to_count(counted, tmp_path_factory):
    return counted(tmp_path_factory.mktemp("count") / "table", COUNTS)


def rows_of(table):
    return [each for path in tables.shards(table) for each in tables.read(path).to_pylist()]


def picture(held):
    return Image.open(io.BytesIO(held["image"]["bytes"])).convert("RGB")


def pictures(encoder, rows):
    """What open_clip makes of images: float32 [images, dim], of length 1."""
    held = [encoder.clip.transform_eval(picture(each)) for each in rows]
    with torch.no_grad():
        return encoder.clip.model.encode_image(torch.stack(held), normalize=True).numpy()


def sentences(encoder, texts, normalize=True):
    with torch.no_grad():
        return encoder.clip.model.encode_text(
            encoder.clip.tokenizer(list(texts)), normalize=normalize
        ).numpy()


def towers(encoder, rows):
    """Features before the projection, of length 1, one image at a time."""
    held = [encoder.pixels(picture(each)) for each in rows]
    with torch.inference_mode():
        wide = np.concatenate([encoder.towers(each[None])[0] for each in held]).astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def of_split(table, name):
    """Rows of a split, and their labels as places in the classes' alphabetical order."""
    rows = [each for each in rows_of(table) if each["split"] == name]
    return rows, np.array([LABELS.index(each["label"]) for each in rows])


def asked(encoder, monkeypatch):
    """The lists of texts that the encoder is asked for from now on."""
    held, texts = [], encoder.texts

    def spied(wanted, **options):
        held.append(list(wanted))
        return texts(wanted, **options)

    monkeypatch.setattr(encoder, "texts", spied)
    return held


# --- retrieval


def hits(score, right, k):
    """The share of rows, in percent, with a right column among the first k."""
    order = np.argsort(-score, axis=1)[:, :k]
    return 100 * np.take_along_axis(right, order, axis=1).any(axis=1).mean()


def by_sorting(score, right, ks):
    """Recalls of a matrix [images, texts] without ties."""
    recalls = {f"i2t_R@{k}": hits(score, right, k) for k in ks}
    recalls |= {f"t2i_R@{k}": hits(score.T, right.T, k) for k in ks}
    return {**recalls, "mean_recall": np.mean(list(recalls.values()))}


def test_retrieval_by_image_is_a_sort_of_open_clips_scores(encoder, captioned):
    rows = rows_of(captioned)
    captions = [caption for each in rows for caption in each["captions"]]
    score = pictures(encoder, rows) @ sentences(encoder, captions).T
    own = np.arange(30)[:, None] == np.arange(150) // 5
    found = retrieval.run(encoder, [captioned])
    expected = by_sorting(score, own, (1, 5, 10))
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert found["chance_t2i_R@10"] == pytest.approx(100 * 10 / 30)
    assert (found["images"], found["captions"], found["distinct_captions"]) == (30, 150, 150)
    assert (found["protocol"], found["ties"]) == ("by-image", "expected")


def test_remoteclip_takes_a_file_name_for_an_image_and_capitalises_sentences(encoder, tmp_path, monkeypatch):
    rows = shape_rows(12, "test")
    said = [[f"Number {n} near LA .", f"a view of {n} ."] for n in range(12)]
    said[7] = ["a View of 0 ."]  # differs from one of image 0 by its capital alone
    rows = [{**each, "captions": held} for each, held in zip(rows, said, strict=True)]
    rows[9]["image"]["path"] = rows[2]["image"]["path"]
    table = write_table(tmp_path / "table", rows)
    said_to_it = asked(encoder, monkeypatch)
    found = retrieval.run(encoder, [table], protocol="remoteclip")
    capitals = [[text[0].upper() + text[1:].lower() for text in held] for held in said]
    texts = list(itertools.chain(*capitals))
    distinct = list(dict.fromkeys(texts))
    assert said_to_it[-1] == distinct
    assert "Number 0 near la ." in distinct
    assert (found["images"], found["captions"], found["distinct_captions"]) == (11, 23, 22)

    kept = [number for number in range(12) if number != 9]
    owners = [kept.index(2 if number == 9 else number) for number in range(12) for _ in said[number]]
    score = pictures(encoder, [rows[number] for number in kept]) @ sentences(encoder, texts).T
    own = np.array(owners) == np.arange(11)[:, None]
    for name, value in by_sorting(score, own, (1, 5, 10)).items():
        if name.startswith("t2i"):  # two images say one text: which of its captions comes first is open
            assert found[name] == pytest.approx(value)
    theirs = [{texts[place] for place in np.flatnonzero(held)} for held in own]
    same = np.array([[text in held for text in texts] for held in theirs])
    for name, value in by_sorting(score, same, (1, 5, 10)).items():
        assert found[f"equal_{name}"] == pytest.approx(value)
    apart = retrieval.run(encoder, [table])
    assert (apart["images"], apart["distinct_captions"]) == (12, 23)


def test_unique_text_makes_equal_captions_one_that_is_right_for_all_who_have_it(encoder, tmp_path):
    rows = shape_rows(20, "test")
    said = [[f"a view of {n // 3} .", f"number {n} ."] for n in range(20)]
    rows = [{**each, "captions": held} for each, held in zip(rows, said, strict=True)]
    found = retrieval.run(
        encoder, [write_table(tmp_path / "table", rows)], protocol="unique-text", ties="optimistic"
    )
    distinct = list(dict.fromkeys(itertools.chain(*said)))
    score = pictures(encoder, rows) @ sentences(encoder, distinct).T
    carries = np.array([[text in held for text in distinct] for held in said])
    expected = by_sorting(score, carries, (1, 5, 10, 100))
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert found["i2t_R@100"] == found["t2i_R@100"] == 100
    assert not any(name.startswith("chance") for name in found)


def test_ties_say_where_equal_images_stand(encoder, tmp_path):
    data = shape_rows(1, "test")[0]["image"]["bytes"]
    rows = [row(f"{n}", "test", data, [f"number {n} ."]) for n in range(12)]
    table = write_table(tmp_path / "table", rows)
    found = {ties: retrieval.run(encoder, [table], ties=ties) for ties in ("expected", "optimistic")}
    found["pessimistic"] = retrieval.run(encoder, [table], ties="pessimistic")
    for k in (1, 5, 10):
        recalls = [found[ties][f"t2i_R@{k}"] for ties in ("expected", "optimistic", "pessimistic")]
        assert recalls == pytest.approx([100 * k / 12, 100, 0])
        # all images rank the captions alike, and nothing ties there
        assert found["expected"][f"i2t_R@{k}"] == pytest.approx(100 * k / 12)
    for ties, recall in (("expected", 100 / 12), ("optimistic", 100), ("pessimistic", 0)):
        unique = retrieval.run(encoder, [table], protocol="unique-text", ties=ties)
        assert unique["t2i_R@1"] == pytest.approx(recall)
    assert "50.0 % of the queries tie with a wrong answer (ties: optimistic)" in retrieval.table(
        found["optimistic"]
    )


def test_the_table_of_retrieval_shows_each_recall_beside_its_chance(encoder, captioned):
    found = retrieval.run(encoder, [captioned])
    lines = {line[:20].strip(): line[20:].split() for line in retrieval.table(found).splitlines()}
    for name, told in (("i2t", "image → text"), ("t2i", "text → image")):
        for k in (1, 5, 10):
            both = [f"{found[f'{prefix}{name}_R@{k}']:.2f}" for prefix in ("", "chance_", "equal_")]
            assert lines[f"{told}  R@{k}"] == both
    assert lines["mean recall"][:2] == [f"{found['mean_recall']:.2f}", f"{found['chance_mean_recall']:.2f}"]
    assert "30 images, 150 captions, 150 of them distinct" in retrieval.table(found)


def test_retrieval_tells_how_many_images_the_papers_have(encoder, tmp_path):
    table = write_table(tmp_path / "table", shape_rows(9, "test"), benchmark={"test_images": 452})
    told = "\n".join(retrieval.run(encoder, [table])["notes"])
    assert "9 test images, where the papers have 452" in told
    assert "only 9 test images" in told


# --- zero-shot


def check_scores(found, scores, labels, names=LABELS):
    """A report against scikit-learn on scores [images, classes]."""
    predicted = scores.argmax(1)
    counts = confusion_matrix(labels, predicted, labels=range(len(names)))
    assert found["confusion"] == counts.tolist()
    assert sum(map(sum, found["confusion"])) == len(labels) == found["images"]
    assert found["classes"] == list(names)
    hit = predicted == labels
    assert found["top1"] == pytest.approx(100 * hit.mean())
    per_class = [100 * hit[labels == number].mean() for number in range(len(names))]
    assert [found["per_class"][name] for name in names] == pytest.approx(per_class)
    assert found["mean_per_class"] == pytest.approx(np.mean(per_class))
    wilson = stats.binomtest(int(hit.sum()), len(hit)).proportion_ci(method="wilson")
    assert found["interval"] == pytest.approx([100 * wilson.low, 100 * wilson.high])
    assert found["chance"] == pytest.approx(100 / len(names))
    if len(names) > 5:
        top5 = top_k_accuracy_score(labels, scores, k=5, labels=range(len(names)))
        assert found["top5"] == pytest.approx(100 * top5)


def by_open_clip(encoder, templates):
    classifier = open_clip.build_zero_shot_classifier(
        encoder.clip.model, encoder.clip.tokenizer, SAID, templates, num_classes_per_batch=None, device="cpu"
    )
    return classifier.T.numpy()


def test_zero_shot_is_open_clips_with_one_prompt_and_with_several(encoder, bench):
    rows, labels = of_split(bench, "test")
    images = pictures(encoder, rows)
    assert len(labels) == 40
    one = zeroshot.run(encoder, [bench], names=["remoteclip"])
    check_scores(one, images @ by_open_clip(encoder, ["a satellite photo of {}."]).T, labels)
    assert (one["prompts"], one["templates"], one["ensemble"]) == (["remoteclip"], 1, "normalised")
    both = zeroshot.run(encoder, [bench], names=["remoteclip", "skyscript"])
    two = ["a satellite photo of {}.", "a satellite image of {}"]
    check_scores(both, images @ by_open_clip(encoder, two).T, labels)
    assert (both["prompts"], both["templates"]) == (["remoteclip", "skyscript"], 2)


def test_rs5m_averages_the_features_as_the_tower_gives_them(encoder, bench):
    rows, labels = of_split(bench, "test")
    templates = prompts.load("rs5m").templates
    means = []
    for name in SAID:
        said = sentences(encoder, [text.replace("{}", name) for text in templates], normalize=False)
        means.append(said.mean(0) / np.linalg.norm(said.mean(0)))
    found = zeroshot.run(encoder, [bench], names=["rs5m"])
    check_scores(found, pictures(encoder, rows) @ np.stack(means).T, labels)
    assert (found["templates"], found["ensemble"]) == (105, "raw")
    turned = zeroshot.run(encoder, [bench], names=["rs5m"], ensemble="normalised")
    check_scores(turned, pictures(encoder, rows) @ by_open_clip(encoder, templates).T, labels)


def test_the_recipe_s_first_prompts_are_the_default(encoder, tmp_path, monkeypatch):
    rows = classed(5, "unsplit")
    plain = write_table(tmp_path / "plain", rows)
    table = write_table(tmp_path / "table", rows, benchmark={"prompts": ["skyscript", "rs5m"]})
    texts = asked(encoder, monkeypatch)
    assert zeroshot.run(encoder, [table])["prompts"] == ["skyscript"]
    assert texts[-1][:2] == ["a satellite photo of bare land.", "a satellite image of bare land"]
    assert zeroshot.run(encoder, [plain])["prompts"] == ["remoteclip"]
    assert texts[-1] == [f"a satellite photo of {name}." for name in SAID]
    assert zeroshot.run(encoder, [table], names=["remoteclip"])["prompts"] == ["remoteclip"]
    held = features.held(table)
    assert [each["names"] for each in zeroshot.variants(held)] == [("skyscript",), ("rs5m",)]
    assert zeroshot.variants(features.held(plain)) == [{"names": ("remoteclip",)}]


def test_prompts_of_a_file_are_asked_and_wrong_ones_are_told_before_an_image_is_read(
    encoder, bench, tmp_path, monkeypatch
):
    (tmp_path / "mine.toml").write_text('templates = ["seen from above: {}"]')
    texts = asked(encoder, monkeypatch)
    assert zeroshot.run(encoder, [bench], names=[str(tmp_path / "mine.toml")])["prompts"] == ["mine"]
    assert texts[-1][0] == "seen from above: bare land"
    monkeypatch.setattr(features, "scenes", lambda *_: pytest.fail("read the images"))
    with pytest.raises(RecipeError, match="did you mean 'rs5m'"):
        zeroshot.run(encoder, [bench], names=["rs5n"])


# --- linear probe, k-NN, few-shot


def fitted(train, labels, c):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        return LogisticRegression(C=c, tol=1e-9, max_iter=20_000).fit(train, labels)


def test_the_honest_probe_is_scikit_learns_at_the_c_it_says(encoder, bench):
    (train, labels), (test, truth) = (of_split(bench, name) for name in ("train", "test"))
    found = linear_probe.run(encoder, [bench])
    scores = fitted(towers(encoder, train), labels, found["C"]).decision_function(towers(encoder, test))
    check_scores(found, scores, truth)
    assert (found["train_images"], found["protocol"], found["seed"]) == (96, "honest", 0)
    assert 0 <= found["validation_top1"] <= 100
    assert f"C = {found['C']:g}, chosen on validation images" in linear_probe.table(found)


def test_the_paper_s_probe_is_the_epoch_that_is_best_on_the_test_images(encoder, bench):
    """By torch's own layer and SGD, on the features as the tower gives them."""
    (train, labels), (test, truth) = (of_split(bench, name) for name in ("train", "test"))
    scenes = features.scenes(encoder, [bench])
    x, x_test = (torch.from_numpy(scenes.towers[rows]) for rows in (scenes.train, scenes.test))
    assert (len(x), len(x_test)) == (len(train), len(test))
    order = torch.from_numpy(np.argsort(labels, kind="stable"))
    x, y = x[order], torch.from_numpy(labels)[order]
    layer = torch.nn.Linear(x.shape[1], 8)
    with torch.no_grad():
        layer.weight.normal_(0, 0.01, generator=torch.Generator().manual_seed(3))
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.8, momentum=0.9, weight_decay=4e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    reached = []
    for _ in range(1000):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(x), y).backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            reached.append(100 * float((layer(x_test).argmax(1).numpy() == truth).mean()))
    found = linear_probe.run(encoder, [bench], protocol="paper", seed=3)
    assert found["top1"] == pytest.approx(max(reached), abs=2.5)  # an image of 40: rounding may turn one
    assert found["last_top1"] == pytest.approx(reached[-1], abs=2.5)
    assert found["top1"] >= found["last_top1"]
    given = [part.astype(np.float32) for part in (scenes.towers[scenes.train], scenes.towers[scenes.test])]
    epochs = [
        classify.paper_probe(given[0], labels, given[1], truth, 8, seed)["best_epoch"] for seed in (3, 0)
    ]
    assert found["best_epoch"] == epochs[0] != epochs[1]
    told = linear_probe.table(found)
    assert "ON THE TEST IMAGES" in told
    assert f"last: {found['last_top1']:.2f}" in told


@pytest.mark.parametrize("protocol", scoring.PROTOCOLS)
def test_knn_is_scikit_learns_weighted_vote(encoder, bench, protocol):
    (train, labels), (test, truth) = (of_split(bench, name) for name in ("train", "test"))
    found = knn.run(encoder, [bench], protocol=protocol)
    if protocol == "paper":
        assert (found["k"], found["temperature"]) == (20, 0.07)
    voters = KNeighborsClassifier(
        min(found["k"], len(train)),
        metric="cosine",
        algorithm="brute",
        weights=lambda away: np.exp((1 - away) / found["temperature"]),
    ).fit(towers(encoder, train), labels)
    scores = voters.predict_proba(towers(encoder, test))
    counts = confusion_matrix(truth, scores.argmax(1), labels=range(8))
    assert found["confusion"] == counts.tolist()
    assert ("chosen on validation images" in knn.table(found)) == (protocol == "honest")
    assert f"k = {found['k']}" in knn.table(found)


def test_the_honest_protocol_never_sees_a_test_label(encoder, bench, tmp_path, monkeypatch):
    rows = rows_of(bench)
    tested = [number for number, each in enumerate(rows) if each["split"] == "test"]
    moved = [rows[number]["label"] for number in np.roll(tested, 7)]
    for number, label in zip(tested, moved, strict=True):
        rows[number] = {**rows[number], "label": label}
    turned = write_table(tmp_path / "table", rows)
    one, other = (linear_probe.run(encoder, [table]) for table in (bench, turned))
    assert (one["C"], one["validation_top1"]) == (other["C"], other["validation_top1"])
    assert one["confusion"] != other["confusion"]
    columns = [np.sum(each["confusion"], axis=0).tolist() for each in (one, other)]
    assert columns[0] == columns[1]  # the same images are given the same classes
    one, other = (knn.run(encoder, [table]) for table in (bench, turned))
    assert (one["k"], one["temperature"]) == (other["k"], other["temperature"])
    chosen, fit = [], classify._Logistic.fit
    monkeypatch.setattr(classify._Logistic, "fit", lambda self, c: chosen.append(c) or fit(self, c))
    one, other = (fewshot.run(encoder, [table], **FEW) for table in (bench, turned))
    assert one["drawn"] == other["drawn"]
    assert chosen[:4] == chosen[4:]


def test_few_shot_draws_the_same_images_for_every_model(encoder, bench):
    rows, labels = of_split(bench, "train")
    label = {each["image_id"]: number for each, number in zip(rows, labels, strict=True)}
    one, other = (fewshot.run(each, [bench], **FEW) for each in (encoder, tiny(seed=1)))
    assert one["drawn"] == other["drawn"]
    assert one["each_1"] != other["each_1"] or one["each_2"] != other["each_2"]
    for shots, draws in one["drawn"].items():
        assert len(draws) == 2
        assert set(draws[0]) != set(draws[1])
        for draw in draws:
            assert sorted(label[image] for image in draw) == sorted(list(range(8)) * int(shots))
    assert all(set(few) < set(more) for few, more in zip(*one["drawn"].values(), strict=True))
    again = fewshot.run(encoder, [bench], **FEW, seed=1)
    assert again["drawn"] != one["drawn"]


def test_few_shot_is_scikit_learns_on_what_was_drawn(encoder, bench, monkeypatch):
    monkeypatch.setattr(classify, "COARSE", (3,))  # one C to choose from: 1,000
    monkeypatch.setattr(classify, "REFINE", ())
    found = fewshot.run(encoder, [bench], shots=(4,), repeats=3)
    rows, labels = of_split(bench, "train")
    place = {each["image_id"]: number for number, each in enumerate(rows)}
    test, truth = of_split(bench, "test")
    wide, tested = towers(encoder, rows), towers(encoder, test)
    expected = []
    for draw in found["drawn"]["4"]:
        chosen = [place[image] for image in draw]
        expected.append(100 * fitted(wide[chosen], labels[chosen], 1000.0).score(tested, truth))
    assert found["each_4"] == pytest.approx(expected)
    assert found["top1_4"] == pytest.approx(np.mean(expected))
    low, high = stats.t.interval(0.95, 2, loc=np.mean(expected), scale=stats.sem(expected))
    assert found["interval_4"] == pytest.approx((high - low) / 2)


def test_few_shot_by_the_paper_s_protocol_is_its_probe_on_what_was_drawn(encoder, bench):
    found = fewshot.run(encoder, [bench], protocol="paper", **FEW)
    scenes, (_, truth) = features.scenes(encoder, [bench]), of_split(bench, "test")
    for shots, draws in found["drawn"].items():
        expected = []
        for repeat, draw in enumerate(draws):
            chosen = [scenes.ids.index(image) for image in draw]
            held = (scenes.towers[chosen], scenes.labels[chosen], scenes.towers[scenes.test], truth)
            scores = classify.paper_probe(*held, 8, seed=repeat)["scores"]
            expected.append(100 * (scores.argmax(1) == truth).mean())
        assert found[f"each_{shots}"] == pytest.approx(expected)


def test_few_shot_protocols_are_named_and_few_images_told(encoder, bench):
    found = {name: fewshot.run(encoder, [bench], protocol=name, **FEW) for name in scoring.PROTOCOLS}
    assert [each["protocol"] for each in found.values()] == list(scoring.PROTOCOLS)
    assert "best epoch ON THE TEST IMAGES" in fewshot.table(found["paper"])
    assert "TEST" not in fewshot.table(found["honest"])
    assert fewshot.headline(found["paper"]).keys() == {"top1_1", "top1_2"}
    assert not any("fewer than" in note for note in found["paper"]["notes"])
    many = fewshot.run(encoder, [bench], shots=(16,), repeats=1)
    assert any("fewer than 16 images to train on: BareLand" in note for note in many["notes"])
    assert len(many["drawn"]["16"][0]) == 96
    assert many["interval_16"] is None
    assert "±" not in fewshot.table(many)


@pytest.mark.parametrize("task", [zeroshot, *TRAINED], ids=lambda task: task.__name__)
def test_a_class_without_a_train_image_is_told_and_counts_as_wrong(encoder, tmp_path, task):
    rows = [each for each in classed(4, "train") if each["label"] != "pond"]
    table = write_table(tmp_path / "table", rows + classed(1, "test", seed=1))
    options = [FEW] if task is fewshot else [{}]
    if task is not zeroshot:
        options = [{**options[0], "protocol": name} for name in scoring.PROTOCOLS]
    for each in options:
        found = task.run(encoder, [table], **each)
        assert "classes without an image to train on: pond" in found["notes"]
        assert any("only 8 test images" in note for note in found["notes"])
        assert task.table(found)
        if task in (linear_probe, knn):
            assert found["per_class"]["pond"] == 0
            assert sum(row[LABELS.index("pond")] for row in found["confusion"]) == 0


@pytest.mark.parametrize("task", TRAINED, ids=lambda task: task.__name__)
def test_a_table_with_nothing_to_train_on_is_told(encoder, tmp_path, task):
    table = write_table(tmp_path / "table", classed(1, "test"))
    with pytest.raises(TableError, match="no image to train on: the table has no split train"):
        task.run(encoder, [table])
    assert zeroshot.run(encoder, [table])["images"] == 8


@pytest.mark.parametrize("task", TRAINED, ids=lambda task: task.__name__)
def test_one_test_image_a_class_and_two_classes_are_enough(encoder, tmp_path, task):
    rows = [each for each in classed(5, "unsplit") if each["label"] in ("forest", "pond")]
    table = write_table(tmp_path / "table", rows)
    for protocol in scoring.PROTOCOLS:
        found = task.run(encoder, [table], protocol=protocol, **(FEW if task is fewshot else {}))
        assert (found["images"], found["chance"]) == (2, 50)
        assert any("only 2 test images" in note for note in found["notes"])
        assert "top5" not in found
        assert "2 test images, 2 classes" in task.table(found)


# --- counting


@pytest.mark.parametrize(
    ("caption", "number"),
    [
        ("There are three planes in the picture.", 3),
        ("Ten ships are located here.", 10),
        ("There are 4 ships.", 4),
        ("10 ships", 10),
        ("There is a plane.", None),
        ("many planes", None),
        ("two planes and three ships", None),
        ("12 ships", None),
        ("0 ships", None),
        ("1,000 ships in one harbor", 1),
        ("a lake of 1,000 ships", None),
        ("it weighs 0.5 tons", None),
        ("a stone with someone", None),
        ("", None),
    ],
)
def test_a_caption_with_one_number_from_one_to_ten_is_counted(caption, number):
    found = counting.parsed(caption)
    assert (found and found.number) == number
    if found:
        assert caption[: found.start] + caption[found.start : found.end] + caption[found.end :] == caption


IRREGULAR = {
    **NOUNS,
    **{"person": "people", "aircraft": "aircraft", "bus": "buses", "place with water": "places with water"},
    **{"vehicle": "vehicles", "large vehicle": "large vehicles", "plane hangar": "plane hangars"},
}


@pytest.mark.parametrize(
    ("one", "three"),
    [
        ("There is one plane in the picture.", "There are three planes in the picture."),
        ("there is one bus .", "there are three buses ."),
        ("One plane is located in the picture.", "Three planes are located in the picture."),
        ("Is one ship there?", "Are three ships there?"),
        ("There is one person in the picture.", "There are three people in the picture."),
        ("There is one aircraft.", "There are three aircraft."),
        ("There is one large vehicle.", "There are three large vehicles."),
        ("There is one vehicle.", "There are three vehicles."),
        ("There is one plane hangar.", "There are three plane hangars."),
        ("There is one place with water.", "There are three places with water."),
        ("A picture of one storage tank", "A picture of three storage tanks"),
        ("There is one zebra.", "There is three zebra."),  # a noun that nobody knows
    ],
)
def test_verb_and_noun_agree_with_the_number(one, three):
    counted = counting.parsed(one), counting.parsed(three)
    assert counting.with_number(counted[0], 3, "agree", IRREGULAR) == three
    assert counting.with_number(counted[1], 1, "agree", IRREGULAR) == one
    for number, text in ((1, one), (3, three)):
        assert counting.with_number(counting.parsed(text), number, "agree", IRREGULAR) == text
    assert counting.with_number(counted[1], 7, "agree", IRREGULAR) == three.replace("three", "seven").replace(
        "Three", "Seven"
    )


def test_words_and_digits_replace_the_number_and_nothing_else():
    small, large = counting.parsed("There are 2 planes."), counting.parsed("Two planes are there.")
    said = [
        [counting.with_number(each, 1, form, NOUNS) for form in ("words", "digits")]
        for each in (small, large)
    ]
    assert said == [
        ["There are one planes.", "There are 1 planes."],
        ["One planes are there.", "1 planes are there."],
    ]


def variant(noun, number, form):
    """A caption of RemoteCount with another number, written anew."""
    return {
        "agree": lambda true: (
            f"There {'is' if number == 1 else 'are'} {counting.NUMBERS[number - 1]} "
            f"{noun if number == 1 else NOUNS[noun]} in the picture."
        ),
        "words": lambda true: (
            f"There {'is' if true == 1 else 'are'} {counting.NUMBERS[number - 1]} "
            f"{noun if true == 1 else NOUNS[noun]} in the picture."
        ),
        "digits": lambda true: (
            f"There {'is' if true == 1 else 'are'} {number} "
            f"{noun if true == 1 else NOUNS[noun]} in the picture."
        ),
    }[form]


@pytest.mark.parametrize("form", counting.FORMS)
def test_counts_are_the_nearest_of_ten_captions_by_open_clip(encoder, to_count, form):
    rows = rows_of(to_count)
    truth = np.array([len(each["objects"]) for each in rows])
    nouns = [each["objects"][0]["label"] for each in rows]
    assert sorted(truth) == sorted(number for _, number in COUNTS)
    images = pictures(encoder, rows)
    scores = []
    for image, noun, true in zip(images, nouns, truth, strict=True):
        texts = [variant(noun, number, form)(true) for number in range(1, 11)]
        assert rows[len(scores)]["captions"] == [variant(noun, true, "agree")(true)]
        scores.append(sentences(encoder, texts) @ image)
    scores = np.array(scores)
    said = 1 + scores.argmax(1)
    found = counting.run(encoder, [to_count], numbers=form)
    for k in range(1, 11):
        among = np.take_along_axis(np.argsort(-scores, axis=1), np.arange(k)[None], axis=1)
        assert found[f"top{k}"] == pytest.approx(100 * (among == truth[:, None] - 1).any(1).mean())
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (truth - 1, said - 1), 1)
    assert found["confusion"] == counts.tolist()
    assert [sum(each) for each in found["confusion"]] == np.bincount(truth, minlength=11)[1:].tolist()
    assert found["mae"] == pytest.approx(np.abs(said - truth).mean())
    assert found["within_1"] == pytest.approx(100 * (np.abs(said - truth) <= 1).mean())
    assert found["majority"] == 30  # three of the ten images show three
    right = said == truth
    assert found["mean_per_number"] == pytest.approx(
        np.mean([100 * right[truth == number].mean() for number in set(truth)])
    )
    assert found["by_class"] == pytest.approx(
        {noun: 100 * right[np.array(nouns) == noun].mean() for noun in set(nouns)}
    )
    assert (found["captions"], found["chance"], found["numbers"]) == (10, 10, form)
    told = counting.table(found)
    assert f"numbers as {form}" in told
    assert f"chance 10.00, always the commonest {found['majority']:.2f}" in told


def test_errors_of_counts_by_hand():
    """Ships: 2 taken for 2, 3 for 2, 9 for 5; planes: 2 for 3."""
    true, said = np.array([2, 3, 9, 2]), np.array([2, 2, 5, 3])
    scores = np.eye(10)[said - 1] + 0.01 * np.arange(10)
    found = counting._measured(scores, true - 1, ["ship", "ship", "ship", "plane"])
    assert (found["top1"], found["within_1"], found["mae"], found["majority"]) == (25, 75, 1.5, 50)
    assert found["by_class"] == pytest.approx({"plane": 0, "ship": 100 / 3})
    assert found["mean_per_number"] == pytest.approx((50 + 0 + 0) / 3)
    assert found["top2"] == 25  # behind what was said stands ten, then nine
    assert found["top3"] == 50
    assert [row[1] for row in found["confusion"]] == [0, 1, 1, 0, 0, 0, 0, 0, 0, 0]


def test_captions_that_cannot_be_counted_are_left_out_and_told(encoder, tmp_path):
    """Of twelve images each third has a caption to count by, behind another."""
    said = [["There is a ship.", f"There are {2 + n // 3} ships here."] for n in range(12)]
    for number in (1, 2, 4, 5, 7, 8, 10, 11):
        said[number] = ["Many ships.", "two ships and four planes"]
    rows = [{**each, "captions": held} for each, held in zip(shape_rows(12, "test"), said, strict=True)]
    found = counting.run(encoder, [write_table(tmp_path / "table", rows)])
    scores = [
        sentences(encoder, [f"There are {word} ships here." for word in counting.NUMBERS]) @ image
        for image in pictures(encoder, rows[::3])
    ]
    assert found["captions"] == 4
    for k in range(1, 10):
        top = top_k_accuracy_score([1, 2, 3, 4], np.array(scores), k=k, labels=range(10))
        assert found[f"top{k}"] == pytest.approx(100 * top)
    assert any("20 captions have no number" in note for note in found["notes"])
    assert found["by_class"].keys() == {"other"}
    bare = write_table(tmp_path / "bare", rows[1:3])
    with pytest.raises(TableError, match="no caption with one number from one to ten"):
        counting.run(encoder, [bare])


def test_mass_nouns_of_a_table_agree_too(encoder, converted, tmp_path, monkeypatch):
    for part in ("images_png", "masks_png"):
        (tmp_path / "dump/Train/Rural" / part).mkdir(parents=True)
    for number in (1, 2):
        mask = np.full((64, 64), 1, np.uint8)
        for place in range(number):
            mask[8:20, 8 + 30 * place : 22 + 30 * place] = 4
        Image.fromarray(60 * mask).convert("RGB").save(tmp_path / f"dump/Train/Rural/images_png/{number}.png")
        Image.fromarray(mask).save(tmp_path / f"dump/Train/Rural/masks_png/{number}.png")
    table = converted(tmp_path / "dump", "loveda", tmp_path / "table", captions="remotecount")
    captions = ["There is one place with water in the picture."]
    captions += [f"There are {number} places with water in the picture." for number in counting.NUMBERS[1:]]
    assert [each["captions"] for each in rows_of(table)] == [[caption] for caption in captions[:2]]
    texts = asked(encoder, monkeypatch)
    found = counting.run(encoder, [table], numbers="agree")
    assert set(texts[-1]) == set(captions)
    assert found["by_class"].keys() == {"place with water"}


# --- hard negatives


def test_hard_negatives_are_counted_as_by_hand(encoder, boxed):
    won, pairs = {}, 0
    nouns = store.nouns_of(boxed)
    for path in tables.shards(boxed):
        group = tables.read(path)
        held = store.false_captions(group, nouns)
        for each, image, twins in zip(
            group.to_pylist(), pictures(encoder, group.to_pylist()), held, strict=True
        ):
            record = Record("", [Box(**box) for box in each["objects"]], each["width"], each["height"])
            for caption, kinds in zip(each["captions"], twins, strict=True):
                for kind, false in kinds.items():
                    assert false != caption
                    assert box_to_caption.contradictions([false], record, Words(), nouns.labels["dota"])
                    right, wrong = sentences(encoder, [caption, false]) @ image
                    won.setdefault(kind, []).append(right > wrong)
                    pairs += 1
    found = hard_negatives.run(encoder, [boxed], split=("train", "val"))
    shares = {kind: 100 * np.mean(each) for kind, each in won.items()}
    assert shares.keys() == {"number", "class", "place"}
    assert {kind: found[kind] for kind in shares} == pytest.approx(shares)
    assert found["mean"] == pytest.approx(np.mean(list(shares.values())))
    assert sum(found[f"pairs_{kind}"] for kind in shares) == pairs
    assert (found["images"], found["chance"]) == (len(rows_of(boxed)), 50)


def test_captions_of_people_have_no_false_twins(encoder, sampled, captioned, tmp_path):
    with pytest.raises(TableError, match="no caption that a false one can be made of"):
        hard_negatives.run(encoder, [sampled("ucm", tmp_path / "table", images=3)])
    with pytest.raises(TableError, match="written by another program"):
        hard_negatives.run(encoder, [captioned])


# --- what all tasks have


RUNS = [
    *((retrieval, {"protocol": name}) for name in retrieval.PROTOCOLS),
    *((zeroshot, {"names": (name,)}) for name in ("remoteclip", "rs5m")),
    *((task, {"protocol": name}) for task in (linear_probe, knn) for name in scoring.PROTOCOLS),
    *((fewshot, {"protocol": name, **FEW}) for name in scoring.PROTOCOLS),
    *((counting, {"numbers": form}) for form in counting.FORMS),
    (hard_negatives, {}),
]


@pytest.mark.parametrize(("task", "options"), RUNS, ids=lambda each: getattr(each, "__name__", None))
def test_a_result_is_json_and_has_a_table_and_a_headline(
    task, options, encoder, captioned, bench, to_count, boxed
):
    table = {retrieval: captioned, counting: to_count, hard_negatives: boxed}.get(task, bench)
    result = task.run(encoder, [table], **options)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    headline = task.headline(result)
    assert headline
    shown = task.table(result)
    for name, value in headline.items():
        assert result[name] == value
        assert 0 <= value <= 100
        assert f"{value:.2f}" in shown
    assert isinstance(result["notes"], list)


@pytest.mark.parametrize("name", cli.task_names())
def test_a_task_says_to_which_tables_it_applies_and_its_variants_are_options_of_it(name):
    task = import_module(f"rsclip.tasks.{name.replace('-', '_')}")
    scenes = features.Held(True, frozenset(), ["rs5m"])
    held = {
        "scenes": scenes,
        "people": features.Held(False, frozenset({"human"}), []),
        "unknown": features.Held(False, frozenset({""}), []),
        "ours": features.Held(False, frozenset({"remoteclip"}), []),
        "count": features.Held(False, frozenset({"remotecount"}), []),
        "nothing": features.Held(False, frozenset(), []),
    }
    expected = {"retrieval": {"people", "unknown"}, "counting": {"count"}, "hard-negatives": {"ours"}}
    assert {kind for kind, each in held.items() if task.applies(each)} == expected.get(name, {"scenes"})
    known = {option.name for option in task.OPTIONS}
    assert all(each.keys() <= known for each in task.variants(scenes))
    assert task.variants(scenes)
