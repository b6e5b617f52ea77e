"""Writes a run's report: one folder of HTML, scripts and pictures that opens from a disk, without a network or a server.

Everything is built in a hidden folder beside the final one and then takes its place, so a kill leaves the old report. Pictures, the slow
part, are kept between tries and taken over from the old report while the results they show are the same.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from luss import __version__
from luss.errors import LussError
from luss.files import TEMPORARY_SUFFIX, read_json, write_json, write_text
from luss.report.categories import category_rows, confusion_json, count_confusion
from luss.report.curves import Curves, health, read_curves
from luss.report.gallery import Gallery, Progress, attention_histogram, gallery_json, open_gallery, write_pictures
from luss.report.overview import metric_rows, num_images, settings_rows, skipped_rows, stage_rows, threshold_facts
from luss.report.pictures import JPEG_QUALITY, SIDE
from luss.report.plots import write_plots
from luss.report.source import ReportSource

FORMAT = 1
MARKER = "report.json"
PAGE = "index.html"
CURVE_STAGES = ("pretrain", "pixel_attention", "cluster", "finetune")

T = TypeVar("T")


@dataclass(frozen=True)
class ReportSummary:
    """What was written.

    Attributes:
        page: The file to open.
        num_clusters: Clusters with pictures.
        num_drawn: Of these, clusters whose pictures were not taken over from an earlier try.
        num_bytes: Size of the folder.
        problems: Parts that could not be made, and why.
    """

    page: Path
    num_clusters: int
    num_drawn: int
    num_bytes: int
    problems: list[str]


def build_report(
    source: ReportSource,
    out: Path,
    *,
    max_clusters: int | None = None,
    images_per_cluster: int = 12,
    on_progress: Progress = lambda what, done, total: None,
) -> ReportSummary:
    """Writes the report of a run, finished or not; what is not there yet is said on the page.

    Example:
        ```python
        summary = build_report(source, Path("outputs/demo/report"))
        webbrowser.open(summary.page.as_uri())
        ```

    Args:
        source: The run.
        out: The report's folder; an earlier report there is replaced.
        max_clusters: Only the largest so many clusters get pictures; None = all.
        images_per_cluster: Most images a cluster, 4..60.
        on_progress: Told how far it is.

    Raises:
        LussError: `out` holds something else, a number is out of range, or the disk is full.
    """
    if not 4 <= images_per_cluster <= 60:
        raise LussError(f"images per cluster must be 4 to 60, not {images_per_cluster}")
    if max_clusters is not None and max_clusters < 1:
        raise LussError(f"the number of clusters to show must be at least 1, not {max_clusters}")
    key = _key(source, images_per_cluster)
    old = _earlier(out, key)
    work = out.with_name(f".{out.name}{TEMPORARY_SUFFIX}")
    if _key_of(work) != key:
        shutil.rmtree(work, ignore_errors=True)
    write_json(work / MARKER, {"format": FORMAT, "key": key, "run": source.settings.name})
    problems = list(source.problems)
    gallery = _part(problems, "clusters", lambda: open_gallery(source)) if source.has("cluster") else None
    shown = gallery.largest(max_clusters) if gallery is not None else []
    drawn = 0
    if gallery is not None:
        limits = {"images_per_cluster": images_per_cluster, "max_pixels": source.settings.data.max_pixels}
        drawn = write_pictures(gallery, shown, work / "clusters", **limits, before=old, on_progress=on_progress)
    data = _data(source, gallery, shown, problems, on_progress)
    data["figures"] = write_plots(data, work / "figures") + _contact_sheets(source, work / "figures")
    write_text(work / "data.js", f"const lussData = {json.dumps(data, separators=(',', ':'))};\n")
    for asset in files("luss.report").joinpath("page").iterdir():
        if asset.name.endswith((".html", ".css", ".js")) and not asset.name.startswith("compare."):
            write_text(work / asset.name, asset.read_text(encoding="utf-8"))
    _remove_surplus(work / "clusters", {f"{cluster + 1}.js" for cluster in shown})
    _take_place(work, out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return ReportSummary(out / PAGE, len(shown), drawn, size, problems)


def _data(
    source: ReportSource, gallery: Gallery | None, shown: list[int], problems: list[str], on_progress: Progress
) -> dict[str, Any]:
    """Everything the page shows but the pictures; parts that fail are left out and named in `problems`."""
    curves = _curves(source)
    trained = next((item for item in curves if item.stage == "pretrain"), None)
    found = health(trained) if trained is not None else None
    store = gallery.store if gallery is not None else None
    data = {
        "run": {
            "name": source.settings.name,
            "identity": source.stages["cluster"].identity if source.has("cluster") else source.settings.name,
            "folder": str(source.folder),
            "data": source.settings.data.root,
            "images": _part(problems, "images", lambda: num_images(source)),
            "made": time.strftime("%Y-%m-%d %H:%M"),
            "luss": __version__,
        },
        "settings": settings_rows(source),
        "stages": stage_rows(source),
        "metrics": _part(problems, "metrics", lambda: metric_rows(source)) or [],
        "threshold": _part(problems, "threshold", lambda: threshold_facts(source)),
        "histogram": _part(problems, "attention", lambda: attention_histogram(store)) if store is not None else None,
        "curves": [asdict(item) for item in curves],
        "health": asdict(found) if found is not None else None,
        "clusters": None if gallery is None else _part(problems, "clusters", lambda: gallery_json(gallery, source, set(shown))),
        "categories": _part(problems, "categories", lambda: _categories(source, problems, on_progress)),
        "skipped": _part(problems, "skipped files", lambda: skipped_rows(source)) or {"total": 0, "files": []},
    }  # fmt: skip
    return {**data, "problems": problems}


def _curves(source: ReportSource) -> list[Curves]:
    found = (read_curves(source.of(stage) / "metrics.jsonl", stage) for stage in CURVE_STAGES)
    return [curves for curves in found if curves is not None]


def _categories(source: ReportSource, problems: list[str], on_progress: Progress) -> dict[str, Any] | None:
    """The categories of the first split with masks, which the matching was found on; None where nothing was evaluated."""
    path = source.of("evaluate") / "metrics.json"
    metrics = read_json(path) if source.is_done("evaluate") and path.is_file() else {}
    if not metrics.get("splits"):
        return None
    split = next(iter(metrics["splits"]))
    names = metrics.get("categories", [])
    rows = category_rows(metrics["splits"][split], names)
    found: dict[str, Any] = {"split": split, "rows": rows, "groups": metrics.get("groups"), "confusion": None}
    if not source.fits("evaluate", "predict") or split not in source.masks:
        gone = f"the masks or the predictions that evaluate has seen for {split!r} are no longer there"
        problems.append(f"confusion: {gone}")
        return found

    def count() -> dict[str, Any]:
        predictions, tell = source.of("predict") / "masks" / split, partial(on_progress, "masks counted")
        confusion = count_confusion(predictions, source.masks[split], source.num_classes, on_progress=tell)
        return confusion_json(confusion, metrics["splits"][split]["matching"], len(rows))

    found["confusion"] = _part(problems, "confusion", count)
    return found


def _part(problems: list[str], title: str, make: Callable[[], T]) -> T | None:
    """A part of the page, or None and a line in `problems`: a report is there to find out what is wrong with a run."""
    try:
        return make()
    except (LussError, OSError, KeyError, TypeError, ValueError) as error:
        problems.append(f"{title}: {error if isinstance(error, LussError) else repr(error)}")
        return None


def _contact_sheets(source: ReportSource, folder: Path) -> list[dict[str, str]]:
    """Copies the contact sheets that stages have drawn."""
    sheets = [(source.of("pseudo_labels") / "clusters.png", "pseudo-labels.png", "Pseudo labels: a row a cluster")]
    for path in sorted(source.of("predict").glob("clusters-*.png")):
        split = path.stem.removeprefix("clusters-")
        sheets.append((path, f"predictions-{split}.png", f"Predicted masks on {split}"))
    found = []
    for path, name, title in sheets:
        if path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
            found.append({"file": f"figures/{name}", "title": title})
    return found


def _key(source: ReportSource, images_per_cluster: int) -> str:
    """Identity of everything that decides the pictures."""
    stages = ("manifest", "cluster", "pseudo_labels")
    made_from = [source.stages[name].identity for name in stages if name in source.stages]
    content = json.dumps([FORMAT, __version__, SIDE, JPEG_QUALITY, images_per_cluster, made_from])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _key_of(folder: Path) -> str:
    try:
        return str(read_json(folder / MARKER)["key"])
    except (LussError, OSError, KeyError, TypeError):
        return ""


def _earlier(out: Path, key: str) -> Path | None:
    """The pictures of an earlier report of the same results.

    Raises:
        LussError: `out` is something else than a report, which must not be replaced.
    """
    if out.exists() and not (out / MARKER).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise LussError(f"{out} is there and is not a report: choose another folder with --out")
    return out / "clusters" if _key_of(out) == key else None


def _remove_surplus(folder: Path, wanted: set[str]) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in wanted:
            path.unlink()


def _take_place(work: Path, out: Path) -> None:
    """Puts the finished folder in the place of the old one. A kill in between leaves the finished one for the next try."""
    old = out.with_name(f".{out.name}.old{TEMPORARY_SUFFIX}")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(work, out)
    shutil.rmtree(old, ignore_errors=True)
