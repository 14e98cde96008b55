from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
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
def _two_threads():
    import torch

    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """A table of 48 train and 24 test images, in two shards each."""
    rows = shape_rows(48, "train") + shape_rows(24, "test")
    return write_table(tmp_path_factory.mktemp("shapes") / "table", rows, shards=2)
