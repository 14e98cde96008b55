"""Over a thousand damages to dumps of all formats: no traceback, each loss listed with file and line.

Two families. Aimed damages hit one object, image or caption, and the test knows what must be listed for
it, at which line, and which rows must come out. Blind damages hit bytes; there only the promises hold:
nothing but RsdataError escapes, and only where nothing is usable; the account adds up; what is listed is a
file of the dump and a line of it; rows hold sound boxes; and images that were not hit come out as from the
clean dump.
"""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from dumps import rows_of, run, sample_dump
from PIL import Image

from rsdata import recipes
from rsdata.convert import Outcome
from rsdata.errors import RsdataError
from rsdata.recipes import Recipe
from rsdata.samples import Sample

pytestmark = pytest.mark.slow

SIZE = (48, 40)
RECIPES = {
    "dota": recipes.load("dota"),
    "voc": recipes.load("hrrsd"),
    "visdrone": recipes.load("visdrone"),
    "masks": recipes.load("loveda"),
    "coco": recipes.from_format("coco"),
    "karpathy": recipes.load("ucm"),
}
DOCUMENTS = ("coco", "karpathy")
TEXTS = ("dota", "voc", "visdrone", "coco", "karpathy")
BLIND_TIMES = 9
AIMED_TIMES = 5


class Clean(NamedTuple):
    """A dump that is never written to: its truth and the rows that it converts to, by image path."""

    format: str
    recipe: Recipe
    folder: Path
    truth: dict[str, Sample]
    rows: dict[str, dict[str, Any]]


class Case(NamedTuple):
    """A copy of a clean dump, to damage. image: the one to hit; path: its annotation."""

    clean: Clean
    folder: Path
    image: str
    path: str

    @property
    def file(self) -> Path:
        return self.folder / self.path

    @property
    def text(self) -> str:
        return self.file.read_text(encoding="utf-8")

    @property
    def objects(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.clean.rows[self.image]["objects"]
        return found


class Damage(NamedTuple):
    """What an aimed damage must come to.

    listed: each (action, codes that are right, path, line), in any order. lost: index of the object in the
    row that is gone, None for none. row: False where the image has no row. more: objects that the dump now
    holds beside those that the clean one does.
    """

    listed: Sequence[tuple[str, str, str, int]]
    lost: int | None = None
    row: bool = True
    more: int = 0


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Clean]:
    made: dict[str, Clean] = {}

    def of(name: str) -> Clean:
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            recipe = RECIPES[name]
            split = "train" if {"*", "train"} & recipe.splits.keys() else next(iter(recipe.splits))
            options: dict[str, Any] = {"images": 4, "size": SIZE, "most": 4, "seed": 2, "splits": [split]}
            truth = sample_dump(recipe, root / "dump", **options)
            assert run(recipe, root / "dump", root / "table").rejections == []
            rows = {row["image"]["path"]: row for row in rows_of(root / "table")}
            assert rows.keys() == truth.keys()
            made[name] = Clean(name, recipe, root / "dump", truth, rows)
        return made[name]

    return of


def copy(clean: Clean, folder: Path, rng: random.Random) -> Case:
    shutil.copytree(clean.folder, folder / "dump")
    image = rng.choice(sorted(clean.truth))
    return Case(clean, folder / "dump", image, clean.truth[image].annotation)


def converted(case: Case, folder: Path) -> tuple[Outcome | None, dict[str, dict[str, Any]], str]:
    """The outcome, the rows by image, and the message where nothing was usable."""
    try:
        outcome = run(case.clean.recipe, case.folder, folder / "table")
    except RsdataError as error:
        return None, {}, str(error)
    rows = {row["image"]["path"]: row for row in rows_of(folder / "table")}
    check_places(outcome, case.folder)
    for row in rows.values():
        check_row(row)
    return outcome, rows, ""


def check_places(outcome: Outcome, dump: Path) -> None:
    for item in outcome.rejections:
        path = dump / item.path
        assert path.is_file(), item
        lines = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n") + 1
        assert 0 <= item.line <= lines, item


def check_row(row: dict[str, Any]) -> None:
    for found in row["objects"]:
        assert 0 <= found["xmin"] < found["xmax"] <= row["width"]
        assert 0 <= found["ymin"] < found["ymax"] <= row["height"]
        assert all(map(math.isfinite, found["polygon"] or []))
        assert found["label"]
    assert all(isinstance(caption, str) and caption.strip() for caption in row["captions"])


