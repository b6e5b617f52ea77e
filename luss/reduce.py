"""What processes that each hold a part of the rows need from one another: sums, small tables of all, one's word to all.

`LocalReduce` is one process alone; `TorchReduce` joins the processes of torch.distributed. The work itself is written
once, against the protocol: on one process every operation gives back what it was given.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from luss.errors import LussError
from luss.progress import Interrupted


class Reduce(Protocol):
    """Operations that all processes call together, in the same order; all get the same bits, but for `gather`'s own part.

    Attributes:
        rank: This process's number, 0 <= rank < world_size.
        world_size: How many processes there are. The rows of all are those of rank 0, then of rank 1, and so on.
    """

    rank: int
    world_size: int

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum over the processes of arrays of one shape."""

    def gather(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """The (n, ...) arrays of all processes by rank; n may differ, the rest of the shape and the dtype may not."""

    def broadcast(self, values: NDArray[Any], source: int = 0) -> NDArray[Any]:
        """The array of process `source`; the others give one of its shape and dtype."""


class LocalReduce:
    """One process alone."""

    rank = 0
    world_size = 1

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values."""
        return values

    def gather(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """The values, in a list."""
        return [values]

    def broadcast(self, values: NDArray[Any], source: int = 0) -> NDArray[Any]:
        """The values."""
        return values


class TorchReduce:
    """The processes of the default group of torch.distributed, which must be up.

    Args:
        device: Where its backend works: "cpu" for gloo, the process's GPU for NCCL.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self._device = torch.device(device)

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Reduce.sum`."""
        total = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(total)
        result: NDArray[np.float64] = total.cpu().numpy()
        return result

    def gather(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """See `Reduce.gather`."""
        own = self._bytes(values)
        sizes = [torch.zeros(1, dtype=torch.int64, device=self._device) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor([own.numel()], device=self._device))
        lengths = [int(size.item()) for size in sizes]
        if not max(lengths):
            return [values] * self.world_size
        # All parts must be equally long: the shorter ones are filled up.
        padded = torch.zeros(max(lengths), dtype=torch.uint8, device=self._device)
        padded[: own.numel()] = own
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return [
            part[:length].cpu().numpy().view(values.dtype).reshape(-1, *values.shape[1:])
            for part, length in zip(parts, lengths, strict=True)
        ]

    def broadcast(self, values: NDArray[Any], source: int = 0) -> NDArray[Any]:
        """See `Reduce.broadcast`."""
        told = self._bytes(values)
        dist.broadcast(told, source)
        return told.cpu().numpy().view(values.dtype).reshape(values.shape)

    def _bytes(self, values: NDArray[Any]) -> torch.Tensor:
        # A copy: the array may be read-only, and is overwritten by a broadcast.
        flat = np.array(values, order="C").reshape(-1).view(np.uint8)
        return torch.from_numpy(flat).to(self._device)


def send(reduce: Reduce, message: bytes, source: int) -> bytes:
    """The message of process `source`, on all processes; what the others give does not matter."""
    length = int(reduce.broadcast(np.array([len(message)]), source)[0])
    own = np.frombuffer(message, dtype=np.uint8) if reduce.rank == source else np.zeros(length, dtype=np.uint8)
    return reduce.broadcast(own, source).tobytes()


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
    told = [
        part.tobytes().decode() for part in reduce.gather(np.frombuffer(f"{kind}{raised or ''}".encode(), np.uint8))
    ]
    if isinstance(raised, LussError):
        raise raised
    for rank, text in enumerate(told):
        if text.startswith("E"):
            raise LussError(f"process {rank}: {text[1:]}")
    if raised is not None:
        raise raised
    for rank, text in enumerate(told):
        if text:
            raise Interrupted(f"process {rank}: {text[1:]}")
