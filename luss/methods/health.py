"""Signs of collapse in a method's scalars, and what usually helps."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_WARM_UP_LINES, _PATIENCE = 3, 5
LINES = _WARM_UP_LINES + _PATIENCE


def collapse_warning(lines: Sequence[Mapping[str, float]]) -> str:
    """What to say about a training's newest metric lines, oldest first; empty where nothing is wrong.

    Collapsed means that at the last lines embeddings span about one direction (`feature_rank` under 2), or nearly all images choose the same
    few prototypes (`used_prototypes` under 5 % of those that the batch could use).
    """
    newest = list(lines)[-LINES:][_WARM_UP_LINES:]
    ranks = [line.get("feature_rank", math.inf) for line in newest]
    used = [line.get("used_prototypes", 1.0) for line in newest]
    if len(newest) < _PATIENCE or any(rank >= 2 and part >= 0.05 for rank, part in zip(ranks, used, strict=True)):
        return ""
    return (
        f"the representation seems to have collapsed (feature rank {ranks[-1]:.1f}, {100 * used[-1]:.0f} % of prototypes in use): lower "
        "pretrain.lr; where the method has prototypes, freeze them longer (pretrain.method.clustering.freeze_prototypes_steps), use fewer "
        "of them or a larger batch or queue, or a smaller pretrain.method.clustering.epsilon"
    )


@torch.no_grad()
def effective_rank(embeddings: Tensor) -> Tensor:
    """Exponential of the entropy of the normalised singular values (Roy and Vetterli 2007): 1 = collapsed, at most min(B, D).

    NaN where an embedding is not finite.
    """
    if not bool(torch.isfinite(embeddings).all()):
        # The decomposition would raise before the loop can say what is wrong.
        return torch.full((), float("nan"), device=embeddings.device)
    values = torch.linalg.svdvals(embeddings.float())
    share = values / values.sum().clamp(min=1e-12)
    return torch.exp(-(share * (share + 1e-12).log()).sum())


@torch.no_grad()
def normalised_entropy(distribution: Tensor) -> Tensor:
    """Entropy of the mean of probability rows (B, K), divided by log K: 0 = one entry has all the mass, 1 = uniform."""
    mean = distribution.float().mean(dim=0)
    return -(mean * (mean + 1e-12).log()).sum() / torch.log(torch.tensor(float(distribution.shape[1])))
