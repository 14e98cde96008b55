from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdata import files
from rsdata.errors import AnnotationError, RecipeError
from rsdata.files import Dump, Match, compile_pattern, fill_pattern, fixed_folder, star_choices

NFC, NFD = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")


def touch(root: Path, *paths: str) -> Dump:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x" * len(path))
    return Dump(root)


def test_a_dump_holds_every_file_once_in_byte_order(tmp_path: Path) -> None:
    dump = touch(tmp_path, "b/1.png", "a.txt", "B/1.png", "b/.hidden", "b/._1.png", ".git/x", "b/Thumbs.db")
    assert (
        touch(tmp_path, "__MACOSX/b/1.png", "desktop.ini").paths
        == dump.paths
        == ["B/1.png", "a.txt", "b/1.png"]
    )
    assert dump.sizes["b/1.png"] == 7
    assert dump.refused == []


@pytest.mark.parametrize("name", ["set.tar.gz", "set.tgz", "set.RAR", "set.7z"])
def test_an_archive_that_cannot_be_read_at_random_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(RecipeError, match=r"one by one: unpack it and name the folder \(E28\)"):
        Dump(tmp_path / name)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    for path in (tmp_path / "none", tmp_path / "a.txt"):
        with pytest.raises(RecipeError, match=f"{path.name}: no such folder"):
            Dump(path)


def test_links_within_the_dump_hold_and_links_out_of_it_are_refused(tmp_path: Path) -> None:
    root, outside = tmp_path / "dump", tmp_path / "dump-outside"
    touch(outside, "secret.png", "more/a.png")
    touch(root, "real/a.png")
    (root / "inside.png").symlink_to(root / "real" / "a.png")
    (root / "inner").symlink_to(root / "real")
    (root / "out.png").symlink_to(outside / "secret.png")
    (root / "folder").symlink_to(outside / "more")
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    (root / "gone.png").symlink_to(root / "nothing.png")
    dump = Dump(root)
    assert dump.paths == ["inside.png", "real/a.png"]
    assert [item[:5] for item in dump.refused] == [
        ("dropped", "E27", name, 0, "") for name in ("folder", "out.png", "up")
    ]


def test_a_linked_root_is_a_root(tmp_path: Path) -> None:
    touch(tmp_path / "real", "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert Dump(tmp_path / "link").paths == ["a.png"]


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xb4\xac.png")).write_bytes(b"x")
    dump = Dump(tmp_path)
    assert dump.paths == ["a.png"]
    assert [(item.code, item.path) for item in dump.refused] == [("E27", "\\udcb4\\udcac.png")]


@pytest.mark.parametrize(
    ("pattern", "path", "stars"),
    [
        ("images/*.*", "images/a.png", ("a",)),
        ("images/*.*", "Images/a.b.JPEG", ("a.b",)),
        ("images/*.*", "images/a.txt", None),
        ("images/*.*", "images/x/a.png", None),
        ("images/*.*", "x/images/a.png", None),
        ("images/**.*", "images/x/y/a.tif", ("x/y/a",)),
        ("**/images/*.*", "x/y/images/a.tif", ("x/y", "a")),
        ("**/images/*.*", "images/a.tif", None),
        ("{Urban,Rural}/*.png", "urban/7.png", ("urban", "7")),
        ("{Urban,Rural}/*.png", "sub/7.png", None),
        ("top_*_RGB.tif", "top_2_10_RGB.tif", ("2_10",)),
        ("a+(b).txt", "a+(b).txt", ()),
        ("a.txt", "abtxt", None),
        (f"{NFD}/*.png", f"{NFC}/1.png", ("1",)),
        ("*/*.png", f"{NFD}/1.png", (NFC, "1")),
        ("**.txt", "line\nbreak.txt", ("line\nbreak",)),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, path: str, stars: tuple[str, ...] | None) -> None:
    dump = touch(tmp_path, path)
    assert dump.match(pattern) == ([] if stars is None else [Match(path, stars)])
    deep = touch(tmp_path / "deep", f"p/q/{path}")
    assert deep.match(pattern, "p/q/") == ([] if stars is None else [Match(f"p/q/{path}", stars)])
    if stars is not None and not pattern.startswith("**"):
        assert deep.prefixes(pattern) == {"p/q/"}


def test_a_prefix_keeps_the_unicode_form_of_the_disk(tmp_path: Path) -> None:
    dump = touch(tmp_path, f"{NFD}/a.txt")
    assert dump.prefixes("*.txt") == {f"{NFD}/"}
    assert dump.match("*.txt", f"{NFD}/") == [Match(f"{NFD}/a.txt", ("a",))]


words = st.text("ab.-_+(", min_size=1, max_size=4)


@given(
    st.lists(st.sampled_from(["*", "{x,y}", "/", "img", "-"]), min_size=1, max_size=6),
    st.lists(words),
    st.data(),
)
def test_a_filled_pattern_matches_with_its_stars(
    parts: list[str], names: list[str], data: st.DataObject
) -> None:
    pattern = "_".join(parts) + ".*"
    stars = [data.draw(st.sampled_from(choice) if choice else words) for choice in star_choices(pattern)]
    path = fill_pattern(pattern, stars, ".tif")
    assert path.startswith(fixed_folder(pattern))
    hit = compile_pattern(pattern).fullmatch(path)
    assert hit
    assert fill_pattern(pattern, hit.groups(), ".tif") == path


def test_parts_of_patterns() -> None:
    assert fixed_folder("Train/{Urban,Rural}/images_png/*.*") == "Train/"
    assert fixed_folder("*.png") == ""
    assert fixed_folder("a/b*.png") == "a/"
    assert star_choices("{a,b}/**/*.*") == [["a", "b"], None, None]
    assert fill_pattern("{a,b}/**/*.*", ["b", "x/y", "7"], "") == "b/x/y/7"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a.jpg", "images/a.jpg"),
        ("./a.jpg", "images/a.jpg"),
        ("images/a.jpg", "images/a.jpg"),
        ("images\\a.jpg", "images/a.jpg"),
        ("A.JPG", "images/a.jpg"),
        ("sub/b.jpg", "images/sub/b.jpg"),
        ("b.jpg", "images/sub/b.jpg"),
        ("/home/me/a.jpg", "images/a.jpg"),
        ("C:\\data\\a.jpg", "images/a.jpg"),
        ("../../a.jpg", "images/a.jpg"),
        ("../../../etc/passwd", None),
        ("/etc/passwd", None),
        ("..", None),
        ("", None),
        ("a.jpg\0", None),
        (f"{NFC}.png", f"images/{NFD}.png"),
        ("twin.png", "images/twin.png"),
        ("TWIN.png", None),
        ("same.png", None),
        ("x/same.png", "images/x/same.png"),
        ("out.png", "out.png"),
    ],
)
def test_names_in_annotations(tmp_path: Path, name: str, path: str | None) -> None:
    dump = touch(
        tmp_path, "images/a.jpg", "images/sub/b.jpg", f"images/{NFD}.png", "images/twin.png",
        "images/Twin.png", "images/x/same.png", "images/y/same.png", "out.png",
    )  # fmt: skip
    assert dump.find(name, ("images/", "")) == path


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        (b"", "", "utf-8-sig"),
        (b"\xef\xbb\xbfa\r\nb\rc\n", "a\nb\nc\n", "utf-8-sig"),
        ("船\r\n".encode("utf-16"), "船\n", "utf-16"),
        ("\ufeff船".encode("utf-16-be"), "船", "utf-16"),
        (b"\xff\xfe\x00\xd8\x41", "\ufffd", "utf-16"),
        ("船".encode("gb18030"), "船", "gb18030"),
        (b"caf\xe9", "caf\xe9", "latin-1"),
    ],
)
def test_text_of_any_encoding(tmp_path: Path, data: bytes, text: str, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    found = files.read_text(tmp_path, "a.txt")
    assert found == (text, encoding)
    assert [item.code for item in files.foreign("a.txt", found[1])] == ["E03"] * (found[1] != "utf-8-sig")


@given(st.binary(max_size=60))
def test_any_bytes_are_text(data: bytes) -> None:
    text, _ = files.decode(data)
    text.encode()


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4), st.sampled_from([None, 0, 2]))
def test_scanned_json_is_the_json(document: dict[str, object], indent: int | None) -> None:
    text = json.dumps(document, indent=indent)
    elements = list(files.scan_json(text, "a.json"))
    again: dict[str, object] = {}
    for element in elements:
        if element.index < 0:
            again[element.key] = element.value
        else:
            held = again.setdefault(element.key, [])
            assert isinstance(held, list)
            assert element.index == len(held)
            held.append(element.value)
        first = json.dumps(element.value, indent=indent).split("\n")[0]
        assert first in text.split("\n")[element.line - 1] or element.index < 0
    assert again == document


