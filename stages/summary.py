"""What is checked before a run, and the table at its end."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from luss.config import load_config
from luss.data.imagenet_s import category_ids
from luss.errors import LussError
from luss.files import read_json
from luss.settings import RunSettings
from stages.base import stage_state
from stages.console import duration
from stages.manifest import EMBEDDED, data_layout
from stages.registry import STAGES

_NAMES = {
    "miou": "mIoU",
    "boundary_miou": "boundary mIoU",
    "image_accuracy": "image accuracy",
    "f_measure": "F-measure",
}


def preflight(run: RunSettings, console: Console) -> None:
    """Checks what would otherwise fail after hours: the data folder, the extra folders, the number of clusters against the masks.

    Raises:
        LussError: Something is missing.
    """
    if run.data.root == EMBEDDED:
        return
    layout = data_layout(run.data)
    for extra in run.data.extra:
        if not (layout.root / extra).is_dir():
            raise LussError(f"data.extra names {extra!r}, but {layout.root / extra} is not a folder")
    if run.pseudo_labels.threshold == "validation" and not layout.has_masks("validation"):
        raise LussError(
            f"pseudo_labels.threshold=validation needs the masks {layout.root / 'validation-segmentation'}: use auto, which needs none"
        )
    if any(split in layout.masks for split in run.data.evaluate):
        num_categories = len(category_ids(layout.image_folder("train")))
        if num_categories != run.cluster.num_clusters:
            console.print(
                f"[yellow]warning:[/yellow] the data has {num_categories} categories but cluster.num_clusters is "
                f"{run.cluster.num_clusters}: the benchmark compares equal numbers",
                highlight=False,
            )


def settings_of_run(folder: Path) -> RunSettings:
    """The settings a run was last started with.

    Raises:
        LussError: The folder holds no run.
    """
    if folder.suffix in (".yaml", ".yml"):
        return load_config(folder)
    configs = sorted(folder.glob("*/config.yaml"), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise LussError(f"{folder} holds no run: give the folder of one, such as outputs/demo")
    run = load_config(configs[-1])
    run.output = str(folder)
    return run


def status_table(run: RunSettings, chosen: set[str], *, force: str | None = None) -> Table:
    """The state of every stage; with `chosen` stages also what running them would do."""
    folder = Path(run.output)
    table = Table(title=str(folder), title_justify="left")
    for heading in ("stage", "state", "progress or reason", "work", "changed"):
        table.add_column(heading)
    if chosen:
        table.add_column("would")
    upstream_runs = False
    for name, stage in STAGES.items():
        state = stage_state(stage, run, folder, STAGES)
        age = f"{duration(time.time() - state.changed)} ago" if state.changed else ""
        row = [name, state.kind, state.detail, duration(state.seconds) if state.seconds else "", age]
        if chosen:
            # A stage that runs gives its product a new identity, so those that need it follow.
            runs = name in chosen and (state.kind != "done" or name == force or upstream_runs)
            upstream_runs = upstream_runs or runs
            row.append(("continue" if state.kind == "partial" else "run") if runs else "")
        table.add_row(*row)
    return table


def print_results(runs: Sequence[RunSettings], console: Console) -> None:
    """The metrics of finished runs side by side, and where the results are; nothing to compare without masks."""
    rows = []
    for run in runs:
        path = Path(run.output) / "evaluate" / "metrics.json"
        if path.is_file():
            rows += [(run.name, split, values) for split, values in read_json(path)["splits"].items()]
    if rows:
        table = Table(title="percent; clusters matched to categories on the first split", title_justify="left")
        for heading in ("run", "split", *_NAMES.values(), "images"):
            table.add_column(heading, justify="left" if heading in ("run", "split") else "right")
        for name, split, values in rows:
            table.add_row(name, split, *(f"{values[key]:.1f}" for key in _NAMES), str(values["num_images"]))
        console.print(table)
    for run in runs:
        folder = Path(run.output)
        for title, pattern in (("masks", "predict/masks"), ("clusters", "predict/clusters-*.png"), ("pseudo labels", "pseudo_labels/labels"),
                               ("model", "finetune/model.safetensors")):  # fmt: skip
            for path in sorted(folder.glob(pattern)):
                console.print(f"{run.name} {title}: {path}", highlight=False, soft_wrap=True)
