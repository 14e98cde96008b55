"""COCO json, 50,000 images / 750,000 boxes with polygons: whole processes beside a floor and a peer.

    python tests/benchmarks/coco.py [--images 50000] [--repeat 3]

The floor is the least that any converter must do: decode the file into typed records (msgspec, polygons
left as text), gather the boxes into columns, write them as Parquet. The peer is Globox, which reads the same
file into its own boxes (it has no Parquet writer); it is left out where it is not installed
(`pip install globox`). Each is a process of its own; the best of `--repeat` runs counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
import tempfile
from pathlib import Path

from measure import measure

FLOOR = """
import gc, sys
gc.disable()
import msgspec, numpy as np, pyarrow as pa, pyarrow.parquet as pq
class Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    width: int
    height: int
class Annotation(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    segmentation: msgspec.Raw
    iscrowd: int = 0
class Category(msgspec.Struct, gc=False):
    id: int
    name: str
class Document(msgspec.Struct, gc=False):
    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]
document = msgspec.json.decode(open(sys.argv[1], "rb").read(), type=Document)
names = {category.id: category.name for category in document.categories}
boxes = np.array([item.bbox for item in document.annotations], dtype=np.float32)
table = pa.table({
    "image": pa.array([item.image_id for item in document.annotations]),
    "label": pa.array([names[item.category_id] for item in document.annotations]).dictionary_encode(),
    **{name: boxes[:, index] for index, name in enumerate(("x", "y", "width", "height"))},
})
pq.write_table(table, sys.argv[2])
"""
GLOBOX = """
import sys
from pathlib import Path

from measure import measure
from globox import AnnotationSet
print(sum(len(item.boxes) for item in AnnotationSet.from_coco(Path(sys.argv[1]))))
"""


def make(path: Path, images: int, boxes: int) -> None:
    """Write the file that all read: boxes with five-point polygons, 15 categories."""
    rng = random.Random(0)
    categories = [{"id": number + 1, "name": f"class-{number}"} for number in range(15)]
    with path.open("w") as file:
        names = ({"id": i, "file_name": f"{i:06d}.jpg", "width": 1024, "height": 1024} for i in range(images))
        file.write(f'{{"images": [{", ".join(map(json.dumps, names))}], ')
        file.write(f'"categories": {json.dumps(categories)}, "annotations": [')
        for number in range(boxes):
            x, y, w, h = (round(rng.uniform(*ends), 2) for ends in ((0, 900), (0, 900), (5, 100), (5, 100)))
            corners = (x, y, x + w / 2, y, x + w, y + h / 2, x + w, y + h, x, y + h)
            annotation = {
                "id": number,
                "image_id": rng.randrange(images),
                "category_id": rng.randrange(15) + 1,
                "bbox": [x, y, w, h],
                "area": round(w * h, 2),
                "iscrowd": 0,
                "segmentation": [[round(value, 2) for value in corners]],
            }
            file.write((", " if number else "") + json.dumps(annotation))
        file.write("]}")


def main() -> None:
    """Measure and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--images", type=int, default=50_000)
    arguments.add_argument("--repeat", type=int, default=3)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        dump, table = Path(scratch, "dump"), Path(scratch, "table")
        dump.mkdir()
        make(dump / "annotations.json", options.images, 15 * options.images)
        source, python = str(dump / "annotations.json"), [sys.executable, "-c"]
        convert = [sys.executable, "-m", "rsdata", "convert", str(dump), "-o", str(table), "--overwrite"]
        convert += ["--format", "coco", "--annotations-only", "--captions"]
        work = {
            "floor: typed decode, columns, Parquet": [*python, FLOOR, source, str(Path(scratch, "floor"))],
            "rsdata convert --captions none": [*convert, "none"],
            "rsdata convert --captions remoteclip": [*convert, "remoteclip"],
        }
        if importlib.util.find_spec("globox"):
            work["Globox: load"] = [*python, GLOBOX, source]
        runs = {name: [measure(command) for _ in range(options.repeat)] for name, command in work.items()}
    floor = min(seconds for seconds, _ in next(iter(runs.values())))
    print(f"{options.images:,} images, {15 * options.images:,} boxes; best of {options.repeat}\n")
    print("| work | seconds | x floor | peak MB |\n|---|---|---|---|")
    for name, measured in runs.items():
        seconds = min(second for second, _ in measured)
        print(f"| {name} | {seconds:.2f} | {seconds / floor:.2f} | {max(peak for _, peak in measured):.0f} |")


if __name__ == "__main__":
    main()
