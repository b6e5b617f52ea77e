"""First weights of a backbone: none, timm's, or a file of other people's, whatever they wrapped it in. Nothing is unpickled.

A checkpoint of a learner (MoCo, SwAV, DINO, PASS, ...) holds the backbone beside heads, queues and a momentum copy, each under a prefix such as
`module.`, `encoder_q.` or `teacher.backbone.`. The backbone is found as the prefix below which most of its tensors lie; all else is left out.
"""

import contextlib
import inspect
import io
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from luss.errors import LussError
from luss.models.backbone import Backbone
from luss.models.build import create_timm

# Dictionaries that hold the tensors, in the order in which they are looked into.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "teacher", "student", "backbone", "encoder")
# Where a checkpoint holds two whole backbones: the one that its authors evaluate, and the copy that only makes targets.
_PREFERRED = ("teacher", "ema", "encoder_q", "base_encoder", "online")
_AVOIDED = ("student", "encoder_k", "momentum", "target")
# Parts of a vision transformer without which the others mean nothing: positions, patches, class token, registers, scales of the branches.
_NEEDED_TOKENS = re.compile(r"pos_embed|patch_embed|cls_token|reg_token|gamma|rope")
# Counts batches of training; old files lack it, and nothing depends on it.
_COUNTER = "num_batches_tracked"
_SHOWN = 8


@dataclass(frozen=True)
class LoadedWeights:
    """What became of a weights file.

    Attributes:
        source: The setting.
        prefix: What stood before the backbone's names.
        missing: The backbone's tensors that the file lacks: they stay random.
        other_shape: Those that it has in another shape: they stay random too.
        unused: Tensors of the file that are no part of the backbone: heads, a classifier, a momentum copy.
    """

    source: str
    prefix: str = ""
    missing: list[str] = field(default_factory=list)
    other_shape: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        """Sentences about what should have been there and was not."""
        found = [("lacks", self.missing), ("has in another shape", self.other_shape)]
        return [f"{self.source} {verb} {_counted(names)}: kept random" for verb, names in found if names]

    def notes(self) -> list[str]:
        """Sentences about what was left out on purpose."""
        if not self.unused:
            return []
        return [f"{self.source}: left out {_counted(self.unused)}, which are no part of the backbone"]


