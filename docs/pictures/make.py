"""Make the pictures of the documents anew: python docs/pictures/make.py

report.jpg: two places of the page that `rsdata stats --html` writes of sample dumps of several recipes, some
of whose files are damaged, deduplicated against a benchmark. Needs chromium and
chromedriver.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from selenium import webdriver

HERE = Path(__file__).parent
SAMPLES = {"rsicd": 60, "dota": 80, "visdrone": 60, "loveda": 40, "dior": 60}
SIZE = (960, 1330)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
)  # fmt: skip


def rsdata(*arguments: object, where: Path | None = None) -> None:
    """Run the command, in a folder."""
    command = [sys.executable, "-m", "rsdata", *map(str, arguments)]
    subprocess.run(command, cwd=where, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def corpus(folder: Path) -> Path:
    """A clean table of all samples: with losses, duplicates and leaks to tell of."""
    for name, images in SAMPLES.items():
        raw = folder / "raw" / name
        rsdata("sample", name, raw, "--images", images, "--size", "320x256", "--objects", 14)
        if name == "dota":
            for path in sorted(raw.rglob("*.png"))[:3]:
                path.write_bytes(path.read_bytes()[:3000])
            for path in sorted(raw.rglob("*.txt"))[5:12]:
                path.write_text(path.read_text() + "900 900 950 900 950 950 900 950 ship 0\nno numbers\n")
        rsdata("convert", raw, "--recipe", name, "-o", folder / "tables" / name)
    copy = folder / "tables" / "copy"
    rsdata(
        "convert",
        folder / "raw" / "rsicd",
        "--recipe",
        "rsicd",
        "--split",
        "test",
        "--name",
        "mine",
        "-o",
        copy,
    )
    tables = sorted((folder / "tables").iterdir())
    clean = folder / "corpus"
    rsdata("dedup", *tables, "-o", clean, "--against", folder / "tables" / "rsicd")
    return clean


def screenshots(page: Path, *places: str) -> Iterator[Image.Image]:
    """What a browser shows at some places of a page."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in (*FLAGS, f"--window-size={SIZE[0]},{SIZE[1]}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.get(page.as_uri())
    for place in places:
        driver.execute_script("document.getElementById(arguments[0]).scrollIntoView()", place)
        time.sleep(1)  # pictures that come into view are decoded
        with Image.open(io.BytesIO(driver.get_screenshot_as_png())) as image:
            yield image.convert("RGB")
    driver.quit()


def main() -> None:
    """Write report.jpg."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page = folder / "corpus.html"
        rsdata("stats", corpus(folder).name, "--html", page, where=folder)
        shots = list(screenshots(page, "overview", "gallery"))
        wide, high = shots[0].size
        both = Image.new("RGB", (2 * wide + 24, high), "#b8c0c6")
        for number, shot in enumerate(shots):
            both.paste(shot, (number * (wide + 24), 0))
        both = both.resize((1400, round(1400 * both.height / both.width)), Image.Resampling.LANCZOS)
        both.save(HERE / "report.jpg", quality=82, optimize=True)


if __name__ == "__main__":
    main()
