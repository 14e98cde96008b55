"""Tasks on every engine: results in order, workers that die, tasks that always kill them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from rsdata import engine
from rsdata.engine import ATTEMPTS, Engine, map_tasks
from rsdata.errors import RsdataError, TableError, UnfinishedError

WORKERS = Engine(workers=2)


class Work(NamedTuple):
    """folder: where each run of it is noted. die: how often it kills its worker; late: seconds it takes."""

    number: int
    folder: Path
    die: int = 0
    late: float = 0.0


def square(work: Work) -> int:
    (work.folder / f"{work.number}-{time.monotonic_ns()}").touch()
    if len(runs(work.folder, work.number)) <= work.die:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(work.late)
    return work.number**2


def runs(folder: Path, number: int) -> list[Path]:
    return list(folder.glob(f"{number}-*"))


def fail(number: int) -> int:
    if number == 3:
        raise TableError("three")
    return number


def process_of(number: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("held", [Engine("serial", 4), Engine(workers=1), WORKERS, Engine(workers=5)])
def test_results_come_in_the_order_of_the_tasks(held: Engine, tmp_path: Path) -> None:
    tasks = [Work(number, tmp_path, late=0.05 if number % 3 == 0 else 0) for number in range(12)]
    assert list(map_tasks(square, iter(tasks), held)) == [number**2 for number in range(12)]
    assert list(map_tasks(square, [], held)) == []


def test_tasks_are_drawn_only_a_few_ahead() -> None:
    drawn = []

    def tasks() -> object:
        for number in range(1000):
            drawn.append(number)
            yield number

    results = map_tasks(process_of, tasks(), WORKERS)  # type: ignore[arg-type]
    assert next(results) != os.getpid()
    assert len(drawn) < 200  # 3, and what one worker does while the other is still starting
    results.close()  # type: ignore[attr-defined]


def test_a_worker_that_dies_costs_nothing(tmp_path: Path) -> None:
    tasks = [Work(number, tmp_path, die=number % 4 == 1) for number in range(10)]
    assert list(map_tasks(square, tasks, WORKERS)) == [number**2 for number in range(10)]
    assert len(runs(tmp_path, 1)) >= 2


def test_a_task_that_always_kills_is_set_aside_and_the_others_are_done(tmp_path: Path) -> None:
    tasks = [Work(number, tmp_path, die=99 if number == 2 else 0) for number in range(8)]
    results: list[int] = []
    with pytest.raises(UnfinishedError, match="each time it had task 2: out of memory"):
        results.extend(map_tasks(square, tasks, WORKERS, name=lambda work: f"task {work.number}"))
    assert results == [number**2 for number in range(8) if number != 2]
    assert len(runs(tmp_path, 2)) == ATTEMPTS + 1  # once among others, then alone


def test_a_machine_on_which_everything_dies_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_MOST_ASIDE", 1)
    tasks = [Work(number, tmp_path, die=99) for number in range(50)]
    with pytest.raises(UnfinishedError, match="died"):
        list(map_tasks(square, tasks, WORKERS))
    assert len(list(tmp_path.iterdir())) < 20


def test_a_task_is_revised(tmp_path: Path) -> None:
    """What revise makes of it is tried next, and it is told how many workers died alone with it."""
    told = []

    def revise(work: Work, deaths: int) -> Work | None:
        told.append(deaths)
        return work._replace(die=0) if deaths == 2 else work

    tasks = [Work(number, tmp_path, die=99 if number == 1 else 0) for number in range(4)]
    assert list(map_tasks(square, tasks, WORKERS, revise)) == [0, 1, 4, 9]
    assert told == [1, 2]


@pytest.mark.parametrize("held", [Engine("serial"), WORKERS])
def test_an_error_ends_it_at_once(held: Engine) -> None:
    with pytest.raises(TableError, match="three"):
        list(map_tasks(fail, range(1000), held))


def test_ray_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RsdataError, match=r"pip install 'rsdata\[ray\]'"):
        list(map_tasks(fail, [1, 2], Engine("ray")))


def test_a_cluster_that_is_not_there() -> None:
    with pytest.raises(RsdataError, match=r"nobody listens at 127\.0\.0\.1:1"):
        engine._check_listening("127.0.0.1:1")
    engine._check_listening("auto")


_PARENT = """
import sys, time
from pathlib import Path
from rsdata.engine import Engine, map_tasks
sys.path.insert(0, {tests!r})
from test_engine import Work, square
tasks = [Work(number, Path({folder!r}), late=60) for number in range(4)]
if __name__ == "__main__":
    list(map_tasks(square, tasks, Engine(workers=2)))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_started_them(number: int, tmp_path: Path) -> None:
    """Also where it is killed alone, without a chance to tell them."""
    script = tmp_path / "parent.py"
    script.write_text(_PARENT.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    with subprocess.Popen([sys.executable, script], start_new_session=True) as parent:
        for _ in range(300):
            if runs(tmp_path, 0) and runs(tmp_path, 1):
                break
            time.sleep(0.1)
        assert alive(parent.pid) >= 3
        parent.send_signal(number)
        parent.wait()
    for _ in range(100):
        if not alive(parent.pid):
            return
        time.sleep(0.1)
    os.killpg(parent.pid, signal.SIGKILL)
    pytest.fail("workers are left")


def alive(group: int) -> int:
    """Processes of a group that have not ended."""
    count = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        count += int(fields[2]) == group and fields[0] != "Z"
    return count
