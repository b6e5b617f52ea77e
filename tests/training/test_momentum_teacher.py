"""The contract of a method with a momentum teacher, as CONTRIBUTING.md gives it: `after_step`, `state_dict` and `exported` are enough."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy_training import Recorder, ToyData, toy_trainer
from views_of import views_of

from luss.data.views import Views
from luss.methods.base import Given, Method
from luss.methods.momentum import Teacher
from luss.models.build import build_backbone, create_timm
from luss.progress import Interrupted, StopFlag
from luss.settings import MethodSettings, OptimizerSettings, ViewSettings
from luss.training.checkpoint import checkpoints, load_newest
from luss.training.task import Progress, StepOutput

NUM_STEPS = 6


class TaughtMethod(Method):
    """Predicts the other view's vector in a slowly following copy of the backbone (as BYOL, without its projectors)."""

    def __init__(self) -> None:
        super().__init__(MethodSettings(), Given(lambda: build_backbone("test_resnet"), images_a_pass=8))
        self.predictor = nn.Linear(self.backbone.num_channels, self.backbone.num_channels)
        self.teacher = Teacher(self.backbone)

    @property
    def views(self) -> tuple[ViewSettings, ...]:
        return (ViewSettings(2, 32),)

    def forward(self, inputs: Views, progress: Progress) -> StepOutput:
        images = inputs.groups[0].flat()
        predicted = self.predictor(self.backbone(images).pooled())
        first, second = self.teacher(images).pooled().chunk(2)
        return StepOutput(1 - F.cosine_similarity(predicted, torch.cat([second, first])).mean())

    def after_step(self, progress: Progress) -> None:
        self.teacher.follow(self.backbone, 0.9)


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
        pixels = np.random.default_rng(key).integers(0, 256, size=(2, 3, 32, 32), dtype=np.uint8)
        return key[1], torch.from_numpy(pixels)

    def collate(self, samples: list[tuple[int, Tensor]]) -> Any:
        return views_of(torch.stack([images for _, images in samples], dim=1))


def train(folder: Path, *, seed: int, **failure: int) -> TaughtMethod:
    torch.manual_seed(seed)
    stop, reporter = StopFlag(), Recorder()
    model = FailingMethod(stop, **failure)
    settings: dict[str, Any] = {"lr": 0.2, "optimizer": OptimizerSettings("sgd")}
    toy_trainer(folder, model, data=NoiseImages(), reporter=reporter, stop=stop, **settings).run()
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
    teacher, student = (
        network.model.state_dict()["conv1.0.weight"] for network in (whole.teacher.module, whole.backbone)
    )
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
    exported = model.exported().export()
    create_timm("test_resnet").load_state_dict(exported, strict=True)
    student = model.backbone.model.state_dict()
    assert exported.keys() == student.keys()
    assert [name for name in exported if not torch.equal(exported[name], student[name])] == []
