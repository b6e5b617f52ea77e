"""What the system refuses, such as a full disk or a missing right, in words that name the place and the remedy.

A refusal says nothing about the content of a file: what was not opened is not damaged.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from luss.errors import LussError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Not of a file but of this process or its machine: any other file would be refused too.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOLCK)
_IN_ITS_PLACE = "move away what is in its place and {again}"
_TEXTS = {
    **dict.fromkeys(_FULL, "the disk that holds {place} is full: free some space and {again}"),
    errno.EROFS: "{file} cannot be written, its disk is read-only: make it writable, or give another place",
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM), "{file}: this user has not the right to do that: mend the rights, or give another place"
    ),
    errno.EMFILE: "this process may not have more files open ({file} was not opened): allow more with `ulimit -n 4096` and {again}",
    errno.ENFILE: "this machine has too many files open ({file} was not opened): end other programs and {again}",
    errno.ENOLCK: "the file system of {file} gives no lock (nothing is wrong with the file): mend its lock service and {again}",
    errno.EIO: "the disk or file server of {file} reports an error: see what the system's log says of it and {again}",
    errno.ESTALE: "the file server has lost {file}: mount it anew and {again}",
    errno.ENOTDIR: f"a folder on the way to {{file}} is no folder: {_IN_ITS_PLACE}",
    errno.EISDIR: f"{{file}} is a folder where a file should be: {_IN_ITS_PLACE}",
    errno.ENAMETOOLONG: "{file} is too long a name for its file system: give a shorter place and {again}",
}  # fmt: skip
# Libraries wrap the system's error in text: Python over processes, HDF5, Rust.
_NUMBER = re.compile(r"\[Errno (\d+)\]|\berrno = (\d+)|\(os error (\d+)\)")
_WORDS = {os.strerror(number): number for number in (*_FULL, *_EXHAUSTED, errno.EROFS)}
_AGAIN = "run the same command again, it continues"


def refusal(error: BaseException, place: Path | str = "a file", *, again: str = _AGAIN) -> str | None:
    """The sentence for an error of the system, however a library has wrapped it; None where it is something else.

    Args:
        error: What was raised.
        place: What was worked on; a file that the error itself names is said instead, but where the disk is full.
        again: What to do once the cause is gone.
    """
    found = _system_error(error)
    if found is None:
        return None
    number, file = found
    return _TEXTS[number].format(place=place, file=file or place, again=again)


def refuse(error: BaseException, place: Path | str) -> None:
    """Raises LussError where the system is why the file `place` could not be read; returns where its content or absence may be the reason."""
    if (text := refusal(error, place)) is not None:
        raise LussError(text) from error
    if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT, errno.EINVAL):
        reason = os.strerror(error.errno)
        raise LussError(f"{place} was not opened ({reason}), which says nothing about its content: {_AGAIN}") from error


def refuse_exhausted(error: BaseException, place: Path | str) -> None:
    """As `refuse`, but only where any other file would have been refused too."""
    found = _system_error(error)
    if found is not None and found[0] in _EXHAUSTED:
        refuse(error, place)


@contextlib.contextmanager
def refusals_named(place: Path, again: str = _AGAIN) -> Iterator[None]:
    """Turns what the system refuses in the body of the `with` into a sentence.

    Raises:
        LussError: The system refuses something; names `place` and says to do `again`.
    """
    try:
        yield
    except LussError:
        raise
    except Exception as error:
        if (text := refusal(error, place, again=again)) is not None:
            raise LussError(text) from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is full, however a library has wrapped it."""
    found = _system_error(error)
    return found is not None and found[0] in _FULL


def _system_error(error: BaseException | None) -> tuple[int, str] | None:
    """Number and file of the system's error in a chain of errors; None where there is none of those that have a sentence."""
    while isinstance(error, Exception) and not isinstance(error, LussError):
        if (number := _number(error)) in _TEXTS:
            assert number is not None
            name = getattr(error, "filename", None)
            return number, os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""
        error = error.__cause__
    return None


def _number(error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if isinstance(error, OSError | RuntimeError | ImportError) or type(error).__module__.startswith("safetensors"):
        if match := _NUMBER.search(text):
            return int(next(group for group in match.groups() if group))
        return next((number for words, number in _WORDS.items() if words in text), None)
    return None
