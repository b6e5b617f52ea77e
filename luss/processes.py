"""Several processes as one: where each is, what they sum, gather and agree on. The only module that reads rank variables.

Processes are started by torchrun, by SLURM (srun, or jobs of `luss submit`), or by submitit on this machine; all three work alike. All call
the same operations in the same order; on one process every operation gives back what it was given.
"""

import atexit
import contextlib
import gc
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from luss.errors import LussError
from luss.peers import Peers
from luss.progress import Interrupted, StopFlag

# What a broken or late connection is called by gloo, NCCL and torch's store.
_LOST = re.compile(
    r"gloo|nccl|connection (was )?(closed|reset|refused)|timed out|timeout|broken pipe|failed to recv", re.IGNORECASE
)
# Below Linux's range of ports that programs get by chance.
_FIRST_PORT, _NUM_PORTS = 10000, 20000
_POLL_SECONDS = 0.2

_peers: Peers | None = None
# For small agreements on the CPU; None = the group of all, which is on the CPU itself.
_control: dist.ProcessGroup | None = None
# Groups that were left, until the process ends or joins another: were DistributedDataParallel the last to let go of one, it would end gloo's
# threads while it holds Python's lock, which they may be waiting for; a reference of Python's own gives the lock up first.
_left: list[dist.ProcessGroup] = []


@atexit.register
def _let_go() -> None:
    # An error that nobody caught holds the network through its frames.
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):
        if hasattr(sys, name):
            setattr(sys, name, None)
    gc.collect()
    _left.clear()


@dataclass(frozen=True)
class Place:
    """This process among those that were started together.

    Attributes:
        launcher: Who started them: "torchrun", "submitit" or "slurm".
        rank: 0 to world_size - 1.
        world_size: How many there are.
        local_rank: Number on this machine.
    """

    launcher: str
    rank: int
    world_size: int
    local_rank: int


# SLURM_STEP_NUM_TASKS and not SLURM_NTASKS: a plain command in an sbatch script is alone, although its job has more tasks.
_LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "submitit": ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID"),
    "slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
}


def place() -> Place | None:
    """Where the environment says this process is; None when it was started alone."""
    for launcher, (rank_key, size_key, local_key) in _LAUNCHERS.items():
        if rank_key in os.environ and size_key in os.environ:
            found = (int(os.environ.get(key, "0")) for key in (rank_key, size_key, local_key))
            return Place(launcher, *found)
    return None


def rank() -> int:
    """This process's number, 0 to world_size - 1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def start(device: torch.device, *, timeout_minutes: float = 30.0) -> torch.device:
    """Joins the other processes when a launcher started several; otherwise does nothing.

    Args:
        device: What the run asks for.
        timeout_minutes: A process that waits longer than this for the others fails instead of hanging.

    Returns:
        The device of this process: with CUDA, its own GPU.

    Raises:
        LussError: The others did not come; names the rank.
    """
    own = place()
    if own is None or own.world_size == 1:
        return device
    if device.type == "cuda":
        device = gpu_of(own.local_rank, torch.cuda.device_count())
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        _join(own, device, timedelta(minutes=timeout_minutes))
    return device


def gpu_of(local_rank: int, num_visible: int) -> torch.device:
    """The GPU of a process: the one of its number on this machine, or the only one that its launcher lets it see."""
    return torch.device("cuda", 0 if num_visible == 1 else local_rank)


def _join(own: Place, device: torch.device, timeout: timedelta) -> None:
    global _peers, _control
    # A group that was left may keep the port.
    _let_go()
    store = _store(own, timeout)
    _peers = Peers(store, own.rank, own.world_size, timeout=timeout)
    cuda = device.type == "cuda"
    try:
        with naming_lost_peers():
            # A GPU's collective that waits in vain ends the process without an exception: the agreements on the CPU must notice first.
            backend, wait = ("nccl", 2 * timeout) if cuda else ("gloo", timeout)
            dist.init_process_group(backend, store=store, rank=own.rank, world_size=own.world_size, timeout=wait)
            _control = dist.new_group(backend="gloo", timeout=timeout) if cuda else None
    except BaseException:
        stop()
        raise


def _store(own: Place, timeout: timedelta) -> Store:
    if own.launcher == "torchrun" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        shared: Store = next(rendezvous("env://", own.rank, own.world_size, timeout=timeout))[0]
        return shared
    host, port = _meeting_point(own)
    try:
        # Nobody is waited for here: who never comes is then missing in the table, by rank.
        store: Store = dist.TCPStore(  # type: ignore[attr-defined]
            host, port, own.world_size, own.rank == 0, timeout, wait_for_workers=False
        )
        return store
    except (dist.DistError, RuntimeError) as error:
        raise LussError(
            f"rank 0 was waited for in vain at tcp://{host}:{port}, {timeout.total_seconds() / 60:g} min: {error}"
        ) from error


def _meeting_point(own: Place) -> tuple[str, int]:
    """Host and port of rank 0's store: its machine, and a port that follows from the job, so that two jobs on one machine do not meet."""
    host, job = "127.0.0.1", 0
    if own.launcher == "submitit":
        job = int(os.environ["SUBMITIT_LOCAL_JOB_ID"])
    elif own.launcher == "slurm":
        nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_JOB_NODELIST"]
        host, job = first_host(nodes), int(os.environ["SLURM_JOB_ID"])
    return os.environ.get("MASTER_ADDR", host), int(os.environ.get("MASTER_PORT", _FIRST_PORT + job % _NUM_PORTS))


