"""`luss report`: a page to look at a run with, or the statistics of a data set."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from luss.errors import LussError
from luss.files import read_json
from stages.commands.base import num_cores, progress_bars
from stages.running.screen import Console

if TYPE_CHECKING:
    from luss.data.imagenet_s import Layout

HELP = (
    "write a page to look at a run, name its clusters and mark them to merge or drop; or the statistics of a data set"
)

_EPILOG = """examples:
  luss report outputs/demo                                      a run; the page goes to outputs/demo/report
  luss report /data/ImageNetS50 --out reports/s50 --workers 8   statistics of a data set: a page and dataset.json
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "run", type=Path, metavar="RUN_OR_DATA", help="a run's folder, or that of a prepared ImageNet-S"
    )
    parser.add_argument(
        "--out", type=Path, help="folder to write; unless given RUN/report, of a data set outputs/NAME-statistics"
    )
    parser.add_argument(
        "--clusters", type=int, metavar="N", help="pictures only of the N largest clusters; all of them unless given"
    )
    parser.add_argument("--images-per-cluster", type=int, default=12, metavar="N", help="4 to 60, default 12")
    parser.add_argument(
        "--workers", type=int, default=num_cores(), metavar="N", help="of a data set: processes that read masks"
    )


def main(options: argparse.Namespace) -> None:
    """Writes the report and says where it is."""
    if (layout := _data_set(options.run)) is not None:
        out = options.out or Path("outputs") / f"{layout.root.resolve().name}-statistics"
        write_dataset_report(layout, out, Console(), workers=options.workers)
        return
    out, per_cluster = options.out or options.run / "report", options.images_per_cluster
    write_report(options.run, out, Console(), max_clusters=options.clusters, images_per_cluster=per_cluster)


def _data_set(folder: Path) -> "Layout | None":
    """The layout of a prepared data set; None for a run, and for what is neither."""
    from luss.data.imagenet_s import find_layout

    if not folder.is_dir() or any(folder.glob("*/config.yaml")):
        return None
    layout = find_layout(folder)
    return layout if layout.images.get("train") != layout.root else None


def write_dataset_report(layout: "Layout", out: Path, console: Console, *, workers: int) -> None:
    """Writes the statistics of a data set to `out`, and prints the table of its splits and where the rest is.

    Raises:
        LussError: As `luss.report.dataset.build_dataset_report`; or `workers` is below 1.
    """
    from luss.report.dataset import build_dataset_report

    if workers < 1:
        raise LussError(f"the number of workers must be at least 1, not {workers}")
    with progress_bars(console) as show:
        summary = build_dataset_report(layout, out, workers=workers, on_progress=show)
    table = Table("split", title_justify="left", title=str(layout.root))
    for heading in ("images", "categories", "masks"):
        table.add_column(heading, justify="right")
    for row in read_json(summary.statistics)["splits"]:
        table.add_row(row["split"], *(f"{row[name]:,}" for name in ("images", "categories", "masks")))
    console.print(table)
    for problem in summary.problems:
        console.print(f"left out: {problem}")
    for path in (summary.statistics, summary.page):
        console.print(f"wrote {path}")


def write_report(
    run_folder: Path, out: Path, console: Console, *, max_clusters: int | None = None, images_per_cluster: int = 12
) -> None:
    """Writes the page of a run to `out` and prints where it is; see `luss.report.build.build_report`.

    Raises:
        LussError: The folder holds no run.
    """
    from luss.report.build import build_report

    source = report_source(run_folder)
    with progress_bars(console) as show:
        summary = build_report(
            source, out, max_clusters=max_clusters, images_per_cluster=images_per_cluster, on_progress=show
        )
    for problem in summary.problems:
        console.print(f"left out: {problem}")
    size = summary.num_bytes / 1e6
    text = f"{summary.num_clusters} clusters with pictures ({summary.num_drawn} drawn now), {size:.1f} MB"
    console.print(text)
    console.print(f"open {summary.page} in a browser")


def report_source(folder: Path) -> Any:
    """What `luss.report.build` wants to know of a run, from its folder.

    Returns:
        A `luss.report.source.ReportSource`; its problems name the data folder where that is gone.

    Raises:
        LussError: The folder holds no run.
    """
    from luss.report.source import ReportSource
    from stages.parts.images import EMBEDDED, data_layout, num_classes
    from stages.pipeline import CLUSTERS
    from stages.running.results import settings_of_run

    if not folder.is_dir():
        raise LussError(f"{folder} is not the folder of a run: give one, such as outputs/demo")
    run = settings_of_run(folder)
    stages, metrics = _stage_rows(run, folder), _metric_rows(run)
    try:
        layout = data_layout(run.data)
    except LussError as error:
        return ReportSource(folder, run, stages, metrics, problems=(f"data: {error}",))
    return ReportSource(
        folder,
        run,
        stages,
        metrics,
        masks={split: path for split, path in layout.masks.items() if split in run.data.evaluate},
        num_classes=num_classes(CLUSTERS.block(run).num_clusters, layout),
        folders_are_categories=layout.images.get("train") != layout.root or run.data.root == EMBEDDED,
    )


def _stage_rows(run: Any, folder: Path) -> dict[str, Any]:
    """The stages of the run's protocols, and those of others that have begun."""
    from luss.report.source import StageRow
    from stages.pipeline import STAGES, stages_of
    from stages.running.state import States

    rows, own, states = {}, stages_of(run), States(run, folder)
    for name, stage in STAGES.items():
        state = states.of(stage)
        if name not in own and state.kind == "missing":
            continue
        record = states.done(stage)
        rows[name] = StageRow(
            name,
            state.kind,
            state.detail,
            state.seconds,
            peak_memory_mb=int(record.get("peak_memory_mb", 0)),
            finished=str(record.get("finished", "")),
            identity=str(record.get("id", "")),
            inputs=record.get("inputs", {}),
        )
    return rows


def _metric_rows(run: Any) -> tuple[Any, ...]:
    """The results that `luss status` counts as the run's, and its baselines."""
    from luss.report.source import MetricRow
    from stages.running.results import result_rows

    labels = {"run": "{0.run}", "protocol": "{0.run}, {0.protocol}", "baseline": "{0.protocol}"}
    rows = result_rows(run)
    return tuple(MetricRow(row.kind, labels[row.kind].format(row), row.split, row.metrics) for row in rows)
