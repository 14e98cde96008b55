"""WiSE-FT: between the weights a run started from and those it learnt (Wortsman et al., CVPR 2022)."""

from __future__ import annotations

import tomllib
from pathlib import Path

from rsclip import adapt, model, run
from rsdata.errors import RsdataError


def wise_ft(folder: Path, output: Path, alpha: float) -> None:
    """Write (1 - alpha) of the start and alpha of the end of the run in `folder` to the folder `output`.

    Raises RsdataError where `folder` is no finished run, its start can no longer be loaded,
    or `output` is taken.
    """
    if (output / model.WEIGHTS).exists():
        raise RsdataError(f"{output}: already holds a model; name another folder")
    try:
        options = tomllib.loads((folder / run.CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RsdataError(f"{folder}: not the folder of a run: {error}") from error
    end = model.load(folder)
    if not options.get("pretrained") and not options["model"].startswith("local-dir:"):
        raise RsdataError(f"{folder}: started from random weights: there is nothing to blend with")
    start = model.create(
        options["model"], options.get("pretrained"), options.get("quick-gelu"), options.get("image-size")
    )
    end.model.load_state_dict(adapt.interpolate(start.model.state_dict(), end.model.state_dict(), alpha))
    model.save(output, end)
