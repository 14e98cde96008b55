from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import groupby

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from rsclip import prompts, report
from rsdata import places

A, B = "run_1|a", "$50% & <b>"
RECALLS = [f"{side}_R@{k}" for side in ("i2t", "t2i") for k in (1, 5, 10)]
SCENES = (
    "rsi-cb128 rsi-cb256 whu-earth eurosat mlrsnet patternnet resisc45 aid rs2800 optimal-31 rsc11 whu-rs19"
)
TEST_IMAGES = {"aid": 2000, "rs2800": 560, "optimal-31": 372, "rsc11": 251, "whu-rs19": 206, "whu-earth": 480}


def entry(task, checkpoint, data, result, options=None, datasets=None):
    return {
        "checkpoint": checkpoint,
        "data": data,
        "datasets": [data] if datasets is None else datasets,
        "task": task,
        "options": options or {},
        "result": result,
    }


def scene(top1, **more):
    return {"top1": top1, "chance": 10.0, "confusion": [[3, 1], [0, 4]], "notes": [], **more}


def zeroshot(checkpoint, data, top1, names=("remoteclip",), **more):
    return entry("zeroshot", checkpoint, data, scene(top1, prompts=list(names)), {"names": names}, **more)


def retrieval(checkpoint, data, recalls):
    numbers = dict(zip(RECALLS, recalls, strict=True))
    numbers["mean_recall"] = sum(recalls) / 6
    chance = {f"chance_{name}": 0.25 for name in numbers}
    return entry("retrieval", checkpoint, data, {**numbers, **chance, "protocol": "by-image", "notes": []})


def fewshot(checkpoint, data, values, protocol="paper"):
    shots = [1, 4, 8][: len(values)]
    result = {f"top1_{shot}": value for shot, value in zip(shots, values, strict=True)}
    result |= {f"interval_{shot}": None if shot == 1 else 2.5 for shot in shots}
    result |= {"shots": shots, "chance": 10.0, "protocol": protocol, "notes": []}
    return entry("fewshot", checkpoint, data, result, {"protocol": protocol})


def scores_of(*results, skipped=(), names=(A, B)):
    checkpoints = [
        {"name": name, "path": f"runs/{name}", "model": "ViT-B-32", "weights": "ab" * 32} for name in names
    ]
    return {
        "checkpoints": checkpoints,
        "results": list(results),
        "skipped": list(skipped),
        "versions": {"rsdata": "1.0", "torch": "2.6"},
    }


@pytest.fixture
def all_tasks():
    """Each task, two checkpoints, three sets with names that Markdown and LaTeX would trip over."""
    odd = ["eurosat", "aid|x_1 & 50%", "[whu]<i>19</i>"]
    results = []
    for step, name in enumerate((A, B)):
        for number, data in enumerate(odd):
            of = {"datasets": ["aid"] if "aid" in data else [data]}
            results.append(zeroshot(name, data, 50.0 + 10 * step + number, **of))
            for protocol in ("paper", "honest"):
                for task in ("knn", "linear-probe"):
                    result = scene(70.0 + step, protocol=protocol)
                    results.append(entry(task, name, data, result, {"protocol": protocol}, **of))
            results.append(fewshot(name, data, [20.0, 40.0 + step, 60.0]))
            results.append(retrieval(name, data, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0 + step]))
        confusion = np.eye(10, dtype=int).tolist()
        confusion[3] = [0] * 10
        result = {"top1": 30.0, "chance": 10.0, "confusion": confusion, "notes": ["2 captions left out"]}
        results.append(entry("counting", name, "remotecount", result, {"numbers": "words"}))
        false = {"number": 60.0, "class": 80.0, "mean": 70.0, "chance": 50.0, "notes": []}
        results.append(entry("hard-negatives", name, "dota", false))
    skipped = [{"data": "a|b", "task": "knn", "checkpoint": None, "why": "no <label>"}]
    return scores_of(*results, skipped=skipped)


def tables(markdown):
    """The tables by their section, each {row name: {heading: cell}}, without escapes and emphasis."""
    found = {}
    for section in re.split(r"^## ", markdown, flags=re.MULTILINE)[1:]:
        title, *lines = section.splitlines()
        for is_table, held in groupby(lines, key=lambda line: line.startswith("|")):
            if is_table:
                rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in held]
                assert len({len(row) for row in rows}) == 1
                heads, _, *body = [[re.sub(r"\\(.)", r"\1", cell.strip()) for cell in row] for row in rows]
                for row in body:
                    line = found.setdefault(title, {}).setdefault(row[0], {})
                    assert not line.keys() & set(heads[1:])
                    line.update(zip(heads[1:], row[1:], strict=True))
    return found


