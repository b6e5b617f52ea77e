"""Who of several processes is alive, so that one that waits in vain can say for whom.

Every process writes a sign of life into the store that the group met at. A collective that fails says only that a connection was closed or a
time is over; the signs tell which rank died, which one failed and why, and which one lives but did not come.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store

BEAT_SECONDS = 2.0
# How long a process that saw an error looks for signs of life, in beats: a living one gives at least one.
_PATIENCE_BEATS = 3
_STORE_TIMEOUT = timedelta(seconds=30)


@dataclass
class Sign:
    """A process's sign of life.

    Attributes:
        host: Its machine.
        pid: Its process.
        beat: Grows while it lives.
        meetings: How many meetings of all processes it has come to.
        leaving: Whether it is about to end, after an error of its own or of another.
        reason: What went wrong in this very process; empty when another one is the cause.
        news: What it knows about the end of the group, its own or another's.
        informed: Whether it has heard news, and needs the store no more.
    """

    host: str
    pid: int
    beat: int = 0
    meetings: int = 0
    leaving: bool = False
    reason: str = ""
    news: str = ""
    informed: bool = False


class Peers:
    """The processes of a group, seen from one of them."""

    def __init__(
        self,
        store: Store,
        rank: int,
        world_size: int,
        *,
        timeout: timedelta,
        beat_seconds: float = BEAT_SECONDS,
        give_up: Callable[[str], None] | None = None,
    ) -> None:
        """Gives the first sign of life and starts a thread that goes on.

        Args:
            store: Where the processes met.
            rank: This process's number.
            world_size: How many there are.
            timeout: How long a collective waits. The next rank without a sign of life for twice as long ends this process, which may
                be caught in a GPU's collective.
            beat_seconds: Between signs.
            give_up: Called with a message then; None = write it to standard error and exit.
        """
        self.rank, self.world_size, self.timeout = rank, world_size, timeout
        self._beat_seconds, self._give_up = beat_seconds, give_up or _exit
        self._own = Sign(socket.gethostname(), os.getpid())
        self._heard = ""
        # A connection of its own: a waiting call on the group's would hold up the signs.
        self._store = PrefixStore("peers", store.clone())  # type: ignore[attr-defined]
        self._store.set_timeout(_STORE_TIMEOUT)
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def meet(self) -> None:
        """Notes that this process has come to the next meeting of all."""
        self._own.meetings += 1

    def leave(self, reason: str) -> None:
        """Notes that this process ends because of an error of its own."""
        self._own.leaving, self._own.reason = True, reason
        self._own.news = f"{self._name(self.rank, self._own)} failed: {reason}"
        self._linger()

    def _linger(self) -> None:
        """Rank 0 holds the store in its process: it stays until the others have heard its news, or cannot be waited for.

        They may be caught in a collective, which breaks off only when this process ends: their threads listen.
        """
        self._own.informed = True
        try:
            self._write()
            if self.rank == 0:
                self._watch(until=lambda signs: all(sign is not None and sign.informed for sign in signs.values()))
        except RuntimeError:
            return

    def explain(self, error: BaseException) -> str:
        """Finds out who is missing after a failed collective; takes a few seconds at most.

        Returns:
            A sentence that names the rank, its process and its machine; with `error`'s text where nobody is missing.
        """
        answer: list[str] = []
        # In a thread, as the store's process may hang.
        worker = threading.Thread(target=lambda: answer.append(self._explain(error)), daemon=True)
        worker.start()
        worker.join(self._beat_seconds * _PATIENCE_BEATS + _STORE_TIMEOUT.total_seconds())
        if answer:
            self._own.news = answer[0]
            self._linger()
        return answer[0] if answer else "rank 0, which keeps the list of processes, does not answer"

    def close(self) -> None:
        """Ends the signs of life."""
        self._ended.set()
        self._thread.join(self._beat_seconds)

    def _explain(self, error: BaseException) -> str:
        self._own.leaving = True
        try:
            self._write()
            first, last = self._watch(
                until=lambda signs: any(sign is not None and sign.reason for sign in signs.values())
            )
        except RuntimeError:
            return self._heard or f"{self._name(0, None)}, which keeps the list of processes, has died"
        for rank, sign in last.items():
            if sign is not None and sign.reason:
                return f"{self._name(rank, sign)} failed: {sign.reason}"
        for rank, sign in last.items():
            if sign is None:
                return f"{self._name(rank, None)} never came"
            before = first[rank]
            if not sign.leaving and before is not None and sign.beat == before.beat:
                return f"{self._name(rank, sign)} has died: it gives no sign of life"
        for rank, sign in last.items():
            if sign is not None and not sign.leaving and sign.meetings < self._own.meetings:
                minutes = self.timeout.total_seconds() / 60
                return f"{self._name(rank, sign)} lives, but the others waited {minutes:g} min for it in vain"
        return f"the processes lost each other ({error})"

    def _watch(
        self, until: Callable[[dict[int, Sign | None]], bool]
    ) -> tuple[dict[int, Sign | None], dict[int, Sign | None]]:
        """The others' signs now, and after some beats or as soon as `until` says so."""
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        first = last = self._read(others)
        end = time.monotonic() + self._beat_seconds * _PATIENCE_BEATS
        while not until(last) and time.monotonic() < end:
            time.sleep(self._beat_seconds / 10)
            last = self._read(others)
        return first, last

    def _read(self, ranks: Iterable[int]) -> dict[int, Sign | None]:
        found: dict[int, Sign | None] = {}
        for rank in ranks:
            known = self._store.check([str(rank)])
            found[rank] = Sign(**json.loads(self._store.get(str(rank)))) if known else None
        return found

    def _write(self) -> None:
        with self._lock:
            self._own.beat += 1
            self._store.set(str(self.rank), json.dumps(asdict(self._own)))

    def _live(self) -> None:
        # Only the next one, so that the store is asked as often as there are processes, not as often as there are pairs.
        watched, patience = (self.rank + 1) % self.world_size, 2 * self.timeout.total_seconds()
        beat, since = 0, time.monotonic()
        while not self._ended.wait(self._beat_seconds):
            try:
                self._write()
                signs = self._read({watched, 0} - {self.rank})
            except RuntimeError:
                # Rank 0 has left; the next collective fails.
                return
            news = signs[0].news if self.rank and signs[0] else ""
            if news and not self._heard:
                self._heard, self._own.informed = news, True
            now, sign = time.monotonic(), signs[watched]
            if sign is None or sign.beat != beat:
                beat, since = sign.beat if sign else 0, now
            elif now - since > patience and not self._own.leaving:
                self._give_up(f"{self._name(watched, sign)} gives no sign of life for {patience:g} s")
                return

    def _name(self, rank: int, sign: Sign | None) -> str:
        return f"rank {rank} (process {sign.pid} on {sign.host})" if sign else f"rank {rank}"


def _exit(message: str) -> None:
    """Ends this process at once: its main thread may hang in a GPU's collective, which no exception reaches."""
    os.write(2, f"error: {message}; run the same command again to continue\n".encode())
    os._exit(1)
