"""Rows -> tokens: which tokens a model reads, and which of them (the targets) a loss may touch.

A question-answer row is laid out (shared/data/layout.py) and tokenised once, as a whole. Offsets then tell which tokens
carry the answer: targets are the tokens of the answer up to and including the end-of-turn token that follows it;
whatever the template adds after that is read by nobody and is dropped. The texts of tokens are cut out of the laid-out
text by the same offsets. Nothing here compares ids with the pad token.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any

from shared.console import say
from shared.data.datasets import ReadingOptions, Row, said_where
from shared.data.layout import layout_of, special_ids
from shared.data.placed import Placed, place
from shared.data.raw_text import cut
from shared.errors import ConfigError, DataError

LONG = ("error", "truncate", "skip")
TURNS = {"system_prompt", "instruction", "input", "context", "history", "messages", "conversation", "conversations", "turns", "dialog",
         "dialogue", "chat", "tools"}  # fmt: skip
"""columns that elsewhere hold turns of a conversation; nothing here reads them"""


Memo = dict[int, Placed]
"""id() of a row that is kept meanwhile -> how it was laid out"""


@dataclass(frozen=True)
class Example:
    """Token ids with their readings. All token positions are indices into `input_ids`; spans are end-exclusive."""

    id: str
    """dataset/split/row, unique in a data set; `#start-end` (tokens) is added to a piece of a longer text"""
    input_ids: list[int]
    is_target: list[bool]
    prompt_span: tuple[int, int]
    """the tokens of the question itself, without template; empty (0, 0) for raw text"""
    row: Row
    row_start: int = 0
    """raw text: tokens of the row before those that this piece reads"""
    lead: int = 0
    """raw text: tokens put before this piece because the row begins with them"""

    @property
    def targets(self) -> list[int]:
        return [i for i, t in enumerate(self.is_target) if t]

    @property
    def prompt_length(self) -> int:
        """Tokens before the first target: what a model is given when it is asked to answer."""
        return self.is_target.index(True)


class DataHash:
    """sha256 over ids, tokens and targets of examples in order, as they come: `hash_json` of the list of them all."""

    def __init__(self) -> None:
        self._digest, self._before = hashlib.sha256(b"["), b""

    def add(self, name: str, input_ids: Sequence[int], is_target: Iterable[bool]) -> None:
        told = [name, list(input_ids), "".join("1" if t else "0" for t in is_target)]
        self._digest.update(self._before + json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode())
        self._before = b","

    def hexdigest(self) -> str:
        done = self._digest.copy()
        done.update(b"]")
        return done.hexdigest()


def data_fingerprint(examples: Iterable[Example]) -> str:
    """sha256 over ids, tokens and targets of every example in order."""
    found = DataHash()
    for e in examples:
        found.add(e.id, e.input_ids, e.is_target)
    return found.hexdigest()


def make_examples(
    rows: Iterable[Row],
    tokenizer: Any,
    *,
    context: int | None,
    long: str = "error",
    text_length: int = 512,
    text_overlap: int = 0,
    text_pieces: str | None = None,
) -> list[Example]:
    """Tokenises rows; examples beyond `context` tokens are refused, cut at the end or left out, as `long` says.

    Raw text is cut into pieces of at most `text_length` tokens, which read the last `text_overlap` tokens before them
    again; text_pieces="first" reads the first alone. Raises DataError naming the row, ConfigError for a bad `long` or
    `text_overlap`.
    """
    options = ReadingOptions(long=long, text_length=text_length, text_overlap=text_overlap, text_pieces=text_pieces)  # type: ignore[arg-type]
    return examples_of(rows, tokenizer, options, context=context)


def examples_of(rows: Iterable[Row], tokenizer: Any, options: ReadingOptions, *, context: int | None) -> list[Example]:
    """`make_examples` as a command's settings have it."""
    return list(each_example(rows, tokenizer, options, context=context))


