"""Apply a function to many inputs in worker processes, in order and without piling up results."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

import torch

from mate3d.errors import UserError

Input = TypeVar("Input")
Output = TypeVar("Output")
# Inputs in flight a worker: enough that none waits, few enough that results do not pile up.
_INPUTS_A_WORKER = 8
# The function of a worker process, set once when it starts: models in it are loaded only once.
_own_function: list[Callable[[Any], Any]] = []


def map_by_workers(
    function: Callable[[Input], Output], inputs: Iterable[Input], num_workers: int
) -> Iterator[Output]:
    """Yield the results in the order of the inputs.

    Args:
        function: Must pickle if there are workers, as must inputs and results.
        inputs: Taken as they are needed.
        num_workers: Processes that work, one thread each; 0 works in this process.

    Raises:
        UserError: If a worker process dies.
    """
    if num_workers == 0:
        yield from map(function, inputs)
        return
    pool = ProcessPoolExecutor(
        num_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(function,),
    )
    remaining = iter(inputs)
    try:
        first = islice(remaining, _INPUTS_A_WORKER * num_workers)
        running = deque(pool.submit(_work, one) for one in first)
        while running:
            result = running.popleft().result()
            running.extend(pool.submit(_work, one) for one in islice(remaining, 1))
            yield result
    except BrokenProcessPool:
        raise UserError(
            "a worker process died, perhaps for want of memory; use fewer num_workers"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(function: Callable[[Any], Any]) -> None:
    torch.set_num_threads(1)
    _own_function[:] = [function]


def _work(one: Any) -> Any:
    return _own_function[0](one)
