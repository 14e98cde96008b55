"""The files of a dump: index, patterns with positional stars, text and JSON reading.

A dump is hostile until parsed: symlinks that leave it are refused, names inside annotations are looked
up in the index of files that are really there (so no `..` or absolute path can reach out of it).
"""

from __future__ import annotations

import codecs
import json
import os
import re
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from rsdata import places
from rsdata.errors import AnnotationError, RecipeError
from rsdata.records import Rejection

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2")
LABEL = 64 << 20
"""Bytes of a label or list file: no image has more, and to parse them takes up to 16 times the memory."""
DOCUMENT = 2 << 30
"""Bytes of a file that describes many images."""
ELEMENTS = 512 << 20
"""Bytes of one whose elements are held as they are, which takes ten times the memory."""
_LITTER = ("Thumbs.db", "desktop.ini", "__MACOSX")


class Match(NamedTuple):
    """A file that fits a pattern: its path relative to the dump and what each star matched."""

    path: str
    stars: tuple[str, ...]


class Dump:
    """The index of a dump: every file once, relative POSIX paths in byte order.

    source: a folder, a URL, or an archive, which is not unpacked. stamps: by the order of `paths` a number
    that differs once a file has changed. Raises RecipeError where `source` is none of these. `refused` lists
    links that leave the dump (E27).
    """

    def __init__(self, source: Path) -> None:
        self.root = places.root(source)
        self.refused: list[Rejection] = []
        self._matches: dict[tuple[str, str], list[Match]] = {}
        self._kinds: dict[tuple[str, str], list[str]] = {}
        try:
            if places.is_local(self.root):
                found = list(self._walk(str(self.root), "", self.root.resolve()))
            else:
                found = list(self._listed())
        except OSError as error:
            where = error.filename or self.root
            raise RecipeError(f"{where}: cannot be read: {error.strerror or error}") from error
        found.sort()
        self.sizes = {entry.path: entry.size for entry in found}
        self.paths = list(self.sizes)
        self.stamps = array("q", (entry.stamp for entry in found))
        self.refused.sort(key=lambda item: item.path)
        self._folded: dict[str, list[str]] | None = None
        self._by_name: dict[str, list[str]] | None = None

    def _walk(self, folder: str, prefix: str, real_root: Path) -> Iterator[places.Entry]:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_litter(entry.name):
                    continue
                path = prefix + entry.name
                if not self._is_unicode(path):
                    continue
                if entry.is_symlink() and not leads_into(entry.path, real_root):
                    why = "a link that leaves the dump: name the folder it points to as the source"
                    self._refuse(path, why)
                elif entry.is_dir(follow_symlinks=False):
                    yield from self._walk(entry.path, path + "/", real_root)
                elif entry.is_file(follow_symlinks=False) or Path(entry.path).is_file():
                    stat = entry.stat()
                    yield places.Entry(path, stat.st_size, stat.st_mtime_ns)

    def _listed(self) -> Iterator[places.Entry]:
        for entry in places.listing(self.root):
            if not isinstance(entry, places.Entry):
                self._refuse(*entry)
            elif not any(map(_is_litter, entry.path.split("/"))) and self._is_unicode(entry.path):
                yield entry

    def _is_unicode(self, path: str) -> bool:
        if not (fits := _is_unicode(path)):
            why = "a name that is not UTF-8, which no table can hold: rename it"
            self._refuse(path.encode(errors="backslashreplace").decode(), why)
        return fits

    def _refuse(self, path: str, why: str) -> None:
        self.refused.append(Rejection("dropped", "E27", path, 0, "", why))

    def match(self, pattern: str, prefix: str = "") -> list[Match]:
        """The files that fit `prefix` + `pattern`, in path order."""
        if (found := self._matches.get((pattern, prefix))) is None:
            fits = compile_pattern(pattern).fullmatch
            found = self._matches[pattern, prefix] = []
            for path in self._likely(pattern, prefix):
                if path.startswith(prefix) and (hit := fits(_plain(path[len(prefix) :]))):
                    found.append(Match(path, hit.groups()))
            found.sort()
        return found

    def _likely(self, pattern: str, prefix: str) -> Iterator[str]:
        """The files whose folder and extension do not rule it out that they fit a pattern."""
        if not self._kinds:
            for path in self.paths:
                folder, _, name = path.rpartition("/")
                self._kinds.setdefault((fold(folder) + "/", fold(name.rpartition(".")[2])), []).append(path)
        start = fold(prefix + fixed_folder(pattern))
        ending = fold(pattern.rpartition(".")[2])
        for (folder, suffix), paths in self._kinds.items():
            if ending == "*":
                likely = f".{suffix}" in IMAGE_SUFFIXES
            else:
                likely = bool(_STAR.search(ending)) or "/" in ending or suffix == ending
            if likely and folder.startswith(start):
                yield from paths

    def prefixes(self, pattern: str) -> set[str]:
        """Each folder of the dump (as "" or "x/y/") below which some file fits `pattern`."""
        source = compile_pattern(pattern).pattern
        fits = re.compile(f"((?:.*/)?){source}", re.IGNORECASE | re.DOTALL).fullmatch
        depths = ((path, hit.group(1).count("/")) for path in self.paths if (hit := fits(_plain(path))))
        return {"".join(part + "/" for part in path.split("/")[:depth]) for path, depth in depths}

    def find(self, name: str, folders: Sequence[str] = ("",)) -> str | None:
        """The path of the file that an annotation calls `name`, or None.

        Tried in turn: `name` below each of `folders`, then the one file of the dump with that base name
        below them, if the folders before it do not differ ("train/1.jpg" is not "val/1.jpg"). Case and
        Unicode form are ignored where exactly one file fits; backslashes are slashes; an absolute name or
        one with `..` counts by its base name only (E26, E27).
        """
        for folder in folders:
            if folder + name in self.sizes:
                return folder + name
        if self._folded is None or self._by_name is None:
            self._folded, self._by_name = {}, {}
            for path in self.paths:
                self._folded.setdefault(fold(path), []).append(path)
                self._by_name.setdefault(fold(path.rsplit("/", 1)[-1]), []).append(path)
        name = name.replace("\\", "/")
        base = name.rsplit("/", 1)[-1]
        if fold(base) not in self._by_name:
            return None
        if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
            name = base
        name = name.removeprefix("./")
        for folder in folders:
            if folder + name in self.sizes:
                return folder + name
        for folder in folders:
            if same := self._folded.get(fold(folder + name)):
                return same[0] if len(same) == 1 else None
        same = [path for path in self._by_name[fold(base)] if path.startswith(tuple(folders))]
        if len(same) != 1:
            return None
        folder = next(folder for folder in folders if same[0].startswith(folder))
        return same[0] if _ends_alike(same[0].removeprefix(folder), name) else None


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name in _LITTER


