"""The archive that a submission to the ImageNet-S benchmark consists of.

`<category>/<name>.png` (RGB, id = R + 256 G, at the image's size) at the root, `method.txt` with six lines "Key: value" and, for the fully
unsupervised protocol, `match.json`: {"cluster": category, ...} as the evaluator writes it, which `luss evaluate --matching` reads.
"""

import json
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from luss.errors import LussError
from luss.export.formats import ExportRequest, FileFormat
from luss.files import replacing
from luss.settings import RunSettings, TrainSettings

METHOD_KEYS = (
    "Method name",
    "Training data",
    "Training scheme",
    "Networks",
    "Paper/Project link",
    "Method description",
)
"""The keys of `method.txt` in their order."""

# The earliest time a zip file can hold: the same masks give the same bytes whenever they were made.
_TIME = (1980, 1, 1, 0, 0, 0)
_PAPER = "https://arxiv.org/abs/2106.03149"


def write_submission(
    out: Path, masks: Path, *, method: Mapping[str, str], matching: Mapping[int, int] | None = None
) -> int:
    """Writes a submission archive, atomically; the same input gives the same bytes.

    Masks are stored as they are, one after the other: PNG does not shrink further, and memory does not grow with their number.

    Args:
        out: The zip file.
        masks: Folder of `<category>/<name>.png`; hidden files do not count.
        method: A value for each of `METHOD_KEYS`; line breaks become blanks.
        matching: Cluster to category, 0 to 0 included; None leaves `match.json` out, as where ids are categories already.

    Returns:
        Number of masks.

    Raises:
        LussError: A mask does not lie in a category's folder, there is none, or the disk is full.
    """
    text = method_text(method)
    if out.is_dir():
        raise LussError(f"{out} is a folder: give the name of a zip file to write")
    count = 0
    with replacing(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in mask_names(masks):
            with open(masks / name, "rb") as mask, archive.open(zip_member(name), "w") as stored:
                shutil.copyfileobj(mask, stored)
            count += 1
        if not count:
            raise LussError(f"{masks} holds no masks: expected <category>/<name>.png")
        archive.writestr(zip_member("method.txt"), text)
        if matching is not None:
            values = {str(cluster): category for cluster, category in sorted(matching.items())}
            archive.writestr(zip_member("match.json"), json.dumps(values))
    return count


def method_text(method: Mapping[str, str]) -> str:
    """The content of `method.txt`: six lines without a line break at the end.

    Raises:
        ValueError: The keys are not `METHOD_KEYS`.
    """
    if set(method) != set(METHOD_KEYS):
        raise ValueError(f"method.txt has the keys {METHOD_KEYS}, not {tuple(method)}")
    return "\n".join(f"{key}: {' '.join(method[key].split())}" for key in METHOD_KEYS)


def mask_names(folder: Path) -> Iterator[str]:
    """The masks of a folder as "category/name.png", sorted.

    Raises:
        LussError: The folder is absent, or holds something else than folders of masks.
    """
    if not folder.is_dir():
        raise LussError(f"the folder of masks {folder} does not exist")
    for category in _shown(folder):
        if not category.is_dir():
            raise LussError(f"{category} does not lie in a category's folder: the archive has <category>/<name>.png")
        for mask in _shown(category):
            if mask.suffix != ".png" or mask.is_dir():
                raise LussError(f"{mask} is no mask: the archive has <category>/<name>.png and nothing else")
            yield f"{category.name}/{mask.name}"


def _shown(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def zip_member(name: str) -> zipfile.ZipInfo:
    """A file of an archive, readable by all, whose bytes do not say when it was written."""
    member = zipfile.ZipInfo(name, _TIME)
    member.external_attr = (stat.S_IFREG | 0o644) << 16
    return member


def method_of(run: RunSettings, stage: str) -> dict[str, str]:
    """The six values of `method.txt` that a run's settings tell, and the name of the stage that predicted the masks."""
    name, backbone = run.pretrain.method.name, run.pretrain.backbone
    data = ", ".join(f"{Path(run.data.root).name}/{split}" for split in (run.data.train, *run.data.extra))
    parts = [_trained(f"{name} pretraining", run.pretrain)]
    if backbone.weights != "random":
        parts.append(f"starting from {backbone.weights}")
    if stage == "predict":
        parts += [_trained("pixel attention", run.pixel_attention), _trained("fine-tuning", run.finetune)]
        steps = (
            f"k-means with {run.cluster.num_clusters} clusters, pseudo labels with the threshold {run.pseudo_labels.threshold}, "
            "a segmenter fine-tuned on them"
        )
    elif stage == "semi_predict":
        parts.append(_trained("fine-tuning on the masks of train-semi", run.semi_finetune))
        steps = "a segmenter fine-tuned on the masks of train-semi"
    else:
        steps = f"votes of the {run.distance_matching.num_neighbours} nearest features of train-semi"
    return {
        "Method name": f"{name} ({run.name})",
        "Training data": data,
        "Training scheme": "; ".join(parts),
        "Networks": backbone.name,
        "Paper/Project link": _PAPER,
        "Method description": f"{name} with luss: {steps}",
    }


def _trained(what: str, settings: TrainSettings) -> str:
    return f"{what} {settings.epochs} epochs, batch {settings.batch_size}"


def _write(request: ExportRequest) -> str:
    found = request.submitted(request.split)
    method = method_of(request.settings, found.stage)
    count = write_submission(request.out, found.masks, method=method, matching=found.matching)
    kind = "with the matching" if found.matching is not None else "without a matching"
    if found.matching is None and found.are_clusters:
        kind += " (the run has none: there were no masks to evaluate)"
    return f"{request.out}: {count} masks of {found.split} {kind}; edit method.txt in it to say who you are"


FORMAT: FileFormat = _write
