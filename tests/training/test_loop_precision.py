"""Training in other number formats, memory layouts and compiled: equal losses, and resuming to the bit."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy_training import Recorder, ToyData, ToyMethod, ToyRegression, ToyTask, toy_trainer

from luss.progress import Interrupted, StopFlag
from luss.settings import OptimizerSettings
from luss.training import precision
from luss.training.checkpoint import load_newest
from luss.training.loop import Trainer
from luss.training.precision import Precision
from luss.training.task import Progress, StepOutput

pytestmark = pytest.mark.slow

NUM_STEPS = 6


def no_warning(text: str) -> None:
    raise AssertionError(text)


class OverflowingMethod(ToyMethod):
    """Its gradients overflow at step 1, so that the loss scale is no longer the one that a scaler begins with."""

    def after_backward(self, progress: Progress) -> None:
        super().after_backward(progress)
        if progress.step == 1:
            for parameter in self.layer.parameters():
                assert parameter.grad is not None
                parameter.grad.fill_(float("inf"))


def train(folder: Path, model: Callable[[], ToyMethod], *, seed: int, stop_after: int = 0, **settings: Any) -> Recorder:
    """Trains to the end, or up to a stop after `stop_after` steps."""
    torch.manual_seed(seed)
    reporter, stop, method = Recorder(), StopFlag(), model()

    def after(step: int) -> None:
        if step + 1 == stop_after:
            stop.set("asked")

    method.after = after
    with pytest.raises(Interrupted) if stop_after else contextlib.nullcontext():
        toy_trainer(folder, method, reporter=reporter, stop=stop, **settings).run()
    return reporter


def last_checkpoint(folder: Path) -> dict[str, Any]:
    state = load_newest(folder, warn=no_warning)
    assert state is not None
    return state


def check_that_a_resumed_run_has_the_bits_of_a_whole_one(
    folder: Path, model: Callable[[], ToyMethod], **settings: Any
) -> dict[str, Any]:
    """Trains with and without a stop in mid-epoch; returns the last checkpoint."""
    whole = train(folder / "whole", model, seed=0, **settings)
    stopped = train(folder / "stopped", model, seed=0, stop_after=4, **settings)
    # Another seed: everything must come from the checkpoint.
    resumed = train(folder / "stopped", model, seed=99, **settings)
    assert len(stopped.lines) == 4
    assert [step for step, _ in resumed.column("loss")] == [4, 5]
    assert stopped.column("loss") + resumed.column("loss") == whole.column("loss")
    states = [last_checkpoint(folder / name) for name in ("stopped", "whole")]
    for part in ("step", "model", "scaler"):
        torch.testing.assert_close(states[0][part], states[1][part], rtol=0, atol=0)
    torch.testing.assert_close(states[0]["optimizer"]["state"], states[1]["optimizer"]["state"], rtol=0, atol=0)
    assert states[0]["step"] == NUM_STEPS
    return states[0]


def test_resuming_in_bf16_gives_the_same_bits_as_never_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A CPU without bfloat16 instructions computes the same format by other means.
    monkeypatch.setattr(precision, "cpu_computes_bf16", lambda: True)
    check_that_a_resumed_run_has_the_bits_of_a_whole_one(tmp_path, ToyMethod, precision="bf16")
    train(tmp_path / "fp32", ToyMethod, seed=0, precision="fp32")
    # It was not fp32 that was resumed.
    weights = [last_checkpoint(tmp_path / name)["model"]["layer.1.weight"] for name in ("whole", "fp32")]
    assert not torch.equal(*weights)


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 as on a GPU, loss scaling included, but computed in fp32: not every CPU computes in fp16."""
    monkeypatch.setattr(precision, "resolve_precision", lambda name, device, warn: name)
    monkeypatch.setattr(Precision, "autocast", lambda self: contextlib.nullcontext())


