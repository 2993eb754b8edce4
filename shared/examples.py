"""Rows -> tokens: which tokens a model reads, and which of them (the targets) a loss may touch.

A question-answer row is laid out with the model's chat template and tokenised once, as a whole. Offsets then tell which tokens
carry the answer: targets are the tokens of the answer up to and including the end-of-turn token that follows it; whatever
the template adds after that is read by nobody and is dropped. Nothing here compares ids with the pad token.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared.console import say
from shared.datasets import Row
from shared.errors import ConfigError, DataError
from shared.fs import hash_json

PLAIN = "Question: {question}\nAnswer: "
MARK = "qzxjkvwpqz"  # stands in for a text to see where the template puts it; lower-case letters, which no template alters
LONG = ("error", "truncate", "skip")


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
    """raw text: tokens of the row before this piece"""

    @property
    def targets(self) -> list[int]:
        return [i for i, t in enumerate(self.is_target) if t]

    @property
    def prompt_length(self) -> int:
        """Tokens before the first target: what a model is given when it is asked to answer."""
        return self.is_target.index(True)


def data_fingerprint(examples: Iterable[Example]) -> str:
    """sha256 over ids, tokens and targets of every example in order."""
    return hash_json([[e.id, e.input_ids, "".join("1" if t else "0" for t in e.is_target)] for e in examples])


def make_examples(
    rows: Iterable[Row], tokenizer: Any, *, context: int | None, long: str = "error", text_length: int = 512
) -> list[Example]:
    """Tokenises rows; examples beyond `context` tokens are refused, cut at the end or left out, as `long` says.

    Raw text is cut into pieces of at most `text_length` tokens. Raises DataError naming the row, ConfigError for a bad `long`.
    """
    if long not in LONG:
        raise ConfigError(f"--long {long}: expected one of {', '.join(LONG)}")
    if text_length < 2:
        raise ConfigError(f"text_length {text_length}: expected at least 2 tokens, the first of a piece is never a target")
    out, skipped = [], 0
    for row in rows:
        made = (
            [qa_example(row, tokenizer)]
            if row.question is not None
            else text_examples(row, tokenizer, min(text_length, context or text_length))
        )
        for example in made:
            kept = fit(example, context, long)
            if kept is not None:
                out.append(kept)
            else:
                skipped += 1
    if skipped:
        say(f"left out {skipped} of {skipped + len(out)} examples, too long for the model's context of {context} tokens (--long {long})")
    if not out:
        raise DataError("no example is left: every row was skipped as longer than the model's context (see --long)")
    return out


def fit(example: Example, context: int | None, long: str) -> Example | None:
    """The example where it fits, else cut at its end or None (left out), as `long` says. Raises DataError for long="error"."""
    n = len(example.input_ids)
    if context is None or n <= context:
        return example
    if long == "error":
        raise DataError(f"{example.id}: {n} tokens, but the model's context holds {context}; use --long truncate or --long skip")
    if long == "skip" or example.prompt_length >= context:
        return None
    return replace(example, input_ids=example.input_ids[:context], is_target=example.is_target[:context])


def layout(tokenizer: Any, question: str, answer: str) -> tuple[str, int, int]:
    """The text a model sees, and where in it (characters) the question and the answer begin."""
    if not tokenizer.chat_template:
        prompt = PLAIN.format(question=question)
        return prompt + answer, PLAIN.index("{"), len(prompt)
    mark = MARK
    while mark in question or mark in answer:
        mark += "k"
    text = _render(tokenizer, question, answer)
    question_at = _place(text, _render(tokenizer, mark, answer), mark, question)
    return text, question_at, _place(text, _render(tokenizer, question, mark), mark, answer)


def _render(tokenizer: Any, question: str, answer: str) -> str:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return tokenizer.apply_chat_template(turns, tokenize=False)


def _place(text: str, marked: str, mark: str, content: str) -> int:
    """Where `content` begins in `text`, told from the same text with `mark` in its place (a search could find its words elsewhere)."""
    pieces = marked.split(mark)
    if len(pieces) < 2 or content.join(pieces) != text:
        raise DataError("the chat template changes the text of the question or the answer, so that it cannot be found again")
    return len(content.join(pieces[:-1]))


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of every special token, those without a role included: Phi-3's <|end|> ends a turn, and all_special_ids leaves it out."""
    return {*tokenizer.all_special_ids, *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)}


def qa_example(row: Row, tokenizer: Any) -> Example:
    """One question-answer row. Raises DataError naming the row."""
    question, answer = (row.question or "").strip(), row.answer.strip()
    if not question or not answer:
        raise DataError(f"{row.id}: its {'answer' if question else 'question'} is empty; remove the row or fill it")
    placed = place(row, tokenizer)
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
    first = target.index(True)
    in_question = [i for i in range(first) if offsets[i][1] > question_at and offsets[i][0] < question_at + len(question)]
    span = (in_question[0], in_question[-1] + 1) if in_question else (0, 0)
    if first == 0:
        raise DataError(f"{row.id}: its first token would be a target, which no token comes before")
    return Example(row.id, ids, [i >= first for i in range(len(ids))], span, row)


