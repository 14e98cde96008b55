"""Damages to the files of a dump: by what their values mean, by their text, by their bytes.

Every function takes the bytes of a file and a random source and returns other bytes; equal sources give equal
bytes, so that a failure is reproduced from its number alone.
"""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

Damage = Callable[[bytes, random.Random], bytes]

NUMBERS = [
    "NaN", "nan", "Infinity", "-inf", "1e308", "-1e308", "1e999", "1e39", "1e-400", "-0.0", "-1", "0", "1",
    "31.5",
    "2147483648", "4294967296", "9007199254740993", "18446744073709551616", "-9223372036854775809", "9" * 400,
    "9" * 5000, "0x10", "1_000", "1,5", "٣", "+7", "1e5", '"12"', "null", "true", "[]", "{}", "[[1]]", "",
    " ",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, -1, 1e308, -1e308, float("nan"), float("inf"), 2**31, 2**63, 2**64, 10**400,
    1e-320, "",
    " ", "12", "NaN", [], {}, [[]], [None], [0, 0, 0, 0], [1, 2], {"counts": [5, -5], "size": [32, 32]},
    {"counts": "0" * 99, "size": [10**9, 10**9]}, {"counts": [2**62, 2**62], "size": [2**31, 2**31]},
    [[[[[[1]]]]]],
    "POLYGON ((0 0, 1e400 0, 1 1))", "POLYGON EMPTY", {"type": "Polygon", "coordinates": [[[]]]},
]  # fmt: skip
TEXTS = [
    "../../x", "../outside/secret.png", "../../outside/secret.png", "/etc/passwd", "C:\\x", "..\\..\\x",
    "\\\\h\\x",
    "a\0b", "\ud800", "\udfff\ud800", "<b onclick=x>&amp;</b>", "=cmd()", "‮gnp.a", "%s%n{0}", "-" * 300,
    "e\u0301" * 50, "\u2028\x0b\x0c\x1c\x85", "\r", "🛰", "file:///etc/passwd", "http://127.0.0.1:9/x",
    "con", ".",
    "..", "/", "~", "*", "{a,b}", "[a", "a" * 70_000, "#frame=1", "train/../../x", "None", "\ufeff",
    "urn:ogc:def:crs:",
    "+proj=longlat +nadgrids=/etc/passwd", "/vsicurl/http://127.0.0.1:9/x", "1,2,3,4", "NaN NaN NaN NaN",
]  # fmt: skip
LARGE_TEXT = "x" * (1 << 20)
TOKENS = [
    b"[", b"]", b"{", b"}", b"<", b">", b'"', b"'", b",", b";", b":", b"\0", b"\\", b"\\u", b"\\ud83d",
    b"\n", b"\r",
    b"\t", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xb4\xac", b"\xed\xa0\x80", b"</object>", b"<object>",
    b"&x;",
    b"&#x0;", b"&#x110000;", b"<![CDATA[", b"<!-- ", b"<?x", b"<!DOCTYPE a>", b'<!ENTITY a "b">', b"[" * 3000,
    b'{"a":' * 3000, b"<a>" * 3000, b"*", b"&a", b"!!python/object:os.system", b"- " * 3000, b"\x0c",
    b"\x1c", b"\x85",
    b"\xe2\x80\xa8", b"PAR1", b"//", b"/*", b"#",
]  # fmt: skip
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORDS = re.compile(rb'(?<=")[^"\n]{1,80}(?=")|(?<=>)[^<>\n]{1,80}(?=<)|[A-Za-z][\w./-]{2,60}')
_DEPTH = 100_000
_LARGE_PER_CENT = 1
"""Of texts that are replaced, how many get a megabyte: they are slow, and all alike."""


def blind(data: bytes, rng: random.Random) -> bytes:
    """Some bytes flipped, cut out, repeated or put in."""
    held = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 10])):
        at = rng.randrange(len(held) + 1)
        kind = rng.randrange(8)
        if kind == 0 and held:
            held[at % len(held)] = rng.randrange(256)
        elif kind == 1 and held:
            held[at % len(held)] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del held[at : at + rng.choice([1, 2, 8, 50])]
        elif kind == 3:
            del held[at:]
        elif kind == 4:
            held[at:at] = rng.randbytes(rng.choice([1, 3, 20]))
        elif kind == 5:
            other = rng.randrange(len(held) + 1)
            held[at:at] = held[other : other + rng.choice([3, 20, 200])]
        else:
            held[at : at + rng.choice([0, 1, 3])] = rng.choice(TOKENS)
    return bytes(held)


