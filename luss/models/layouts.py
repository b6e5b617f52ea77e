"""How publishers name the layers of networks that timm has: their tensors as timm names them.

timm's own conversions (`checkpoint_filter_fn`) know the names of DINOv2, DINOv3, ConvNeXt, CLIP and others and resize positions; torchvision's
names are translated here.
"""

import contextlib
import inspect
import io
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from luss.errors import LussError
from luss.models.backbone import Backbone

Tensors = dict[str, Tensor]

COUNTER = "num_batches_tracked"
"""The name of counters of training batches: old files lack them, and nothing depends on them."""

# Where a checkpoint holds two whole backbones: the one that its authors evaluate, and the copy that only makes targets.
_PREFERRED = ("teacher", "ema", "encoder_q", "base_encoder", "online")
_AVOIDED = ("student", "encoder_k", "momentum", "target")
# What may stand before names that timm does not know.
_WRAPPED = re.compile(r"(?:(?:module|model|backbone|net|teacher|student|encoder_q|base_encoder)\.)+")
# Training checkpoints of DINOv2 and its successors hold blocks in chunks; the second number counts through.
_CHUNKED = re.compile(r"^blocks\.\d+\.(\d+)\.")

TORCHVISION = (
    "ResNet, ResNeXt, Wide ResNet, DenseNet, VGG and Inception v3 (timm's names), MobileNetV2, MobileNetV3, EfficientNet, EfficientNetV2, "
    "ConvNeXt, RegNet and ViT"
)
"""The families of torchvision whose files are taken."""

