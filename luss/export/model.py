"""A trained segmenter as one folder that can be copied anywhere, with all that its use needs."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luss.errors import LussError
from luss.files import replacing, write_json
from luss.models.io import CONFIG_NAME, SEGMENTER_FORMAT, WEIGHTS_NAME, decoding_entries, read_description, sha256_of
from luss.settings import PredictSettings


def export_model(source: Path, out: Path, *, decoding: PredictSettings, names: Mapping[int, str], **extra: Any) -> Path:
    """Copies a model and writes into its `config.json` how its logits become labels, and what its clusters are called.

    Args:
        source: Folder of `model.safetensors` and `config.json`.
        out: The folder to write; an earlier export there is replaced.
        decoding: How logits become labels.
        names: Cluster id to name, for the clusters that have one.
        extra: More entries of `config.json`.

    Returns:
        `out`.

    Raises:
        LussError: The source is missing, damaged or exchanged; `out` holds something else; the disk is full.
    """
    description = read_description(source)
    claim_folder(out, CONFIG_NAME)
    with replacing(out / WEIGHTS_NAME) as temporary:
        shutil.copyfile(source / WEIGHTS_NAME, temporary)
    # What earlier versions kept of the settings of predictions.
    description.pop("short_side", None)
    write_json(
        out / CONFIG_NAME,
        {
            **description,
            **extra,
            "format": SEGMENTER_FORMAT,
            "names": {str(cluster): name for cluster, name in sorted(names.items())},
            "decoding": decoding_entries(decoding),
            # Of the copy: a copy that went wrong on the way is found when it is loaded.
            "sha256": description.get("sha256") or sha256_of(source / WEIGHTS_NAME),
        },
    )
    return out


def claim_folder(out: Path, marker: str) -> None:
    """Raises LussError unless `out` is new, empty, or an earlier export, which the file `marker` shows."""
    if not out.exists() or (out / marker).is_file():
        return
    if not out.is_dir():
        raise LussError(f"{out} is a file: give a folder as --out")
    if any(not entry.name.startswith(".") for entry in out.iterdir()):
        raise LussError(f"{out} is not empty and holds no earlier export: give a new folder as --out")