def _ends_alike(one: str, other: str) -> bool:
    """Whether the shorter of two paths is the end of the longer."""
    pairs = zip(reversed(fold(one).split("/")), reversed(fold(other).split("/")), strict=False)
    return all(left == right for left, right in pairs)


def _is_unicode(text: str) -> bool:
    """Whether `text` has no lone surrogates, which stand for bytes or escapes that are no characters."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def leads_into(link: str | Path, folder: Path) -> bool:
    """Whether a path, links followed, lies in `folder`, whose own links are."""
    # Not Path.resolve, which raises on a link to itself.
    return Path(os.path.realpath(link)).is_relative_to(folder)


def _plain(path: str) -> str:
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def fold(text: str) -> str:
    """`text` with case and Unicode form folded away, for comparing names."""
    return _plain(text).casefold()


_STAR = re.compile(r"[*{}]")
_TOKEN = re.compile(r"(\*\*|\*|\{[^{}]*\}|\.\*$)")


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern as a regular expression over relative POSIX paths, case ignored.

    `*` matches within a folder's name, `**` across folders, `{a,b}` one of the words: each is a star, a
    group of the expression. A final `.*` is the extension of any image and is no star.
    """
    parts = []
    for token in _TOKEN.split(_plain(pattern)):
        if token == "**":
            parts.append("(.*)")
        elif token == "*":
            parts.append("([^/]*)")
        elif token == ".*":
            parts.append("(?:" + "|".join(re.escape(suffix) for suffix in IMAGE_SUFFIXES) + ")")
        elif token.startswith("{"):
            parts.append("(" + "|".join(re.escape(word) for word in token[1:-1].split(",")) + ")")
        else:
            parts.append(re.escape(token))
    return re.compile("".join(parts), re.IGNORECASE | re.DOTALL)


