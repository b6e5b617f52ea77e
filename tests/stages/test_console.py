"""What a stage shows and keeps while it works."""

import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from stages.running import console
from stages.running.console import ConsoleReporter, duration
from stages.running.screen import Console


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def reporter(tmp_path: Path, screen: io.StringIO) -> Iterator[ConsoleReporter]:
    reporter = ConsoleReporter("cluster", tmp_path, console=Console(file=screen, width=60), seconds_before=100.0)
    yield reporter
    reporter.close()


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_without_a_terminal_the_first_and_the_last_position_are_lines(
    reporter: ConsoleReporter, screen: io.StringIO
) -> None:
    reporter.start("step", 100, 0)
    for done in range(1, 101):
        reporter.advance(done, images_per_second=12.3, data_wait=0.25, loss=1.5)
    reporter.close()
    lines = screen.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("cluster: step 1 of 100")
    assert lines[1] == "cluster: step 100 of 100, 12 images/s, 25 % waiting for data, loss 1.500"


@pytest.mark.parametrize(("done_before", "done"), [(0, 20), (50, 60)])
def test_a_line_of_a_log_tells_the_time_that_is_left_at_the_speed_of_this_try(
    tmp_path: Path, screen: io.StringIO, monkeypatch: pytest.MonkeyPatch, done_before: int, done: int
) -> None:
    now = 1000.0
    clock = SimpleNamespace(monotonic=lambda: now, time=time.time, strftime=time.strftime)
    monkeypatch.setattr(console, "time", clock)
    reporter = ConsoleReporter("pretrain", tmp_path, console=Console(file=screen), seconds_before=5000.0)
    reporter.start("step", 100, done_before)
    now += 10.0
    reporter.advance(done, images_per_second=12.3, data_wait=0.25, loss=1.5)
    reporter.close()
    # 80 steps at 2 a second; 40 at 1 a second, whatever an earlier try had done.
    assert screen.getvalue() == (
        f"pretrain: step {done} of 100, 40 s left, 12 images/s, 25 % waiting for data, loss 1.500\n"
    )


def test_a_terminal_shows_a_bar_with_the_time_left_the_speed_the_waiting_and_every_part_of_the_loss(
    tmp_path: Path, screen: io.StringIO
) -> None:
    now = 1000.0
    terminal = Console(file=screen, force_terminal=True, color_system=None, width=200, get_time=lambda: now)
    reporter = ConsoleReporter("pretrain", tmp_path, console=terminal)
    reporter.start("step", 100, 0)
    for done in range(1, 11):
        now += 1.0
        reporter.advance(
            done, images_per_second=12.3, data_wait=0.25, loss=2.5, swav=1.5, p2p=-0.25, d2s_3=1.25, feature_rank=7.0
        )
    reporter.close()
    # The frame that stays when the bar ends.
    last = screen.getvalue()[screen.getvalue().rindex("pretrain") :]
    assert "10/100" in last
    # Passed, and left: 90 steps at one a second.
    assert "0:00:10 0:01:30" in last
    assert "12 images/s, 25 % waiting for data, loss 2.500, swav 1.500, p2p -0.250, d2s_3 1.250" in last
    assert "feature_rank" not in last


def test_lines_of_a_log_are_not_wrapped_and_brackets_in_them_are_no_markup(
    reporter: ConsoleReporter, screen: io.StringIO
) -> None:
    text = "skipped " + "a/very/long/path/" * 8 + "[bold].jpg"
    reporter.warn(text)
    assert screen.getvalue() == f"warning: {text}\n"


def test_the_log_keeps_what_the_screen_showed(reporter: ConsoleReporter, tmp_path: Path) -> None:
    reporter.message("one")
    reporter.warn("two")
    reporter.close()
    (log,) = (tmp_path / "log").iterdir()
    lines = log.read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["one", "warning: two"]


def test_the_position_is_kept_with_the_time_of_all_tries(reporter: ConsoleReporter, tmp_path: Path) -> None:
    reporter.start("image", 50, 10)
    reporter.advance(20)
    reporter.close()
    kept = json.loads((tmp_path / "progress.json").read_text(encoding="utf-8"))
    assert (kept["unit"], kept["done"], kept["total"]) == ("image", 20, 50)
    assert 100 <= kept["seconds"] < 160


def test_continuing_forgets_the_metrics_behind_the_checkpoint_and_half_a_line(
    reporter: ConsoleReporter, tmp_path: Path
) -> None:
    for step in range(5):
        reporter.metrics({"step": step, "loss": 1.0})
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 2, "lo')
    reporter.rewind(3)
    reporter.metrics({"step": 3, "loss": 2.0})
    assert steps(tmp_path) == [0, 1, 2, 3]


def test_metrics_are_also_curves_of_tensorboard_where_it_is_installed(
    reporter: ConsoleReporter, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    for step in (0, 10):
        reporter.metrics({"step": step, "epoch": 0, "loss": 2.0 - step / 10, "swav": 0.5})
    reporter.close()
    (events,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    points = {
        (value.tag, event.step): value.tensor.float_val[0]
        for event in EventFileLoader(str(events)).Load()
        for value in event.summary.value
    }
    assert points == {("loss", 0): 2.0, ("loss", 10): 1.0, ("swav", 0): 0.5, ("swav", 10): 0.5}
    assert steps(tmp_path) == [0, 10]


def test_without_tensorboard_the_metrics_are_kept_all_the_same(
    reporter: ConsoleReporter, screen: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An import of what is None here is an ImportError.
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for step in (0, 1):
        reporter.metrics({"step": step, "loss": 1.0})
    reporter.close()
    assert steps(tmp_path) == [0, 1]
    assert not (tmp_path / "tensorboard").exists()
    assert screen.getvalue() == ""


def test_a_quiet_process_writes_nothing(tmp_path: Path, screen: io.StringIO) -> None:
    reporter = ConsoleReporter("pretrain", tmp_path / "stage", console=Console(file=screen), quiet=True)
    reporter.start("step", 2, 0)
    reporter.advance(2, loss=1.0)
    reporter.metrics({"step": 1, "loss": 1.0})
    reporter.message("hello")
    reporter.rewind(0)
    reporter.close()
    assert screen.getvalue() == ""
    assert not (tmp_path / "stage").exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "1 h 30 min"), (3 * 3600 + 300, "3 h 05 min")],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text
