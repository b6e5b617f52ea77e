"""The page of a comparison: one HTML file with everything in it, which opens from a disk, without a network or a server."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from luss.files import write_text

_STYLES = ("report.css", "compare.css")
_SCRIPTS = ("basics.js", "charts.js", "compare.js")


def write_comparison(path: Path, data: dict[str, Any]) -> None:
    """Writes the page.

    Args:
        path: The file.
        data: What it shows, in plain values: name, made, budget, notes, axes, columns, luss, folder, and rows; a row has labels, texts (its
            figures by their column's key) and cells, a cell has name, state, reason, values, report (where its own page is, relative to
            `path`, or None) and curves: `images`, how many had been seen at each point, and `series`, values or None by name.

    Raises:
        LussError: The disk is full.
    """
    # A script ends at the first "</script", wherever that stands.
    content = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    page = _asset("compare.html")
    for place, names in (("/* styles */", _STYLES), ("/* scripts */", _SCRIPTS)):
        page = page.replace(place, "\n".join(_asset(name) for name in names))
    write_text(path, page.replace("/* data */", f"const comparison = {content};"))


def _asset(name: str) -> str:
    return files("luss.report").joinpath("page", name).read_text(encoding="utf-8")
