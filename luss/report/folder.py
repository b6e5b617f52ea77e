"""A report's folder: which files of the page it has, and how a finished one takes the place of an older one."""

import os
import shutil
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from luss.errors import LussError
from luss.files import TEMPORARY_SUFFIX, write_text

MARKER = "report.json"
PAGE = "index.html"


def work_folder(out: Path) -> Path:
    """Where a report is written before it takes its place."""
    return out.with_name(f".{out.name}{TEMPORARY_SUFFIX}")


def check_place(out: Path) -> None:
    """Refuses to replace what is not a report.

    Raises:
        LussError: `out` is something else.
    """
    if out.exists() and not (out / MARKER).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise LussError(f"{out} is there and is not a report: choose another folder with --out")


def write_assets(folder: Path, assets: Iterable[tuple[str, str]]) -> None:
    """Copies files of the page: the name of each there, and in the folder."""
    page = files("luss.report").joinpath("page")
    for name, written in assets:
        write_text(folder / written, page.joinpath(name).read_text(encoding="utf-8"))


def take_place(work: Path, out: Path) -> None:
    """Puts the finished folder in the place of the old one. A kill in between leaves the finished one for the next try."""
    old = out.with_name(f".{out.name}.old{TEMPORARY_SUFFIX}")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(work, out)
    shutil.rmtree(old, ignore_errors=True)
