"""`luss` and SLURM as a person at a login node uses them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GATE = Path(__file__).parent / "gate"


@dataclass
class Cluster:
    """`luss` and SLURM as a person at a login node uses them."""

    folder: Path
    config: Path

    def luss(self, *arguments: str, check: bool = True, **environment: str) -> str:
        """Runs a command; gives what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "stages.cli", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "220", **environment},
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, run: Path, *arguments: str, **environment: str) -> str:
        """`luss submit` of the tiny configuration."""
        return self.luss("submit", str(self.config), f"output={run}", *arguments, **environment)

    def job(self, run: Path, stage: str) -> str:
        """The newest job of a stage."""
        return str(self.record(run, stage)[-1]["id"])

    def record(self, run: Path, stage: str) -> list[dict[str, Any]]:
        """The jobs of a stage."""
        found: list[dict[str, Any]] = json.loads((run / "jobs" / f"{stage}.json").read_text())["jobs"]
        return found

    def slurm(self, *command: str) -> str:
        """One of SLURM's commands."""
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    def state(self, job: str) -> str:
        """SLURM's word, such as RUNNING."""
        return self.slurm("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 400) -> None:
        """Waits until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{what} has not come within {seconds} s: {self.slurm('squeue')}"
            time.sleep(0.3)

    def wait_for_done(self, run: Path, stage: str) -> None:
        """Waits for a stage, and fails as soon as nothing of it is alive."""

        def finished() -> bool:
            if (run / stage / "DONE.json").is_file():
                return True
            alive = self.slurm("squeue", "-h", "-o", "%j")
            assert "luss-" in alive or (run / stage / "DONE.json").is_file(), self.luss("status", str(run)) + self.logs(
                run
            )
            return False

        self.wait(finished, f"the end of {stage}")

    def start_again(self, job: str) -> None:
        """Waits until a job is queued again, and starts it, which SLURM would do after two minutes."""
        self.wait(lambda: self.state(job) == "PENDING", f"job {job} back in the queue")
        # Refused while the job is being put back.
        self.wait(lambda: self._start_now(job), f"a new start of job {job}")

    def _start_now(self, job: str) -> bool:
        subprocess.run(
            ["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True, check=False, timeout=60
        )
        return self.state(job) in ("RUNNING", "CONFIGURING")

    def logs(self, run: Path) -> str:
        """Everything that jobs have printed."""
        return "\n".join(f"== {path}\n{path.read_text()}" for path in sorted(run.glob("jobs/*/*.out")))
