from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from reading import Read, read_written


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """read(module, name, content, nouns, ignored, size, **options), see `reading.read_written`."""
    return partial(read_written, tmp_path)
