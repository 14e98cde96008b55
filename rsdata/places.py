"""Where files lie: a disk, a URL that fsspec knows (s3://, gs://, hf://, …), a zip or tar archive.

All of them are paths: local ones are pathlib.Path, URLs are UPath, members of an archive are Member, which
has the few methods that reading needs. Only what differs between them is here; annotations say Path for all.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

from rsdata.errors import RecipeError, RsdataError, UnfinishedError

_ZIP, _TAR = (".zip",), (".tar",)
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".gz", ".bz2", ".xz", ".rar", ".7z", ".zst")
_STAMPS = ("ETag", "etag", "oid", "blob_id", "LastModified", "mtime")
"""What stores call that which differs once a file has changed."""
_EXPANDED, _RATIO = 1 << 30, 100
"""A member of a zip archive that expands to more bytes, and by more than so many times, is a bomb."""
_SPOOLED = 64 << 20
"""Bytes of a file from elsewhere that are held in memory; what is larger goes to a file without a name."""


class Entry(NamedTuple):
    """A file: path relative to its root, bytes, and a number that differs once it has changed."""

    path: str
    size: int
    stamp: int


class Temporary(NamedTuple):
    """A file that is being written."""

    descriptor: int
    name: str


def place(text: str | Path) -> Path:
    """The path that a user names. Raises RsdataError where it needs a package that is missing."""
    if isinstance(text, str) and "://" in text and not text.startswith("file://"):
        try:
            from upath import UPath

            url = UPath(text.rstrip("/"), use_listings_cache=False)
            _ = url.fs
        except (ImportError, ValueError) as error:
            raise RsdataError(f"{text}: {error} (pip install 'rsdata[remote]')") from error
        return cast(Path, url)
    return Path(str(text).removeprefix("file://"))


def recipes() -> Path:
    """Where the shipped recipes lie: in the package, or beside it in a checkout."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "recipes"


def is_local(path: Path) -> bool:
    """Whether a path lies on a disk of this machine, or one that it has mounted."""
    return isinstance(path, Path)


def root(source: Path) -> Path:
    """The root of a dump: a folder, or what an archive holds. Raises RecipeError where it is neither."""
    if isinstance(source, Member):
        return cast(Path, source)
    name = source.name.lower()
    try:
        if not source.is_file():
            if source.is_dir():
                return source
            raise RecipeError(f"{source}: no such folder")
        if name.endswith((*_ZIP, *_TAR)):
            opened_archive(source)
            return cast(Path, Member(source, ""))
    except RecipeError:
        raise
    except Exception as error:  # zipfile and tarfile raise whatever a damaged index makes them stumble over
        raise RecipeError(f"{source}: cannot be read: {error}") from error
    if name.endswith(_PACKED):
        raise RecipeError(
            f"{source}: an archive whose files cannot be read one by one: unpack it and name the folder (E28)"
        )
    raise RecipeError(f"{source}: no such folder")


def listing(root: Path) -> Iterator[Entry | tuple[str, str]]:
    """The files below a root that is no local folder; (name, why) for those that are refused (E27)."""
    if isinstance(root, Member):
        yield from opened_archive(root.archive).entries()
        return
    url = cast(Any, root)
    base = url.path.rstrip("/") + "/"
    with remote():
        found = url.fs.find(url.path, detail=True)
    for path, info in found.items():
        seen = next((info[key] for key in _STAMPS if info.get(key)), "")
        yield Entry(path.removeprefix(base), int(info.get("size") or 0), _number(str(seen)))


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha1(text.encode(), usedforsecurity=False).digest()[:7], "big")


