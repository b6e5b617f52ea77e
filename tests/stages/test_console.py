"""What a stage shows and keeps while it works."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from stages.console import ConsoleReporter, duration


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
