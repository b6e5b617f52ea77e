"""Putting files into a data set as links or copies: only what is missing or wrong, each complete or absent."""

import errno
import os
import shutil
import stat
from pathlib import Path

from luss.errors import LussError
from luss.files import TEMPORARY_SUFFIX


class Placer:
    """Makes links or copies below one folder.

    Args:
        root: The folder. Links to files below it are relative, so that it can be moved; all others are absolute.
        copy: Whether to copy files; a link in a copy's place is replaced by it.

    Attributes:
        num_made: Links and copies made; those that were there and right do not count.
    """

    def __init__(self, root: Path, *, copy: bool) -> None:
        self.root = root.absolute()
        self.copy = copy
        self.num_made = 0

    def file(self, source: Path, target: Path) -> None:
        """Puts a file into its place; `source` exists.

        A link elsewhere or to nothing and a file of another size are replaced. A copy of the right size stays, also where a link
        would do.

        Raises:
            LussError: A folder is in the way.
        """
        link = self._link(source, target)
        try:
            present = os.lstat(target)
        except FileNotFoundError:
            pass
        else:
            if stat.S_ISDIR(present.st_mode):
                raise LussError(
                    f"{target} is a folder where a file should be: move it away and run the same command again"
                )
            if stat.S_ISLNK(present.st_mode):
                if not self.copy and os.readlink(target) == link:
                    return
            elif present.st_size == os.stat(source).st_size:
                return
        self._make(source if self.copy else None, link, target)

    def linked_folder(self, source: Path, target: Path) -> bool:
        """Puts a link to a folder; False, and nothing is done, where a real folder is in its place."""
        if target.is_dir() and not target.is_symlink():
            return False
        link = self._link(source, target)
        if not (target.is_symlink() and os.readlink(target) == link):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._make(None, link, target)
        return True

    def real_folder(self, target: Path) -> None:
        """Makes a folder; a link in its place is removed first, lest files be written through it into ImageNet."""
        if target.is_symlink():
            target.unlink()
        target.mkdir(parents=True, exist_ok=True)

    def _link(self, source: Path, target: Path) -> str:
        inside = source.is_relative_to(self.root)
        return os.path.relpath(source, target.parent) if inside else os.path.abspath(source)

    def _make(self, copied: Path | None, link: str, target: Path) -> None:
        # The name is always the same, so that the next run replaces what a killed one has left. No flush to the disk, which would
        # take hours for a million files: a copy cut short by a power failure has the wrong size and is made again.
        temporary = target.with_name(f".{target.name}{TEMPORARY_SUFFIX}")
        temporary.unlink(missing_ok=True)
        try:
            if copied is not None:
                shutil.copyfile(copied, temporary)
            else:
                _link(link, temporary)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self.num_made += 1


def _link(link: str, path: Path) -> None:
    try:
        os.symlink(link, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        raise LussError(
            f"the disk that holds {path.parent} knows no links: run the same command again with --copy"
        ) from error
