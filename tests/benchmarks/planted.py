"""Which copies of real images are found, beside imagehash, pdqhash and imagededup on the same files.

    python tests/benchmarks/planted.py [--root ../shared/data]      (pip install pdqhash imagededup)

Each tile is changed and looked for among the originals: by the default search against a benchmark (removed;
removed or suspect), and by each peer with the distance that its authors recommend or have as default. Percent
of the tiles that are not flat, and by ours of the flat ones; last, false pairs among the originals, which are
all distinct.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "real"))
import planted

Bits = np.ndarray[Any, np.dtype[np.bool_]]


def peers() -> dict[str, tuple[Any, int]]:
    """name: (function of an image that gives bits, distance)."""

    def by_imagehash(function: Any, **options: Any) -> Any:
        return lambda image: function(image, **options).hash.ravel()

    found = {
        "imagehash phash ≤ 4": (by_imagehash(imagehash.phash), 4),
        "imagehash dhash ≤ 4": (by_imagehash(imagehash.dhash), 4),
    }
    try:
        import pdqhash

        found["pdqhash ≤ 31"] = (
            lambda image: pdqhash.compute(np.asarray(image.convert("RGB")))[0].astype(bool),
            31,
        )
    except ImportError:
        print("no pdqhash", file=sys.stderr)
    try:
        from imagededup.methods import PHash

        method = PHash(verbose=False)

        def encoded(image: Image.Image) -> Bits:
            text = method.encode_image(image_array=np.asarray(image.convert("RGB")))
            return np.array([int(bit) for bit in f"{int(text, 16):064b}"], bool)

        found["imagededup PHash ≤ 10"] = (encoded, 10)
    except ImportError:
        print("no imagededup", file=sys.stderr)
    return found


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--root", type=Path, default=Path(__file__).parents[3] / "shared/data")
    root = options.parse_args().root
    tools = peers()
    for title, images in (
        ("tiles of 200 to 500 px", planted.tiles(root)),
        ("EuroSAT, 64 px", planted.small(root)),
    ):
        table(title, images, tools)


def table(title: str, images: list[Image.Image], tools: dict[str, tuple[Any, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = [planted.hashed(image.copy()) for image in images]
        flat = np.array([each.low_info for each in found])
        originals = planted.fingerprint(folder / "originals.parquet", "originals", found)
        theirs = {
            tool: np.stack([function(image) for image in images]) for tool, (function, _) in tools.items()
        }
        print(f"\n{title}: {len(images)}, of them {flat.sum()} flat\n")
        print("| change | removed | or suspect | flat: removed | " + " | ".join(tools) + " |")
        print("|---|" + "---|" * (3 + len(tools)))
        wrong = 0
        for change, function in planted.CHANGES.items():
            copies = [function(image) for image in images]
            told = planted.found([planted.hashed(image) for image in copies], originals, folder)
            wrong += len(told["wrong"])
            cells = []
            for held in (told["removed"], told["removed"] | told["suspect"]):
                cells.append(np.mean([number in held for number in np.flatnonzero(~flat)]))
            cells.append(
                np.mean([number in told["removed"] for number in np.flatnonzero(flat)]) if flat.any() else 0
            )
            for tool, (encode, distance) in tools.items():
                bits = np.stack([encode(image) for image in copies])
                cells.append(((bits != theirs[tool]).sum(axis=1) <= distance)[~flat].mean())
            print(f"| {change} | " + " | ".join(f"{100 * cell:.1f}" for cell in cells) + " |")
        cells = [f"{planted.merged(found, folder)}", f"{wrong} laid to another tile", ""]
        for tool, (_, distance) in tools.items():
            apart = (theirs[tool][:, None] != theirs[tool][None]).sum(axis=2) <= distance
            cells.append(f"{(apart.sum() - len(images)) // 2}")
        print("| false pairs | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
