"""Sentences for what the system refuses."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors

from luss.errors import LussError
from luss.files import write_text
from luss.refusals import is_disk_full, refusal, refusals_named, refuse, refuse_exhausted

DISK_FULL = OSError(errno.ENOSPC, "No space left on device")


# What the libraries say when a disk fills up while they write, recorded on a small tmpfs.
@pytest.mark.parametrize(
    "error",
    [
        DISK_FULL,
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("[Errno 28] Can't synchronously write data (errno = 28, error message = 'No space left on device')"),
        safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_recognised_in_the_words_of_every_library(error: Exception) -> None:
    assert is_disk_full(error)


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), RuntimeError("unexpected pos 576 vs 534"), KeyError("x")]
)
def test_other_errors_are_not_taken_for_a_full_disk(error: Exception) -> None:
    assert not is_disk_full(error)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk that holds /place is full"),
        (errno.EROFS, "/place/x cannot be written, its disk is read-only"),
        (errno.EACCES, "/place/x: this user has not the right"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENFILE, "this machine has too many files open"),
        (errno.EIO, "the disk or file server of /place/x reports an error"),
        (errno.EISDIR, "/place/x is a folder where a file should be"),
    ],
)
def test_each_refusal_has_a_sentence_with_its_place_and_the_remedy(number: int, words: str) -> None:
    with pytest.raises(LussError) as caught, refusals_named(Path("/place")):
        raise OSError(number, os.strerror(number), "/place/x")
    assert words in str(caught.value)
    assert ": " in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Caught OSError in DataLoader worker process 0.\n[Errno 24] Too many open files: 'a.jpg'"),
        OSError(
            "Unable to synchronously open file (unable to open file: errno = 24, error message = 'Too many open files')"
        ),
        safetensors.SafetensorError("Error while opening: Too many open files (os error 24)"),
        ImportError("libx.so: cannot open shared object file: Too many open files"),
    ],
)
def test_a_refusal_is_recognised_in_the_words_of_every_library(error: Exception) -> None:
    text = refusal(error, "x")
    assert text is not None
    assert "ulimit -n" in text


def test_what_is_no_refusal_keeps_its_traceback() -> None:
    for error in (KeyError("Too many open files"), ValueError("x"), FileNotFoundError(errno.ENOENT, "No such file")):
        with pytest.raises(type(error)), refusals_named(Path("x")):
            raise error


def test_a_file_that_was_not_opened_is_not_called_damaged_and_one_that_was_may_be() -> None:
    with pytest.raises(LussError, match="says nothing about its content"):
        refuse(BlockingIOError(errno.EAGAIN, "unable to lock file"), "labels.h5")
    with pytest.raises(LussError, match="gives no lock"):
        refuse(OSError(errno.ENOLCK, "unable to lock file"), "labels.h5")
    refuse(OSError("truncated file"), "labels.h5")
    refuse(FileNotFoundError(errno.ENOENT, "No such file"), "labels.h5")


def test_only_what_would_refuse_any_other_file_too_is_no_fault_of_a_file() -> None:
    with pytest.raises(LussError, match="ulimit"):
        refuse_exhausted(OSError(errno.EMFILE, "Too many open files"), "a.jpg")
    refuse_exhausted(PermissionError(errno.EACCES, "Permission denied"), "a.jpg")


def test_a_command_without_files_to_open_ends_with_the_word_that_raises_the_limit(tmp_path: Path) -> None:
    write_text(tmp_path / "tiny.yaml", "name: x\ndata: {root: shapes}\n")
    script = (
        "import resource, sys; from stages.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (4, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "held = [open('/dev/null')]\n"
        "sys.exit(main(['config', sys.argv[1]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "tiny.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "ulimit -n" in done.stderr
    assert "Traceback" not in done.stderr