def repeat(name: str, kind: str, times: int, folder: Path) -> Iterator[tuple[random.Random, Path]]:
    for number in range(times):
        yield random.Random(f"{name} {kind} {number}"), folder / str(number)


# Blind damages


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flip(data: bytes, rng: random.Random) -> bytes:
    held = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        held[rng.randrange(len(held))] = rng.randrange(256)
    return bytes(held)


def insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randint(1, 20)) + data[at:]


def cut(data: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[:start] + data[end:]


def shuffle_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    rng.shuffle(lines)
    return b"\n".join(lines)


def wrong_numbers(data: bytes, rng: random.Random) -> bytes:
    junk = [
        "NaN",
        "-Infinity",
        "1e999",
        "-7",
        "9" * 400,
        "9" * 5000,
        "0x10",
        "1,5",
        "",
        "null",
        "None",
        "true",
    ]
    junk += ["[]", "{}", '"12"', "١٢", "1_000", "--3", "1e-400", "4294967296", "18446744073709551616", "-0"]
    hits = list(re.finditer(rb"-?\d+(?:\.\d+)?", data))
    for hit in sorted(rng.sample(hits, min(len(hits), rng.randint(1, 3))), key=lambda hit: -hit.start()):
        data = data[: hit.start()] + rng.choice(junk).encode() + data[hit.end() :]
    return data


def brackets(data: bytes, rng: random.Random) -> bytes:
    hits = [hit.start() for hit in re.finditer(rb"[\[\]{}<>/\",: ]", data)]
    at = rng.choice(hits)
    return (
        data[:at] + rng.choice([b"", b"[", b"]", b"{", b"}", b"<", b">", b'"', b",", b"\0"]) + data[at + 1 :]
    )


def deep(data: bytes, rng: random.Random) -> bytes:
    at = rng.choice([hit.end() for hit in re.finditer(rb"[:>,] ?", data)] or [0])
    opening = rng.choice([b"[" * 100_000, b'{"a":' * 50_000, b"<a>" * 50_000])
    return data[:at] + opening + data[at:]


BLIND: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": truncate,
    "bytes flipped": flip,
    "bytes inserted": insert,
    "bytes cut out": cut,
    "lines shuffled": shuffle_lines,
    "wrong numbers": wrong_numbers,
    "wrong numbers too": wrong_numbers,
    "brackets": brackets,
    "nested deeply": deep,
    "empty": lambda data, rng: rng.choice([b"", b" ", b"\n\n", b"\xef\xbb\xbf", b"\0" * 9]),
    "another file": lambda data, rng: rng.choice(
        [b"<html></html>", b"[]", b"{}", b"null", b"PK\3\4", b"1 2"]
    ),
    "not UTF-8": lambda data, rng: rng.choice(
        [data.replace(b"a", b"\xff"), data.replace(b"1", b"\xb1\xb1"), data.decode().encode("utf-16-le")]
        if b"PNG" not in data[:8]
        else [data[::-1]]
    ),
}


@pytest.mark.parametrize("kind", BLIND)
@pytest.mark.parametrize("name", RECIPES)
def test_blind(name: str, kind: str, clean: Callable[[str], Clean], tmp_path: Path) -> None:
    held = clean(name)
    for rng, folder in repeat(name, kind, BLIND_TIMES, tmp_path):
        case = copy(held, folder, rng)
        case.file.write_bytes(BLIND[kind](case.file.read_bytes(), rng))
        outcome, rows, message = converted(case, folder)
        if name in DOCUMENTS:
            if outcome is None:
                assert "no image could be used" in message
                assert case.path in message
            elif len(rows) < len(held.rows):
                assert outcome.rejections
            continue
        assert outcome is not None, message
        for image, row in held.rows.items():
            assert image == case.image or rows[image] == row
        if case.image not in rows:
            assert [item.image for item in outcome.rejections if item.action == "rejected"] == [case.image]


