"""Being told to stop: SIGTERM, SIGINT (Ctrl-C) or SIGHUP (the terminal or the connection went away) asks the loop to
save at the next step boundary; the command then exits with EXIT_SAVED. A signal that was ignored when the command began
(SIGHUP under nohup) stays ignored.

A second signal ends the process at once, as it would have without us; the last checkpoint stays good. Of several ranks
torchrun passes on what the system may have sent to each of them already, so there the same signal within DOUBLED_S of
the first counts as the first.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from shared.console import say

EXIT_SAVED = 75
"""exit code of a run that was told to stop, saved and can go on with --resume (EX_TEMPFAIL of sysexits.h: try again
later)"""
DOUBLED_S = 5.0
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


class Stopping:
    """`with Stopping() as stop:` then, after each step, `if stop.asked: save`. Handlers are put back on the way out."""

    def __init__(self, doubled: float = 0.0) -> None:
        """`doubled`: seconds within which a second signal is the first one again."""
        self.asked = False
        self.error: Exception | None = None
        """why training itself asked to stop"""
        self._before: dict[signal.Signals, Any] = {}
        self._doubled, self._first = doubled, -1.0
        """when the first signal came, seconds of a clock"""
        self._end: Callable[[], object] | None = None

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread set handlers
            self._before = {s: signal.signal(s, self._ask) for s in SIGNALS if signal.getsignal(s) != signal.SIG_IGN}
        return self

    def __exit__(self, *exception: object) -> None:
        self._put_back()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._first >= 0:
            if time.monotonic() - self._first > self._doubled:
                self._put_back()
                signal.raise_signal(number)
            return
        self.asked, self._first = True, time.monotonic()
        if not self._doubled:
            self._put_back()
        if self._end is not None:
            self._end()
        # In the middle of another line to stderr Python lets nobody interrupt; and with the terminal its stderr went
        # away.
        with suppress(RuntimeError, OSError):
            say(f"{signal.Signals(number).name}: saving after this step; once more ends at once")

    def fail(self, error: Exception) -> None:
        """As if told to stop, for an error that costs nothing that was trained."""
        self.asked, self.error = True, error

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """Whoever tells us to stop inside calls `end`, too."""
        self._end = end
        try:
            if self.asked:
                end()
            yield
        finally:
            self._end = None

    def _put_back(self) -> None:
        for s, handler in self._before.items():
            signal.signal(s, handler)
        self._before = {}