@dataclass(frozen=True)
class Placed:
    """The tokens of a whole row, and where they stand in the text that a model reads (characters, end-exclusive)."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    question_at: int
    """where the stripped question begins; 0 for raw text"""
    answer_at: int
    """where the stripped answer begins; for raw text, which is not stripped, 0"""


def place(row: Row, tokenizer: Any) -> Placed:
    """Lays a row out and tokenises it once. Raises DataError naming a row that the chat template changes."""
    if row.question is None:
        encoded = tokenizer(row.answer, return_offsets_mapping=True)
        return Placed(list(encoded["input_ids"]), encoded["offset_mapping"], 0, 0)
    try:
        text, question_at, answer_at = layout(tokenizer, row.question.strip(), row.answer.strip())
    except DataError as error:
        raise DataError(f"{row.id}: {error}") from None
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=not tokenizer.chat_template)
    return Placed(list(encoded["input_ids"]), encoded["offset_mapping"], question_at, answer_at)


def _check_same_tokens(example: Example, placed: Placed) -> None:
    # The last id is left out of the comparison: qa_example may have put an end of sequence there that the text does not hold.
    known, at = len(example.input_ids) - 1, example.row_start
    if placed.ids[at : at + known] != example.input_ids[:known]:
        raise DataError(f"{example.id}: its tokens are not those of this tokenizer and chat template")


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def answer_span_tokens(example: Example, tokenizer: Any, spans: Iterable[Sequence[int]]) -> list[int]:
    """Positions in `input_ids` of the target tokens that overlap any of `spans`: [start, end) character offsets in `row.answer`.

    A token that holds a part of a span counts whole. Tokens that a truncated example lost are not named. Raises DataError for raw
    text, and for an example that another tokenizer made.
    """
    row = example.row
    if row.question is None:
        raise DataError(f"{row.id}: spans of an answer need a question-answer row, this one is raw text")
    placed = place(row, tokenizer)
    _check_same_tokens(example, placed)
    shift = placed.answer_at - _indent(row.answer)
    wanted = [(start + shift, end + shift) for start, end in spans if start < end]
    inside = [any(start < b and end > a and end > start for a, b in wanted) for start, end in placed.offsets]
    return [i for i, (a, b) in enumerate(zip(placed.ids, example.input_ids, strict=False)) if a == b and inside[i] and example.is_target[i]]


def context_span_tokens(example: Example, placed: Placed, spans: Iterable[Sequence[int]]) -> list[tuple[int, int] | None]:
    """Token span in `input_ids` of each of `spans`: [start, end) character offsets in `row.question`, or in the text of a raw row.

    `placed` is `place(example.row, tokenizer)`, made once for all pieces of a row. A token that holds a part of a span counts whole.
    None where the example has no token of a span: it lies in another piece of the text, or in no token at all. Answers of questions
    are never part of it. Raises DataError for an example that another tokenizer made.
    """
    _check_same_tokens(example, placed)
    text, count = example.row.question, example.prompt_length
    if text is None:
        low, high, shift, count = 0, len(example.row.answer), 0, len(example.input_ids)
    else:  # the template's tokens lie where the spaces around a question were
        low, high, shift = placed.question_at, placed.question_at + len(text.strip()), placed.question_at - _indent(text)
    offsets = placed.offsets[example.row_start : example.row_start + count]
    at = [i for i, (a, b) in enumerate(offsets) if a < b]  # special tokens hold no text; those that do follow one another in it
    starts, ends = [offsets[i][0] for i in at], [offsets[i][1] for i in at]
    out = []
    for span in spans:
        start, end = max(span[0] + shift, low), min(span[1] + shift, high)
        first, last = bisect_right(ends, start), bisect_left(starts, end)
        out.append((at[first], at[last - 1] + 1) if start < end and first < last else None)
    return out


def text_examples(row: Row, tokenizer: Any, length: int) -> Iterator[Example]:
    """Raw text in pieces of `length` tokens; every token of a piece after its first is a target."""
    ids = list(tokenizer(row.answer)["input_ids"])
    if len(ids) < 2:
        raise DataError(f"{row.id}: its text has {len(ids)} tokens, at least 2 are needed")
    for start in range(0, len(ids), length):
        piece = ids[start : start + length]
        if len(piece) < 2:
            continue  # a single last token has nothing before it to be predicted from
        name = row.id if len(ids) <= length else f"{row.id}#{start}-{start + len(piece)}"
        yield Example(name, piece, [i > 0 for i in range(len(piece))], (0, 0), row, row_start=start)