def each_example(rows: Iterable[Row], tokenizer: Any, options: ReadingOptions, *, context: int | None) -> Iterator[Example]:
    """The same one after another; that some were left out is said at the end, and that all were is raised there."""
    made = left_out = 0
    for example in _made(rows, tokenizer, options, context):
        made += 1
        if example is None:
            left_out += 1
        else:
            yield example
    if left_out:
        say(f"left out {left_out} of {made} examples, too long for the model's context of {context} tokens (--long {options.long})")
    if left_out == made:
        raise DataError("no example is left: every row was skipped as longer than the model's context (see --long)")


def iter_examples(
    rows: Iterable[Row], tokenizer: Any, options: ReadingOptions, *, context: int | None, memo: Memo | None = None
) -> Iterator[Example]:
    """The same without a word; there may be none. `memo` is given the rows as they were laid out, for whoever needs
    them next."""
    return (example for example in _made(rows, tokenizer, options, context, memo) if example is not None)


def placed_once(row: Row, tokenizer: Any, memo: Memo | None) -> Placed:
    """`place`, or what a memo has of this very row."""
    if memo is None:
        return place(row, tokenizer)
    if id(row) not in memo:
        memo[id(row)] = place(row, tokenizer)
    return memo[id(row)]


def _made(
    rows: Iterable[Row], tokenizer: Any, options: ReadingOptions, context: int | None, memo: Memo | None = None
) -> Iterator[Example | None]:
    """Examples of the rows; None in place of one that is left out."""
    length, overlap = options.text_length, options.text_overlap or 0
    if options.long not in LONG:
        raise ConfigError(f"--long {options.long}: expected one of {', '.join(LONG)}")
    if length < 2:
        raise ConfigError(f"text_length {length}: expected at least 2 tokens, the first of a piece is never a target")
    if overlap > length // 2:
        raise ConfigError(f"text_overlap {overlap}: expected at most {length // 2} tokens, half of text_length")
    size, last, unread = min(length, context or length), 1 if options.text_pieces == "first" else None, set()
    for row in rows:
        unread |= {name for name in row.extra if name.lower() in TURNS}
        asks = row.question is not None
        with said_where(row.place):
            made = [qa_example(row, tokenizer, memo)] if asks else islice(text_examples(row, tokenizer, size, overlap, memo), last)
            yield from (fit(example, context, options.long) for example in made)
    if unread:
        _say_unread(tuple(sorted(unread)))


@cache
def _say_unread(names: tuple[str, ...]) -> None:
    """Once in a process: a suite makes examples of the same rows many times."""
    which = f"column{'s' if len(names) > 1 else ''} {', '.join(names)}"
    say(f"the data's {which} look like turns of a conversation and are not read: a row is a question, an answer, and a system prompt "
        "in the column system")  # fmt: skip


def fit(example: Example, context: int | None, long: str) -> Example | None:
    """The example where it fits, else cut at its end or None (left out), as `long` says. Raises DataError for
    long="error"."""
    n = len(example.input_ids)
    if context is None or n <= context:
        return example
    if long == "error":
        raise DataError(f"{example.id}: {n} tokens, but the model's context holds {context}; use --long truncate or --long skip")
    if long == "skip" or example.prompt_length >= context:
        return None
    return replace(example, input_ids=example.input_ids[:context], is_target=example.is_target[:context])


