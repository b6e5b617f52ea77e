"""The one loop that serves every trained stage."""

import contextlib
import inspect
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from luss import processes
from luss.data.order import RemainingBatches
from luss.data.workers import load_batches
from luss.errors import LussError
from luss.progress import Interrupted, Reporter, StopFlag
from luss.settings import TrainSettings
from luss.training.checkpoint import load_newest, misfit, random_state, restore_random_state, save_checkpoint
from luss.training.optim import build_optimizer, clip, scaled_lr, set_schedules
from luss.training.precision import Precision
from luss.training.sync_batch_norm import synchronise_batch_norm
from luss.training.task import Progress, StepOutput, Task

# Newest metric lines that a task sees of its own training; of older ones it sees the first of each epoch.
_KEPT_LINES = 8


class AddressedDataset(Protocol):
    """A data set whose samples are addressed by (epoch, index)."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, key: tuple[int, int]) -> Any:
        """One sample."""

    def collate(self, samples: list[Any]) -> Any:
        """A batch with an attribute `unreadable`."""


@dataclass
class TrainJob:
    """Everything that one training run needs.

    Attributes:
        key: Configuration block, for messages.
        model: What trains; turns batches of the data set into its own inputs.
        dataset: Addressed by (epoch, index).
        settings: Length, batch, optimiser, precision.
        folder: Where checkpoints go.
        device: Of this process.
        seed: Of the run.
        reporter: Where news go.
        stop: Asked after every step.
        on_unreadable: Told path and reason of every image that could not be read.
    """

    key: str
    model: Task
    dataset: AddressedDataset
    settings: TrainSettings
    folder: Path
    device: torch.device
    seed: int
    reporter: Reporter
    stop: StopFlag = field(default_factory=StopFlag)
    on_unreadable: Callable[[str, str], None] = lambda path, reason: None


class Trainer:
    """Trains a job from its newest checkpoint to its end."""

    def __init__(self, job: TrainJob) -> None:
        """Prepares model and optimiser and restores the newest checkpoint.

        Raises:
            LussError: The batch does not fit the number of processes or images.
        """
        self.job = job
        settings = job.settings
        self.share = processes.share_of_batch(settings.batch_size, settings.accumulate, key=job.key)
        self.steps_per_epoch = len(job.dataset) // settings.batch_size
        if settings.epochs and not self.steps_per_epoch:
            raise LussError(
                f"{job.key}.batch_size is {settings.batch_size} but there are only {len(job.dataset)} images: "
                f"set {job.key}.batch_size to at most that"
            )
        self.num_steps = self.steps_per_epoch * settings.epochs
        self.precision = Precision(settings.precision, job.device, warn=job.reporter.warn)
        self.model: Any = job.model.to(job.device)
        if settings.sync_batch_norm and processes.world_size() > 1:
            self.model = synchronise_batch_norm(self.model, job.device)
        if settings.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(self.model, settings)
        # How far training has come, and where and when the last checkpoint was written.
        self.step, self.saved_step, self.saved_at = 0, 0, time.monotonic()
        self.lines: list[dict[str, float]] = []
        self.warned = False
        self._restore()
        self.forward: Any = torch.compile(self.model) if settings.compile else self.model
        if processes.world_size() > 1:
            devices = [job.device.index] if job.device.type == "cuda" else None
            self.forward = DistributedDataParallel(self.forward, device_ids=devices, **_own_buffers())

    def _restore(self) -> None:
        fits = partial(misfit, self.model, self.optimizer, num_steps=self.num_steps)
        state = load_newest(self.job.folder, warn=self.job.reporter.warn, misfit=fits)
        if state is None:
            self.job.reporter.rewind(0)
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.load_state_dict(state["scaler"])
        restore_random_state(state["random"])
        self.step = self.saved_step = int(state["step"])
        self.job.reporter.rewind(self.step)
        self.job.reporter.message(f"continuing {self.job.key} at step {self.step} of {self.num_steps}")

    def save(self) -> None:
        """Writes a checkpoint of the present position, unless it is already there.

        Raises:
            LussError: The weights are no longer finite: such a checkpoint would push out a good one.
        """
        if self.step != self.saved_step and not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise self._diverged("weights are no longer finite", self.step)
        if processes.rank() == 0 and self.step != self.saved_step:
            state = {
                "step": self.step,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.precision.state_dict(),
                "random": random_state(),
            }
            save_checkpoint(self.job.folder, self.step, state)
        self.saved_step, self.saved_at = self.step, time.monotonic()
        processes.barrier()

    def run(self) -> int:
        """Trains to the end.

        Returns:
            The number of steps of the whole training.

        Raises:
            Interrupted: A stop was asked for; a checkpoint holds everything done.
            LussError: The loss is no longer finite.
        """
        job, settings = self.job, self.job.settings
        self._announce()
        batches = self._batches()
        clock = _Clock()
        self.model.train()
        while self.step < self.num_steps:
            step = self.step
            log = step % settings.log_every == 0 or step == self.num_steps - 1
            progress = Progress(step, self.num_steps, self.steps_per_epoch, log)
            output = self._step(batches, progress, clock)
            self.step += 1
            clock.images += settings.batch_size
            if progress.log:
                self._log(progress, output, clock)
            # One question a step, and a second where there is something to do.
            if processes.any_process(self._save_is_due() or bool(job.stop)):
                self.save()
                if processes.any_process(bool(job.stop)):
                    raise Interrupted(job.stop.reason or "another process was asked to stop")
        self.save()
        return self.num_steps

    def _step(self, batches: Iterator[Any], progress: Progress, clock: "_Clock") -> StepOutput:
        """One optimiser step over `accumulate` micro-batches; returns the last one's output with the mean loss."""
        settings, job = self.job.settings, self.job
        self.lr = set_schedules(self.optimizer, settings, progress)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=job.device)
        output: StepOutput | None = None
        for part in range(settings.accumulate):
            with clock.waiting():
                batch = next(batches)
            for path, reason in batch.unreadable:
                job.on_unreadable(path, reason)
            inputs = self.model.prepare(batch, job.device)
            with _no_sync(self.forward, part < settings.accumulate - 1):
                with self.precision.autocast():
                    output = self.forward(inputs, progress)
                self.precision.scale(output.loss / settings.accumulate).backward()  # type: ignore[no-untyped-call]
            total += output.loss.detach() / settings.accumulate
        assert output is not None
        self.model.after_backward(progress)
        own = settings.optimizer
        self.precision.step(
            self.optimizer, clip=None if own.clip == "none" else lambda: clip(self.model.parameters(), own)
        )
        self.model.after_step(progress)
        return StepOutput(total, output.scalars)

    def _log(self, progress: Progress, output: StepOutput, clock: "_Clock") -> None:
        job, named = self.job, {"loss": output.loss, **output.scalars}
        means = processes.mean(
            torch.stack([value.detach().to(job.device, torch.float32) for value in named.values()])
        ).tolist()
        values = dict(zip(named, means, strict=True))
        if not math.isfinite(values["loss"]):
            raise self._diverged(f"loss is {values['loss']}", progress.step)
        rate, waited = clock.read()
        position = {"step": progress.step, "epoch": int(progress.epoch), "lr": self.lr}
        speed = {"images_per_second": rate, "data_wait": waited}
        self.job.reporter.metrics({**position, **values, **speed})
        self.job.reporter.advance(self.step, **speed, **values)
        self._remember({**position, **values})
        text = "" if self.warned else self.model.warning(self.lines)
        if text:
            self.warned = True
            self.job.reporter.warn(text)

    def _remember(self, line: dict[str, float]) -> None:
        """Adds a line to those that the task sees."""
        self.lines.append(line)
        older = len(self.lines) - _KEPT_LINES - 1
        if older > 0 and self.lines[older]["epoch"] == self.lines[older - 1]["epoch"]:
            del self.lines[older]

    def _diverged(self, what: str, step: int) -> LussError:
        key, settings = self.job.key, self.job.settings
        return LussError(
            f"{key}: the {what} at step {step}: lower {key}.lr (now {settings.lr}), lengthen {key}.warmup_epochs, or use "
            f"{key}.precision=fp32; the last checkpoint is kept"
        )

    def _save_is_due(self) -> bool:
        settings, minutes = self.job.settings, (time.monotonic() - self.saved_at) / 60
        epoch_steps = self.steps_per_epoch * settings.checkpoint_epochs
        return self.step % epoch_steps == 0 or minutes >= settings.checkpoint_minutes

    def _announce(self) -> None:
        settings, reporter = self.job.settings, self.job.reporter
        reporter.start("step", self.num_steps, self.step)
        reporter.message(
            f"{self.job.key}: {len(self.job.dataset)} images, {settings.epochs} epochs of {self.steps_per_epoch} steps, global batch "
            f"{settings.batch_size} = {processes.world_size()} process(es) x {settings.accumulate} x {self.share}; lr "
            f"{settings.lr:g} for a batch of {settings.lr_batch_size} -> {scaled_lr(settings):g}; {settings.optimizer.name}, "
            f"{self.precision.name} on {self.job.device}"
        )

    def _batches(self) -> Iterator[Any]:
        job, settings = self.job, self.job.settings
        order = RemainingBatches(
            len(job.dataset),
            seed=job.seed,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            accumulate=settings.accumulate,
            rank=processes.rank(),
            world_size=processes.world_size(),
            first_step=self.step,
        )
        dataset: Dataset[Any] = job.dataset  # type: ignore[assignment]
        return load_batches(
            dataset,
            order,
            workers=settings.workers,
            collate=job.dataset.collate,
            setting=f"{job.key}.workers",
            pin_memory=job.device.type == "cuda",
            prefetch=4,
        )


class _Clock:
    """Images a second and the share of time spent waiting for data, since the last reading."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.waited = 0.0
        self.images = 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.waited += time.perf_counter() - started

    def read(self) -> tuple[float, float]:
        elapsed = max(time.perf_counter() - self.started, 1e-9)
        result = (round(self.images / elapsed, 2), round(self.waited / elapsed, 4))
        self.started, self.waited, self.images = time.perf_counter(), 0.0, 0
        return result


def _own_buffers() -> dict[str, Any]:
    """DistributedDataParallel's word for leaving buffers alone, which torch 2.13 renamed: statistics and queue agree by themselves."""
    words = inspect.signature(DistributedDataParallel.__init__).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in words else "broadcast_buffers": False}


def _no_sync(model: Any, active: bool) -> Any:
    """Skips gradient exchange for all but the last micro-batch."""
    return model.no_sync() if active and isinstance(model, DistributedDataParallel) else contextlib.nullcontext()
