"""Seeded changes of the files that a command reads, and what may come of them: one line and exit code 2, or numbers."""

from __future__ import annotations

import copy
import json
import math
import random
import signal
from contextlib import contextmanager
from typing import Any

DEEP = "@@deep@@"
LONG = "@@digits@@"
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, -0.5, 1e308, -1e308, math.nan, math.inf, -math.inf, "",
    "x", "\ud800", "\x1b[2J", "a" * 5000, "/", "../..", "~nobody-at-all", "\0", [], {}, [[]], [None], {"": None}, {"a": [1, 2]}, DEEP, LONG,
)  # fmt: skip


def places(value: Any, at: tuple = ()) -> list[tuple]:
    """Paths of everything inside."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    out = [] if not at else [at]
    for key, held in inner:
        out += places(held, (*at, key))
    return out


def mutate(value: Any, rng: random.Random) -> Any:
    """A copy with one to three values replaced, taken away, added, or put elsewhere."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = places(value)
        if not found:
            return rng.choice(VALUES)
        # As often near the outside as deep within a long list.
        depth = rng.choice(sorted({len(p) for p in found}))
        *above, key = rng.choice([p for p in found if len(p) == depth])
        holder = value
        for step in above:
            holder = holder[step]
        kind = rng.randrange(6)
        if kind == 0:
            holder.pop(key)
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(("", "x", "more", "\ud800", "a" * 5000))] = rng.choice(VALUES)
        elif kind == 2:
            other = value
            for step in rng.choice(found):
                other = other[step] if isinstance(other, dict | list) and _has(other, step) else other
            holder[key] = copy.deepcopy(other)
        elif kind == 3 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = rng.choice((-holder[key], holder[key] * 2, holder[key] + 1, holder[key] * 10**12, float(holder[key])))
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return value


def _has(holder: Any, step: Any) -> bool:
    return step in holder if isinstance(holder, dict) else isinstance(step, int) and step < len(holder)


def text_of(value: Any) -> str:
    """JSON, with what Python itself would not write."""
    text = json.dumps(value)
    return text.replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000).replace(f'"{LONG}"', "9" * 5000)


def cut(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut or doubled."""
    if rng.random() < 0.3:
        return data[: rng.randrange(len(data) + 1)]
    out = bytearray(data)
    for _ in range(rng.choice((1, 3, 30))):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


@contextmanager
def within(seconds: int):
    """Raises TimeoutError in the block."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def judged(result: tuple[int, str, str], what: str) -> int:
    """The exit code, which is 0 or 2; what an error says is one line without control characters."""
    code, out, err = result
    last = (err.strip().splitlines() or [""])[-1]
    assert code in (0, 2), (what, result)
    assert "Traceback" not in err, (what, err)
    assert code == 0 or last.startswith("error: "), (what, err)
    assert not any(sign in out + err for sign in ("\x1b", "\x07")), (what, out, err)
    return code
