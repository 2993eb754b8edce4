"""What `tu-train run` tells to give next: the evaluation of the model that it made, on the rows that it was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.data.datasets import Keys
from shared.data.kin import kin_of, pasted, same_again
from shared.errors import UserError
from shared.secret import lacks_secrets
from shared.store.scores import open_store
from tu_train.config import UnlearnConfig

SUITES = ("tofu:forget01", "tofu:forget05", "tofu:forget10")
PLACES = {"FORGET": "the rows that were to be forgotten", "RETAIN": "rows that the model must keep"}
"""what stands in a hint where a name is not known, and what to put there"""


def evaluation(config: UnlearnConfig, model: Path) -> list[str]:
    """Lines for a user, of which the first is a command. Of several forget corpora it is about the first. None where
    what the forget set was cannot be read any more: the model is there all the same."""
    try:
        spec, keys = _forget(config)
    except (UserError, OSError):
        return []
    if keys.messages is not None:
        return ["next: tu-eval run, with a file of questions and answers (it does not read a column of conversations)"]
    return _commands(config, model, spec, keys)


def _forget(config: UnlearnConfig) -> tuple[str, Keys]:
    """The forget set and how it is read: of scores, as the store says."""
    scores, forget, moved = map(_first, (config.scores, config.forget, config.forget_data))
    if forget is not None:
        return str(forget), config.keys
    options = open_store(str(scores)).manifest["options"]
    return str(moved or options["data"]), Keys.recorded(options)


def _commands(config: UnlearnConfig, model: Path, forget: str, keys: Keys) -> list[str]:
    own = [] if keys.text is None else ["--text-key", keys.text]
    laid, out = [*own, *same_again(config, ("template", "system"))], f"results/{model.name}"
    if forget in SUITES and keys.text is None:
        return [f"next: {pasted('tu-eval', 'run', '--model', model, '--suite', forget, *laid, '--out', out)}"]
    retain = _first(config.retain)
    kept = retain if retain not in (None, "none") else kin_of(forget, "forget", "retain")
    rows = [
        "--forget",
        "FORGET" if lacks_secrets(forget) else forget,
        "--retain",
        "RETAIN" if kept is None or lacks_secrets(kept) else kept,
    ]
    notes = [f"      with {meaning} for {place}" for place, meaning in PLACES.items() if place in rows]
    if keys.text is not None or (keys.question, keys.answer) == (Keys.question, Keys.answer):
        return [f"next: {pasted('tu-eval', 'run', '--model', model, *rows, *laid, '--out', out)}", *notes]
    columns = ["--question-key", keys.question, "--answer-key", keys.answer]
    made = ["--forget", "prepared/forget.jsonl", "--retain", "prepared/retain.jsonl"]
    return [
        f"next: {pasted('tu-eval', 'prepare', *rows, *columns, '--out', 'prepared')}", *notes,
        f"      {pasted('tu-eval', 'run', '--model', model, *made, *laid, '--out', out)}",
    ]  # fmt: skip


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and value else value
