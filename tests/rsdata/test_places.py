"""Files on a disk, in archives, and behind URLs (a real S3 server on this machine)."""

from __future__ import annotations

import collections
import io
import json
import pickle
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dumps import contents, rows_of, run, sample_dump
from stores import KEYS, upload

from rsdata import caption, clean, dedup, export, fingerprints, places, recipes, stats, validate
from rsdata import convert as flow
from rsdata.cli import main
from rsdata.convert import convert
from rsdata.engine import Engine
from rsdata.errors import RecipeError, RsdataError, TableError, UnfinishedError
from rsdata.files import Dump
from rsdata.shard import Options


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dump")
    sample_dump("dota", folder)
    return folder


@pytest.fixture(scope="module")
def reference(dump: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = tmp_path_factory.mktemp("reference") / "t"
    run("dota", dump, table)
    return table


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def tarred(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for file in sorted(folder.iterdir(), reverse=True):
            archive.add(file, f"./{file.name}")
    return path


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("name", ["dota", "loveda", "ucm", "visdrone", "aid"])
def test_an_archive_is_as_its_folder(pack: Any, name: str, tmp_path: Path) -> None:
    sample_dump(name, tmp_path / "dump")
    source = pack(tmp_path / "dump", tmp_path / f"set.{'zip' if pack is zipped else 'tar'}")
    run(name, tmp_path / "dump", tmp_path / "one")
    for workers in (1, 2):
        run(name, source, tmp_path / str(workers), workers=workers)
        assert contents(tmp_path / str(workers)) == contents(tmp_path / "one")


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize(("name", "tile"), [("yolo", None), ("spacenet", None), ("xview", 32), ("dota", 32)])
def test_readers_that_open_images_or_neighbours(
    pack: Any, name: str, tile: int | None, tmp_path: Path
) -> None:
    """YOLO looks for its names, GeoJSON reads its GeoTIFF; windows are cut from an archive too."""
    recipe = recipes.load(name) if name in recipes.names() else recipes.from_format(name)
    if tile:
        from rsdata.tiles import Tiling

        recipe = recipes.adapted(recipe, None, {}, Tiling(tile))
    sample_dump(recipe, tmp_path / "dump")
    source = pack(tmp_path / "dump", tmp_path / f"set.{'zip' if pack is zipped else 'tar'}")
    run(recipe, tmp_path / "dump", tmp_path / "one")
    run(recipe, source, tmp_path / "two")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_what_leaves_an_archive_is_refused(tmp_path: Path) -> None:
    """Links, absolute paths and those with `..` are told (E27); what is inside is read."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("in/a.txt", "../out.txt", "/etc/passwd", "C:/b.txt"):
            archive.writestr(name, "x")
        link = zipfile.ZipInfo("in/link.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("in/a.txt", "../out.txt", "/in/b.txt"):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
        for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "../../etc/passwd")):
            info = tarfile.TarInfo(f"in/link{kind!r}")
            info.type, info.linkname = kind, target
            archive.addfile(info)
        info = tarfile.TarInfo("in/pipe")
        info.type = tarfile.FIFOTYPE
        archive.addfile(info)
    found = Dump(tmp_path / "a.zip")
    assert found.paths == ["in/a.txt"]
    assert [item.path for item in found.refused] == ["../out.txt", "/etc/passwd", "C:/b.txt", "in/link.txt"]
    found = Dump(tmp_path / "a.tar")
    assert found.paths == ["in/a.txt", "in/b.txt"]
    assert {item.path for item in found.refused} >= {"../out.txt", "in/pipe"}
    assert {item.code for item in found.refused} == {"E27"}
    with pytest.raises(FileNotFoundError):
        (found.root / "../../etc/passwd").read_bytes()


def test_a_member(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/a.txt", b"hello")
        archive.writestr("x/y/b.txt", b"there")
    root = places.root(tmp_path / "a.zip")
    member = root / "x/a.txt"
    assert pickle.loads(pickle.dumps(member)) == member
    assert hash(member) == hash(root / "x" / "a.txt")
    assert (member.name, member.suffix, str(member)) == ("a.txt", ".txt", f"{tmp_path}/a.zip/x/a.txt")
    assert member.parent.parent == root
    assert member.is_relative_to(root)
    assert not root.parent.is_relative_to(root)
    assert [str(path.path) for path in root.glob("*")] == []  # type: ignore[attr-defined]
    assert [path.name for path in member.parent.glob("*.txt")] == ["a.txt"]
    assert member.stat().st_size == 5
    assert member.is_file()
    assert not (root / "x").is_file()
    with member.open("rb") as file:
        file.seek(2)
        assert file.read() == b"llo"
    with places.on_disk(member) as name:
        assert Path(name).read_bytes() == b"hello"
    with pytest.raises(FileNotFoundError):
        (root / "none").stat()


@pytest.mark.parametrize("damage", ["encrypted", "checksum", "cut"])
def test_a_damaged_member_is_rejected(damage: str, dump: Path, tmp_path: Path) -> None:
    source = zipped(dump, tmp_path / "a.zip") if damage != "cut" else tarred(dump, tmp_path / "a.tar")
    data = bytearray(source.read_bytes())
    if damage == "cut":
        with tarfile.open(source) as archive:
            last = max(archive.getmembers(), key=lambda member: member.offset_data * member.isreg())
        source.write_bytes(data[: last.offset_data + 5])
        with pytest.raises(RecipeError, match="cannot be read: unexpected end of data"):
            run("dota", source, tmp_path / "t")
        return
    with zipfile.ZipFile(source) as archive:
        info = archive.getinfo("train/images/train_00001.png")
    if damage == "checksum":
        data[info.header_offset + 80] ^= 0xFF
    else:
        name = b"train/images/train_00001.png"
        for flags in (data.find(name) - 24, data.rfind(name) - 38):
            data[flags] |= 1
    source.write_bytes(data)
    outcome = run("dota", source, tmp_path / "t")
    (lost,) = (item for item in outcome.rejections if item.action == "rejected")
    assert (lost.code, lost.image) == ("E35", "train/images/train_00001.png")


def test_no_archive(tmp_path: Path) -> None:
    for name in ("a.zip", "a.tar"):
        (tmp_path / name).write_bytes(b"no archive at all")
        with pytest.raises(RecipeError, match=f"{name}: cannot be read: "):
            Dump(tmp_path / name)


def test_from_and_to_s3(server: str, dump: Path, reference: Path, tmp_path: Path) -> None:
    """The same bytes, whichever of the two lies where; the command line takes the URLs."""
    upload(dump, "s3://corpus/in/dump")
    words = ["--recipe", "dota", "--workers", "2"]
    for source, table in (
        ("s3://corpus/in/dump", str(tmp_path / "t")),
        (str(dump), "s3://corpus/out/one"),
        ("s3://corpus/in/dump/", "s3://corpus/out/two"),
    ):
        done = CliRunner().invoke(main, ["convert", source, "-o", table, *words])
        assert done.exit_code == 0, done.output
        assert f"{table}: train" in done.output
        assert held(places.place(table)) == contents(reference)
    again = CliRunner().invoke(main, ["convert", str(dump), "-o", "s3://corpus/out/one", *words])
    assert again.exit_code == 1
    assert "s3://corpus/out/one: holds a finished table" in again.output
    again = CliRunner().invoke(
        main, ["convert", str(dump), "-o", "s3://corpus/out/one", *words, "--captions", "none", "--overwrite"]
    )
    assert again.exit_code == 0, again.output
    assert held(places.place("s3://corpus/out/one")).keys() == contents(reference).keys()


def held(url: Path) -> dict[str, bytes]:
    """All that lies below a URL, whether in a folder that we know of or not."""
    if places.is_local(url):
        return contents(url)
    fs, path = url.fs, url.path  # type: ignore[attr-defined]
    return {name.removeprefix(path + "/"): fs.cat_file(name) for name in fs.find(path)}


def test_an_archive_on_s3(server: str, dump: Path, reference: Path, tmp_path: Path) -> None:
    source = places.place("s3://corpus/in/set.zip")
    source.write_bytes(zipped(dump, tmp_path / "set.zip").read_bytes())
    run("dota", source, tmp_path / "t")
    assert contents(tmp_path / "t") == contents(reference)


def test_a_run_to_s3_goes_on(
    server: str, dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "SHARD_ROWS", 1)
    table = places.place("s3://corpus/out/resumed")

    def stop(step: flow.Step) -> None:
        if step.images >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert([dump], table, recipes.load("dota"), Options(), stop)
    assert any(name.startswith(".unfinished/done/") for name in held(table))
    said: list[str] = []
    with pytest.raises(TableError, match=r"differs: options\.seed was 0, is 1"):
        convert([dump], table, recipes.load("dota"), Options(seed=1))
    convert([dump], table, recipes.load("dota"), Options(), say=said.append)
    assert "3 shards of it are done" in said[-1]
    run("dota", dump, tmp_path / "t")
    assert held(table) == contents(tmp_path / "t")


def test_commands_read_and_write_tables_on_s3(server: str, reference: Path, tmp_path: Path) -> None:
    table = upload(reference, "s3://corpus/tables/dota")
    assert stats.audit([table])["images"] == stats.audit([reference])["images"]
    assert validate.check(table, deep=True) == []
    caption.caption(table, places.place("s3://corpus/tables/a2c"), "a2c")
    caption.caption(reference, tmp_path / "a2c", "a2c")
    assert held(places.place("s3://corpus/tables/a2c")) == contents(tmp_path / "a2c")
    export.export(table, tmp_path / "coco", "coco")
    assert (tmp_path / "coco").is_dir()
    sources = [fingerprints.open_source(table)]
    decision = dedup.decide(sources, [fingerprints.open_source(reference)], dedup.Options(), [], print)
    manifest = clean.clean([table], places.place("s3://corpus/tables/clean"), decision, workers=2)
    assert manifest["images"]["written"] == len(rows_of(places.place("s3://corpus/tables/clean")))
    done = CliRunner().invoke(main, ["fingerprint", str(table), "-o", "s3://corpus/tables/dota.parquet"])
    assert done.exit_code == 0, done.output
    assert CliRunner().invoke(main, ["stats", "s3://corpus/tables/dota", "--json"]).exit_code == 0
    done = CliRunner().invoke(main, ["stats", "s3://corpus/tables/nothing"])
    assert (done.exit_code, "not a table" in done.output) == (1, True)


def test_a_server_that_goes_away_stops_the_run(
    dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that fails says nothing of an image: none is rejected, and the run can go on."""
    moto = pytest.importorskip("moto.server")
    boto3, s3fs = pytest.importorskip("boto3"), pytest.importorskip("s3fs")
    held = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    held.start()
    host, port = held.get_host_and_port()
    for key, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(key, value)
    boto3.client("s3").create_bucket(Bucket="gone")
    s3fs.S3FileSystem.clear_instance_cache()  # which holds on to the other server
    source = upload(dump, "s3://gone/dump")
    monkeypatch.setattr(flow, "SHARD_ROWS", 1)
    with pytest.raises(UnfinishedError, match="onnect"):
        convert([source], tmp_path / "t", recipes.load("dota"), Options(), lambda step: held.stop())
    assert not (tmp_path / "t/manifest.json").exists()
    assert list((tmp_path / "t/.unfinished/done").iterdir())
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_url_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RsdataError, match="pip install"):
        places.place("nosuch://bucket/a")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with places.atomic_write(path, "w") as file:
        file.write("船")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "船"
    assert path.stat().st_mode & 0o777 == 0o644

    def fail() -> None:
        with places.atomic_write(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text(encoding="utf-8") == "船"
    assert list(path.parent.iterdir()) == [path]


def test_an_object_appears_whole_or_not_at_all(server: str) -> None:
    path = places.place("s3://corpus/small/a.json")
    with places.atomic_write(path, "w") as file:
        json.dump({"船": 1}, file, ensure_ascii=False)
    assert json.loads(path.read_bytes()) == {"船": 1}

    def fail() -> None:
        with places.atomic_write(path) as file:
            file.write(b"half" * 10_000_000)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert json.loads(path.read_bytes()) == {"船": 1}


def test_what_is_in_hand_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    opens: list[Path] = []
    monkeypatch.setattr(places, "_open", lambda path: opens.append(path) or path.open("rb"))
    with places.held(tmp_path / "a"):
        for _ in range(3):
            with places.opened(tmp_path / "a") as file:
                assert file.read() == b"abc"
    assert len(opens) == 1
    with places.opened(tmp_path / "a") as file:
        assert file.read() == b"abc"
    assert len(opens) == 2


@pytest.mark.parametrize("recipe", ["dota", "loveda", "visdrone", "aid", "ucm"])
def test_an_image_is_opened_once_in_a_run(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample_dump(recipe, tmp_path / "dump")
    counted = opens_of(monkeypatch)
    outcome = run(recipe, tmp_path / "dump", tmp_path / "t", engine=Engine("serial"))
    images = [row["image"]["path"] for row in rows_of(tmp_path / "t")]
    assert len(images) == outcome.manifest["images"]["written"]
    assert {counted[str(tmp_path / "dump" / path)] for path in images} == {1}


def opens_of(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often this process opens each file to read it, from now on."""
    counted: dict[str, int] = collections.Counter()
    true_open = Path.open

    def path_open(path: Path, *arguments: Any, **options: Any) -> Any:
        counted[str(path)] += 1
        return true_open(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", path_open)
    return counted
