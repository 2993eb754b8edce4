"""Which context is masked: span plans, and what stands in for a masked token."""

from __future__ import annotations

from typing import Any

from shared.errors import ConfigError, DataError, nearest
from shared.examples import Example
from tu_score.config import ScoreConfig

SPECIAL = ("mask", "unk", "pad", "eos")


def replacement_id(name: str, tokenizer: Any) -> int:
    """The id that stands in for every masked token (a variant keeps its length, so that positions stay)."""
    there = {s: getattr(tokenizer, f"{s}_token_id") for s in SPECIAL}
    if name == "auto":
        found = next((i for i in there.values() if i is not None), None)
        if found is None:
            raise ConfigError(
                "replacement auto: the tokenizer has no mask, unk, pad or eos token; give a token id with --set replacement=ID"
            )
        return found
    if name.isdigit():
        if int(name) >= len(tokenizer):
            raise ConfigError(f"replacement {name}: the vocabulary has {len(tokenizer)} tokens, numbered from 0")
        return int(name)
    if name not in SPECIAL:
        raise ConfigError(f"replacement {name}: expected auto, a token id, or a token name{nearest(name, SPECIAL)}")
    if there[name] is None:
        raise ConfigError(
            f"replacement {name}: the tokenizer has no {name} token (it has {', '.join(s for s in SPECIAL if there[s] is not None)})"
        )
    return there[name]


def plan_spans(example: Example, config: ScoreConfig) -> list[tuple[int, int]]:
    """Token spans to mask, one variant each: inside the question, or, for raw text, anywhere before the last token.

    Raises DataError where `question` meets a row without one.
    """
    start, end = example.prompt_span
    raw = start == end
    if config.spans == "none":
        return []
    if config.spans == "question":
        if raw:
            raise DataError(f"{example.id}: has no question to mask; use --spans window (or none) for raw text")
        return [(start, end)]
    if raw:
        start, end = 0, len(example.input_ids) - 1
    return [(at, min(at + config.window_length, end)) for at in range(start, end, config.window_stride)]


def read_after(example: Example, span: tuple[int, int], horizon: int) -> list[int]:
    """Positions of the target tokens that are read when `span` is masked: those after it, within the horizon for raw text."""
    raw = example.prompt_span == (0, 0)
    last = min(len(example.input_ids), span[1] + horizon) if raw else len(example.input_ids)
    return [i for i in range(span[1], last) if example.is_target[i]]
