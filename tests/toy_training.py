"""A training job of a few hundred weights, whose every random part is seeded, for the tests of this folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luss.methods.clustering import OnlineClustering
from luss.progress import Reporter, StopFlag
from luss.settings import ClusteringSettings, TrainSettings
from luss.training.loop import Trainer, TrainJob
from luss.training.task import Progress, StepOutput, Task


@dataclass
class ToyBatch:
    values: Tensor
    unreadable: list[tuple[str, str]] = field(default_factory=list)


class ToyData:
    """Two noisy views of each of `num_images` vectors, a pure function of (epoch, index)."""

    def __init__(self, num_images: int = 26, unreadable: tuple[int, ...] = ()) -> None:
        self.num_images, self.unreadable = num_images, unreadable

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Tensor]:
        epoch, index = key
        base = np.random.default_rng(index).normal(size=(1, 6))
        noise = np.random.default_rng([epoch, index]).normal(size=(2, 6))
        return index, torch.from_numpy(base + 0.3 * noise).float()

    def collate(self, samples: list[tuple[int, Tensor]]) -> ToyBatch:
        bad = [(f"{index}.jpg", "broken") for index, _ in samples if index in self.unreadable]
        return ToyBatch(torch.stack([values for _, values in samples], dim=1), bad)


class ToyTask(Task):
    """Takes the values of a batch as they are."""

    def prepare(self, batch: ToyBatch, device: torch.device) -> Tensor:
        return batch.values.to(device)


class ToyMethod(ToyTask):
    """Dropout, a layer, and online clustering with a queue; asks for a stop or fails after a given step."""

    def __init__(self, *, batch_size: int = 8) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 10), nn.BatchNorm1d(10))
        settings = ClusteringSettings(
            num_prototypes=5,
            embedding_dim=4,
            hidden_dim=8,
            queue_length=16,
            queue_start_epoch=0,
            freeze_prototypes_steps=2,
        )
        self.clustering = OnlineClustering(10, settings, batch_size=batch_size)
        self.after: Callable[[int], None] = lambda step: None

    def forward(self, inputs: Tensor, progress: Progress) -> StepOutput:
        vectors = self.layer(inputs.flatten(0, 1))
        loss, _, scalars = self.clustering.loss([vectors], progress, num_images=inputs.shape[1])
        return StepOutput(loss, scalars)

    def after_backward(self, progress: Progress) -> None:
        self.clustering.drop_frozen_gradient(progress)

    def after_step(self, progress: Progress) -> None:
        self.after(progress.step)


class ToyRegression(ToyTask):
    """Mean squared error of one layer without batch norm; remembers the gradient of its last step."""

    def __init__(self, *, nan_from: int = 1000) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.nan_from = nan_from
        self.gradients: list[Tensor] = []
        self.inputs: list[Tensor] = []

    def forward(self, inputs: Tensor, progress: Progress) -> StepOutput:
        self.inputs.append(inputs)
        loss = F.mse_loss(self.layer(inputs[0]), inputs[1])
        return StepOutput(loss * (float("nan") if progress.step >= self.nan_from else 1.0))

    def after_backward(self, progress: Progress) -> None:
        assert self.layer.weight.grad is not None
        self.gradients.append(self.layer.weight.grad.clone())


class Recorder(Reporter):
    """Keeps metric lines as the file of a stage does, and everything said."""

    def __init__(self) -> None:
        self.lines: list[Mapping[str, float]] = []
        self.said: list[str] = []
        self.warnings: list[str] = []

    def metrics(self, values: Mapping[str, float]) -> None:
        self.lines.append(dict(values))

    def rewind(self, step: int) -> None:
        self.lines = [line for line in self.lines if line["step"] < step]

    def message(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def column(self, name: str) -> list[tuple[float, float]]:
        return [(line["step"], line[name]) for line in self.lines]


def toy_settings(**changes: Any) -> TrainSettings:
    values = {
        "epochs": 2,
        "batch_size": 8,
        "lr": 0.5,
        "lr_batch_size": 8,
        "log_every": 1,
        "workers": 0,
        "precision": "fp32",
    }
    return TrainSettings(**{**values, **changes})


def toy_trainer(
    folder: Path,
    model: Task,
    *,
    reporter: Recorder | None = None,
    data: Any = None,
    stop: StopFlag | None = None,
    on_unreadable: Callable[[str, str], None] = lambda path, reason: None,
    **settings: Any,
) -> Trainer:
    job = TrainJob(
        key="pretrain",
        model=model,
        dataset=data or ToyData(),
        settings=toy_settings(**settings),
        folder=folder,
        device=torch.device("cpu"),
        seed=3,
        reporter=reporter or Recorder(),
        stop=StopFlag() if stop is None else stop,
        on_unreadable=on_unreadable,
    )
    return Trainer(job)
