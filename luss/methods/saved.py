"""A learner's heads as files: `method.safetensors`, and `method.json`, which says where the clustering head is among them."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from luss.errors import LussError
from luss.files import read_json, write_json
from luss.methods.base import Method
from luss.methods.clustering import OnlineClustering
from luss.models.io import load_tensors, save_tensors, state_without_duplicates
from luss.settings import ClusteringSettings

WEIGHTS, DESCRIPTION = "method.safetensors", "method.json"


@dataclass(frozen=True)
class ClusteringHead:
    """A trained clustering head: its settings, and its weights by name."""

    settings: ClusteringSettings
    state: dict[str, Tensor]


def save_heads(folder: Path, method: Method, prototypes: OnlineClustering | None) -> None:
    """Writes everything of a method but its backbone.

    Args:
        folder: Of the stage.
        method: After its training.
        prototypes: The part of it that the pixel attention starts from; None = nothing that has trained.
    """
    save_tensors(folder / WEIGHTS, state_without_duplicates(method))
    description = None
    if prototypes is not None:
        prefix = next(name for name, module in method.named_modules() if module is prototypes)
        description = {"prefix": f"{prefix}.", "settings": dataclasses.asdict(prototypes.settings)}
    write_json(folder / DESCRIPTION, {"clustering": description})


def load_heads(folder: Path) -> ClusteringHead | None:
    """The clustering head that `save_heads` wrote; None where there is none.

    Raises:
        LussError: A file is missing or damaged.
    """
    try:
        description = read_json(folder / DESCRIPTION)["clustering"]
        if description is None:
            return None
        prefix, settings = str(description["prefix"]), ClusteringSettings(**description["settings"])
    except (KeyError, TypeError) as error:
        raise LussError(f"{folder / DESCRIPTION} has a wrong entry ({error}): run pretrain again (--force)") from error
    tensors = load_tensors(folder / WEIGHTS)
    return ClusteringHead(
        settings, {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    )