def initialise(backbone: Backbone, weights: str) -> LoadedWeights:
    """Gives a backbone its first weights.

    Args:
        backbone: Changed in place.
        weights: "random" (left as built); "timm" (those published under its name) or "timm:resnet50.a1_in1k" (a name of timm's with its tag),
            whose normalisation the backbone takes over; or the path of a .safetensors or torch file in the keys of timm or torchvision, as
            torchvision, SwAV, MoCo, DINO, PASS and others save them.

    Raises:
        LussError: The file cannot be read without running code, or fits less than half of the backbone.
    """
    if weights == "random":
        return LoadedWeights(weights)
    if weights == "timm" or weights.startswith("timm:"):
        _from_timm(backbone, weights.removeprefix("timm").removeprefix(":") or backbone.name)
        return LoadedWeights(weights)
    given = read_weights(Path(weights))
    own = backbone.model.state_dict()
    prefix = _best_prefix(given, own)
    found = {name.removeprefix(prefix): tensor for name, tensor in given.items() if name.startswith(prefix)}
    if backbone.patch:
        found = _in_timms_form(backbone, found, weights)
    fitting = {name: found[name] for name in own if name in found and found[name].shape == own[name].shape}
    needed = [name for name in own if not name.endswith(_COUNTER)]
    missing = [name for name in needed if name not in found]
    other_shape = [name for name in needed if name in found and name not in fitting]
    unused = [name for name in given if not name.startswith(prefix)]
    unused += [prefix + name for name in found if name not in own]
    result = LoadedWeights(weights, prefix, missing, other_shape, unused)
    _check_fit(backbone, result, own, fitting)
    backbone.model.load_state_dict(fitting, strict=False)
    return result


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads tensors from a .safetensors file or a torch checkpoint, without unpickling code.

    Raises:
        LussError: The file is absent, damaged, or holds more than tensors and plain containers.
    """
    if not path.is_file():
        raise LussError(f"the weights file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise LussError(f"{path} cannot be read as weights {_reason(path, error)}") from error
    while isinstance(value, dict) and (inner := next((k for k in _WRAPPERS if isinstance(value.get(k), dict)), "")):
        value = value[inner]
    tensors = {str(k): v for k, v in value.items() if isinstance(v, Tensor)} if isinstance(value, dict) else {}
    if not tensors:
        raise LussError(f"{path} holds no tensors by name")
    return tensors


def _from_timm(backbone: Backbone, name: str) -> None:
    source = create_timm(name, pretrained=True)
    backbone.load(source.state_dict())
    settings = getattr(source, "pretrained_cfg", {})
    backbone.set_normalisation(settings.get("mean", backbone.mean), settings.get("std", backbone.std))


def _in_timms_form(backbone: Backbone, found: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Tensors of a vision transformer as timm names them, with position tables and patches of another size resized as timm does.

    Raises:
        LussError: timm cannot convert them.
    """
    convert: Any = getattr(sys.modules[type(backbone.model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return found
    options = {"adapt_layer_scale": True} if "adapt_layer_scale" in inspect.signature(convert).parameters else {}
    try:
        # It prints a line for every bias that a network lacks.
        with contextlib.redirect_stdout(io.StringIO()):
            converted: dict[str, Tensor] = convert(dict(found), backbone.model, **options)
    except Exception as error:
        raise LussError(
            f"{source} does not fit the backbone {backbone.name!r}: timm cannot convert it ({error}). "
            "Set pretrain.backbone.name to the network that the file is of"
        ) from error
    return converted


def _best_prefix(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """What stands before the backbone's names in a file: the prefix below which most of its tensors are, in the right shape."""
    votes: Counter[str] = Counter()
    for name, tensor in given.items():
        parts = name.split(".")
        for place in range(len(parts)):
            rest = ".".join(parts[place:])
            if rest in own and tensor.shape == own[rest].shape:
                votes[name.removesuffix(rest)] += 1
    return max(votes, key=lambda prefix: (votes[prefix], _preference(prefix), -len(prefix)), default="")


def _preference(prefix: str) -> int:
    parts = prefix.split(".")
    return any(part in _PREFERRED for part in parts) - any(part.startswith(_AVOIDED) for part in parts)


def _check_fit(
    backbone: Backbone, result: LoadedWeights, own: Mapping[str, Tensor], fitting: Mapping[str, Tensor]
) -> None:
    """Refuses a file of another network: by tensors, and by numbers, because networks of one family share their small tensors."""
    needed = [name for name in own if not name.endswith(_COUNTER)]
    num_fitting = sum(1 for name in needed if name in fitting)
    numbers, all_numbers = (sum(own[name].numel() for name in names) for names in (set(fitting) & set(needed), needed))
    random = [name for name in (*result.missing, *result.other_shape) if _NEEDED_TOKENS.search(name)]
    if 2 * num_fitting >= len(needed) and 2 * numbers >= all_numbers and not (backbone.patch and random):
        return
    parts = [f"missing are {_counted(result.missing)}"] if result.missing else []
    parts += [f"of another shape are {_counted(result.other_shape)}"] if result.other_shape else []
    raise LussError(
        f"{result.source} does not fit the backbone {backbone.name!r}: {num_fitting} of {len(needed)} tensors match; {'; '.join(parts)}. "
        "Set pretrain.backbone.name to the network that the file is of"
    )


def _counted(names: list[str]) -> str:
    return f"{len(names)} tensors ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"


def _reason(path: Path, error: Exception) -> str:
    """Why a file cannot be read; for one with objects, such as the arguments of a training script, how to get the tensors out."""
    text = str(error) or type(error).__name__
    if "Weights only load failed" not in text:
        return f"({text.splitlines()[0]})"
    found = re.search(r"GLOBAL (\S+)", text)
    return (
        f"without running code from it: beside tensors it holds {found[1] if found else 'other objects'}. If you trust its source, take the "
        f"tensors out once, in Python: import torch; c = torch.load({str(path)!r}, weights_only=False); "
        "torch.save({key: c[key] for key in ('state_dict', 'model', 'teacher') if key in c}, 'tensors.pth')"
    )
