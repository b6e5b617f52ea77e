"""The network that turns images into feature maps: any timm model with intermediate features, by name."""

import copy
from typing import Any

from torch import Tensor, nn

import luss.compat  # noqa: F401  (before timm)
from luss.errors import LussError

# isort: split
import timm

_NUM_STAGES = 4


class Backbone(nn.Module):
    """A timm network without its classifier that returns the feature maps of its last four stages.

    Layers behind the last map (EfficientNet's `conv_head`, ConvNeXt's `head.norm`) are kept for `export` and do not train.

    Attributes:
        name: timm name.
        output_stride: Image pixels a position of the last map, as asked for.
        channels: Channels of each returned map, shallow to deep.
        strides: Stride of each returned map.
        mean: RGB mean that images are normalised with, in [0, 1].
        std: RGB standard deviation.
    """

    def __init__(self, name: str, *, output_stride: int = 32) -> None:
        """Builds the network with random weights.

        Args:
            name: timm model name, such as "resnet18".
            output_stride: 32 (the network's own), 16 or 8.

        Raises:
            LussError: timm does not know the name, or the model cannot give feature maps at this stride.
        """
        super().__init__()
        self.name = name
        self.output_stride = output_stride
        self.model = create_timm(name, output_stride=output_stride)
        if not hasattr(self.model, "forward_intermediates"):
            raise LussError(
                f"timm's {name!r} has no intermediate feature maps: choose another backbone, such as 'resnet18'"
            )
        info = list(self.model.feature_info)[-_NUM_STAGES:]
        # Parameters that no loss reaches would stop distributed training.
        for parameter in _behind_maps(self.model, len(info)):
            parameter.requires_grad_(False)
        self.channels: tuple[int, ...] = tuple(int(stage["num_chs"]) for stage in info)
        self.strides: tuple[int, ...] = tuple(int(stage["reduction"]) for stage in info)
        defaults = getattr(self.model, "default_cfg", {})
        self.mean: tuple[float, ...] = tuple(defaults.get("mean", (0.485, 0.456, 0.406)))
        self.std: tuple[float, ...] = tuple(defaults.get("std", (0.229, 0.224, 0.225)))

    @property
    def num_channels(self) -> int:
        """Channels of the last feature map (L in the paper)."""
        return self.channels[-1]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of the last four stages.

        Args:
            images: (B, 3, H, W) normalised images.

        Returns:
            Tensors (B, channels[s], about H / strides[s], W / strides[s]), shallow to deep.
        """
        maps = self.model.forward_intermediates(images, indices=len(self.channels), intermediates_only=True)
        return list(maps)

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


def _behind_maps(model: Any, num_stages: int) -> list[nn.Parameter]:
    """Parameters of layers behind the last feature map, which are those that timm drops from a network that gives only maps."""
    maps_only = copy.deepcopy(model)
    maps_only.prune_intermediate_layers(num_stages, prune_norm=True, prune_head=True)
    used = {name for name, _ in maps_only.named_parameters()}
    return [parameter for name, parameter in model.named_parameters() if name not in used]


def start_residuals_at_one(backbone: Backbone) -> None:
    """Undoes timm's initialisation of the last norm of residual branches by 0: the papers' networks (PASS, SwAV) start them at 1.

    With LARS the two differ much: a tensor of zeros has no norm, so its first steps are not scaled.
    """
    for module in backbone.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim == 1 and not weight.any():
            nn.init.ones_(weight)


def create_timm(name: str, *, output_stride: int = 32, pretrained: bool = False) -> Any:
    """A timm model without classifier, its errors turned into words.

    Raises:
        LussError: Unknown name (naming the nearest ones), impossible stride, or weights that cannot be fetched.
    """
    if not timm.is_model(name):
        import difflib

        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise LussError(f"timm has no model {name!r}" + (f": did you mean {', '.join(near)}?" if near else ""))
    options: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except (TypeError, AssertionError, NotImplementedError) as error:
        raise LussError(
            f"{name} cannot be built with output_stride {output_stride} ({str(error) or type(error).__name__}): use 32"
        ) from error
    except Exception as error:
        if pretrained:
            raise LussError(f"the weights of {name} could not be fetched ({error}): give a file instead") from error
        raise
