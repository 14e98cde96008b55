"""Map a function over tasks, in order, in this process or in others."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from importlib.abc import MetaPathFinder
from itertools import chain, islice
from typing import TypeVar

from rsdata.errors import RsdataError

Task = TypeVar("Task")
Result = TypeVar("Result")


class _WithoutPandas(MetaPathFinder):
    """Says that there is no pandas."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Find nothing, and end the search where the module is pandas."""
        if name == "pandas":
            raise ModuleNotFoundError(name)


def without_pandas() -> None:
    """Keep pandas out of this process: pyarrow imports it with its first array, which takes half a second."""
    sys.meta_path.insert(0, _WithoutPandas())


def map_tasks(function: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """The results of `function` in the order of `tasks`, which are drawn only a few ahead.

    workers: 1 runs here, and so does a task that is alone; more are spawned processes. Raises RsdataError
    where a worker dies.
    """
    tasks = iter(tasks)
    first = list(islice(tasks, 2))
    tasks = chain(first, tasks)
    if workers <= 1 or len(first) < 2:
        yield from map(function, tasks)
        return
    import multiprocessing
    from concurrent.futures import Future, ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    pending: deque[Future[Result]] = deque()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=without_pandas) as pool:
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
