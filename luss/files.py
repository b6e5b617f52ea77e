"""Writing files so that half a file never counts as a file, and reading small ones that may be damaged.

Every product of a stage goes through `replacing`: it is written to a temporary sibling, flushed to the disk and renamed. A process killed
at any moment leaves either the old file or the new one. The temporary's name says who writes it, so that others know what is left of the dead.
"""

import codecs
import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from luss.errors import LussError
from luss.liveness import own_word, word_lives
from luss.refusals import is_disk_full, refusal, refusals_named, refuse

TEMPORARY_SUFFIX = ".partial"
# UTF-32 before UTF-16, whose mark is the beginning of its own.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# How often, and after how long, somebody else's claim is looked at again before it counts as a dead one's.
_CLAIM_LOOKS, _CLAIM_SECONDS = 30, 0.1
# The only way to learn it is to set it, which threads that create files would see: once, at import.
_UMASK = os.umask(0o022)
os.umask(_UMASK)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success the file written there is flushed and renamed to `path`.

    Its folder is made when absent. On an error the temporary file is removed and `path` is left as it was.

    Raises:
        LussError: The disk is full, read-only, or refuses something else (`luss.refusals`).
    """
    with refusals_named(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        # Some libraries write for their user alone (safetensors: 0600): on a shared disk others read a run, as the umask allows.
        with contextlib.suppress(OSError):  # exFAT and CIFS have no such rights
            os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
    except BaseException as error:
        cause = (_is_unexplained(error) and _cannot_grow(temporary)) or error
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if (text := refusal(cause, path.parent)) is not None:
            raise LussError(text) from error
        raise


def _is_unexplained(error: BaseException) -> bool:
    """Whether a library's error may hide the system's: on a full disk torch.save says "unexpected pos" and NumPy "5 requested and 3 written"."""
    return isinstance(error, RuntimeError) or (isinstance(error, OSError) and error.errno is None)


def _cannot_grow(path: Path) -> OSError | None:
    """What the disk or the quota says against another megabyte in `path`."""
    try:
        with open(path, "ab") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error if is_disk_full(error) else None
    return None


def temporary_beside(path: Path, writer: str = "") -> Path:
    """The temporary sibling `.NAME.WRITER.partial` of a file: no other path's, of at most 255 bytes, and found by `remove_leftovers`.

    Args:
        path: The file that it will become.
        writer: Tells several writers in this process apart, letters and digits; without it only one thread at a time may write `path`.
    """
    return path.with_name(f".{_short(path.name)}.{own_word()}{writer and '+'}{writer}{TEMPORARY_SUFFIX}")


def _short(name: str) -> str:
    """A name that leaves room for more letters: file systems allow 255 bytes."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= 170 else hashlib.sha256(encoded).hexdigest()


def write_text(path: Path, text: str) -> None:
    r"""Writes `text` (UTF-8) to `path` atomically; bytes of names that are not UTF-8 (surrogates) as `\udcNN`, which JSON reads as these again."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def create_text(path: Path, text: str) -> bool:
    """Writes `text` (as `write_text`) to `path` unless that exists; of many processes on any machines exactly one succeeds.

    Nobody ever sees half the text: a finished file is linked, which is atomic on NFS too; where there are no hard links (exFAT, CIFS,
    FUSE) it is renamed by who has made a claim.

    Returns:
        Whether this call wrote the file.

    Raises:
        LussError: The disk is full, read-only, or refuses something else.
    """
    temporary = temporary_beside(path, uuid.uuid4().hex)
    with refusals_named(path.parent):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            return _appears(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _appears(temporary: Path, path: Path) -> bool:
    """Gives a finished file its name unless somebody has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:
        return _claimed(temporary, path)
    return True


