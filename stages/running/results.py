"""The states of a run's stages, and the table at its end."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from luss.config import load_config, load_run_config
from luss.settings import RunSettings
from stages.parts.metrics import read_metrics
from stages.pipeline import PROTOCOLS, STAGES, stages_of
from stages.running.baselines import baseline_rows
from stages.running.console import duration
from stages.running.screen import Console
from stages.running.state import States

_NAMES = {
    "miou": "mIoU",
    "boundary_miou": "boundary mIoU",
    "image_accuracy": "image accuracy",
    "f_measure": "F-measure",
}
# What a person looks for after a run.
_FILES = (
    ("masks", "predict/masks"),
    ("clusters", "predict/clusters-*.png"),
    ("pseudo labels", "pseudo_labels/labels"),
    ("model", "finetune/model.safetensors"),
    ("masks by distance matching", "distance_matching/masks"),
    ("semi-supervised masks", "semi_predict/masks"),
    ("semi-supervised model", "semi_finetune/model.safetensors"),
)


def settings_of_run(folder: Path) -> RunSettings:
    """The settings a run was last started with.

    Raises:
        LussError: The folder holds no run, or none of its settings can be read.
    """
    if folder.suffix in (".yaml", ".yml"):
        return load_config(folder)
    run = load_run_config(folder, list(STAGES))
    run.output = str(folder)
    return run


def status_table(
    states: States, chosen: set[str], *, force: str | None = None, queue: Mapping[str, str] | None = None
) -> Table:
    """The state of every stage of the run's protocols; with `chosen` stages also what running them would do, with `queue` also their jobs'."""
    table = Table(title=str(states.run_folder), title_justify="left")
    for heading in ("stage", "state", "progress or reason", "work", "changed"):
        table.add_column(heading)
    if chosen:
        table.add_column("would")
    if queue:
        table.add_column("queue")
    running: set[str] = set()
    # Those that follow only if what they read has become another.
    follow: set[str] = set()
    own = stages_of(states.run)
    for name, stage in STAGES.items():
        if name not in own and name not in chosen:
            continue
        state = states.of(stage)
        age = f"{duration(time.time() - state.changed)} ago" if state.changed else ""
        row = [name, state.kind, state.detail, duration(state.seconds) if state.seconds else "", age]
        if chosen:
            # A stage that runs gives its product a new identity, so those that need it follow.
            runs = name in chosen and (
                state.kind != "done" or name == force or not running.isdisjoint(need.name for need in stage.needs)
            )
            needs = {need.name for need in stage.needs}
            follows = name in chosen and not runs and not follow.isdisjoint(needs)
            running |= {name} if runs and not stage.by_content else set()
            follow |= {name} if follows or (runs and stage.by_content) else set()
            row.append(
                ("continue" if state.kind == "partial" else "run")
                if runs
                else "run if images differ"
                if follows
                else ""
            )
        if queue:
            row.append(queue.get(name, ""))
        table.add_row(*row)
    return table


@dataclass(frozen=True)
class ResultRow:
    """One line of the table of results.

    Attributes:
        run: Which run.
        kind: run (its unsupervised masks), protocol (another one of the same run) or baseline.
        protocol: Which protocol and form of it, or which baseline, in words.
        split: On which images.
        metrics: In percent, those of `metrics.json`.
        clusters: Clusters that were matched to categories; None where ids were categories already.
    """

    run: str
    kind: Literal["run", "protocol", "baseline"]
    protocol: str
    split: str
    metrics: Mapping[str, Any]
    clusters: int | None = None

    @property
    def categories(self) -> int:
        """Categories of the masks, background left out."""
        return len(self.metrics["ious"]) - 1


def result_rows(run: RunSettings) -> Iterator[ResultRow]:
    """The metrics of a run's finished protocols, also of those that it was not started with this time."""
    states = States(run)
    for name, (title, stage) in {name: (each.title, each.last) for name, each in PROTOCOLS.items()}.items():
        if states.of(stage).kind != "done":
            continue
        found, words = read_metrics(states.run_folder / stage.name / "metrics.json"), title
        kind: Literal["run", "protocol"] = "run" if name == "unsupervised" else "protocol"
        if run.pretrain.method.USES_LABELS:
            words = f"{words}, pretrained with image labels"
        if found.get("used_labels_for_threshold"):
            words = f"{words} but for a threshold from ground truth"
        clusters = found.get("clusters")
        for split, values in found["splits"].items():
            yield ResultRow(run.name, kind, words, split, values, clusters)
        for split, values in found.get("rematched", {"splits": {}})["splits"].items():
            yield ResultRow(run.name, kind, f"{words}, rematched", split, values)
    for title, split, values in baseline_rows(run):
        yield ResultRow(run.name, "baseline", title, split, values)


def _matched(rows: Sequence[ResultRow]) -> str:
    """How many clusters met how many categories, of each run where these differ: with unlike numbers a perfect match there is none."""
    numbers = {row.run: f"{row.clusters} clusters" for row in rows if row.clusters is not None}
    categories = ", ".join(dict.fromkeys(f"{row.categories} categories" for row in rows))
    if len(set(numbers.values())) > 1:
        numbers = {run: f"{words} ({run})" for run, words in numbers.items()}
    return ", ".join([*dict.fromkeys(numbers.values()), categories])


def print_results(runs: Sequence[RunSettings], console: Console) -> None:
    """The metrics of finished runs side by side, and where the results are; nothing to compare without masks."""
    rows = [row for run in runs for row in result_rows(run)]
    if rows:
        several = len({row.protocol for row in rows}) > 1
        title = "percent; unsupervised and rematched" if several else f"percent; {rows[0].protocol}"
        table = Table(title=f"{title}: matched on the first split; {_matched(rows)}", title_justify="left")
        for heading in ("run", *(("protocol",) if several else ()), "split", *_NAMES.values(), "images"):
            if heading in ("run", "protocol", "split"):
                table.add_column(heading, overflow="fold")
            else:  # on a narrow screen the words give way, never the numbers
                table.add_column(heading, justify="right", width=max(map(len, heading.split())))
        for row in rows:
            numbers = (f"{row.metrics[key]:.1f}" for key in _NAMES)
            words = f"baseline: {row.protocol}" if row.kind == "baseline" else row.protocol
            named = (row.run, words, row.split) if several else (row.run, row.split)
            table.add_row(*named, *numbers, str(row.metrics["num_images"]))
        console.print(table)
    for run in runs:
        folder = Path(run.output)
        for title, pattern in _FILES:
            for path in sorted(folder.glob(pattern)):
                console.print(f"{run.name} {title}: {path}")
