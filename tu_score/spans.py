"""Which context is masked: span plans. Each span of an example makes one masked variant, read at the target tokens
behind it.

A plan is fixed before the first forward pass and depends on an example and the options alone. In raw text a variant is
read for `horizon` tokens, so a text of n tokens with spans every s tokens asks for n · (span + horizon) / s tokens
behind the prefixes that variants share: linear in n. docs/spans.md states the rules.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from shared.data.datasets import Row, columns_near, kind_of
from shared.data.examples import Example, Placed, context_span_tokens, place, special_ids
from shared.errors import ConfigError, DataError
from shared.extensions import asked, running
from tu_score.config import PLANS, SPAN_PLAN, ScoreConfig
from tu_score.entities import entity_spans
from tu_score.replace import Replacement, Span, choose_replacement

FAR = 10**12
"""characters; no text is that long"""


@dataclass(frozen=True)
class Masking:
    """What is masked in some examples, and how."""

    spans: dict[str, list[Span]]
    """example id -> token spans that are read at some target, in order of start and end"""
    replacement: Replacement
    horizon: int
    copies: dict[int, int] | None = None
    """copy-aware: token id -> one id for all tokens that count as copies of each other; None: off"""
    cut: int = 0
    """examples with more spans than `max_spans`"""

    @property
    def variants(self) -> int:
        return sum(map(len, self.spans.values()))

    def reads(self, example: Example) -> list[tuple[Span, list[int]]]:
        """Spans and the positions of `example` that are read while each is masked."""
        return [(span, read_after(example, span, self.horizon, self.replacement)) for span in self.spans[example.id]]

    def work(self, example: Example) -> int:
        """Tokens that all requests of an example hold, the plain one included, before sharing."""
        deletes = self.replacement.deletes
        lengths = [wanted[-1] + 1 - (end - start if deletes else 0) for (start, end), wanted in self.reads(example)]
        return len(example.input_ids) + sum(lengths)

    def copied(self, example: Example, span: Span, wanted: Sequence[int]) -> list[bool]:
        """Copy-aware: for each wanted position, does the span hold a copy of its token? All false when off."""
        if self.copies is None:
            return [False] * len(wanted)
        ids, kinds = example.input_ids, self.copies
        inside = {kinds[token] for token in ids[span[0] : span[1]]}
        return [kinds[ids[i]] in inside for i in wanted]


def plan_masking(config: ScoreConfig, tokenizer: Any, examples: Sequence[Example], context: int | None) -> Masking:
    """Spans of these examples, which do not depend on what others there are. Raises ConfigError and DataError, naming
    the row, for everything that the plan cannot mask."""
    replacement = choose_replacement(config.replacement, tokenizer, seed=config.seed)
    if config.spans == "window" and context is not None and config.window_length > context:
        raise ConfigError(
            f"window_length is {config.window_length}, but the model's context holds {context} tokens; choose a shorter window"
        )
    planned, cut = {}, 0
    for example, spans in _planned(config, tokenizer, examples):
        readable = [s for s in sorted(set(spans)) if read_after(example, s, config.horizon, replacement)]
        planned[example.id] = sample_spans(readable, config, example.id)
        cut += len(planned[example.id]) < len(readable)
    return Masking(planned, replacement, config.horizon, _copy_kinds(tokenizer, examples) if config.copy_aware else None, cut)


def sample_spans(spans: list[Span], config: ScoreConfig, example_id: str) -> list[Span]:
    """At most `max_spans` of them, in order: those with the smallest sha256 of "seed example-id start-end" (0: all).

    That is a uniform draw without replacement; a larger limit keeps what a smaller one drew.
    """
    if not config.max_spans or len(spans) <= config.max_spans:
        return spans
    draw = {s: hashlib.sha256(f"{config.seed} {example_id} {s[0]}-{s[1]}".encode()).digest() for s in spans}
    return sorted(sorted(spans, key=draw.__getitem__)[: config.max_spans])


def read_after(example: Example, span: Span, horizon: int, replacement: Replacement) -> list[int]:
    """Positions of the target tokens that are read when `span` is masked: those after it, within the horizon for raw
    text.

    The first token left after a deletion is never read: nothing comes before it.
    """
    first = span[1] + (replacement.deletes and span[0] == 0)
    last = len(example.input_ids) if _has_question(example) else min(len(example.input_ids), span[1] + horizon)
    return [i for i in range(first, last) if example.is_target[i]]


def _has_question(example: Example) -> bool:
    return example.row.question is not None


def _planned(config: ScoreConfig, tokenizer: Any, examples: Sequence[Example]) -> Iterator[tuple[Example, list[Span]]]:
    """Every example with all spans that the plan names in it. Rows are tokenised again only where offsets are needed,
    once each."""
    special = special_ids(tokenizer)
    for _, pieces in itertools.groupby(examples, key=lambda e: id(e.row)):
        first, *others = pieces
        if config.spans in ("entity", "given") or config.spans not in PLANS:
            chars = _characters(first.row, config)
            placed = place(first.row, tokenizer) if chars else None
        for example in (first, *others):
            if config.spans == "question":
                yield example, [_question(example)]
            elif config.spans == "window":
                yield example, _windows(example, config, special)
            elif config.spans == "none" or placed is None:
                yield example, []
            else:
                yield example, _located(example, placed, chars, config)


def _question(example: Example) -> Span:
    if example.prompt_span == (0, 0):
        raise DataError(f"{example.id}: has no question to mask; use --spans window, entity, given or none for raw text")
    return example.prompt_span


def _windows(example: Example, config: ScoreConfig, special: set[int]) -> list[Span]:
    """Windows over the question, and over the answer too where `window_over` says so; over raw text behind its special
    first tokens."""
    ids = example.input_ids
    if _has_question(example):
        areas = [example.prompt_span, (example.prompt_length, len(ids))][: 2 if config.window_over == "answer" else 1]
    else:
        areas = [(next((i for i, token in enumerate(ids) if token not in special), 0), len(ids))]
    return [span for start, end in areas for span in windows(start, min(end, len(ids) - 1), config.window_length, config.window_stride)]


def windows(start: int, end: int, length: int, stride: int) -> list[Span]:
    """Windows over [start, end), from `start` on; the last is the first that reaches the end, cut there."""
    out = []
    for at in range(start, end, stride):
        out.append((at, min(at + length, end)))
        if at + length >= end:
            break
    return out


def _context(row: Row) -> str:
    return row.answer if row.question is None else row.question


def _characters(row: Row, config: ScoreConfig) -> list[Span]:
    """Character spans of a row: its names and numbers, what its own column gives, or what a plan of others makes of it.
    Raises DataError naming the row."""
    own = asked(SPAN_PLAN, config.spans)
    if own is not None:
        with running(SPAN_PLAN, config.spans):
            made: Any = own.object(row)
        return _checked([list(s) if isinstance(s, tuple) else s for s in made] if isinstance(made, list) else made, row, config.spans)
    key = config.span_key
    if key is None:
        assert config.spans == "entity", "a plan of others is loaded where the settings are"
        return entity_spans(_context(row))
    if key not in row.extra:
        raise DataError(f"{row.id}: no key {key!r}{columns_near(key, row.extra)}; see --span-key")
    return _checked(row.extra[key], row, key)


def _checked(value: Any, row: Row, key: str) -> list[Span]:
    """The spans that `key` gives. Raises DataError naming the row."""
    length = len(_context(row))
    what = "text" if row.question is None else "question"
    for entry, span in enumerate(value if isinstance(value, list) else [value]):
        if not (isinstance(span, list) and len(span) == 2 and all(type(n) is int for n in span)):
            raise DataError(f"{row.id}: its {key} should be a list of [start, end) character offsets in its {what}, got {kind_of(value)}")
        start, end = span
        if abs(start) > FAR or abs(end) > FAR:
            raise DataError(f"{row.id}: its {key} reaches past every text with its entry {entry}; expected 0 <= start < end <= {length}")
        if not 0 <= start < end:
            raise DataError(f"{row.id}: its {key} holds [{start}, {end}), which is no span: expected 0 <= start < end")
        if end > length:
            past = "reaches past" if start < length else "lies behind"
            rest = "" if row.question is None else "; the answer cannot be masked"
            raise DataError(f"{row.id}: its {key} holds [{start}, {end}), which {past} the end of its {what} of {length} characters{rest}")
    return [(start, end) for start, end in value]


def _located(example: Example, placed: Placed, chars: list[Span], config: ScoreConfig) -> list[Span]:
    found = context_span_tokens(example, placed, chars)
    if config.spans != "entity" and _has_question(example) and None in found:
        start, end = chars[found.index(None)]
        raise DataError(
            f"{example.id}: its {config.span_key or config.spans} holds [{start}, {end}), which no token of its question is part of"
        )
    return [span for span in found if span is not None]


def _copy_kinds(tokenizer: Any, examples: Sequence[Example]) -> dict[int, int]:
    """Token id -> the least id among those of the data with the same text, case and surrounding space aside.

    Tokens without such a text (white space alone, a part of a character) are copies of the same id only.
    """
    ids = sorted({token for example in examples for token in example.input_ids})
    if not ids:
        return {}
    texts = [text.strip().casefold() for text in tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)]
    least: dict[str, int] = {}
    return {i: least.setdefault(text, i) if text and "\ufffd" not in text else i for i, text in zip(ids, texts, strict=True)}
