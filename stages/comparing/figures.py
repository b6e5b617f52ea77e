"""The figures of one cell: what its finished stages say, and why others are not there."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from luss.clustering.neighbours import leave_one_out_accuracy
from luss.device import resolve_device
from luss.errors import LussError
from luss.features.store import FeatureStore
from luss.files import read_json
from luss.settings import RunSettings
from stages.base import AnyStage
from stages.cluster import known_categories
from stages.comparing.grid import Cell
from stages.comparing.record import Record
from stages.jobs.queue import view_queue
from stages.jobs.records import jobs_folder
from stages.parts.images import train_manifest
from stages.pipeline import CLUSTERS, FEATURES, PRETRAIN, PROTOCOLS, STAGES
from stages.running.results import result_rows
from stages.running.state import States


@dataclass(frozen=True)
class Column:
    """A figure.

    Attributes:
        key: In files.
        title: In tables.
        digits: Behind the point.
        what: In a sentence.
    """

    key: str
    title: str
    digits: int
    what: str


IMAGES = Column("images_seen", "images seen", 0, "images that the learner was shown, in pretraining")
COLUMNS = (
    Column("nmi", "NMI", 1, "normalised mutual information of clusters and folder names, percent"),
    Column("cluster_accuracy", "cluster accuracy", 1, "images whose cluster is matched to their folder's name, percent"),
    Column("one_nn", "1-NN", 1, "images whose most similar other image, by its feature vector, lies in the same folder, percent"),
    *(Column(f"{name}_miou", f"{protocol.title} mIoU", 1, f"protocol {protocol.title}, the first evaluated split, percent")
      for name, protocol in PROTOCOLS.items()),
    IMAGES,
    Column("pretrain_seconds", "pretraining s", 0, "work of the stage pretrain"),
    Column("seconds", "all stages s", 0, "work of all stages that are done; what another cell did first counts in full"),
    Column("peak_memory_mb", "peak MB", 0, "most memory of a process in any stage; not a GPU's own"),
)  # fmt: skip
"""In the order of the table."""

_LABELS_USED = "ground truth"


@dataclass(frozen=True)
class CellFigures:
    """What is known of a cell.

    Attributes:
        cell: Which.
        state: done, failed, queued, partial, stale or missing.
        reason: Why it is not done; empty where it is.
        values: By the key of their column.
        used_labels: Whether a figure rests on labels where the protocol has none.
    """

    cell: Cell
    state: str
    reason: str
    values: dict[str, float]
    used_labels: bool = False


def cell_figures(cell: Cell, stages: Sequence[AnyStage], record: Record, check: Callable[[], None]) -> CellFigures:
    """The figures of a cell; the slow one, 1-NN, is kept in the record.

    Args:
        cell: The cell.
        stages: Those that it is to do.
        record: Of the comparison.
        check: Called now and then; may raise to stop.
    """
    states = States(cell.run)
    done = [stage for stage in stages if states.of(stage).kind == "done"]
    state, reason = _state(cell, stages, states, record)
    values: dict[str, float] = {}
    used_labels = cell.run.pretrain.method.USES_LABELS
    if done:
        records = [states.done(stage) for stage in done]
        values["seconds"] = sum(float(each["seconds"]) for each in records)
        values["peak_memory_mb"] = max(float(each.get("peak_memory_mb", 0)) for each in records)
    try:
        if PRETRAIN in done:
            pretrained = states.done(PRETRAIN)
            values["pretrain_seconds"] = float(pretrained["seconds"])
            values[IMAGES.key] = float(pretrained["figures"]["steps"] * cell.run.pretrain.batch_size)
        if CLUSTERS in done:
            found = read_json(states.run_folder / CLUSTERS.name / "cluster.json")
            values |= {
                key: 100 * found[name]
                for key, name in (("nmi", "nmi"), ("cluster_accuracy", "accuracy"))
                if name in found
            }
        if FEATURES in done and (nearest := _nearest(cell.run, states, record, check)) is not None:
            values["one_nn"] = 100 * nearest
        for key, value, labelled in _protocol_values(cell.run):
            values[key], used_labels = value, used_labels or labelled
    except (LussError, KeyError, TypeError) as error:
        state, reason = "failed", f"its figures cannot be read: {error}"
    return CellFigures(cell, state, reason, values, used_labels)


def _state(cell: Cell, stages: Sequence[AnyStage], states: States, record: Record) -> tuple[str, str]:
    lacking = next((stage for stage in stages if states.of(stage).kind != "done"), None)
    if lacking is None:
        return "done", ""
    if queued := queued_jobs(Path(cell.run.output)):
        return "queued", queued
    if cell.name in record.errors:
        return "failed", record.errors[cell.name]
    found = states.of(lacking)
    return found.kind, f"{lacking.name} is {found.kind}{f' ({found.detail})' if found.detail else ''}"


def queued_jobs(folder: Path) -> str:
    """What is queued or at work for a run that was submitted, in words; empty where nothing is."""
    if not jobs_folder(folder).is_dir():
        return ""
    try:
        view = view_queue(folder, list(STAGES))
    except LussError as error:
        return f"the queue cannot be asked: {error}"
    alive = {stage: tasks for stage in view.records if (tasks := view.alive(stage))}
    return "; ".join(f"{stage}: job {', '.join(tasks[:3])}" for stage, tasks in alive.items())


def _nearest(run: RunSettings, states: States, record: Record, check: Callable[[], None]) -> float | None:
    """1-NN accuracy of the training images' vectors; None where folders are no categories."""
    identity = str(states.done(FEATURES)["id"])
    if identity not in record.nearest:
        manifest = train_manifest(states.run_folder)
        labels = known_categories(run, manifest)
        if labels is None:
            return None
        features = FeatureStore.open(states.run_folder / FEATURES.name / "features")
        device = str(resolve_device(run.device))
        record.nearest[identity] = leave_one_out_accuracy(features, labels, device=device, check=check)
    return record.nearest[identity]


def _protocol_values(run: RunSettings) -> Iterator[tuple[str, float, bool]]:
    """The mIoU of every finished protocol on the first evaluated split, its column, and whether labels were used that it has not."""
    rows = [row for row in result_rows(run) if row.kind != "baseline" and not row.protocol.endswith("rematched")]
    for name, protocol in PROTOCOLS.items():
        row = next((row for row in rows if row.protocol.startswith(protocol.title)), None)
        if row is not None and name in run.protocols:
            yield f"{name}_miou", float(row.metrics["miou"]), _LABELS_USED in row.protocol
