"""Duplicates and leaks of whole tables: who goes, why, and what the table tells of it afterwards."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dumps import contents, rows_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance
from shapely import Point, Polygon, box, to_wkb

from rsdata import clean, dedup, fingerprints, hashing, recipes, removals, tables
from rsdata.errors import RsdataError, TableError
from rsdata.records import Box
from rsdata.scenes import draw
from rsdata.validate import check

CLASSES = ["airplane", "ship", "storage tank", "building", "tennis court"]
Change = Callable[[Image.Image], Image.Image]


@cache
def scene(number: int, size: tuple[int, int] = (256, 256)) -> Image.Image:
    return Image.fromarray(draw(CLASSES, number, *size).pixels)


def jpeg(image: Image.Image, quality: int = 75) -> bytes:
    data = io.BytesIO()
    image.convert("RGB").save(data, "JPEG", quality=quality)
    return data.getvalue()


def png(image: Image.Image, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG", **options)
    return data.getvalue()


class Item(NamedTuple):
    """An image to put into a table."""

    name: str
    data: bytes | None
    split: str = "train"
    captions: tuple[str, ...] = ()
    source: str | None = None
    objects: int = 0
    path: str = ""
    geometry: bytes | None = None
    dataset: str = "mine"
    hashed: bool = True


def row(item: Item) -> tables.Row:
    image = Image.open(io.BytesIO(item.data)) if item.data is not None else None
    found = None
    if item.data is not None and item.hashed:
        data = item.data
        found = hashing.hashes(Image.open(io.BytesIO(data)), lambda: Image.open(io.BytesIO(data)))
    width, height = image.size if image else (None, None)
    return tables.Row(
        f"{item.dataset}/{item.split}/{item.name}",
        item.dataset,
        item.split,
        item.data,
        item.path or f"images/{item.name}.jpg",
        width,
        height,
        [Box("ship", "ship", number, 0, number + 1, 1) for number in range(item.objects)],
        item.captions,
        (item.source or "human") if item.captions else None,
        None,
        found,
        hashlib.sha256(item.data).hexdigest() if item.data is not None else None,
        "",
        geometry=item.geometry,
    )


def make(folder: Path, items: Sequence[Item], shard: int = 5, **facts: Any) -> Path:
    """A table of these images, `shard` rows a file."""
    held = [row(item) for item in items]
    names = dict.fromkeys(item.dataset for item in items)
    about = {
        "dataset": next(iter(names)),
        "datasets": {name: {"recipe": "", "irregular": {}, "origin": {}} for name in names},
        "captions": "none",
        "large_count": "vague",
        "seed": 0,
        "hash_spec": hashing.HASH_SPEC,
        "licence": "open",
        "versions": {"rsdata": "0"},
        **facts,
    }
    staging = tables.stage(folder)
    splits: dict[str, Any] = {}
    for split in dict.fromkeys(item.split for item in items):
        rows = [each for each in held if each.split == split]
        parts = [rows[at : at + shard] for at in range(0, len(rows), shard)]
        for number, part in enumerate(parts):
            with tables.shard_writer(staging / f"data/{split}-{number:05d}.parquet", about) as writer:
                for each in part:
                    writer.add(each)
        splits[split] = {"files": tables.shard_names(split, len(parts)), "rows": len(rows)}
    tables.write_rejections(staging / tables.REJECTIONS, [])

    def counts(rows: Iterable[tables.Row]) -> dict[str, Any]:
        rows = list(rows)
        objects = sum(len(each.objects) for each in rows)
        return {
            "images": {
                **{"found": len(rows), "written": len(rows)},
                **{"duplicates": 0, "leaks": 0, "rejected": 0},
            },
            "objects": {"found": objects, "written": objects, "dropped": 0},
            "captions": sum(len(each.captions) for each in rows),
        }

    datasets = {}
    for name in names:
        mine = [each for each in held if each.dataset == name]
        objects = sum(len(each.objects) for each in mine)
        datasets[name] = {**counts(mine), "classes": {"ship": objects} if objects else {}, "paper": {}}
    manifest = {
        "rsdata": about,
        "splits": splits,
        **counts(held),
        "reasons": {"rejected": {}, "dropped": {}, "repaired": {}},
        "datasets": datasets,
    }
    tables.publish(staging, folder, manifest)
    tables.unstage(staging)
    return folder


def decide(
    sources: Path | Sequence[Path],
    against: Path | Sequence[Path] = (),
    lists: Sequence[Path] = (),
    **options: Any,
) -> dedup.Decision:
    sources, against = ([each] if isinstance(each, Path) else each for each in (sources, against))
    opened = [[fingerprints.open_source(path) for path in paths] for paths in (sources, against)]
    return dedup.decide(opened[0], opened[1], dedup.Options(**options), lists)


def told(table: pa.Table) -> dict[str, tuple[Any, ...]]:
    """Of each image that goes: kind, rule, twin's name and distance."""
    return {
        item["image_id"].rpartition("/")[2]: (
            *(item["kind"], item["rule"], item["twin"].rpartition("/")[2]),
            item["distance"],
        )
        for item in table.to_pylist()
    }


