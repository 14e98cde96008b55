"""Readers that read many files at once say what they say of each alone, or nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from dumps import sample_dump

from rsdata import formats, recipes
from rsdata.classes import Classes
from rsdata.records import Record

NAMES = ["dota", "voc"]
SUFFIX = {"dota": ".txt", "voc": ".xml"}
ODD = {
    "dota": [
        b"",
        b"\n",
        b"imagesource:x\n",
        b"GSD: 0.25\r\n1 1 2 2 3 3 4 4 ship 0\r\n",
        b"1,1,2,2,3,3,4,4,ship,0",
    ],
    "voc": [
        b"",
        b"<annotation/>",
        b"<annotation><object></object></annotation>",
        b"<!DOCTYPE a><annotation/>",
    ],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    held = {}
    for name in NAMES:
        held[name] = tmp_path_factory.mktemp(name)
        sample_dump(recipes.from_format(name), held[name], images=20)
    return held


def alone(name: str, root: Path, path: str, **options: object) -> list[object] | None:
    try:
        return list(formats.load(name).read(root, path, Classes(None), **options))
    except ValueError:
        return None


def same(one: Record, other: Record) -> bool:
    held = [
        record._replace(image="", boxes=list(record.boxes), lines=list(record.lines))
        for record in (one, other)
    ]
    return repr(held[0]) == repr(held[1])  # as text, because NaN is not equal to itself


@pytest.mark.parametrize("name", NAMES)
def test_usual_files_are_read_at_once(name: str, folders: dict[str, Path]) -> None:
    root = folders[name]
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob(f"*{SUFFIX[name]}"))
    assert len(paths) >= 20
    records = formats.load(name).read_many(root, paths, Classes(None))
    assert None not in records
    for path, record in zip(paths, records, strict=True):
        (single,) = alone(name, root, path) or [None]
        assert same(record, single)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_read_the_same_or_left_to_the_other(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Bytes changed, cut out, doubled and swapped, and a few files of their own, among sound ones."""
    rng = random.Random(7)
    sources = [path.read_bytes() for path in sorted(folders[name].rglob(f"*{SUFFIX[name]}"))]
    texts = list(ODD[name])
    while len(texts) < 800:
        text = bytearray(rng.choice(sources))
        for _ in range(rng.randrange(3)):
            at = rng.randrange(len(text))
            what = rng.randrange(5)
            if what == 0:
                text[at] = rng.choice(b" \n\t<>/&-.,0123456789enaif\xe9")
            elif what == 1:
                del text[at : at + rng.randrange(1, 40)]
            elif what == 2:
                text[at:at] = text[at : at + rng.randrange(1, 200)]
            elif what == 3:
                text[at:at] = rng.choice(
                    [b"nan", b"1e999", b"  ", b"<!-- x -->", b"&amp;", b"\r\n", b"1_0", b"+1"]
                )
            else:
                text = bytearray(bytes(text).replace(b"\n", b"\r\n"))
            if not text:
                break
        texts.append(bytes(text))
    rng.shuffle(texts)
    paths = [f"{number:04d}{SUFFIX[name]}" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        (tmp_path / path).write_bytes(text)
    for options in ({}, {"base": 1}) if name == "voc" else ({},):
        records = formats.load(name).read_many(tmp_path, paths, Classes(None), **options)
        assert sum(record is not None for record in records) > 200
        for path, record in zip(paths, records, strict=True):
            if record is not None:
                (single,) = alone(name, tmp_path, path, **options) or [None]
                assert same(record, single), path


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    for name in NAMES:
        assert formats.load(name).read_many(tmp_path, ["a", "b"], Classes(None)) == [None, None]


def test_other_grammars_of_xml_are_read_one_by_one(folders: dict[str, Path]) -> None:
    path = next(folders["voc"].rglob("*.xml")).relative_to(folders["voc"]).as_posix()
    read_many = formats.load("voc").read_many
    assert read_many(folders["voc"], [path], Classes(None), label="title") == [None]
    assert read_many(folders["voc"], [path], Classes(None), label="name", objects="object") != [None]
