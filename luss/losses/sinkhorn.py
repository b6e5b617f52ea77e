"""Balanced assignment of embeddings to prototypes."""

import torch
from torch import Tensor

from luss import processes


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float = 0.05, num_iterations: int = 3) -> Tensor:
    """Turns prototype scores into balanced soft assignments ("codes"), SwAV equation 3.

    Works in log space and float32, so half-precision scores and small epsilons cannot overflow. With several processes the balance is
    over the rows of all together, which must hold the same number of rows each.

    Args:
        scores: (B, K) cosine similarities of B embeddings to K prototypes.
        epsilon: Entropy weight, > 0; smaller is sharper.
        num_iterations: Rounds of prototype / sample normalisation, >= 1.

    Returns:
        (B, K) float32 codes; each row sums to 1, each column to about B / K (over all processes).
    """
    log_codes = scores.float() / epsilon
    for _ in range(num_iterations):
        # Every prototype receives the same mass, then every sample gives the same mass.
        prototype_mass = processes.logsumexp(torch.logsumexp(log_codes, dim=0))
        log_codes = log_codes - prototype_mass
        log_codes = log_codes - torch.logsumexp(log_codes, dim=1, keepdim=True)
    return log_codes.exp()
