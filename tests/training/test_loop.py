"""The training loop: resuming to the bit, accumulation, and what it says when something is wrong."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from toy_training import Recorder, ToyData, ToyMethod, ToyRegression, toy_trainer

from luss.errors import LussError
from luss.methods.health import plateau_warning
from luss.progress import Interrupted, StopFlag
from luss.settings import OptimizerSettings
from luss.training.checkpoint import checkpoints, load_newest
from luss.training.schedules import lr_at
from luss.training.task import StepOutput

NUM_STEPS = 6
SGD = OptimizerSettings("sgd")


def no_warning(text: str) -> None:
    raise AssertionError(text)


def same_bits(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_bits(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same_bits, one, other))
    return bool(one == other)


def train(
    folder: Path, reporter: Recorder, *, seed: int, after: Any = None, stop: StopFlag | None = None, **settings: Any
) -> ToyMethod:
    torch.manual_seed(seed)
    model = ToyMethod()
    if after is not None:
        model.after = after
    toy_trainer(folder, model, reporter=reporter, stop=stop, **settings).run()
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Recorder]:
    """The last checkpoint and the log of a run that was never stopped."""
    folder, reporter = tmp_path_factory.mktemp("whole"), Recorder()
    train(folder, reporter, seed=0)
    state = load_newest(folder, warn=no_warning)
    assert state is not None
    assert state["step"] == NUM_STEPS
    return state, reporter


def check_same(folder: Path, reporter: Recorder, whole: tuple[dict[str, Any], Recorder]) -> None:
    state = load_newest(folder, warn=no_warning)
    assert state is not None
    for part in ("step", "model", "optimizer", "scaler", "random"):
        assert same_bits(state[part], whole[0][part]), part
    assert reporter.column("loss") == whole[1].column("loss")


def test_the_toy_run_uses_a_full_queue_momentum_and_random_numbers(whole: tuple[dict[str, Any], Recorder]) -> None:
    state = whole[0]
    assert int(state["model"]["clustering.queue_filled"]) == 16
    assert any("momentum_buffer" in entry for entry in state["optimizer"]["state"].values())
    assert len(whole[1].lines) == NUM_STEPS


@pytest.mark.parametrize(("stop_after", "workers"), [(1, 0), (2, 2), (3, 0), (4, 1), (5, 0)])
def test_resuming_after_a_stop_at_any_step_gives_the_same_bits_as_never_stopping(
    tmp_path: Path, whole: tuple[dict[str, Any], Recorder], stop_after: int, workers: int
) -> None:
    reporter, stop = Recorder(), StopFlag()

    def after(step: int) -> None:
        if step + 1 == stop_after:
            stop.set("asked")

    with pytest.raises(Interrupted, match="asked"):
        train(tmp_path, reporter, seed=0, after=after, stop=stop)
    assert checkpoints(tmp_path)[-1].name == f"step-{stop_after:09d}.pt"
    # Another seed: everything must come from the checkpoint.
    train(tmp_path, reporter, seed=99, workers=workers)
    check_same(tmp_path, reporter, whole)


def test_resuming_after_a_kill_repeats_the_lost_steps_to_the_bit(
    tmp_path: Path, whole: tuple[dict[str, Any], Recorder]
) -> None:
    reporter = Recorder()

    def after(step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, reporter, seed=0, after=after)
    assert len(reporter.lines) == 4
    train(tmp_path, reporter, seed=99)
    assert any("at step 3 of 6" in text for text in reporter.said)
    check_same(tmp_path, reporter, whole)


def test_a_finished_training_does_nothing_more(tmp_path: Path) -> None:
    train(tmp_path, Recorder(), seed=0)
    before = {path: path.stat().st_mtime_ns for path in checkpoints(tmp_path)}
    again = Recorder()
    train(tmp_path, again, seed=1)
    assert not again.lines
    assert {path: path.stat().st_mtime_ns for path in checkpoints(tmp_path)} == before


def test_no_epochs_are_no_steps(tmp_path: Path) -> None:
    assert toy_trainer(tmp_path, ToyRegression(), epochs=0).run() == 0


def test_checkpoints_are_written_after_every_nth_epoch_and_at_the_end(tmp_path: Path) -> None:
    written: list[int] = []
    torch.manual_seed(0)
    model = ToyMethod()
    model.after = lambda step: written.append(len(checkpoints(tmp_path)))
    toy_trainer(tmp_path, model, epochs=3, checkpoint_epochs=2).run()
    # Seen after each step, before that step's own checkpoint.
    assert written == [0] * 6 + [1] * 3
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000006.pt", "step-000000009.pt"]


def test_checkpoints_are_also_written_by_the_clock(tmp_path: Path) -> None:
    model = ToyRegression()
    toy_trainer(tmp_path, model, epochs=1, checkpoint_epochs=5, checkpoint_minutes=0.0).run()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000002.pt", "step-000000003.pt"]


def one_step(folder: Path, accumulate: int) -> ToyRegression:
    torch.manual_seed(0)
    model = ToyRegression()
    toy_trainer(folder, model, data=ToyData(8), epochs=1, accumulate=accumulate, optimizer=SGD).run()
    return model


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_micro_batches_give_the_gradient_and_the_step_of_one_big_batch(
    tmp_path: Path, accumulate: int
) -> None:
    big, small = one_step(tmp_path / "big", 1), one_step(tmp_path / "small", accumulate)
    assert [len(inputs[0]) for inputs in small.inputs] == [8 // accumulate] * accumulate
    torch.testing.assert_close(torch.cat(small.inputs, dim=1), big.inputs[0])
    torch.testing.assert_close(small.gradients, big.gradients)
    torch.testing.assert_close(small.layer.weight, big.layer.weight)
    # Part by part, by hand.
    torch.manual_seed(0)
    start, total = ToyRegression(), torch.zeros(6, 6)
    for inputs in small.inputs:
        loss = F.mse_loss(start.layer(inputs[0]), inputs[1]) / accumulate
        total += torch.autograd.grad(loss, start.layer.weight)[0]
    torch.testing.assert_close(small.gradients[0], total)


def test_the_logged_loss_is_the_mean_of_the_micro_batches(tmp_path: Path) -> None:
    logs = []
    for accumulate in (1, 4):
        reporter = Recorder()
        torch.manual_seed(0)
        toy_trainer(
            tmp_path / str(accumulate), ToyRegression(), reporter=reporter, epochs=1, accumulate=accumulate
        ).run()
        logs.append([loss for _, loss in reporter.column("loss")])
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)


def test_the_learning_rate_of_every_step_is_the_schedule_s(tmp_path: Path) -> None:
    reporter = Recorder()
    toy_trainer(
        tmp_path,
        ToyRegression(),
        reporter=reporter,
        lr=0.1,
        lr_batch_size=4,
        final_lr=0.001,
        warmup_epochs=0.7,
        epochs=2,
    ).run()
    # 0.7 epochs of 3 steps are 2 warm-up steps; a batch of 8 doubles what is given for 4.
    expected = [lr_at(step, num_steps=6, warmup_steps=2, peak=0.2, final=0.002) for step in range(6)]
    assert [lr for _, lr in reporter.column("lr")] == pytest.approx(expected)
    assert expected[:2] == [0.1, 0.2]


def test_only_every_nth_step_and_the_last_are_logged(tmp_path: Path) -> None:
    reporter = Recorder()
    toy_trainer(tmp_path, ToyRegression(), reporter=reporter, log_every=4).run()
    assert [step for step, _ in reporter.column("loss")] == [0, 4, 5]


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_gradients_are_clipped_to_a_total_norm_when_asked_for(tmp_path: Path, clip: float) -> None:
    torch.manual_seed(0)
    model = ToyRegression()
    before = torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])
    toy_trainer(
        tmp_path,
        model,
        data=ToyData(8),
        epochs=1,
        lr=1.0,
        optimizer=OptimizerSettings(
            "sgd", momentum=0.0, weight_decay=0.0, clip="total" if clip else "none", clip_norm=clip or 1.0
        ),
    ).run()
    moved = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]) - before
    if clip:
        assert float(moved.norm()) == pytest.approx(clip, rel=1e-2)
    else:
        assert float(moved.norm()) > 0.1


def test_a_loss_that_is_not_finite_ends_the_run_with_advice_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(LussError, match=r"pretrain: the loss is nan at step 4: lower pretrain\.lr"):
        toy_trainer(tmp_path, ToyRegression(nan_from=4)).run()
    state = load_newest(tmp_path, warn=no_warning)
    assert state is not None
    assert state["step"] == 3
    assert all(torch.isfinite(tensor).all() for tensor in state["model"].values())


def test_weights_that_are_not_finite_never_push_out_a_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(LussError, match="weights are no longer finite at step 6"):
        toy_trainer(tmp_path, ToyRegression(nan_from=4), log_every=100, epochs=4).run()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000003.pt"]


def test_images_that_could_not_be_read_are_reported_each_time(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    toy_trainer(
        tmp_path,
        ToyRegression(),
        data=ToyData(8, unreadable=(2, 5)),
        on_unreadable=lambda path, reason: seen.append((path, reason)),
        epochs=2,
        workers=1,
    ).run()
    assert sorted(seen) == sorted([("2.jpg", "broken"), ("5.jpg", "broken")] * 2)


def test_a_batch_larger_than_the_data_set_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(LussError, match=r"pretrain\.batch_size is 8 but there are only 5 images"):
        toy_trainer(tmp_path, ToyRegression(), data=ToyData(5))


def test_a_batch_that_does_not_divide_is_an_error_that_names_a_multiple(tmp_path: Path) -> None:
    with pytest.raises(LussError, match=r"pretrain\.batch_size is 8.*multiple of 3"):
        toy_trainer(tmp_path, ToyRegression(), accumulate=3)


def test_the_real_learning_rate_and_batch_are_announced(tmp_path: Path) -> None:
    reporter = Recorder()
    toy_trainer(tmp_path, ToyRegression(), reporter=reporter, lr_batch_size=16, accumulate=2).run()
    (announcement,) = [text for text in reporter.said if "global batch" in text]
    assert "8 = 1 process(es) x 2 x 4" in announcement
    assert "lr 0.5 for a batch of 16 -> 0.25" in announcement


class Worried(ToyRegression):
    """Warns from its third metric line on."""

    def warning(self, lines: Sequence[Mapping[str, float]]) -> str:
        self.seen = list(lines)
        return f"line {len(lines)}" if len(lines) >= 3 else ""


def test_what_a_task_says_about_its_metric_lines_is_warned_of_once(tmp_path: Path) -> None:
    reporter, model = Recorder(), Worried()
    toy_trainer(tmp_path, model, reporter=reporter).run()
    assert reporter.warnings == ["line 3"]
    assert [line["loss"] for line in model.seen] == [loss for _, loss in reporter.column("loss")[:3]]


class OnThePlateau(ToyRegression):
    """Logs a clustering loss that stays where it began, and asks about it."""

    def forward(self, inputs: torch.Tensor, progress: Any) -> StepOutput:
        return StepOutput(super().forward(inputs, progress).loss, {"swav": torch.tensor(5.0).log()})

    def warning(self, lines: Sequence[Mapping[str, float]]) -> str:
        return plateau_warning(lines, 5)


def test_a_loss_that_stays_on_its_plateau_over_many_epochs_is_warned_of_during_training(tmp_path: Path) -> None:
    reporter = Recorder()
    trainer = toy_trainer(
        tmp_path, OnThePlateau(), data=ToyData(200), reporter=reporter, epochs=12, log_every=5, optimizer=SGD
    )
    trainer.run()
    assert trainer.steps_per_epoch == 25
    (warning,) = reporter.warnings
    assert "for 10 epochs" in warning
    # One line of each epoch, and the newest.
    assert len(trainer.lines) < 12 + 8 < len(reporter.lines)
