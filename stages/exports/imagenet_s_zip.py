"""A submission to the ImageNet-S benchmark: the masks of a split, the method in six lines, and the matching."""

from pathlib import Path

from luss.benchmark.matching import Matching
from luss.data.imagenet_s import SPLITS
from luss.errors import LussError
from luss.export.imagenet_s_zip import write_submission
from luss.files import read_json
from luss.settings import RunSettings, TrainSettings
from stages.exports.base import ExportRequest
from stages.running.folder import DONE

# Each stage that predicts masks, and the one that finds their matching; None where ids are categories already.
_PREDICTING: dict[str, str | None] = {"predict": "evaluate", "semi_predict": None, "distance_matching": None}
_PAPER = "https://arxiv.org/abs/2106.03149"


def export(request: ExportRequest) -> str:
    """Writes the archive; the usual split is test, where it was predicted, else validation.

    Raises:
        LussError: No stage has predicted masks, or not of this split; the matching belongs to other masks.
    """
    stage = _predicting_stage(request.folder)
    split = request.split or _usual_split(request.folder / stage / "masks")
    masks = request.folder / stage / "masks" / split
    if not masks.is_dir():
        raise LussError(
            f"{request.folder} has no masks of the split {split!r}: give data.evaluate=[validation,{split}] to luss run, "
            f"or one of those that are there with --split ({', '.join(_splits(masks.parent))})"
        )
    matching = _matching(request.folder, stage)
    count = write_submission(request.out, masks, method=method(request.run, stage), matching=matching)
    kind = "with the matching" if matching is not None else "without a matching"
    if matching is None and _PREDICTING[stage] is not None:
        kind += " (the run has none: there were no masks to evaluate)"
    return f"{request.out}: {count} masks of {split} {kind}; edit method.txt in it to say who you are"


def method(run: RunSettings, stage: str) -> dict[str, str]:
    """The six values of `method.txt` that a run's settings tell."""
    name, backbone = run.pretrain.method, run.pretrain.backbone
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


def _predicting_stage(folder: Path) -> str:
    for stage in _PREDICTING:
        if (folder / stage / DONE).is_file():
            return stage
    raise LussError(f"{folder} has no finished predictions: run luss run with its configuration first")


def _splits(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def _usual_split(folder: Path) -> str:
    present = _splits(folder)
    return next((split for split in reversed(SPLITS) if split in present), "validation")


def _matching(folder: Path, stage: str) -> Matching | None:
    """The matching found for these very masks; None where there was nothing to find."""
    evaluating = _PREDICTING[stage]
    if evaluating is None:
        return None
    done = folder / evaluating / DONE
    if not done.is_file() or read_json(done)["inputs"].get(stage) != read_json(folder / stage / DONE)["id"]:
        raise LussError(f"{folder} has not evaluated its present masks: run luss run with its configuration first")
    found = read_json(folder / evaluating / "metrics.json").get("matching")
    return None if found is None else {int(cluster): int(category) for cluster, category in found.items()}
