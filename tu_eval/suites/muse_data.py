"""MUSE's data (Shi et al. 2024, arXiv 2407.06460) -> prompts with their true continuations, and whole texts, as tokens.

A split is read from TU_MUSE_DIR/News/<config>/<split>.parquet (or .json, .jsonl, or .parquet in the hub's numbered
pieces), where that is not set from the hub set muse-bench/MUSE-News; Books likewise. Everything is plain text: no chat
template plays a part.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from shared.console import number_of, say
from shared.data.datasets import Row, file_records, hub_records
from shared.data.examples import Example, fit, special_ids, text_examples
from shared.data.layout import PLAIN
from shared.errors import DataError, nearest

HUB = "muse-bench/MUSE-"
FOLDER = "TU_MUSE_DIR should be the folder that holds News/ and Books/"
SUFFIXES = (".parquet", ".json", ".jsonl")


@dataclass(frozen=True)
class Part:
    """Prompts of one kind about one set. Targets of an example are the tokens of the true continuation or answer."""

    set: str
    """forget or retain"""
    kind: str
    """verbmem or knowmem"""
    examples: list[Example]
    """`row.question` is the prompt, or the question that ends it; `row.answer` the text that an answer is compared
    with"""


def load_parts(corpus: str, tokenizer: Any, *, context: int | None, long: str, limit: int | None, verbmem_tokens: int) -> list[Part]:
    """Forget verbmem, forget knowmem, retain knowmem. Raises DataError naming the file, the column or the row."""
    texts = _split(corpus, "verbmem", "forget", ("prompt", "gt"), limit)
    verbatim = _kept((_verbatim(row, tokenizer, verbmem_tokens) for row in texts), context, long, "verbmem")
    # What the context cut off the true continuation is not asked for either.
    parts = [Part("forget", "verbmem", [_as_read(e, tokenizer) for e in verbatim])]
    for name in ("forget", "retain"):
        solved = _split(corpus, "knowmem", f"{name}_qa_icl", ("question", "answer"), None)
        before = "".join(PLAIN.format(question=row.question) + row.answer + "\n\n" for row in solved)
        asked = _split(corpus, "knowmem", f"{name}_qa", ("question", "answer"), limit)
        made = (_prompted(row, before + PLAIN.format(question=row.question), row.answer, tokenizer) for row in asked)
        parts.append(Part(name, "knowmem", _kept(made, context, long, f"knowmem {name}")))
    return parts


def load_texts(corpus: str, name: str, tokenizer: Any, *, context: int | None, long: str, limit: int | None) -> list[Example]:
    """Texts of one side of membership inference, forget or holdout, each whole; every token but the first is a
    target."""
    rows = _split(corpus, "privleak", name, ("text",), limit)
    return _kept((next(text_examples(row, tokenizer, sys.maxsize)) for row in rows), context, long, f"privleak {name}")


def _split(corpus: str, config: str, split: str, columns: Sequence[str], limit: int | None) -> list[Row]:
    """The last of `columns` becomes `answer`; the one before it, if there is one, `question`."""
    records, where = _records(corpus, config, split)
    rows = []
    for number, record in enumerate(islice(records, limit)):
        place = f"data muse:{corpus}: {where}: row {number}"
        if not isinstance(record, dict):
            raise DataError(f"{place}: expected an object with named values, got {type(record).__name__}")
        for column in columns:
            if column not in record:
                raise DataError(f"{place}: no column {column!r}{nearest(column, record)}")
            if not isinstance(record[column], str) or not record[column].strip():
                raise DataError(f"{place}: its {column} is empty or not text")
        question = record[columns[0]] if len(columns) == 2 else None
        rows.append(Row(f"muse-{corpus}/{config}/{split}/{number}", question, record[columns[-1]]))
    if not rows:
        raise DataError(f"data muse:{corpus}: {where}: no rows")
    return rows


def _records(corpus: str, config: str, split: str) -> tuple[Iterator[dict], str]:
    """-> the records, and where they are from."""
    folder = os.environ.get("TU_MUSE_DIR")
    if not folder:
        repo = f"{HUB}{corpus.title()}"
        hint = "; for a local copy set TU_MUSE_DIR to a folder that holds it as News/ or Books/ (docs/muse.md)"
        return hub_records(repo, config, split, f"muse:{corpus}", hint), f"{repo}, {config}, {split}"
    place = Path(folder).expanduser() / corpus.title() / config
    pieces = sorted(place.glob(f"{split}-[0-9]*-of-[0-9]*.parquet"))
    if pieces:
        count = int(pieces[0].stem.rpartition("-")[2])
        if len(pieces) != count:
            raise DataError(
                f"data muse:{corpus}: {place}: {split} has {len(pieces)} pieces, by their names it should have {count}; copy it again"
            )
        return chain.from_iterable(file_records(str(piece))[1] for piece in pieces), str(pieces[0])
    for suffix in SUFFIXES:
        path = place / f"{split}{suffix}"
        if path.is_file():
            return file_records(str(path))[1], str(path)
    raise DataError(f"data muse:{corpus}: {place / split}.parquet does not exist, nor .json or .jsonl; {FOLDER}")


def _verbatim(row: Row, tokenizer: Any, most: int) -> Example:
    # Cut as the authors cut it: with the token that a tokenizer puts at the beginning, which is one of them.
    gold = tokenizer(row.answer)["input_ids"][:most]
    special = special_ids(tokenizer)
    return _example(row, tokenizer(row.question)["input_ids"], [i for i in gold if i not in special])


def _prompted(row: Row, prompt: str, answer: str, tokenizer: Any) -> Example:
    return _example(row, tokenizer(prompt)["input_ids"], tokenizer(answer, add_special_tokens=False)["input_ids"])


def _example(row: Row, prompt: Sequence[int], gold: Sequence[int]) -> Example:
    if not prompt or not gold:
        raise DataError(f"{row.id}: the tokenizer makes no token of its {'answer' if prompt else 'prompt'}")
    return Example(row.id, [*prompt, *gold], [False] * len(prompt) + [True] * len(gold), (0, 0), row)


def _as_read(example: Example, tokenizer: Any) -> Example:
    """With the text of its targets as answer."""
    text = tokenizer.decode(example.input_ids[example.prompt_length :], skip_special_tokens=True)
    return replace(example, row=replace(example.row, answer=text))


def _kept(examples: Iterator[Example], context: int | None, long: str, what: str) -> list[Example]:
    made = list(examples)
    kept = [e for example in made if (e := fit(example, context, long)) is not None]
    if len(kept) < len(made):
        left_out = number_of(len(made) - len(kept), "row")
        say(f"{what}: {left_out} left out, longer than the model's context of {context} tokens (--long {long})")
    if not kept:
        raise DataError(f"{what}: no row is left: every one was left out as longer than the model's context (see --long)")
    return kept
