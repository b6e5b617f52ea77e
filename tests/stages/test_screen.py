"""What reaches the screen, and what happens when there is none any more."""

import errno
import io
import os
import signal
from argparse import Namespace
from pathlib import Path
from signal import SIGHUP
from typing import get_args

import pytest
from rich.table import Table
from running import Fault, Launcher, Screen, copy_until

from stages.commands import logs
from stages.running.console import ConsoleReporter
from stages.running.screen import Console, shown
from stages.running.signals import stop_on_signals

LOST = [screen for screen in get_args(Screen) if screen != "file"]
# Markup of rich, a file name in brackets, an emoji's code, what a highlighter would colour.
NAMES = ["[/dog]", "[bold]cat[/bold]", "p[1].jpg", ":smile: 12 'a'", "[link=file:///etc/passwd]x[/link]"]


class Broken(io.StringIO):
    """A stream that refuses."""

    def __init__(self, number: int, *, late: bool = False) -> None:
        super().__init__()
        self.number, self.late = number, late

    def write(self, text: str) -> int:
        if not self.late:
            raise OSError(self.number, os.strerror(self.number))
        return len(text)

    def flush(self) -> None:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("terminal", [False, True])
def test_names_are_printed_as_they_are_typed_in_lines_and_in_tables(name: str, terminal: bool) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120)
    console.print(f"{name} is there")
    table = Table(name, title=name)
    table.add_row(name)
    console.print(table)
    assert file.getvalue().count(name) == 4
    assert f"{name} is there\n" in file.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_line_is_not_broken_however_narrow_the_screen(terminal: bool) -> None:
    file, line = io.StringIO(), f"the old result is kept in {'long name/' * 20}, which is said"
    Console(file=file, force_terminal=terminal, width=40).print(line)
    assert file.getvalue() == f"{line}\n"


def test_what_a_terminal_would_obey_is_shown_instead(capsys: pytest.CaptureFixture[str]) -> None:
    nasty = "a\x1b[2Jb\x07\x9b31m\rc\udcff\td\n"
    assert shown(nasty) == "a\\x1b[2Jb\\x07\\x9b31m\\x0dc\\xff\td\n"
    console = Console()
    console.print(nasty, end="", soft_wrap=True)
    console.write(nasty)
    table = Table("x")
    table.add_row(nasty)
    console.print(table)
    printed = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\x9b", "\r"} & set(printed)
    assert printed.count("a\\x1b[2Jb\\x07\\x9b31m\\x0dc\\xff") == 3


def test_a_screen_of_few_letters_gets_the_others_spelled_out() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=file).print("Köln")
    assert file.buffer.getvalue() == b"K\\xf6ln\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EBADF])
@pytest.mark.parametrize("late", [False, True])
def test_a_screen_that_refuses_is_left_alone_and_the_log_goes_on(tmp_path: Path, number: int, late: bool) -> None:
    console = Console(file=Broken(number, late=late), force_terminal=late)
    reporter = ConsoleReporter("pretrain", tmp_path, console=console)
    reporter.start("step", 2, 0)
    reporter.advance(1, loss=1.0)
    reporter.message("half")
    reporter.warn("almost")
    reporter.advance(2, loss=0.5)
    reporter.close()
    assert console.quiet
    (log,) = (tmp_path / "log").iterdir()
    assert [line.split(" ", 2)[2] for line in log.read_text().splitlines()][-3:] == [
        "half",
        "warning: almost",
        "pretrain: step 2 of 2, loss 0.500",
    ]


@pytest.mark.parametrize("screen", LOST)
def test_a_lost_screen_stops_no_stage_before_its_result_is_recorded(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path, screen: Screen
) -> None:
    run = copy_until(finished, tmp_path, "cluster")
    outcome = luss("run", str(config), f"output={run}", "--until", "cluster", screen=screen)
    assert (outcome.code, outcome.output) == (0, "")
    assert (run / "cluster" / "DONE.json").is_file()
    assert not (run / "cluster" / "progress.json").exists()
    assert "cluster: done in" in next((run / "cluster" / "log").iterdir()).read_text()


@pytest.mark.parametrize(
    ("command", "screen"),
    [
        ("status", "ended pipe"),
        ("config", "closed terminal"),
        ("logs", "full disk"),
        ("--help", "ended pipe"),
        ("configs", "ended pipe"),
        ("run --print-config", "full disk"),
    ],
)
def test_a_command_that_only_prints_ends_quietly_without_a_reader(
    luss: Launcher, config: Path, finished: Path, command: str, screen: Screen
) -> None:
    words = {"status": [str(finished)], "logs": [str(finished), "cluster"], "--help": [], "configs": []}
    outcome = luss(*command.split(), *words.get(command, [str(config)]), screen=screen)
    assert outcome.code == 0, outcome.output
    assert "Error" not in outcome.output
    assert "Exception" not in outcome.output


def test_following_a_log_ends_when_nobody_reads_it(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_alive", lambda options: True)
    monkeypatch.setattr("sys.stdout", Broken(errno.EPIPE))
    logs.main(Namespace(run=finished, stage="cluster", follow=True, task=""))


def test_a_closed_terminal_stops_a_run_so_that_it_can_be_continued(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path
) -> None:
    run = copy_until(finished, tmp_path, "pretrain")
    words = ("run", str(config), f"output={run}", "--until", "pretrain")
    outcome = luss(*words, fault=Fault("open", ".jpg", 30, SIGHUP), screen="closed terminal")
    assert outcome.code == 130
    assert "stopped: SIGHUP received; run the same command to continue" in outcome.output
    assert list((run / "pretrain" / "checkpoints").glob("*.pt"))
    outcome = luss(*words)
    assert outcome.code == 0
    assert "continuing pretrain at step" in outcome.output


def test_under_nohup_a_closed_terminal_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), SIGHUP)
            assert not stop
        assert signal.getsignal(SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(SIGHUP, before)
    with stop_on_signals() as stop:
        os.kill(os.getpid(), SIGHUP)
        assert stop.reason == "SIGHUP received"
