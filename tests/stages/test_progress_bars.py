"""Bars of progress, and lines where there is no terminal."""

import io

from stages.commands.base import progress_bars
from stages.running.screen import Console


def test_parts_named_like_markup_are_shown_as_they_are_on_a_terminal() -> None:
    screen = io.StringIO()
    with progress_bars(Console(file=screen, force_terminal=True, width=120), "data") as show:
        show("masks of [/dog]\x1b[2J", 1, 2)
        show("masks of [/dog]\x1b[2J", 2, 2)
    assert "data masks of [/dog]\\x1b[2J" in screen.getvalue()
    assert "\x1b[2J" not in screen.getvalue()


def test_without_a_terminal_a_part_that_is_done_is_a_line_where_lines_are_wanted() -> None:
    for lines, expected in ((True, "unpacking: val.tar\n"), (False, "")):
        screen = io.StringIO()
        with progress_bars(Console(file=screen), "unpacking", lines=lines) as show:
            show("val.tar", 1, 2)
            show("val.tar", 2, 2)
        assert screen.getvalue() == expected
