"""First weights of a backbone: none, timm's, or a file of other people's, whatever they wrapped it in. Nothing is unpickled.

A checkpoint of a learner (MoCo, SwAV, DINO, PASS, ...) holds the backbone beside heads, queues and a momentum copy, each under a prefix such as
`module.`, `encoder_q.` or `teacher.backbone.`. The backbone is found as the prefix below which most of its tensors lie; all else is left out.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from luss.errors import LussError
from luss.models.backbone import Backbone
from luss.models.build import create_timm
from luss.models.layouts import COUNTER, TORCHVISION, arranged
from luss.models.weight_files import read_weights

# What files hold beside weights, and what is another network's weight no more than these.
_NO_WEIGHT = re.compile(
    rf"({COUNTER}|relative_\w+|attn_mask|bias_mask|mask_token|periods|freqs|k_bias|qkv\.bias|total_\w+)$"
)
# Parts of a network that no map needs: what stands behind its last stage, or is trained for one task.
_TAILS = {"head", "head_dist", "heads", "fc", "classifier", "pre_logits", "norm", "fc_norm"}
_SHOWN = 8


@dataclass(frozen=True)
class LoadedWeights:
    """What became of a weights file.

    Attributes:
        source: The setting.
        prefix: What stood before the backbone's names.
        missing: The backbone's tensors that the file lacks: they stay as they were built.
        other_shape: Those that it has in another shape: they stay too.
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
        return [f"{self.source} {verb} {counted(names)}: kept random" for verb, names in found if names]

    def notes(self) -> list[str]:
        """Sentences about what was left out on purpose."""
        if not self.unused:
            return []
        return [f"{self.source}: left out {counted(self.unused)}, which are no part of the backbone"]


def initialise(backbone: Backbone, weights: str) -> LoadedWeights:
    """Gives a backbone its first weights.

    Args:
        backbone: Changed in place.
        weights: "random" (left as built); "timm" (those published under its name) or "timm:resnet50.a1_in1k" (a name of timm's with its tag),
            whose normalisation the backbone takes over; or the path of a .safetensors or torch file in the keys of timm or torchvision, as
            torchvision, SwAV, MoCo, DINO, PASS and others save them.

    Raises:
        LussError: The file cannot be read without running code, or is of another network.
    """
    if weights == "random":
        return LoadedWeights(weights)
    if weights == "timm" or weights.startswith("timm:"):
        _from_timm(backbone, weights.removeprefix("timm").removeprefix(":") or backbone.name)
        return LoadedWeights(weights)
    return take(backbone, read_weights(Path(weights)), weights)


def take(backbone: Backbone, given: Mapping[str, Tensor], source: str) -> LoadedWeights:
    """Gives a backbone the weights that are found among a file's tensors.

    Args:
        backbone: Changed in place.
        given: The file's tensors by name.
        source: What the file is called, for messages.

    Raises:
        LussError: They are of another network, so that layers would stay random or be left out; or one is no number.
    """
    own = backbone.model.state_dict()
    prefix, found = arranged(backbone, given, source)
    fitting = {name: found[name] for name in own if name in found and found[name].shape == own[name].shape}
    needed = [name for name in own if not name.endswith(COUNTER)]
    missing = [name for name in needed if name not in found]
    other_shape = [name for name in needed if name in found and name not in fitting]
    unused = [name for name in given if not name.startswith(prefix)]
    unused += [prefix + name for name in found if name not in own]
    result = LoadedWeights(source, prefix, missing, other_shape, unused)
    _check_fit(backbone, result, given, fitting)
    check_numbers(fitting, source)
    backbone.model.load_state_dict(fitting, strict=False)
    return result


def check_numbers(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuses weights that a network cannot compute with.

    Raises:
        LussError: One is infinite, or no number; names it.
    """
    wrong = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wrong:
        raise LussError(
            f"{source} holds values that are infinite or no numbers (NaN) in {counted(wrong)}: its training had diverged, or the file is "
            "damaged; take an earlier checkpoint, or fetch it again"
        )


def counted(names: Sequence[str]) -> str:
    """How many tensors, and the first names."""
    return f"{len(names)} tensors ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"


def _from_timm(backbone: Backbone, name: str) -> None:
    source = create_timm(name, pretrained=True)
    check_numbers(source.state_dict(), f"timm:{name}")
    backbone.load(source.state_dict())
    settings = getattr(source, "pretrained_cfg", {})
    backbone.set_normalisation(settings.get("mean", backbone.mean), settings.get("std", backbone.std))


def _check_fit(
    backbone: Backbone, result: LoadedWeights, given: Mapping[str, Tensor], fitting: Mapping[str, Tensor]
) -> None:
    """Refuses a file of another network: where a layer that a map depends on would stay random, or where the file has more layers."""
    own, read = backbone.model.state_dict(), _read_tensors(backbone)
    random = [name for name in (*result.missing, *result.other_shape) if name in read]
    more = _more_layers(result, own)
    if not random and not more:
        return
    needed = [name for name in own if not name.endswith(COUNTER)]
    parts = [f"missing are {counted(result.missing)}"] if result.missing else []
    parts += [f"of another shape are {counted(result.other_shape)}"] if result.other_shape else []
    parts += [f"it has more layers: {counted(more)}"] if more and not random else []
    raise LussError(
        f"{result.source} does not fit the backbone {backbone.name!r}: {len(set(needed) & set(fitting))} of {len(needed)} tensors match; "
        f"{'; '.join(parts)}. Set pretrain.backbone.name to the network that the file is of{_of_torchvision(given)}"
    )


def _read_tensors(backbone: Backbone) -> set[str]:
    """The tensors that a map or the class token depends on; the final norm of a transformer, which starts neutral, is not among them."""
    trained = {name for name, parameter in backbone.model.named_parameters() if parameter.requires_grad}
    frozen = {name.rpartition(".")[0] for name, _ in backbone.model.named_parameters() if name not in trained}
    buffers = {name for name, _ in backbone.model.named_buffers() if name.rpartition(".")[0] not in frozen}
    return {name for name in trained | buffers if name.split(".")[0] not in ("norm", "fc_norm")}


def _more_layers(result: LoadedWeights, own: Mapping[str, Tensor]) -> list[str]:
    """Tensors of the file in parts that the backbone has too: a deeper network, or one with layers between them."""
    parts = {name.split(".")[0] for name in own if "." in name} - _TAILS
    found = (name.removeprefix(result.prefix) for name in result.unused if name.startswith(result.prefix))
    return [name for name in found if name.split(".")[0] in parts and not _NO_WEIGHT.search(name)]


def _of_torchvision(names: Iterable[str]) -> str:
    """What else to know where a file has names of torchvision's."""
    if not any(re.match(r"(\w+\.)?(features\.\d|trunk_output\.|conv_proj\.)", name) for name in names):
        return ""
    return f"; of torchvision's files those of {TORCHVISION} are taken (some of its RegNets are timm's names that end in _tv)"
