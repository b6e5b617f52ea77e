"""Who is missing when processes lose each other: several members of a group in one process."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import NoReturn

import pytest
import torch
import torch.distributed as dist
from filelock._identity import process_start_token

from luss import peers, processes
from luss.errors import LussError
from luss.liveness import own_place
from luss.peers import Peers

pytestmark = pytest.mark.slow

LOST = RuntimeError("Connection closed by peer [127.0.0.1]:4242")
ELSEWHERE = ("elsewhere?pidns-f0000123", 17, 4242)


class Group:
    """Members of a group that meet at one store; those that are not this very process by pretence."""

    def __init__(self, world_size: int) -> None:
        self.store: dist.Store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=20))
        self.world_size = world_size
        self.members: list[Peers] = []

    def join(self, rank: int, place: tuple[str, int, int] | None = None) -> Peers:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(peers, "own_place", lambda: place or own_place())
            member = Peers(self.store, rank, self.world_size, timeout=timedelta(seconds=90))
        self.members.append(member)
        return member


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    monkeypatch.setattr(peers, "_LISTEN_SECONDS", 0.05)
    monkeypatch.setattr(peers, "_PATIENCE_SECONDS", 0.5)
    made = Group(3)
    yield made
    for member in made.members:
        member.close()


@pytest.fixture
def dead() -> tuple[str, int, int]:
    """Where a process was that has been killed."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = process_start_token(process.pid) or 0
    process.kill()
    process.communicate()
    return own_place()[0], process.pid, start


def name(rank: int, pid: int | None = None) -> str:
    return f"rank {rank} (process {pid or os.getpid()} on {socket.gethostname()})"


def test_a_member_that_was_killed_on_this_machine_is_named(group: Group, dead: tuple[str, int, int]) -> None:
    first, _ = group.join(0), group.join(1)
    group.join(2, dead)
    assert first.explain(LOST) == f"{name(2, dead[1])} has died"


def test_a_member_that_failed_is_named_with_its_reason(group: Group) -> None:
    first, _, last = (group.join(rank) for rank in range(3))
    last.leave("the disk is full")
    assert first.explain(LOST) == f"{name(2)} failed: the disk is full"


def test_one_that_ends_because_of_another_is_not_blamed(group: Group, dead: tuple[str, int, int]) -> None:
    first, middle = group.join(0), group.join(1)
    last = group.join(2, dead)
    said = middle.explain(LOST)
    assert said == f"{name(2, dead[1])} has died"
    # By now it has ended itself.
    group.join(1, dead)
    assert last.explain(LOST) == said
    assert first.explain(LOST) == said


def test_a_member_that_never_came_is_named(group: Group) -> None:
    first = group.join(0)
    group.join(2)
    assert first.explain(LOST) == "rank 1 never came"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (None, f"{name(2)} lives, but the others waited 1.5 min for it in vain"),
        (ELSEWHERE, "rank 2 (process 17 on elsewhere) has died or hangs: the others waited 1.5 min for it in vain"),
    ],
    # Not what is said: it names this process, and workers that share the tests must call them alike.
    ids=["here", "elsewhere"],
)
def test_a_member_that_does_not_notice_the_end_is_named_with_the_time_it_was_waited_for(
    group: Group, place: tuple[str, int, int] | None, said: str
) -> None:
    first, middle = group.join(0), group.join(1)
    group.join(2, place)
    middle._store.set("left 1", "")
    assert first.explain(LOST) == said


def test_without_anybody_missing_the_error_itself_is_told(group: Group) -> None:
    first, middle, last = (group.join(rank) for rank in range(3))
    for member in (middle, last):
        member._store.set(f"left {member.rank}", "")
    assert first.explain(LOST) == f"the processes lost each other ({LOST})"


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
    assert processes.first_host(nodes) == host


SLURM = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}
LOCAL = {"SUBMITIT_LOCAL_GLOBALID": "1", "SUBMITIT_LOCAL_NTASKS": "2", "SUBMITIT_LOCAL_LOCALID": "1"}
TORCHRUN = {"RANK": "2", "WORLD_SIZE": "8", "LOCAL_RANK": "2"}


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in {**SLURM, **LOCAL, **TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": ""}:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        (SLURM, processes.Place("slurm", 3, 4, 1)),
        ({**SLURM, **LOCAL}, processes.Place("submitit", 1, 2, 1)),
        ({**SLURM, **TORCHRUN}, processes.Place("torchrun", 2, 8, 2)),
        # An sbatch script outside of srun: the job has four tasks, this process is alone.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, None),
        ({}, None),
    ],
)
def test_the_launcher_nearest_to_a_process_says_where_it_is(
    no_launcher: pytest.MonkeyPatch, environment: dict[str, str], place: processes.Place | None
) -> None:
    for name, value in environment.items():
        no_launcher.setenv(name, value)
    assert processes.place() == place


def test_the_meeting_point_follows_from_the_job(no_launcher: pytest.MonkeyPatch) -> None:
    no_launcher.setenv("SLURM_STEP_NODELIST", "node[3-4]")
    no_launcher.setenv("SLURM_JOB_ID", "40017")
    own = processes.Place("slurm", 0, 2, 0)
    assert processes._meeting_point(own) == ("node3", 10017)
    no_launcher.setenv("MASTER_ADDR", "10.0.0.1")
    no_launcher.setenv("MASTER_PORT", "4000")
    assert processes._meeting_point(own) == ("10.0.0.1", 4000)


@pytest.mark.parametrize(("rank", "said"), [(0, "rank 1 never came"), (1, "rank 0 was waited for in vain")])
def test_a_process_whose_others_do_not_come_names_them_after_the_time_limit(
    no_launcher: pytest.MonkeyPatch, rank: int, said: str
) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    environment = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for key, value in environment.items():
        no_launcher.setenv(key, value)
    no_launcher.setenv("GLOO_SOCKET_IFNAME", "lo")
    with pytest.raises(LussError, match=said):
        processes.start(torch.device("cpu"), timeout_minutes=0.02)
    assert processes.world_size() == 1


def test_errors_of_ones_own_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="gloo"), processes.naming_lost_peers():
        raise RuntimeError("gloo")


def test_rank_0_keeps_the_store_until_the_others_have_heard_why_it_ends(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_PATIENCE_SECONDS", 60)
    first, middle, last = (group.join(rank) for rank in range(3))
    first.leave("the disk is full")
    # As if the store had gone with rank 0.
    for member in (middle, last):
        monkeypatch.setattr(member, "_store", Gone())
        assert member.explain(LOST) == f"{name(0)} failed: the disk is full"


def test_who_has_not_heard_why_rank_0_ended_says_that_it_did(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    member = group.join(1)
    monkeypatch.setattr(member, "_store", Gone())
    assert member.explain(LOST) == "rank 0, which keeps the list of processes, has died"


class Gone:
    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError("the store is gone")


@pytest.mark.parametrize(("local_rank", "num_visible", "index"), [(3, 8, 3), (3, 1, 0), (0, 1, 0)])
def test_a_process_takes_the_gpu_of_its_number_or_the_only_one_that_it_sees(
    local_rank: int, num_visible: int, index: int
) -> None:
    assert processes.gpu_of(local_rank, num_visible) == torch.device("cuda", index)
