"""What a partition's machines have, so that no job asks for what never comes: SLURM takes such a job, and it waits for ever."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

from luss.errors import LussError
from stages.jobs.queue import slurm
from stages.jobs.resources import Resources

_FORMAT = "%P|%D|%c|%m|%G|%l|%f|%T"
# Of these states a machine does not come back by itself.
_AWAY = re.compile(r"down|drain|fail|error|unknown|future|not_resp", re.IGNORECASE)
# SLURM may keep some memory of a machine for itself, which sinfo does not say.
_MEMORY_SHARE = 0.95


@dataclass(frozen=True)
class Machines:
    """Equal machines of a partition.

    Attributes:
        partition: Its name.
        is_default: Whether jobs go there that name none.
        count: How many.
        cpus, mem_gb, gpus: Of each.
        limit_min: Longest time of a job; None = no limit.
        features: What a constraint may name.
        here: Whether they work now.
    """

    partition: str
    is_default: bool
    count: int
    cpus: int
    mem_gb: float
    gpus: int
    limit_min: int | None
    features: frozenset[str]
    here: bool

    def __str__(self) -> str:
        """As a person says it."""
        gpus = f", {self.gpus} GPU" if self.gpus else ""
        return f"{self.count} of {self.cpus} CPU, {self.mem_gb:.0f} GB{gpus}"


def ask_machines() -> list[Machines]:
    """All machines of all partitions.

    Raises:
        LussError: sinfo is not here, or does not answer.
    """
    return parse_sinfo(slurm("sinfo", "-h", "-a", "-e", "-o", _FORMAT))


def parse_sinfo(text: str) -> list[Machines]:
    """Reads `sinfo -h -e -o "%P|%D|%c|%m|%G|%l|%f|%T"`; lines that are something else are left out."""
    found = []
    for line in text.splitlines():
        fields = [part.strip() for part in line.split("|")]
        numbers = [re.match(r"\d+", field) for field in fields[1:4]]
        if len(fields) != _FORMAT.count("|") + 1 or not all(numbers):
            continue
        count, cpus, memory = (int(number[0]) for number in numbers if number)
        gpus = sum(int(number) for number in re.findall(r"\bgpu(?::[^:,()]+)?:(\d+)", fields[4]))
        features = frozenset(re.split(r"[,&|]", fields[6])) - {"(null)", ""}
        partition, is_default = fields[0].removesuffix("*"), fields[0].endswith("*")
        here = not _AWAY.search(fields[7])
        found.append(
            Machines(partition, is_default, count, cpus, memory / 1024, gpus, _minutes(fields[5]), features, here)
        )
    return found


def _minutes(limit: str) -> int | None:
    """Of SLURM's days-hours:minutes:seconds."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if match is None:
        return None
    days, hours, minutes = (int(part or 0) for part in match.groups()[:3])
    return (days * 24 + hours) * 60 + minutes


def fitted(
    stage: str,
    wanted: Resources,
    machines: Sequence[Machines],
    *,
    chosen: Set[str],
    cpu_tasks: int = 1,
    divides: Callable[[int], bool] = lambda processes: True,
) -> tuple[Resources, str]:
    """Resources that machines of the job's partition have.

    Args:
        stage: Its name, for messages.
        wanted: What the job would ask for.
        machines: Of all partitions.
        chosen: Fields of `wanted` that somebody has set; the others may be lowered.
        cpu_tasks: Processes a machine where there are no GPUs.
        divides: Whether the global batch divides over a number of processes.

    Returns:
        The resources, and a sentence about what was lowered; empty where nothing was.

    Raises:
        LussError: No machine has what was chosen; names the partition, what was asked for and what there is.
    """
    own = _candidates(wanted, machines)
    if not own or _fits(wanted, own):
        # A partition that sinfo does not list is the scheduler's to refuse.
        return wanted, ""
    here = [each for each in own if each.here] or own
    lowered = [_lowered(wanted, each, chosen, cpu_tasks, divides) for each in here]
    fitting = [resources for resources in lowered if _fits(resources, own)]
    partition = ", ".join(dict.fromkeys(each.partition for each in own))
    if not fitting:
        has = "; ".join(dict.fromkeys(str(each) + _limit(each) for each in own))
        raise LussError(
            f"{stage} asks for {wanted}, which no machine of partition {partition} has ({has}): lower resources.{stage}, or choose "
            "another partition"
        )
    best = max(fitting, key=lambda each: (each.gpus_per_node, each.num_tasks * each.cpus_per_task, each.mem_gb))
    changes = [
        f"{name} {getattr(best, name):g} instead of {getattr(wanted, name):g}"
        for name in ("nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task", "mem_gb", "timeout_min")
        if getattr(best, name) != getattr(wanted, name)
    ]
    return best, f"{stage}: {', '.join(changes)}, which is what machines of partition {partition} have"


def _limit(machines: Machines) -> str:
    return "" if machines.limit_min is None else f", {machines.limit_min} min"


def _candidates(wanted: Resources, machines: Iterable[Machines]) -> list[Machines]:
    """Machines that the job may go to, as far as its partition and a plain constraint say."""
    names = set(wanted.partition.split(",")) - {""}
    features = wanted.constraint.split("&") if re.fullmatch(r"[\w.&-]+", wanted.constraint) else []
    return [
        each
        for each in machines
        if (each.partition in names if names else each.is_default) and each.features.issuperset(features)
    ]


def _fits(wanted: Resources, machines: Iterable[Machines]) -> bool:
    able = [
        each.count
        for each in machines
        if wanted.tasks_per_node * wanted.cpus_per_task <= each.cpus
        and wanted.mem_gb <= each.mem_gb
        and wanted.gpus_per_node <= each.gpus
        and (each.limit_min is None or wanted.timeout_min <= each.limit_min)
    ]
    return sum(able) >= wanted.nodes


def _lowered(
    wanted: Resources, machine: Machines, chosen: Set[str], cpu_tasks: int, divides: Callable[[int], bool]
) -> Resources:
    """What nobody chose, lowered to what a machine has; what was chosen may still be too much."""

    def least(name: str, value: float) -> float:
        before: float = getattr(wanted, name)
        return before if name in chosen else max(min(before, value), 0)

    nodes = int(least("nodes", machine.count))
    # Each process needs a CPU, and as many as were chosen.
    room = machine.cpus // (wanted.cpus_per_task if "cpus_per_task" in chosen else 1)
    gpus = int(least("gpus_per_node", min(machine.gpus, room)))
    by_gpu = wanted.gpus_per_node > 0 and wanted.tasks_per_node == wanted.gpus_per_node
    if by_gpu and "gpus_per_node" not in chosen:
        gpus = next((number for number in range(gpus, 0, -1) if divides(nodes * number)), min(gpus, 1))
    tasks = (gpus or cpu_tasks) if by_gpu else int(least("tasks_per_node", room))
    cpus = int(least("cpus_per_task", max(1, machine.cpus // max(tasks, 1))))
    memory = least("mem_gb", round(_MEMORY_SHARE * machine.mem_gb, 1))
    minutes = int(least("timeout_min", machine.limit_min or wanted.timeout_min))
    delay = wanted.signal_delay_s if "signal_delay_s" in chosen else min(wanted.signal_delay_s, 30 * minutes)
    return dataclasses.replace(
        wanted, nodes=nodes, gpus_per_node=gpus, tasks_per_node=max(tasks, 1), cpus_per_task=cpus, mem_gb=memory,
        timeout_min=minutes, signal_delay_s=delay,
    )  # fmt: skip
