"""A small part of the campaign in each run of the tests: see campaign.py, and run.py for the whole."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import campaign
import mutate

from rsdata import formats

INPUTS = 45


@pytest.mark.slow
@pytest.mark.parametrize("name", formats.names())
def test_damaged_files_of_every_format(name: str) -> None:
    held = campaign.Campaign(name, seed=1)
    try:
        report = held.run(0, INPUTS)
    finally:
        held.close()
    assert report.failures == []
    assert report.inputs == INPUTS
    assert report.rejected + report.dropped + report.refused > 0


@pytest.mark.parametrize("name", formats.names())
def test_an_input_follows_from_its_number(name: str) -> None:
    held = campaign.Campaign(name, seed=1)
    assert [held.input(number) for number in range(3)] == [held.input(number) for number in range(3)]
    held.close()


def test_the_oracle_sees_a_file_outside_being_read_and_written(tmp_path: Path) -> None:
    held = campaign.Campaign("dota")
    secret = held.work / "outside/secret.txt"
    for touch in (secret.read_bytes, (tmp_path / "new").touch):
        with held.watch.on():
            touch()
        with pytest.raises(campaign.BrokenError, match="outside"):
            held.watch.check()
    held.close()


def test_damages_change_files() -> None:
    text = b'{"images": [{"id": 1, "name": "a.png", "bbox": [1, 2.5, 30, 4]}]}'
    changed = {mutate.mutated(text, random.Random(number)) for number in range(200)}
    assert len(changed) > 150