def numbers(data: bytes, rng: random.Random) -> bytes:
    """Some numbers become others, or none."""
    return _replaced(data, _NUMBER, lambda: rng.choice(NUMBERS).encode(), rng)


def words(data: bytes, rng: random.Random) -> bytes:
    """Some words or quoted texts become hostile ones."""
    return _replaced(data, _WORDS, lambda: _text(rng).encode(errors="surrogatepass"), rng)


def _text(rng: random.Random) -> str:
    return LARGE_TEXT if rng.randrange(100) < _LARGE_PER_CENT else rng.choice(TEXTS)


def _replaced(
    data: bytes, pattern: re.Pattern[bytes], other: Callable[[], bytes], rng: random.Random
) -> bytes:
    hits = list(pattern.finditer(data))
    for hit in sorted(
        rng.sample(hits, min(len(hits), rng.choice([1, 1, 2, 5]))), key=lambda hit: -hit.start()
    ):
        data = data[: hit.start()] + other() + data[hit.end() :]
    return data


def lines(data: bytes, rng: random.Random) -> bytes:
    """Lines repeated, lost, joined, exchanged, or with other fields."""
    rows = data.split(b"\n")
    at, other = rng.randrange(len(rows)), rng.randrange(len(rows))
    kind = rng.randrange(7)
    if kind == 0:
        rows.insert(other, rows[at])
    elif kind == 1:
        del rows[at]
    elif kind == 2:
        rows[at], rows[other] = rows[other], rows[at]
    elif kind == 3:
        rows[at : at + 2] = [b" ".join(rows[at : at + 2])]
    elif kind == 4:
        rows[at] = rows[at] * rng.choice([2, 50])
    else:
        fields = re.split(rb"([\s,;]+)", rows[at])
        fields[rng.randrange(len(fields))] = rng.choice([*NUMBERS, *TEXTS]).encode(errors="surrogatepass")
        rows[at] = b"".join(fields)
    return b"\n".join(rows)


def encodings(data: bytes, rng: random.Random) -> bytes:
    """The same text in another encoding, with a BOM, or with other line ends."""
    text = data.decode(errors="replace")
    kinds: list[Callable[[], bytes]] = [
        lambda: text.encode("utf-16"),
        lambda: text.encode("utf-16-be"),
        lambda: b"\xfe\xff" + text.encode("utf-16-be")[: rng.randrange(2 * len(text) + 1)],
        lambda: text.encode("utf-32"),
        lambda: text.encode("utf-7"),
        lambda: b"\xef\xbb\xbf" * rng.randrange(1, 4) + data,
        lambda: data.replace(b"\n", rng.choice([b"\r", b"\r\n", b"\n\r", b"\x0c", b"\xe2\x80\xa8", b"\x85"])),
        lambda: data.replace(b"a", rng.choice([b"\xff", b"\xb1\xb1", b"\xe9", b"\xed\xa0\x80", b"\0"])),
        lambda: data.replace(
            b"utf-8", rng.choice([b"utf-16", b"cp037", b"idna", b"hex", b"gb2312", b"x" * 99])
        ),
        lambda: data.replace(b"UTF-8", rng.choice([b"utf-7", b"rot13", b"unicode_escape", b"punycode"])),
    ]
    return rng.choice(kinds)()


def tree(data: bytes, rng: random.Random) -> bytes:
    """JSON whose values, keys or nesting are others; what is no JSON is hit blindly."""
    try:
        value = json.loads(data)
    except ValueError:
        return markup(data, rng)
    for _ in range(rng.choice([1, 1, 2, 4])):
        value = _changed(value, rng)
    try:
        text = json.dumps(value, indent=rng.choice([None, None, 1]))
    except RecursionError:
        return blind(data, rng)
    if rng.random() < 0.1 and (hit := re.search(r'"(\w+)": ', text[rng.randrange(len(text)) :])):
        again = f"{hit.group()}{json.dumps(rng.choice(VALUES))}, "
        text = text.replace(hit.group(), again + hit.group(), 1)  # a key that is there twice
    return text.encode(errors="surrogatepass")


