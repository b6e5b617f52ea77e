"""Backbones by timm's names, each built so that it takes images of any size where timm offers that."""

import difflib
import functools
import inspect
from dataclasses import dataclass, field, replace
from typing import Any

import torch

import luss.compat  # noqa: F401  (before timm)
from luss.errors import LussError
from luss.models.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from luss.models.convolutional import ConvBackbone
from luss.models.tokens import TokenBackbone, taps_of

# isort: split
import timm

_NUM_STAGES = 4
# What sides of images may have to be multiples of, tried in this order: strides, patches, windows of 7 or 8 positions at a stride of 32.
_MULTIPLES = (1, 2, 4, 8, 14, 16, 28, 32, 56, 64, 112, 128, 192, 224, 256, 384)
_TRIED_SIDE = 96


@dataclass(frozen=True)
class _Facts:
    """What a network turned out to be.

    Attributes:
        options: Arguments of timm's that make it take any size.
        patch: Of a vision transformer; 0 = a network of stages.
        multiple: See `Backbone`.
        fixed_size: See `Backbone`.
        unreached: Names of parameters that no map and no token depends on.
    """

    options: dict[str, Any] = field(default_factory=dict)
    patch: int = 0
    multiple: int = 1
    fixed_size: tuple[int, int] | None = None
    unreached: frozenset[str] = frozenset()


def build_backbone(name: str, *, output_stride: int = 32, drop_path: float = 0.0) -> Backbone:
    """Builds a network with random weights.

    Args:
        name: timm model name, such as "resnet18" or "vit_small_patch16_224".
        output_stride: 32 (the network's own), 16 or 8; of a vision transformer its patch, which 0 and 32 mean too.
        drop_path: Share of residual branches left out in training (stochastic depth); it rises from 0 to this over the depth.

    Raises:
        LussError: timm does not know the name, or the model cannot give feature maps at this stride.
    """
    facts = _facts(name, output_stride or 32)
    options = facts.options | ({"drop_path_rate": drop_path} if drop_path else {})
    model = create_timm(name, output_stride=_asked_stride(facts, output_stride), **options)
    # Parameters that no loss reaches would stop distributed training.
    for own, parameter in model.named_parameters():
        if own in facts.unreached:
            parameter.requires_grad_(False)
    return _backbone(name, model, output_stride, facts)


def _asked_stride(facts: _Facts, output_stride: int) -> int:
    """The stride that timm is asked for: 32 means the network's own."""
    return 32 if facts.patch else output_stride or 32


def _backbone(name: str, model: Any, output_stride: int, facts: _Facts) -> Backbone:
    sizes: dict[str, Any] = {"multiple": facts.multiple, "fixed_size": facts.fixed_size}
    if facts.patch:
        # timm's defaults under a ViT's name are those of its own weights; the learners that are built from nothing here use ImageNet's.
        count = len(taps_of(len(model.blocks)))
        channels, strides = [int(model.embed_dim)] * count, [facts.patch] * count
        return TokenBackbone(
            name, model, output_stride=facts.patch, channels=channels, strides=strides, patch=facts.patch, **sizes
        )
    info = list(model.feature_info)[-_NUM_STAGES:]
    defaults = getattr(model, "default_cfg", {})
    return ConvBackbone(
        name,
        model,
        output_stride=output_stride or 32,
        channels=[int(stage["num_chs"]) for stage in info],
        strides=[int(stage["reduction"]) for stage in info],
        mean=defaults.get("mean", IMAGENET_MEAN),
        std=defaults.get("std", IMAGENET_STD),
        **sizes,
    )


@functools.cache
@torch.enable_grad()
def _facts(name: str, output_stride: int) -> _Facts:
    """Looks at a network on the meta device, where it has shapes and no numbers: no time, no memory, no random numbers are spent."""
    with torch.device("meta"):
        shell = create_timm(name)
    if not hasattr(shell, "forward_intermediates"):
        raise LussError(
            f"timm's {name!r} has no intermediate feature maps: choose another backbone, such as 'resnet18'"
        )
    any_size = "dynamic_img_size" in inspect.signature(type(shell).__init__).parameters
    facts = _Facts({"dynamic_img_size": True} if any_size else {})
    if any_size and all(hasattr(shell, part) for part in ("_pos_embed", "blocks", "cls_token", "norm_pre", "norm")):
        facts = replace(facts, patch=int(shell.feature_info[-1]["reduction"]))
        if output_stride not in (32, facts.patch):
            raise LussError(
                f"{name} cannot be built with output_stride {output_stride}: a vision transformer has its patch, {facts.patch}, only; use 32, "
                "which means a network's own stride"
            )
    with torch.device("meta"):
        shell = create_timm(name, output_stride=_asked_stride(facts, output_stride), **facts.options).eval()
    backbone = _backbone(name, shell, output_stride, facts)
    for multiple in (facts.patch,) if facts.patch else _MULTIPLES:
        # Odd counts, so that nothing passes by being a multiple of twice as much; unlike ones, because maps must follow the image.
        rows = _TRIED_SIDE // multiple | 1
        height, width = multiple * rows, multiple * (rows + 2 * max(1, rows // 2))
        if _takes(backbone, height, width):
            return replace(facts, multiple=multiple, unreached=_unreached(backbone, height, width))
    height, width = (int(side) for side in shell.default_cfg.get("input_size", (3, 224, 224))[1:])
    if not _takes(backbone, height, width):
        raise LussError(f"timm's {name!r} gives no feature maps: choose another backbone, such as 'resnet18'")
    fixed = replace(facts, multiple=height, fixed_size=(height, width))
    return replace(fixed, unreached=_unreached(backbone, height, width))


def _takes(backbone: Backbone, height: int, width: int) -> bool:
    """Whether images of a size give maps of their aspect."""
    try:
        with torch.no_grad():
            maps = backbone(torch.empty(1, 3, height, width, device="meta")).maps
    except Exception:
        # Each family has its own error for a size that it cannot take.
        return False
    return all(m.ndim == 4 and (m.shape[2] == m.shape[3]) == (height == width) for m in maps)


def _unreached(backbone: Backbone, height: int, width: int) -> frozenset[str]:
    # In training mode and with two images: some attention keeps its biases without gradient in evaluation, and norms need a batch.
    features = backbone.train()(torch.empty(2, 3, height, width, device="meta"))
    total = sum(part.sum() for part in (*features.maps, features.token) if part is not None)
    parameters = {name: value for name, value in backbone.model.named_parameters() if value.requires_grad}
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return frozenset(name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None)


def create_timm(name: str, *, output_stride: int = 32, pretrained: bool = False, **options: Any) -> Any:
    """A timm model without classifier, its errors turned into words; `pretrained`: with its published weights; `output_stride`: 32 = its own.

    Raises:
        LussError: Unknown name (naming the nearest ones), impossible stride, or weights that cannot be fetched.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise LussError(f"timm has no model {name!r}" + (f": did you mean {', '.join(near)}?" if near else ""))
    if output_stride != 32:
        options["output_stride"] = output_stride
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except (TypeError, AssertionError, NotImplementedError) as error:
        if "drop_path_rate" in str(error):
            raise LussError(f"{name} has no stochastic depth: set drop_path to 0") from error
        raise LussError(
            f"{name} cannot be built with output_stride {output_stride} ({str(error) or type(error).__name__}): use 32"
        ) from error
    except Exception as error:
        if pretrained:
            raise LussError(f"the weights of {name} could not be fetched ({error}): give a file instead") from error
        raise