def markdown_of(scores, folder):
    report.write(scores, folder)
    return (folder / "scores.md").read_text()


def rows(task, by):
    return {
        row.line.name.partition(" (")[0]: row.line
        for row in report.published()
        if row.task == task and by in row.line.name
    }


def mean(values):
    return sum(values) / len(values)


def test_mean_recalls_are_those_of_the_papers():
    found = {
        (line.name, data): value
        for line in (row.line for row in report.published() if row.task == "retrieval")
        for (data, metric), value in line.values.items()
        if metric == "mean_recall"
    }
    expected = {
        "CLIP ViT-B-32 (RS5M)": {"rsitmd": 24.19, "rsicd": 15.74},
        "CLIP ViT-B-32 (RSM-CLIP)": {"ucm": 33.13},
        "CLIP-CL RN50 (table II)": {"rsitmd": 37.27, "rsicd": 24.83, "ucm": 46.87},
        "CLIP-CL ViT-B-32 (table II)": {"rsitmd": 47.63, "rsicd": 33.84, "ucm": 55.27},
        "RemoteCLIP RN50 (table II)": {"rsitmd": 46.21, "rsicd": 30.58, "ucm": 49.25},
        "RemoteCLIP ViT-B-32 (table II)": {"rsitmd": 49.38, "rsicd": 35.26, "ucm": 56.36},
        "RemoteCLIP ViT-L-14 (table II)": {"rsitmd": 50.52, "rsicd": 36.35, "ucm": 54.68},
        "GeoRSCLIP ViT-B-32 (RS5M)": {"rsitmd": 35.33, "rsicd": 26.06},
        "GeoRSCLIP-FT ViT-B-32 (RS5M)": {"rsitmd": 51.81, "rsicd": 38.87},
    }
    flat = {(name, data): value for name, held in expected.items() for data, value in held.items()}
    assert found == pytest.approx(flat, abs=0.0051)


def test_retrieval_averages_are_those_of_table_v():
    found = {
        model: mean([line.values[data, "mean_recall"] for data in ("rsitmd", "rsicd", "ucm")])
        for model, line in rows("retrieval", "table II").items()
        if model.startswith("RemoteCLIP")
    }
    expected = {"RemoteCLIP RN50": 42.01, "RemoteCLIP ViT-B-32": 47.00, "RemoteCLIP ViT-L-14": 47.18}
    assert found == pytest.approx(expected, abs=0.0051)


@pytest.mark.parametrize(
    ("task", "by", "expected"),
    [
        (
            "zeroshot",
            "table III",
            {
                "CLIP RN50": 50.61,
                "RemoteCLIP RN50": 53.46,
                "CLIP ViT-B-32": 56.02,
                "RemoteCLIP ViT-B-32": 62.41,
                "CLIP ViT-L-14": 65.67,
                "RemoteCLIP ViT-L-14": 71.30,
            },
        ),
        (
            "linear-probe",
            "table IV",
            {
                "CLIP RN50": 90.61,
                "RemoteCLIP RN50": 92.99,
                "CLIP ViT-B-32": 93.89,
                "RemoteCLIP ViT-B-32": 94.70,
            },
        ),
        (
            "knn",
            "table IV",
            {
                "CLIP RN50": 88.69,
                "RemoteCLIP RN50": 91.43,
                "CLIP ViT-B-32": 90.85,
                "RemoteCLIP ViT-B-32": 93.18,
            },
        ),
    ],
)
def test_averages_of_twelve_scene_sets_are_those_computed_from_the_paper(task, by, expected):
    held = rows(task, by)
    assert all({data for data, _ in line.values} == set(SCENES.split()) for line in held.values())
    assert {model: mean(line.values.values()) for model, line in held.items()} == pytest.approx(
        expected, abs=0.0051
    )


def attainable(value, count):
    """Whether a percentage is a fraction of `count`; the papers are off by one hundredth at times."""
    return abs(100 * round(value * count / 100) / count - value) < 0.0151


