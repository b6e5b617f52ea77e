"""Which of several processes is missing when a collective fails, and why: they keep a table in the store that they met at."""

import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store

from luss.errors import LussError
from luss.liveness import lives, own_place

_PATIENCE_SECONDS = 5.0
_LISTEN_SECONDS = 0.5
_STORE_TIMEOUT = timedelta(seconds=30)


class Peers:
    """The processes of a group, seen from one of them."""

    def __init__(self, store: Store, rank: int, world_size: int, *, timeout: timedelta) -> None:
        """Enters this process into the table of the processes that met at `store`, and listens for why the group ends.

        `timeout`: how long a collective waits, for the message.
        """
        self.rank, self.world_size, self.timeout = rank, world_size, timeout
        # A connection of its own: a waiting call on the group's would hold it up.
        self._store = PrefixStore("peers", store.clone())  # type: ignore[attr-defined]
        self._store.set_timeout(_STORE_TIMEOUT)
        self._store.set(f"place {rank}", json.dumps(own_place()))
        self._news, self._ended = "", threading.Event()
        # The store may live in rank 0's process, and a collective that others wait in breaks off only when that ends: they must hear before.
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def leave(self, reason: str) -> None:
        """Tells the others that this process ends because of an error of its own."""
        try:
            self._tell(f"{self._name(self.rank)} failed: {reason}")
        except RuntimeError:
            return

    def explain(self, error: BaseException) -> str:
        """A sentence that names who is missing after a failed collective; may take some seconds."""
        try:
            self._store.set(f"left {self.rank}", "")
            self._wait(lambda: bool(self._known("news") or self._missing()))
            known = self._known("news")
            self._tell("" if known else self._missing() or self._silent() or f"the processes lost each other ({error})")
            return self._store.get("news").decode()
        except RuntimeError:
            return self._news or "rank 0, which keeps the list of processes, has died"

    def announce(self, what: str) -> None:
        """Tells the others that something is done."""
        self._store.set(f"done {what}", "")

    def announced(self, what: str) -> bool:
        """Whether process 0 has told that something is done.

        Raises:
            LussError: It never will.
        """
        try:
            if self._known(f"done {what}"):
                return True
            reason = self._store.get("news").decode() if self._known("news") else self._missing()
        except RuntimeError:
            reason = self._news or "rank 0, which keeps the list of processes, has died"
        if reason:
            raise LussError(f"{reason}; run the same command again")
        return False

    def close(self) -> None:
        """Ends the listening."""
        self._ended.set()
        self._thread.join(2 * _LISTEN_SECONDS)

    def _tell(self, news: str) -> None:
        """Makes the news known unless others have; rank 0 stays until those that live have heard."""
        self._store.compare_set("news", "", news)
        if self.rank == 0:
            others = [rank for rank in range(1, self.world_size) if self._lives(rank) is not False]
            self._wait(lambda: all(self._known(f"heard {rank}") for rank in others))

    def _listen(self) -> None:
        try:
            while not self._news and not self._ended.wait(_LISTEN_SECONDS):
                if self._known("news"):
                    self._news = self._store.get("news").decode()
                    self._store.set(f"heard {self.rank}", "")
        except RuntimeError:
            # The store has gone with rank 0: the next collective fails.
            return

    def _missing(self) -> str:
        """Who surely is."""
        for rank in range(self.world_size):
            if not self._known(f"place {rank}"):
                return f"{self._name(rank)} never came"
            if self._lives(rank) is False and not self._known(f"left {rank}"):
                return f"{self._name(rank)} has died"
        return ""

    def _silent(self) -> str:
        """Who has not noticed that the group has ended."""
        for rank in range(self.world_size):
            if not self._known(f"left {rank}"):
                minutes = f"the others waited {self.timeout.total_seconds() / 60:g} min for it in vain"
                return f"{self._name(rank)} {'lives, but' if self._lives(rank) else 'has died or hangs:'} {minutes}"
        return ""

    def _known(self, key: str) -> bool:
        return bool(self._store.check([key]))

    def _place(self, rank: int) -> tuple[str, int, int] | None:
        key = f"place {rank}"
        return tuple(json.loads(self._store.get(key))) if self._known(key) else None

    def _lives(self, rank: int) -> bool | None:
        place = self._place(rank)
        return lives(*place) if place else None

    def _name(self, rank: int) -> str:
        place = self._place(rank)
        return f"rank {rank} (process {place[1]} on {place[0].partition('?')[0]})" if place else f"rank {rank}"

    def _wait(self, until: Callable[[], bool]) -> None:
        end = time.monotonic() + _PATIENCE_SECONDS
        while not until() and time.monotonic() < end:
            time.sleep(_LISTEN_SECONDS / 10)