def fill_pattern(pattern: str, stars: Sequence[str], suffix: str = ".png") -> str:
    """The path that `pattern` names when its stars match `stars`; `suffix` stands for a final `.*`."""
    values = iter(stars)
    parts = []
    for token in _TOKEN.split(pattern):
        if token == ".*":
            parts.append(suffix)
        elif token in ("*", "**") or token.startswith("{"):
            parts.append(next(values))
        else:
            parts.append(token)
    return "".join(parts)


def fixed_folder(pattern: str) -> str:
    """The folder that all files of `pattern` lie in, as "" or "x/y/"."""
    fixed = re.split(r"[*{]", pattern)[0]
    return fixed[: fixed.rfind("/") + 1]


def star_choices(pattern: str) -> list[list[str] | None]:
    """For each star of `pattern` the words it may match, None where any."""
    tokens = [token for token in _TOKEN.findall(pattern) if token != ".*"]
    return [token[1:-1].split(",") if token.startswith("{") else None for token in tokens]


def read_text(root: Path, path: str, most: int = LABEL) -> tuple[str, str]:
    """The text of an annotation file and the encoding that fitted; line ends become a newline.

    Tried in turn: UTF-8 (a BOM is dropped), UTF-16 with a BOM, GB18030, Latin-1 (E02, E03).
    Raises AnnotationError where the file cannot be read, or has more than `most` bytes.
    """
    text, encoding = decode(read_bytes(root, path, most))
    return text.replace("\r\n", "\n").replace("\r", "\n"), encoding


def _read(path: str) -> bytes:
    """A file of this machine, in as few calls as can be: of small ones pathlib makes the better part."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.fstat(descriptor).st_size > LABEL:
            raise OSError("too large")
        return b"".join(iter(lambda: os.read(descriptor, _SMALL), b""))
    finally:
        os.close(descriptor)


def read_all(root: Path, paths: Sequence[str]) -> list[bytes | None]:
    """Label files as they are, None for one that cannot be read."""
    found: list[bytes | None] = []
    for path in paths:
        try:
            if places.is_local(root):
                found.append(_read(f"{root}/{path}"))
            else:
                found.append(places.read_bytes(root / path, LABEL))
        except OSError:
            found.append(None)
    return found


def read_bytes(root: Path, path: str, most: int = LABEL) -> bytes:
    """An annotation file as it is.

    Raises AnnotationError where it cannot be read, or has more than `most` bytes, before any is read.
    """
    try:
        return places.read_bytes(root / path, most)
    except OSError as error:
        raise AnnotationError(path, 0, f"cannot be read: {error.strerror or error}") from error


def decode(data: bytes) -> tuple[str, str]:
    """`data` as text, with the name of the first encoding that fits."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace"), "utf-16"
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return data.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1"), "latin-1"


def foreign(path: str, encoding: str) -> Iterator[Rejection]:
    """The note (E03) that a file was not UTF-8, if so."""
    if encoding != "utf-8-sig":
        yield Rejection("repaired", "E03", path, 0, "", f"not UTF-8: read as {encoding}")


class Element(NamedTuple):
    """An element of an array in a JSON document: the array's key, 0-based index, 1-based line, value."""

    key: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    line: int
    value: Any


_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
_SPACE = re.compile(r"[ \t\n\r]*")
_SMALL = 1 << 16
"""Bytes of a file that are read at a time: of most label files, all."""
_HEAD = 1024
"""Bytes by which an array is looked for in its file: to look for all of it takes seconds."""
_DECODER = json.JSONDecoder()
_LONE_SURROGATE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


def without_lone_surrogates(text: str) -> str:
    """JSON in which half of a surrogate pair, which no table can hold, is U+FFFD."""
    return _LONE_SURROGATE.sub(r"\\ufffd", text) if "\\ud" in text or "\\uD" in text else text


