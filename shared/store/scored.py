"""The data that a store was scored from, made again: for what the store does not hold (texts, columns of the data)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from shared.console import say
from shared.data.datasets import Keys, ReadingOptions, Row, iter_rows, kind_of
from shared.data.examples import DataHash, Example, answer_span_tokens, each_example, place
from shared.data.phrases import Characters, find_phrases
from shared.data.secrets import Census, Secret
from shared.errors import DataError, StoreError
from shared.lm.models import context_length, locate, template_fingerprint, tokenizer_names
from shared.secret import lacks_secrets, without_secrets
from shared.store.scores import Store, check_fits


def scored_examples(store: Store, tokenizer: Any, model: str, data: str | None, *, flag: str = "--data") -> list[Example]:
    """The examples that were scored, in the order of the store; `data` where its spec is now another than the store's
    plan names.

    Raises StoreError when tokenizer, chat template or data are not those of the store; `flag` is what names the data.
    """
    return list(iter_scored(store, tokenizer, model, data, flag=flag))


def iter_scored(store: Store, tokenizer: Any, model: str, data: str | None, *, flag: str = "--data") -> Iterator[Example]:
    """The same one after another. That data are not those of the store is raised after the last: nothing is to be made
    of what comes before."""
    options = store.manifest["options"]
    names = {**tokenizer_names(tokenizer), "chat_template": template_fingerprint(tokenizer)}
    check_fits(store, names, model=model)
    keys = Keys.recorded(options)
    spec = data or options["data"]
    if data is None and lacks_secrets(spec):
        raise StoreError(f"{store.folder}: scored from {spec}, whose credentials are not kept; name the data that was scored with {flag}")
    reading = ReadingOptions(long=options["long"], text_length=options["text_length"], text_overlap=options.get("text_overlap", 0),
                             text_pieces=options.get("text_pieces"))  # fmt: skip
    rows, found = iter_rows(spec, keys=keys, limit=options.get("limit")), DataHash()
    for example in each_example(rows, tokenizer, reading, context=context_length(locate(model))):
        found.add(example.id, example.input_ids, example.is_target)
        yield example
    now, expected = found.hexdigest(), store.fingerprints["data"]
    if now != expected:
        raise StoreError(
            f"{store.folder}: scored from other data than {without_secrets(spec)} gives (store {str(expected)[:12]}, data {now[:12]}); "
            f"name the data that was scored with {flag}"
        )


GivenTokens = list[tuple[Example, list[int]]]
"""each example, in order, with the target tokens (positions in `input_ids`) that are named"""


def given_tokens(examples: Iterable[Example], tokenizer: Any, key: str, *, flag: str) -> GivenTokens:
    """The tokens that a column of the data names: [start, end) offsets in the answer, or words and phrases of it (a
    list, or one). What does not occur is counted in a line.

    Raises DataError naming the row and `flag`, and where the column holds phrases of which none occurs.
    """
    return list(iter_given(examples, tokenizer, key, flag=flag))


def iter_given(examples: Iterable[Example], tokenizer: Any, key: str, *, flag: str) -> Iterator[tuple[Example, list[int]]]:
    """The same one after another. What does not occur is known, said and raised after the last."""
    row = placed = None
    spans: list[Characters] = []
    places = missing = 0
    for example in examples:
        if example.row is not row:  # a row is tokenised once for all of its pieces
            row, placed, phrases = example.row, place(example.row, tokenizer), phrases_in(example.row, key)
            found = [answer_spans(row, key, flag=flag)] if phrases is None else find_phrases(row.answer, phrases)
            if phrases is not None:
                places, missing = places + len(found), missing + found.count([])
            spans = [span for one in found for span in one]
        yield example, answer_span_tokens(example, tokenizer, spans, placed)
    _say_missing(f"column {key}", places, missing, flag)


def blocked_tokens(examples: Sequence[Example], tokenizer: Any, phrases: Sequence[str], *, flag: str) -> GivenTokens:
    """The same for one list of words and phrases, looked for in every answer. Raises DataError where none occurs."""
    spans: dict[int, list[list[Characters]]] = {}
    for example in examples:
        if id(example.row) not in spans:
            spans[id(example.row)] = find_phrases(example.row.answer, phrases)
    found = [any(row[k] for row in spans.values()) for k in range(len(phrases))]
    _say_missing(flag, len(phrases), found.count(False), flag)
    return _tokens(examples, tokenizer, lambda row: [span for one in spans[id(row)] for span in one])


def iter_secret(examples: Iterable[Example], tokenizer: Any, secrets: Sequence[Secret]) -> Iterator[tuple[Example, list[int]]]:
    """The same for secrets, looked for in every answer (shared/data/secrets.py). Which are in none, and which rows hold
    none, is said after the last. Raises DataError where none is found."""
    row = placed = None
    spans: list[Characters] = []
    census = Census(secrets)
    for example in examples:
        if example.row is not row:
            row, placed = example.row, place(example.row, tokenizer)
            spans = census.find(row)
        yield example, answer_span_tokens(example, tokenizer, spans, placed)
    census.say()


def _say_missing(what: str, count: int, missing: int, flag: str) -> None:
    if count and missing == count:
        raise DataError(f"{what}: none of its {count} words and phrases occurs in an answer; whole words are looked for, case aside "
                        f"(see {flag})")  # fmt: skip
    if missing:
        say(f"{what}: {missing} of {count} words and phrases occur in no answer that they are for; whole words are looked for, case aside")


def _tokens(examples: Sequence[Example], tokenizer: Any, spans_of: Callable[[Row], list[Characters]]) -> GivenTokens:
    """A row is tokenised once for all of its pieces."""
    out = []
    for _, pieces in groupby(examples, key=lambda e: id(e.row)):
        first, *others = pieces
        spans, placed = spans_of(first.row), place(first.row, tokenizer)
        out += [(example, answer_span_tokens(example, tokenizer, spans, placed)) for example in (first, *others)]
    return out


def phrases_in(row: Row, key: str) -> list[str] | None:
    """The words and phrases that a column holds: text, or a list of texts. None where it holds something else."""
    value = row.extra.get(key)
    if isinstance(value, str):
        return [value] if value.strip() else []
    texts = isinstance(value, list) and len(value) > 0 and all(isinstance(v, str) and v.strip() for v in value)
    return value if texts else None


def answer_spans(row: Row, key: str, *, flag: str) -> list[Characters]:
    """The [start, end) character offsets in the answer that a column holds, checked. Raises DataError naming the row,
    and `flag`."""
    return row_spans(row, key, missing=f"name it with {flag}", words=True)


def row_spans(row: Row, key: str, *, missing: str, words: bool = False) -> list[Characters]:
    """The same; `missing`: what to do where there is no such column; `words`: could it have held words as well?"""
    if key not in row.extra:
        raise DataError(f"{row.id}: no column {key!r} with the true spans of its answer; {missing}")
    spans, size = row.extra[key], len(row.answer)
    wrong = next((n for n, s in enumerate(spans) if not _is_span(s, size)), None) if isinstance(spans, list) else None
    if wrong is not None or not isinstance(spans, list):  # what stands there is not shown: it may be text of the answer
        what = f"is {kind_of(spans)}" if wrong is None else f"has as entry {wrong} what is no span of it"
        rather = ", or words of it" if words else ""
        raise DataError(f"{row.id}: its {key} {what}, expected [[start, end], ...] in characters of the answer, 0 to {size}{rather}")
    return [(start, end) for start, end in spans]


def _is_span(span: Any, size: int) -> bool:
    return isinstance(span, list) and len(span) == 2 and all(type(i) is int for i in span) and 0 <= span[0] < span[1] <= size
