"""The data that a store was scored from, made again: for what the store does not hold (texts, columns of the data)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from shared.data.datasets import Keys, Row, kind_of, load_rows
from shared.data.examples import Example, answer_span_tokens, data_fingerprint, make_examples, place
from shared.errors import DataError, StoreError
from shared.lm.models import context_length, locate, template_fingerprint, tokenizer_names
from shared.secret import lacks_secrets, without_secrets
from shared.store.scores import Store, check_fits


def scored_examples(store: Store, tokenizer: Any, model: str, data: str | None, *, flag: str = "--data") -> list[Example]:
    """The examples that were scored, in the order of the store; `data` where its spec is now another than the store's
    plan names.

    Raises StoreError when tokenizer, chat template or data are not those of the store; `flag` is what names the data.
    """
    options = store.manifest["options"]
    names = {**tokenizer_names(tokenizer), "chat_template": template_fingerprint(tokenizer)}
    check_fits(store, names, model=model)
    keys = Keys.recorded(options)
    spec = data or options["data"]
    if data is None and lacks_secrets(spec):
        raise StoreError(f"{store.folder}: scored from {spec}, whose credentials are not kept; name the data that was scored with {flag}")
    rows = load_rows(spec, keys=keys, limit=options.get("limit"))
    examples = make_examples(
        rows,
        tokenizer,
        context=context_length(locate(model)),
        long=options["long"],
        text_length=options["text_length"],
        text_overlap=options.get("text_overlap", 0),
        text_pieces=options.get("text_pieces"),
    )
    found, expected = data_fingerprint(examples), store.fingerprints["data"]
    if found != expected:
        raise StoreError(
            f"{store.folder}: scored from other data than {without_secrets(spec)} gives (store {str(expected)[:12]}, data {found[:12]}); "
            f"name the data that was scored with {flag}"
        )
    return examples


def given_tokens(examples: Iterable[Example], tokenizer: Any, key: str, *, flag: str) -> Iterator[tuple[Example, list[int]]]:
    """Each example with the target tokens (positions in `input_ids`) that a column of the data names. A row is
    tokenised once for all of its pieces. Raises DataError naming the row, and `flag`."""
    for _, pieces in groupby(examples, key=lambda e: id(e.row)):
        first, *others = pieces
        spans, placed = answer_spans(first, key, flag=flag), place(first.row, tokenizer)
        for example in (first, *others):
            yield example, answer_span_tokens(example, tokenizer, spans, placed)


def answer_spans(example: Example, key: str, *, flag: str) -> list[tuple[int, int]]:
    """The [start, end) character offsets in the answer that a column holds, checked. Raises DataError naming the row,
    and `flag`."""
    return row_spans(example.row, key, missing=f"name it with {flag}")


def row_spans(row: Row, key: str, *, missing: str) -> list[tuple[int, int]]:
    """The same of a row; `missing`: what to do where there is no such column."""
    if key not in row.extra:
        raise DataError(f"{row.id}: no column {key!r} with the true spans of its answer; {missing}")
    spans, size = row.extra[key], len(row.answer)
    wrong = next((n for n, s in enumerate(spans) if not _is_span(s, size)), None) if isinstance(spans, list) else None
    if wrong is not None or not isinstance(spans, list):  # what stands there is not shown: it may be text of the answer
        what = f"is {kind_of(spans)}" if wrong is None else f"has as entry {wrong} what is no span of it"
        raise DataError(f"{row.id}: its {key} {what}, expected [[start, end], ...] in characters of the answer, 0 to {size}")
    return [(start, end) for start, end in spans]


def _is_span(span: Any, size: int) -> bool:
    return isinstance(span, list) and len(span) == 2 and all(type(i) is int for i in span) and 0 <= span[0] < span[1] <= size
