"""Map a function over tasks: in this process, in processes of this machine, or on a Ray cluster.

State lives in the files that tasks write, never here: a task may run twice, and its second run gives the same
file as the first. So a worker that dies (killed for memory, crashed in a decoder) costs one task, which is
tried again; the results come in the order of the tasks, whoever computed them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from rsdata.errors import RsdataError, UnfinishedError

if TYPE_CHECKING:
    from concurrent.futures import Future
    from multiprocessing.connection import Connection

Task = TypeVar("Task")
Result = TypeVar("Result")

ENGINES = ("process", "ray", "serial")
ATTEMPTS = 3
"""How often a task may take its worker along before it is set aside."""
_MOST_ASIDE = 10
"""Tasks that may be set aside before that is taken for a fault of the machine."""
_REACHED = 10.0
"""Seconds in which a cluster must answer."""
_WAIT = 60.0
"""Seconds that a Ray cluster may have no processor at all before that is an error."""


@dataclass(frozen=True)
class Engine:
    """Where tasks run. workers: processes; of a cluster, what it has counts instead.

    address: of a running Ray cluster ("auto", "HOST:PORT"); without it Ray starts on this machine.
    """

    name: str = "process"
    workers: int = 1
    address: str | None = None


class _Try(NamedTuple, Generic[Task]):
    """A task that is run. deaths: of workers that had nothing else."""

    number: int
    task: Task
    deaths: int = 0


class _WithoutPandas(MetaPathFinder):
    """Says that there is no pandas."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Find nothing, and end the search where the module is pandas."""
        if name == "pandas":
            raise ModuleNotFoundError(name)


def without_pandas() -> None:
    """Keep pandas out of this process: pyarrow imports it with its first array, which takes half a second."""
    sys.meta_path.insert(0, _WithoutPandas())


def cores() -> int:
    """The cores that this process may use, which on a shared machine are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def give_up(task: Task, deaths: int) -> Task | None:
    """What `map_tasks` does by itself with a task whose workers died: another go, then set it aside."""
    return task if deaths < ATTEMPTS else None


def map_tasks(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    engine: Engine,
    revise: Callable[[Task, int], Task | None] = give_up,
    name: Callable[[Task], str] = str,
) -> Generator[Result, None, None]:
    """The results of `function` in the order of `tasks`, which are drawn only a few ahead.

    revise(task, deaths): what is tried after a worker died with nothing but `task` that many times; None sets
    the task aside. name(task): how an error speaks of it. A task that is alone, or has one worker, runs here.
    Raises what `function` raises, and UnfinishedError at the end where a task was set aside.
    """
    aside: list[Task] = []

    def again(held: _Try[Task]) -> _Try[Task] | None:
        task = revise(held.task, held.deaths + 1)
        if task is not None:
            return _Try(held.number, task, held.deaths + 1)
        aside.append(held.task)
        if len(aside) > _MOST_ASIDE:
            raise _unfinished(aside, name)
        return None

    if engine.name == "ray":
        yield from _in_order(_on_ray(function, tasks, engine, again))
    else:
        tasks = iter(tasks)
        first = list(islice(tasks, 2))
        tasks = chain(first, tasks)
        if engine.name == "serial" or engine.workers <= 1 or len(first) < 2:
            yield from map(function, tasks)
        else:
            yield from _in_order(_in_processes(function, tasks, engine.workers, again))
    if aside:
        raise _unfinished(aside, name)


def _unfinished(aside: Sequence[Task], name: Callable[[Task], str]) -> UnfinishedError:
    which = ", ".join(map(name, aside[:3])) + (" …" if len(aside) > 3 else "")
    why = "a worker died each time it had"
    return UnfinishedError(f"{why} {which}: out of memory? Repeat the command with fewer --workers")


def _in_order(results: Iterable[tuple[int, Result]]) -> Iterator[Result]:
    """Results by index; one that was set aside leaves a gap."""
    held: dict[int, Result] = {}
    at = 0
    for index, result in results:
        held[index] = result
        while at in held:
            yield held.pop(at)
            at += 1
    for index in sorted(held):
        yield held[index]


def _in_processes(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    again: Callable[[_Try[Task]], _Try[Task] | None],
) -> Iterator[tuple[int, Result]]:
    """Results with their index, as they come.

    Where a worker dies the pool is lost, and with it each task that was in it: these run one at a time in the
    next pool, which shows whose fault it was, and leaves the memory to them.
    """
    from concurrent.futures import FIRST_COMPLETED, wait
    from concurrent.futures.process import BrokenProcessPool

    waiting = (_Try(index, task) for index, task in enumerate(tasks))
    alone: deque[_Try[Task]] = deque()
    flying: dict[Future[Result], _Try[Task]] = {}
    pool = _Pool(workers)
    try:
        while True:
            solo = bool(alone)
            room = 1 if solo else workers + 1
            while len(flying) < room and (held := alone.popleft() if alone else next(waiting, None)):
                flying[pool.submit(function, held.task)] = held
            if not flying:
                break
            wait(flying, return_when=FIRST_COMPLETED)
            broken = False
            for future in [future for future in flying if future.done()]:
                if isinstance(future.exception(), BrokenProcessPool):
                    broken = True
                else:
                    yield flying.pop(future).number, future.result()
            if broken:
                wait(flying)
                lost = sorted(flying.values(), key=lambda held: held.number)
                flying.clear()
                pool.kill()
                pool = _Pool(workers)
                alone.extendleft(reversed([each for each in (map(again, lost) if solo else lost) if each]))
        pool.close()
    finally:
        pool.kill()


class _Pool:
    """Spawned worker processes. They hold the reading end of a pipe, and end at once when its other end does:
    with this process, however that is killed, or when it calls `kill`.
    """

    def __init__(self, workers: int) -> None:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        context = multiprocessing.get_context("spawn")
        self._reader, self._writer = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(workers, context, _start_worker, (self._reader,))

    def submit(self, function: Callable[[Task], Result], task: Task) -> Future[Result]:
        """As ProcessPoolExecutor.submit; a pool that broke meanwhile gives a Future that says so."""
        from concurrent.futures import Future
        from concurrent.futures.process import BrokenProcessPool

        try:
            return self._pool.submit(function, task)
        except BrokenProcessPool as error:
            lost: Future[Result] = Future()
            lost.set_exception(error)
            return lost

    def close(self) -> None:
        """Wait for the workers to end."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def kill(self) -> None:
        """End the workers, whatever they do."""
        self._writer.close()
        self.close()
        self._reader.close()


