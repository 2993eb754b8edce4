"""Evidence for a deletion request: what was asked, which model before and after, how it changed, what was measured,
what is not claimed.

evidence.json holds everything, evidence.html says it for people. Rows of the forget set are named by hash: the sha256
of the canonical JSON (sorted keys, no spaces) of {"answer": ..., "question": ...}, which who knows a row can compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared import __version__
from shared.errors import StoreError
from shared.files.fs import atomic_folder, hash_json, write_json, write_text
from shared.files.outputs import claimed_folder
from shared.lm.finished import check_output
from shared.secret import without_secrets_in
from tu_eval.compare.comparison import Comparison, load_comparison
from tu_eval.compare.intervals import Bounds, Estimate
from tu_eval.compare.plot import TOLD_APART
from tu_eval.compare.report import fill
from tu_eval.compare.training import Training, find_training
from tu_eval.evidence.sign import check_signature
from tu_eval.measure.model_folder import local_folder
from tu_eval.measure.recompute import intervals, require_recomputable
from tu_eval.results.columns import MEANING, columns_of, show
from tu_eval.results.folder import seal_of
from tu_eval.results.results import Results

FORMAT = 2
"""1 said `training.known`"""
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
NOTHING = "That generated text reveals nothing: generation was off in a run, so ROUGE and model utility are missing."


def write_evidence(
    out: Path, *, before: Path, after: Path, retain: Path | None = None, store: str | None = None, show_text: bool = False
) -> Path:
    """Writes the folder in one step. Raises StoreError for results that do not go together, and for a store that is not
    the one used."""
    with claimed_folder(out, what="the report"):
        return _write(out, before, after, retain, store=store, show_text=show_text)


def _write(out: Path, before: Path, after: Path, retain: Path | None, *, store: str | None, show_text: bool) -> Path:
    comparison = load_comparison([before, after, *([retain] if retain else [])])
    report = build(comparison, store=store, show_text=show_text)
    with atomic_folder(out) as folder:
        write_json(folder / "evidence.json", report)
        write_text(folder / "evidence.html", page(report))
    return out


def page(report: dict[str, Any]) -> str:
    """The report as HTML; tu-eval verify makes it once more. Raises StoreError for a report that has not the form of
    ours."""
    import jinja2

    try:
        definitions = {m["name"]: m["definition"] for m in report["measured"] if m["definition"]}
        return fill("evidence.html.j2", report=report, definitions=definitions, show=show, version=__version__)
    except (jinja2.TemplateError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise StoreError(f"evidence.json: has not the form of a report ({type(error).__name__}); it was edited, make it again") from None


def build(comparison: Comparison, *, store: str | None, show_text: bool) -> dict[str, Any]:
    """The report as JSON values; `comparison`: before, after and, if there is one, the retain model."""
    before, after, *others = comparison.results
    retain = others[0] if others else None
    if before.summary["model_fingerprint"] == after.summary["model_fingerprint"]:
        raise StoreError(f"--after {after.folder}: the same weights as --before {before.folder}; nothing was changed between them")
    named = after.summary["retain_results"]
    if retain is not None and named and any(named.get(k) not in (None, retain.summary[k]) for k in ("rows_sha256", "model_fingerprint")):
        raise StoreError(f"--retain {retain.folder}: {after.folder} was measured against other retain results")
    for result in comparison.results:
        if (folder := local_folder(result.summary["model"])) is not None:
            check_output(folder)  # damaged weights may have been measured before anybody looked
    training, why = find_training(after)
    rows = comparison.rows[1].get("forget", [])
    if not rows:
        raise StoreError(f"--after {after.folder}: has no rows of a forget set, so there is nothing to report on")
    scored = _store(store, before, training, rows) if store else None
    report = {
        "format": FORMAT,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "suite": {k: after.summary[k] for k in ("suite", "limit", "data_fingerprint", "rows")},
        "asked": {"rows": len(rows), "hashes": [_named(row, show_text) for row in rows], "store": scored},
        "models": {role: _model(r) for role, r in (("before", before), ("after", after), ("retain", retain)) if r is not None},
        "training": {
            **(training.record.to_json() if training else {}),
            "recorded": training is not None,
            "verified": False,
            "said": RECORDED if training else "",
            "why_not": why,
        },
        "signed_by": {role: check_signature(r.folder) for role, r in (("before", before), ("after", after), ("retain", retain)) if r},
        "measured": _measured(comparison),
        "not_claimed": [*NEVER, *conditions(before, after, retain, training, why, scored, len(rows))],
    }
    report = without_secrets_in(report)
    return {**report, "evidence_sha256": seal_of(report, "evidence_sha256")}


def _named(row: dict[str, Any], show_text: bool) -> dict[str, str]:
    text = {"answer": row["answer"], "question": row["question"]}
    return {"id": row["example_id"], "sha256": hash_json(text), **(text if show_text else {})}


def _model(result: Results) -> dict[str, Any]:
    kept = ("label", "model", "model_fingerprint", "tokenizer_fingerprint", "template_fingerprint", "settings", "engine", "rows_sha256")
    return {k: result.summary[k] for k in (*kept, "summary_sha256")}


def _store(where: str, before: Results, training: Training | None, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from shared.store.scores import open_store
    from tu_eval.evidence.asked import rows_in

    store = open_store(where)
    if store.fingerprints["model"] != before.summary["model_fingerprint"]:
        raise StoreError(f"--store {where}: scores another model than --before {before.folder} measured; give that model's store")
    if training is not None and training.record.store not in (None, store.sha256):
        raise StoreError(f"--store {where}: is not the store that the model was unlearned with, as its training.json says; give that one")
    matched, others = rows_in(store, rows, texts=before.summary["suite"].startswith("muse:"), where=where)
    counts = {"sha256": store.sha256, "rows": len(store), "matched": matched, "others": others}
    return {**counts, "data": store.manifest["options"]["data"], "fingerprints": store.fingerprints}


def _measured(comparison: Comparison) -> list[dict[str, Any]]:
    """One entry a metric, with its definition. Intervals are drawn again."""
    out, drawn = [], [intervals(r) for r in comparison.results]
    for column in columns_of(
        {"rows": comparison.results[0].summary["rows"], "metrics": dict.fromkeys(c.metric for c in comparison.columns)}
    ):
        held = [_one(comparison, drawn, i, column.metric) for i in range(len(comparison.results))]
        first, second = held[0].value, held[1].value
        entry = {
            "metric": column.metric, "set": column.group, "name": column.heading, "definition": MEANING.get(column.heading, ""),
            **{role: _plain(e) for role, e in zip(("before", "after", "retain"), held, strict=False)},
            "change": None if first is None or second is None else second - first,
            "reason": comparison.results[1].summary["reasons"].get(column.metric, "") if second is None else "",
        }  # fmt: skip
        out.append(entry)
    return out


def _one(comparison: Comparison, drawn: Sequence[Mapping[str, Bounds]], index: int, metric: str) -> Estimate:
    return Estimate(comparison.value(index, metric), drawn[index].get(metric) or comparison.spans[index].get(metric))


def _plain(e: Estimate) -> dict[str, Any]:
    return {k: v for k, v in asdict(e).items() if k in ("value", "span")}


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
            f"That small differences would have been found: with {rows} rows the test sees distances above {1.358 * (2 / rows) ** 0.5:.2f}."
        )
    if retain is None:
        items.append("How near the other numbers are to those of a model that never saw the data: no retain results were given (--retain).")
    if not summary.get("membership"):
        items.append("That the rows cannot be told to have been trained on: no membership inference was measured.")
    items.append(
        "Resistance to attacks: relearning, paraphrased prompts, prefix injection and sampling many answers are not part of this report."
    )
    items.append("Anything about quantised weights: the model was measured as it is stored, and rounding can bring knowledge back.")
    items += _limits([before, after], rows, store)
    items += _recorded([before, after], retain)
    items += _history(before, training, why)
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