def names(path: Path) -> list[str]:
    return sorted(row["image_id"].rpartition("/")[2] for row in rows_of(path))


def run(
    sources: Path | Sequence[Path], output: Path, against: Sequence[Path] = (), **options: Any
) -> dict[str, Any]:
    """Deduplicate; the table that comes out is whole, and told of truly."""
    sources = [sources] if isinstance(sources, Path) else sources
    keep = {key: options.pop(key) for key in ("merge_captions", "workers", "overwrite") if key in options}
    decision = decide(sources, against, **options)
    manifest = clean.clean(sources, output, decision, **keep)
    assert check(output, deep=True) == []
    images = manifest["images"]
    assert images["found"] == sum(images[key] for key in ("written", "duplicates", "leaks", "rejected"))
    objects = manifest["objects"]
    assert objects["found"] == objects["written"] + objects["removed"] + objects["dropped"]
    assert manifest == tables.manifest(output)
    before = sum(tables.manifest(source)["images"]["found"] for source in sources)
    assert images["found"] == before
    return manifest


def copies(number: int) -> list[Item]:
    """A scene and copies of it that should be found, one of them by file, one by pixels."""
    image = scene(number)
    return [
        Item(f"{number}-a", png(image)),
        Item(f"{number}-b", png(image)),
        Item(f"{number}-c", png(image, compress_level=1)),
        Item(f"{number}-d", jpeg(image, 90)),
        Item(f"{number}-e", jpeg(image.resize((224, 224)), 90)),
        Item(f"{number}-f", png(ImageEnhance.Brightness(image).enhance(0.8))),
    ]


def test_copies_go_and_are_told(tmp_path: Path) -> None:
    items = [
        *copies(1),
        *copies(2),
        *(Item(f"other-{number}", jpeg(scene(number))) for number in range(3, 9)),
    ]
    make(tmp_path / "t", items)
    manifest = run(tmp_path / "t", tmp_path / "clean")
    assert names(tmp_path / "clean") == ["1-a", "2-a", *(f"other-{number}" for number in range(3, 9))]
    found = told(pq.read_table(tmp_path / "clean" / tables.REMOVED))
    assert found["1-b"] == ("duplicate", "sha256", "1-a", 0)
    assert found["1-c"] == ("duplicate", "pixels", "1-a", 0)
    for name in ("1-d", "1-e", "1-f"):
        assert found[name][:3] == ("duplicate", "phash", "1-a")
        assert found[name][3] <= 4
    assert manifest["images"] == {"found": 18, "written": 8, "duplicates": 10, "leaks": 0, "rejected": 0}
    assert manifest["dedup"]["duplicates"] == {"sha256": 2, "pixels": 2, "phash": 6}
    assert (
        "10 duplicates and 0 leaks removed (`removed.parquet`)" in (tmp_path / "clean/README.md").read_text()
    )
    (done,) = tables.about(tmp_path / "clean")["dedup"]
    assert done == {"method": "star", "distance": 4, "symmetries": False, "against": []}


def test_which_copy_stays(tmp_path: Path) -> None:
    """Captioned by people, then larger, then of more objects, then the first by id."""
    image, large = scene(1), scene(1).resize((512, 512))
    ranked = [
        Item("e", jpeg(image, 95), captions=("a ship.",), objects=1),
        Item("d", jpeg(large, 95), captions=("a ship.",), source="remoteclip"),
        Item("c", jpeg(image, 94), captions=("Ships.",), source="remoteclip", objects=4),
        Item("b", jpeg(image, 93), objects=3),
        Item("a", jpeg(image, 92), objects=2),
        Item("f", jpeg(image, 91), objects=2),
    ]
    for first in range(len(ranked)):
        items = ranked[first:]
        random.Random(first).shuffle(items)
        make(tmp_path / "t", items)
        run(tmp_path / "t", tmp_path / "clean", overwrite=True)
        assert names(tmp_path / "clean") == [ranked[first].name]


