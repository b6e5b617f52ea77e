"""The screen: whatever comes from files and people is printed as text, and a screen that has gone stops nobody's work."""

import contextlib
import os
import re
from typing import IO, Any, cast

import rich.console
from rich.text import Text

# What a terminal would obey instead of showing it; line ends and tabs are layout. Surrogates stand for bytes that are not UTF-8 (PEP 383).
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def shown(text: str) -> str:
    r"""The text with every character that a terminal obeys, or cannot show, as `\xNN`."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text)


class Console(rich.console.Console):
    """Where commands and stages print; the only maker of rich's consoles.

    Text has no markup: brackets, colons and numbers stay what they are, and styles are given beside it (`print(text, style="bold")`). Lines
    are not broken: a path can be copied, and a word found, however long its line is.
    Once the terminal is closed, the reader of the pipe has ended or the disk behind a redirection is full, it keeps quiet: the work goes
    on, and so do the log files.
    """

    def __init__(self, **words: Any) -> None:
        """Takes the words of rich's console, `file` and `stderr` among them; standard output is the usual place."""
        super().__init__(**{"markup": False, "highlight": False, "emoji": False, **words})

    def print(self, *objects: Any, **words: Any) -> None:
        """As rich's, without breaking lines of text."""
        super().print(*objects, **{"soft_wrap": all(isinstance(each, str) for each in objects), **words})

    def render_str(self, text: str, **words: Any) -> Text:
        """Every string comes through here, those in tables too."""
        return super().render_str(shown(text), **words)

    def write(self, text: str) -> None:
        """Prints text at once as it is, without wrapping, and without a line end of its own; much faster than `print`."""
        if not self.quiet:
            self.file.write(shown(text))
            self.file.flush()

    @property
    def file(self) -> IO[str]:
        """Where it goes."""
        return cast(IO[str], _Lasting(self, super().file))

    @file.setter
    def file(self, file: IO[str]) -> None:
        self._file = file


class _Lasting:
    """A stream whose end is no error, but silences its console."""

    def __init__(self, console: Console, stream: IO[str]) -> None:
        self._console, self._stream = console, stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError as error:
            return self.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        except (OSError, ValueError):
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self) -> None:
        self._console.quiet = True
        # What the stream still holds goes nowhere, when Python ends too, and so does what others print.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, self._stream.fileno())
            finally:
                os.close(nowhere)


def hold_standard_streams() -> None:
    """Opens standard streams that were closed at the start: a product would get the number of one, and with it what libraries print."""
    # Where no more files may be opened, those three are open.
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)


def end_standard_streams() -> None:
    """Prints what is still held back, before Python does and takes it ill that nobody reads it."""
    for stderr in (False, True):
        Console(stderr=stderr).file.flush()
