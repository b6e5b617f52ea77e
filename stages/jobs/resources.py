"""What each stage's job asks a cluster for: the command line wins over the stage's block, that over `resources.default`, that over what fits."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from luss.errors import LussError
from luss.settings import ResourceSettings, RunSettings
from luss.settings.fields import problems
from stages.base import AnyStage, Work

_COMMON: dict[str, Any] = {
    "nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1, "cpus_per_task": 4, "mem_gb": 16.0, "timeout_min": 240,
    "array_parallelism": 64, "array_max": 1000, "signal_delay_s": 120,
    "setup": [], "partition": "", "account": "", "qos": "", "constraint": "",
}  # fmt: skip
_ARRAY = {"gpus_per_node": 1, "cpus_per_task": 10, "mem_gb": 32.0, "timeout_min": 240}
_FITTING: dict[Work, dict[str, Any]] = {
    "light": {},
    # One process a GPU, loader workers beside each; memory is a node's.
    "trained": {"gpus_per_node": 8, "cpus_per_task": 10, "mem_gb": 160.0, "timeout_min": 1440},
    "array": _ARRAY,
    # k-means on CPUs: threads of one process, all rows of a restart near the processor.
    "threads": {"cpus_per_task": 32, "mem_gb": 128.0, "timeout_min": 1440},
    "neighbours": {**_ARRAY, "mem_gb": 64.0, "timeout_min": 1440},
    "counting": {"cpus_per_task": 16, "mem_gb": 32.0},
}
# Of these, only a stage that trains takes what is said for all stages: a second node would idle in any other job.
_SHAPE = ("nodes", "gpus_per_node", "tasks_per_node")


@dataclass(frozen=True)
class Resources:
    """What a job asks for; the fields of `luss.settings.ResourceSettings`, each with a value; an empty word is the cluster's own choice."""

    nodes: int
    gpus_per_node: int
    tasks_per_node: int
    cpus_per_task: int
    mem_gb: float
    timeout_min: int
    array_parallelism: int
    array_max: int
    signal_delay_s: int
    setup: list[str]
    partition: str
    account: str
    qos: str
    constraint: str

    @property
    def num_tasks(self) -> int:
        """Processes of the job."""
        return self.nodes * self.tasks_per_node

    def __str__(self) -> str:
        """Shortly, as in a table."""
        gpus = f", {self.gpus_per_node} GPU" if self.gpus_per_node else ""
        hours, minutes = divmod(self.timeout_min, 60)
        return (
            f"{self.nodes} x {self.tasks_per_node} task, {self.cpus_per_task} CPU{gpus}, {self.mem_gb:g} GB, "
            f"{hours}:{minutes:02d} h"
        )


def resources_of(run: RunSettings, stage: AnyStage, words: Mapping[str, Any]) -> Resources:
    """The resources of a stage's job; `words` are from the command line, None = not given.

    Raises:
        LussError: A value that cannot be.
    """
    own, default = (run.resources.get(name) or ResourceSettings() for name in (stage.name, "default"))
    trained = stage.work == "trained"
    found: dict[str, Any] = {}
    for entry in dataclasses.fields(ResourceSettings):
        name = entry.name
        fitting = {**_COMMON, **_FITTING[stage.work]}[name]
        general = [words.get(name), getattr(own, name), getattr(default, name)]
        if name in _SHAPE and not trained:
            # The word for fewer GPUs holds for everybody: --gpus-per-node 0 means a cluster without them.
            limit = next((value for value in general if value is not None), fitting)
            general = [getattr(own, name), min(fitting, limit) if name == "gpus_per_node" else None]
        found[name] = next((value for value in general if value is not None), fitting)
    _check(stage.name, found)
    if not stage.distributed:
        found |= {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": min(1, found["gpus_per_node"])}
    elif found["gpus_per_node"]:
        found["tasks_per_node"] = found["gpus_per_node"]
    return Resources(**found)


def chosen_fields(run: RunSettings, stage: AnyStage, words: Mapping[str, Any]) -> set[str]:
    """The fields of `resources_of` that somebody has set; the others are what fits the stage."""
    own, default = (run.resources.get(name) or ResourceSettings() for name in (stage.name, "default"))
    found = set()
    for entry in dataclasses.fields(ResourceSettings):
        name = entry.name
        said = [getattr(own, name)]
        if name not in _SHAPE or stage.work == "trained":
            said += [words.get(name), getattr(default, name)]
        found |= {name} if any(value is not None for value in said) else set()
    return found


def on_this_machine(resources: Resources) -> Resources:
    """What there is of it here, where nothing can be asked for."""
    cores, gpus = os.cpu_count() or 1, min(resources.gpus_per_node, torch.cuda.device_count())
    tasks = max(1, gpus) if resources.gpus_per_node else resources.tasks_per_node
    cpus = min(resources.cpus_per_task, max(1, cores // tasks))
    # Tasks of an array all start at once.
    array_max = min(resources.array_max, gpus or max(1, cores // cpus))
    return dataclasses.replace(
        resources, nodes=1, gpus_per_node=gpus, tasks_per_node=tasks, cpus_per_task=cpus, array_max=array_max
    )


def _check(stage: str, found: Mapping[str, Any]) -> None:
    # The settings were looked at when they were read, words from the command line were not.
    for problem in problems(ResourceSettings(**found), f"resources.{stage}."):
        raise LussError(problem)
    if found["signal_delay_s"] >= 60 * found["timeout_min"]:
        raise LussError(
            f"resources.{stage}.signal_delay_s is {found['signal_delay_s']}, but the time limit is {found['timeout_min']} min: "
            "the job would be told to stop before it starts; lower it"
        )