_RENAMED: dict[str, tuple[tuple[str, str], ...]] = {
    r"regnet[xy]_\d+(_tv)?": (
        (r"^stem\.0\.", "stem.conv."), (r"^stem\.1\.", "stem.bn."),
        (r"^trunk_output\.block(\d)\.block\d-(\d+)\.", r"s\1.b\2+."),
        (r"\.proj\.0\.", ".downsample.conv."), (r"\.proj\.1\.", ".downsample.bn."),
        (r"\.f\.([abc])\.0\.", r".\1.conv."), (r"\.f\.([abc])\.1\.", r".\1.bn."), (r"\.f\.se\.", ".se."),
        (r"\.a\.", ".conv1."), (r"\.b\.", ".conv2."), (r"\.c\.", ".conv3."),
    ),
    r".*vit.*": (
        (r"^class_token$", "cls_token"), (r"^encoder\.pos_embedding$", "pos_embed"), (r"^conv_proj\.", "patch_embed.proj."),
        (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."), (r"^encoder\.ln\.", "norm."), (r"\.ln_([12])\.", r".norm\1."),
        (r"\.self_attention\.in_proj_", ".attn.qkv."), (r"\.self_attention\.out_proj\.", ".attn.proj."),
        (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."), (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
    ),
}  # fmt: skip
# Networks whose layers have the order of timm's, and the epsilon of torchvision's batch norms; 0 = they have none.
_ORDERED = {
    r"mobilenetv2_100|efficientnet_b[0-4]": 1e-5,
    r"mobilenetv3_(small|large)_100|efficientnet_b[5-7]|efficientnetv2_[sml]": 1e-3,
    r"convnext_(tiny|small|base|large)": 0.0,
}
# The order of registration where it is not that of numbers.
_RANKS = {name: rank for rank, name in enumerate(("layer_scale", "block", "features", "classifier", "weight", "bias"))}


def arranged(backbone: Backbone, given: Mapping[str, Tensor], source: str) -> tuple[str, Tensors]:
    """Finds a network in a file.

    Args:
        backbone: The network that it is wanted for.
        given: The file's tensors, under any prefix and with anything beside them.
        source: The file, for messages.

    Returns:
        What stood before the network's names, and its tensors under timm's names; those of another network fit badly.

    Raises:
        LussError: It is a vision transformer that timm cannot convert, or one with biases that the network lacks.
    """
    own = backbone.model.state_dict()
    prefix = best_prefix(given, own)
    found = _below(prefix, given)
    if not backbone.patch and _fitting(found, own) == len(own):
        return prefix, found
    candidates, failed = [] if backbone.patch else [(prefix, found, found)], None
    for before in [prefix, *sorted({"", *(match[0] for name in given if (match := _WRAPPED.match(name)))} - {prefix})]:
        tensors = {_CHUNKED.sub(r"blocks.\1.", name): tensor for name, tensor in _below(before, given).items()}
        for translated in filter(None, (tensors, _of_torchvision(backbone, tensors))):
            try:
                candidates.append((before, tensors, _by_timm(backbone.model, translated)))
            except Exception as error:
                # Of names that it does not know it makes anything, or an error of any kind.
                failed = failed or error
            if not backbone.patch:
                candidates.append((before, tensors, translated))
    if not candidates:
        raise LussError(
            f"{source} does not fit the backbone {backbone.name!r}: timm cannot convert it ({failed}). "
            "Set pretrain.backbone.name to the network that the file is of"
        ) from failed
    prefix, theirs, found = max(
        candidates, key=lambda candidate: (_fitting(candidate[2], own), _preference(candidate[0]))
    )
    _check_biases(backbone, theirs, source)
    return prefix, found


def best_prefix(given: Mapping[str, Tensor], own: Mapping[str, Tensor], *, by_shape: bool = True) -> str:
    """What stands before the names of `own` in a file: the prefix below which most of its tensors are, `by_shape` those of the right one."""
    votes: Counter[str] = Counter()
    for name, tensor in given.items():
        parts = name.split(".")
        for place in range(len(parts)):
            rest = ".".join(parts[place:])
            if rest in own and (tensor.shape == own[rest].shape or not by_shape):
                votes[name.removesuffix(rest)] += 1
    return max(votes, key=lambda prefix: (votes[prefix], _preference(prefix), -len(prefix)), default="")


def _preference(prefix: str) -> int:
    parts = prefix.split(".")
    return any(part in _PREFERRED for part in parts) - any(part.startswith(_AVOIDED) for part in parts)


def _below(prefix: str, given: Mapping[str, Tensor]) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in given.items() if name.startswith(prefix)}


def _fitting(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int:
    return sum(1 for name in own if name in found and found[name].shape == own[name].shape)


def _by_timm(model: nn.Module, found: Tensors) -> Tensors:
    """timm's conversion for the network's family, where it has one."""
    module = sys.modules[type(model).__module__]
    convert: Callable[..., Tensors] | None = getattr(
        module, "checkpoint_filter_fn", getattr(module, "_filter_fn", None)
    )
    if convert is None:
        return found
    takes = inspect.signature(convert).parameters
    # It prints a line for every bias that a network lacks.
    with contextlib.redirect_stdout(io.StringIO()):
        return convert(
            dict(found),
            *([model] if "model" in takes else []),
            **({"adapt_layer_scale": True} if "adapt_layer_scale" in takes else {}),
        )


def _check_biases(backbone: Backbone, theirs: Mapping[str, Tensor], source: str) -> None:
    """timm's DINOv3 has networks with biases of queries and values, and without: its conversion drops them for the latter."""
    own = backbone.model.state_dict()
    for name, bias in theirs.items():
        lost = name.endswith("attn.qkv.bias") and name not in own and name.replace("qkv.bias", "q_bias") not in own
        # DINOv3's keys have no bias: the middle third is masked.
        if lost and any(part.any() for part in bias.chunk(3)[::2]):
            near = f", such as {backbone.name.split('.')[0]}_qkvb" if "dinov3" in backbone.name else ""
            raise LussError(
                f"{source} has biases of queries and values ({name}), which {backbone.name!r} lacks: set pretrain.backbone.name to the network "
                f"that has them{near}"
            )


def _of_torchvision(backbone: Backbone, found: Tensors) -> Tensors:
    """The tensors of a network of torchvision under timm's names; empty where it is none that is known."""
    name, own = backbone.name.split(".")[0], backbone.model.state_dict()
    for pattern, rules in _RENAMED.items():
        if re.fullmatch(pattern, name):
            renamed = {_renamed(each, rules): tensor for each, tensor in found.items()}
            return renamed if _layers(own) <= set(renamed) else {}
    for pattern, epsilon in _ORDERED.items():
        if re.fullmatch(pattern, name):
            return dict(_in_order(backbone.model, own, found, epsilon))
    return {}


def _layers(own: Mapping[str, Tensor]) -> set[str]:
    return {name for name in own if not name.endswith(COUNTER)}


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    # timm counts blocks from 1.
    return re.sub(r"\.b(\d+)\+\.", lambda found: f".b{int(found[1]) + 1}.", name)


def _in_order(model: nn.Module, own: Tensors, found: Tensors, epsilon: float) -> Iterator[tuple[str, Tensor]]:
    """Pairs the layers of two networks in the order in which data passes them; nothing where a shape differs."""
    layers = [name for name in own if not name.endswith(COUNTER)]
    theirs = sorted((name for name in found if not name.endswith(COUNTER)), key=_place)
    pairs = list(zip(layers, theirs, strict=False))
    if len(pairs) < len(layers) or any(_shape(own[mine]) != _shape(found[their]) for mine, their in pairs):
        return
    for mine, their in pairs:
        tensor = found[their].reshape(own[mine].shape)
        if mine.endswith("running_var"):
            # What torchvision adds to a variance, and timm does not, becomes part of it: features are the same.
            norm: Any = model.get_submodule(mine.rpartition(".")[0])
            tensor = tensor + (epsilon - norm.eps)
        yield mine, tensor
    yield from ((name, found[name]) for name in theirs[len(pairs) :])


def _place(name: str) -> list[tuple[int, str]]:
    """A key that sorts names of layers by their numbers, as they were registered."""
    return [(int(part), "") if part.isdigit() else (_RANKS.get(part, len(_RANKS)), part) for part in name.split(".")]


def _shape(tensor: Tensor) -> list[int]:
    return [side for side in tensor.shape if side != 1]