def _claimed(temporary: Path, path: Path) -> bool:
    """As `_appears` without links: who makes the claim looks and renames, which takes no time; a claim that stays is a dead one's."""
    claim = path.with_name(f".{_short(path.name)}.claim{TEMPORARY_SUFFIX}")
    for attempt in range(_CLAIM_LOOKS + 1):
        if path.exists():
            return False
        if attempt == _CLAIM_LOOKS:
            claim.unlink(missing_ok=True)
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            time.sleep(_CLAIM_SECONDS)
    else:
        raise LussError(
            f"{path} cannot be made: somebody else is about to, again and again: run the same command again"
        )
    try:
        if path.exists():
            return False
        os.rename(temporary, path)
        return True
    finally:
        claim.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Makes `target`, which does not exist, the same file as `source`, or a copy where the disk is another or has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


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


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines, one at a time; none where there is no file. Lines cut short by a kill are passed over."""
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                values = json.loads(line)
            except ValueError:
                continue
            if isinstance(values, dict):
                yield values


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
                _remove(left)


def remove_dead(folder: Path, pattern: str = "*") -> None:
    """Removes the temporary files and folders in a folder whose writers are dead; a writer that may live, elsewhere too, keeps its own.

    Args:
        folder: Need not exist.
        pattern: Names of the files that they were to become; "**/*" looks in all folders below, too.
    """
    for left in _temporaries(folder, pattern):
        if writer_lives(left) is False:
            _remove(left)


def remove_partials(folder: Path, pattern: str = "*") -> None:
    """As `remove_dead`, whoever the writers are: for who may be sure that none of them lives, on other machines too."""
    for left in _temporaries(folder, pattern):
        _remove(left)


def _temporaries(folder: Path, pattern: str) -> Iterator[Path]:
    above, _, name = pattern.rpartition("/")
    return folder.glob(f"{above}/.{name}.*{TEMPORARY_SUFFIX}".lstrip("/"))


def writer_lives(temporary: Path) -> bool | None:
    """Whether the process that made a name by `temporary_beside` lives; None where that cannot be told."""
    word = temporary.name.removesuffix(TEMPORARY_SUFFIX).rpartition(".")[2]
    return word_lives(word.partition("+")[0])


def _remove(left: Path) -> None:
    """Whatever is no longer needed; what cannot be removed harms nobody."""
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            left.unlink()


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


def read_json(path: Path, *, remedy: str = "delete it and run the stage again") -> Any:
    """Reads a JSON file.

    Raises:
        LussError: The file is absent, cannot be opened, or is not JSON; says `remedy`.
    """
    try:
        return json.loads(read_user_text(path))
    except FileNotFoundError as error:
        raise LussError(f"{path} does not exist") from error
    except LussError:
        raise
    except (ValueError, RecursionError) as error:
        raise LussError(f"{path} is not valid JSON ({error}): {remedy}") from error
    except OSError as error:
        refuse(error, path)
        raise


Kind = type | tuple[type, ...]

_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def read_record(
    path: Path, fields: Mapping[str, Kind] | None = None, *, remedy: str = "delete it and run the stage again"
) -> dict[str, Any]:
    """Reads a JSON file that must be an object.

    Args:
        path: The file.
        fields: The entries that it must have, and of which type, or one of which types; float takes whole numbers too.
        remedy: What to do about another file.

    Raises:
        LussError: As `read_json`; the content is another.
    """
    content = read_json(path, remedy=remedy)
    if (problem := _not_of(content, dict)) is not None:
        raise LussError(f"{path} is damaged (it is {problem}): {remedy}")
    for name, kind in (fields or {}).items():
        if name not in content:
            raise LussError(f"{path} is damaged (it has no {name}): {remedy}")
        if (problem := _not_of(content[name], kind)) is not None:
            raise LussError(f"{path} is damaged ({name} is {problem}): {remedy}")
    return dict(content)


def _not_of(value: Any, kind: Kind) -> str | None:
    """What is wrong with a value of another type; None where it is right."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    is_right = isinstance(value, (*kinds, int) if float in kinds else kinds)
    # JSON's true is no number, though Python's is.
    if is_right and (bool in kinds or not isinstance(value, bool)):
        return None
    return f"{_KINDS[type(value)]}, not {' or '.join(dict.fromkeys(_KINDS[each] for each in kinds))}"


def checksum(path: Path) -> str:
    """32 hexadecimal digits that differ where a file's content does (XXH3 of 128 bits): for damage, not against forgery.

    Raises:
        LussError: The file cannot be read.
    """
    found = xxhash.xxh3_128()
    with refusals_named(path, "run the same command again"), open(path, "rb", buffering=0) as file:
        piece = memoryview(bytearray(1 << 18))
        while count := file.readinto(piece):
            found.update(piece[:count])
    return found.hexdigest()
