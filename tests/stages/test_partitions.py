"""What sinfo says about machines, from canned answers."""

import dataclasses

import pytest

from luss.config import load_config
from luss.errors import LussError
from stages.jobs.partitions import Machines, fitted, parse_sinfo
from stages.jobs.reasons import is_final, meaning
from stages.jobs.resources import Resources, chosen_fields
from stages.pipeline import STAGES

SINFO = """\
gpu*|4|80|512000|gpu:a100:8(S:0-1),shard:32|2-12:30:00|ib,big|mixed
gpu*|2|40|256000|gpu:v100:4|2-12:30:00|ib|idle~
gpu*|1|96|1024000|gpu:a100_3g.20gb:16,gpu:h100:4|2-12:30:00|(null)|down*
cpu|10|64|128000+|(null)|30:00|(null)|allocated
slurm_load_partitions: something else
"""
WANTED = Resources(
    nodes=1, gpus_per_node=8, tasks_per_node=8, cpus_per_task=10, mem_gb=160.0, timeout_min=1440, array_parallelism=64, array_max=1000,
    signal_delay_s=120, setup=[], partition="", account="", qos="", constraint="",
)  # fmt: skip


def wanted(**changes: object) -> Resources:
    return dataclasses.replace(WANTED, **changes)  # type: ignore[arg-type]


def machines(**changes: object) -> Machines:
    usual = Machines("gpu", True, 2, 16, 64.0, 4, None, frozenset(), True)
    return dataclasses.replace(usual, **changes)  # type: ignore[arg-type]


def test_machines_are_read_with_their_gpus_limits_and_features() -> None:
    assert parse_sinfo(SINFO) == [
        Machines("gpu", True, 4, 80, 500.0, 8, 3630, frozenset({"ib", "big"}), True),
        Machines("gpu", True, 2, 40, 250.0, 4, 3630, frozenset({"ib"}), True),
        Machines("gpu", True, 1, 96, 1000.0, 20, 3630, frozenset(), False),
        Machines("cpu", False, 10, 64, 125.0, 0, 30, frozenset(), True),
    ]


def test_what_some_machine_has_stays_as_it_is_asked_for() -> None:
    assert fitted("pretrain", WANTED, parse_sinfo(SINFO), chosen=set()) == (WANTED, "")
    assert fitted("pretrain", WANTED, [], chosen=set()) == (WANTED, "")
    # sbatch knows best about a partition that sinfo does not show.
    assert fitted("pretrain", wanted(partition="secret"), parse_sinfo(SINFO), chosen=set())[1] == ""


def test_a_constraint_leaves_only_machines_that_have_its_features() -> None:
    several = parse_sinfo(SINFO)
    assert fitted("pretrain", wanted(constraint="ib&big"), several, chosen=set())[1] == ""
    smaller = [each for each in several if "big" not in each.features and each.here]
    found, note = fitted("pretrain", wanted(constraint="ib"), smaller, chosen={"constraint"})
    assert (found.gpus_per_node, found.cpus_per_task, found.mem_gb) == (4, 10, 160.0)
    assert note.startswith("pretrain: gpus_per_node 4 instead of 8, tasks_per_node 4 instead of 8, which")


def test_a_number_of_gpus_is_found_that_divides_the_batch() -> None:
    found, _ = fitted("pretrain", WANTED, [machines(gpus=3)], chosen=set(), divides=lambda number: 64 % number == 0)
    assert (found.gpus_per_node, found.tasks_per_node, found.cpus_per_task) == (2, 2, 8)


def test_gpus_give_way_to_the_cpus_that_were_chosen_for_each() -> None:
    found, _ = fitted("pretrain", WANTED, [machines()], chosen={"cpus_per_task"})
    assert (found.gpus_per_node, found.cpus_per_task, found.mem_gb) == (1, 10, 60.8)
    with pytest.raises(LussError, match="pretrain asks for 1 x 8 task, 10 CPU, 8 GPU"):
        fitted("pretrain", WANTED, [machines()], chosen={"cpus_per_task", "gpus_per_node"})


def test_the_largest_of_several_kinds_of_machines_is_taken_unless_it_is_away() -> None:
    kinds = [machines(cpus=8, gpus=2), machines(cpus=32, gpus=4, here=False), machines(cpus=12, gpus=2)]
    found, _ = fitted("pretrain", WANTED, kinds, chosen=set())
    assert (found.gpus_per_node, found.cpus_per_task) == (2, 6)
    found, _ = fitted("pretrain", WANTED, kinds[1:2], chosen=set())
    assert (found.gpus_per_node, found.cpus_per_task) == (4, 8)


def test_a_short_partition_ends_the_job_earlier_and_warns_it_in_time() -> None:
    found, note = fitted("pretrain", WANTED, [machines(limit_min=3, cpus=99, mem_gb=999.0, gpus=8)], chosen=set())
    assert (found.timeout_min, found.signal_delay_s) == (3, 90)
    assert "timeout_min 3 instead of 1440" in note


def test_what_was_chosen_is_known_from_the_command_line_the_stage_and_all_stages() -> None:
    run = load_config("configs/demo.yaml", ["resources.pretrain.mem_gb=8", "resources.default.cpus_per_task=2"])
    assert chosen_fields(run, STAGES["pretrain"], {"gpus_per_node": 1, "qos": None}) == {
        "mem_gb",
        "cpus_per_task",
        "gpus_per_node",
    }
    # The shape of trained stages is not that of the others.
    assert chosen_fields(run, STAGES["predict"], {"gpus_per_node": 1}) == {"cpus_per_task"}


@pytest.mark.parametrize(
    ("reason", "words", "final"),
    [
        ("PartitionConfig", "no machine of the partition can ever start it", True),
        ("Resources", "waits until machines are free", False),
        ("QOSMaxCpuPerUserLimit", "a limit of its qos", False),
        ("AssocGrpGRES", "a limit of your account", False),
        ("MaxJobsPerUser", "a limit of your account", False),
        ("ReqNodeNotAvail, UnavailableNodes:gpu[01-04]", "machines that it needs are down", False),
        ("BadConstraints", "no machine of the partition has what it asks for", True),
        ("InvalidQOS", "the qos does not exist", True),
        ("JobHeldUser", "it is held", False),
        ("launch_failed_requeued_held", "it is held", False),
        ("SomethingNew", "", False),
    ],
)
def test_the_schedulers_reasons_are_told_in_words(reason: str, words: str, final: bool) -> None:
    assert words in meaning(reason)
    assert bool(words) == bool(meaning(reason))
    assert is_final(reason) == final
