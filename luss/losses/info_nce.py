"""InfoNCE: tell the one embedding that belongs to a query from many that do not."""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(query: Tensor, positive: Tensor, negatives: Tensor, *, temperature: float = 0.2) -> Tensor:
    """Cross-entropy of finding the positive among itself and the negatives (MoCo, equation 1).

    Args:
        query: (N, D) unit vectors.
        positive: (N, D) unit vectors, one for each query; no gradient passes through them.
        negatives: (K, D) unit vectors, the same for every query; no gradient passes through them.
        temperature: Divides the cosines, > 0.

    Returns:
        Scalar, the mean over the queries; ln(K + 1) where nothing is told apart.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, positive, negatives = query.float(), positive.detach().float(), negatives.detach().float()
        right = (query * positive).sum(dim=1) / temperature
        scores = torch.cat([right[:, None], query @ negatives.T / temperature], dim=1)
        # Column 0 is the right answer of every query.
        return F.cross_entropy(scores, torch.zeros(len(query), dtype=torch.int64, device=query.device))
