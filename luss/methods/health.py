"""Signs of collapse in a method's scalars, and what usually helps."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

_WARM_UP_LINES, _PATIENCE = 3, 5
LINES = _WARM_UP_LINES + _PATIENCE

# Share of ln K that a clustering loss on its plateau is off by, and how long it must stand there before that says something.
_PLATEAU, _PLATEAU_EPOCHS, _PLATEAU_STEPS = 0.005, 10, 200


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


def plateau_epochs(lines: Iterable[Mapping[str, float]], num_prototypes: int) -> int:
    """For how many epochs a clustering loss has stood at ln K, what it is while codes say nothing of an image.

    Args:
        lines: Metric lines with `step`, `epoch` and the loss `swav`, oldest first; others are passed over.
        num_prototypes: K.

    Returns:
        Whole epochs up to the newest line; 0 where the loss has left the plateau by then, or has not been there for long.
    """
    level = math.log(num_prototypes)
    first: Mapping[str, float] | None = None
    last: Mapping[str, float] = {}
    for line in lines:
        if {"swav", "step", "epoch"} <= line.keys():
            last, stands = line, abs(line["swav"] - level) <= _PLATEAU * level
            first = (first or line) if stands else None
    if first is None:
        return 0
    epochs, steps = last["epoch"] - first["epoch"], last["step"] - first["step"]
    return int(epochs) if epochs >= _PLATEAU_EPOCHS and steps >= _PLATEAU_STEPS else 0


def plateau_warning(
    lines: Sequence[Mapping[str, float]],
    num_prototypes: int,
    *,
    head: str = "pretrain.method.clustering",
    views: str = "pretrain.method.global_views",
) -> str:
    """What to say about a training that has not left the plateau for `plateau_epochs`; `head` and `views`: the settings that help."""
    epochs = plateau_epochs(lines, num_prototypes)
    if not epochs:
        return ""
    return (
        f"the clustering loss has stayed at ln({num_prototypes}) = {math.log(num_prototypes):.2f} for {epochs} epochs: the prototypes are not "
        f"used, and nothing is learned from them. Draw them from the embeddings at first ({head}.draw_prototypes_steps), with "
        f"{head}.embedding_dim well below num_prototypes, or milder views ({views}.scale)"
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
