"""Work on many images, shared by as many processes as wanted."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from luss.benchmark.worker import start_worker, work_on
from luss.data.worker_faults import starting_workers
from luss.errors import LussError

_CHUNK = 32
"""Images a worker counts before it reports: enough to hide the cost of the report."""

IMAGES_A_WORKER = 32
"""No process is started for fewer images: its start takes as long as counting some twenty of 500 x 375."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_chunks(
    task: Callable[[list[Item]], Result], items: list[Item], workers: int
) -> Iterator[tuple[list[Item], Result]]:
    """Does a task on some items after the other, on at most `workers` processes; fewer for few items (`IMAGES_A_WORKER`).

    Yields:
        The items of each chunk and what the task gave of them, in the order of the items whatever the number of workers.

    Raises:
        LussError: A process died, or cannot be started.
    """
    workers = min(workers, max(1, len(items) // IMAGES_A_WORKER))
    size = max(1, min(_CHUNK, len(items) // (4 * workers)))
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    if workers == 1:
        yield from ((chunk, task(chunk)) for chunk in chunks)
        return
    # "spawn": forking a process that has threads (torch, BLAS) can hang it.
    context = multiprocessing.get_context("spawn")
    with starting_workers(workers, "the evaluation's workers", alone=1):
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker, initargs=(task,))
    try:
        with _signals_blocked(), starting_workers(workers, "the evaluation's workers", alone=1):
            results = pool.map(work_on, chunks)
        yield from zip(chunks, results, strict=True)
    except BrokenProcessPool as error:
        raise LussError(
            "a worker process of the evaluation died, perhaps for want of memory: evaluate with fewer workers"
        ) from error
    finally:
        # Whoever stops listening, by Ctrl-C or an error, does not wait for the chunks that nobody has begun.
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """What asks to stop reaches the whole process group: workers started in here inherit the mask and leave it to this process."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR2, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