def _start_worker(reader: Connection) -> None:
    without_pandas()
    # Ctrl-C reaches the whole group: the process that started this one tells it to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        with suppress(EOFError, OSError):
            reader.recv()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_ray(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    engine: Engine,
    again: Callable[[_Try[Task]], _Try[Task] | None],
) -> Iterator[tuple[int, Result]]:
    """Results with their index, as they come: one Ray task each, twice as many ahead as there are processors.

    Attempts are counted here and not by Ray, which would repeat without end what kills its worker.
    """
    ray = _joined(engine)
    try:
        remote = ray.remote(num_cpus=1, max_retries=0)(function)
        waiting = (_Try(index, task) for index, task in enumerate(tasks))
        once_more: deque[_Try[Task]] = deque()
        flying: dict[Any, _Try[Task]] = {}
        more = True
        while more or flying or once_more:
            room = 2 * max(1, int(ray.cluster_resources().get("CPU", 0)))
            while len(flying) < room:
                held = once_more.popleft() if once_more else next(waiting, None)
                if held is None:
                    more = False
                    break
                flying[remote.remote(held.task)] = held
            done, _ = ray.wait(list(flying), timeout=_WAIT) if flying else ([], [])
            if flying and not done and not ray.cluster_resources().get("CPU"):
                raise UnfinishedError(f"the Ray cluster has had no processor for {_WAIT:.0f} s")
            for reference in done:
                held = flying.pop(reference)
                try:
                    yield held.number, ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause if isinstance(error.cause, RsdataError) else error from None
                except ray.exceptions.RayError:
                    if retry := again(held):
                        once_more.append(retry)
    finally:
        ray.shutdown()


def _check_listening(address: str) -> None:
    """Raise RsdataError where nobody listens at HOST:PORT: Ray would try for minutes."""
    import socket

    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    hosts = [host, socket.gethostname()] if host in ("127.0.0.1", "localhost") else [host]
    for each in hosts:  # Ray takes a loopback address for that of the host
        with suppress(OSError), socket.create_connection((each, int(port)), _REACHED):
            return
    raise RsdataError(f"no Ray cluster: nobody listens at {address}")


def _joined(engine: Engine) -> Any:
    """Ray, with this process as its driver. Raises RsdataError."""
    try:
        import ray
    except ModuleNotFoundError:
        raise RsdataError("Ray is not installed: pip install 'rsdata[ray]'") from None
    import logging

    address = engine.address or os.environ.get("RAY_ADDRESS") or "local"
    _check_listening(address)
    new: dict[str, Any] = {}
    if address == "local":
        new = {"num_cpus": engine.workers, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **new)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RsdataError(f"no Ray cluster ({address}): {error}") from error
    return ray
