"""Input that means harm: each test is one attack, and what must come of it instead. See docs/security.md."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import resource
import shutil
import stat
import struct
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from click.testing import CliRunner
from PIL import Image

from rsdata import files, places, rasters, recipes, samples, tables
from rsdata.classes import Classes
from rsdata.cli import main
from rsdata.convert import Outcome, convert
from rsdata.engine import Engine
from rsdata.errors import AnnotationError, RecipeError, RsdataError, TableError, UnfinishedError
from rsdata.export import EXPORTERS, export
from rsdata.files import Dump
from rsdata.formats import cvat, geojson, labelme, pairs, voc, yolo
from rsdata.pictures import frame, look
from rsdata.rasters import Rendering
from rsdata.recipes import Recipe
from rsdata.shard import Options

MEGABYTE = 1 << 20


def converted(source: Path, table: Path, format: str, **options: Any) -> Outcome:
    chosen = Options(engine=Engine("serial"), overwrite=True, **options)
    return convert([source], table, recipes.from_format(format), chosen)


def rejections(reading: Iterator[Any]) -> list[tuple[str, str]]:
    return [(item.code, item.why) for item in reading if hasattr(item, "code")]


def sample(format: str, folder: Path, images: int = 3) -> Path:
    recipe = recipes.from_format(format)
    split = "train" if {"*", "train"} & recipe.splits.keys() else next(iter(recipe.splits))
    samples.write(recipe, folder, images=images, size=(48, 32), most=3, splits=[split])
    return folder


class Grown:
    """The memory that a test took at its most, above what the process already had."""

    def __init__(self) -> None:
        self._before = self._peak()

    def _peak(self) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

    @property
    def megabytes(self) -> int:
        return self._peak() - self._before


# Annotations


@pytest.mark.parametrize(("reader", "root"), [(voc, "annotation"), (cvat, "annotations")])
def test_xml_a_hundred_thousand_deep(reader: Any, root: str, tmp_path: Path) -> None:
    depth = 100_000
    opened = f"<{root}>" + "<a>" * depth
    (tmp_path / "a.xml").write_text(opened + "</a>" * depth + f"</{root}>")
    assert all(len(record.boxes) == 0 for record in reader.read(tmp_path, "a.xml", Classes(None)))
    (tmp_path / "b.xml").write_text(opened)
    with pytest.raises(AnnotationError, match="not well-formed"):
        list(reader.read(tmp_path, "b.xml", Classes(None)))


@pytest.mark.parametrize(
    ("format", "suffix", "size"),
    [
        *[(name, ".json", files.LABEL) for name in ("labelme", "soda", "xbd", "geojson")],
        *[("voc", ".xml", files.LABEL), ("dota", ".txt", files.LABEL), ("yolo", ".txt", files.LABEL)],
        *[(name, ".json", files.ELEMENTS) for name in ("panoptic", "auair")],
        *[(name, ".json", files.DOCUMENT) for name in ("coco", "karpathy", "xview")],
        *[("cvat", ".xml", files.ELEMENTS), ("pairs", ".csv", files.DOCUMENT)],
    ],
)
def test_a_file_that_is_too_large_is_named_before_it_is_read(
    format: str, suffix: str, size: int, tmp_path: Path
) -> None:
    """The file has holes for bytes, so that it takes no disk; to read it would take its size in memory."""
    with (tmp_path / f"a{suffix}").open("wb") as file:
        file.truncate(size + 1)
    reader, grown = recipes.from_format(format).reader, Grown()
    given = {"image": "a.png"} if "image" in recipes.given(reader) else {}
    with pytest.raises(AnnotationError, match=f"{size + 1:,} bytes, expected at most") as caught:
        list(reader.read(tmp_path, f"a{suffix}", Classes(None), **given))
    assert caught.value.path == f"a{suffix}"
    assert grown.megabytes < 50


@pytest.mark.parametrize(
    "name",
    [
        "{folder}/secret.prj",
        "ESRI::{folder}/secret.prj",
        "http://127.0.0.1:9/crs",
        "+proj=longlat +ellps=bessel +nadgrids=@{folder}/secret.prj",
        'GEOGCS["a",EXTENSION["PROJ4","+proj=longlat +nadgrids={folder}/secret.prj"]]',
        '{{"init": "{folder}/secret.prj:1"}}',
    ],
)
def test_a_crs_that_is_a_file_or_an_address(name: str, tmp_path: Path) -> None:
    """GDAL takes a CRS by file name and by URL, PROJ opens the grids that one names."""
    from rasterio.crs import CRS

    sample("geojson", tmp_path / "dump")
    (tmp_path / "secret.prj").write_text(CRS.from_epsg(32633).to_wkt())
    path = next((tmp_path / "dump").rglob("*.geojson"))
    document = json.loads(path.read_text())
    document["crs"]["properties"]["name"] = name.format(folder=tmp_path)
    path.write_text(json.dumps(document))
    image = next((tmp_path / "dump").rglob("*.tif")).relative_to(tmp_path / "dump").as_posix()
    relative = path.relative_to(tmp_path / "dump").as_posix()
    with pytest.raises(AnnotationError, match="is no code"):
        list(geojson.read(tmp_path / "dump", relative, Classes(None), image=image))


def test_a_crs_of_an_image_that_names_grids(tmp_path: Path) -> None:
    from rasterio.crs import CRS

    asked = CRS.from_string(f"+proj=longlat +ellps=bessel +nadgrids=@{tmp_path}/grid.gsb +no_defs")
    with pytest.raises(ValueError, match="names files of grids"):
        rasters.transformed(asked, "EPSG:4326", [12.0], [45.0])
    web = CRS.from_epsg(3857)  # whose definition names the grid "@null", which is none
    assert rasters.transformed("EPSG:4326", web, [0.0], [0.0])[0] == pytest.approx([0.0])


def test_a_list_of_names_that_is_a_link_out_of_the_dump(tmp_path: Path) -> None:
    sample("yolo", tmp_path / "dump")
    (tmp_path / "dump/data.yaml").unlink()
    (tmp_path / "secret.names").write_text("root:x:0\nsecret\n")
    (tmp_path / "dump/classes.txt").symlink_to(tmp_path / "secret.names")
    label = next((tmp_path / "dump").rglob("*_00000.txt")).relative_to(tmp_path / "dump").as_posix()
    assert yolo.prepare(tmp_path / "dump", [(label, "")], {}, Classes(None)) == {}
    (tmp_path / "dump/classes.txt").unlink()
    (tmp_path / "dump/real.txt").write_text("ship\n")
    (tmp_path / "dump/classes.txt").symlink_to("real.txt")
    assert yolo.prepare(tmp_path / "dump", [(label, "")], {}, Classes(None)) == {"names": ["ship"]}


@pytest.mark.parametrize("reader", [labelme, pairs])
def test_half_a_surrogate_pair_reaches_no_list(reader: Any, tmp_path: Path) -> None:
    """A Rejection that quotes the text is written to the journal as UTF-8."""
    name = "a.jsonl" if reader is pairs else "a.json"
    text = '{"image": "\\ud800.png", "caption": " "}' if reader is pairs else (
        '{"shapes": [{"label": "a", "points": [[1, 2]], "shape_type": "\\ud800"}], "imageHeight": 9}'
    )  # fmt: skip
    (tmp_path / name).write_text(text)
    found = list(reader.read(tmp_path, name, Classes(None)))
    assert len(found) == 2
    for item in found:
        repr(item).encode()


def test_a_class_name_of_a_megabyte(tmp_path: Path) -> None:
    """To put it into the plural would take minutes; the object is dropped, its line is listed."""
    sample("dota", tmp_path / "dump")
    path = next((tmp_path / "dump").rglob("*.txt"))
    line = "1 1 20 1 20 20 1 20 {} 0\n"
    path.write_text(line.format("x" * MEGABYTE) + line.format("ship"))
    start = time.perf_counter()
    outcome = converted(tmp_path / "dump", tmp_path / "table", "dota")
    assert time.perf_counter() - start < 5
    (item,) = outcome.rejections
    assert (item.code, item.line) == ("E17", 1)
    assert len(item.why) < 100


@pytest.mark.parametrize("split", ["a" * 5000, "../../evil", "C:\\evil", "train\0", "\ud800", "", " "])
def test_a_split_that_a_document_names(split: str, tmp_path: Path) -> None:
    """It names files of the table."""
    sample("karpathy", tmp_path / "dump")
    path = next((tmp_path / "dump").glob("*.json"))
    document = json.loads(path.read_text())
    document["images"][0]["split"] = split
    path.write_text(json.dumps(document))
    outcome = converted(tmp_path / "dump", tmp_path / "in/table", "karpathy")
    assert outcome.manifest["images"]["written"] == 3
    assert {shard.parent for shard in tables.shards(tmp_path / "in/table")} == {tmp_path / "in/table/data"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dump", "in"]


# Archives


def test_a_member_that_expands_beyond_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_EXPANDED", MEGABYTE)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images/bomb.png", bytes(8 * MEGABYTE))
        archive.writestr("images/noise.png", random.Random(0).randbytes(2 * MEGABYTE))
        archive.writestr("images/small.png", bytes(MEGABYTE))
    dump = Dump(tmp_path / "a.zip")
    assert dump.paths == ["images/noise.png", "images/small.png"]
    (item,) = dump.refused
    assert (item.code, item.path) == ("E27", "images/bomb.png")


def test_an_archive_in_an_archive_stays_closed(tmp_path: Path) -> None:
    sample("dota", tmp_path / "dump")
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/images/evil.png", bytes(100))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("train/images/inner.zip", inner.getvalue())
        for path in filter(Path.is_file, (tmp_path / "dump").rglob("*")):
            archive.write(path, path.relative_to(tmp_path / "dump"))
    assert converted(tmp_path / "a.zip", tmp_path / "t", "dota").manifest["images"]["found"] == 3


def test_devices_and_hard_links_in_a_tar(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        kinds = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE)
        for number, kind in enumerate(kinds):
            info = tarfile.TarInfo(f"images/{number}.png")
            info.type, info.linkname, info.devmajor, info.devminor = kind, "images/x.png", 1, 5
            archive.addfile(info)
    dump = Dump(tmp_path / "a.tar")
    assert dump.paths == []
    assert {item.code for item in dump.refused} == {"E27"}
    assert len(dump.refused) == 5


def test_a_tar_whose_member_has_a_negative_size(tmp_path: Path) -> None:
    """The tarfile of Python before 3.11.14 reads it for ever (CVE-2025-8194)."""
    info = tarfile.TarInfo("a.txt")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + struct.pack(">h", -512)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(RecipeError, match="cannot be read"):
        Dump(tmp_path / "a.tar")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_damaged_archives_at_random(kind: str, tmp_path: Path) -> None:
    sample("dota", tmp_path / "dump")
    whole = io.BytesIO()
    names = [path for path in sorted((tmp_path / "dump").rglob("*")) if path.is_file()]
    if kind == "zip":
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in names:
                archive.write(path, path.relative_to(tmp_path / "dump"))
    else:
        with tarfile.open(fileobj=whole, mode="w") as archive:
            archive.add(tmp_path / "dump", ".")
    for number in range(60):
        rng, data = random.Random(number), bytearray(whole.getvalue())
        last = len(data) if kind == "tar" else 1200
        for _ in range(rng.choice([1, 2, 6])):
            data[-rng.randrange(1, last)] = rng.choice([0, 255, rng.randrange(256)])
        (tmp_path / f"a.{kind}").write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
        try:
            converted(tmp_path / f"a.{kind}", tmp_path / "t", "dota")
        except RsdataError as error:
            if isinstance(error, UnfinishedError) or "does not add up" in str(error):
                raise


# Images and films


def png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("options", [{}, {"bands": (1,)}, {"max_edge": 64}])
def test_a_small_file_that_declares_billions_of_pixels(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(60_000, 60_000))
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=60_000, height=60_000, count=3, dtype="uint16",
        tiled=True, blockxsize=1024, blockysize=1024, sparse_ok=True,
    ):  # fmt: skip
        pass
    grown, start = Grown(), time.perf_counter()
    for name in ("a.png", "a.tif"):
        if name == "a.png" and not options:
            assert look(tmp_path / name, Rendering()).sample is None  # its bytes as they are, not decoded
            continue
        with pytest.raises(OSError, match=r"more than 178956970|cannot|truncated|bands"):
            look(tmp_path / name, Rendering(**options))
    assert grown.megabytes < 200
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("side", [2**31, 2**32 - 1])
def test_a_side_that_no_table_can_state(side: int, tmp_path: Path) -> None:
    sample("dota", tmp_path / "dump")
    next((tmp_path / "dump").rglob("*.png")).write_bytes(png(side, 1))
    (item,) = converted(tmp_path / "dump", tmp_path / "t", "dota").rejections
    assert item.code == "E35"


def test_a_tiff_that_declares_more_rows_than_it_has_strips(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(tmp_path / "a.tif")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    (ifd,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, ifd)
    for entry in range(ifd + 2, ifd + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry)[0] == 257:
            struct.pack_into("<HI", data, entry + 2, 4, 1)
            struct.pack_into("<I", data, entry + 8, 65_535)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(OSError, match="truncated"):
        look(tmp_path / "a.tif", Rendering())


def test_a_tiff_of_a_million_directories(tmp_path: Path) -> None:
    count = 1_000_000
    page = struct.pack("<HHHII", 1, 256, 4, 1, 1)
    directories = b"".join(
        page + struct.pack("<I", 8 + 18 * number if number < count else 0) for number in range(1, count + 1)
    )
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 8) + directories)
    start = time.perf_counter()
    with pytest.raises(OSError, match=r"."):
        look(tmp_path / "a.tif", Rendering())
    assert time.perf_counter() - start < 5


def test_a_picture_of_more_bytes_than_a_row_holds(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(32, 32))
    with (tmp_path / "a.png").open("r+b") as file:
        file.truncate((1 << 30) + 1)
    grown = Grown()
    with pytest.raises(OSError, match="1,073,741,825 bytes"):
        look(tmp_path / "a.png", Rendering())
    assert grown.megabytes < 50


@pytest.mark.parametrize("name", ["a.mp4", "a.m3u8", "a.ts"])
def test_a_film_that_is_a_list_of_other_files(name: str, tmp_path: Path) -> None:
    """FFmpeg follows playlists."""
    cv2 = pytest.importorskip("cv2")
    secret = tmp_path / "secret.avi"
    writer = cv2.VideoWriter(str(secret), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
    for _ in range(3):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    assert frame(secret, 0, Rendering()).width == 64
    (tmp_path / name).write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n")
    with pytest.raises(OSError, match="cannot be decoded"):
        frame(tmp_path / name, 0, Rendering())


# Recipes


def recipe(images: str, annotations: str, **more: Any) -> Recipe:
    splits = {"train": {"images": images, "annotations": annotations}}
    return recipes.parse("evil", {"format": "dota", "splits": splits, **more})


@pytest.mark.parametrize("up", ["../", "../../", "{folder}/", "a/../../"])
def test_a_recipe_reads_and_writes_nothing_outside(up: str, tmp_path: Path) -> None:
    up = up.format(folder=tmp_path)
    (tmp_path / "outside").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "outside/a.png")
    (tmp_path / "outside/a.txt").write_text("1 1 9 1 9 9 1 9 ship 0\n")
    (tmp_path / "dump").mkdir()
    (tmp_path / "dump/x.png").write_bytes((tmp_path / "outside/a.png").read_bytes())
    evil = recipe(f"{up}outside/*.png", f"{up}outside/*.txt")
    with pytest.raises(RecipeError, match="no dump of evil"):
        convert([tmp_path / "dump"], tmp_path / "t", evil, Options(engine=Engine("serial")))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RecipeError, match="outside of the dump"):
        samples.write(evil, tmp_path / "in/drawn", images=1, size=(32, 32))
    assert [path for path in sorted(tmp_path.rglob("*")) if path.is_file()] == [
        path for path in before if path.is_file()
    ]


@pytest.mark.parametrize("split", ["../../evil", "a/b", "/etc/x", "..", "a\0b", ""])
def test_a_recipe_whose_split_is_a_path(split: str) -> None:
    table = {"images": "*.png", "annotations": "*.txt"}
    with pytest.raises(RecipeError, match="split"):
        recipes.parse("evil", {"format": "dota", "splits": {split: table}})


# Tables


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    sample("dota", folder / "dump")
    converted(folder / "dump", folder / "table", "dota")
    return folder / "table"


def rewritten(whole: Path, folder: Path, name: str, value: Any) -> Path:
    """A copy of a table with a column that holds one value in all rows, or null."""
    shutil.copytree(whole, folder)
    (shard,) = tables.shards(folder)
    held = pq.read_table(shard)
    field = held.schema.field(name)
    column = value(held[name].to_pylist()) if callable(value) else [value] * len(held)
    changed = held.set_column(held.schema.names.index(name), field, pa.array(column, field.type))
    pq.write_table(changed, shard)
    return folder


def objects(**change: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda rows: [[{**held, **change} for held in row] for row in rows]


HOSTILE: dict[str, tuple[str, Any]] = {
    **{
        f"null {name}": (name, None)
        for name in ("image_id", "dataset", "split", "image", "objects", "captions")
    },
    "null object": ("objects", [None]),
    "null caption": ("captions", [None]),
    "null edge": ("objects", objects(xmin=None)),
    "null label": ("objects", objects(label=None)),
    "null flags": ("objects", objects(flags=None)),
    "NaN": ("objects", objects(xmin=float("nan"), ymax=float("inf"))),
    "long label": ("objects", objects(label="x" * 100_000)),
    "long split": ("split", "x" * 100_000),
    "negative size": ("width", -1),
    "dataset": ("dataset", "../../../x"),
    "split": ("split", "../../../x"),
    "image": ("image", {"bytes": b"\x89PNG\r\n\x1a\n" + bytes(40), "path": "../../../../x.png"}),
    "no bytes": ("image", {"bytes": None, "path": None}),
}
COMMANDS: dict[str, Callable[[str, str], list[str]]] = {
    "validate": lambda table, out: ["validate", table, "--deep"],
    "repair": lambda table, out: ["repair", table, "-o", out],
    "dedup": lambda table, out: ["dedup", table, "-o", out],
    "caption": lambda table, out: ["caption", table, "-o", out],
    **{
        to: lambda table, out, to=to: ["export", table, "-o", out, "--to", to]
        for to in ("coco", "imagefolder")
    },  # type: ignore[misc]
}


def attempt(table: Path, folder: Path) -> dict[str, int]:
    """The exit code of each command; each ends in time, with a message, and writes into its output only."""
    done = {}
    for name, arguments in COMMANDS.items():
        out = folder / "deep/er" / name
        out.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        result = CliRunner().invoke(main, arguments(str(table), str(out)))
        assert result.exception is None or isinstance(result.exception, SystemExit), (name, result.exception)
        assert time.perf_counter() - start < 5, name
        done[name] = result.exit_code
        assert {path.name for path in folder.iterdir()} <= {"table", "deep"}
        assert [path.name for path in (folder / "deep").iterdir()] == ["er"]
        assert {path.name for path in out.parent.iterdir()} <= {*COMMANDS}
    return done


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_table_of_hostile_rows(attack: str, whole: Path, tmp_path: Path) -> None:
    done = attempt(rewritten(whole, tmp_path / "table", *HOSTILE[attack]), tmp_path)
    assert done["validate"] == 1


@pytest.mark.parametrize("name", ["image_id", "dataset", "split", "pixels", "annotation"])
def test_a_table_of_texts_that_are_not_utf8(name: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "table")
    (shard,) = tables.shards(tmp_path / "table")
    held = pq.read_table(shard)
    offsets = struct.pack(f"{len(held) + 1}i", *range(0, 2 * len(held) + 1, 2))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"\xff\xfe" * len(held))]
    bad = pa.Array.from_buffers(pa.string(), len(held), buffers)
    pq.write_table(held.set_column(held.schema.names.index(name), held.schema.field(name), bad), shard)
    assert set(attempt(tmp_path / "table", tmp_path).values()) == {1}
    with pytest.raises(TableError, match="damaged"):
        list(tables.row_groups(shard))


def split_of(**change: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda manifest: manifest["splits"]["train"].update(change)


MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "files above": split_of(files=["../../secret.parquet"]),
    "files elsewhere": split_of(files=["/etc/passwd"]),
    "no file": split_of(files=[]),
    "files of numbers": split_of(files=[1]),
    "split above": lambda manifest: manifest["splits"].update({"../../x": manifest["splits"]["train"]}),
    "splits of lists": lambda manifest: manifest["splits"].update(train=[]),
    "datasets": lambda manifest: manifest.update(datasets={"a": []}),
    "reasons": lambda manifest: manifest.update(reasons=-1),
    "images": lambda manifest: manifest.pop("images"),
    "objects": lambda manifest: manifest.update(objects={}),
    "rsdata": lambda manifest: manifest.update(rsdata=[]),
}


@pytest.mark.parametrize("attack", MANIFESTS)
def test_a_hostile_manifest(attack: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "table")
    path = tmp_path / "table" / tables.MANIFEST
    manifest = json.loads(path.read_text())
    MANIFESTS[attack](manifest)
    path.write_text(json.dumps(manifest))
    done = attempt(tmp_path / "table", tmp_path)
    assert {done[name] for name in ("validate", "dedup", "caption")} == {1}


def test_a_manifest_of_brackets(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "table")
    (tmp_path / "table" / tables.MANIFEST).write_text("[" * 100_000)
    with pytest.raises(TableError, match="manifest"):
        tables.manifest(tmp_path / "table")


@pytest.mark.parametrize("to", EXPORTERS)
def test_names_in_a_table_lead_nowhere(to: str, whole: Path, tmp_path: Path) -> None:
    """Neither dataset, image_id, path nor label of a row is where a file of an export goes."""
    rewritten(whole, tmp_path / "a", "dataset", "../../../evil")
    rewritten(tmp_path / "a", tmp_path / "b", "label", "../../evil")
    rewritten(
        tmp_path / "b", tmp_path / "c", "image_id", lambda rows: [f"../../{n}\0x" for n, _ in enumerate(rows)]
    )
    export(tmp_path / "c", tmp_path / "in/out", to)
    assert {path.name for path in (tmp_path / "in").iterdir()} == {"out"}
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c", "in"}
    if to == "webdataset":
        for path in (tmp_path / "in/out").glob("*.tar"):
            with tarfile.open(path) as tar:
                assert not any("/" in name or ".." in name for name in tar.getnames())


def test_captions_that_a_spreadsheet_would_run_come_back_as_they_are(whole: Path, tmp_path: Path) -> None:
    """No quote is put before them: open_clip would train on it. See docs/security.md."""
    pandas = pytest.importorskip("pandas")
    formulas = ["=cmd|' /C calc'!A0", "+1+1", "-2", "@SUM(A1)", "\t=1", 'a\tb "c"\nd', "plain"]
    export(rewritten(whole, tmp_path / "t", "captions", formulas), tmp_path / "out", "csv")
    read = pandas.read_csv(tmp_path / "out/train.csv", sep="\t")  # as open_clip_train does
    assert read["title"].tolist() == formulas * 3
    with (tmp_path / "out/train.csv").open(newline="") as file:
        assert [row[1] for row in csv.reader(file, delimiter="\t")][1:] == formulas * 3


# Checkpoints


def test_a_torchscript_archive_runs_none_of_its_code(tmp_path: Path) -> None:
    """Its modules restore themselves by methods of their own, and TorchScript can write files."""
    torch = pytest.importorskip("torch")
    weights = pytest.importorskip("rsclip.weights")
    source = tmp_path / "evil.py"
    source.write_text(f"""
