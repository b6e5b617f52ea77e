"""A trained segmenter as one folder that can be copied anywhere, with all that its use needs."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luss.errors import LussError
from luss.export.formats import ExportRequest, FileFormat
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
    # The folder of a stage has the first two as well, but no decoding.
    claim_folder(out, ("format", "num_clusters", "decoding"))
    # The finetune stage notes the short side of its run's predictions; in an export `decoding` alone says how large images are looked at.
    description.pop("short_side", None)
    config = {
        **description,
        **extra,
        "format": SEGMENTER_FORMAT,
        "names": {str(cluster): name for cluster, name in sorted(names.items())},
        "decoding": decoding_entries(decoding),
        # Of the copy: a copy that went wrong on the way is found when it is loaded.
        "sha256": description.get("sha256") or sha256_of(source / WEIGHTS_NAME),
    }
    with replacing(out / WEIGHTS_NAME) as temporary:
        shutil.copyfile(source / WEIGHTS_NAME, temporary)
        # Before the weights have their name: it says whose folder this is, so the next try of a killed process may go on.
        write_json(out / CONFIG_NAME, config)
    return out


def claim_folder(out: Path, entries: tuple[str, ...]) -> None:
    """Checks that an export may write into a folder.

    Args:
        out: The folder.
        entries: What the `config.json` of this format has, and that of no other program or format.

    Raises:
        LussError: `out` is neither new nor empty nor an earlier export of the same format.
    """
    if not out.exists() or _holds(out / CONFIG_NAME, entries):
        return
    if not out.is_dir():
        raise LussError(f"{out} is a file: give a folder as --out")
    if any(not entry.name.startswith(".") for entry in out.iterdir()):
        raise LussError(f"{out} is not empty and holds no earlier export of this format: give a new folder as --out")


def _holds(path: Path, entries: tuple[str, ...]) -> bool:
    """Whether a file is a JSON object that has all the entries."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and all(entry in content for entry in entries)


def _write(request: ExportRequest) -> str:
    segmenter = request.segmenter()
    export_model(segmenter.folder, request.out, decoding=segmenter.settings, names=segmenter.given_names)
    return f"{request.out}: a model of {segmenter.num_clusters} clusters; luss predict {request.out} IMAGES --out MASKS"


FORMAT: FileFormat = _write
