"""The source that a job runs: what it was at submission, whatever is edited meanwhile."""

import hashlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import luss
import stages
from luss.errors import LussError
from luss.files import temporary_beside

CodeChoice = Literal["snapshot", "refuse", "live"]
CHOICES: tuple[CodeChoice, ...] = get_args(CodeChoice)
"""The first is the usual one."""


def package_folders() -> dict[str, Path]:
    """Where the packages of this process lie."""
    return {package.__name__: Path(str(package.__file__)).parent for package in (luss, stages)}


def source_hash() -> str:
    """Identity of the source of this process, 16 hexadecimal digits: every file of the packages, by path and content."""
    digest = hashlib.sha256()
    for name, path in _files(package_folders()):
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def snapshot(target: Path) -> None:
    """Copies the packages into `target`, once: the folder to put first on PYTHONPATH, whose name is their `source_hash`."""
    if target.is_dir():
        return
    temporary = temporary_beside(target, uuid.uuid4().hex[:4])
    for name, path in _files(package_folders()):
        copy = temporary / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    try:
        temporary.rename(target)
    except OSError:
        # Another submission was faster.
        shutil.rmtree(temporary)
        if not target.is_dir():
            raise


def check_source(expected: str) -> None:
    """Makes sure that this process runs the source it was submitted with: `source_hash` then, or any where it is empty.

    Raises:
        LussError: It has been changed.
    """
    found = source_hash() if expected else ""
    if found != expected:
        where = package_folders()["luss"].parent
        raise LussError(
            f"the source of luss in {where} has changed since this job was submitted ({expected} -> {found}): submit again, "
            "or use --code snapshot, which keeps a copy"
        )


def _files(folders: dict[str, Path]) -> Iterator[tuple[str, Path]]:
    """But no configurations: a job has all its settings in a file of its own, and whoever edits one edits no source."""
    for package, folder in sorted(folders.items()):
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and "__pycache__" not in name.parts and name.parts[0] != "configs":
                yield f"{package}/{name.as_posix()}", path
