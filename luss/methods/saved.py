"""A learner's heads as files: `method.safetensors`, and `method.json`, which says where the clustering head is among them."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from luss.errors import LussError
from luss.files import read_record, write_json
from luss.methods.base import Method
from luss.methods.clustering import OnlineClustering
from luss.models.io import below, load_tensors, save_tensors
from luss.settings import ClusteringSettings

WEIGHTS, DESCRIPTION = "method.safetensors", "method.json"


@dataclass(frozen=True)
class ClusteringHead:
    """A trained clustering head: its settings, and its weights by name."""

    settings: ClusteringSettings
    state: dict[str, Tensor]


def save_heads(folder: Path, method: Method, prototypes: OnlineClustering | None) -> None:
    """Writes everything of a trained method but its backbone; `prototypes`: what the pixel attention starts from, None = nothing has trained."""
    # The backbone is saved by itself.
    save_tensors(folder / WEIGHTS, {k: t for k, t in method.state_dict().items() if not k.startswith("backbone.")})
    description = None
    if prototypes is not None:
        prefix = next(name for name, module in method.named_modules() if module is prototypes)
        description = {"prefix": f"{prefix}.", "settings": dataclasses.asdict(prototypes.settings)}
    write_json(folder / DESCRIPTION, {"clustering": description})


def load_heads(folder: Path) -> ClusteringHead | None:
    """The clustering head that `save_heads` wrote; None where there is none, as in the folder of a segmenter.

    Raises:
        LussError: A file is missing or damaged.
    """
    if not (folder / DESCRIPTION).is_file() and not (folder / WEIGHTS).is_file():
        return None
    try:
        description = read_record(folder / DESCRIPTION)["clustering"]
        if description is None:
            return None
        prefix, settings = str(description["prefix"]), ClusteringSettings(**description["settings"])
    except (KeyError, TypeError) as error:
        raise LussError(f"{folder / DESCRIPTION} has a wrong entry ({error}): run pretrain again (--force)") from error
    return ClusteringHead(settings, below(prefix, load_tensors(folder / WEIGHTS)))
