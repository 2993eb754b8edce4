"""A row in the text that a model reads, and where each turn of it stands there.

The chat template is rendered twice: with the turns, and with a mark in place of each of them. The second says where the
template puts what; where the marks, replaced by the turns again, do not give the first, the template changes the text
of a turn, and the row is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.data.datasets import Row, kind_of
from shared.data.layout import ANSWER, BARE, QUESTION, Turn, encode, layout_of, render, turns_of
from shared.errors import DataError

MARK = "qzxjkvwpqz"  # stands in for a text to see where the template puts it; lower-case letters, which no template alters


@dataclass(frozen=True)
class Laid:
    """The text that a model reads of a row, and where in it its turns stand."""

    text: str
    question_at: int
    answer_at: int
    contents: list[tuple[int, int]] | None
    """[start, end) in characters of all that comes from the data; None in the plain layout, where nothing is a control
    token"""


def layout(tokenizer: Any, question: str, answer: str, system: str | None = None, before: Sequence[tuple[str, str]] = ()) -> Laid:
    """`before`: (role, text) of earlier turns, user and assistant by turns. Raises DataError when the chat template
    refuses the turns or changes their text."""
    own = layout_of(tokenizer)
    system = system if system is not None else own.system
    if own.template is None:
        lead = f"{system}\n\n" if system else ""
        lead += "".join(_plain_turn(own.plain, role, text) for role, text in before)
        at = len(lead) + own.plain.index("{")
        prompt = lead + own.plain.format(question=question)
        return Laid(prompt + answer, at, len(prompt), None)
    turns = turns_of(question, answer, system, before)
    text = render(tokenizer, turns)
    found = _places(tokenizer, text, turns)
    if found is None:
        raise DataError(f"the chat template changes the text of {_changed(tokenizer, text, turns, bool(before))}: it cannot be found again")
    return Laid(text, found[-2][-1][0], found[-1][-1][0], [span for spans in found for span in spans])


def _plain_turn(plain: str, role: str, text: str) -> str:
    """An earlier turn of a conversation, without a chat template."""
    if plain == BARE:
        return f"{text} "
    return QUESTION.format(question=text) if role == "user" else f"{ANSWER}{text}\n\n"


def _places(tokenizer: Any, text: str, turns: Sequence[Turn], marked: Sequence[int] | None = None) -> list[list[tuple[int, int]]] | None:
    """Where the content of each turn stands in `text`, once or more often; None where the template changes one or
    leaves it out. `marked`: the turns to ask for, by default all. A search could find the words of a turn elsewhere."""
    marked = range(len(turns)) if marked is None else marked
    mark = MARK
    while any(mark in turn["content"] for turn in turns):
        mark += "k"
    names = {k: mark + "".join(chr(ord("a") + int(digit)) for digit in f"{k:04d}") for k in marked}
    own = render(tokenizer, [{**turn, "content": names.get(k, turn["content"])} for k, turn in enumerate(turns)])
    number = {name: k for k, name in names.items()}
    out, spans = "", {k: [] for k in marked}
    for piece in re.split(f"({mark}[a-j]{{4}})", own):
        k = number.get(piece)
        if k is not None:
            spans[k].append((len(out), len(out) + len(turns[k]["content"])))
        out += piece if k is None else turns[k]["content"]
    return list(spans.values()) if out == text and all(spans.values()) else None


def _changed(tokenizer: Any, text: str, turns: Sequence[Turn], several: bool) -> str:
    """Which turn the template changes, in words."""
    if not several:
        return "the question or the answer or the system prompt"
    which = [k for k in range(len(turns)) if _places(tokenizer, text, turns, [k]) is None]
    return f"turn {which[0] + 1} ({turns[which[0]]['role']})" if which else "one of the turns"


@dataclass(frozen=True)
class Placed:
    """The tokens of a whole row, and where they stand in the text that a model reads (characters, end-exclusive)."""

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]
    """empty for tokens that the text does not hold"""
    question_at: int
    """where the stripped question begins; 0 for raw text"""
    answer_at: int
    """where the stripped answer begins; for raw text, which is not stripped, 0"""


def place(row: Row, tokenizer: Any) -> Placed:
    """Lays a row out and tokenises it once. Raises DataError naming a row that the chat template or the tokenizer
    cannot take as text."""
    if row.question is None:
        made = encode(tokenizer, row.answer, None)
        return Placed(row.answer, made.ids, made.offsets, 0, 0)
    system = system_of(row)
    try:
        laid = layout(tokenizer, row.question.strip(), row.answer.strip(), system, said_before(row))
        made = encode(tokenizer, laid.text, laid.contents)
    except DataError as error:
        raise DataError(f"{row.id}: {error}") from None
    return Placed(laid.text, made.ids, made.offsets, laid.question_at, laid.answer_at)


def said_before(row: Row) -> tuple[tuple[str, str], ...]:
    """(role, text) of the turns of user and assistant before the question; none outside of conversations."""
    return row.before[1:] if row.before and row.before[0][0] == "system" else row.before


def asked_in(row: Row) -> str | None:
    """All that user and assistant said before the answer: words of it are copies in the answer. None for raw text."""
    return None if row.question is None else "\n".join([*(text for _, text in said_before(row)), row.question])


def system_of(row: Row) -> str | None:
    """The row's own system prompt, that of its conversation or in its column `system`; None where both are missing or
    empty. Raises DataError naming the row."""
    system = row.extra.get("system")
    if system is not None and not isinstance(system, str):
        raise DataError(f"{row.id}: its system is {kind_of(system)}, expected the text of a system prompt, or null")
    system = (system or "").strip() or None
    first = next((text for role, text in row.before[:1] if role == "system"), None)
    if system is not None and first is not None and system != first:
        raise DataError(f"{row.id}: its column system and the system turn of its conversation differ; keep one of them")
    return first or system