def _changed(value: Any, rng: random.Random) -> Any:
    """`value` with one part of it changed, somewhere below."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        kind = rng.randrange(12)
        if kind == 0:
            del value[key]
        elif kind == 1 and isinstance(value, list):
            value.insert(key, json.loads(json.dumps(value[key])))
        elif kind == 1 and isinstance(value, dict):
            value[_text(rng)] = value.pop(key)
        elif kind == 2:
            for _ in range(rng.choice([1, 20, 100])):
                value[key] = [value[key]] if rng.random() < 0.5 else {"a": value[key]}
        elif kind == 3 and key == "segmentation":
            value[key] = _run_lengths(rng)
        else:
            value[key] = _changed(value[key], rng)
        return value
    if isinstance(value, str) and rng.random() < 0.6:
        return _text(rng)
    if isinstance(value, (int, float)) and abs(value) < 1e300 and rng.random() < 0.5:
        return rng.choice([-value, value * 1e9, str(value), value + 0.5, [value], 10**9, -(10**9), 1e20])
    return json.loads(json.dumps(rng.choice(VALUES)))


def _run_lengths(rng: random.Random) -> dict[str, Any]:
    """Run lengths that overflow, are negative, or do not add up."""
    size = rng.choice([[32, 32], [0, 0], [-9, 9], [2**31] * 2, [10**9] * 2, [32], ["32", 32], [0.5, 1]])
    counts: Any = rng.choice(
        [[500, 524], [0] * 99, [-1, 1025], [2**63, 2**63], [2**32, 1024], [1024], [], "", "PPYo1", "o" * 50,
        "\x00",
         "P" * 5000, [1.5, 1022.5], [10**400], [None], "0" * 7 + "~~~~~~"]
    )  # fmt: skip
    return {"size": size, "counts": counts}


def markup(data: bytes, rng: random.Random) -> bytes:
    """XML with elements lost, repeated, renamed, deep, or with entities; other text is hit by lines."""
    if not data.lstrip().startswith(b"<"):
        return lines(data, rng)
    tags = list(re.finditer(rb"<(/?)([\w-]+)([^<>]*)>", data))
    if not tags:
        return blind(data, rng)
    hit, kind = rng.choice(tags), rng.randrange(9)
    start, end, name = hit.start(), hit.end(), hit.group(2)
    if kind == 0:
        return data[:start] + data[end:]
    if kind == 1:
        return data.replace(b"<" + name, b"<" + rng.choice(tags).group(2), 1)
    if kind == 2:
        close = data.find(b"</" + name + b">", end)
        return data[:end] + data[max(close, end) :]
    if kind == 3:
        close = data.find(b"</" + name + b">", end)
        return data[:start] + data[start : max(close, end)] * rng.choice([2, 30]) + data[start:]
    if kind == 4:
        depth = rng.choice([10, 3000, _DEPTH])
        return data[:end] + b"<x>" * depth + rng.choice([b"", b"</x>" * depth]) + data[end:]
    if kind == 5:
        bomb = b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
        return rng.choice([bomb, b'<!DOCTYPE a SYSTEM "file:///etc/passwd">', b"<!doctype a>"]) + data
    if kind == 6:
        return (
            data[:end]
            + rng.choice([b"&b;", b"&#0;", b"&#xD800;", b"<![CDATA[", b"<!--", b"\xff"])
            + data[end:]
        )
    if kind == 7:
        attribute = rng.choice(
            [b' x="1"', b' width="1e9"', b' xmlns="u:x"', b' xmlns:a="b"', b" x=1", b' id=""']
        )
        return data[: end - 1] + attribute + data[end - 1 :]
    return _replaced(data, _NUMBER, lambda: rng.choice(NUMBERS).encode(), rng)


def nothing_like_it(data: bytes, rng: random.Random) -> bytes:
    """Another kind of file altogether, or none."""
    return rng.choice(
        [
            b"", b" ", b"\n\n", b"\0" * 99, b"\xef\xbb\xbf", b"{}", b"[]", b"null", b"1", b'"a"', b"[{}]",
            b"<a/>",
            b"<html><body>404</body></html>", b"PK\3\4" + bytes(40), b"PAR1" + bytes(40) + b"PAR1",
            b"%PDF-1.4",
            b"\x1f\x8b" + bytes(40), b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            b"\x80\x04\x95" + bytes(20), b"SIMPLE  =", bytes(data[::-1]), data * 3,
        ]
    )  # fmt: skip


def picture(data: bytes, rng: random.Random) -> bytes:
    """An image that is cut short, hit, of another kind or size, or that declares what it is not."""
    kind = rng.randrange(10)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1:
        return nothing_like_it(data, rng)
    if kind in (2, 3, 4):
        return _declared(data, rng)
    if kind == 5:
        return _as_other(rng)
    if kind == 6:
        return DISGUISES[rng.randrange(len(DISGUISES))]
    held = bytearray(data)
    last = len(held) if kind == 7 else min(len(held), 200)  # most of what can go wrong lies at the start
    for _ in range(rng.choice([1, 1, 2, 8])):
        held[rng.randrange(last)] = rng.choice([0, 255, 127, 128, rng.randrange(256)])
    return bytes(held)


def _declared(data: bytes, rng: random.Random) -> bytes:
    """An image whose header declares other things, checksums made good."""
    value = rng.choice([0, 1, 31, 33, 255, 60_000, 65_535, 2**24, 2**31 - 1, 2**32 - 1])
    if data.startswith(b"\x89PNG"):
        header = bytearray(data[16:29])
        at = rng.randrange(7)
        if at < 2:
            struct.pack_into(">I", header, 4 * at, value)
        else:
            header[6 + at] = rng.choice([0, 1, 2, 3, 4, 6, 7, 8, 16, 255])
        return data[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]
    if data[:4] in (b"II*\0", b"MM\0*"):
        order = "<" if data[:2] == b"II" else ">"
        held = bytearray(data)
        (ifd,) = struct.unpack_from(order + "I", held, 4)
        (count,) = struct.unpack_from(order + "H", held, ifd)
        entry = ifd + 2 + 12 * rng.randrange(count)
        kind = rng.randrange(4)
        if kind == 0:
            struct.pack_into(
                order + "H", held, entry, rng.choice([256, 257, 258, 259, 273, 277, 279, 322, 34735])
            )
        elif kind == 1:
            struct.pack_into(order + "H", held, entry + 2, rng.randrange(20))
        else:
            struct.pack_into(order + "I", held, entry + 4 * (kind - 1), value)
        return bytes(held)
    return blind(data, rng)


def _as_other(rng: random.Random) -> bytes:
    """A sound image of another kind, mode or size."""
    mode = rng.choice(["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "LA"])
    size = rng.choice([(32, 32), (1, 1), (33, 31), (3000, 2), (64, 64)])
    values = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(values)
    image = Image.fromarray(values[..., 0].astype(np.uint16)) if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    kinds = ["PNG", "TIFF", "JPEG", "BMP", "GIF", "WEBP", "JPEG2000", "PPM", "ICO", "TGA", "PCX", "SGI", "IM"]
    orientation = Image.Exif()
    orientation[0x0112] = rng.choice([1, 3, 6, 99])
    try:
        image.save(file, rng.choice(kinds), exif=orientation)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):  # not each kind takes each mode
        return b""
    return file.getvalue()


DISGUISES = [
    b'<VRTDataset rasterXSize="32" rasterYSize="32"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
    b'<SourceFilename relativeToVRT="1">../../outside/secret.png</SourceFilename></SimpleSource>'
    b"</VRTRasterBand></VRTDataset>",
    b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n(/etc/passwd) (r) file\n%%EOF\n",
    b"P6 60000 60000 255\n" + bytes(99),
    b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 60_000, -60_000, 1, 24, 1, 0, 0, 0, 0, 0),
    b"GIF89a"
    + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0)
    + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;",
    b"\x89PNG\r\n\x1a\n" + bytes(60),
    b"II*\0\x08\0\0\0\x01\0\x00\x01\x04\0\x01\0\0\0\xff\xff\xff\xff\x08\0\0\0",  # an IFD that is its own next
    b"<?xml version='1.0'?><GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:9/</ServerUrl></Service>"
    b"</GDAL_WMS>",
    b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60),
    b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(60),
    b"RIFF\xff\xff\xff\xffWEBPVP8L" + bytes(60),
]
TEXT_DAMAGES: Sequence[Damage] = (
    blind, blind, numbers, numbers, numbers, words, words, lines, encodings, tree, tree, tree, tree,
    nothing_like_it,
)  # fmt: skip
IMAGE_MAGIC = (b"\x89PNG", b"II", b"MM", b"\xff\xd8", b"BM", b"GIF", b"RIFF")


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A file that is damaged in one of the ways of its kind."""
    if data.startswith(IMAGE_MAGIC):
        return picture(data, rng)
    return rng.choice(TEXT_DAMAGES)(data, rng)
