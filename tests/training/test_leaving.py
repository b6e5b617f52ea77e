"""A process that leaves its group."""

import gc
from pathlib import Path

import torch
import torch.distributed.nn  # its functions keep the group that there is when it is first imported
from torch.nn.parallel import DistributedDataParallel
from two_at_once import join

from luss import processes


def gloo_threads() -> int:
    """Threads of this process that compute for gloo."""
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    return sum("gloo" in name for name in names)


def test_the_network_that_was_trained_is_not_the_last_to_let_go_of_the_group(tmp_path: Path) -> None:
    # It would end gloo's threads while it holds Python's lock, for which one of them may wait: both would wait forever.
    threads = torch.get_num_threads()
    try:
        join(tmp_path, 0, 1)
        network = DistributedDataParallel(torch.nn.Linear(2, 2))
        network(torch.ones(1, 2)).sum().backward()
        running = gloo_threads()
        assert running
        processes.stop()
        del network
        gc.collect()
        # None has ended; one may have begun since.
        assert gloo_threads() >= running
    finally:
        processes.stop()
        torch.set_num_threads(threads)