def test_running_twice_removes_nothing_more_and_keeps_the_list(tmp_path: Path) -> None:
    make(tmp_path / "t", [*copies(1), *copies(2)])
    run(tmp_path / "t", tmp_path / "once")
    manifest = run(tmp_path / "once", tmp_path / "twice")
    assert manifest["dedup"]["duplicates"] == {}
    assert manifest["images"]["duplicates"] == 10
    assert rows_of(tmp_path / "once") == rows_of(tmp_path / "twice")
    both = [pq.read_table(tmp_path / name / tables.REMOVED) for name in ("once", "twice")]
    assert both[0].equals(both[1])
    assert len(tables.about(tmp_path / "twice")["dedup"]) == 2


SYMMETRIES = list(Image.Transpose)


def turned_set() -> list[Item]:
    items = [Item(f"{number}", jpeg(scene(number), 95), objects=1) for number in range(4)]
    for number, symmetry in enumerate(SYMMETRIES):
        items.append(Item(f"turned-{symmetry.name}", jpeg(scene(number % 4).transpose(symmetry), 75)))
    return items


def test_turned_copies_go_if_wanted(tmp_path: Path) -> None:
    make(tmp_path / "t", turned_set())
    assert not decide(tmp_path / "t").removed.num_rows
    removed = decide(tmp_path / "t", symmetries=True).removed.to_pylist()
    assert len(removed) == len(SYMMETRIES)
    for item in removed:
        name = item["image_id"].rpartition("-")[2].replace("_", "-").lower()
        assert item["symmetry"] == name.replace("rotate", "rotate")
        assert item["distance"] <= 4
        assert item["view"] == "whole"


def flat(number: int, sigma: float = 2.0) -> Image.Image:
    sea = np.random.default_rng(number).normal((40, 70, 90), sigma, (256, 256, 3))
    return Image.fromarray(sea.clip(0, 255).astype(np.uint8))


def test_flat_images_go_by_pixels_only(tmp_path: Path) -> None:
    levels = {level: png(Image.new("RGB", (256, 256), (level, 60, 90))) for level in range(40, 70)}
    constants = [Item(f"constant-{level}", data) for level, data in levels.items()]
    seas = [Item(f"sea-{number}", jpeg(flat(number))) for number in range(30)]
    again = [Item("again", levels[40]), Item("sea", jpeg(flat(3)))]
    png_of = Item("png", png(Image.open(io.BytesIO(seas[5].data or b"")).convert("RGB")))
    make(tmp_path / "t", [*constants, *seas, *again, png_of])
    decision = decide(tmp_path / "t")
    assert told(decision.removed) == {
        "constant-40": ("duplicate", "sha256", "again", 0),
        "sea-3": ("duplicate", "sha256", "sea", 0),
        "sea-5": ("duplicate", "pixels", "png", 0),
    }
    assert decision.report["flat"] == 63
    assert decide(tmp_path / "t", symmetries=True, distance=8).removed.num_rows == 3


def test_the_papers_method_sees_flat_images_as_one(tmp_path: Path) -> None:
    constants = [Item(f"{level}", png(Image.new("RGB", (64, 64), (level,) * 3))) for level in range(40, 50)]
    make(tmp_path / "t", [*constants, Item("scene", jpeg(scene(1)))])
    manifest = run(tmp_path / "t", tmp_path / "clean", method="paper")
    assert names(tmp_path / "clean") == ["40", "scene"]
    assert manifest["dedup"]["distance"] == 2


def benchmark(tmp_path: Path, name: str = "bench", numbers: Sequence[int] = range(100, 106)) -> Path:
    items = [Item(f"b{number}", jpeg(scene(number), 92), "test", dataset=name) for number in numbers]
    train = [Item(f"t{number}", jpeg(scene(number + 500), 92), dataset=name) for number in numbers]
    return make(tmp_path / name, [*items, *train])


def covered(image: Image.Image) -> Image.Image:
    image = image.copy()
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 232, 256, 256), fill="black")
    pen.text((8, 236), "2019 some imagery provider", fill="white")
    return image


