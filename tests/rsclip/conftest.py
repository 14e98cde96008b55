from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from shapes import shape_rows, write_table

import rsclip

PLAIN = """
import json, sys, open_clip, torch
from pathlib import Path
assert not [name for name in sys.modules if name.startswith("rsclip")]
run, configs = sys.argv[1], sys.argv[2]
open_clip.add_model_config(Path(configs))
image = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
def features(name, **options):
    model, _, preprocess = open_clip.create_model_and_transforms(name, **options)
    tokens = open_clip.get_tokenizer(name)(["a ship"])
    model.eval()
    with torch.no_grad():
        return [model.encode_image(image)[0].tolist(), model.encode_text(tokens)[0].tolist(), str(preprocess)]
found = [features(f"local-dir:{run}")]
for way, file in (("weights", "open_clip_model.safetensors"), ("checkpoint", "checkpoint.pt")):
    if way in sys.argv and (Path(run) / file).exists():
        found.append(features("rsclip-tiny", pretrained=f"{run}/{file}"))
print(json.dumps(found))
"""


@pytest.fixture(scope="session")
def in_plain_open_clip() -> Callable[..., Any]:
    """What an interpreter that never saw rsclip makes of a run's folder, by each way of opening it."""

    def opened(run: Path, ways: Sequence[str] = ("local-dir", "weights", "checkpoint")) -> Any:
        configs = Path(rsclip.__file__).parent / "models"
        words = [sys.executable, "-c", PLAIN, str(run), str(configs), *ways]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return opened


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Features that a test keeps by default are kept in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def converted() -> Callable[..., Path]:
    """Makes a table of a dump, by a recipe, as `rsdata convert` does."""
    from rsdata import recipes
    from rsdata.convert import convert
    from rsdata.engine import Engine
    from rsdata.shard import Options

    def made(dump: Path, recipe: str, table: Path, captions: str = "remoteclip") -> Path:
        options = Options(captions=captions, engine=Engine(workers=1))
        convert([dump], table, recipes.load(recipe), options, lambda step: None)
        return table

    return made


@pytest.fixture(scope="session")
def sampled(converted) -> Callable[..., Path]:
    """Makes a table of a sample dump, its images 96 pixels wide; the dump lies beside it."""
    from rsdata import recipes, samples

    def made(recipe: str, table: Path, captions: str = "remoteclip", **options: Any) -> Path:
        dump = table.with_name(f"{table.name}-dump")
        samples.write(recipes.load(recipe), dump, **{"size": (96, 96), "most": 5, **options})
        return converted(dump, recipe, table, captions)

    return made


@pytest.fixture(scope="session")
def counted(converted) -> Callable[..., Path]:
    """Makes a table to count on: an image for each of `held`, of so many objects of a class of DOTA."""

    def made(table: Path, held: Sequence[tuple[str, int]]) -> Path:
        dump = table.with_name(f"{table.name}-dump")
        for part in ("images", "labelTxt"):
            (dump / "val" / part).mkdir(parents=True)
        for place, (raw, number) in enumerate(held):
            picture, lines = Image.new("RGB", (96, 96), (40 + 5 * place, 90, 60)), []
            for x, y in ((8 + 17 * (n % 5), 20 + 40 * (n // 5)) for n in range(number)):
                ImageDraw.Draw(picture).rectangle((x, y, x + 9, y + 9), fill=(200, 200, 40 + 9 * place))
                lines.append(f"{x} {y} {x + 9} {y} {x + 9} {y + 9} {x} {y + 9} {raw} 0\n")
            picture.save(dump / f"val/images/{place:02}.png")
            (dump / f"val/labelTxt/{place:02}.txt").write_text("".join(lines))
        return converted(dump, "remotecount", table, "remotecount")

    return made


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """A table of 48 train and 24 test images, in two shards each."""
    rows = shape_rows(48, "train") + shape_rows(24, "test")
    return write_table(tmp_path_factory.mktemp("shapes") / "table", rows, shards=2)
