"""Processes that read images ahead: the only maker of loaders. Whatever keeps them from working ends in a sentence, and never in waiting."""

import multiprocessing
import multiprocessing.queues
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from luss.data.worker_faults import obituary, sentence, starting_workers
from luss.errors import LussError

# A step that is to be finished before a checkpoint should not take longer.
_GRACE_SECONDS = 120
_DIED = re.compile(r"exited unexpectedly|killed by signal")
# Begins the text of an error that was raised in a worker.
_CAUGHT = "in DataLoader worker process"


def load_batches(
    dataset: Dataset[Any],
    batches: Iterable[list[Any]],
    *,
    workers: int,
    collate: Callable[[list[Any]], Any],
    setting: str = "the stage's workers (luss predict: --workers)",
    pin_memory: bool = False,
    prefetch: int = 2,
) -> Iterator[Any]:
    """Reads batches of a data set in order.

    Args:
        dataset: Gives a sample by its key.
        batches: The keys of each batch.
        workers: Processes that read ahead; 0 = this one reads.
        collate: Makes a batch of samples.
        setting: What a person sets to change `workers`, for messages.
        pin_memory: For copies to a GPU.
        prefetch: Batches that each worker is ahead.

    Yields:
        What `collate` gives.

    Raises:
        LussError: Workers cannot be started, cannot hand over what they have read, or were killed; names the cause and the remedy.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_initialise_worker,
        prefetch_factor=prefetch if workers else None,
        # The loader draws a seed for its workers; from the global generator, a resume would shift the model's own draws.
        generator=torch.Generator(),
    )
    if not workers:
        yield from loader
        return
    before = set(multiprocessing.active_children())
    started: set[BaseProcess] = set()
    try:
        with starting_workers(workers, setting):
            iterator = _started(loader)
        started = set(multiprocessing.active_children()) - before
        for batch in iterator:
            if isinstance(batch, _Unsent):
                raise LussError(sentence(batch.reason, workers, setting))
            yield batch
    except LussError as error:
        _end(started or set(multiprocessing.active_children()) - before)
        _forget(error)
        raise LussError(_own_words(error)) from error
    except Exception as error:
        died, caught = _DIED.search(str(error)), _CAUGHT in str(error)
        told = obituary(started, workers, setting) if died else sentence(str(error), workers, setting)
        _end(started)
        if caught or not isinstance(error, (OSError, RuntimeError)):
            raise
        raise LussError(told) from error


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """Starts the workers and keeps this process's handler of SIGCHLD.

    torch's would raise the death of a worker wherever this process is, in the middle of a checkpoint too. It is noticed all the same when
    the worker's batch is waited for.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    if getattr(handler, "__module__", "").startswith("torch."):
        # Another loader of this process has left it there.
        handler = signal.SIG_DFL
    iterator = iter(loader)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, handler)
    return iterator


def _end(workers: Iterable[BaseProcess]) -> None:
    """At once: torch would wait for each, and each outlives the first SIGTERM."""
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()


def _forget(error: BaseException) -> None:
    """Lets go of an iterator of torch that was half made, which would complain of what it lacks."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        for each in (error, error.__cause__):
            traceback.clear_frames(each.__traceback__ if each else None)
    finally:
        sys.unraisablehook = hook


def _own_words(error: LussError) -> str:
    """Without the traceback that torch puts before an error that was raised in a worker."""
    text = str(error)
    return text.rpartition(f"{LussError.__name__}: ")[2].strip() if _CAUGHT in text else text


@dataclass(frozen=True)
class _Unsent:
    """Comes instead of a batch that a worker could not send."""

    reason: str


def _tell(queue: Any, error: BaseException, item: Any) -> None:
    """Sends why an item could not be sent: Python prints it and sends nothing, and the main process would wait for ever."""
    queue.put((item[0], _Unsent(f"{type(error).__name__}: {error}")))


def _initialise_worker(worker: int) -> None:
    """Leaves Ctrl-C, a closed terminal and a scheduler's warning to the main process, which finishes its step; outlives one SIGTERM too.

    A scheduler signals every process of a job: a worker that died at once would take the step, and with it the checkpoint, along. A second
    SIGTERM, which is how the main process ends workers that hang, or two minutes end it. One thread each: workers are many.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _end_soon)
    torch.set_num_threads(1)
    multiprocessing.queues.Queue._on_queue_feeder_error = _tell  # type: ignore[attr-defined]


def _end_soon(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.alarm(_GRACE_SECONDS)
