"""A queue of embeddings of past batches: newest first, the same on every process."""

import torch
from torch import Tensor

from luss import processes


@torch.no_grad()
def pushed(queue: Tensor, rows: Tensor) -> Tensor:
    """The queue with the rows of all processes in front of it; as many of its oldest ones are gone.

    A new tensor: the old one may still be needed by a backward pass.

    Args:
        queue: (length, D).
        rows: (B, D) of this process.

    Returns:
        (length, D). With the global batch in every process's queue, a checkpoint resumes on another number of processes.
    """
    newest = processes.gather(rows.detach().to(queue.dtype))
    return torch.cat([newest, queue])[: len(queue)]