def qa_example(row: Row, tokenizer: Any, memo: Memo | None = None) -> Example:
    """One question-answer row. Raises DataError naming the row."""
    question, answer = (row.question or "").strip(), row.answer.strip()
    if not question or not answer:
        raise DataError(f"{row.id}: its {'answer' if question else 'question'} is empty; remove the row or fill it")
    placed = placed_once(row, tokenizer, memo)
    ids, offsets, question_at, answer_at = placed.ids, placed.offsets, placed.question_at, placed.answer_at
    special = special_ids(tokenizer)
    answer_end = answer_at + len(answer)
    target = [end > answer_at and start < answer_end and end > start for start, end in offsets]
    if not any(target):
        raise DataError(f"{row.id}: the tokenizer makes no token of its answer")
    last = max(i for i, t in enumerate(target) if t)
    end_of_turn = next((i for i in range(last + 1, len(ids)) if ids[i] in special), None)
    if end_of_turn is None:
        ids = ids[: last + 1]
        if tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
    else:
        ids = ids[: end_of_turn + 1]
    _check_rows(row.id, ids, tokenizer)
    first = target.index(True)
    in_question = [i for i in range(first) if offsets[i][1] > question_at and offsets[i][0] < question_at + len(question)]
    span = (in_question[0], in_question[-1] + 1) if in_question else (0, 0)
    if first == 0:
        raise DataError(f"{row.id}: its first token would be a target, which no token comes before")
    return Example(row.id, ids, [i >= first for i in range(len(ids))], span, row)


def _check_rows(name: str, ids: Sequence[int], tokenizer: Any) -> None:
    """Raises DataError for a token that the model's embedding has no row for: added to the tokenizer, but not to the
    model."""
    rows = layout_of(tokenizer).rows
    beyond = next((i for i in ids if i >= rows), None) if rows is not None else None
    if beyond is not None:
        raise DataError(
            f"{name}: its text has a token with id {beyond}, but the model's embedding has "
            f"{rows} rows; resize the model's embedding to its tokenizer, or write the row otherwise"
        )


def token_texts(example: Example, placed: Placed, tokenizer: Any) -> list[str]:
    """What each token of an example is in the laid-out text: joined they are that text. `placed` is `place(example.row,
    tokenizer)`.

    A token has the characters from the end of the one before it to its own end: blanks that a tokenizer drops from its
    offsets are the next token's, a letter over several tokens is the first one's. What no text holds (a beginning
    token) is called by its name.
    """
    special, start = special_ids(tokenizer), example.row_start
    out, behind = [], placed.offsets[start - 1][1] if start else 0
    for token, (first, end) in zip(example.input_ids, offsets_of(example, placed), strict=True):
        if first == end and token in special:
            out.append(str(tokenizer.convert_ids_to_tokens(token)))
        else:
            out.append(placed.text[behind:end])
            behind = max(behind, end)
    return out


def answer_offsets(example: Example, placed: Placed) -> tuple[str, list[tuple[int, int]]]:
    """The answer (of raw text: what of this piece is no context), and where each target token lies in it: characters,
    empty for a token outside of it."""
    every = offsets_of(example, placed)
    offsets = [every[i] for i in example.targets]
    low, high = answer_place(example, placed)
    clipped = [(max(start, low) - low, min(end, high) - low) for start, end in offsets]
    return placed.text[low:high], [(a, b) if a < b else (0, 0) for a, b in clipped]


def answer_place(example: Example, placed: Placed) -> tuple[int, int]:
    """Where the text of `answer_offsets` begins and ends in the laid-out text."""
    if example.row.question is not None:
        return placed.answer_at, placed.answer_at + len(example.row.answer.strip())
    every = offsets_of(example, placed)
    inside = [every[i] for i in example.targets if every[i][0] < every[i][1]]
    return (inside[0][0], max(end for _, end in inside)) if inside else (0, 0)


def offsets_of(example: Example, placed: Placed) -> list[tuple[int, int]]:
    """Where each token of an example lies in the laid-out text; empty for one that was put there. Raises DataError for
    other tokens."""
    _check_same_tokens(example, placed)
    count = len(example.input_ids) - example.lead
    own = placed.offsets[example.row_start : example.row_start + count]
    if len(own) == count and placed.ids[example.row_start + count - 1] != example.input_ids[-1]:
        own = own[:-1]  # an end of sequence that the text does not hold
    return [(0, 0)] * example.lead + own + [(0, 0)] * (count - len(own))