class Member:
    """A file or folder in an archive, as much of a Path as reading needs."""

    def __init__(self, archive: Path, path: str) -> None:
        self.archive, self.path = archive, path

    def __reduce__(self) -> tuple[type[Member], tuple[Path, str]]:
        return Member, (self.archive, self.path)

    def __truediv__(self, path: str) -> Member:
        return Member(self.archive, f"{self.path}/{path}".strip("/"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Member) and (self.archive, self.path) == (other.archive, other.path)

    def __hash__(self) -> int:
        return hash((self.archive, self.path))

    def __str__(self) -> str:
        return f"{self.archive}/{self.path}" if self.path else str(self.archive)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.path).name if self.path else self.archive.name

    @property
    def suffix(self) -> str:
        """The extension, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Member:
        """The folder around it; that of the root is `..`, which is nowhere."""
        return Member(self.archive, self.path.rpartition("/")[0] if self.path else "..")

    def is_relative_to(self, other: Member) -> bool:
        """Whether it lies in a folder of the same archive."""
        inside = not other.path or (self.path + "/").startswith(other.path + "/")
        return self.archive == other.archive and inside and self.path != ".."

    def is_dir(self) -> bool:
        """Whether it is the root; other folders are nowhere asked for."""
        return not self.path

    def is_file(self) -> bool:
        """Whether the archive holds such a file."""
        return self.path in opened_archive(self.archive).files

    def glob(self, pattern: str) -> Iterator[Member]:
        """The files right in this folder whose names fit."""
        for path in opened_archive(self.archive).files:
            folder, _, name = path.rpartition("/")
            if folder == self.path and fnmatch.fnmatchcase(name, pattern):
                yield Member(self.archive, path)

    def read_bytes(self) -> bytes:
        """All of the file. Raises OSError."""
        with self.open() as file:
            return file.read()

    def open(self, mode: str = "rb") -> IO[bytes]:
        """The file, to be read. Raises OSError."""
        return opened_archive(self.archive).open(self.path)

    def stat(self) -> os.stat_result:
        """Size and stamp, as far as an archive has them. Raises FileNotFoundError."""
        entry = opened_archive(self.archive).files.get(self.path)
        if entry is None:
            raise FileNotFoundError(2, "no such member", str(self))
        return os.stat_result((stat.S_IFREG, 0, 0, 1, 0, 0, entry[0], 0, entry[1], 0))


class _Archive:
    """The files of an archive: size and stamp by path."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[int, int]] = {}
        self._refused: list[tuple[str, str]] = []

    def entries(self) -> Iterator[Entry | tuple[str, str]]:
        """As `listing`."""
        yield from self._refused
        yield from (Entry(path, size, stamp) for path, (size, stamp) in self.files.items())

    def open(self, path: str) -> IO[bytes]:
        """A copy of a member, to read and seek in. Raises OSError."""
        if path not in self.files:
            raise FileNotFoundError(2, "no such member", path)
        copy = cast(IO[bytes], tempfile.SpooledTemporaryFile(_SPOOLED))  # noqa: SIM115
        self._copy(path, copy)
        copy.seek(0)
        return copy

    def _copy(self, path: str, copy: IO[bytes]) -> None:
        raise NotImplementedError


class _Zip(_Archive):
    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._zip = zipfile.ZipFile(file)
        for info in self._zip.infolist():
            if not info.filename or info.is_dir():
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                self._refused.append((info.filename, "a link in an archive"))
            elif escapes(info.filename):
                self._refused.append((info.filename, "a path that leaves the archive"))
            elif info.file_size > max(_EXPANDED, _RATIO * info.compress_size):
                why = (
                    f"{info.compress_size:,} bytes that expand to {info.file_size:,}: unpack it, if meant so"
                )
                self._refused.append((info.filename, why))
            else:
                self.files[info.filename] = (info.file_size, info.CRC)

    def _copy(self, path: str, copy: IO[bytes]) -> None:
        try:
            with self._zip.open(path) as file:
                shutil.copyfileobj(file, copy, 1 << 20)
        except OSError:
            raise
        except Exception as error:  # damaged, encrypted, or packed by a method that is not known
            raise OSError(f"cannot be read from its archive: {error}") from error


class _Tar(_Archive):
    """Not compressed, so that a member can be read from where it lies."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self._offsets: dict[str, int] = {}
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.size < 0:  # with which the next member would be this one again
                    raise tarfile.ReadError(f"{member.name!r} has a negative size")
                try:
                    safe = tarfile.data_filter(member, "/nowhere")
                except tarfile.FilterError as error:
                    self._refused.append((member.name, f"refused: {error}"))
                    continue
                if member.issym() or member.islnk():
                    self._refused.append((member.name, "a link in an archive"))
                elif member.issparse():
                    self._refused.append((member.name, "a file with holes in an archive: unpack it"))
                elif member.isreg():
                    path = safe.name.removeprefix("./")
                    self.files[path] = (member.size, int(member.mtime))
                    self._offsets[path] = member.offset_data

    def _copy(self, path: str, copy: IO[bytes]) -> None:
        self._file.seek(self._offsets[path])
        left = self.files[path][0]
        while left:
            data = self._file.read(min(left, 1 << 20))
            if not data:
                raise OSError("its archive ends too early")
            copy.write(data)
            left -= len(data)


def escapes(path: str) -> bool:
    """Whether a path from elsewhere, of whatever system, may lead out of the folder that it is meant in."""
    plain = path.replace("\\", "/")
    return plain.startswith("/") or ".." in plain.split("/") or "\0" in path or path[1:2] == ":"


@lru_cache(maxsize=8)
def opened_archive(path: Path) -> _Archive:
    """An archive, indexed once in each process."""
    kind: type[_Zip | _Tar] = _Zip if path.name.lower().endswith(_ZIP) else _Tar
    return kind(path.open("rb"))


class _Held:
    """The file that this process has in hand: asked for again, it is not opened again."""

    path: Path | None = None
    file: IO[bytes] | None = None


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Inside, `opened` opens this file once, however often it is asked for it."""
    _Held.path, _Held.file = path, None
    try:
        yield
    finally:
        if _Held.file is not None:
            _Held.file.close()
        _Held.path = _Held.file = None


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file to read and seek in. Raises OSError."""
    if path != _Held.path:
        with _open(path) as file:
            yield file
        return
    if _Held.file is None:
        _Held.file = _open(path)
    _Held.file.seek(0)
    yield _Held.file


def _open(path: Path) -> IO[bytes]:
    if is_local(path) or isinstance(path, Member):
        return path.open("rb")
    copy = tempfile.SpooledTemporaryFile(_SPOOLED)  # noqa: SIM115  # the caller closes it
    with remote(), path.open("rb") as file:
        shutil.copyfileobj(file, copy, 1 << 20)
    copy.seek(0)
    return cast(IO[bytes], copy)


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """All of a file. Raises OSError, also where it has more than `most` bytes; of a URL that is not asked."""
    if is_local(path) or isinstance(path, Member):
        if most is not None and (size := path.stat().st_size) > most:
            raise OSError(f"{size:,} bytes, expected at most {most:,}")
        return path.read_bytes()
    with remote():
        return bytes(cast(Any, path).fs.cat_file(cast(Any, path).path))


@contextmanager
def remote() -> Iterator[None]:
    """What the packages behind a URL raise becomes UnfinishedError, but for a file that is not there or not
    ours to read: a network that fails says nothing of the file.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError, RsdataError):
        raise
    except Exception as error:
        raise UnfinishedError(f"{type(error).__name__}: {error}") from error