def test_the_lines_of_elements(tmp_path: Path) -> None:
    text = '{"a": [1,\n2, 3,\n\n{"a": [7,\n8]}],\n "b": [], "c": {},\n"b": [5], "a": x'
    (tmp_path / "a.json").write_text(text)
    assert list(files.element_lines(tmp_path, "a.json", "a")) == [1, 2, 2, 4]
    assert list(files.element_lines(tmp_path, "a.json", "b")) == [7]
    assert list(files.element_lines(tmp_path, "a.json", "c")) == []
    assert list(files.element_lines(tmp_path, "none.json", "a")) == []
    (tmp_path / "a.xml").write_bytes("<a>\r\n<b/><b/>\r\n<c><b>\n</b></c>\n<b".encode("utf-16"))
    assert list(files.element_lines(tmp_path, "a.xml", "b")) == [2, 2, 3]


def test_the_line_where_json_ends(tmp_path: Path) -> None:
    for text, line in [
        ("\n\n{", 3),
        ('{"a":\n[1,\n2', 3),
        ('{"a" 1}', 1),
        ('{"a": 1\n"b": 2}', 2),
        ("{}\n\nx", 3),
    ]:
        with pytest.raises(AnnotationError) as caught:
            list(files.scan_json(text, "a.json"))
        assert (caught.value.line, caught.value.code) == (line, "E01")


def test_an_image_of_another_folder_is_not_taken_for_the_one_named(tmp_path: Path) -> None:
    for path in ("images/val/1.jpg", "images/2.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    dump = files.Dump(tmp_path)
    assert dump.find("train/1.jpg", ("images/", "")) is None
    assert dump.find("1.jpg", ("images/", "")) == "images/val/1.jpg"
    assert dump.find("JPEGImages/2.jpg", ("images/", "")) == "images/2.jpg"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("indent", [None, 1])
def test_the_lines_of_elements_found_as_text_are_those_of_the_scan(
    tmp_path: Path, indent: int | None, end: str
) -> None:
    alike = [{"id": number, "name": "x" * 50, "part": [number, [1]]} for number in range(40)]
    document = {
        "first": [*alike, {"id": "other"}],
        "text": "[1]",
        "second": [*alike, {"id": 40}],
        "third": [1, 1, 11],
    }
    text = json.dumps(document, indent=indent).replace("\n", end)
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    for key in ("first", "second", "third"):
        scan = [item.line for item in files.scan_json(text.replace(end, "\n"), "a.json") if item.key == key]
        assert list(files.element_lines(tmp_path, "a.json", key)) == scan
    assert scan[-1] > 100 or indent is None
