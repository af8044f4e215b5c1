"""Make samples in this process or by workers, and hand them to the staging folder as they come."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

import torch

from mate3d.errors import UserError
from training.preparation.samples import FailedSample, Job, PreparedSample

Made = PreparedSample | FailedSample
Maker = Callable[[Job], Sequence[Made]]
# Jobs in flight a worker: enough that none waits, few enough that results do not pile up.
_JOBS_A_WORKER = 4
# The maker of a worker process, set once when it starts: models in it are loaded only once.
_own_maker: list[Maker] = []


def run_jobs(jobs: Sequence[Job], maker: Maker, num_workers: int) -> Iterator[Made]:
    """Yield the samples of all jobs as they get ready.

    Args:
        jobs: What to make.
        maker: Makes a job's samples; must pickle if there are workers.
        num_workers: Processes that work, one thread each; 0 works in this process.

    Raises:
        UserError: If a worker process dies.
    """
    if num_workers == 0:
        for job in jobs:
            yield from maker(job)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_start_worker, initargs=(maker,)
    )
    remaining = iter(jobs)
    try:
        running = {
            pool.submit(_work, job) for job in islice(remaining, _JOBS_A_WORKER * num_workers)
        }
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(_work, job) for job in islice(remaining, len(finished))}
            for future in finished:
                yield from future.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process died, perhaps for want of memory; the same command with fewer "
            "num_workers goes on"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(maker: Maker) -> None:
    torch.set_num_threads(1)
    _own_maker[:] = [maker]


def _work(job: Job) -> Sequence[Made]:
    return _own_maker[0](job)
