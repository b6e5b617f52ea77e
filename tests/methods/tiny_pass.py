"""Small representation learners and views of noise for the tests of this folder."""

from typing import Any

import torch
from torch import Tensor
from views_of import views_of

from luss.data.views import Views
from luss.methods.base import Given
from luss.methods.pass_s import PassS, PassSSettings
from luss.methods.swav import SwAV, SwAVSettings
from luss.models.backbone import Backbone
from luss.models.build import build_backbone
from luss.settings import ClusteringSettings, ViewSettings
from luss.training.task import Progress

BATCH = 4


def tiny_parts(local_views: int = 0, clustering: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the settings of SwAV and PASS_s share."""
    sizes = {
        "num_prototypes": 8,
        "embedding_dim": 16,
        "hidden_dim": 12,
        "queue_length": 0,
        "freeze_prototypes_steps": 0,
    }
    return {
        "global_views": ViewSettings(2, 40),
        "local_views": ViewSettings(local_views, 32),
        "clustering": ClusteringSettings(**{**sizes, **(clustering or {})}),
    }


def tiny_pass_s(
    *,
    local_views: int = 0,
    clustering: dict[str, Any] | None = None,
    backbone: str = "test_resnet",
    images_a_pass: int = BATCH,
    **own: Any,
) -> PassS:
    settings = PassSSettings(**{"grid_size": 3, **tiny_parts(local_views, clustering), **own})
    return PassS(settings, tiny_given(backbone, images_a_pass))


def tiny_swav(*, local_views: int = 0, clustering: dict[str, Any] | None = None, images_a_pass: int = BATCH) -> SwAV:
    return SwAV(SwAVSettings(**tiny_parts(local_views, clustering)), tiny_given(images_a_pass=images_a_pass))


def tiny_given(backbone: str = "test_resnet", images_a_pass: int = BATCH) -> Given:
    return Given(lambda: tiny_backbone(backbone), images_a_pass)


def tiny_backbone(name: str = "test_resnet") -> Backbone:
    torch.manual_seed(0)
    return build_backbone(name)


def tiny_views(*, local_views: int = 0, batch: int = BATCH, apart: tuple[int, ...] = ()) -> Views:
    """Noise; the two global views of the images in `apart` do not overlap."""
    generator = torch.Generator().manual_seed(1)

    def images(count: int, size: int) -> Tensor:
        return torch.stack([torch.randn(batch, 3, size, size, generator=generator) for _ in range(count)])

    first = torch.tensor([[0.0, 0.0, 40.0, 40.0]]).repeat(batch, 1)
    second = torch.tensor([[10.0, 20.0, 30.0, 40.0]]).repeat(batch, 1)
    second[list(apart), 0] = 100.0
    flips = torch.arange(batch) % 2 == 0
    groups = [images(2, 40)]
    rectangles, mirrored = [torch.stack([first, second])], [torch.stack([flips, ~flips])]
    if local_views:
        groups.append(images(local_views, 32))
        rectangles.append(first.expand(local_views, batch, 4))
        mirrored.append(flips.expand(local_views, batch))
    return views_of(*groups, rectangles=rectangles, flips=mirrored)


def at_step(step: int = 0, *, epoch: int = 0, log: bool = False) -> Progress:
    """A step of an epoch, of ten steps each."""
    return Progress(10 * epoch + step, num_steps=200, steps_per_epoch=10, log=log)