def test_published_figures_are_fractions_of_the_test_images():
    """A slip of the pen in published.toml would hardly be one; those of the papers themselves are doubted."""
    sizes = {("rsitmd", "i"): 452, ("rsitmd", "t"): 2260, ("rsicd", "i"): 1093, ("rsicd", "t"): 5465}
    sizes |= {("ucm", "i"): 210, ("ucm", "t"): 1050}
    checked = 0
    for row in report.published():
        for (data, metric), value in row.line.values.items():
            size = sizes.get((data, metric[0])) if "R@" in metric else TEST_IMAGES.get(data)
            if size and metric != "mean_recall" and not row.line.doubts[data, metric]:
                draws = 5 if row.task == "fewshot" else 1
                assert attainable(value, draws * size), (row.line.name, data, metric, value)
                checked += 1
    assert checked > 150


def test_clip_baselines_of_table_iii_are_of_another_split():
    for model in ("CLIP ViT-B-32", "CLIP ViT-L-14"):
        line = rows("zeroshot", "table III")[model]
        assert sum(not attainable(line.values[data, "top1"], size) for data, size in TEST_IMAGES.items()) >= 4
        assert all("split" in why for held in line.doubts.values() for (why,) in [held])


def test_published_figures_name_recipes_prompts_and_metrics_that_exist():
    held = report.published()
    recipes = {path.stem for path in places.recipes().glob("*.toml")}
    assert {data for row in held for data, _ in row.line.values} <= recipes
    assert {name for row in held if row.task == "zeroshot" for name in row.protocols} <= set(prompts.names())
    shots = {f"top1_{count}" for count in (1, 4, 8, 16, 32)}
    for row in held:
        known = {"retrieval": {*RECALLS, "mean_recall"}, "fewshot": shots}.get(row.task, {"top1"})
        assert {metric for _, metric in row.line.values} <= known
        assert all(0 < value < 100 for value in row.line.values.values())


def test_doubts_are_where_the_papers_contradict_themselves_or_others():
    line = rows("retrieval", "table II")["CLIP-CL ViT-B-32"]
    assert {data for (data, _), why in line.doubts.items() if why} == {"rsicd"}
    held = rows("zeroshot", "table III")
    doubted = {model: {data for (data, _), why in line.doubts.items() if why} for model, line in held.items()}
    whole = set(SCENES.split())
    assert doubted == {
        "CLIP RN50": set(),
        "RemoteCLIP RN50": {"aid"},
        "CLIP ViT-B-32": whole,
        "RemoteCLIP ViT-B-32": {"aid"},
        "CLIP ViT-L-14": whole,
        "RemoteCLIP ViT-L-14": whole,
    }


def test_rows_are_checkpoints_then_chance_then_published_ones(tmp_path):
    results = [zeroshot(name, data, top1) for name, data, top1 in [(A, "eurosat", 40), (A, "aid", 80.126)]]
    results += [zeroshot(B, "eurosat", 45), zeroshot(B, "aid", 70)]
    found = tables(markdown_of(scores_of(*results), tmp_path))["Zero-shot classification, prompts remoteclip"]
    names = list(found)
    assert names[:4] == [A, "$50% &amp; &lt;b&gt;", "chance", "*CLIP RN50 (table III)*"]
    assert found[A] == {"eurosat": "40.00", "aid": "**80.13**", "mean of 2": "**60.06**"}
    assert found["chance"] == {"eurosat": "10.00", "aid": "10.00", "mean of 2": "10.00"}
    paper = found["*RemoteCLIP ViT-B-32 (table III)*"]
    assert paper["eurosat"] == "35.96"
    assert re.fullmatch(r"91\.30 †\d", paper["aid"])
    assert re.fullmatch(r"63\.63 †\d", paper["mean of 2"])
    assert found["*RemoteCLIP ViT-L-14 (SkyScript protocol)*"]["eurosat"] == "27.81"


def test_each_mark_has_its_footnote_and_each_published_row_its_source(tmp_path):
    text = markdown_of(scores_of(*(zeroshot(A, data, 50) for data in SCENES.split())), tmp_path)
    marks = {mark for cell in re.findall(r"\d †([\d,]+) ", text) for mark in cell.split(",")}
    assert marks == set(re.findall(r"^- †(\d+) ", text, re.MULTILINE)) == {"1", "2", "3"}
    by = set(re.findall(r"^\| \*\S+ \S+ \((.*?)\)\*", text, re.MULTILINE))
    assert by == set(re.findall(r"^- ([^†]*?): ", text, re.MULTILINE)) & by
    assert len(by) == 4


