"""The one place where tests build a batch of views by hand."""

from collections.abc import Sequence

import torch
from torch import Tensor

from luss.data.views import ViewGroup, Views

_PLAIN = (1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0)


def views_of(
    *groups: Tensor, rectangles: Sequence[Tensor] | None = None, flips: Sequence[Tensor] | None = None
) -> Views:
    """Views (V, B, 3, S, S) a group, of images 0 to B - 1, in colours as they are.

    Without `rectangles` (V, B, 4) and `flips` (V, B), one of each a group, every view is the same corner of its image, not mirrored.
    """
    made = []
    for place, images in enumerate(groups):
        count, batch, side = images.shape[0], images.shape[1], images.shape[-1]
        where = torch.tensor([0.0, 0.0, side, side]).expand(count, batch, 4)
        mirrored = torch.zeros(count, batch, dtype=torch.bool)
        made.append(
            ViewGroup(
                images=images,
                rectangles=where if rectangles is None else rectangles[place],
                flips=mirrored if flips is None else flips[place],
                colours=torch.tensor(_PLAIN).expand(count, batch, 7),
            )
        )
    batch = groups[0].shape[1]
    return Views(tuple(made), torch.arange(batch), torch.full((batch, 2), 100), [])
