"""What `tu-train run` tells to give next: the evaluation of the model that it made, on the rows that it was given."""

from __future__ import annotations

from pathlib import Path

from shared.data.kin import kin_of, pasted, same_again
from shared.store.scores import open_store
from tu_train.config import UnlearnConfig

SUITES = ("tofu:forget01", "tofu:forget05", "tofu:forget10")
KEYS = ("question_key", "answer_key")


def evaluation(config: UnlearnConfig, model: Path) -> list[str]:
    """Lines for a user, of which the first is a command. Of several forget corpora it is about the first."""
    scores, forget, retain = (value[0] if isinstance(value, tuple) else value for value in (config.scores, config.forget, config.retain))
    if forget is None and scores is not None:
        forget = str(open_store(str(scores)).manifest["options"]["data"])
    assert forget is not None, "the configuration has one of the two"
    out, laid = f"results/{model.name}", same_again(config, ("text_key", "template", "system"))
    if forget in SUITES and config.text_key is None:
        return [f"next: {pasted('tu-eval', 'run', '--model', model, '--suite', forget, *laid, '--out', out)}"]
    kept = retain if retain not in (None, "none") else kin_of(forget, "forget", "retain")
    rows, note = ["--forget", forget, "--retain", kept or "RETAIN"], [] if kept else ["      with rows that the model must keep for RETAIN"]
    keys = same_again(config, KEYS)
    if not keys:
        return [f"next: {pasted('tu-eval', 'run', '--model', model, *rows, *laid, '--out', out)}", *note]
    made = ["--forget", "prepared/forget.jsonl", "--retain", "prepared/retain.jsonl"]
    return [
        f"next: {pasted('tu-eval', 'prepare', *rows, *keys, '--out', 'prepared')}", *note,
        f"      {pasted('tu-eval', 'run', '--model', model, *made, *laid, '--out', out)}",
    ]  # fmt: skip