def test_the_mean_is_over_the_sets_that_all_checkpoints_have(tmp_path):
    results = [zeroshot(A, data, top1) for data, top1 in [("eurosat", 10), ("aid", 20), ("rsc11", 60)]]
    results += [zeroshot(B, "eurosat", 30), zeroshot(B, "rsc11", 50)]
    (found,) = list(tables(markdown_of(scores_of(*results), tmp_path)).values())[:1]
    assert found[A]["mean of 2"] == "35.00"
    assert found["$50% &amp; &lt;b&gt;"]["mean of 2"] == "**40.00**"
    assert found["$50% &amp; &lt;b&gt;"]["aid"] == "–"
    assert found[A]["aid"] == "20.00"  # nobody to be better than
    assert found["*RemoteCLIP RN50 (table III)*"]["mean of 2"] == "42.06"
    assert found["*RemoteCLIP ViT-B-32 (FarSLIP)*"]["mean of 2"] == "–"


def test_checkpoints_that_print_the_same_are_both_best(tmp_path):
    results = [zeroshot(A, "eurosat", 40.001), zeroshot(B, "eurosat", 40.004)]
    text = markdown_of(scores_of(*results), tmp_path)
    assert text.count("**40.00**") == 2
    assert "mean of" not in text


def test_published_figures_need_the_same_prompts_and_one_dataset(tmp_path):
    results = [
        zeroshot(A, "eurosat", 40, names=("rs5m",)),
        zeroshot(A, "eurosat", 41, names=("rs5m", "remoteclip")),
        zeroshot(A, "both", 42, datasets=["eurosat", "aid"]),
        zeroshot(A, "foreign", 43, datasets=[]),
    ]
    found = tables(markdown_of(scores_of(*results), tmp_path))
    published = {title: [name for name in held if name.startswith("*")] for title, held in found.items()}
    assert published == {
        "Zero-shot classification, prompts rs5m": ["*GeoRSCLIP ViT-B-32 (RS5M)*"],
        "Zero-shot classification, prompts rs5m+remoteclip": [],
        "Zero-shot classification, prompts remoteclip": [],
    }


def test_the_paper_protocol_comes_second_and_says_how_it_picks(all_tasks, tmp_path):
    found = tables(markdown_of(all_tasks, tmp_path))
    picked = " (the best epoch was picked on the test images)"
    assert list(found) == [
        "Retrieval, by-image protocol",
        "Zero-shot classification, prompts remoteclip",
        "Linear probe, honest protocol",
        "Linear probe, paper protocol" + picked,
        "k-NN, honest protocol",
        "k-NN, paper protocol",
        "Few-shot classification, paper protocol" + picked,
        "Counting, numbers = words",
        "Hard negatives",
    ]
    for title, held in found.items():
        if "prob" in title or "k-NN" in title:
            assert any(name.startswith("*RemoteCLIP") for name in held) == ("paper" in title)


def test_retrieval_and_few_shot_show_every_number_of_each_set(tmp_path):
    sets = ["rsitmd", "rsicd", "ucm", "sydney"]
    recalls = {
        data: list(np.random.default_rng(number).uniform(0, 100, 6)) for number, data in enumerate(sets)
    }
    results = [retrieval(A, data, recalls[data]) for data in sets] + [fewshot(A, "aid", [30, 50, 60])]
    found = tables(markdown_of(scores_of(*results), tmp_path))
    line = found["Retrieval, by-image protocol"][A]
    heads = [f"{side} R@{k}" for side in ("I→T", "T→I") for k in (1, 5, 10)]
    for data in sets:
        assert [line[f"{data}<br>{head}"] for head in heads] == [f"{value:.2f}" for value in recalls[data]]
        assert line[f"{data}<br>mR"] == f"{mean(recalls[data]):.2f}"
    assert found["Retrieval, by-image protocol"]["chance"]["ucm<br>mR"] == "0.25"
    assert found["Retrieval, by-image protocol"]["*GeoRSCLIP ViT-B-32 (RS5M)*"]["rsicd<br>mR"] == "26.06"
    shots = next(held for title, held in found.items() if title.startswith("Few-shot"))
    assert shots["*RemoteCLIP RN50 (issue 3)*"] == dict(
        zip([f"aid<br>{count}-shot" for count in (1, 4, 8)], ["36.95", "63.13", "70.50"], strict=True)
    )


