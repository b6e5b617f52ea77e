"""What learners share that compare two views of an image: of one kind, or each with colours of its own."""

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from luss.methods.health import effective_rank
from luss.settings import ColourSettings, MethodSettings, ViewSettings


def moco_colours() -> ColourSettings:
    """The colours of MoCo v2, which SimSiam and DenseCL took over."""
    return ColourSettings(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


@dataclass
class TwoViewSettings(MethodSettings):
    """Two views of one kind."""

    global_views: ViewSettings = field(default_factory=lambda: ViewSettings(2, 224, (0.2, 1.0), colours=moco_colours()))

    def problems(self) -> list[str]:
        """Two views are compared."""
        count, found = self.global_views.count, super().problems()
        return found if count == 2 else [*found, f"global_views.count is {count}: {self.name} compares exactly 2"]


def byol_view(
    *, blur: float, solarise: float, interpolation: Literal["bilinear", "bicubic"] = "bilinear"
) -> ViewSettings:
    """One of the two views of BYOL, which PixPro took over: they differ in how often they are blurred and solarised."""
    colours = ColourSettings(0.4, 0.4, 0.2, 0.1, blur_probability=blur, solarise_probability=solarise)
    return ViewSettings(1, 224, (0.08, 1.0), interpolation=interpolation, colours=colours)


@dataclass
class UnlikeViewSettings(MethodSettings):
    """Two views, each a group of its own; they must be of one size."""

    first_view: ViewSettings = field(default_factory=lambda: byol_view(blur=1.0, solarise=0.0))
    second_view: ViewSettings = field(default_factory=lambda: byol_view(blur=0.1, solarise=0.2))

    def problems(self) -> list[str]:
        """One view a group, of one size."""
        found = super().problems()
        for key, view in (("first_view", self.first_view), ("second_view", self.second_view)):
            if view.count != 1:
                found.append(f"{key}.count is {view.count}: {self.name} compares one view with one other")
        if self.first_view.size != self.second_view.size:
            found.append(
                f"second_view.size is {self.second_view.size}, but first_view.size is {self.first_view.size}: set one size"
            )
        return found


@torch.no_grad()
def embedding_health(embeddings: Tensor) -> dict[str, Tensor]:
    """Signs of collapse over a batch of embeddings (B, D), not normalised.

    `feature_rank` (see `luss.methods.health`), and `embedding_spread`: the standard deviation of a channel of the unit vectors times the
    root of their number, 0 = all images are one point, 1 = spread over the sphere (SimSiam section 4.1).
    """
    unit = F.normalize(embeddings.float(), dim=1)
    spread = unit.std(dim=0).mean() * unit.shape[1] ** 0.5
    return {"feature_rank": effective_rank(unit), "embedding_spread": spread}
