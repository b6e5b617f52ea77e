"""What is submitted, to a scheduler that only takes notes."""

import json
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luss.config import load_config, to_yaml
from luss.errors import LussError
from luss.files import remove_dead, writer_lives
from stages.commands import cancel, status
from stages.jobs import launch, source
from stages.jobs.launch import Row, preview, submit
from stages.jobs.plan import Order

SCRIPTS = {
    # Keeps the file and answers like SLURM; refuses where the test asks for it.
    "sbatch": """
[ -e refuse ] && { echo 'sbatch: error: invalid partition specified: gold' >&2; exit 1; }
n=$(ls | grep -c '[.]sh$'); n=$((n + 1)); cp "$1" "$n.sh"; echo "Submitted batch job $n" """,
    "squeue": """
case "$*" in *--name*) cat lost 2>/dev/null;; *) cat queue 2>/dev/null;; esac; exit 0""",
    "sacct": "cat accounts 2>/dev/null; exit 0",
    "scancel": 'echo "$@" >>cancelled',
    "sinfo": "cat machines 2>/dev/null || { echo 'sinfo: error: no answer' >&2; exit 1; }",
    "srun": "exit 1",
}


class NotedSlurm:
    """A SLURM whose commands keep what they are told in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def jobs(self) -> dict[str, str]:
        """The submitted files by job number."""
        return {
            path.stem: path.read_text() for path in sorted(self.folder.glob("*.sh"), key=lambda path: int(path.stem))
        }

    def say(self, states: dict[str, str]) -> None:
        """What the queue answers from now on."""
        lines = [f"{task}|{state}|None|0|" for task, state in states.items()]
        (self.folder / "queue").write_text("\n".join(lines))

    def write(self, name: str, text: str = "") -> None:
        (self.folder / name).write_text(text)

    def cancelled(self) -> str:
        path = self.folder / "cancelled"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NotedSlurm:
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, script in SCRIPTS.items():
        (folder / name).write_text(
            f"#!/bin/sh\ncd {folder}\n{script}\n" if name != "sbatch" else f"#!/bin/sh\ncd {folder}{script}\n"
        )
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return NotedSlurm(folder)


@pytest.fixture
def listed(finished: Path, tmp_path: Path) -> Path:
    """A run whose images are listed, and no more."""
    shutil.copytree(finished / "manifest", tmp_path / "run" / "manifest")
    return tmp_path / "run"


# What divides over the 8 processes of a job, or 16.
BATCHES = [f"{stage}.batch_size=48" for stage in ("pretrain", "pixel_attention", "finetune")] + [
    "pretrain.method.clustering.queue_length=0",
    "pixel_attention.queue_length=0",
]


@pytest.fixture
def order(config: Path, listed: Path) -> Callable[..., Order]:
    """Makes submissions of that run."""

    def make(*words: str, **changes: Any) -> Order:
        run = load_config(config, [f"output={listed}", *BATCHES, *words])
        return Order(run, **{"cluster": "slurm", "command": "luss submit tiny.yaml", **changes})

    return make


def submitted(order: Order, notes: list[str] | None = None) -> list[Row]:
    rows: list[Row] = []
    submit(order, rows.append, [].append if notes is None else notes.append)
    return rows


def option(text: str, name: str) -> str | None:
    found = re.search(rf"^#SBATCH --{name}(?:=(.*))?$", text, re.MULTILINE)
    return found[1] or "" if found else None


def numbers(rows: list[Row]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.job.isdigit():
            found.setdefault(row.stage, []).append(row.job)
    return found


def test_every_stage_waits_for_those_it_needs_and_arrays_are_as_wide_as_there_are_shards(
    slurm: NotedSlurm, order: Callable[..., Order]
) -> None:
    rows = submitted(order())
    jobs, ids = slurm.jobs(), numbers(rows)
    assert rows[0] == Row("manifest", "done")
    assert [len(ids[stage]) for stage in ("pretrain", "extract_features", "cluster", "predict")] == [1, 2, 1, 2]
    after = {job: option(text, "dependency") for job, text in jobs.items()}
    assert after[ids["pretrain"][0]] is None
    assert after[ids["pixel_attention"][0]] == f"afterok:{ids['pretrain'][0]}"
    array, join = ids["extract_features"]
    assert option(jobs[array], "array") == "0-3%4"
    assert option(jobs[join], "array") is None
    assert after[join] == f"afterok:{array}"
    assert after[ids["cluster"][0]] == f"afterok:{join}"
    assert after[ids["evaluate"][0]] == f"afterok:{ids['predict'][1]}"
    for text in jobs.values():
        assert option(text, "kill-on-invalid-dep") == "yes"
        assert option(text, "requeue") == ""


def test_jobs_ask_for_what_their_stage_takes(slurm: NotedSlurm, order: Callable[..., Order]) -> None:
    words = [
        "resources.pretrain.nodes=2",
        "resources.default.setup=[module load cuda]",
        "resources.pretrain.mem_gb=1.5",
    ]
    ids = numbers(submitted(order(*words, words={"partition": "gold", "account": None})))
    pretrain, array, cluster = (slurm.jobs()[ids[stage][0]] for stage in ("pretrain", "extract_features", "cluster"))
    shape = ("nodes", "ntasks-per-node", "gpus-per-node", "mem", "time", "signal", "partition", "account")
    assert [option(pretrain, name) for name in shape] == ["2", "8", "8", "1536M", "1440", "USR2@120", "gold", None]
    assert [option(array, name) for name in shape[:3]] == ["1", "1", "1"]
    assert [option(cluster, name) for name in shape[:3]] == ["1", "1", None]
    assert pretrain.index("module load cuda") < pretrain.index("\nsrun ")
    # Each process would otherwise get one processor.
    assert "--cpus-per-task=10" in pretrain.split("\nsrun ")[1]


def test_submitting_again_submits_nothing_that_is_queued(slurm: NotedSlurm, order: Callable[..., Order]) -> None:
    first = submitted(order())
    slurm.say({job: "PENDING" for jobs in numbers(first).values() for job in jobs} | array_tasks(first, "PENDING"))
    again = submitted(order())
    assert numbers(again) == {}
    assert [row.job for row in again if row.stage == "pretrain"] == [f"queued: {numbers(first)['pretrain'][0]}"]
    assert len(slurm.jobs()) == len([row for row in first if row.job.isdigit()])


def array_tasks(rows: list[Row], state: str) -> dict[str, str]:
    return {
        f"{row.job}_{task}": state for row in rows if row.shards[:1].isdigit() for task in range(int(row.shards[0]))
    }


def test_of_a_broken_array_only_the_failed_shard_is_submitted_and_the_join_waits_for_all(
    slurm: NotedSlurm, order: Callable[..., Order], finished: Path, listed: Path
) -> None:
    for stage in ("pretrain", "pixel_attention"):
        shutil.copytree(finished / stage, listed / stage)
    words = [word.replace("48", "20").replace("length=0", "length=40") for word in BATCHES]
    array, join = numbers(submitted(order(*words, until="extract_features")))["extract_features"]
    slurm.say(
        {
            f"{array}_0": "RUNNING",
            f"{array}_1": "RUNNING",
            f"{array}_2": "FAILED",
            f"{array}_3": "PENDING",
            join: "CANCELLED",
        }
    )
    rows = submitted(order(*words, until="extract_features"))
    new_array, new_join = numbers(rows)["extract_features"]
    assert [row.shards for row in rows if row.job == new_array] == ["1 in 1 task(s)"]
    assert option(slurm.jobs()[new_join], "dependency") == f"afterok:{array}_0:{array}_1:{array}_3:{new_array}"
    record = json.loads((listed / "jobs" / "extract_features.json").read_text())["jobs"]
    assert [(job["id"], job["shards"]) for job in record] == [
        (array, [[0], [1], [2], [3]]),
        (new_array, [[2]]),
        (new_join, []),
    ]


def test_more_shards_than_an_array_may_have_share_tasks(
    slurm: NotedSlurm, order: Callable[..., Order], listed: Path
) -> None:
    array = numbers(submitted(order("resources.extract_features.array_max=3", "resources.default.array_parallelism=2")))
    assert option(slurm.jobs()[array["extract_features"][0]], "array") == "0-2%2"
    record = json.loads((listed / "jobs" / "extract_features.json").read_text())["jobs"]
    assert record[0]["shards"] == [[0, 1], [2], [3]]


def test_a_stage_whose_need_is_submitted_again_is_submitted_again_and_its_old_job_removed(
    slurm: NotedSlurm, order: Callable[..., Order]
) -> None:
    first = numbers(submitted(order(until="pixel_attention")))
    slurm.say({first["pretrain"][0]: "FAILED", first["pixel_attention"][0]: "PENDING"})
    second = numbers(submitted(order(until="pixel_attention")))
    assert slurm.cancelled().split() == first["pixel_attention"]
    assert option(slurm.jobs()[second["pixel_attention"][0]], "dependency") == f"afterok:{second['pretrain'][0]}"


def test_jobs_of_other_settings_must_be_cancelled_first(slurm: NotedSlurm, order: Callable[..., Order]) -> None:
    job = numbers(submitted(order(until="pretrain")))["pretrain"][0]
    slurm.say({job: "RUNNING"})
    with pytest.raises(
        LussError, match=rf"pretrain is now set otherwise, but its job {job} is still queued or running"
    ):
        submit(order("pretrain.epochs=3"), lambda row: None)
    with pytest.raises(LussError, match="pretrain is to be run anew, but"):
        submit(order(force="pretrain"), lambda row: None)
    # Where and how fast it is computed does not count.
    submit(order("pretrain.workers=1", until="pretrain"), lambda row: None)
    assert list(slurm.jobs()) == [job]


def test_jobs_of_a_submission_that_was_killed_half_way_are_found(
    slurm: NotedSlurm, order: Callable[..., Order]
) -> None:
    slurm.write("lost", "77|77\n")
    with pytest.raises(LussError, match=r"job 77 belongs to .*, but its submission was broken off"):
        submit(order(), lambda row: None)
    assert not slurm.jobs()


def test_what_is_made_anew_is_moved_aside_once_so_that_a_job_that_starts_again_continues(
    slurm: NotedSlurm, config: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "whole"
    shutil.copytree(finished, run)
    words = {"gpus_per_node": 0}
    asked = load_config(config, [f"output={run}"])
    order = Order(asked, "slurm", "luss submit tiny.yaml", words=words, force="cluster")
    ids = numbers(submitted(order))
    assert list(ids) == ["cluster", "pseudo_labels", "finetune", "predict", "evaluate"]
    assert not (run / "cluster").exists()
    moved = sorted(path.name.split("-")[0] for path in (run / "superseded").iterdir())
    # Pieces of the old result must not be taken for those of the new one.
    assert moved == ["cluster", "predict", "pseudo_labels"]
    assert (run / "finetune" / "DONE.json").is_file()


def test_a_batch_that_does_not_divide_over_the_processes_of_a_job_is_refused_before_anything_is_queued(
    slurm: NotedSlurm, order: Callable[..., Order]
) -> None:
    with pytest.raises(LussError, match=r"finetune\.batch_size is 20, which does not divide over 8 processes"):
        submitted(order("finetune.batch_size=20"))
    assert not slurm.jobs()


def test_a_finished_run_needs_no_job(slurm: NotedSlurm, config: Path, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "whole"
    shutil.copytree(finished, run)
    rows = submitted(Order(load_config(config, [f"output={run}"]), "slurm", "luss submit tiny.yaml"))
    assert {row.job for row in rows} == {"done"}
    assert not slurm.jobs()


def test_a_refusal_is_told_in_the_schedulers_words_and_what_was_submitted_before_is_kept(
    slurm: NotedSlurm, order: Callable[..., Order], listed: Path
) -> None:
    def tell(row: Row) -> None:
        if row.stage == "pretrain":
            slurm.write("refuse")

    with pytest.raises(LussError, match="slurm refuses the job of pixel_attention: sbatch: error: invalid partition"):
        submit(order(), tell)
    assert (listed / "jobs" / "pretrain.json").is_file()
    assert not (listed / "jobs" / "pixel_attention.json").exists()


# Two partitions, the first of which jobs go to that name none.
SMALL = "main*|2|4|21000|gpu:2(S:0-1)|infinite|(null)|idle\ngold|1|64|500000|(null)|4:00:00|(null)|mixed\n"


def test_what_nobody_chose_is_lowered_to_what_the_machines_have_and_said(
    slurm: NotedSlurm, order: Callable[..., Order]
) -> None:
    slurm.write("machines", SMALL)
    notes: list[str] = []
    ids = numbers(submitted(order(), notes))
    pretrain, array, cluster = (slurm.jobs()[ids[stage][0]] for stage in ("pretrain", "extract_features", "cluster"))
    shape = ("nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "mem")
    assert [option(pretrain, name) for name in shape] == ["1", "2", "2", "2", "19968M"]
    assert [option(array, name) for name in shape] == ["1", "1", "1", "4", "19968M"]
    assert [option(cluster, name) for name in shape] == ["1", "1", None, "4", "19968M"]
    assert (
        "pretrain: gpus_per_node 2 instead of 8, tasks_per_node 2 instead of 8, cpus_per_task 2 instead of 10, mem_gb 19.5 instead of 160, "
        "which is what machines of partition main have"
    ) in notes
    assert len(notes) == 8
    assert "--cpus-per-task=2" in pretrain.split("\nsrun ")[1]


def test_without_gpus_in_the_partition_processes_work_on_cpus_and_its_time_limit_is_kept(
    slurm: NotedSlurm, order: Callable[..., Order]
) -> None:
    slurm.write("machines", SMALL)
    ids = numbers(submitted(order("resources.default.tasks_per_node=4", words={"partition": "gold"})))
    pretrain, cluster = (slurm.jobs()[ids[stage][0]] for stage in ("pretrain", "cluster"))
    shape = ("ntasks-per-node", "gpus-per-node", "cpus-per-task", "mem", "time")
    assert [option(pretrain, name) for name in shape] == ["4", None, "10", "163840M", "240"]
    assert [option(cluster, name) for name in shape] == ["1", None, "32", "131072M", "240"]


@pytest.mark.parametrize(
    ("setting", "words", "asked"),
    [
        ("resources.pretrain.gpus_per_node=4", {}, "4 GPU"),
        ("resources.default.cpus_per_task=8", {}, "8 CPU"),
        ("resources.pretrain.mem_gb=64", {}, "64 GB"),
        ("resources.pretrain.timeout_min=600", {"partition": "gold"}, "10:00 h"),
        ("resources.pretrain.nodes=3", {}, "3 x"),
    ],
)
def test_what_somebody_chose_and_no_machine_has_is_refused_before_anything_is_written(
    slurm: NotedSlurm, order: Callable[..., Order], listed: Path, setting: str, words: dict[str, str], asked: str
) -> None:
    slurm.write("machines", SMALL)
    partition = words.get("partition", "main")
    with pytest.raises(
        LussError, match=rf"pretrain asks for .*{asked}.*no machine of partition {partition} has \(\d+ of"
    ) as told:
        submitted(order(setting, words=words))
    assert "lower resources.pretrain, or choose another partition" in str(told.value)
    assert not slurm.jobs()
    assert [path.name for path in listed.iterdir()] == ["manifest"]


def test_a_cluster_that_does_not_say_what_its_machines_have_gets_what_fits_the_stages(
    slurm: NotedSlurm, order: Callable[..., Order]
) -> None:
    notes: list[str] = []
    ids = numbers(submitted(order(until="pretrain"), notes))
    assert option(slurm.jobs()[ids["pretrain"][0]], "gpus-per-node") == "8"
    (note,) = notes
    assert note.startswith("what the machines have is not known (sinfo -h failed: sinfo: error: no answer)")


def test_what_is_done_needs_no_machine(
    slurm: NotedSlurm, order: Callable[..., Order], finished: Path, listed: Path
) -> None:
    shutil.copytree(finished / "pretrain", listed / "pretrain")
    slurm.write("machines", SMALL)
    words = [word.replace("48", "20").replace("length=0", "length=40") for word in BATCHES]
    notes: list[str] = []
    submitted(order(*words, "resources.pretrain.gpus_per_node=4", until="pixel_attention"), notes)
    assert [note.split(":")[0] for note in notes] == ["pixel_attention"]


# Ends a word, a quote, a line of the shell, a comment; or begins a command.
HOSTILE = "a b'\"$(touch PWNED)`touch PWNED`;touch PWNED&touch PWNED|touch PWNED #"


def test_no_name_in_a_job_script_is_a_command(
    slurm: NotedSlurm, config: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / HOSTILE
    shutil.copytree(finished / "manifest", here / HOSTILE / "manifest")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONPATH", HOSTILE)
    words = {"partition": HOSTILE, "account": HOSTILE, "constraint": HOSTILE, "qos": HOSTILE}
    run = load_config(config, [f"output={here / HOSTILE}", *BATCHES])
    submitted(Order(run, "slurm", "luss submit tiny.yaml", words=words, until="extract_features"))
    (slurm.folder / "srun").write_text(f'#!/bin/sh\nprintf "%s\\n" "$PYTHONPATH" "$@" >>{slurm.folder}/ran\n')
    for number, text in slurm.jobs().items():
        assert text.count("\n#SBATCH --partition=") == 1
        subprocess.run(["bash", f"{slurm.folder}/{number}.sh"], check=True, cwd=here, capture_output=True)
    assert not list(tmp_path.rglob("PWNED"))
    ran = (slurm.folder / "ran").read_text().splitlines()
    assert ran[0] == f"{here / HOSTILE / 'code' / source.source_hash()}:{HOSTILE}"
    assert str(here / HOSTILE / "jobs" / "pretrain") in ran
    assert sys.executable in ran


@pytest.mark.parametrize("place", ["working folder", "output", "partition", "account", "constraint", "PYTHONPATH"])
def test_a_line_end_in_a_name_is_refused_before_anything_is_written(
    slurm: NotedSlurm, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    name = "x\ntouch PWNED"
    here = tmp_path / (name if place == "working folder" else "here")
    here.mkdir()
    monkeypatch.chdir(here)
    if place == "PYTHONPATH":
        monkeypatch.setenv("PYTHONPATH", name)
    output = here / (name if place == "output" else "run")
    words = {place: name} if place in ("partition", "account", "constraint") else {}

    def ask() -> None:
        run = load_config(config, [f"output={output}", *BATCHES])
        submitted(Order(run, "slurm", "luss submit tiny.yaml", words=words, until="pretrain"))

    with pytest.raises(LussError, match=r"holds a control character"):
        ask()
    assert not list(here.rglob("*"))
    assert not slurm.jobs()


def test_status_explains_why_jobs_wait_and_which_wait_for_ever(
    slurm: NotedSlurm, order: Callable[..., Order], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = order(until="pixel_attention")
    ids = numbers(submitted(asked))
    pretrain, attention = ids["pretrain"][0], ids["pixel_attention"][0]
    queue = f"{pretrain}|PENDING|%s|0|\n{attention}|PENDING|Dependency|0|\n"
    slurm.write("queue", queue % "Priority")
    (slurm.folder / "given.yaml").write_text(to_yaml(asked.run), encoding="utf-8")
    status.main(Namespace(run=slurm.folder / "given.yaml"))
    said = capsys.readouterr().out
    assert "Priority (pretrain): other jobs come before it\n" in said
    assert "Dependency (pixel_attention): it waits for the jobs before it\n" in said
    assert "next: nothing to do" in said
    slurm.write("queue", queue % "PartitionConfig")
    status.main(Namespace(run=slurm.folder / "given.yaml"))
    said = capsys.readouterr().out
    assert "next: pretrain waits for ever (PartitionConfig: no machine of the partition can ever start it)" in said
    assert f"`luss cancel {asked.run.output}`, then luss submit tiny.yaml with other --partition" in said


def test_without_slurm_submitting_to_it_is_an_error(
    order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LussError, match="SLURM is not here"):
        submit(order(), lambda row: None)


def test_the_jobs_of_a_run_are_found_by_its_configuration_too(
    slurm: NotedSlurm, order: Callable[..., Order], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, given = order(until="pretrain"), tmp_path / "given.yaml"
    given.write_text(to_yaml(asked.run), encoding="utf-8")
    job = numbers(submitted(asked))["pretrain"][0]
    slurm.say({job: "RUNNING"})
    status.main(Namespace(run=given))
    said = capsys.readouterr().out
    assert "running" in said
    assert f"`luss logs {asked.run.output} pretrain --follow`" in said
    cancel.main(Namespace(run=given))
    assert f"cancelled {job}" in capsys.readouterr().out
    assert slurm.cancelled().split() == [job]


def test_a_preview_shows_every_file_and_changes_nothing(
    order: Callable[..., Order], listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    before = sorted(listed.rglob("*"))
    shown: list[tuple[Row, str]] = []
    preview(order(), lambda row, text: shown.append((row, text)))
    assert sorted(listed.rglob("*")) == before
    texts = {row.job: text for row, text in shown if text}
    assert option(texts["<pixel_attention>"], "dependency") == "'afterok:<pretrain>'"
    assert [option(text, "array") for row, text in shown if row.stage == "extract_features"] == ["0-3%4", None]
    assert [row.stage for row, _ in shown][-1] == "evaluate"


def test_a_copy_of_the_source_is_kept_and_comes_first(
    slurm: NotedSlurm, order: Callable[..., Order], listed: Path
) -> None:
    job = numbers(submitted(order(until="pretrain")))["pretrain"][0]
    text = slurm.jobs()[job]
    copy = listed / "code" / source.source_hash()
    assert (copy / "stages" / "jobs" / "launch.py").read_bytes() == Path(launch.__file__).read_bytes()
    assert (copy / "luss" / "settings" / "stages.py").is_file()
    assert not list(copy.rglob("__pycache__"))
    assert f"export PYTHONPATH={copy}" in text
    # Or python would find an edited source in the working folder first.
    assert "export PYTHONSAFEPATH=1" in text


def test_half_a_copy_of_the_source_says_who_wrote_it_so_that_a_dead_ones_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(source.shutil, "copyfile", killed)
    with pytest.raises(KeyboardInterrupt):
        source.snapshot(tmp_path / "code" / "0123456789abcdef")
    (left,) = (tmp_path / "code").iterdir()
    assert writer_lives(left)
    left.rename(left.with_name(left.name.replace("-", "-1", 1)))  # a process that there is not
    remove_dead(tmp_path, "*/*")
    assert not list((tmp_path / "code").iterdir())


def test_a_job_refuses_to_run_a_source_that_was_edited(
    slurm: NotedSlurm, order: Callable[..., Order], listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(order(until="pretrain", code="refuse"))
    assert not (listed / "code").exists()
    edited = {name: shutil.copytree(folder, tmp_path / name) for name, folder in source.package_folders().items()}
    before = source.source_hash()
    monkeypatch.setattr(source, "package_folders", lambda: edited)
    assert source.source_hash() == before
    source.check_source(before)
    (edited["luss"] / "errors.py").write_text("")
    with pytest.raises(LussError, match="has changed since this job was submitted"):
        source.check_source(before)
    source.check_source("")