import torch
from typing import Tuple
class Evil(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(3))
    def forward(self, x: torch.Tensor):
        return x
    @torch.jit.export
    def __getstate__(self) -> Tuple[int, bool]:
        return (1, self.training)
    @torch.jit.export
    def __setstate__(self, state: Tuple[int, bool]) -> None:
        self.training = state[1]
        self.w = torch.from_file({str(tmp_path / "ran")!r}, True, 3)
""")
    held: dict[str, Any] = {}
    sys.path.insert(0, str(tmp_path))
    try:
        import evil  # type: ignore[import-not-found]

        held["archive"] = torch.jit.script(evil.Evil())
    finally:
        sys.path.remove(str(tmp_path))
    held["archive"].save(str(tmp_path / "w.pt"))
    with pytest.raises(RsdataError, match=r"w\.pt: cannot be loaded"):
        weights.read(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()
    torch.jit.load(str(tmp_path / "w.pt"))  # that it would have
    assert (tmp_path / "ran").exists()


def test_pickled_objects_in_a_cache_of_features(tmp_path: Path) -> None:
    encode = pytest.importorskip("rsclip.encode")

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    np.save(tmp_path / "image-0.npy", np.array([Evil()], object), allow_pickle=True)
    with pytest.raises(RsdataError, match="remove it"):
        encode.Shelf(tmp_path, "image")
    assert not (tmp_path / "ran").exists()


def test_what_is_written_is_no_program(whole: Path) -> None:
    assert not any(path.stat().st_mode & stat.S_IXUSR for path in whole.rglob("*") if path.is_file())
