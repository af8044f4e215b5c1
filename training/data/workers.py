"""Ordered parallel map in worker processes, with a bounded number of pending results."""

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
# Inputs in flight per worker: enough to keep workers busy, few enough to bound pending results.
_INPUTS_A_WORKER = 8
# The function of a worker process, set once at its start so that its models are loaded only once.
_own_function: list[Callable[[Any], Any]] = []


def map_by_workers(
    function: Callable[[Input], Output], inputs: Iterable[Input], num_workers: int
) -> Iterator[Output]:
    """Yield the results in the order of the inputs.

    Args:
        function: Must be picklable if there are workers, like inputs and results.
        inputs: Consumed lazily.
        num_workers: Worker processes, one thread each; 0 runs in this process.

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
            f"a worker process died, probably out of memory; lower num_workers={num_workers}"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(function: Callable[[Any], Any]) -> None:
    torch.set_num_threads(1)
    _own_function[:] = [function]


def _work(one: Any) -> Any:
    return _own_function[0](one)
