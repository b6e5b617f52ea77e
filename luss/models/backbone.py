"""What a backbone is: a network that turns images into feature maps, knows how its images are normalised, and can be saved as timm weights.

Imports no timm: `luss.models.build` makes backbones by name, `convolutional` and `tokens` are the two kinds.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from luss.data.resized import nearest_multiple
from luss.errors import LussError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Features:
    """What a backbone makes of a batch.

    Attributes:
        maps: (B, L_s, H_s, W_s), shallow to deep; the last one after the network's final norm, where it has one.
        token: (B, L) class token after the final norm; None for a network without one.
    """

    maps: tuple[Tensor, ...]
    token: Tensor | None = None

    @property
    def last(self) -> Tensor:
        """(B, L, H, W) deepest map."""
        return self.maps[-1]

    def pooled(self) -> Tensor:
        """(B, L) mean of the deepest map over its positions."""
        return self.last.mean(dim=(2, 3))


class Backbone(nn.Module, ABC):
    """A network without its classifier.

    Layers that no map and no token depends on are kept for `export` and do not train.

    Attributes:
        name: timm name.
        model: The timm network.
        output_stride: Image pixels a position of the last map, as asked for.
        channels: Channels of each map, shallow to deep.
        strides: Image pixels a position of each map.
        multiple: Both sides of images must be multiples of it.
        fixed_size: Height and width of the only images that the network takes; None where any multiple will do.
        patch: Pixels a side of a token's patch; 0 for networks without tokens.
        mean: RGB mean that images are normalised with, in [0, 1].
        std: RGB standard deviation.
    """

    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        name: str,
        model: Any,
        *,
        output_stride: int,
        channels: Sequence[int],
        strides: Sequence[int],
        multiple: int = 1,
        fixed_size: tuple[int, int] | None = None,
        patch: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        """See the attributes."""
        super().__init__()
        self.name, self.model, self.output_stride = name, model, output_stride
        self.channels, self.strides = tuple(channels), tuple(strides)
        self.multiple, self.fixed_size, self.patch = multiple, fixed_size, patch
        self.set_normalisation(mean, std)

    @property
    def num_channels(self) -> int:
        """Channels of the last feature map (L in the paper)."""
        return self.channels[-1]

    @property
    def stride(self) -> int:
        """Image pixels a position of the last map."""
        return self.strides[-1]

    @abstractmethod
    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) normalised images, sides multiples of `multiple` -> their features."""

    def set_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Sets the three numbers of `mean` and `std`, which come with weights."""
        self.mean, self.std = tuple(mean), tuple(std)
        device = self._mean.device if "_mean" in self._buffers else None
        # Not in the state: they are no weights, and timm's files have none.
        self.register_buffer("_mean", torch.tensor(self.mean, device=device)[:, None, None], persistent=False)
        self.register_buffer("_std", torch.tensor(self.std, device=device)[:, None, None], persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB, uint8 or float in [0, 1] -> float32 on the network's device, minus mean, over std, channels last."""
        values = images.to(self._mean.device, non_blocking=True).float()
        if images.dtype == torch.uint8:
            values = values / 255
        return ((values - self._mean) / self._std).contiguous(memory_format=torch.channels_last)

    def colours(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) back to RGB in [0, 1]."""
        return (images * self._std + self._mean).clamp(0, 1)

    def nearest_side(self, side: int) -> int:
        """The side, in pixels, nearest to `side` that images may have."""
        return self.fixed_size[0] if self.fixed_size else nearest_multiple(side, self.multiple)

    def check_side(self, side: int, key: str) -> None:
        """Checks that square crops of `side` pixels can pass; `key` is the setting that asks for them.

        Raises:
            LussError: The network takes no such images.
        """
        if self.fixed_size is not None and self.fixed_size != (side, side):
            height, width = self.fixed_size
            raise LussError(f"{key} is {side}, but {self.name} takes images of {height} x {width} pixels only")
        if side % self.multiple:
            raise LussError(
                f"{key} is {side}, but {self.name} takes sides that are multiples of {self.multiple}: set {self.nearest_side(side)}"
            )

    def export(self) -> dict[str, Tensor]:
        """Plain timm weights: `timm.create_model(name, num_classes=0).load_state_dict(..., strict=True)` takes them."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}

    def load(self, weights: dict[str, Tensor]) -> None:
        """Loads what `export` gave.

        Raises:
            LussError: The weights are of another architecture.
        """
        try:
            self.model.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise LussError(f"these weights do not fit the backbone {self.name!r}: {error}") from error

    def describe(self) -> dict[str, Any]:
        """What it takes to build the network again, as JSON values."""
        return {
            "name": self.name,
            "output_stride": self.output_stride,
            "channels": list(self.channels),
            "mean": list(self.mean),
            "std": list(self.std),
        }


def start_residuals_at_one(backbone: Backbone) -> None:
    """Undoes timm's initialisation of the last norm of residual branches by 0: the papers' networks (PASS, SwAV) start them at 1.

    With LARS the two differ much: a tensor of zeros has no norm, so its first steps are not scaled.
    """
    for module in backbone.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim == 1 and not weight.any():
            nn.init.ones_(weight)
