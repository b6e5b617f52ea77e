"""Small representation learners and views of noise for the tests of this folder."""

from typing import Any

import torch
from torch import Tensor

from luss.methods.base import Method, Progress, Views
from luss.models.backbone import Backbone
from luss.models.build import build_backbone
from luss.settings import ClusteringSettings, PassSSettings, PretrainSettings, ViewSettings

BATCH = 4


def tiny_settings(
    *, local_views: int = 0, batch_size: int = BATCH, pass_s: dict[str, Any] | None = None, **clustering: Any
) -> PretrainSettings:
    sizes = {
        "num_prototypes": 8,
        "embedding_dim": 16,
        "hidden_dim": 12,
        "queue_length": 0,
        "freeze_prototypes_steps": 0,
    }
    return PretrainSettings(
        batch_size=batch_size,
        global_views=ViewSettings(2, 40),
        local_views=ViewSettings(local_views, 32),
        clustering=ClusteringSettings(**{**sizes, **clustering}),
        pass_s=PassSSettings(**{"grid_size": 3, **(pass_s or {})}),
    )


def tiny_backbone() -> Backbone:
    torch.manual_seed(0)
    return build_backbone("test_resnet")


def tiny_views(*, local_views: int = 0, batch: int = BATCH, apart: tuple[int, ...] = ()) -> Views:
    """Noise; the two global views of the images in `apart` do not overlap."""
    generator = torch.Generator().manual_seed(1)

    def images(count: int, size: int) -> list[Tensor]:
        return [torch.randn(batch, 3, size, size, generator=generator) for _ in range(count)]

    first = torch.tensor([[0.0, 0.0, 40.0, 40.0]]).repeat(batch, 1)
    second = torch.tensor([[10.0, 20.0, 30.0, 40.0]]).repeat(batch, 1)
    second[list(apart), 0] = 100.0
    flips = torch.arange(batch) % 2 == 0
    groups = [images(2, 40)]
    rectangles, mirrored = [[first, second]], [[flips, ~flips]]
    if local_views:
        groups.append(images(local_views, 32))
        rectangles.append([first] * local_views)
        mirrored.append([flips] * local_views)
    return Views(groups, rectangles, mirrored, torch.arange(batch))


def at_step(step: int = 0, *, epoch: int = 0, log: bool = False) -> Progress:
    return Progress(step=step, num_steps=10, epoch=epoch, log=log)


def tiny_method(kind: type[Method], *, accumulate: int = 1, **options: Any) -> Any:
    """A method on the tiny backbone; `options` as for `tiny_settings`, `accumulate` the forward passes of a step."""
    settings = tiny_settings(**options)
    settings.accumulate = accumulate
    return kind(tiny_backbone(), settings)
