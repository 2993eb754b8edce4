"""Being told to stop: SIGTERM, SIGINT (Ctrl-C) or SIGHUP (the terminal or the connection went away) asks the loop to
save at the next step boundary; the command then exits with EXIT_SAVED. A signal that was ignored when the command began
(SIGHUP under nohup) stays ignored.

A second signal ends the process at once, as it would have without us; the last checkpoint stays good.
"""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

from shared.console import say

EXIT_SAVED = 75
"""exit code of a run that was told to stop, saved and can go on with --resume (EX_TEMPFAIL of sysexits.h: try again
later)"""
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


class Stopping:
    """`with Stopping() as stop:` then, after each step, `if stop.asked: save`. Handlers are put back on the way out."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread set handlers
            self._before = {s: signal.signal(s, self._ask) for s in SIGNALS if signal.getsignal(s) != signal.SIG_IGN}
        return self

    def __exit__(self, *exception: object) -> None:
        self._put_back()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._put_back()
        # In the middle of another line to stderr Python lets nobody interrupt; and with the terminal its stderr went
        # away.
        with suppress(RuntimeError, OSError):
            say(f"{signal.Signals(number).name}: saving after this step; once more ends at once")

    def _put_back(self) -> None:
        for s, handler in self._before.items():
            signal.signal(s, handler)
        self._before = {}