def test_wide_groups_are_cut_between_data_sets(tmp_path):
    results = [retrieval(A, f"set{number}", [1.0] * 6) for number in range(5)]
    lines = markdown_of(scores_of(*results), tmp_path).splitlines()
    heads = [re.findall(r"(set\d)<br>", line) for line in lines if "<br>" in line]
    assert [len(held) for held in heads] == [14, 14, 7]
    assert [[name for name, _ in groupby(held)] for held in heads] == [
        ["set0", "set1"],
        ["set2", "set3"],
        ["set4"],
    ]


def test_notes_and_what_was_left_out_are_told_once(all_tasks, tmp_path):
    text = markdown_of(all_tasks, tmp_path)
    assert text.count("- remotecount\n  - 2 captions left out\n") == 1
    assert "- a\\|b, knn: no &lt;label&gt;\n" in text
    assert "rsdata 1.0, torch 2.6" in text
    assert "<i>" not in text


def latex_rows(text):
    """(column specification, rows of cells) of each tabular, escaped ampersands aside."""
    for spec, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        body = re.sub(r"\\(toprule|midrule|bottomrule|cmidrule\(lr\)\{\d+-\d+\})", "", body)
        yield spec, [re.split(r"(?<!\\)&", row) for row in body.split(r"\\")[:-1]]


def width(cells):
    spans = [re.search(r"\\multicolumn\{(\d+)\}", cell) for cell in cells]
    return sum(int(span[1]) if span else 1 for span in spans)


def test_latex_is_balanced_escaped_and_of_even_rows(all_tasks, tmp_path):
    report.write(all_tasks, tmp_path)
    text = (tmp_path / "scores.tex").read_text()
    held = list(latex_rows(text))
    assert (
        len(held) == text.count(r"\begin{table*}") == text.count(r"\caption{") == text.count(r"\bottomrule")
    )
    assert len(set(re.findall(r"\\label\{(.*?)\}", text))) == len(held)
    for spec, found in held:
        assert {width(cells) for cells in found} == {len(spec)}
    bare = re.sub(r"\\[\\{}$&#%_]", "", text)
    assert not re.search(r"[#%_~<>|]", bare)
    depth = np.cumsum([{"{": 1, "}": -1}.get(character, 0) for character in bare])
    assert depth.min() == depth[-1] == 0
    assert bare.count("$") % 2 == 0
    assert r"run\_1\textbar{}a" in text
    assert r"\$50\% \& \textless{}b\textgreater{}" in text


def test_no_name_is_an_argument_of_the_line_end_before_it(tmp_path):
    names = ["a", "[2em]", "*b"]
    report.write(scores_of(*(zeroshot(name, "eurosat", 50) for name in names), names=names), tmp_path)
    assert not re.search(r"\\\\\s*[\[*]", (tmp_path / "scores.tex").read_text())


def test_latex_has_the_numbers_of_the_markdown(all_tasks, tmp_path):
    text = markdown_of(all_tasks, tmp_path)
    cell = r"\d+\.\d\d"
    ours = [value for held in tables(text).values() for line in held.values() for value in line.values()]
    expected = sorted(
        re.match(cell, value.strip("*"))[0] for value in ours if re.match(cell, value.strip("*"))
    )
    held = [found for _, found in latex_rows((tmp_path / "scores.tex").read_text())]
    numbers = [re.search(cell, each) for found in held for cells in found for each in cells[1:]]
    assert sorted(match[0] for match in numbers if match) == expected


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_latex_compiles(all_tasks, tmp_path):
    report.write(all_tasks, tmp_path)
    whole = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{scores}\end{document}"
    (tmp_path / "whole.tex").write_text(whole)
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "-draftmode", "whole"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_files_are_whole_and_no_others_are_left(all_tasks, tmp_path):
    written = report.write(all_tasks, tmp_path / "new" / "folder")
    assert sorted(written) == sorted((tmp_path / "new" / "folder").iterdir())
    assert json.loads(written[0].read_text()) == json.loads(json.dumps(all_tasks))
    pictures = [path for path in written if path.suffix == ".png"]
    assert {path.name for path in pictures} == {
        "zero-shot-classification-prompts-remoteclip.png",
        "linear-probe-honest-protocol.png",
        "linear-probe-paper-protocol.png",
        "k-nn-honest-protocol.png",
        "k-nn-paper-protocol.png",
        "few-shot-classification-paper-protocol.png",
        "counting-numbers-words.png",
        "counting-numbers-words-confusion.png",
    }
    text = (tmp_path / "new" / "folder" / "scores.md").read_text()
    assert sorted(re.findall(r"^!\[.*\]\((.*)\)$", text, re.MULTILINE)) == sorted(
        path.name for path in pictures
    )
    for path in pictures:
        with Image.open(path) as picture:
            assert np.ptp(np.asarray(picture.convert("L"))) > 100


