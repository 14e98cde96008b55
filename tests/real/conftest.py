from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("RSDATA_REAL") or Path(__file__).parents[3] / "shared") / "data"


@pytest.fixture(scope="session")
def real() -> Callable[[str], Path]:
    """real(name): the folder of a genuine dump; the test is skipped where it is absent."""

    def folder(name: str) -> Path:
        if not (ROOT / name).is_dir():
            pytest.skip(f"no {ROOT / name} (set RSDATA_REAL)")
        return ROOT / name

    return folder
