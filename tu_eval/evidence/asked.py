"""Whether a score store holds what was measured: its rows against those of the suite's forget set, by the texts
themselves.

Names do not serve: the suite's forget rows come from another split (with paraphrases and wrong answers) than what was
scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shared.errors import StoreError
from shared.store.scores import Store


def rows_in(store: Store, forget: Sequence[Mapping[str, Any]], *, texts: bool, where: str) -> tuple[int | None, int | None]:
    """-> how many of the forget rows the store holds, and how many of its rows are none of them; None, None for a store
    of plain texts, whose rows are no questions with answers. `texts`: those of the suite are no such rows either.

    Raises StoreError where the store holds none of them: it is of something else.
    """
    questions: dict[str, list[tuple[int, str]]] = {}
    for number, row in enumerate(forget):
        questions.setdefault(row["answer"].strip(), []).append((number, (row["question"] or "").strip()))
    lengths = sorted({len(answer) for answer in questions})
    found: set[int] = set()
    others = plain = 0
    for tokens, is_target in _rows(store):
        plain += not any(not target for target in is_target[1:])
        text, answer = "".join(tokens), "".join(t for t, target in zip(tokens, is_target, strict=True) if target).strip()
        named = [pair for n in lengths for pair in questions.get(answer[:n], ()) if pair[1] in text]
        found |= {number for number, _ in named}
        others += not named
    if texts or plain == len(store):
        return None, None
    if not found:
        raise StoreError(f"--store {where}: none of its rows is one of the {len(forget)} rows of the suite's forget set; give the store of "
                         "what was to be forgotten")  # fmt: skip
    return len(found), others


def _rows(store: Store) -> Iterable[tuple[list[str], list[bool]]]:
    for row in store.rows(["tokens", "is_target"]):
        if None in row["tokens"] or None in row["is_target"]:
            raise StoreError(f"{store.folder}: a row holds a token without its text; see tu-score verify")
        yield row["tokens"], row["is_target"]