@pytest.mark.parametrize("kind", ["truncated", "bytes flipped", "empty", "another file"])
@pytest.mark.parametrize("name", RECIPES)
def test_blind_to_the_image(name: str, kind: str, clean: Callable[[str], Clean], tmp_path: Path) -> None:
    held = clean(name)
    for rng, folder in repeat(name, f"image {kind}", 4, tmp_path):
        case = copy(held, folder, rng)
        file = case.folder / case.image
        file.write_bytes(BLIND[kind](file.read_bytes(), rng))
        outcome, rows, message = converted(case, folder)
        assert outcome is not None, message
        assert {image: row for image, row in rows.items() if image != case.image} == {
            image: row for image, row in held.rows.items() if image != case.image
        }
        if case.image in rows:
            assert rows[case.image]["image"]["bytes"] == file.read_bytes()
        else:
            (item,) = outcome.rejections
            assert (item.action, item.image) == ("rejected", case.image)
            # A damaged header may give another size, which a label that states it then tells.
            assert item.code in ("E35", "E10", "E22")
        again = run(case.clean.recipe, case.folder, None, dry_run=True)
        assert again == outcome  # no reason names an address or a temporary file


@pytest.mark.parametrize("kind", ["truncated", "bytes flipped", "empty", "lines shuffled", "not UTF-8"])
def test_blind_to_the_list(kind: str, clean: Callable[[str], Clean], tmp_path: Path) -> None:
    """Each image goes into the split that is left for it."""
    held = clean("voc")
    for rng, folder in repeat("list", kind, 4, tmp_path):
        case = copy(held, folder, rng)
        file = case.folder / "ImageSets/Main/train.txt"
        file.write_bytes(BLIND[kind](file.read_bytes(), rng))
        outcome, rows, message = converted(case, folder)
        assert outcome is not None, message
        assert rows.keys() == held.rows.keys()
        for image, row in rows.items():
            assert row["split"] in ("train", "unsplit")
            assert row["objects"] == held.rows[image]["objects"]
        assert {item.code for item in outcome.rejections} <= {"E07", "E03"}


# Aimed damages that must change nothing

HARMLESS: dict[str, Callable[[bytes], bytes]] = {
    "BOM": lambda data: b"\xef\xbb\xbf" + data,
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "CR": lambda data: data.replace(b"\n", b"\r"),
    "BOM and CRLF": lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"),
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "blank lines": lambda data: data + b"\n \n\t\n",
    "trailing blanks": lambda data: data.replace(b"\n", b" \t\n"),
}


@pytest.mark.parametrize("kind", HARMLESS)
@pytest.mark.parametrize("name", TEXTS)
def test_harmless(name: str, kind: str, clean: Callable[[str], Clean], tmp_path: Path) -> None:
    held = clean(name)
    for rng, folder in repeat(name, kind, 3, tmp_path):
        case = copy(held, folder, rng)
        case.file.write_bytes(HARMLESS[kind](case.file.read_bytes()))
        outcome, rows, message = converted(case, folder)
        assert outcome is not None, message
        assert rows == held.rows
        assert {item.code for item in outcome.rejections} <= {"E03"}


@pytest.mark.parametrize("encoding", ["gb18030", "latin-1"])
@pytest.mark.parametrize("name", ["dota", "voc", "coco", "karpathy"])
def test_text_of_another_encoding(
    name: str, encoding: str, clean: Callable[[str], Clean], tmp_path: Path
) -> None:
    """Text that no row takes up; that the file was not UTF-8 is noted (E03)."""
    text = "谷歌地球" if encoding == "gb18030" else "é\u00ff"
    old, new = {
        "dota": ("synthetic", text),
        "voc": ("<annotation>", f"<annotation><source>{text}</source>"),
        "coco": ('"categories": [', f'"categories": [{{"id": 99, "name": "{text}"}},'),
        "karpathy": ("{", f'{{"info": "{text}",'),
    }[name]
    held = clean(name)
    for rng, folder in repeat(name, encoding, 2, tmp_path):
        case = copy(held, folder, rng)
        assert old in case.text
        case.file.write_bytes(case.text.replace(old, new, 1).encode(encoding))
        outcome, rows, message = converted(case, folder)
        assert outcome is not None, message
        assert rows == held.rows
        assert [(item.action, item.code, item.path) for item in outcome.rejections] == [
            ("repaired", "E03", case.path)
        ]
        assert encoding in outcome.rejections[0].why


# Aimed damages to one object

Aimed = Callable[[Case, random.Random], Damage]


def _line_of_object(name: str, case: Case, rng: random.Random) -> tuple[list[str], int]:
    """The lines of a text annotation and the index of one that holds an object."""
    lines = case.text.split("\n")
    return lines, rng.choice([number for number, line in enumerate(lines) if _edges_in(name, line)])


