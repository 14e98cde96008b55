"""WiSE-FT: between the weights a run started from and those it learnt (Wortsman et al., CVPR 2022)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from rsclip import adapt, guard, model, run, train
from rsclip.config import Config, options
from rsdata.errors import RsdataError


def wise_ft(folder: Path, output: Path, alpha: float) -> None:
    """Write (1 - alpha) of the start and alpha of the end of the run in `folder` to the folder `output`.

    Raises RsdataError where `folder` is no finished run, its start can no longer be loaded, or `output` is
    taken.
    """
    if (output / model.WEIGHTS).exists():
        raise RsdataError(f"{output}: already holds a model; name another folder")
    try:
        config = Config(**options(folder / run.CONFIG))
        about = json.loads((folder / run.ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RsdataError(f"{folder}: not the folder of a run: {error}") from error
    if not config.pretrained and not config.model.startswith("local-dir:"):
        raise RsdataError(f"{folder}: started from random weights: there is nothing to blend with")
    end, start = model.load(folder), train.built(config)
    blend = adapt.interpolate(start.model.state_dict(), end.model.state_dict(), alpha)
    end.model.load_state_dict(blend)
    how = f"WiSE-FT: {alpha:g} of what the run learnt, {1 - alpha:g} of what it started from."
    run.save_model(output, end, config, about, None, how)
    # What it was trained on, for the leak guard.
    shutil.copyfile(folder / run.ABOUT, output / run.ABOUT)
    if (folder / guard.FINGERPRINTS).is_dir():
        shutil.copytree(folder / guard.FINGERPRINTS, output / guard.FINGERPRINTS)
