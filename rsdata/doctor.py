"""What an issue report needs, and what goes wrong on fresh machines: `rsdata doctor`.

Each check is a function that yields lines; what it cannot find out is a line too, never a traceback.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from rsdata.engine import cores

OK, WARNING, FAIL = "ok", "warning", "FAIL"
GIB = 1 << 30
LEAST_MEMORY = 4 * GIB
LEAST_DISK = 10 * GIB
LEAST_FILES = 1024
SELF_TESTS = {"dota": "pixels and Parquet", "spacenet": "GeoTIFF and its place on earth"}
"""Recipes whose sample dumps are converted, and what that tries."""
_MODULES = {
    "opencv-python-headless": "cv2",
    "pillow": "PIL.Image",
    "pycocotools": "pycocotools.mask",
    "pyyaml": "yaml",
}
"""Packages that are imported by another name."""
_TORCH = """
import json, torch
gpus = [torch.cuda.get_device_name(each) for each in range(torch.cuda.device_count())]
bf16 = bool(gpus) and torch.cuda.is_bf16_supported()
print(json.dumps([torch.__version__, torch.version.cuda, gpus, bf16]))
"""


class Line(NamedTuple):
    """One thing that was looked at. state: ok, warning or FAIL; advice: what to do, "" where all is well."""

    what: str
    state: str
    found: str
    advice: str = ""


def check() -> list[Line]:
    """All lines, in the order in which they should be read."""
    return [line for each in CHECKS for line in each()]


def render(lines: list[Line]) -> str:
    """The lines for people: state, what, what was found, and below it what to do."""
    shown = []
    for line in lines:
        shown.append(f"{line.state:<8} {line.what:<23} {line.found}")
        if line.advice:
            shown.append(f"{'':<32} {line.advice}")
    return "\n".join(shown)


def system() -> Iterator[Line]:
    """Python and the machine."""
    yield Line("python", OK, f"{platform.python_version()}, {sys.executable}")
    yield Line("system", OK, f"{platform.platform()}, {platform.machine()}")
    encoding = sys.getfilesystemencoding()
    advice = "" if encoding == "utf-8" else "set LANG=C.UTF-8, or PYTHONUTF8=1: file names may not be read"
    yield Line("file names", WARNING if advice else OK, encoding, advice)


def packages() -> Iterator[Line]:
    """rsdata, and whether each package that it needs can be imported."""
    needed = _requirements().get("", [])
    yield Line("rsdata", OK, f"{_version('rsdata')}, {Path(__file__).parent}")
    for package in needed:
        try:
            importlib.import_module(_MODULES.get(package, package))
        except (ImportError, OSError) as error:  # OSError: a shared library of the system is not there
            yield Line(package, FAIL, str(error), f"pip install --force-reinstall {package}")
        else:
            yield Line(package, OK, _version(package) + _of_gdal(package))


def _of_gdal(package: str) -> str:
    if package != "rasterio":
        return ""
    return f", GDAL {importlib.import_module('rasterio').__gdal_version__}"


def extras() -> Iterator[Line]:
    """Of each extra that users choose, whether it is there, and whole."""
    for extra, needed in _requirements().items():
        if extra in ("", "docs", "dev", "all"):
            continue
        there = [f"{package} {version}" for package in needed if (version := _version(package))]
        install = f"pip install 'rsdata[{extra}]'"
        if not there:
            yield Line(f"extra {extra}", OK, f"not installed ({install})")
        elif missing := [package for package in needed if not _version(package)]:
            yield Line(f"extra {extra}", WARNING, f"without {', '.join(missing)}", install)
        else:
            yield Line(f"extra {extra}", OK, ", ".join(there))


def gpu() -> Iterator[Line]:
    """What torch, if it is there, finds: in a process of its own, as a broken driver may end it."""
    if not _version("torch"):
        return
    words = [sys.executable, "-c", _TORCH]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
        version, cuda, gpus, bf16 = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError) as error:
        said = getattr(error, "stderr", "") or str(error)
        last = str(said).strip().splitlines()[-1:] or ["no answer"]
        yield Line("torch", FAIL, last[0], "see pytorch.org for the build that fits this machine")
        return
    if not gpus and shutil.which("nvidia-smi"):
        advice = "this torch is built without CUDA" if not cuda else "does nvidia-smi show the GPU?"
        yield Line("gpu", WARNING, f"torch {version} sees none", advice)
    elif not gpus:
        yield Line("gpu", OK, f"none (torch {version}): --model rsclip-tiny trains on a CPU")
    elif not bf16:
        yield Line("gpu", WARNING, ", ".join(gpus), "no bf16: train with --precision fp32")
    else:
        yield Line("gpu", OK, f"{', '.join(gpus)}, CUDA {cuda}, bf16")


def resources() -> Iterator[Line]:
    """Cores, memory, disks, open files."""
    yield Line("cores", OK, f"{cores()} of {os.cpu_count()}")
    memory = _memory()
    if memory is not None:
        low = memory < LEAST_MEMORY
        advice = "use --workers 1, and --memory with dedup" if low else ""
        yield Line("memory", WARNING if low else OK, _size(memory), advice)
    for what, folder in (("disk here", Path.cwd()), ("disk of temporaries", Path(tempfile.gettempdir()))):
        yield _disk(what, folder)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rsclip"
    held = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    yield Line("cache of features", OK, f"{cache}, {_size(held)}" if cache.is_dir() else f"{cache}, none yet")
    yield from _open_files()


def _disk(what: str, folder: Path) -> Line:
    free = shutil.disk_usage(folder).free
    where = f"{folder}, {_size(free)} free"
    if not os.access(folder, os.W_OK):
        return Line(what, WARNING, f"{folder}: not writable", "tables must go elsewhere: -o FOLDER")
    if free < LEAST_DISK:
        return Line(what, WARNING, where, "a table takes as much disk as its images")
    return Line(what, OK, where)


def _open_files() -> Iterator[Line]:
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    advice = f"ulimit -n {min(hard, 4096) if hard > 0 else 4096}" if 0 <= soft < LEAST_FILES else ""
    yield Line("open files", WARNING if advice else OK, f"at most {soft}", advice)


def self_tests() -> Iterator[Line]:
    """Sample dumps drawn, converted and read back, in a folder that is removed."""
    from PIL import features

    for codec in ("jpg", "zlib", "libtiff"):
        if not features.check_codec(codec):
            advice = "pip install --force-reinstall pillow"
            yield Line("image files", FAIL, f"pillow has no {codec}", advice)
    for name, what in SELF_TESTS.items():
        with tempfile.TemporaryDirectory() as folder:
            yield _converted(name, what, Path(folder))


def _converted(name: str, what: str, folder: Path) -> Line:
    report = "report this, with all lines above"
    try:
        from rsdata import convert, recipes, samples, validate
        from rsdata.shard import Options

        recipe = recipes.load(name)
        samples.write(recipe, folder / "dump", images=2, size=(64, 64))
        images = convert.convert([folder / "dump"], folder / "table", recipe, Options()).manifest["images"]
        problems = [str(problem) for problem in validate.check(folder / "table", deep=True)]
        if images["written"] != images["found"]:
            problems.append(f"{images['written']} of {images['found']} images were written")
    except Exception as error:  # whatever is broken here is what the report is about
        problems = [f"{type(error).__name__}: {error}"]
    if problems:
        return Line("self-test", FAIL, f"{what}: {problems[0]}", report)
    return Line("self-test", OK, f"{what}: {images['written']} images converted and read back")


CHECKS: tuple[Callable[[], Iterator[Line]], ...] = (system, packages, extras, gpu, resources, self_tests)


def _requirements() -> dict[str, list[str]]:
    """The packages that rsdata states to need, by extra; "" are those that it always needs."""
    needed: dict[str, list[str]] = {"": []}
    for stated in importlib.metadata.requires("rsdata") or []:
        extra = re.search(r"extra == ['\"](\w+)['\"]", stated)
        package = re.match(r"[\w.-]+", stated)
        if package:
            needed.setdefault(extra[1] if extra else "", []).append(package[0])
    return needed


def _version(package: str) -> str:
    """The version of an installed package, else ""."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _memory() -> int | None:
    """Bytes that this process may use: the machine's, or less where a container has a limit."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="utf-8").strip() if limit.is_file() else "max"
    return min(total, int(text)) if text.isdecimal() else total


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
