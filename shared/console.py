"""What a person sees while work goes on: a rich progress bar on a terminal, plain lines elsewhere. Everything goes to
stderr, so that a command's result on stdout can be piped. Text of the data never comes through here. Nobody has to read
it: what cannot be printed, because the reader went away or the terminal was closed, is dropped, and the work goes
on."""

from __future__ import annotations

import errno
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from shared.errors import printable
from shared.secret import without_secrets

FIRST_S, PLAIN_EVERY_S = 10.0, 60.0
"""where stderr is no terminal: the first plain line, and those after it"""


ERROR = "error: "
"""how a line begins that is said in any case"""
_heard: list[dict[str, None]] = []
_quiet = _hushed = False


def hush() -> None:
    """From now on this process tells errors and results, and nothing of how it is getting on (--quiet)."""
    global _hushed
    _hushed = True


def quiet() -> None:
    """From now on this process says nothing, and prints no result: one of several that do the same work speaks for
    all."""
    global _quiet
    _quiet = True
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends


def say(message: str) -> None:
    """One line for the person at the terminal."""
    line = printable(without_secrets(message))
    for lines in _heard:
        lines[line] = None
    if not _quiet and (not _hushed or line.startswith(ERROR)):
        print(line, file=sys.stderr, flush=True)


@contextmanager
def overheard() -> Iterator[dict[str, None]]:
    """The lines that are said in the block, each once, in order."""
    lines: dict[str, None] = {}
    _heard.append(lines)
    try:
        yield lines
    finally:
        _heard[:] = [other for other in _heard if other is not lines]


def pass_on(lines: Iterable[str]) -> None:
    """Says what another process said, but for what was said here already while somebody listened."""
    for line in lines:
        if not any(line in known for known in _heard):
            say(line)


class Unbroken:
    """A text stream of which nothing depends: when its reader has gone away, the descriptor leads to nowhere from then
    on."""

    def __init__(self, stream: Any, *, drops: tuple[int, ...] | None):
        """`drops`: errors that mean that nobody reads; None for any."""
        self._stream, self._drops = stream, drops

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._do(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._do(self._stream.flush)

    def _do(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except OSError as error:
            if self._drops is not None and error.errno not in self._drops:
                raise
            self._nowhere()

    def leave(self) -> None:
        """Nothing is left for the interpreter to write at its end, which would take a reader that went away for a
        failure."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._nowhere()

    def _nowhere(self) -> None:
        with suppress(OSError, ValueError):  # no descriptor: a stream of a test
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


GONE = (errno.EPIPE, errno.EIO)
"""a pipe without a reader; a terminal that was closed"""


@contextmanager
def unbroken_streams() -> Iterator[None]:
    """In the block stdout loses what nobody reads, stderr what cannot be written for whatever reason. No letter is an
    error."""
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    streams = Unbroken(sys.stdout, drops=GONE), Unbroken(sys.stderr, drops=None)
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in streams:
            stream.leave()


def duration(seconds: float) -> str:
    """3 s, 4 min 10 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{max(whole, 1)} s"
    return f"{whole // 60} min {whole % 60:02} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02} min"


def number_of(count: int, noun: str) -> str:
    """1 part, 2,000 parts."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def readable_bytes(count: float) -> str:
    """Three digits and a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


class Progress:
    """`advance(n, note)`: n more units done. Units are whatever the total counts (tokens, rows, steps)."""

    def __init__(self, title: str, total: int, unit: str):
        self.title, self.total, self.unit = title, total, unit
        self.note = ""
        """stands at the end of each line until it is changed"""
        self.done, self.started, self.next = 0, time.monotonic(), time.monotonic() + FIRST_S

    def advance(self, n: int, note: str = "") -> None:
        self.done += n
        self.note = note or self.note
        now = time.monotonic()
        if self.done < self.total and now >= self.next:
            self.next = now + PLAIN_EVERY_S
            self.tell()

    def tell(self) -> None:
        """The line as it is now; the last one is said when the work is done, and what it made is written."""
        line = f"{self.title}: {self.done:,}/{self.total:,} {self.unit}, {self.speed()}{self.left()}{self.noted()}"
        if not _quiet and not _hushed:
            print(printable(without_secrets(line)), file=sys.stderr, flush=True)

    def speed(self) -> str:
        rate = self.done / max(time.monotonic() - self.started, 1e-9)
        return f"{rate:,.{0 if rate >= 10 else 2}f} {self.unit}/s"

    def noted(self) -> str:
        return f"{'' if self.note.startswith('(') else ','} {self.note}" if self.note else ""

    def left(self) -> str:
        """The time that the rest takes at the speed so far."""
        if not 0 < self.done < self.total:
            return ""
        return f", {duration((time.monotonic() - self.started) / self.done * (self.total - self.done))} left"


class _RichProgress(Progress):
    def __init__(self, title: str, total: int, unit: str, bar, task):
        super().__init__(title, total, unit)
        self.bar, self.task = bar, task

    def advance(self, n: int, note: str = "") -> None:
        self.done += n
        self.note = note or self.note
        self.bar.update(self.task, advance=n, note=f"{self.speed()}{self.noted()}")


@contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Progress]:
    """A progress display for `total` units; plain lines (after ten seconds, then one a minute, and the last) when
    stderr is no terminal."""
    if _quiet or _hushed or not sys.stderr.isatty():
        plain = Progress(title, total, unit)
        yield plain
        if plain.done:
            plain.tell()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        yield _RichProgress(title, total, unit, bar, bar.add_task(title, total=total, note=""))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """To stdout: a table on a terminal, tab-separated lines with a head line elsewhere."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, clean = Console(), [[printable(cell) for cell in row] for row in rows]
    if not console.is_terminal:
        print("\n".join("\t".join(row) for row in [columns, *clean]))
        return
    table = Table(*columns)
    for row in clean:
        table.add_row(*map(Text, row))
    console.print(table)
