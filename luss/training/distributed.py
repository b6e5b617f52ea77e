"""Several processes as one: the only module that reads rank variables from the environment."""

import os
from datetime import timedelta

import torch
import torch.distributed as dist

from luss.errors import LussError


def rank() -> int:
    """This process's number, 0 to world_size - 1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def start(device: torch.device, *, timeout_minutes: float = 30.0) -> torch.device:
    """Joins the other processes when launched by torchrun (RANK and WORLD_SIZE are set); otherwise does nothing.

    Args:
        device: What the run asks for.
        timeout_minutes: A process that waits longer than this for the others fails instead of hanging.

    Returns:
        The device of this process: with CUDA, the GPU of its local rank.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
    return device


def stop() -> None:
    """Leaves the group of processes; nothing on one process."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Waits until every process is here."""
    if world_size() > 1:
        dist.barrier()


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is true on any process; all processes get the same answer."""
    if world_size() == 1:
        return flag
    value = torch.tensor(int(flag), device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The mean of a scalar over the processes."""
    if world_size() == 1:
        return value
    value = value.detach().clone().float()
    dist.all_reduce(value)
    return value / world_size()


def share_of_batch(batch_size: int, accumulate: int, *, key: str) -> int:
    """Images a process handles in one forward pass.

    Raises:
        LussError: The global batch does not divide evenly.
    """
    parts = world_size() * accumulate
    if accumulate < 1 or batch_size % parts or batch_size < parts:
        raise LussError(
            f"{key}.batch_size is {batch_size}, which does not divide over {world_size()} processes x {accumulate} accumulated "
            f"micro-batches: use a multiple of {parts}"
        )
    return batch_size // parts