def cropped(share: float) -> Change:
    def change(image: Image.Image) -> Image.Image:
        width, height = image.size
        left, top = round(width * share), round(height * share)
        return image.crop((left, top, width - left, height - top))

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda image: image, "removed"),
        (lambda image: image.resize((200, 200)), "removed"),
        (lambda image: image.transpose(Image.Transpose.ROTATE_90), "removed"),
        (lambda image: image.transpose(Image.Transpose.TRANSVERSE), "removed"),
        (cropped(0.05), "removed"),
        (cropped(0.1), "removed"),
        (lambda image: cropped(0.05)(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT), "removed"),
        (covered, "suspects"),
        (lambda image: image.crop((100, 0, 256, 156)), "nothing"),
    ],
    ids=["recoded", "resized", "turned", "transversed", "cut 5", "cut 10", "cut and flipped", "text", "part"],
)
def test_leaks_and_suspects(tmp_path: Path, change: Change, what: str) -> None:
    leaking = [Item(f"leak-{number}", jpeg(change(scene(number)), 80)) for number in range(100, 106)]
    make(tmp_path / "t", [*leaking, *(Item(f"{number}", jpeg(scene(number))) for number in range(8))])
    before = contents(benchmark(tmp_path))
    decision = decide(tmp_path / "t", tmp_path / "bench")
    lists = {"removed": decision.removed, "suspects": decision.suspects}
    expected = {f"leak-{number}": f"b{number}" for number in range(100, 106)}
    found = {name: {item: held[2] for item, held in told(table).items()} for name, table in lists.items()}
    if what == "suspects":  # and now and then one is near enough to go
        assert len(found["removed"]) <= 2
        found = {"suspects": {**found["removed"], **found["suspects"]}}
    for name, held in found.items():
        assert held == (expected if name == what else {})
    assert contents(tmp_path / "bench") == before
    assert set(decision.removed["benchmark"].to_pylist()) <= {"bench"}
    manifest = run(tmp_path / "t", tmp_path / "clean", [tmp_path / "bench"])
    assert manifest["images"]["leaks"] == decision.removed.num_rows
    assert pq.read_table(tmp_path / "clean" / tables.SUSPECTS).equals(decision.suspects)


def test_the_splits_of_a_benchmark(tmp_path: Path) -> None:
    bench = benchmark(tmp_path)
    make(tmp_path / "t", [Item("test", jpeg(scene(100), 80)), Item("train", jpeg(scene(600), 80))])
    assert told(decide(tmp_path / "t", bench).removed).keys() == {"test"}
    assert told(decide(tmp_path / "t", bench, against_splits=("train",)).removed).keys() == {"train"}
    both = decide(tmp_path / "t", bench, against_splits=("train", "test"))
    assert told(both.removed).keys() == {"test", "train"}
    with pytest.raises(TableError, match="no benchmark has a split 'val'"):
        decide(tmp_path / "t", bench, against_splits=("val",))
    only = make(tmp_path / "only", [Item("x", jpeg(scene(600), 92), dataset="only")])
    assert told(decide(tmp_path / "t", only).removed).keys() == {"train"}


def test_a_table_against_itself_keeps_its_test_split(tmp_path: Path) -> None:
    table = make(
        tmp_path / "t",
        [
            *(Item(f"test-{number}", jpeg(scene(number % 3), 95), "test") for number in range(5)),
            *(Item(f"train-{number}", jpeg(scene(number), 80), captions=("a.",)) for number in range(5)),
        ],
    )
    manifest = run(table, tmp_path / "clean", [table])
    assert names(tmp_path / "clean") == [f"test-{n}" for n in range(5)] + ["train-3", "train-4"]
    assert manifest["images"]["leaks"] == 3
    assert manifest["dedup"]["held_out"] == 5


def test_two_benchmarks_each_have_their_line(tmp_path: Path) -> None:
    one, other = benchmark(tmp_path), benchmark(tmp_path, "second", range(104, 109))
    make(tmp_path / "t", [Item(f"{number}", jpeg(scene(number), 80)) for number in range(98, 110)])
    decision = decide(tmp_path / "t", [one, other])
    lines = {item["benchmark"]: sum(item["removed"].values()) for item in decision.report["leaks"]}
    assert lines == {"bench": 6, "second": 5}
    assert int(decision.goes.sum()) == 9
    manifest = run(tmp_path / "t", tmp_path / "clean", [one, other])
    assert manifest["images"]["leaks"] == 9
    with pytest.raises(TableError, match="give a benchmark once"):
        decide(tmp_path / "t", [one, one])
    (tmp_path / "bench").rename(tmp_path / "third")
    paths = [tmp_path / "third", benchmark(tmp_path, numbers=range(104, 109))]
    lines = decide(tmp_path / "t", paths).report["leaks"]
    assert [item["benchmark"] for item in lines] == list(map(str, paths))


def origin(table: Path, name: str, recipe: str) -> None:
    """Let the table say that it comes from a recipe."""
    held = recipes.load(recipe)
    about = tables.about(table)
    about["datasets"][name] |= {"origin": dict(held.origin), "recipe": held.digest}
    for path in tables.shards(table):
        read = pq.read_table(path)
        metadata = {**(read.schema.metadata or {}), b"rsdata": json.dumps(about).encode()}
        pq.write_table(read.replace_schema_metadata(metadata), path)