def first_host(nodes: str) -> str:
    """The first name of a SLURM list of nodes.

    Example:
        >>> from luss.processes import first_host
        >>> first_host("gpu[007-009,12]-ib,login1")
        'gpu007-ib'
    """
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", nodes)[0])


@contextlib.contextmanager
def naming_lost_peers() -> Iterator[None]:
    """Around work of several processes: an error that comes from the loss of one names it, and one's own error is told to the others.

    Raises:
        LussError: Another process died, failed or did not come.
    """
    try:
        yield
    except Interrupted:
        raise
    except BaseException as error:
        if _peers is None:
            raise
        lost = isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or _LOST.search(str(error)))
        if not lost:
            _peers.leave(f"{type(error).__name__}: {error}" if not isinstance(error, LussError) else str(error))
            raise
        reason = _peers.explain(error)
        raise LussError(
            f"{reason}; everything up to the last checkpoint is kept: run the same command again"
        ) from error


def stop() -> None:
    """Leaves the group of processes; nothing on one process."""
    global _peers, _control
    if _peers is not None:
        _peers.close()
    _peers = _control = None
    if dist.is_available() and dist.is_initialized():
        if dist.group.WORLD is not None:
            _left.append(dist.group.WORLD)
        dist.destroy_process_group()


def barrier() -> None:
    """Waits until every process is here."""
    any_process(False)


@contextlib.contextmanager
def first_alone(what: str, stop: StopFlag) -> Iterator[bool]:
    """Process 0 does the work inside, however long it takes; the others leave it out, and wait behind it. `what` names it, once a group.

    Yields:
        Whether this process is the one that works.

    Raises:
        LussError: Process 0 failed or died.
        Interrupted: `stop` was set while waiting.
    """
    yield rank() == 0
    if _peers is None:
        return
    if rank() == 0:
        _peers.announce(what)
        return
    # A collective would give up after the time that processes wait for each other.
    while not _peers.announced(what):
        stop.check()
        time.sleep(_POLL_SECONDS)


def any_process(flag: bool) -> bool:
    """Whether `flag` is true on any process; all processes get the same answer."""
    if world_size() == 1:
        return flag
    value = torch.tensor(int(flag))
    dist.all_reduce(value, op=dist.ReduceOp.MAX, group=_control)
    return bool(value.item())