def scan_json(text: str, path: str) -> Iterator[Element]:
    """The elements of the arrays of a top-level JSON object, in order, each with its line.

    A member that is no array, or an empty one, is one Element of index -1. NaN and Infinity are read as
    floats, for the checks to find; half of a surrogate pair, which no table can hold, as U+FFFD. Raises
    AnnotationError (E01) at the line where the text stops being JSON.
    """
    at, line, counted = 0, 1, 0
    text = without_lone_surrogates(text)

    def skip(position: int) -> int:
        hit = _SPACE.match(text, position)
        return hit.end() if hit else position

    def fail(why: str) -> AnnotationError:
        return AnnotationError(path, text.count("\n", 0, at) + 1, f"not valid JSON: {why}")

    def value() -> Any:
        nonlocal at
        try:
            parsed, at = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            at = error.pos
            raise fail(error.msg) from None
        except ValueError:
            raise fail("a number of too many digits") from None
        except RecursionError:
            raise fail("nested too deeply") from None
        return parsed

    def expect(characters: str) -> str:
        nonlocal at
        at = skip(at)
        if at >= len(text):
            raise fail("the file ends too early")
        if text[at] not in characters:
            raise fail(f"expected {' or '.join(characters)}")
        at += 1
        return text[at - 1]

    def here() -> int:
        nonlocal line, counted
        line += text.count("\n", counted, at)
        counted = at
        return line

    expect("{")
    at = skip(at)
    more = text[at : at + 1] != "}"
    at += not more
    while more:
        at = skip(at)
        if text[at : at + 1] != '"':
            raise fail("expected a key in double quotes")
        key = value()
        expect(":")
        at = skip(at)
        if text[at : at + 1] != "[":
            yield Element(str(key), -1, here(), value())
        else:
            at = skip(at + 1)
            index = 0
            if text[at : at + 1] == "]":
                at += 1
                yield Element(str(key), -1, here(), [])
            else:
                while True:
                    at = skip(at)
                    yield Element(str(key), index, here(), value())
                    index += 1
                    if expect(",]") == "]":
                        break
        more = expect(",}") == ","
    at = skip(at)
    if at < len(text):
        raise fail("something follows the end of the object")


@lru_cache(maxsize=4)
def element_lines(root: Path, path: str, element: str) -> Sequence[int]:
    """The 1-based line of each element (of a JSON array, or of an XML tag); as far as the file parses."""
    lines = array("q")
    with suppress(AnnotationError, OSError):
        if path.lower().endswith(".xml"):
            lines.extend(_xml_lines(read_text(root, path, DOCUMENT)[0], element))
        elif (found := _json_lines(read_bytes(root, path, DOCUMENT), element)) is not None:
            lines.extend(found)
        else:
            for item in scan_json(read_text(root, path, DOCUMENT)[0], path):
                if item.key == element and item.index >= 0:
                    lines.append(item.line)
    return lines


def _json_lines(data: bytes, element: str) -> Iterator[int] | None:
    """The lines of an array's elements, None where the whole is not JSON as it should be.

    Several times faster than scan_json, for files of a million elements: each is found as text.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        whole = bytes(msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get(element, b"[]"))
        texts = msgspec.json.decode(whole, type=list[msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if b"\n" not in data.rstrip():
        return repeat(1, len(texts))
    start = data.find(whole[:_HEAD])
    while not data.startswith(whole, start):
        start = data.find(whole[:_HEAD], start + 1)
    return _places(data, start + 1, texts)


def _places(data: bytes, at: int, texts: Sequence[msgspec.Raw]) -> Iterator[int]:
    """The line of each of `texts`, which follow each other in `data` from `at` with commas between."""
    line = 1 + data.count(b"\n", 0, at)
    for text in map(bytes, texts):
        place = data.find(text, at)
        line += data.count(b"\n", at, place)
        yield line
        line += text.count(b"\n")
        at = place + len(text)


def undeclared(text: str) -> str:
    """XML without its declaration, whose encoding no longer holds once it is decoded; lines stay."""
    return _DECLARATION.sub(lambda hit: "\n" * hit.group().count("\n"), text)


def _xml_lines(text: str, tag: str) -> list[int]:
    from xml.parsers import expat

    lines: list[int] = []
    parser = expat.ParserCreate("utf-8")

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == tag:
            lines.append(parser.CurrentLineNumber)

    parser.StartElementHandler = start
    with suppress(expat.ExpatError):
        parser.Parse(undeclared(text).encode(errors="replace"), True)
    return lines
