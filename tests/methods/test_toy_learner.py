"""A learner is one class with its settings, one entry in the table, and a configuration that names it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
import small_methods
import torch
import torch.nn.functional as F
from torch import nn
from toy_training import Recorder

from luss.config import load_config
from luss.data.views import ViewDataset, Views
from luss.errors import LussError
from luss.methods import METHODS, method_class
from luss.methods.base import Given, Method
from luss.models.build import build_backbone
from luss.settings import MethodSettings, TrainSettings, ViewSettings
from luss.settings.fields import above
from luss.training.loop import Trainer, TrainJob
from luss.training.task import Progress, StepOutput

CONFIGURATION = """
name: toy
data: {root: shapes}
pretrain:
  epochs: 6
  batch_size: 8
  lr: 0.01
  lr_batch_size: 8
  optimizer: {name: adamw, weight_decay: 0.0}
  workers: 0
  log_every: 1
  backbone: {name: test_resnet}
  method:
    name: mean_colour
    view: {count: 1, size: 32}
    scale: 2.0
"""


@dataclass
class MeanColourSettings(MethodSettings):
    name: str = "mean_colour"
    view: ViewSettings = field(default_factory=lambda: ViewSettings(1, 64))
    scale: float = above(0, 1.0)

    def fits(self, training: TrainSettings) -> list[str]:
        return ["view.size is odd"] if self.view.size % 2 else []


class MeanColour(Method):
    """Says which colour a view has."""

    Settings: ClassVar[type[MethodSettings]] = MeanColourSettings

    def __init__(self, settings: MeanColourSettings, given: Given) -> None:
        super().__init__(settings, given)
        self.settings = settings
        self.head = nn.Linear(self.backbone.num_channels, 3)

    @property
    def views(self) -> tuple[ViewSettings, ...]:
        return (self.settings.view,)

    def forward(self, inputs: Views, progress: Progress) -> StepOutput:
        images = inputs.groups[0].flat()
        colours = self.backbone.colours(images).mean(dim=(2, 3))
        predicted = self.head(self.backbone(images).pooled())
        return StepOutput(self.settings.scale * F.mse_loss(predicted, colours))


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration that names the learner, which is registered."""
    monkeypatch.setitem(METHODS, "mean_colour", f"{__name__}:MeanColour")
    path = tmp_path / "toy.yaml"
    path.write_text(CONFIGURATION)
    return path


def test_a_learner_of_one_file_trains_from_one_configuration(path: Path) -> None:
    pretrain = load_config(path).pretrain
    torch.manual_seed(0)
    given = Given(lambda: build_backbone(pretrain.backbone.name), pretrain.images_a_pass)
    method = method_class(pretrain.method.name)(pretrain.method, given)
    reporter = Recorder()
    dataset = ViewDataset([small_methods.pictures(path.parent)], method.views, seed=0, max_pixels=10_000)
    job = TrainJob(
        key="pretrain",
        model=method,
        dataset=dataset,
        settings=pretrain,
        folder=path.parent / "checkpoints",
        device=torch.device("cpu"),
        seed=0,
        reporter=reporter,
    )
    assert Trainer(job).run() == 12
    losses = [loss for _, loss in reporter.column("loss")]
    assert losses[-1] < losses[0] / 2


def test_its_mistakes_are_told_as_those_of_any_learner(path: Path) -> None:
    with pytest.raises(LussError, match=r"'pretrain\.method\.skale'.*did you mean 'pretrain\.method\.scale'"):
        load_config(path, ["pretrain.method.skale=1"])
    with pytest.raises(LussError, match=r"pretrain\.method\.scale is -1\.0: it must be more than 0"):
        load_config(path, ["pretrain.method.scale=-1"])
    with pytest.raises(LussError, match=r"pretrain\.method\.view\.size is odd"):
        load_config(path, ["pretrain.method.view.size=33"])
