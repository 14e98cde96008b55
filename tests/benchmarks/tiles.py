"""A scene of 20,000 x 20,000 pixels cut into windows: seconds and peak memory of `rsdata convert --tile`.

    python tests/benchmarks/tiles.py [--side 20000] [--tile 1024:128]

Two scenes, each a process of its own: a GeoTIFF of three bands of 8 bits with DOTA labels, and one of four
bands of 16 bits, in strips, which must be stretched. The floor is to read each window by rasterio, encode it
as PNG and write the bytes to a file, in one process.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import measure

FLOOR = """
import io, sys
import rasterio
from PIL import Image
from rasterio.windows import Window
import numpy as np
size, step, side = map(int, sys.argv[3:])
starts = [*range(0, side - size, step), side - size]
with rasterio.open(sys.argv[1]) as raster, open(sys.argv[2], "wb") as out:
    for y in starts:
        for x in starts:
            bands = raster.read([1, 2, 3], window=Window(x, y, size, size))
            if bands.dtype != np.uint8:
                bands = (bands / 16).clip(0, 255).astype(np.uint8)
            Image.fromarray(np.moveaxis(bands, 0, -1)).save(out, "PNG", compress_level=1)
"""


def write_scene(path: Path, side: int, bands: int, dtype: str, tiled: bool) -> None:
    import rasterio

    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255 if dtype == "uint8" else 4000, (bands, 500, side)).astype(dtype)
    texture = (texture // 16) * 16
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6)}
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512} if tiled else {"blockysize": 16}
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=bands, dtype=dtype,
        interleave="pixel", compress="lzw", BIGTIFF="YES", **place, **layout,
    ) as raster:  # fmt: skip
        for y in range(0, side, 500):
            window = rasterio.windows.Window(0, y, side, min(500, side - y))
            raster.write(texture[:, : window.height], window=window)


def write_labels(path: Path, side: int, count: int = 20_000) -> None:
    rng = np.random.default_rng(1)
    lines = []
    for x, y, w, h in zip(
        *rng.integers(0, side - 60, (2, count)), *rng.integers(8, 60, (2, count)), strict=True
    ):
        lines.append(f"{x} {y} {x + w} {y} {x + w} {y + h} {x} {y + h} ship 0")
    path.write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--tile", default="1024:128")
    chosen = parser.parse_args()
    size, overlap = (int(part) for part in chosen.tile.split(":"))
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        for name, bands, dtype, tiled in (
            ("8 bits", 3, "uint8", True),
            ("16 bits, 4 bands", 4, "uint16", False),
        ):
            dump = Path(folder) / dtype
            (dump / "images").mkdir(parents=True)
            (dump / "labelTxt").mkdir()
            write_scene(dump / "images/scene.tif", chosen.side, bands, dtype, tiled)
            write_labels(dump / "labelTxt/scene.txt", chosen.side)
            table = str(Path(folder) / f"{dtype}.table")
            ours = ["rsdata", "convert", str(dump), "--format", "dota", "--tile", chosen.tile, "-o", table]
            seconds, memory = measure([*ours, "--workers", "1"])
            scene = str(dump / "images/scene.tif")
            floor = [
                sys.executable,
                "-c",
                FLOOR,
                scene,
                str(Path(folder) / "out"),
                str(size),
                str(size - overlap),
            ]
            least, held = measure([*floor, str(chosen.side)])
            print(f"{name}: {chosen.side}^2 px, tiles {chosen.tile}: {seconds:.1f} s, {memory:.0f} MB; "
                  f"floor {least:.1f} s, {held:.0f} MB; {seconds / least:.2f} x")  # fmt: skip


if __name__ == "__main__":
    main()
