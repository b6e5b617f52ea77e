"""Several processes as one: the only module that reads rank variables from the environment.

Processes are started by torchrun, by SLURM (srun, or jobs of `luss submit`), or by submitit on this machine; all three work alike.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from luss.errors import LussError
from luss.progress import Interrupted
from luss.training.peers import Peers

# What a broken or late connection is called by gloo, NCCL and torch's store.
_LOST = re.compile(
    r"gloo|nccl|connection (was )?(closed|reset|refused)|timed out|timeout|broken pipe|failed to recv", re.IGNORECASE
)
# Below Linux's range of ports that programs get by chance.
_FIRST_PORT, _NUM_PORTS = 10000, 20000

_peers: Peers | None = None
# For small agreements on the CPU; None = the group of all, which is on the CPU itself.
_control: dist.ProcessGroup | None = None


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
        The device of this process: with CUDA, the GPU of its local rank.

    Raises:
        LussError: The others did not come; names the rank.
    """
    own = place()
    if own is None or own.world_size == 1:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", own.local_rank)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        _join(own, device, timedelta(minutes=timeout_minutes))
    return device


def _join(own: Place, device: torch.device, timeout: timedelta) -> None:
    global _peers, _control
    url = "env://" if own.launcher == "torchrun" else _meeting_point(own)
    try:
        store, _, _ = next(rendezvous(url, own.rank, own.world_size, timeout=timeout))
    except (dist.DistError, RuntimeError) as error:
        raise LussError(
            f"rank 0 was waited for in vain at {url}, {timeout.total_seconds() / 60:g} min: {error}"
        ) from error
    _peers = Peers(store, own.rank, own.world_size, timeout=timeout)
    cuda = device.type == "cuda"
    try:
        with naming_lost_peers():
            # A GPU's collective that waits in vain ends the process without an exception: the agreements on the CPU must notice first.
            dist.init_process_group(
                "nccl" if cuda else "gloo",
                store=store,
                rank=own.rank,
                world_size=own.world_size,
                timeout=2 * timeout if cuda else timeout,
            )
            _control = dist.new_group(backend="gloo", timeout=timeout) if cuda else None
    except BaseException:
        stop()
        raise


def _meeting_point(own: Place) -> str:
    """Address of rank 0's store: its machine, and a port that follows from the job, so that two jobs on one machine do not meet."""
    if own.launcher == "submitit":
        host, job = "127.0.0.1", int(os.environ["SUBMITIT_LOCAL_JOB_ID"])
    else:
        nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_JOB_NODELIST"]
        host, job = first_host(nodes), int(os.environ["SLURM_JOB_ID"])
    host = os.environ.get("MASTER_ADDR", host)
    port = os.environ.get("MASTER_PORT", str(_FIRST_PORT + job % _NUM_PORTS))
    return f"tcp://{host}:{port}"


def first_host(nodes: str) -> str:
    """The first name of a SLURM list of nodes.

    Example:
        >>> from luss.training.distributed import first_host
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
        dist.destroy_process_group()


def barrier() -> None:
    """Waits until every process is here."""
    any_process(False)


def any_process(flag: bool) -> bool:
    """Whether `flag` is true on any process; all processes get the same answer."""
    if world_size() == 1:
        return flag
    if _peers is not None:
        _peers.meet()
    value = torch.tensor(int(flag))
    dist.all_reduce(value, op=dist.ReduceOp.MAX, group=_control)
    return bool(value.item())


def mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The mean of a scalar over the processes."""
    if world_size() == 1:
        return value
    value = value.detach().clone().float()
    dist.all_reduce(value)
    return value / world_size()


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
