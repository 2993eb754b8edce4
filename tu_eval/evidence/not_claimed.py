"""What a report cannot claim: of every report, and of this one in particular."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared.console import number_of
from tu_eval.compare.plot import TOLD_APART
from tu_eval.compare.training import Training
from tu_eval.measure.recompute import require_recomputable
from tu_eval.results.columns import show
from tu_eval.results.results import Results

RECORDED = "as recorded, not verified: anyone could have edited the file"
"""of what stands in training.json"""
NEVER = (
    "That the knowledge is gone. The numbers bound what these questions, asked in this way, bring out; "
    "what no question asked may still be there.",
    "That other wordings, languages, longer conversations or facts that follow from the deleted ones were tested; "
    "only the suite's rows were.",
    "That the model equals one that never saw the data. A forget quality of 0.05 or more means that this test on these rows found no "
    "difference from the retain model, not that there is none.",
    "That who holds the weights cannot bring the knowledge back by further training or by reading the weights.",
    "Anything about other copies: earlier checkpoints, backups, the training data itself, caches, logs, models made from this one.",
    "That another seed of the training would give the same numbers; this is one model.",
    "That the files behind this report are what tu-eval wrote. Their hashes are checked, and the metrics are computed again from the rows, "
    "but who can write the files can make other rows with other hashes; only a signature tells (tu-eval verify).",
    "That the hashes below keep the rows secret: who can guess a row's exact text can compute its hash and find it here.",
)
"""holds for every report"""
ATTEMPTS = {"relearn": "relearning", "paraphrase": "paraphrased prompts and prefix injection", "sample": "sampling many answers"}
"""attack -> what it is called where it was not made"""
NOTHING = "That generated text reveals nothing: generation was off in a run, so ROUGE and model utility are missing."


def conditions(
    before: Results, after: Results, retain: Results | None, training: Training | None, why: str, store: dict[str, Any] | None, rows: int
) -> list[str]:
    """What this report in particular cannot claim, and what its reader must know."""
    summary, items = after.summary, []
    quality = summary["metrics"].get("forget_quality")
    if "forget_quality" not in summary["metrics"]:
        items.append("Any forget quality: the suite has no wrong answers to its questions, so there are no truth ratios to test.")
    elif quality is None:
        items.append("Any forget quality: the model was not measured against retain results.")
    elif quality < TOLD_APART:
        items.append(
            f"That the model cannot be told from the retain model: it can, forget quality is {show(quality)} (below {TOLD_APART})."
        )
    else:
        # Critical distance of the two-sample test at 5 % for two samples of this many rows.
        items.append(
            f"That small differences would have been found: with {number_of(rows, 'row')} the test sees distances above "
            f"{1.358 * (2 / rows) ** 0.5:.2f}."
        )
    if retain is None:
        items.append("How near the other numbers are to those of a model that never saw the data: no retain results were given (--retain).")
    if not summary.get("membership"):
        items.append("That the rows cannot be told to have been trained on: no membership inference was measured.")
    items += _limits([before, after], rows, store)
    items += _recorded([before, after], retain)
    items += _history(before, training, why)
    return items


def untried(attempts: Sequence[Mapping[str, Any]], leaks: Mapping[str, Any] | None) -> list[str]:
    """What was not tried on the model, by the attacks and leak checks that the report holds."""
    tried = {name for attempt in attempts for name in attempt["attacks"]}
    left = [words for name, words in ATTEMPTS.items() if name not in tried]
    items = []
    if left:
        items.append(f"Resistance to attacks: {', '.join(left[:-1])}{' and ' if left[1:] else ''}{left[-1]} "
                     f"{'are' if left[1:] else 'is'} not part of this report.")  # fmt: skip
    if tried:
        items.append("Resistance to other attacks than those below, or to the same ones with more steps, draws or other prompts.")
    if "quantise" not in tried:
        items.append("Anything about quantised weights: the model was measured as it is stored, and rounding can bring knowledge back.")
    checks = [leaks, *(attempt["leaks"] for attempt in attempts)]
    if not any(checks):
        items.append("That no answer gives a secret away word for word: no leak check was made (--secrets).")
    else:
        items.append("That a secret is not given away in other words, in part, or in answers that were not drawn: "
                     "a leak check finds it whole, in the answers that it read.")  # fmt: skip
    return items


def _recorded(results: Sequence[Results], retain: Results | None) -> list[str]:
    """Metrics that are taken from a summary as they stand there."""
    left: set[str] = set()
    for result in results:
        again = require_recomputable(result, [retain] if retain is not None else [])
        left |= {m for m, value in result.summary["metrics"].items() if value is not None and m not in again}
    if not left:
        return []
    return [f"That {', '.join(sorted(left))} follow from the rows: as recorded, not verified, for want of the retain results."]


def _limits(results: Sequence[Results], rows: int, store: dict[str, Any] | None) -> list[str]:
    items, settings = [], [r.summary["settings"] for r in results]
    if (limit := results[0].summary["limit"]) is not None:
        items.append(f"Anything about rows beyond the first {limit} of each set (--limit).")
    if not all(s.get("generate", True) for s in settings):
        items.append(NOTHING)
    if any(s.get("long") in ("skip", "truncate") for s in settings):
        items.append("Anything about what is longer than the model's context: such rows were left out or cut (--long).")
    for field in ("dtype", "max_new_tokens", "knowmem_tokens", "long"):
        values = [str(s.get(field)) for s in settings]
        if len(set(values)) > 1:
            items.append(f"That the difference before and after is the training's alone: the runs differ in {field} ({', '.join(values)}).")
    if len({r.summary.get("rouge_words") for r in results}) > 1:
        items.append("That ROUGE before and after was measured alike: one of the runs is of a version that read a to z and digits alone.")
    if store is None:
        items.append("That the measured rows are all that was asked for: no score store was given (--store).")
    elif store["matched"] is None:
        items.append("That the measured rows are what was asked for: the score store holds plain texts, which were not compared with them.")
    else:
        if store["matched"] < rows:
            items.append(f"That all that was measured was asked for: {rows - store['matched']} of {rows} rows are not in the score store.")
        if store["others"]:
            items.append(f"That all that was asked for was measured: {store['others']} of the {store['rows']} rows of the score store are "
                         "none of the suite's forget set.")  # fmt: skip
    return items


def _history(before: Results, training: Training | None, why: str) -> list[str]:
    if training is None:
        return [f"By which method the model was changed: {why}."]
    items = [f"That the model was made as said below: its training.json is {RECORDED}."]
    start = training.record.start_model
    if start != before.summary["model_fingerprint"]:
        said = f"names {str(start)[:12]}" if start else "names none"
        items.append(f"That the model was made from the one measured before: training.json {said} as start, before is "
                     f"{before.summary['model_fingerprint'][:12]}.")  # fmt: skip
    return items