def test_tiles_of_one_scene(tmp_path: Path) -> None:
    ours = [
        Item("P0706__1__0___0", jpeg(scene(1)), path="images/P0706__1__0___0.png", dataset="isaid"),
        Item("P0707__1__0___0", jpeg(scene(2)), path="images/P0707__1__0___0.png", dataset="isaid"),
    ]
    theirs = [Item("P0706", jpeg(scene(3)), "val", path="val/images/P0706.png", dataset="dota")]
    make(tmp_path / "isaid", ours)
    make(tmp_path / "dota", theirs)
    assert not decide(tmp_path / "isaid", tmp_path / "dota").removed.num_rows
    for name in ("isaid", "dota"):
        origin(tmp_path / name, name, name)
    found = told(decide(tmp_path / "isaid", tmp_path / "dota").removed)
    assert found == {"P0706__1__0___0": ("leak", "scene", "P0706", None)}


def test_windows_and_frames_of_one_file(tmp_path: Path) -> None:
    ours = [
        Item("a#0,0,9,9", jpeg(scene(1)), path="images/a.tif"),
        Item("f", jpeg(scene(2)), path="film.mov#frame=30"),
        Item("c", jpeg(scene(3)), path="images/c.tif"),
    ]
    theirs = [
        Item("a", jpeg(scene(4)), "test", path="images/a.tif"),
        Item("g", jpeg(scene(5)), "test", path="film.mov#frame=60"),
    ]
    make(tmp_path / "t", ours)
    make(tmp_path / "b", theirs)
    assert not decide(tmp_path / "t", tmp_path / "b").removed.num_rows, "nobody vouches for the paths"
    for name in "tb":
        origin(tmp_path / name, "mine", "loveda")
    assert {item: held[1] for item, held in told(decide(tmp_path / "t", tmp_path / "b").removed).items()} == {
        "a#0,0,9,9": "scene",
        "f": "scene",
    }


def test_one_name_is_a_leak_unless_pixels_contradict(tmp_path: Path) -> None:
    ours = [
        Item("x", jpeg(covered(scene(1)), 60), path="a/Airport_1.tif", dataset="rsitmd"),
        Item("y", jpeg(scene(2)), path="a/airport_2.tif", dataset="rsitmd"),
        Item("z", jpeg(scene(3)), path="a/airport_3.tif", dataset="rsitmd", hashed=False),
        Item("w", jpeg(scene(4)), path="a/airport_4.tif", dataset="rsitmd"),
    ]
    theirs = [
        Item(f"{number}", jpeg(scene(seed)), "test", path=f"b/airport_{number}.jpg", dataset="rsicd")
        for number, seed in ((1, 1), (2, 22), (3, 33))
    ]
    make(tmp_path / "rsitmd", ours)
    make(tmp_path / "rsicd", theirs)
    for name in ("rsitmd", "rsicd"):
        origin(tmp_path / name, name, name)
    decision = decide(tmp_path / "rsitmd", tmp_path / "rsicd")
    assert {name: held[1:3] for name, held in told(decision.removed).items()} == {
        "x": ("name", "1"),
        "z": ("name", "3"),
    }
    assert {name: held[1:3] for name, held in told(decision.suspects).items()} == {"y": ("name", "2")}


def test_footprints_that_overlap(tmp_path: Path) -> None:
    def at(x: float) -> bytes:
        return bytes(to_wkb(box(x, 0, x + 1, 1)))

    ours = [Item(f"{x:g}", jpeg(scene(int(10 * x) + 40)), geometry=at(x)) for x in (0.5, 0.995, 1, 3)]
    make(tmp_path / "t", [*ours, Item("nowhere", jpeg(scene(3)))])
    make(tmp_path / "b", [Item("b", jpeg(scene(4)), "test", geometry=at(0))])
    assert told(decide(tmp_path / "t", tmp_path / "b").removed) == {"0.5": ("leak", "footprint", "b", None)}


def test_fingerprints_serve_as_tables(tmp_path: Path) -> None:
    bench = benchmark(tmp_path)
    make(tmp_path / "t", [*copies(1), *(Item(f"{n}", jpeg(scene(n), 70)) for n in range(98, 103))])
    for name in ("t", "bench"):
        assert fingerprints.write(tmp_path / name, tmp_path / f"{name}.parquet") == len(
            rows_of(tmp_path / name)
        )
    assert (tmp_path / "bench.parquet").stat().st_size < 30_000
    by_table = decide(tmp_path / "t", bench)
    by_file = decide(tmp_path / "t.parquet", tmp_path / "bench.parquet")
    assert by_table.removed.equals(by_file.removed)
    assert by_table.report == by_file.report
    assert "image" not in pq.read_schema(tmp_path / "bench.parquet").names


