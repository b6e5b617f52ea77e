"""Dense contrast: InfoNCE at every position of a map, each with the position of the other view that looks most alike (DenseCL)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from luss.losses.info_nce import info_nce


@torch.no_grad()
def matching_positions(query: Tensor, key: Tensor) -> Tensor:
    """For every position of the query's map the position of the key's map with the largest cosine (Wang et al. 2021, equation 3).

    Args:
        query: (B, L, H, W) backbone features.
        key: (B, L, H, W) backbone features of the other view; where crops lie does not matter.

    Returns:
        (B, H * W) int64 positions, row by row; the first of equal ones.
    """
    with torch.autocast(query.device.type, enabled=False):
        ours, theirs = (F.normalize(maps.float().flatten(2), dim=1) for maps in (query, key))
        return torch.einsum("bli,blj->bij", ours, theirs).argmax(dim=2)


def dense_contrast(query: Tensor, key: Tensor, match: Tensor, negatives: Tensor, *, temperature: float = 0.2) -> Tensor:
    """Mean over images and positions of InfoNCE between a position and the one it is matched with (Wang et al. 2021, equation 2).

    Args:
        query: (B, D, H, W) projections of the query's map, not normalised.
        key: (B, D, H, W) the same of the key's; no gradient passes through them.
        match: (B, H * W) from `matching_positions`.
        negatives: (K, D) unit vectors, means over the maps of other images.
        temperature: Divides the cosines, > 0.

    Returns:
        Scalar.
    """
    ours, theirs = (F.normalize(maps.float().flatten(2), dim=1) for maps in (query, key.detach()))
    positive = theirs.gather(2, match[:, None, :].expand(-1, theirs.shape[1], -1))
    rows, matched = (maps.transpose(1, 2).flatten(0, 1) for maps in (ours, positive))
    return info_nce(rows, matched, negatives, temperature=temperature)
