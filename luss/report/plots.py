"""The plots of a report as PNG for papers. They need matplotlib (extra `plots`); without it the page draws its own and no PNG is written."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from luss.files import replacing

DPI = 200
_MAX_BARS = 60
# Not worth a plot of their own.
_SPEED = {"images_per_second", "data_wait", "lr"}


def write_plots(data: dict[str, Any], folder: Path) -> list[dict[str, str]]:
    """Draws curves, category IoUs and the confusion.

    Args:
        data: What the page shows, see `luss.report.build`.
        folder: Where the PNG files go.

    Returns:
        file (below the report's folder) and title of each; empty without matplotlib.

    Raises:
        LussError: The disk is full.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return []
    found = []
    plots: list[tuple[str, str, Callable[[], Any]]] = [
        (f"curves-{curves['stage']}.png", f"Curves of {curves['stage']}", partial(_curves, Figure, curves))
        for curves in data["curves"]
    ]
    if data["clusters"]:
        scatter = partial(_clusters, Figure, data["clusters"])
        plots.append(("clusters.png", "Size and cohesion of the clusters", scatter))
    if data["categories"]:
        rows, confusion = data["categories"]["rows"], data["categories"]["confusion"]
        plots.append(("iou.png", "IoU of the categories", partial(_ious, Figure, rows)))
        if confusion and confusion["matrix"]:
            plots.append(("confusion.png", "Confusion", partial(_confusion, Figure, confusion["matrix"], rows)))
    for name, title, draw in plots:
        with replacing(folder / name) as temporary:
            draw().savefig(temporary, dpi=DPI, format="png")
        found.append({"file": f"figures/{name}", "title": title})
    return found


def _curves(figure_class: Any, curves: dict[str, Any]) -> Any:
    series = {name: values for name, values in curves["series"].items() if name not in _SPEED}
    columns = min(3, len(series)) or 1
    rows = -(-len(series) // columns) or 1
    height = 2.2 * rows
    figure = figure_class(figsize=(3.2 * columns, height))
    # Fixed margins: to measure them takes longer than to draw.
    figure.subplots_adjust(
        left=0.2 / columns, right=1 - 0.04 / columns, top=1 - 0.3 / height, bottom=0.45 / height, hspace=0.6, wspace=0.3
    )
    for place, (name, values) in enumerate(series.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.plot(curves["steps"], [float("nan") if value is None else value for value in values], linewidth=1.2)
        axes.set_title(name.replace("_", " "), fontsize=9)
        axes.set_xlabel(curves["unit"], fontsize=8)
        _plain(axes)
    return figure


def _clusters(figure_class: Any, clusters: dict[str, Any]) -> Any:
    figure = figure_class(figsize=(4.5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    filled = [row for row in clusters["rows"] if row["size"]]
    axes.scatter([row["size"] for row in filled], [row["cohesion"] for row in filled], s=12)
    axes.set_xlabel("images", fontsize=8)
    axes.set_ylabel("cohesion (mean cosine to the centroid)", fontsize=8)
    _plain(axes)
    return figure


def _ious(figure_class: Any, rows: list[dict[str, Any]]) -> Any:
    ranked = sorted(rows, key=lambda row: float(row["iou"]))
    # Of very many, the worst and the best.
    shown = ranked if len(ranked) <= _MAX_BARS else ranked[: _MAX_BARS // 2] + ranked[-_MAX_BARS // 2 :]
    figure = figure_class(figsize=(5, 0.8 + 0.16 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(range(len(shown)), [row["iou"] for row in shown])
    axes.set_yticks(range(len(shown)), [_shown(row["name"]) for row in shown], fontsize=7)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel("IoU in percent", fontsize=8)
    _plain(axes)
    return figure


def _confusion(figure_class: Any, matrix: list[list[int]], rows: list[dict[str, Any]]) -> Any:
    side = 2 + 0.14 * len(rows)
    figure = figure_class(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow([[value / 10 for value in row] for row in matrix], cmap="Blues", vmin=0, vmax=100)
    names = [_shown(row["name"]) for row in rows]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set_xlabel("predicted", fontsize=8)
    axes.set_ylabel("true (each row sums to at most 100 %)", fontsize=8)
    return figure


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25, linewidth=0.5)


def _shown(name: str) -> str:
    """A name without what matplotlib would read as mathematics, or has no glyph for."""
    return name.replace("$", r"\$").encode("latin-1", "replace").decode("latin-1")[:40]
