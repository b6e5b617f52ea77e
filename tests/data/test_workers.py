"""What happens when the processes that read images cannot work: a sentence, soon."""

import multiprocessing
import multiprocessing.synchronize
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from luss.data.worker_faults import starting_workers
from luss.data.workers import load_batches
from luss.errors import LussError


class Numbers(Dataset[torch.Tensor]):
    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((4,), index)


class Unsendable:
    """What a worker fails to send, as torch and Python word it."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


def batches(workers: int = 2, collate: Any = torch.stack, count: int = 8) -> Iterator[Any]:
    return load_batches(
        Numbers(), [[index] for index in range(count)], workers=workers, collate=collate, setting="pretrain.workers"
    )


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Iterator[None]:
    # Those of other tests of this process are none of ours.
    before = set(multiprocessing.active_children())
    yield
    assert not set(multiprocessing.active_children()) - before


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_and_draw_nothing_from_the_generator_of_the_model(workers: int) -> None:
    before, handler = torch.get_rng_state(), signal.getsignal(signal.SIGCHLD)
    assert [int(batch[0, 0]) for batch in batches(workers)] == list(range(8))
    assert torch.equal(torch.get_rng_state(), before)
    assert signal.getsignal(signal.SIGCHLD) is handler


def test_what_another_loader_of_the_process_has_left_does_not_strike_at_the_death_of_a_worker() -> None:
    def torchs(number: int, frame: object) -> None:
        raise RuntimeError("a worker has died somewhere")

    # torch sets its own once a process, which may have been before.
    torchs.__module__ = signal_handling.__name__
    before = signal.signal(signal.SIGCHLD, torchs)
    try:
        list(batches(count=2))
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"),
         r"cannot use the shared memory /dev/shm of \d+ MB.*docker run --shm-size.*or set pretrain\.workers to 0 \(now 2\)"),
        (OSError("AF_UNIX path too long"), r"cannot open a socket in .*TMPDIR=/tmp, or set pretrain\.workers to 0"),
        (RuntimeError("can't start new thread"), r"starts no more processes.*lower pretrain\.workers \(now 2.*ulimit -u"),
        (OSError(24, "Too many open files"), r"too many files are open.*ulimit -n"),
        (TypeError("cannot pickle a lamp"), r"cannot hand over what they read \(TypeError: cannot pickle a lamp\)"),
    ],
)  # fmt: skip
def test_a_worker_that_cannot_send_what_it_has_read_says_so(error: Exception, told: str) -> None:
    with pytest.raises(LussError, match=told):
        list(batches(collate=lambda samples: Unsendable(error)))


def test_a_folder_for_temporary_files_whose_name_is_too_long_for_a_socket_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delitem(multiprocessing.current_process()._config, "tempdir", raising=False)  # type: ignore[attr-defined]
    with pytest.raises(
        LussError, match=f"cannot open a socket in {folder}, whose name is too long for one: set TMPDIR"
    ):
        list(batches())


@pytest.mark.parametrize("first", [1, 2])
def test_workers_that_cannot_be_started_are_told_and_those_that_were_end(
    monkeypatch: pytest.MonkeyPatch, first: int, capsys: pytest.CaptureFixture[str]
) -> None:
    fork, forks = os.fork, []

    def refuse() -> int:
        forks.append(1)
        if len(forks) >= first:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return fork()

    unraised: list[Any] = []
    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(sys, "unraisablehook", unraised.append)
    with pytest.raises(LussError, match=r"starts no more processes or threads .*lower pretrain\.workers \(now 2"):
        list(batches())
    assert len(forks) == first
    assert not unraised


def test_a_system_without_shared_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **words: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", refuse)
    with pytest.raises(LussError, match=r"cannot use the shared memory /dev/shm.*set pretrain\.workers to 0"):
        list(batches())
    with (
        pytest.raises(LussError, match=r"set evaluate\.workers to 1 \(now 4\)"),
        starting_workers(4, "evaluate.workers", alone=1),
    ):
        multiprocessing.Lock()


def test_a_killed_worker_is_told_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    # As often as torch looks for the dead.
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))
    before, came = set(multiprocessing.active_children()), batches(count=100)
    next(came)
    victim = (set(multiprocessing.active_children()) - before).pop()
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    with pytest.raises(
        LussError, match=r"was killed, most often for want of memory: lower pretrain\.workers \(now 2\)"
    ):
        list(came)


def test_an_error_that_a_person_can_mend_comes_from_a_worker_in_its_own_words() -> None:
    def refuse(samples: list[Any]) -> None:
        raise LussError("the mask a.png is gone: predict again")

    with pytest.raises(LussError) as told:
        list(batches(collate=refuse))
    assert str(told.value) == "the mask a.png is gone: predict again"


def test_a_fault_of_the_code_keeps_the_traceback_of_the_worker() -> None:
    def fail(samples: list[Any]) -> None:
        raise RuntimeError("no space left for errors")

    with pytest.raises(RuntimeError, match="Original Traceback") as told:
        list(batches(collate=fail))
    assert not isinstance(told.value, LussError)
