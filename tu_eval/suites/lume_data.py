"""LUME's rows (shared/data/lume.py) -> prompts with their true answers, in twelve parts: three tasks, two splits, two
forms; and the texts of its membership inference.

`--limit N` takes the first N rows of each part.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from shared.console import number_of, say
from shared.data.datasets import Row, file_records, load_rows
from shared.data.examples import Example, fit, make_examples, text_examples
from shared.data.lume import FORMS, SPLITS, TASKS
from shared.errors import DataError, nearest

FILES = {"forget": "member.jsonl", "holdout": "nonmember.jsonl"}
"""side of membership inference -> its file in the folder `mia_data`"""
TEXT = "document"
"""their column of text"""


@dataclass(frozen=True)
class LumePart:
    """Rows of one split, task and form."""

    set: str
    """forget or retain"""
    task: str
    """task1 to task3"""
    form: str
    """sc: completions, qa: questions"""
    examples: list[Example]

    @property
    def kind(self) -> str:
        """Column of rows.parquet that their number stands in."""
        return f"{self.task}_{'rouge' if self.form == 'sc' else 'match'}"


def load_parts(tokenizer: Any, *, context: int | None, long: str, limit: int | None) -> list[LumePart]:
    """All of forget, then all of retain. Raises DataError naming the folder, the file or the row."""
    parts = []
    for split in SPLITS:
        for task in TASKS:
            for form in FORMS:
                rows = load_rows(f"lume:{split}:{task}:{form}", limit=limit)
                parts.append(LumePart(split, task, form, make_examples(rows, tokenizer, context=context, long=long)))
    return parts


def load_texts(folder: str, side: str, tokenizer: Any, *, context: int | None, long: str, limit: int | None) -> list[Example]:
    """Whole texts that the model was trained on (`forget`), or that no model saw (`holdout`); every token but the first
    is a target."""
    path = Path(folder).expanduser() / FILES[side]
    if not path.is_file():
        raise DataError(f"mia_data {folder}: {path} does not exist; expected the folder with {' and '.join(FILES.values())}")
    rows = [_text(record, f"{path}: row {number}", f"lume/{path.stem}/{number}") for number, record in _records(path, limit)]
    if not rows:
        raise DataError(f"mia_data {folder}: {path}: no rows")
    made = [fit(next(text_examples(row, tokenizer, sys.maxsize)), context, long) for row in rows]
    kept = [e for e in made if e is not None]
    if len(kept) < len(made):
        left_out = number_of(len(made) - len(kept), "text")
        say(f"{path.name}: {left_out} left out, longer than the model's context of {context} tokens (--long {long})")
    if not kept:
        raise DataError(
            f"mia_data {folder}: {path}: no text is left: every one was left out as longer than the model's context (see --long)"
        )
    return kept


def _records(path: Path, limit: int | None) -> Any:
    return enumerate(islice(file_records(str(path))[1], limit))


def _text(record: Any, place: str, name: str) -> Row:
    if not isinstance(record, dict) or TEXT not in record:
        hint = nearest(TEXT, record) if isinstance(record, dict) else ""
        raise DataError(f"mia_data: {place}: no key {TEXT!r}{hint}")
    if not isinstance(record[TEXT], str) or not record[TEXT].strip():
        raise DataError(f"mia_data: {place}: its {TEXT} is empty or not text")
    return Row(name, None, record[TEXT])
