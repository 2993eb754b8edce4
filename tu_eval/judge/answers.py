"""Conversations to be judged: read from a JSONL file, answered turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.console import progress, say
from shared.data.datasets import Row
from shared.data.examples import qa_example
from shared.data.json_records import line_record
from shared.data.layout import encode, layout_of, render, say_layout
from shared.engines.interface import Generator
from shared.engines.open import open_generator
from shared.errors import DataError, nearest
from shared.files.fs import read_text
from shared.lm.models import check_readable
from tu_eval.measure.kept import KeptMeasurements
from tu_eval.measure.pieces import stop_ids

if TYPE_CHECKING:
    from tu_eval.judge.config import JudgeConfig

TOGETHER = 16
"""conversations between which answers are kept: what a killed run has to write again"""


@dataclass(frozen=True)
class Conversation:
    id: str
    category: str
    turns: list[str]
    references: list[str | None]
    """a solution known to be right, for each turn"""


def read_conversations(path: Path, limit: int | None = None) -> list[Conversation]:
    """Raises DataError naming the file and the line that is wrong."""
    try:
        lines = read_text(path).removeprefix("\ufeff").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(f"--data {path}: {reason}; expected JSONL of {{id, category, turns: [text, ...]}}") from None
    out: list[Conversation] = []
    for number, line in enumerate(lines, 1):
        if line.strip() and (limit is None or len(out) < limit):
            out.append(_conversation(line, f"--data {path}: line {number}"))
    if not out:
        raise DataError(f"--data {path}: no conversation in it")
    known: set[str] = set()
    for c in out:
        if c.id in known:
            raise DataError(f"--data {path}: the id {c.id} is there twice")
        known.add(c.id)
    return out


def _conversation(line: str, where: str) -> Conversation:
    record = line_record(line, where)
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected an object with named values, got {type(record).__name__}")
    name = record.get("id", record.get("question_id"))
    if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
        raise DataError(f"{where}: no id (a text or a whole number){nearest('id', record)}")
    if "turns" not in record:
        raise DataError(f"{where}: no key 'turns'{nearest('turns', record)}")
    turns, category, references = record["turns"], record.get("category", "all"), record.get("reference") or []
    if not isinstance(turns, list) or not turns or not all(isinstance(t, str) and t.strip() for t in turns):
        raise DataError(f"{where}: its turns are not a list of texts")
    if not isinstance(category, str) or not category:
        raise DataError(f"{where}: its category is not text")
    if not isinstance(references, list) or len(references) > len(turns) or not all(r is None or isinstance(r, str) for r in references):
        raise DataError(f"{where}: its reference is not a list with a text or null for each turn")
    return Conversation(str(name), category, turns, [*(r or None for r in references), *[None] * (len(turns) - len(references))])


def prompt_ids(tokenizer: Any, turns: Sequence[str], answers: Sequence[str]) -> list[int]:
    """Tokens of a conversation up to where the next answer begins: in the chat template, else in the plain layout.

    Raises DataError for turns that the template refuses, or that hold what the tokenizer reads as a control token.
    """
    own = layout_of(tokenizer)
    if own.template is None:
        asked = [own.plain.format(question=turn) for turn in turns]
        before = f"{own.system}\n\n" if own.system else ""
        text = before + "".join(f"{question}{answer}\n" for question, answer in zip(asked, answers, strict=False)) + asked[-1].rstrip()
        return encode(tokenizer, text, None).ids
    messages = [*([{"role": "system", "content": own.system}] if own.system else []), {"role": "user", "content": turns[0]}]
    for answer, turn in zip(answers, turns[1:], strict=True):
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": turn}]
    text = render(tokenizer, messages, asks=True)
    return encode(tokenizer, text, _contents(text, [m["content"] for m in messages])).ids


def _contents(text: str, contents: Sequence[str]) -> list[tuple[int, int]]:
    """Where each turn's text stands in the conversation, one behind the other; one that the template alters is
    nowhere."""
    out, at = [], 0
    for content in contents:
        begin = text.find(content.strip(), at)
        if begin >= 0 and content.strip():
            at = begin + len(content.strip())
            out.append((begin, at))
    return out


def write_answers(
    conversations: Sequence[Conversation],
    folder: Path,
    tokenizer: Any,
    context: int | None,
    measurements: KeptMeasurements,
    config: JudgeConfig,
) -> list[dict[str, Any]]:
    """A row a turn, turn after turn: id, category, turn (from 1), question, answer, and whether it came to its end.

    Kept answers are not written again.
    """
    stop = stop_ids(tokenizer, [qa_example(Row(conversations[0].id, conversations[0].turns[0], "x"), tokenizer)])
    generator: Generator | None = None
    before: dict[str, list[str]] = {c.id: [] for c in conversations}
    out: list[dict[str, Any]] = []
    turns = [[c for c in conversations if len(c.turns) > turn] for turn in range(max(len(c.turns) for c in conversations))]
    _check_room(conversations, folder, tokenizer, context)
    say_layout(tokenizer, config.model)
    with progress("writing answers", sum(map(len, turns)), "answers") as bar:
        for turn, asked in enumerate(turns):
            for start in range(0, len(asked), TOGETHER):
                some, piece = asked[start : start + TOGETHER], f"turn{turn + 1}-{start}"
                kept = measurements.load(piece)
                if kept is not None:
                    rows = kept[0]
                else:
                    generator = generator or open_generator(
                        "torch", folder, dtype=config.dtype, device=config.device, batch_tokens=config.batch_tokens
                    )
                    prompts = [prompt_ids(tokenizer, c.turns[: turn + 1], before[c.id]) for c in some]
                    answers = _write(generator, prompts, tokenizer, context, stop, config.max_new_tokens)
                    rows = [{"id": c.id, "answer": text, "finished": end} for c, (text, end) in zip(some, answers, strict=True)]
                    measurements.save(piece, rows, generator.describe())
                for c, row in zip(some, rows, strict=True):
                    before[c.id].append(row["answer"])
                    out.append({"category": c.category, "turn": turn + 1, "question": c.turns[turn], **row})
                bar.advance(len(some))
    if generator is not None:
        generator.close()
    if cut := sum(not row["finished"] for row in out):
        say(f"{cut} of {len(out)} answers had not ended after {config.max_new_tokens} tokens, or at the end of the model's context")
    return out


def _check_room(conversations: Sequence[Conversation], folder: Path, tokenizer: Any, context: int | None) -> None:
    """Raises DataError or ModelError naming a conversation whose questions alone fill the model's context, or that it
    cannot read."""
    for c in conversations:
        try:
            ids = prompt_ids(tokenizer, c.turns, [""] * (len(c.turns) - 1))
        except DataError as error:
            raise DataError(f"conversation {c.id}: {error}") from None
        check_readable(folder, [ids], what=f"conversation {c.id}")
        if context is not None and len(ids) >= context:
            raise DataError(f"conversation {c.id}: its questions alone have {len(ids)} tokens, but the model's context holds {context}")


def _write(
    generator: Generator, prompts: Sequence[list[int]], tokenizer: Any, context: int | None, stop: list[int], most: int
) -> list[tuple[str, bool]]:
    """Greedy answers, each with whether it ended by itself. Where the conversation has filled the context, there is
    none."""
    room = [most if context is None else max(0, min(most, context - len(p))) for p in prompts]
    out = [("", False)] * len(prompts)
    for length in sorted(set(room) - {0}, reverse=True):
        chosen = [i for i, r in enumerate(room) if r == length]
        answers = generator.generate([prompts[i] for i in chosen], max_new_tokens=length, stop_ids=stop)
        for i, ids in zip(chosen, answers, strict=True):
            out[i] = tokenizer.decode(ids, skip_special_tokens=True).strip(), len(ids) < length
    return out
