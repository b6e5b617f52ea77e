"""Writing files so that half a file never counts as a file.

Every product of a stage goes through `replacing`: it is written to a temporary sibling, flushed to the disk and renamed. A process killed
at any moment leaves either the old file or the new one.
"""

import codecs
import contextlib
import errno
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from luss.errors import LussError

TEMPORARY_SUFFIX = ".partial"
# UTF-32 before UTF-16, whose mark is the beginning of its own.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# The only way to learn it is to set it, which threads that create files would see: once, at import.
_UMASK = os.umask(0o022)
os.umask(_UMASK)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success the file written there is flushed and renamed to `path`.

    Its folder is made when absent. On an error the temporary file is removed and `path` is left as it was.

    Raises:
        LussError: The disk is full (or a quota is reached).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        # Some libraries write for their user alone (safetensors: 0600): on a shared disk others read a run, as the umask allows.
        with contextlib.suppress(PermissionError):
            os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
    except BaseException as error:
        full = is_disk_full(error) or (_is_unexplained(error) and _cannot_grow(temporary))
        temporary.unlink(missing_ok=True)
        if full:
            raise LussError(
                f"the disk that holds {path.parent} is full: free some space and run the same command again, it continues"
            ) from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is full, however a library has wrapped it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # HDF5 and safetensors wrap the system's error in text, safetensors in a class of its own.
    return isinstance(error, Exception) and not isinstance(error, LussError) and "No space left on device" in str(error)


@contextlib.contextmanager
def full_disk_named(place: Path, again: str = "run again") -> Iterator[None]:
    """Turns a full disk (or quota) in the body of the `with` into a LussError that names `place` and says to do `again`."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise LussError(f"the disk that holds {place} is full: free some space and {again}") from error
        raise


def _is_unexplained(error: BaseException) -> bool:
    """Whether a library's error may hide the system's: on a full disk torch.save says "unexpected pos" and NumPy "5 requested and 3 written"."""
    return isinstance(error, RuntimeError) or (isinstance(error, OSError) and error.errno is None)


def _cannot_grow(path: Path) -> bool:
    """Whether the disk or the quota refuses another megabyte in `path`."""
    try:
        with open(path, "ab") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return is_disk_full(error)
    return False


def temporary_beside(path: Path, writer: str = "") -> Path:
    """The temporary sibling `.NAME.WRITER.partial` of a file: no other path's, of at most 255 bytes, and found by `remove_leftovers`.

    Args:
        path: The file that it will become.
        writer: Who writes, without dots; by default this process, in which only one thread at a time may then write `path`.
    """
    return path.with_name(f".{_short(path.name)}.{writer or os.getpid()}{TEMPORARY_SUFFIX}")


def _short(name: str) -> str:
    """A name that leaves room for more letters: file systems allow 255 bytes."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= 200 else hashlib.sha256(encoded).hexdigest()


def write_text(path: Path, text: str) -> None:
    r"""Writes `text` (UTF-8) to `path` atomically; bytes of names that are not UTF-8 (surrogates) as `\udcNN`, which JSON reads as these again."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def create_text(path: Path, text: str) -> bool:
    """Writes `text` (as `write_text`) to `path` unless that exists; of many processes on any machines exactly one succeeds.

    Nobody ever sees half the text: a finished file is linked, which is atomic on NFS too.

    Returns:
        Whether this call wrote the file.

    Raises:
        LussError: The disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path, uuid.uuid4().hex)
    try:
        with full_disk_named(path.parent):
            with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def keep_lines(path: Path, wanted: Callable[[Any], bool]) -> None:
    """Rewrites a file of JSON lines with those that are wanted; a line that a kill has cut off goes. Does nothing where there is no file."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError, KeyError):
            if wanted(json.loads(line)):
                kept.append(line + "\n")
    write_text(path, "".join(kept))


def remove_leftovers(targets: Iterable[Path]) -> None:
    """Removes the temporary files that killed processes left on their way to `targets`.

    Only for who may be sure that no living process writes any of them. A folder is read once, however many targets it has.
    """
    folders: dict[Path, set[str]] = {}
    for target in targets:
        folders.setdefault(target.parent, set()).add(_short(target.name))
    for folder, names in folders.items():
        for left in folder.glob(f".*{TEMPORARY_SUFFIX}"):
            # .NAME.WRITER.partial
            if left.name[1:].rsplit(".", 2)[0] in names:
                left.unlink(missing_ok=True)


def text_encoding(start: bytes) -> str:
    """The encoding of a text that people or other systems have written, by the mark that its first four bytes may be; UTF-8 without one."""
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    return "utf-8"


def not_text(path: Path, line: int) -> LussError:
    """What to say of a file that is no text, or one that another system has written in letters of its own."""
    return LussError(f"{path}, line {line}, is not UTF-8 text: save the file as UTF-8 (in Windows: Save as, Encoding)")


def read_user_text(path: Path) -> str:
    """Reads a text that a person has written, on any system: UTF-8, or UTF-16 and UTF-32 with their mark; lines end with a newline.

    Raises:
        LussError: It is no such text; names the line.
        OSError: It cannot be read.
    """
    data = path.read_bytes()
    encoding = text_encoding(data[:4])
    # UTF-16 without its mark.
    if encoding.startswith("utf-8") and (zero := data.find(b"\0")) >= 0:
        raise not_text(path, data.count(b"\n", 0, zero) + 1)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise not_text(path, data.count(b"\n", 0, error.start) + 1) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON to `path` atomically; keys keep their order."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        LussError: The file is absent or is not JSON.
    """
    try:
        return json.loads(read_user_text(path))
    except FileNotFoundError as error:
        raise LussError(f"{path} does not exist") from error
    except LussError:
        raise
    except ValueError as error:
        raise LussError(f"{path} is not valid JSON ({error}): delete it and run the stage again") from error
