"""What stands in for a masked span: one token, random tokens, or nothing at all (the span is deleted).

A token and random tokens keep the length, so that every later token keeps its position; deletion moves later tokens,
and the positions that are read, to the left. Random tokens depend on the seed, the example and the span alone: no
order, batch or worker changes them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from shared.data.examples import Example, special_ids
from shared.data.layout import layout_of
from shared.engines.interface import Request
from shared.errors import ConfigError, nearest

Span = tuple[int, int]

SPECIAL = ("mask", "unk", "pad", "eos")
NAMES = ("auto", *SPECIAL, "random", "delete")


@dataclass(frozen=True)
class Replacement:
    """Exactly one of the three: `token` given, `ordinary` given (random), or neither (deletion)."""

    token: int | None = None
    text: str = ""
    """of `token`"""
    ordinary: tuple[int, ...] = ()
    """ids that random tokens are drawn from: every one that is not special"""
    seed: int = 0

    @property
    def deletes(self) -> bool:
        return self.token is None and not self.ordinary

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        if self.token is not None:
            return {"kind": "token", "id": self.token, "token": self.text}
        return {"kind": "delete"} if self.deletes else {"kind": "random", "vocabulary": len(self.ordinary), "seed": self.seed}

    def request(self, example: Example, span: Span, wanted: list[int]) -> Request:
        """The example with `span` replaced, cut after the last of the `wanted` positions (of the example, all behind
        the span)."""
        start, end = span
        ids = example.input_ids[: wanted[-1] + 1]
        if self.deletes:
            return Request(ids[:start] + ids[end:], [i - (end - start) for i in wanted])
        return Request(ids[:start] + self._fill(example, span) + ids[end:], wanted)

    def _fill(self, example: Example, span: Span) -> list[int]:
        start, end = span
        if self.token is not None:
            return [self.token] * (end - start)
        # A text as the seed goes through SHA-512, and random() is the one method whose sequence Python promises to
        # keep.
        draws = random.Random(f"{self.seed} {example.id} {start}-{end}")
        return [self._other(draws, token) for token in example.input_ids[start:end]]

    def _other(self, draws: random.Random, token: int) -> int:
        while True:
            drawn = self.ordinary[int(draws.random() * len(self.ordinary))]
            if drawn != token:
                return drawn


def choose_replacement(name: str, tokenizer: Any, *, seed: int) -> Replacement:
    """`name`: one of NAMES, or a token id. Raises ConfigError when the tokenizer lacks it."""
    if name == "delete":
        return Replacement()
    if name == "random":
        ordinary = tuple(sorted(i for i in set(tokenizer.get_vocab().values()) - special_ids(tokenizer) if _has_row(i, tokenizer)))
        if len(ordinary) < 2:
            raise ConfigError("replacement random: the tokenizer has no two tokens that are not special; give another replacement")
        return Replacement(ordinary=ordinary, seed=seed)
    token = _token_id(name, tokenizer)
    return Replacement(token, str(tokenizer.convert_ids_to_tokens(token)))


def _token_id(name: str, tokenizer: Any) -> int:
    named = {s: getattr(tokenizer, f"{s}_token_id") for s in SPECIAL}
    there = {s: i if i is not None and _has_row(i, tokenizer) else None for s, i in named.items()}
    if name == "auto":
        found = next((i for i in there.values() if i is not None), None)
        if found is None:
            raise ConfigError(
                "replacement auto: the tokenizer has no mask, unk, pad or eos token; give a token id with --set replacement=ID, or delete"
            )
        return found
    if name.isdecimal():
        if int(name) >= len(tokenizer):
            raise ConfigError(f"replacement {name}: the vocabulary has {len(tokenizer)} tokens, numbered from 0")
        if not _has_row(int(name), tokenizer):
            raise ConfigError(f"replacement {name}: the model's embedding has {layout_of(tokenizer).rows} rows, numbered from 0")
        return int(name)
    if name not in SPECIAL:
        raise ConfigError(f"replacement {name}: expected a token id or a name{nearest(name, NAMES)}")
    found = there[name]
    if found is None and named[name] is not None:
        raise ConfigError(
            f"replacement {name}: the tokenizer's {name} token has id {named[name]}, but the model's embedding has "
            f"{layout_of(tokenizer).rows} rows: it was added without resizing; see --set replacement"
        )
    if found is None:
        has = ", ".join(s for s in SPECIAL if there[s] is not None)
        raise ConfigError(f"replacement {name}: the tokenizer has no {name} token (it has {has or 'none of these'}); see --set replacement")
    return found


def _has_row(token: int, tokenizer: Any) -> bool:
    """A token that was added to the tokenizer without resizing the model is none that the model can read."""
    rows = layout_of(tokenizer).rows
    return rows is None or token < rows
