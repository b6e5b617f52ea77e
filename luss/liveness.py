"""Whether a process that wrote down where it runs still lives, as far as this one can tell."""

import functools
import hashlib
import os
import re

import psutil
from filelock._identity import host_name, process_start_token


def own_place() -> tuple[str, int, int]:
    """Host, pid and start of this process, for others to ask `lives`. A host in a container has its space of pids behind a "?"."""
    return host_name(), os.getpid(), process_start_token(os.getpid()) or 0


def lives(host: str, pid: int, start: int) -> bool | None:
    """Whether the process of that `own_place` lives, and is no zombie; `start` because a pid can be used again by another program.

    Returns:
        None where its pid means nothing here: another host, another space of pids, or another boot, which the start's upper bits tell.
    """
    own_host, _, own_start = own_place()
    if host != own_host or not own_start >> 64 or start >> 64 != own_start >> 64:
        return None
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE and process_start_token(pid) == start
    except psutil.NoSuchProcess:
        return False


def own_word() -> str:
    """`own_place` as a word of at most 33 letters, digits and dashes for the names of files, which `word_lives` understands."""
    return _word_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _word_of(pid: int) -> str:
    host, _, start = own_place()
    return f"{_machine(host, start >> 64)}-{pid}-{start % (1 << 64):x}"


def word_lives(word: str) -> bool | None:
    """Whether the process of that `own_word` lives; None where that cannot be told (see `lives`), or where it is no such word."""
    match = re.fullmatch(r"([0-9a-f]{8})-(\d{1,10})-([0-9a-f]{1,16})", word)
    host, _, own_start = own_place()
    if match is None or match[1] != _machine(host, own_start >> 64):
        return None
    return lives(host, int(match[2]), own_start >> 64 << 64 | int(match[3], 16))


def _machine(host: str, boot: int) -> str:
    return hashlib.sha256(f"{host} {boot}".encode()).hexdigest()[:8]