def test_lists_can_be_replayed(tmp_path: Path) -> None:
    bench = benchmark(tmp_path)
    items = [*copies(1), *(Item(f"{n}", jpeg(scene(n), 70)) for n in range(98, 103))]
    make(tmp_path / "t", items)
    run(tmp_path / "t", tmp_path / "clean", [bench])
    listed = tmp_path / "clean" / tables.REMOVED
    manifest = run(tmp_path / "t", tmp_path / "again", lists=[listed], method="none")
    assert rows_of(tmp_path / "again") == rows_of(tmp_path / "clean")
    assert manifest["images"] == tables.manifest(tmp_path / "clean")["images"]
    assert manifest["dedup"]["listed"]["removed"] == 8
    assert pq.read_table(tmp_path / "again" / tables.REMOVED).equals(pq.read_table(listed))


def test_lists_on_other_tables(tmp_path: Path) -> None:
    """Another name, a recoded image, another picture of the name, a duplicate without its twin."""
    bench = benchmark(tmp_path)
    make(tmp_path / "t", [*copies(1)[:2], *(Item(f"{n}", jpeg(scene(n), 70)) for n in range(100, 104))])
    run(tmp_path / "t", tmp_path / "clean", [bench])
    other = [
        Item("renamed", jpeg(scene(100), 70)),
        Item("101", jpeg(scene(101), 50)),
        Item("102", jpeg(scene(7), 70)),
        copies(1)[1],
    ]
    make(tmp_path / "other", other)
    decision = decide(tmp_path / "other", lists=[tmp_path / "clean" / tables.REMOVED], method="none")
    assert told(decision.removed).keys() == {"renamed", "101"}
    expected = {"removed": 2, "not_here": 1, "other_picture": 1, "without_twin": 1}
    assert decision.report["listed"] == expected
    with pytest.raises(TableError, match="no list of removed images"):
        decide(tmp_path / "t", lists=[tables.shards(bench)[0]])


def test_captions_of_a_twin_are_kept_if_wanted(tmp_path: Path) -> None:
    image = scene(1)
    items = [
        Item("a", jpeg(image.resize((300, 300)), 95), captions=("one", "two")),
        Item("b", jpeg(image, 90), captions=("two", "three")),
        Item("c", jpeg(image, 80), captions=("By rule.",), source="remoteclip"),
        Item("d", jpeg(image.transpose(Image.Transpose.ROTATE_90), 80), captions=("left of it",)),
        Item("e", jpeg(scene(2)), captions=("By rule too.",), source="remoteclip", objects=2),
        Item("f", jpeg(scene(2), 70), captions=("Another rule.",), source="remoteclip"),
    ]
    make(tmp_path / "t", items)
    manifest = run(tmp_path / "t", tmp_path / "clean", symmetries=True, merge_captions=True)
    held = {row["image_id"][-1]: row["captions"] for row in rows_of(tmp_path / "clean")}
    assert held == {"a": ["one", "two", "three"], "e": ["By rule too."]}
    assert manifest["captions"] == 4
    run(tmp_path / "t", tmp_path / "without", symmetries=True)
    assert {row["image_id"][-1]: row["captions"] for row in rows_of(tmp_path / "without")}["a"] == [
        "one",
        "two",
    ]


