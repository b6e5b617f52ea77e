"""One server that has imported everything and forks the processes of tests: it saves some four seconds a process.

Python has one such server a process, started at first use with the environment of that moment; so all tests start theirs through here.
"""

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.forkserver import ensure_running

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["luss.compat", "faiss", "h5py", "scipy.optimize", "sklearn.metrics", "torch.utils.tensorboard", "luss.clustering.kmeans",
     "luss.features.layout", "stages.cli", "stages.commands.stage", "stages.running.results"]
)  # fmt: skip


def start_server() -> None:
    """Starts the server where it does not run: one thread a process, a wide screen, no GPU."""
    with _environment(OMP_NUM_THREADS="1", COLUMNS="200", CUDA_VISIBLE_DEVICES=""):
        ensure_running()


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
