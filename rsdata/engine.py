"""Map a function over tasks, in order, in this process or in others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rsdata.errors import RsdataError

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_tasks(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Iterator[Result]:
    """The results of `function` in the order of `tasks`, which are drawn only a few ahead.

    workers: 1 runs here; more are spawned processes. Raises RsdataError where a worker dies.
    """
    if workers <= 1:
        yield from map(function, tasks)
        return
    import multiprocessing
    from concurrent.futures import Future, ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    pending: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            for task in tasks:
                pending.append(pool.submit(function, task))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise RsdataError("a worker process died (out of memory?); try fewer --workers") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