def test_figures_of_twelve_sets_and_four_checkpoints_have_a_sane_size(tmp_path):
    names = [f"run{number}" for number in range(4)]
    results = [zeroshot(name, data, 50) for name in names for data in SCENES.split()]
    results += [fewshot(name, data, [20, 40, 60]) for name in names for data in SCENES.split()]
    written = report.write(scores_of(*results, names=names), tmp_path)
    sizes = {path.name: Image.open(path).size for path in written if path.suffix == ".png"}
    assert all(600 < wide < 2000 and 300 < high < 1200 for wide, high in sizes.values())


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, in their order."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *of, **how: (figures.append(self), save(self, *of, **how))
    )
    return figures


def test_bars_stand_for_the_numbers_and_lines_for_chance(drawn, tmp_path):
    results = [zeroshot(A, "eurosat", 40), zeroshot(B, "eurosat", 50), zeroshot(B, "_x", 60)]
    report.write(scores_of(*results), tmp_path)
    (axis,) = drawn[0].axes
    heights = [[bar.get_height() for bar in bars] for bars in axis.containers]
    np.testing.assert_equal(heights, [[40, np.nan], [50, 60]])
    middles = [[bar.get_x() + bar.get_width() / 2 for bar in bars] for bars in axis.containers]
    assert np.mean(middles, axis=0) == pytest.approx([0, 1])
    assert [segment[0][1] for segment in axis.collections[0].get_segments()] == [10, 10]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["chance", A, B]


def test_few_shot_curves_have_a_panel_a_set_and_bands(drawn, tmp_path):
    results = [
        fewshot(A, "eurosat", [20, 40, 60]),
        fewshot(B, "eurosat", [25, 45, 65]),
        fewshot(B, "_x", [1, 2, 3]),
    ]
    report.write(scores_of(*results), tmp_path)
    one, other = drawn[0].axes
    assert [list(line.get_ydata()) for line in one.lines if line.get_label() in (A, B)] == [
        [20, 40, 60],
        [25, 45, 65],
    ]
    band = one.collections[0].get_paths()[0].vertices
    assert {y for x, y in band if x == 4} == {37.5, 42.5}
    assert {y for x, y in band if x == 1} == {20}
    assert [text.get_text() for text in one.get_xticklabels()] == ["1", "4", "8"]
    assert other.get_title().strip() == "_x"


def test_confusion_rows_are_shares_of_the_row(drawn, tmp_path):
    confusion = np.zeros((10, 10), int)
    confusion[0, :2] = 3, 1
    result = {"top1": 30.0, "chance": 10.0, "confusion": confusion.tolist(), "notes": []}
    report.write(scores_of(entry("counting", A, "remotecount", result)), tmp_path)
    (image,) = [image for axis in drawn[1].axes for image in axis.images]
    assert image.get_array()[0].tolist() == [75, 25] + [0] * 8
    assert image.get_array().mask[1:].all()  # no caption with that number: nothing to show


def test_two_groups_never_share_a_file(tmp_path):
    results = [zeroshot(A, "eurosat", 40, names=("a b",)), zeroshot(A, "eurosat", 50, names=("a-b",))]
    pictures = [path.name for path in report.write(scores_of(*results), tmp_path) if path.suffix == ".png"]
    assert len(set(pictures)) == 2


def test_nothing_evaluated_still_says_why(tmp_path):
    skipped = [{"data": "aid", "task": "knn", "checkpoint": A, "why": "no label"}]
    written = report.write(scores_of(skipped=skipped), tmp_path)
    assert [path.name for path in written] == ["scores.json", "scores.md", "scores.tex"]
    assert "no label" in written[1].read_text()


def test_the_report_needs_no_torch():
    code = "import sys, rsclip.report; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ)).returncode == 0
