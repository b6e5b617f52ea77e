"""How a process is asked to stop, and how it ends."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from luss.errors import LussError
from luss.progress import Interrupted, StopFlag
from luss.refusals import refusal
from stages.running.screen import Console, end_standard_streams, hold_standard_streams

# What shells report for a process that ended on Ctrl-C; schedulers and scripts tell it from a failure.
EXIT_INTERRUPTED = 130
EXIT_USER_ERROR = 2


def guarded(work: Callable[[], None]) -> int:
    """Runs a command and turns the errors that a person can mend into one message and an exit code."""
    hold_standard_streams()
    errors = Console(stderr=True)
    try:
        work()
    except LussError as error:
        errors.write(f"error: {error}\n")
        return EXIT_USER_ERROR
    except (Interrupted, KeyboardInterrupt) as error:
        errors.write(f"stopped: {str(error) or 'interrupted'}; run the same command to continue\n")
        return EXIT_INTERRUPTED
    except Exception as error:
        if (text := refusal(error)) is None:
            raise
        errors.write(f"error: {text}\n")
        return EXIT_USER_ERROR
    finally:
        end_standard_streams()
    return 0


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """A flag that SIGTERM, SIGUSR2 (a scheduler's warning), SIGHUP (the terminal was closed) and Ctrl-C set; a second Ctrl-C stops at once.

    A process that was started to ignore SIGHUP goes on ignoring it, as under nohup. In another thread than the main one, where Python handles
    no signals, nothing sets it.
    """
    stop = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        if stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        # A warning says that the scheduler will start the work again: it is what a job that got both must remember.
        if not stop or number == signal.SIGUSR2:
            stop.set(f"{signal.Signals(number).name} received")

    heard = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2]
    heard += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []
    previous = {number: signal.signal(number, ask) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
