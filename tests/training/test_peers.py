"""Who is missing, told from signs of life: several members of a group in one process."""

import os
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import NoReturn

import pytest
import torch
import torch.distributed as dist

from luss.errors import LussError
from luss.training import distributed
from luss.training.peers import Peers

BEAT = 0.05
LOST = RuntimeError("Connection closed by peer [127.0.0.1]:4242")


class Group:
    """Members of a group that meet at one store."""

    def __init__(self, world_size: int) -> None:
        self.store: dist.Store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=20))
        self.world_size = world_size
        self.members: list[Peers] = []
        self.given_up: list[str] = []

    def join(self, rank: int, *, timeout: float = 60.0) -> Peers:
        member = Peers(
            self.store,
            rank,
            self.world_size,
            timeout=timedelta(seconds=timeout),
            beat_seconds=BEAT,
            give_up=self.given_up.append,
        )
        self.members.append(member)
        return member


@pytest.fixture
def group() -> Iterator[Group]:
    made = Group(3)
    yield made
    for member in made.members:
        member.close()


def own_name(rank: int) -> str:
    return f"rank {rank} (process {os.getpid()} on {socket.gethostname()})"


def test_a_member_without_signs_of_life_has_died(group: Group) -> None:
    first, _, last = (group.join(rank) for rank in range(3))
    last.close()
    assert first.explain(LOST) == f"{own_name(2)} has died: it gives no sign of life"


def test_a_member_that_failed_is_named_with_its_reason(group: Group) -> None:
    first, _, last = (group.join(rank) for rank in range(3))
    last.leave("the disk is full")
    last.close()
    assert first.explain(LOST) == f"{own_name(2)} failed: the disk is full"


def test_one_that_ends_because_of_another_is_not_blamed(group: Group) -> None:
    first, middle, last = (group.join(rank) for rank in range(3))
    last.close()
    assert "rank 2" in middle.explain(LOST)
    middle.close()
    assert "rank 2" in first.explain(LOST)


def test_a_member_that_never_came_is_named(group: Group) -> None:
    first = group.join(0)
    group.join(2)
    assert first.explain(LOST) == "rank 1 never came"


def test_a_member_that_lives_but_does_not_come_is_named_with_the_time_it_was_waited_for(group: Group) -> None:
    first, middle, _ = (group.join(rank, timeout=90) for rank in range(3))
    for member in (first, middle):
        member.meet()
    # The others' signs carry the number of meetings with their next beat.
    middle.close()
    middle._write()
    assert first.explain(LOST).startswith(f"{own_name(1)} has died")
    group.members.remove(middle)
    group.members.append(group.join(1))
    group.members[-1].meet()
    assert first.explain(LOST) == f"{own_name(2)} lives, but the others waited 1.5 min for it in vain"


def test_without_anybody_missing_the_error_itself_is_told(group: Group) -> None:
    first, _, _ = (group.join(rank) for rank in range(3))
    assert first.explain(LOST) == f"the processes lost each other ({LOST})"


def test_a_member_caught_in_a_collective_gives_up_when_another_is_silent_for_too_long(group: Group) -> None:
    for rank in range(2):
        group.join(rank, timeout=0.2)
    group.join(2).close()
    end = time.monotonic() + 20
    while not group.given_up and time.monotonic() < end:
        time.sleep(0.01)
    assert group.given_up[0].startswith(f"{own_name(2)} gives no sign of life for 0.4 s")


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node1", "node1"),
        ("node[1-2]", "node1"),
        ("gpu[007-009,12],login1", "gpu007"),
        ("a[3,5]-ib,b2", "a3-ib"),
        ("x1,x[2-4]", "x1"),
    ],
)
def test_processes_meet_at_the_first_machine_of_a_job(nodes: str, host: str) -> None:
    assert distributed.first_host(nodes) == host


SLURM = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}
LOCAL = {"SUBMITIT_LOCAL_GLOBALID": "1", "SUBMITIT_LOCAL_NTASKS": "2", "SUBMITIT_LOCAL_LOCALID": "1"}
TORCHRUN = {"RANK": "2", "WORLD_SIZE": "8", "LOCAL_RANK": "2"}


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in {**SLURM, **LOCAL, **TORCHRUN}:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        (SLURM, distributed.Place("slurm", 3, 4, 1)),
        ({**SLURM, **LOCAL}, distributed.Place("submitit", 1, 2, 1)),
        ({**SLURM, **TORCHRUN}, distributed.Place("torchrun", 2, 8, 2)),
        # An sbatch script outside of srun: the job has four tasks, this process is alone.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, None),
        ({}, None),
    ],
)
def test_the_launcher_nearest_to_a_process_says_where_it_is(
    no_launcher: pytest.MonkeyPatch, environment: dict[str, str], place: distributed.Place | None
) -> None:
    for name, value in environment.items():
        no_launcher.setenv(name, value)
    assert distributed.place() == place


def test_the_meeting_point_follows_from_the_job(no_launcher: pytest.MonkeyPatch) -> None:
    no_launcher.setenv("SLURM_STEP_NODELIST", "node[3-4]")
    no_launcher.setenv("SLURM_JOB_ID", "40017")
    own = distributed.Place("slurm", 0, 2, 0)
    assert distributed._meeting_point(own) == "tcp://node3:10017"
    no_launcher.setenv("MASTER_ADDR", "10.0.0.1")
    no_launcher.setenv("MASTER_PORT", "4000")
    assert distributed._meeting_point(own) == "tcp://10.0.0.1:4000"


def test_a_process_whose_others_do_not_come_fails_after_the_time_limit(no_launcher: pytest.MonkeyPatch) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        no_launcher.setenv(name, value)
    with pytest.raises(LussError, match=r"rank 0 was waited for in vain"):
        distributed.start(torch.device("cpu"), timeout_minutes=0.01)


def test_errors_of_ones_own_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="gloo"), distributed.naming_lost_peers():
        raise RuntimeError("gloo")


def test_rank_0_keeps_the_store_until_the_others_have_heard_why_it_ends(group: Group) -> None:
    first, middle, last = (group.join(rank) for rank in range(3))
    first.leave("the disk is full")
    # As if the store had gone with rank 0.
    for member in (middle, last):
        member._read = gone  # type: ignore[method-assign]
        assert member.explain(LOST) == f"{own_name(0)} failed: the disk is full"


def gone(ranks: object) -> NoReturn:
    raise RuntimeError("the store is gone")
