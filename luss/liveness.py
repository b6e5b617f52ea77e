"""Whether a process that wrote down where it runs still lives, as far as this one can tell."""

import os

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