class _Sum(torch.autograd.Function):
    """An all-reduce with a gradient (torch.distributed.nn's own is deprecated and warns)."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        # Every process's value entered every process's sum.
        return _Sum.forward(context, gradient.contiguous())


class _Gather(torch.autograd.Function):
    """An all-gather with a gradient."""

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        gathered = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(context, gradient.contiguous()).chunk(world_size())[rank()]


def sum_(values: Tensor) -> Tensor:
    """The sum over the processes of tensors of one shape. Its gradient is the sum of the gradients of all processes' losses."""
    return values if world_size() == 1 else _Sum.apply(values)  # type: ignore[no-untyped-call]


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks: the global batch.

    Args:
        rows: (B, ...) of this process; B is the same on all. Gradients pass where it asks for them: the sum of those of all processes'
            losses, which data-parallel training divides by their number. Every process's loss must then use what is gathered.

    Returns:
        (world_size * B, ...).
    """
    return rows if world_size() == 1 else _Gather.apply(rows)  # type: ignore[no-untyped-call]


@torch.no_grad()
def logsumexp(values: Tensor) -> Tensor:
    """log of the sum over the processes of exp(values), elementwise, without gradient."""
    if world_size() == 1:
        return values
    maximum = values.clone()
    dist.all_reduce(maximum, op=dist.ReduceOp.MAX)
    return maximum + sum_((values - maximum).exp()).log()


def mean(value: Tensor) -> Tensor:
    """The mean of values over the processes, without gradient."""
    return value if world_size() == 1 else sum_(value.detach().float()) / world_size()


def share_of_batch(batch_size: int, accumulate: int, *, key: str, processes: int | None = None) -> int:
    """Images a process handles in one forward pass.

    Args:
        batch_size: The global batch.
        accumulate: Micro-batches of a step.
        key: Configuration block, for the message.
        processes: How many will work together; None: those that do now.

    Raises:
        LussError: The global batch does not divide evenly.
    """
    processes = world_size() if processes is None else processes
    parts = processes * accumulate
    if accumulate < 1 or batch_size % parts or batch_size < parts:
        raise LussError(
            f"{key}.batch_size is {batch_size}, which does not divide over {processes} processes x {accumulate} accumulated "
            f"micro-batches: use a multiple of {parts}"
        )
    return batch_size // parts


class Reduce:
    """Sums and tables of numpy arrays over processes that each hold a part of the rows; all get the same bits.

    Attributes:
        rank: This process's number, 0 <= rank < world_size.
        world_size: How many processes there are. The rows of all are those of rank 0, then of rank 1, and so on.
    """

    def __init__(self, device: torch.device | str | None = None) -> None:
        """`device`: where collectives work, "cpu" for gloo, the process's GPU for NCCL; None: this process counts as the only one."""
        self.rank, self.world_size = (0, 1) if device is None else (rank(), world_size())
        self._device = torch.device(device or "cpu")

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum over the processes of arrays of one shape."""
        if self.world_size == 1:
            return values
        total: NDArray[np.float64] = sum_(torch.tensor(values, dtype=torch.float64, device=self._device)).cpu().numpy()
        return total

    def gather(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """The (n, ...) arrays of all processes by rank; n may differ, the rest of the shape and the dtype may not."""
        if self.world_size == 1:
            return [values]
        own = self._bytes(values)
        lengths = gather(torch.tensor([own.numel()], device=self._device)).tolist()
        if not max(lengths):
            return [values] * self.world_size
        # All parts must be equally long: the shorter ones are filled up.
        padded = torch.zeros(max(lengths), dtype=torch.uint8, device=self._device)
        padded[: own.numel()] = own
        return [
            part[:length].cpu().numpy().view(values.dtype).reshape(-1, *values.shape[1:])
            for part, length in zip(gather(padded).chunk(self.world_size), lengths, strict=True)
        ]

    def broadcast(self, values: NDArray[Any], source: int = 0) -> NDArray[Any]:
        """The array of process `source`; the others give one of its shape and dtype."""
        if self.world_size == 1:
            return values
        told = self._bytes(values)
        dist.broadcast(told, source)
        return told.cpu().numpy().view(values.dtype).reshape(values.shape)

    def send(self, message: bytes, source: int) -> bytes:
        """The message of process `source`, on all processes; what the others give does not matter."""
        length = int(self.broadcast(np.array([len(message)]), source)[0])
        own = np.frombuffer(message, dtype=np.uint8) if self.rank == source else np.zeros(length, dtype=np.uint8)
        return self.broadcast(own, source).tobytes()

    def _bytes(self, values: NDArray[Any]) -> Tensor:
        # A copy: the array may be read-only, and is overwritten by a broadcast.
        return torch.from_numpy(np.array(values, order="C").reshape(-1).view(np.uint8)).to(self._device)


@contextlib.contextmanager
def in_step(reduce: Reduce) -> Iterator[None]:
    """Ends the work inside on all processes alike: what one raises, all raise, and nobody waits for one that has left.

    Raises:
        LussError: The first process's in the order of ranks, if one has raised it.
        Interrupted: A process was asked to stop.
    """
    raised: LussError | Interrupted | None = None
    try:
        yield
    except (LussError, Interrupted) as error:
        raised = error
    kind = "" if raised is None else "E" if isinstance(raised, LussError) else "I"
    own = np.frombuffer(f"{kind}{raised or ''}".encode(), np.uint8)
    told = [part.tobytes().decode() for part in reduce.gather(own)]
    for kind, ending in (("E", LussError), ("I", Interrupted)):
        if isinstance(raised, ending):
            raise raised
        for rank, text in enumerate(told):
            if text.startswith(kind):
                raise ending(f"process {rank}: {text[1:]}")
