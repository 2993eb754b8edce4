"""`tu-eval prepare`: files of question-answer rows -> the same rows with perturbed_answer and paraphrased_question,
which `tu-eval run` and `tu-eval attack` use.

    forget.jsonl, retain.jsonl   the rows in order, every column of theirs kept
    _config.toml                 the settings, as --config reads them back

What a row has already stays as it is. What could not be made is said once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.config import write_config
from shared.console import number_of, say
from shared.data.datasets import Keys, Row
from shared.errors import DataError
from shared.files.fs import atomic_folder, write_text
from shared.files.outputs import claims
from tu_eval.judge.endpoint import Endpoint, check_reachable, endpoint
from tu_eval.judge.prepare.by_judge import by_judge
from tu_eval.judge.prepare.config import PrepareConfig
from tu_eval.judge.prepare.reword import reword
from tu_eval.judge.prepare.wrong_answers import asked, wrong_answers
from tu_eval.results.folder import CONFIG
from tu_eval.suites.own_files import read_rows

WRONG, REWORDED = "perturbed_answer", "paraphrased_question"


@claims("prepared rows")
def prepare(config: PrepareConfig) -> Path:
    """Writes the folder. Raises UserError before anything is written for rows that cannot be used, and for a judge that
    gives nothing."""
    judge = endpoint(config.judge_model) if config.paraphrase == "judge" else None
    keys = Keys(config.question_key, config.answer_key)
    specs = {"forget": config.forget, **({"retain": config.retain} if config.retain is not None else {})}
    files = {name: read_rows(spec, f"--{name}", limit=config.limit, keys=keys) for name, spec in specs.items()}
    rows = [row for held in files.values() for row in held]
    records = [_record(row) for row in rows]
    if judge is not None:
        check_reachable(judge, config.timeout_s, config.reply_s)
    _add_wrong(records, config.wrong)
    if config.paraphrase != "none":
        _add_reworded(records, config, judge)
    at, out = 0, Path(config.out)
    with atomic_folder(out) as folder:
        for name, held in files.items():
            lines = [json.dumps(record, ensure_ascii=False, default=str) for record in records[at : at + len(held)]]
            write_text(folder / f"{name}.jsonl", "\n".join(lines) + "\n")
            at += len(held)
        write_config(folder / CONFIG, config)
    return out


def _record(row: Row) -> dict[str, Any]:
    """A row as it is written; a conversation must be a question and an answer, perhaps after a system prompt."""
    if row.question is None or any(role != "system" for role, _ in row.before):
        raise DataError(f"{row.id}: is a conversation with earlier turns; prepared rows are questions and answers, one turn each")
    system = {"system": row.before[-1][1]} if row.before else {}
    own = {"question": row.question, "answer": row.answer}
    return {**own, **row.extra, **system, **own}


def _add_wrong(records: Sequence[dict[str, Any]], count: int) -> None:
    if not count:
        return
    pool = [asked(record["question"], record["answer"]) for record in records]
    lacking = [i for i, record in enumerate(records) if not record.get(WRONG)]
    for i in lacking:
        if found := wrong_answers(pool, i, count):
            records[i][WRONG] = found
    _say_made(records, lacking, WRONG, "no other row has a different answer to another question")


def _add_reworded(records: Sequence[dict[str, Any]], config: PrepareConfig, judge: Endpoint | None) -> None:
    lacking = [i for i, record in enumerate(records) if not record.get(REWORDED)]
    pairs = [(records[i]["question"], records[i]["answer"]) for i in lacking]
    told = by_judge(pairs, judge, config) if judge is not None else [reword(question) for question, _ in pairs]
    for i, text in zip(lacking, told, strict=True):
        if text is not None:
            records[i][REWORDED] = text
    why = (
        "the judge gave none that can be used" if judge is not None else "the rules know English questions; --paraphrase judge does others"
    )
    _say_made(records, lacking, REWORDED, why)


def _say_made(records: Sequence[Mapping[str, Any]], asked_for: Sequence[int], column: str, why: str) -> None:
    without = sum(not records[i].get(column) for i in asked_for)
    kept = len(records) - len(asked_for)
    say(
        f"{column}: made for {number_of(len(asked_for) - without, 'row')}"
        + (f", {kept} had one" if kept else "")
        + (f", {without} are left without: {why}" if without else "")
    )
