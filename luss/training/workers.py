"""What loader workers do about signals."""

import signal

import torch


def initialise_worker(worker: int) -> None:
    """Leaves Ctrl-C to the main process, which finishes its step first; and dies on SIGTERM like any plain process.

    A forked worker would otherwise inherit the main process's handlers. One thread each: workers are many.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
