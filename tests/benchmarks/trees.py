"""Annotations alone: COCO, VOC and DOTA to tables, beside Datumaro, Globox and Supervision in the same run.

    python tests/benchmarks/trees.py [--peers PYTHON] [--repeat 3] [--only coco,voc,dota]

One COCO json of 50,000 images / 750,000 boxes with polygons, and trees of 20,000 files / 300,000 boxes in VOC
xml and DOTA txt. Each line is a process of its own, from its start to its end; the best of `--repeat` runs
counts for us, one run for peers. --peers: the Python in which these are installed, if not this one.

rsdata writes tables (`--annotations-only --captions none`); peers convert to what they can write. Datumaro's
DOTA writers write nothing of these files, so its reading alone is what ours is compared with.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from coco import make as make_coco
from measure import Measured, measure
from PIL import Image

NAMES = [f"class-{number}" for number in range(15)]

GLOBOX_COCO = """
import sys
from pathlib import Path
from globox import AnnotationSet
found = AnnotationSet.from_coco(Path(sys.argv[1], "annotations.json"))
out = Path(sys.argv[2]); out.mkdir()
found.save_yolo_v5(out, label_to_id={name: at for at, name in enumerate(sorted(found._labels()))})
"""
GLOBOX_VOC = """
import sys
from pathlib import Path
from globox import AnnotationSet
found = AnnotationSet.from_pascal_voc(Path(sys.argv[1], "Annotations"))
found.save_coco(Path(sys.argv[2]), auto_ids=True)
"""
DATUMARO = """
import sys
from datumaro.components.dataset import Dataset
found = Dataset.import_from(sys.argv[1], {kind!r})
found.export(sys.argv[2], {to!r}, save_media=False)
"""
DATUMARO_READ = """
import sys
from datumaro.components.dataset import Dataset
print(sum(len(item.annotations) for item in Dataset.import_from(sys.argv[1], {kind!r})))
"""
SUPERVISION_VOC = """
import sys
import supervision as sv
found = sv.DetectionDataset.from_pascal_voc(sys.argv[1] + "/JPEGImages", sys.argv[1] + "/Annotations")
found.as_coco(annotations_path=sys.argv[2])
"""


def boxes(rng: random.Random, count: int) -> list[tuple[int, int, int, int]]:
    """xmin, ymin, xmax, ymax in an image of 1024 pixels."""
    found = []
    for _ in range(count):
        x, y = rng.randrange(900), rng.randrange(900)
        found.append((x, y, x + rng.randrange(5, 100), y + rng.randrange(5, 100)))
    return found


def link_image(path: Path) -> None:
    """An image of a few pixels: peers ask for one, and some open it."""
    first = path.parent.parent / "image"
    if not first.exists():
        Image.new("RGB", (8, 8)).save(first, "JPEG")
    path.hardlink_to(first)


def make_voc(root: Path, files: int) -> None:
    """Annotations/*.xml, JPEGImages, and what Datumaro asks for beside them."""
    rng = random.Random(1)
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for number in range(files):
        objects = "".join(
            f"<object><name>{rng.choice(NAMES)}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>0</difficult><bndbox><xmin>{a + 1}</xmin><ymin>{b + 1}</ymin><xmax>{c}</xmax>"
            f"<ymax>{d}</ymax></bndbox></object>\n"
            for a, b, c, d in boxes(rng, 15)
        )
        (root / f"Annotations/{number:06d}.xml").write_text(
            f"<annotation><folder>x</folder><filename>{number:06d}.jpg</filename>\n"
            "<size><width>1024</width><height>1024</height><depth>3</depth></size>\n"
            f"<segmented>0</segmented>\n{objects}</annotation>\n"
        )
        link_image(root / f"JPEGImages/{number:06d}.jpg")
    names = "".join(f"{number:06d}\n" for number in range(files))
    (root / "ImageSets/Main/train.txt").write_text(names)
    (root / "labelmap.txt").write_text("".join(f"{name}:::\n" for name in NAMES))


def make_dota(root: Path, files: int) -> None:
    """train/labelTxt/*.txt with the two header lines, oriented quadrilaterals."""
    rng = random.Random(2)
    folder = root / "train/labelTxt"
    folder.mkdir(parents=True)
    (root / "train/images").mkdir()
    for number in range(files):
        lines = ["imagesource:GoogleEarth", "gsd:0.5"]
        for a, b, c, d in boxes(rng, 15):
            half = (a + c) / 2
            quad = (half, b, c, (b + d) / 2, half, d, a, (b + d) / 2)
            lines.append(f"{' '.join(f'{value:.1f}' for value in quad)} {rng.choice(NAMES)} {number % 2}")
        (folder / f"P{number:05d}.txt").write_text("\n".join(lines) + "\n")
        link_image(root / f"train/images/P{number:05d}.jpg")


def main() -> None:
    """Measure and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--peers", default=sys.executable)
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument("--only", default="coco,voc,dota")
    arguments.add_argument("--scale", type=float, default=1.0)
    arguments.add_argument("--json", type=Path)
    options = arguments.parse_args()
    found: dict[str, dict[str, Measured]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind in options.only.split(","):
            found[kind] = measured(kind, Path(scratch, kind), options)
    for kind, runs in found.items():
        ours = next(iter(runs.values()))
        print(f"\n{kind}\n\n| work | seconds | x ours | peak MB | x ours |\n|---|---|---|---|---|")
        for name, run in runs.items():
            times = f"{run.seconds:.2f} | {run.seconds / ours.seconds:.1f}"
            print(f"| {name} | {times} | {run.peak:.0f} | {run.peak / ours.peak:.1f} |", flush=True)
    if options.json:
        options.json.write_text(
            json.dumps({kind: {k: v._asdict() for k, v in runs.items()} for kind, runs in found.items()})
        )


def measured(kind: str, root: Path, options: argparse.Namespace) -> dict[str, Measured]:
    """All runs of one kind of annotations, ours first."""
    dump = root / "dump"
    dump.mkdir(parents=True)
    if kind == "coco":
        make_coco(dump / "annotations.json", int(50_000 * options.scale), int(750_000 * options.scale))
    else:
        (make_voc if kind == "voc" else make_dota)(dump, int(20_000 * options.scale))
    convert = [sys.executable, "-m", "rsdata", "convert", str(dump), "--format", kind, "--annotations-only"]
    convert += ["--captions", "none", "--overwrite", "-o", str(root / "table")]
    ours = {
        f"rsdata, --workers {workers}": min(
            measure([*convert, "--workers", str(workers)]) for _ in range(options.repeat)
        )
        for workers in (2, 1)
    }
    peer = [options.peers, "-c"]
    scripts = {
        "coco": {
            "Globox: to YOLO": GLOBOX_COCO,
            "Datumaro: to YOLO": DATUMARO.format(kind="coco", to="yolo"),
        },
        "voc": {
            "Globox: to COCO": GLOBOX_VOC,
            "Datumaro: to COCO": DATUMARO.format(kind="voc", to="coco"),
            "Supervision: to COCO": SUPERVISION_VOC,
        },
        "dota": {"Datumaro: read alone": DATUMARO_READ.format(kind="dota")},
    }
    for number, (name, script) in enumerate(scripts[kind].items()):
        source = dump
        if name.startswith("Datumaro") and kind == "coco":
            source = root / "coco-layout"
            (source / "annotations").mkdir(parents=True)
            (source / "images/train").mkdir(parents=True)
            (source / "annotations/instances_train.json").symlink_to(dump / "annotations.json")
        try:
            ours[name] = measure([*peer, script, str(source), str(root / f"out-{number}")])
        except subprocess.CalledProcessError as error:
            print(f"{kind}: {name}: failed with {error.returncode}", file=sys.stderr)
    return ours


if __name__ == "__main__":
    main()
