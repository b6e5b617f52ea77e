"""Stage 0: lists the images of every split once; draws the embedded data set when it is asked for."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luss.data.manifest import Manifest
from luss.data.shapes import RECORD, make_shapes
from luss.errors import LussError
from luss.files import read_record
from luss.settings import DataSettings, RunSettings, ShapesSettings
from luss.settings.fields import changing_settings
from stages.base import AnyStage, Stage, StageContext
from stages.parts.images import EMBEDDED, EVALUATED, data_layout, evaluated_splits, list_images, listed_folders


class ManifestStage(Stage[DataSettings]):
    """Lists images: sorted relative path, size in pixels and bytes, id.

    Its identity is that of the lists, wherever the images lie: data that were moved, or listed again, leave what was made from them as it
    is. Stages that only learn do not hang on the images that are evaluated.
    """

    by_content = True

    def settings(self, run: RunSettings) -> dict[str, Any]:
        """Only what decides which training images there are: which splits are evaluated may change, they are listed when they are added."""
        found = changing_settings(run.data)
        if run.data.root != EMBEDDED:
            found = {key: value for key, value in found.items() if not key.startswith("shapes.")}
        found.pop("evaluate", None)
        # Decides whether a stage fails, never what it makes: who raises it after a failure keeps everything done.
        found.pop("max_skipped_share", None)
        # Not as typed: a slash more at its end is no other folder.
        return {f"data.{key}": value for key, value in found.items()} | {"data.root": os.path.normpath(run.data.root)}

    def run(self, context: StageContext) -> dict[str, Any]:
        """Builds `manifest/<split>.tsv` for the training folder and each extra one, and `evaluated/<split>.tsv`."""
        data = context.run.data
        if data.root == EMBEDDED:
            context.reporter.message(f"drawing the embedded data set in {data.shapes.folder}")
            _draw_shapes(data.shapes, workers=data.workers)
        layout = data_layout(data)
        figures: dict[str, Any] = {}
        lists: dict[str, str] = {}
        for name, folder in listed_folders(data, layout).items():
            title = "images" if name == "train" else f"images of {name}"
            found = _listed(context, folder, "manifest", name)
            figures[title], lists[name] = len(found), found.digest(len(found))
        for split in evaluated_splits(data):
            with context.listing():
                found = _listed(context, layout.image_folder(split), EVALUATED, split)
            figures[f"images of {split}"], lists[f"{EVALUATED}/{split}"] = len(found), found.digest(len(found))
        return {**figures, "lists": lists}

    def result_id(self, figures: Mapping[str, Any]) -> str:
        """That of the lists of images that are learned from."""
        return _identity({name: digest for name, digest in figures["lists"].items() if not name.startswith(EVALUATED)})

    def id_for(self, reader: AnyStage, record: Mapping[str, Any]) -> str | None:
        """With the lists of evaluated images for a stage that reads them."""
        own = super().id_for(reader, record)
        lists = record.get("figures", {}).get("lists") if reader.by_split else None
        # Results of earlier versions have none.
        lists = lists if isinstance(lists, dict) else {}
        evaluated = {name: digest for name, digest in lists.items() if name.startswith(EVALUATED)}
        return f"{own} {_identity(evaluated)}" if own and evaluated else own


def _identity(lists: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(lists, sort_keys=True).encode()).hexdigest()[:32]


def _listed(context: StageContext, image_folder: Path, folder: str, split: str) -> Manifest:
    message = context.reporter.message
    return list_images(context, image_folder, context.folder / folder, split, context.skipped, message)


def _draw_shapes(settings: ShapesSettings, *, workers: int) -> None:
    """Draws the embedded data set unless it is there.

    Raises:
        LussError: The folder holds it with other parameters: drawing it anew would change the data of another run under its feet.
    """
    parameters = {
        "num_train": settings.num_train,
        "num_validation": settings.num_validation,
        "num_test": settings.num_validation,
        "size": settings.size,
        "difficulty": settings.difficulty,
        "seed": settings.seed,
    }
    folder = Path(settings.folder)
    if (folder / RECORD).is_file():
        remedy = "delete the folder, it is drawn again"
        present = read_record(folder / RECORD, {"parameters": dict}, remedy=remedy)["parameters"]
        changed = [f"{name} {present[name]}, not {value}" for name, value in parameters.items()
                   if present.get(name, value) != value]  # fmt: skip
        if changed:
            raise LussError(
                f"{folder} holds the embedded data set with other parameters ({', '.join(changed)}), which another run may use: "
                "set data.shapes.folder to another folder, or delete this one"
            )
    make_shapes(folder, **parameters, workers=workers)  # type: ignore[arg-type]
