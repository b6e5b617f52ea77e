"""Swapped prediction: one view's codes supervise the other views' scores."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def swapped_prediction(scores: Sequence[Tensor], codes: Sequence[Tensor], *, temperature: float = 0.1) -> Tensor:
    """Cross-entropy between the codes of each assigning view and the scores of every other view (SwAV equation 2).

    Also the deep-to-shallow loss of PASS (section 5.3.2): the same codes, with scores that shallow stages predict.

    Args:
        scores: V tensors (B, K), cosine similarities to the prototypes, the assigning views first.
        codes: A <= V tensors (B, K), one for each of the first A views; rows sum to 1; no gradient passes through them.
        temperature: Divides the scores, > 0.

    Returns:
        Scalar: the mean over assigning views of the mean over the other views of the mean over images.

    Raises:
        ValueError: Fewer than two views, or more codes than views.
    """
    if len(scores) < 2 or not 1 <= len(codes) <= len(scores):
        raise ValueError(
            f"swapped prediction needs at least 2 views and 1 to V codes, got {len(scores)} and {len(codes)}"
        )
    log_probabilities = [F.log_softmax(score.float() / temperature, dim=1) for score in scores]
    total = scores[0].new_zeros((), dtype=log_probabilities[0].dtype)
    for assigning, code in enumerate(codes):
        others = [view for view in range(len(scores)) if view != assigning]
        for view in others:
            total = total - (code.detach() * log_probabilities[view]).sum(dim=1).mean() / len(others)
    return total / len(codes)


def own_prediction(scores: Sequence[Tensor], codes: Sequence[Tensor], *, temperature: float = 0.1) -> Tensor:
    """Cross-entropy between the codes of each view and the scores of the same view: what swapping is compared with (PASS table 5.6d).

    Args:
        scores: V tensors (B, K).
        codes: V tensors (B, K); no gradient passes through them.
        temperature: Divides the scores, > 0.

    Returns:
        Scalar: the mean over views of the mean over images.
    """
    losses = [
        -(code.detach() * F.log_softmax(score.float() / temperature, dim=1)).sum(dim=1).mean()
        for score, code in zip(scores, codes, strict=True)
    ]
    return torch.stack(losses).mean()