def _check_same_tokens(example: Example, placed: Placed) -> None:
    # The last id is left out of the comparison: qa_example may have put an end of sequence there that the text does not
    # hold.
    known, at = example.input_ids[example.lead : -1], example.row_start
    if placed.ids[at : at + len(known)] != known:
        raise DataError(f"{example.id}: its tokens are not those of this tokenizer and chat template")


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def answer_span_tokens(example: Example, tokenizer: Any, spans: Iterable[Sequence[int]], placed: Placed | None = None) -> list[int]:
    """Positions in `input_ids` of the target tokens that overlap any of `spans`: [start, end) character offsets in
    `row.answer`, which for raw text is the whole text.

    `placed`: `place(example.row, tokenizer)` where it is made already, for all pieces of a row. A token that holds a
    part of a span counts whole. Tokens that a truncated example lost, or that lie in another piece, are not named.
    Raises DataError for an example that another tokenizer made.
    """
    row = example.row
    placed = placed or place(row, tokenizer)
    shift = placed.answer_at - _indent(row.answer) if row.question is not None else 0
    offsets = offsets_of(example, placed)
    wanted = _merged((start + shift, end + shift) for start, end in spans if start < end)
    ends = [end for _, end in wanted]
    out = []
    for i in example.targets:
        start, end = offsets[i]
        k = bisect_right(ends, start)
        if start < end and k < len(wanted) and wanted[k][0] < end:
            out.append(i)
    return out


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same characters in spans that do not touch each other, in order."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((start, end))
    return out


def context_span_tokens(example: Example, placed: Placed, spans: Iterable[Sequence[int]]) -> list[tuple[int, int] | None]:
    """Token span in `input_ids` of each of `spans`: [start, end) character offsets in `row.question`, or in the text of
    a raw row.

    `placed` is `place(example.row, tokenizer)`, made once for all pieces of a row. A token that holds a part of a span
    counts whole. None where the example has no token of a span: it lies in another piece of the text, or in no token at
    all. Answers of questions are never part of it. Raises DataError for an example that another tokenizer made.
    """
    _check_same_tokens(example, placed)
    text, count = example.row.question, example.prompt_length
    if text is None:
        low, high, shift, count = 0, len(example.row.answer), 0, len(example.input_ids)
    else:  # the template's tokens lie where the spaces around a question were
        low, high, shift = placed.question_at, placed.question_at + len(text.strip()), placed.question_at - _indent(text)
    offsets = offsets_of(example, placed)[:count]
    at = [i for i, (a, b) in enumerate(offsets) if a < b]  # special tokens hold no text; those that do follow one another in it
    starts, ends = [offsets[i][0] for i in at], [offsets[i][1] for i in at]
    out = []
    for span in spans:
        start, end = max(span[0] + shift, low), min(span[1] + shift, high)
        first, last = bisect_right(ends, start), bisect_left(starts, end)
        out.append((at[first], at[last - 1] + 1) if start < end and first < last else None)
    return out


def text_examples(row: Row, tokenizer: Any, length: int, overlap: int = 0, memo: Memo | None = None) -> Iterator[Example]:
    """Raw text in pieces of at most `length` tokens (shared/data/raw_text.py). A piece is named by the tokens that are
    its own, not by those that it reads again."""
    placed = placed_once(row, tokenizer, memo)
    ids, special = placed.ids, special_ids(tokenizer)
    if len(ids) < 2:
        raise DataError(f"{row.id}: its text has {len(ids)} tokens, at least 2 are needed")
    _check_rows(row.id, ids, tokenizer)
    begins = next((i for i, at in enumerate(placed.offsets) if at[0] < at[1] or ids[i] not in special), 0)
    if begins >= length:
        raise DataError(f"{row.id}: pieces of {length} tokens leave no room behind the {begins} that a text begins with")
    for piece in cut(len(ids), begins, length, overlap):
        name = row.id if len(ids) <= length else f"{row.id}#{piece.start}-{piece.end}"
        known = max(piece.lead + piece.start - piece.context, 1)  # a first token is never a target
        made = [*ids[: piece.lead], *ids[piece.context : piece.end]]
        yield Example(name, made, [i >= known for i in range(len(made))], (0, 0), row, row_start=piece.context, lead=piece.lead)
