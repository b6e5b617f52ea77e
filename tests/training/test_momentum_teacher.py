"""The contract of a method with a momentum teacher, as CONTRIBUTING.md gives it: `after_step`, `state_dict` and `export` are enough."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from luss.methods.forward import backbone_views, pool
from torch import Tensor, nn
from toy_training import Recorder, ToyData, toy_trainer

from luss.methods.base import Method, Progress, StepOutput, Views
from luss.models.build import build_backbone, create_timm
from luss.progress import Interrupted, StopFlag
from luss.settings import ViewSettings
from luss.training.checkpoint import checkpoints, load_newest

NUM_STEPS = 6


class TaughtMethod(Method):
    """Predicts the other view's vector in a slowly following copy of the backbone (as BYOL, without its projectors)."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = build_backbone("test_resnet")
        self.predictor = nn.Linear(self.backbone.num_channels, self.backbone.num_channels)
        self.teacher = copy.deepcopy(self.backbone).requires_grad_(False)

    @property
    def view_groups(self) -> tuple[ViewSettings, ...]:
        return (ViewSettings(2, 32),)

    def forward(self, views: Views, progress: Progress) -> StepOutput:
        first, second = pool(backbone_views(self.backbone, views)[0][-1]).chunk(2)
        with torch.no_grad():
            targets = torch.cat(pool(backbone_views(self.teacher, views)[0][-1]).chunk(2)[::-1])
        predicted = self.predictor(torch.cat([first, second]))
        return StepOutput(1 - F.cosine_similarity(predicted, targets).mean())

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        for follower, leader in zip(self.teacher.parameters(), self.backbone.parameters(), strict=True):
            follower.lerp_(leader, 0.1)


class FailingMethod(TaughtMethod):
    """Stops or dies after a given step, its teacher's update included."""

    def __init__(self, stop: StopFlag, *, stop_after: int = 0, die_after: int = 0) -> None:
        super().__init__()
        self.stop, self.stop_after, self.die_after = stop, stop_after, die_after

    def after_step(self, progress: Progress) -> None:
        super().after_step(progress)
        if progress.step + 1 == self.stop_after:
            self.stop.set("asked")
        if progress.step + 1 == self.die_after:
            raise KeyboardInterrupt


class NoiseImages(ToyData):
    """Two views (3, 32, 32) of each image."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Tensor]:
        return key[1], torch.from_numpy(np.random.default_rng(key).normal(size=(2, 3, 32, 32))).float()


def prepare(batch: Any, device: torch.device) -> Views:
    count = batch.values.shape[1]
    rectangles, flips = [torch.zeros(count, 4)] * 2, [torch.zeros(count, dtype=torch.bool)] * 2
    return Views([list(batch.values.to(device))], [rectangles], [flips], torch.arange(count))


def train(folder: Path, *, seed: int, **failure: int) -> TaughtMethod:
    torch.manual_seed(seed)
    stop, reporter = StopFlag(), Recorder()
    model = FailingMethod(stop, **failure)
    settings: dict[str, Any] = {"lr": 0.2, "momentum": 0.9, "optimizer": "sgd"}
    toy_trainer(folder, model, data=NoiseImages(), prepare=prepare, reporter=reporter, stop=stop, **settings).run()
    return model


def last_step(folder: Path) -> int:
    return int(checkpoints(folder)[-1].stem.removeprefix("step-"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TaughtMethod:
    """Trained without a stop."""
    return train(tmp_path_factory.mktemp("whole"), seed=0)


def test_the_teacher_follows_the_backbone_and_is_neither_it_nor_what_it_began_as(whole: TaughtMethod) -> None:
    torch.manual_seed(0)
    start = TaughtMethod().backbone.model.state_dict()["conv1.0.weight"]
    teacher, student = (network.model.state_dict()["conv1.0.weight"] for network in (whole.teacher, whole.backbone))
    assert 0 < float((teacher - start).norm()) < float((student - start).norm())


@pytest.mark.parametrize(
    ("failure", "error", "continued_at"),
    [({"stop_after": 4}, Interrupted, 4), ({"die_after": 5}, KeyboardInterrupt, 3)],
)
def test_a_teacher_killed_in_mid_epoch_and_resumed_has_the_bits_of_one_never_stopped(
    tmp_path: Path, whole: TaughtMethod, failure: dict[str, int], error: type[BaseException], continued_at: int
) -> None:
    with pytest.raises(error):
        train(tmp_path, seed=0, **failure)
    assert last_step(tmp_path) == continued_at
    # Another seed: everything must come from the checkpoint.
    resumed = train(tmp_path, seed=99)
    assert last_step(tmp_path) == NUM_STEPS
    expected = whole.state_dict()
    assert any(name.startswith("teacher.") and "running_mean" in name for name in expected)
    different = [name for name, tensor in resumed.state_dict().items() if not torch.equal(tensor, expected[name])]
    assert different == []


def test_the_teacher_is_in_the_checkpoint_but_not_in_what_is_exported(tmp_path: Path) -> None:
    model = train(tmp_path, seed=0)
    state = load_newest(tmp_path, warn=lambda text: None)
    assert state is not None
    assert {name.split(".")[0] for name in state["model"]} == {"backbone", "predictor", "teacher"}
    # The optimiser has only what learns.
    learning = sum(1 for parameter in model.parameters() if parameter.requires_grad)
    assert len(state["optimizer"]["param_groups"][0]["params"]) == learning
    exported = model.export()
    create_timm("test_resnet").load_state_dict(exported, strict=True)
    student = model.backbone.model.state_dict()
    assert exported.keys() == student.keys()
    assert [name for name in exported if not torch.equal(exported[name], student[name])] == []
