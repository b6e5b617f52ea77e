"""NT-Xent: the two views of an image find each other among all views of the batch (SimCLR)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from luss import processes


def nt_xent(first: Tensor, second: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Normalised temperature-scaled cross-entropy (Chen et al. 2020, equation 1), over the global batch.

    The official code adds the two views' means and so has twice this value.

    Args:
        first: (B, D) unit embeddings of the first views of this process.
        second: (B, D) the same of the second views.
        temperature: Divides the cosines, > 0.

    Returns:
        Scalar, the mean over the 2 B views of this process, each against the 2 N - 2 negatives of the N images of all processes.
    """
    with torch.autocast(first.device.type, enabled=False):
        anchors = torch.cat([first.float(), second.float()])
        # Rows of one view after another, whatever the number of processes.
        everyone = torch.cat([processes.gather(first.float()), processes.gather(second.float())])
        batch, total = len(first), len(everyone) // 2
        own = processes.rank() * batch + torch.arange(batch, device=first.device)
        places = torch.cat([own, own + total])
        scores = anchors @ everyone.T / temperature
        # A view is no candidate for itself.
        scores = scores.scatter(1, places[:, None], -torch.inf)
        return F.cross_entropy(scores, torch.cat([own + total, own]))