@pytest.mark.usefixtures("scaled")
def test_resuming_with_loss_scaling_continues_with_the_scale_reached(tmp_path: Path) -> None:
    state = check_that_a_resumed_run_has_the_bits_of_a_whole_one(tmp_path, OverflowingMethod, precision="fp16")
    assert state["scaler"]["scale"] == 2**15


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_with_loss_scaling_has_the_bits_of_training_without(tmp_path: Path, accumulate: int) -> None:
    weights = []
    for name in ("fp16", "fp32"):
        torch.manual_seed(0)
        model = ToyRegression()
        optimizer = OptimizerSettings("sgd", clip="total", clip_norm=0.1)
        toy_trainer(tmp_path / name, model, precision=name, accumulate=accumulate, optimizer=optimizer).run()
        weights.append(model.layer.weight.detach())
    assert torch.equal(*weights)


class ToyImages(ToyData):
    """Two noisy views (3, 8, 8) of each image."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Tensor]:
        return key[1], torch.from_numpy(np.random.default_rng(key).normal(size=(2, 3, 8, 8))).float()


class ToyConvolutions(ToyTask):
    """One view's features predict the other's; remembers how its inner feature maps lie in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 3)
        self.map_layouts: list[bool] = []

    def forward(self, inputs: Tensor, progress: Progress) -> StepOutput:
        maps = self.first(inputs.flatten(0, 1))
        self.map_layouts.append(maps.is_contiguous(memory_format=torch.channels_last))
        one, other = self.second(F.relu(self.norm(maps))).chunk(2)
        return StepOutput(F.mse_loss(one, other) + (one.mean() - 1) ** 2)


def image_trainer(folder: Path, reporter: Recorder, *, channels_last: bool) -> Trainer:
    torch.manual_seed(0)
    return toy_trainer(
        folder,
        ToyConvolutions(),
        data=ToyImages(),
        reporter=reporter,
        channels_last=channels_last,
        lr=0.1,
        optimizer=OptimizerSettings("sgd"),
    )


def test_channels_last_is_how_weights_and_maps_lie_in_memory_and_leaves_the_losses_as_they_are(tmp_path: Path) -> None:
    losses = []
    for on in (False, True):
        reporter = Recorder()
        trainer = image_trainer(tmp_path / str(on), reporter, channels_last=on)
        trainer.run()
        # A resumed one too: weights from a checkpoint keep the layout of the model.
        resumed = image_trainer(tmp_path / str(on), Recorder(), channels_last=on)
        assert resumed.step == NUM_STEPS
        for model in (trainer.model, resumed.model):
            for weight in (model.first.weight, model.second.weight):
                assert weight.is_contiguous(memory_format=torch.channels_last) is on
        assert trainer.model.map_layouts == [on] * NUM_STEPS
        losses.append([loss for _, loss in reporter.column("loss")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(set(losses[0])) == NUM_STEPS


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """What was given to `torch.compile`, which traces as always but needs no C++ compiler."""
    given: list[nn.Module] = []
    original = torch.compile

    def compile_without_compiler(model: nn.Module) -> Any:
        given.append(model)
        return original(model, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_without_compiler)
    torch.compiler.reset()
    return given


# While it traces, torch warns of what it does itself.
@pytest.mark.filterwarnings("default")
def test_a_compiled_run_can_be_resumed_to_the_bit_and_computes_what_a_plain_one_does(
    tmp_path: Path, compiled: list[nn.Module]
) -> None:
    state = check_that_a_resumed_run_has_the_bits_of_a_whole_one(tmp_path, ToyMethod, compile=True)
    assert [type(model) for model in compiled] == [ToyMethod] * 3
    plain = train(tmp_path / "plain", ToyMethod, seed=0, compile=False)
    assert len(compiled) == 3
    # Names without a compiler's prefix: a checkpoint of either continues the other.
    assert state["model"].keys() == last_checkpoint(tmp_path / "plain")["model"].keys()
    torch.testing.assert_close(state["model"], last_checkpoint(tmp_path / "plain")["model"], rtol=1e-4, atol=1e-5)
    assert len(plain.lines) == NUM_STEPS