@contextmanager
def on_disk(path: Path) -> Iterator[str]:
    """A name by which libraries that know local files only can open a file.

    What comes from elsewhere is copied to a file without a name, of which nothing stays whatever happens.
    """
    if is_local(path):
        yield str(path)
        return
    with opened(path) as file, tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(file, copy, 1 << 20)
        copy.flush()
        yield f"/dev/fd/{copy.fileno()}"


@contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """A file that appears under `path` whole, or not at all: written beside it, synced, renamed.

    What goes to a URL is gathered in a file without a name, and sent at the end.
    """
    encoding = None if "b" in mode else "utf-8"
    if is_local(path):
        with (
            atomic_path(path) as held,
            open(held.descriptor, mode, encoding=encoding, closefd=False) as file,
        ):
            yield file
    else:
        with tempfile.TemporaryFile() as copy:
            with open(copy.fileno(), mode, encoding=encoding, closefd=False) as file:
                yield file
            copy.seek(0)
            _send(copy, path)


@contextmanager
def atomic_path(path: Path) -> Iterator[Temporary]:
    """As `atomic_write` for a local file: its descriptor, and the name that it has meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        yield Temporary(handle, name)
        os.fsync(handle)
        Path(name).chmod(0o644)
        Path(name).replace(path)
        _sync(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _send(copy: IO[bytes], path: Path) -> None:
    with remote():
        target = path.open("wb")
        try:
            shutil.copyfileobj(copy, target, 1 << 20)
        except BaseException:
            with suppress(Exception):  # what was sent so far must not appear under the name
                cast(Any, target).discard()
                cast(Any, target).closed = True
            raise
        target.close()


def _sync(folder: Path) -> None:
    """Make a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """A folder and those around it; stores without folders need none."""
    if is_local(path):
        path.mkdir(parents=True, exist_ok=True)
    else:
        with suppress(FileExistsError, PermissionError):
            cast(Any, path).fs.makedirs(cast(Any, path).path, exist_ok=True)


def move(path: Path, target: Path) -> None:
    """Rename a file; what has that name is replaced."""
    if is_local(path):
        path.replace(target)
    else:
        with remote():
            cast(Any, path).fs.mv(cast(Any, path).path, cast(Any, target).path)


def remove(path: Path) -> None:
    """Remove a file or folder with all that is in it, if it is there."""
    if is_local(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    else:
        with remote(), suppress(FileNotFoundError):
            cast(Any, path).fs.rm(cast(Any, path).path, recursive=True)


def same(one: Path, other: Path) -> bool:
    """Whether two paths are of one folder."""
    if is_local(one) and is_local(other):
        return one.resolve() == other.resolve()
    return str(one).rstrip("/") == str(other).rstrip("/")


def name(path: Path) -> str:
    """The last part of a path, also of `.`."""
    return path.resolve().name if is_local(path) else path.name


def arrow(path: Path) -> dict[str, Any]:
    """`path` as the arguments that pyarrow.parquet takes: by name, and its filesystem where it has one."""
    if is_local(path):
        return {"source": path}
    return {"source": cast(Any, path).path, "filesystem": cast(Any, path).fs}