def _edges_in(name: str, line: str) -> list[float] | None:
    """xmin, ymin, xmax, ymax of a line as the sample writers make them, by other means than the readers'."""
    if name == "dota" and line and ":" not in line:
        numbers = [float(word) for word in line.split()[:8]]
        return [min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])]
    if name == "visdrone" and line:
        left, top, width, height = (float(word) for word in line.split(",")[:4])
        return [left, top, left + width, top + height]
    if name == "voc" and "<bndbox>" in line:
        return [float(word) for word in re.findall(r"<[xy]m[a-z]+>([^<]*)<", line)]
    return None


def _index(case: Case, edges: Sequence[float]) -> int:
    """The place of an object in its row."""
    held = [[found[key] for key in ("xmin", "ymin", "xmax", "ymax")] for found in case.objects]
    return held.index([float(np.float32(edge)) for edge in edges])


def _in_line(change: Callable[[str, str, random.Random], str], codes: str, action: str = "dropped") -> Aimed:
    """A damage that rewrites the line of one object."""

    def damage(case: Case, rng: random.Random) -> Damage:
        name = case.clean.format
        lines, at = _line_of_object(name, case, rng)
        edges = _edges_in(name, lines[at])
        assert edges is not None
        lines[at] = change(name, lines[at], rng)
        case.file.write_text("\n".join(lines), encoding="utf-8")
        # An <object> of the sample begins in the line before its <bndbox>.
        line = at if name == "voc" else at + 1
        lost = _index(case, edges) if action == "dropped" else None
        return Damage([(action, codes, case.path, line)], lost)

    return damage


