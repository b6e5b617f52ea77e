"""What loader workers do about signals."""

import signal

import torch

# A step that is to be finished before a checkpoint should not take longer.
_GRACE_SECONDS = 120


def initialise_worker(worker: int) -> None:
    """Leaves Ctrl-C, a closed terminal and a scheduler's warning to the main process, which finishes its step; outlives one SIGTERM too.

    A scheduler signals every process of a job: a worker that died at once would take the step, and with it the checkpoint, along. A second
    SIGTERM, which is how the main process ends workers that hang, or two minutes end it. One thread each: workers are many.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _end_soon)
    torch.set_num_threads(1)


def _end_soon(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.alarm(_GRACE_SECONDS)
