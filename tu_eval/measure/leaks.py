"""The leak check: every secret of a list looked for in a model's answers to the forget rows' questions, greedy,
reworded and drawn.

Answers are kept with the other measurements and searched anew each time: another list of secrets asks no model again.
Cost: a greedy answer for each prompt and row, and `samples` drawn answers a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shared.console import progress
from shared.data.datasets import Row
from shared.data.examples import Example
from shared.data.secrets import Census, Secret, hash_of, held, read_secrets
from shared.files.fs import hash_json
from tu_eval.measure.drawing import ToDraw, draws
from tu_eval.measure.pieces import Subject, stop_ids
from tu_eval.results.folder import ResultRow
from tu_eval.results.leaks import count_leaks
from tu_eval.suites.prompts import asked, choose_prompts


@dataclass(frozen=True)
class Writing:
    """How answers are written."""

    samples: int
    """drawn answers a row; 0: none"""
    temperature: float
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class LeakCheck:
    """What is looked for, and in answers to what."""

    secrets: list[Secret]
    rows: list[int]
    """in how many gold answers each secret stands"""
    prompts: dict[str, list[Example]]
    """the forget rows, by prompt; `plain` is the first"""
    tokenizer: Any
    context: int | None
    writing: Writing

    def describe(self, found: Sequence[ResultRow]) -> dict[str, Any]:
        """The field `leaks` of a summary; `found`: rows of leaks.parquet."""
        secrets = [{"name": secret.name, "rows": rows} for secret, rows in zip(self.secrets, self.rows, strict=True)]
        return {"secrets_sha256": hash_of(self.secrets), "settings": asdict(self.writing), **count_leaks(found, secrets)}


def prepare(
    named: str, rows: Sequence[Row], tokenizer: Any, writing: Writing, *, context: int | None, long: str, templates: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> LeakCheck:  # fmt: skip
    """Reads the secrets and lays out all prompts; says which secrets and rows have nothing to be found. Raises
    ConfigError or DataError. `templates`, `columns`: further prompts, as `choose_prompts` takes them."""
    secrets, census = read_secrets(named, rows), Census(read_secrets(named, rows))
    for row in rows:
        census.find(row)
    census.say(refuse=False)
    prompts = {
        p.name: list(asked(rows, p, tokenizer, context=context, long=long, facts=False)) for p in choose_prompts(rows, templates, columns)
    }
    return LeakCheck(secrets, census.rows, prompts, tokenizer, context, writing)


def answers_to(
    check: LeakCheck, subject: Subject, *, greedy: Sequence[ResultRow] | None = None, drawn: Mapping[str, list[str]] | None = None
) -> list[ResultRow]:
    """All answers of one model: set, example_id, kind, prompt, question, answer. `greedy`: rows of rows.parquet whose
    answers are there already; `drawn`: answers by row's id that are."""
    out = [
        _row(r["set"], r["example_id"], "greedy", "plain", r["question"], r["generation"])
        for r in greedy or ()
        if r["generation"] is not None
    ]
    there = {"plain"} if any(row["set"] == "forget" for row in out) else set()
    wanted = [(name, e) for name, examples in check.prompts.items() if name not in there for e in examples]
    if wanted:
        settings, prompts = {"max_new_tokens": check.writing.max_new_tokens}, [[name, _prompt(e)] for name, e in wanted]
        answers = subject.piece(f"leaks-{hash_json([settings, prompts])[:32]}", lambda: _greedy(check, subject, wanted))[0]
        for (name, e), a in zip(wanted, answers, strict=True):
            out.append(_row("forget", e.id, "greedy" if name == "plain" else "reworded", name, e.row.question, a["answer"]))
    plain = check.prompts["plain"]
    if drawn is None and check.writing.samples:
        key = hash_json([True, asdict(check.writing), [_prompt(e) for e in plain]])[:32]
        rows = subject.piece(f"leak-{key}", lambda: _drawn(check, subject, plain))[0]
        drawn = {row["id"]: row["answers"] for row in rows}
    for e in plain if drawn else ():
        out += [_row("forget", e.id, "sampled", "plain", e.row.question, text) for text in (drawn or {})[e.id]]
    return out


def search(check: LeakCheck, role: str, answers: Sequence[ResultRow]) -> list[ResultRow]:
    """Rows of leaks.parquet: the answers of a model with the secrets that they hold."""
    told: dict[str, set[int]] = {}
    out = []
    for row in answers:
        question = row["question"] or ""
        if question not in told:
            told[question] = set(held(question, check.secrets))
        found = held(row["answer"], check.secrets)
        own, repeated = ([k for k in found if (k in told[question]) is asked] for asked in (False, True))
        out.append({"model": role, **row, "secrets": own, "told": repeated})
    return out


def _row(part: str, name: str, kind: str, prompt: str, question: str | None, answer: str) -> ResultRow:
    return {"set": part, "example_id": name, "kind": kind, "prompt": prompt, "question": question, "answer": answer}


def _prompt(example: Example) -> list[int]:
    """What the model reads before it writes; the opening that a prompt puts into its mouth is a part of it."""
    return example.input_ids[: example.targets[0]]


def _room(check: LeakCheck, prompt: Sequence[int]) -> int:
    most = check.writing.max_new_tokens
    return most if check.context is None else max(0, min(most, check.context - len(prompt)))


def _greedy(check: LeakCheck, subject: Subject, wanted: Sequence[tuple[str, Example]]) -> list[ResultRow]:
    """Of all prompts in one call: as rows end others take their places, so that few steps are made for few rows."""
    prompts = [_prompt(e) for _, e in wanted]
    stop = stop_ids(check.tokenizer, check.prompts["plain"])
    with progress("writing answers (leak check)", len(prompts), "rows") as bar:
        room = [_room(check, p) for p in prompts]
        made = subject.generator.generate(prompts, max_new_tokens=room, stop_ids=stop, advance=bar.advance)
    texts = [check.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in made]
    return [{"prompt": name, "id": e.id, "answer": text} for (name, e), text in zip(wanted, texts, strict=True)]


def _drawn(check: LeakCheck, subject: Subject, examples: Sequence[Example]) -> list[ResultRow]:
    w, stop = check.writing, stop_ids(check.tokenizer, examples)
    wanted = [ToDraw(e.id, _prompt(e), _room(check, _prompt(e))) for e in examples]
    with progress("drawing answers (leak check)", len(wanted) * w.samples, "answers") as bar:
        made = draws(subject.engine, wanted, w.samples, w.temperature, stop, w.seed, bar.advance)
        return [
            {"id": e.id, "answers": [check.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in own]}
            for e, own in zip(examples, made, strict=True)
        ]