def _number(new: Sequence[str]) -> Callable[[str, str, random.Random], str]:
    """Replace one coordinate."""

    def change(name: str, line: str, rng: random.Random) -> str:
        hits = list(re.finditer(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", line))
        hit = rng.choice(hits[: 8 if name == "dota" else 4])
        return line[: hit.start()] + rng.choice(new) + line[hit.end() :]

    return change


def _moved(x: float, y: float) -> Callable[[str, str, random.Random], str]:
    def change(name: str, line: str, rng: random.Random) -> str:
        if name == "voc":
            held = [f"{float(word):g}" for word in re.findall(r"<[xy]m[a-z]+>([^<]*)<", line)]
            new = iter(f"{float(word) + (x, y)[at % 2]:g}" for at, word in enumerate(held))
            return re.sub(r"(<[xy]m[a-z]+>)[^<]*", lambda hit: hit[1] + next(new), line)
        comma = "," if name == "visdrone" else " "
        words = line.split(comma)
        for at in range(2 if name == "visdrone" else 8):
            words[at] = f"{float(words[at]) + (x, y)[at % 2]:g}"
        return comma.join(words)

    return change


def _flat(name: str, line: str, rng: random.Random) -> str:
    if name == "voc":
        low = re.findall(r"<xmin>([^<]*)<", line)[0]
        return re.sub(r"(<xmax>)[^<]*", rf"\g<1>{low}", line)
    words = line.split("," if name == "visdrone" else " ")
    if name == "visdrone":
        words[3] = "0"
        return ",".join(words)
    words[0:8:2] = [words[0]] * 4
    return " ".join(words)


def _inverted(name: str, line: str, rng: random.Random) -> str:
    if name == "voc":
        return line.replace("xmin", "X").replace("xmax", "xmin").replace("X", "xmax")
    words = line.split(",")
    words[0], words[2] = f"{float(words[0]) + float(words[2]):g}", f"-{words[2]}"
    return ",".join(words)


def _without_a_field(name: str, line: str, rng: random.Random) -> str:
    if name == "voc":
        return re.sub(rf"<({rng.choice(['xmin', 'ymin', 'xmax', 'ymax'])})>[^<]*</\1>", "", line)
    comma = "," if name == "visdrone" else " "
    words = line.split(comma)
    del words[rng.randrange(8)]
    return comma.join(words)


def _unknown_class(case: Case, rng: random.Random) -> Damage:
    name = case.clean.format
    lines, at = _line_of_object(name, case, rng)
    edges = _edges_in(name, lines[at])
    assert edges is not None
    if name == "voc":
        lines[at - 1] = re.sub("<name>[^<]*", "<name>zeppelin", lines[at - 1])
    elif name == "dota":
        lines[at] = re.sub(r" [a-z-]+ ", " zeppelin ", lines[at])
    else:
        words = lines[at].split(",")
        lines[at] = ",".join([*words[:5], "77", *words[6:]])
    case.file.write_text("\n".join(lines), encoding="utf-8")
    return Damage([("dropped", "E17", case.path, at if name == "voc" else at + 1)], _index(case, edges))


def _twice(case: Case, rng: random.Random) -> Damage:
    name = case.clean.format
    lines, at = _line_of_object(name, case, rng)
    own = lines[at - 1 : at + 1] if name == "voc" else lines[at : at + 1]
    lines[at + 1 : at + 1] = own
    case.file.write_text("\n".join(lines), encoding="utf-8")
    return Damage([("dropped", "E15", case.path, at + 2)], more=1)


def _junk_line(case: Case, rng: random.Random) -> Damage:
    junk = {"dota": "1 2 3 ship", "visdrone": "1,2,3", "voc": "<object><name>ship</name></object>"}
    name = case.clean.format
    lines, at = _line_of_object(name, case, rng)
    at += name == "voc"
    lines.insert(at, junk[name])
    case.file.write_text("\n".join(lines), encoding="utf-8")
    return Damage([("dropped", "E05", case.path, at + 1)], more=1)


IN_LINES: dict[str, Aimed] = {
    "not finite": _in_line(_number(["nan", "NaN", "inf", "-Infinity", "1e999"]), "E06"),
    "no number": _in_line(_number(["abc", "0x1F", "1.2.3", "12..", "--5", "１２a"]), "E06"),
    "outside": _in_line(_moved(5000, 0), "E14"),
    "left of the image": _in_line(_moved(0, -5000), "E14"),
    "flat": _in_line(_flat, "E12"),
    "a field too few": _in_line(_without_a_field, "E05 E06"),
    "xmin > xmax": _in_line(_inverted, "E11", "repaired"),
    "unknown class": _unknown_class,
    "object twice": _twice,
    "junk": _junk_line,
}


def check_aimed(case: Case, damage: Damage, folder: Path) -> None:
    outcome, rows, message = converted(case, folder)
    assert outcome is not None, message
    listed = [(item.action, item.code, item.path, item.line) for item in outcome.rejections]
    assert len(listed) == len(damage.listed), listed
    for action, codes, path, line in damage.listed:
        assert any((action, code, path, line) in listed for code in codes.split()), (listed, damage)
    expected = dict(case.clean.rows)
    if not damage.row:
        del expected[case.image]
    assert rows.keys() == expected.keys()
    for image, row in expected.items():
        if image != case.image or damage.lost is None:
            assert rows[image]["objects"] == row["objects"]
            assert rows[image]["captions"] == row["captions"]
    if damage.lost is not None:
        kept = [found for at, found in enumerate(case.objects) if at != damage.lost]
        assert rows[case.image]["objects"] == kept
    written = sum(len(row["objects"]) for row in expected.values()) - (damage.lost is not None)
    objects = outcome.manifest["objects"]
    assert objects["written"] == written
    if damage.row:
        found = sum(len(row["objects"]) for row in case.clean.rows.values()) + damage.more
        assert objects == {"found": found, "written": written, "dropped": found - written}


@pytest.mark.parametrize("kind", IN_LINES)
@pytest.mark.parametrize("name", ["dota", "voc", "visdrone"])
def test_one_object(name: str, kind: str, clean: Callable[[str], Clean], tmp_path: Path) -> None:
    if (name, kind) == ("dota", "xmin > xmax"):
        return  # the corners of a quadrilateral have no order to invert
    for rng, folder in repeat(name, kind, AIMED_TIMES, tmp_path):
        case = copy(clean(name), folder, rng)
        check_aimed(case, IN_LINES[kind](case, rng), folder)


# Aimed damages to JSON


def _document(case: Case) -> Any:
    return json.loads(case.text)


def _save(case: Case, document: Any) -> None:
    case.file.write_text(json.dumps(document, indent=1), encoding="utf-8")


def _line_of(case: Case, key: str, index: int) -> int:
    """The line at which an element of a top-level array begins, in a document of indent 1."""
    found = -1
    inside = False
    for number, line in enumerate(case.text.split("\n"), 1):
        if line.startswith(' "'):
            inside = line.startswith(f' "{key}"')
        elif inside and re.match(r"  [^ \]}]", line):
            found += 1
            if found == index:
                return number
    raise AssertionError((key, index))


def _coco_object(change: Callable[[dict[str, Any], random.Random], Any], codes: str, action: str) -> Aimed:
    """A damage that changes one annotation of the image; `change` returns what stands in its place."""

    def damage(case: Case, rng: random.Random) -> Damage:
        document = _document(case)
        own = next(
            image["id"] for image in document["images"] if case.image.endswith("/" + image["file_name"])
        )
        places = [at for at, found in enumerate(document["annotations"]) if found["image_id"] == own]
        at = rng.choice(places)
        before = document["annotations"][at]
        left, top, width, height = before["bbox"]
        document["annotations"][at] = change(
            before if action == "repaired" else {**before, "segmentation": []}, rng
        )
        _save(case, document)
        lost = None if action == "repaired" else _index(case, (left, top, left + width, top + height))
        return Damage([(action, codes, case.path, _line_of(case, "annotations", at))], lost)

    return damage


def _with_bbox(*choices: Any) -> Callable[[dict[str, Any], random.Random], Any]:
    return lambda found, rng: {**found, "bbox": rng.choice(choices)}


def _coco_inverted(found: dict[str, Any], rng: random.Random) -> Any:
    left, top, width, height = found["bbox"]
    return {**found, "bbox": [left + width, top, -width, height]}


NAN, INFINITY = float("nan"), float("inf")
COCO_OBJECTS: dict[str, Aimed] = {
    "not finite": _coco_object(
        _with_bbox([NAN, 1, 2, 3], [1, 1, INFINITY, 3], [1, -INFINITY, 2, 2]), "E06", "dropped"
    ),
    "no number": _coco_object(
        _with_bbox(["a", 1, 2, 3], [1, None, 2, 3], [1, 2, {}, 3], [[], 1, 2, 3]), "E05 E06", "dropped"
    ),
    "no bbox": _coco_object(_with_bbox(None), "E05 E06 E12 E33", "dropped"),
    "bbox of another kind": _coco_object(
        _with_bbox([1, 2, 3], [], [1, 2, 3, 4, 5], "1 2 3 4", 7, {"x": 1}), "E05", "dropped"
    ),
    "outside": _coco_object(_with_bbox([5000, 1, 5, 5], [1, -900, 5, 5], [1, 48, 5, 5]), "E14", "dropped"),
    "flat": _coco_object(_with_bbox([5, 5, 0, 5], [5, 5, 5, 0], [5, 5, 0, 0]), "E12", "dropped"),
    "xmin > xmax": _coco_object(_coco_inverted, "E11", "repaired"),
    "no class": _coco_object(lambda found, rng: {**found, "category_id": 77}, "E17", "dropped"),
    "no object": _coco_object(lambda found, rng: rng.choice([None, 5, "x", [], {}]), "E05", "dropped"),
    "orphan": _coco_object(
        lambda found, rng: {**found, "image_id": rng.choice([0, 99, "x", -1])}, "E07", "dropped"
    ),
    "no image id": _coco_object(
        lambda found, rng: {key: value for key, value in found.items() if key != "image_id"}, "E05", "dropped"
    ),
    "wrong ids": _coco_object(
        lambda found, rng: {
            **found,
            rng.choice(["image_id", "category_id"]): rng.choice([None, [], {}, 1.5]),
        },
        "E05 E07 E17",
        "dropped",
    ),
}


def _coco_twice(case: Case, rng: random.Random) -> Damage:
    document = _document(case)
    own = next(image["id"] for image in document["images"] if case.image.endswith("/" + image["file_name"]))
    found = rng.choice([item for item in document["annotations"] if item["image_id"] == own])
    document["annotations"].append(found)
    _save(case, document)
    line = _line_of(case, "annotations", len(document["annotations"]) - 1)
    return Damage([("dropped", "E15", case.path, line)], more=1)


COCO_OBJECTS["object twice"] = _coco_twice


@pytest.mark.parametrize("kind", COCO_OBJECTS)
def test_one_coco_object(kind: str, clean: Callable[[str], Clean], tmp_path: Path) -> None:
    for rng, folder in repeat("coco", kind, AIMED_TIMES, tmp_path):
        case = copy(clean("coco"), folder, rng)
        check_aimed(case, COCO_OBJECTS[kind](case, rng), folder)


def _image_entry(case: Case, document: Any) -> tuple[int, dict[str, Any]]:
    key = "filename" if case.clean.format == "karpathy" else "file_name"
    return next(
        (at, image) for at, image in enumerate(document["images"]) if case.image.endswith("/" + image[key])
    )


def _orphans(case: Case, document: Any, own: Any) -> list[tuple[str, str, str, int]]:
    """What must be listed for the annotations of an image whose entry is lost."""
    return [
        ("dropped", "E07", case.path, _line_of(case, "annotations", at))
        for at, found in enumerate(document.get("annotations", []))
        if found["image_id"] == own
    ]


def _image_twice(case: Case, rng: random.Random) -> Damage:
    """The same entry again: the first one counts."""
    document = _document(case)
    document["images"].append(_image_entry(case, document)[1])
    _save(case, document)
    line = _line_of(case, "images", len(document["images"]) - 1)
    return Damage([("dropped", "E16", case.path, line)])


def _image_entry_broken(case: Case, rng: random.Random) -> Damage:
    """An entry without a name, or none at all: the image file itself is then without annotation (E08)."""
    document = _document(case)
    at, image = _image_entry(case, document)
    key = "filename" if case.clean.format == "karpathy" else "file_name"
    nameless = {name: value for name, value in image.items() if name != key}
    wrong = rng.choice([nameless, {**image, key: rng.choice([None, 7, [], {}])}, None, 5, [], "x"])
    document["images"][at] = wrong
    _save(case, document)
    listed = [
        ("rejected", "E05", case.path, _line_of(case, "images", at)),
        ("rejected", "E08", case.image, 0),
    ]
    return Damage([*listed, *_orphans(case, document, image.get("id"))], row=False)


def _image_renamed(case: Case, rng: random.Random) -> Damage:
    """An entry of an image that is not there; the file then has no annotation."""
    document = _document(case)
    at, image = _image_entry(case, document)
    key = "filename" if case.clean.format == "karpathy" else "file_name"
    image[key] = rng.choice(["gone.png", "/etc/passwd", "../../gone.png", "C:\\gone.png", "é.png", "x" * 300])
    _save(case, document)
    listed = [
        ("rejected", "E07", case.path, _line_of(case, "images", at)),
        ("rejected", "E08", case.image, 0),
    ]
    if case.clean.format == "coco":
        number = sum(found["image_id"] == image["id"] for found in document["annotations"])
        assert number
    return Damage(listed, row=False)


IMAGE_ENTRIES = {"twice": _image_twice, "broken": _image_entry_broken, "renamed": _image_renamed}


@pytest.mark.parametrize("kind", IMAGE_ENTRIES)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_one_image_entry(name: str, kind: str, clean: Callable[[str], Clean], tmp_path: Path) -> None:
    for rng, folder in repeat(name, kind, AIMED_TIMES, tmp_path):
        case = copy(clean(name), folder, rng)
        check_aimed(case, IMAGE_ENTRIES[kind](case, rng), folder)


def test_two_images_of_one_id(clean: Callable[[str], Clean], tmp_path: Path) -> None:
    """The first keeps id and annotations; the second image is out, and its annotations are orphans."""
    for rng, folder in repeat("coco", "same id", AIMED_TIMES, tmp_path):
        case = copy(clean("coco"), folder, rng)
        document = _document(case)
        first, second = sorted(rng.sample(range(len(document["images"])), 2))
        folder_of_images = case.image.rsplit("/", 1)[0]
        name = document["images"][second]["file_name"]
        case = case._replace(image=f"{folder_of_images}/{name}")
        lost = document["images"][second]["id"]
        document["images"][second]["id"] = document["images"][first]["id"]
        _save(case, document)
        listed = [
            ("rejected", "E16", case.path, _line_of(case, "images", second)),
            *_orphans(case, document, lost),
        ]
        outcome, rows, message = converted(case, folder)
        assert outcome is not None, message
        held = sorted((item.action, item.code, item.path, item.line) for item in outcome.rejections)
        assert [item for item in held if item[1] != "E08"] == sorted(listed)
        assert rows == {image: row for image, row in case.clean.rows.items() if image != case.image}


# Captions


def _wrong_sentences(case: Case, rng: random.Random) -> Damage:
    document = _document(case)
    at, image = _image_entry(case, document)
    image["sentences"] = rng.choice([None, "a ship", 5, {}, [5], [None], [{}], [{"raw": 5}], [["a"]]])
    if rng.random() < 0.2:
        del image["sentences"]
    _save(case, document)
    line = _line_of(case, "images", at)
    return Damage([("rejected", "E05", case.path, line)], row=False)


def _blank_caption(case: Case, rng: random.Random) -> Damage:
    document = _document(case)
    at, image = _image_entry(case, document)
    image["sentences"].insert(rng.randrange(6), {"raw": rng.choice(["", " ", "\n\t", "\u3000"])})
    _save(case, document)
    return Damage([("dropped", "E34", case.path, _line_of(case, "images", at))])


CAPTIONS = {"wrong sentences": _wrong_sentences, "blank": _blank_caption}


@pytest.mark.parametrize("kind", CAPTIONS)
def test_captions(kind: str, clean: Callable[[str], Clean], tmp_path: Path) -> None:
    for rng, folder in repeat("karpathy", kind, 2 * AIMED_TIMES, tmp_path):
        case = copy(clean("karpathy"), folder, rng)
        check_aimed(case, CAPTIONS[kind](case, rng), folder)


def test_truncated_captions_before_the_cut_stay(clean: Callable[[str], Clean], tmp_path: Path) -> None:
    held = clean("karpathy")
    for rng, folder in repeat("karpathy", "truncated", 10, tmp_path):
        case = copy(held, folder, rng)
        data = case.file.read_bytes()
        case.file.write_bytes(data[: rng.randrange(len(data) // 2, len(data) - 4)])
        outcome, rows, message = converted(case, folder)
        assert outcome is not None, message
        assert rows
        assert all(row == held.rows[image] for image, row in rows.items())
        (cut,) = [item for item in outcome.rejections if item.code == "E01"]
        lines = case.text.split("\n")
        assert len(lines) - 1 <= cut.line <= len(lines)


# Files that are missing, and masks


@pytest.mark.parametrize("name", RECIPES)
def test_missing_image(name: str, clean: Callable[[str], Clean], tmp_path: Path) -> None:
    for rng, folder in repeat(name, "no image", AIMED_TIMES, tmp_path):
        case = copy(clean(name), folder, rng)
        (case.folder / case.image).unlink()
        line = _line_of(case, "images", _image_entry(case, _document(case))[0]) if name in DOCUMENTS else 0
        check_aimed(case, Damage([("rejected", "E07", case.path, line)], row=False), folder)


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in DOCUMENTS])
def test_missing_annotation(name: str, clean: Callable[[str], Clean], tmp_path: Path) -> None:
    for rng, folder in repeat(name, "no annotation", AIMED_TIMES, tmp_path):
        case = copy(clean(name), folder, rng)
        case.file.unlink()
        check_aimed(case, Damage([("rejected", "E08", case.image, 0)], row=False), folder)


def _other_size(mask: np.ndarray[Any, Any], rng: random.Random) -> np.ndarray[Any, Any]:
    return mask[: -rng.randint(1, 9)] if rng.random() < 0.5 else np.repeat(mask, 2, axis=1)


def _unknown_values(mask: np.ndarray[Any, Any], rng: random.Random) -> np.ndarray[Any, Any]:
    hit = np.random.default_rng(rng.randrange(1000)).random(mask.shape) < 0.5
    return np.where(hit, rng.randrange(8, 256), mask).astype(np.uint8)


def _colours(mask: np.ndarray[Any, Any], rng: random.Random) -> np.ndarray[Any, Any]:
    return np.dstack([mask * 30, 255 - mask, mask]).astype(np.uint8)


MASKS = {
    "another size": (_other_size, "E22"),
    "unknown": (_unknown_values, "E21"),
    "colours": (_colours, "E01 E21"),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks(kind: str, clean: Callable[[str], Clean], tmp_path: Path) -> None:
    change, codes = MASKS[kind]
    for rng, folder in repeat("masks", kind, AIMED_TIMES, tmp_path):
        case = copy(clean("masks"), folder, rng)
        Image.fromarray(change(np.asarray(Image.open(case.file)), rng)).save(case.file)
        check_aimed(case, Damage([("rejected", codes, case.path, 0)], row=False), folder)


def test_there_are_a_thousand() -> None:
    blind = len(RECIPES) * (len(BLIND) * BLIND_TIMES + 4 * 4) + 5 * 4
    aimed = AIMED_TIMES * (3 * len(IN_LINES) - 1 + len(COCO_OBJECTS) + 2 * len(IMAGE_ENTRIES) + 1)
    others = AIMED_TIMES * (6 + 4 + len(MASKS)) + 2 * AIMED_TIMES * len(CAPTIONS) + 10
    assert blind + aimed + others + 3 * len(TEXTS) * len(HARMLESS) + 4 * 2 * 2 >= 1000