def test_several_tables_become_one(tmp_path: Path) -> None:
    make(tmp_path / "a", [*copies(1), Item("x", jpeg(scene(5)), "val")], licence="open")
    make(
        tmp_path / "b",
        [Item(f"{n}", jpeg(scene(n), 80), dataset="other") for n in range(4)],
        licence="closed",
    )
    manifest = run([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    assert manifest["images"]["written"] == len(rows_of(tmp_path / "both")) == 5
    about = tables.about(tmp_path / "both")
    assert (about["dataset"], about["licence"]) == ("both", "open; closed")
    assert list(manifest["datasets"]) == ["mine", "other"]
    assert manifest["datasets"]["other"]["images"]["duplicates"] == 1
    assert {path.name for path in (tmp_path / "both/data").iterdir()} == {
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
        "val-00000-of-00001.parquet",
    }


def test_tables_that_do_not_go_together(tmp_path: Path) -> None:
    make(tmp_path / "a", [Item("x", jpeg(scene(5)))])
    make(
        tmp_path / "b", [Item("y", jpeg(scene(6)))], datasets={"mine": {"recipe": "another", "irregular": {}}}
    )
    with pytest.raises(TableError, match="dataset mine is in two tables that were converted differently"):
        run([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    with pytest.raises(TableError, match="'mine/train/x' is given twice"):
        decide([tmp_path / "a", tmp_path / "a"])
    with pytest.raises(TableError, match="is read while the new one is written"):
        clean.clean([tmp_path / "a"], tmp_path / "a", decide(tmp_path / "a"))
    make(tmp_path / "old", [Item("x", jpeg(scene(5)))], hash_spec="of old")
    with pytest.raises(TableError, match="not comparable"):
        fingerprints.open_source(tmp_path / "old")
    make(tmp_path / "bare", [Item("x", None)], hash_spec=None)
    with pytest.raises(TableError, match="it has no hashes"):
        fingerprints.write(tmp_path / "bare", tmp_path / "f.parquet")
    assert decide(tmp_path / "bare").report["unhashed"] == 1
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(TableError, match="neither a table nor a fingerprint file"):
        fingerprints.open_source(tmp_path / "text.parquet")
    with pytest.raises(TableError, match="no such table"):
        fingerprints.open_source(tmp_path / "none")
    with pytest.raises(TableError, match="distance 17"):
        decide(tmp_path / "a", distance=17)
    shard = tables.shards(tmp_path / "a")[0]
    pq.write_table(pq.read_table(shard).replace_schema_metadata(None), tmp_path / "f.parquet")
    with pytest.raises(TableError, match="lacks the rsdata metadata"):
        fingerprints.open_source(tmp_path / "f.parquet")


def test_nothing_left_is_an_error_and_leaves_no_table(tmp_path: Path) -> None:
    bench = benchmark(tmp_path)
    make(tmp_path / "t", [Item("x", jpeg(scene(100)))])
    decision = decide(tmp_path / "t", bench)
    with pytest.raises(RsdataError, match="no image is left"):
        clean.clean([tmp_path / "t"], tmp_path / "clean", decision)
    assert not (tmp_path / "clean" / tables.MANIFEST).exists()
    make(tmp_path / "t", [Item("x", jpeg(scene(100))), Item("y", jpeg(scene(1)))])
    with pytest.raises(TableError, match="changed while it was read"):
        clean.clean([tmp_path / "t"], tmp_path / "clean", decision)


def test_bytes_do_not_depend_on_workers_or_memory(tmp_path: Path) -> None:
    bench = benchmark(tmp_path)
    items = [*copies(1), *copies(2), *(Item(f"{n}", jpeg(scene(n), 70)) for n in range(98, 110))]
    make(tmp_path / "t", items)
    run(tmp_path / "t", tmp_path / "one", [bench])
    run(tmp_path / "t", tmp_path / "two", [bench], workers=2, memory=1)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@cache
def pool() -> list[Item]:
    """Images of which many are near each other, some to a benchmark's."""
    items = [*copies(1), *copies(2), *copies(3)]
    items += [Item(f"sea-{n}", jpeg(flat(n % 3))) for n in range(5)]
    items += [Item(f"leak-{n}", jpeg(scene(n), 60)) for n in range(100, 103)]
    items += [Item(f"turned-{n}", jpeg(scene(n).transpose(Image.Transpose.ROTATE_180))) for n in (1, 101)]
    return [item._replace(objects=place % 3) for place, item in enumerate(items)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_order_and_shards_change_nothing(tmp_path: Path, data: Any) -> None:
    bench = tmp_path / "bench" if (tmp_path / "bench").exists() else benchmark(tmp_path)
    chosen = data.draw(st.lists(st.sampled_from(pool()), min_size=2, unique_by=lambda item: item.name))
    shuffled = data.draw(st.permutations(chosen))
    options: Mapping[str, Any] = {
        "symmetries": data.draw(st.booleans()),
        "method": data.draw(st.sampled_from(["star", "paper", "none"])),
        "memory": data.draw(st.sampled_from([None, 1000])),
    }
    one = make(tmp_path / "one", chosen, data.draw(st.integers(1, 9)))
    other = make(tmp_path / "other", shuffled, data.draw(st.integers(1, 9)))
    first, second = (decide(table, bench, **options) for table in (one, other))
    assert first.removed.equals(second.removed)
    assert first.suspects.equals(second.suspects)
    assert first.merged == second.merged
    kept = {item.name for item in chosen} - told(first.removed).keys()
    if kept:
        left = make(tmp_path / "left", [item for item in chosen if item.name in kept])
        assert not decide(left, bench, **options).removed.num_rows


def test_the_list_has_its_columns(tmp_path: Path) -> None:
    make(tmp_path / "t", copies(1))
    run(tmp_path / "t", tmp_path / "clean")
    assert pq.read_schema(tmp_path / "clean" / tables.REMOVED).equals(removals.REMOVED)


def test_footprints_that_are_none(tmp_path: Path) -> None:
    """Broken WKB, an empty polygon, one that crosses itself."""
    bow = bytes(to_wkb(Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])))
    shapes = [b"no polygon", bytes(to_wkb(Polygon())), bow, bytes(to_wkb(Point(0.5, 0.1)))]
    ours = [Item(f"{n}", jpeg(scene(n)), geometry=shape) for n, shape in enumerate(shapes)]
    theirs = [Item(f"b{n}", jpeg(scene(n + 50)), "test", geometry=shape) for n, shape in enumerate(shapes)]
    make(tmp_path / "t", ours)
    make(tmp_path / "b", theirs)
    assert told(decide(tmp_path / "t", tmp_path / "b").removed) == {"2": ("leak", "footprint", "b2", None)}


@pytest.mark.parametrize(
    "pattern", ["(", "*", "[", "(a+)+$", ".*.*.*x", ".{0,9}.{0,9}.{0,9}", "a|b", "x" * 101]
)
def test_an_origin_that_is_no_pattern(tmp_path: Path, pattern: str) -> None:
    make(tmp_path / "t", [Item("x", jpeg(scene(1)))])
    facts = {"mine": {"recipe": "", "origin": {"family": "f", "scene": pattern}}}
    make(tmp_path / "b", [Item("y", jpeg(scene(2)), "test")], datasets=facts)
    with pytest.raises(TableError, match="pattern"):
        decide(tmp_path / "t", tmp_path / "b")


def strange(table: pa.Table) -> Iterable[pa.Table]:
    """Fingerprint files that somebody else has written."""
    for name, values in {
        "phash": ["x", "y", "z"],
        "image_id": ["a", None, "b"],
        "phashes": [[1], [2], [3]],
        "dhash": [[], None, [1, 2, 3, 4, 5]],
        "low_info": [1.5, None, 3.0],
        "sha256": [b"a", b"b", b"c"],
        "path": [None, "", "/"],
        "split": [None, None, None],
        "width": [-1, None, 2**31 - 1],
        "geometry": [b"", b"x", None],
        "objects": ["many", None, "few"],
    }.items():
        yield table.set_column(table.column_names.index(name), name, pa.array(values))


def test_fingerprints_of_strangers(tmp_path: Path) -> None:
    """Each is read as it is, or refused with the file's name."""
    make(
        tmp_path / "t",
        [Item(f"{n}", jpeg(scene(n)), geometry=bytes(to_wkb(box(n, 0, n + 1, 1)))) for n in range(3)],
    )
    fingerprints.write(tmp_path / "t", tmp_path / "f.parquet")
    whole = pq.read_table(tmp_path / "f.parquet")
    refused: list[str] = []
    for number, table in enumerate(strange(whole)):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(table, path)
        for sources, against in ((path, tmp_path / "t"), (tmp_path / "t", path), (path, path)):
            try:
                decide(sources, against)
            except TableError as error:
                refused.append(str(error))
    assert 10 < len(refused) < 30
    assert [why for why in refused if "image" not in why and ".parquet" not in why] == []


def test_a_flat_copy_of_a_benchmarks_image_is_a_suspect(tmp_path: Path) -> None:
    pale = [
        Image.fromarray((np.asarray(scene(n)) / 32 + 90).round().astype(np.uint8)) for n in range(100, 106)
    ]
    make(tmp_path / "t", [Item(f"{n}", png(image)) for n, image in enumerate(pale)])
    decision = decide(tmp_path / "t", benchmark(tmp_path))
    assert decision.report["flat"] == 6
    assert not decision.removed.num_rows
    assert len(told(decision.suspects)) >= 2
    for name, held in told(decision.suspects).items():
        assert held[1:3] == ("phash", f"b10{name}")


def test_tables_without_anything_to_compare(tmp_path: Path) -> None:
    """Flat, unhashed and unopened images, alone and mixed, on either side, by every method."""
    items = {
        "flat": [Item(f"f{n}", jpeg(flat(n))) for n in range(3)],
        "sharp": [Item("x", jpeg(scene(1)))],
        "unopened": [Item(f"n{n}", None) for n in range(2)],
        "unhashed": [Item("u", jpeg(scene(1)), hashed=False)],
    }
    items["mixed"] = [item for each in items.values() for item in each]
    made = {name: make(tmp_path / name, held) for name, held in items.items()}
    ways: list[dict[str, Any]] = [
        {},
        {"symmetries": True},
        {"method": "paper"},
        {"memory": 1},
        {"method": "none"},
    ]
    equal = {
        ("sharp", "unhashed"): {"x"},
        ("unhashed", "sharp"): {"u"},
        ("mixed", "sharp"): {"u"},
        ("mixed", "unhashed"): {"x"},
    }  # of one file; what has an id of the benchmark stays
    for name, table in made.items():
        for other, bench in made.items():
            for way in ways:
                decision = decide(table, bench, **way)
                assert all(dedup.lines(decision.report))
                leaks = {
                    item["image_id"][-1] for item in decision.removed.to_pylist() if item["kind"] == "leak"
                }
                assert leaks == equal.get((name, other), set()), (name, other, way)
