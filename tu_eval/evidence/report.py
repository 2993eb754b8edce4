"""Evidence for a deletion request: what was asked, which model before and after, how it changed, what was measured,
what is not claimed.

evidence.json holds everything, evidence.html says it for people. Rows of the forget set are named by hash: the sha256
of the canonical JSON (sorted keys, no spaces) of {"answer": ..., "question": ...}, which who knows a row can compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared import __version__
from shared.errors import StoreError
from shared.files.fs import atomic_folder, hash_json, write_json, write_text
from shared.files.outputs import claimed_folder
from shared.lm.finished import check_output
from shared.secret import without_secrets_in
from tu_eval.attacks.run import ATTACK_FOLDER
from tu_eval.compare.comparison import Comparison, load_comparison
from tu_eval.compare.intervals import Bounds, Estimate
from tu_eval.compare.report import fill
from tu_eval.compare.training import Training, find_training
from tu_eval.evidence.attacked import attacked, leaks_of
from tu_eval.evidence.not_claimed import NEVER, RECORDED, conditions, untried
from tu_eval.evidence.sign import check_signature
from tu_eval.evidence.verdict.verdict import as_json, beside, require_of, verdict_of
from tu_eval.measure.model_folder import local_folder
from tu_eval.measure.recompute import intervals
from tu_eval.results.columns import MEANING, columns_of, show
from tu_eval.results.folder import Finished, seal_of
from tu_eval.results.results import Results

EARLIER: dict[str, Any] = {"request": {"id": None, "operator": None}, "leaks": None, "attacks": [], "verdict": None}
"""what reports of earlier versions do not have"""
FORMAT = 2
"""1 said `training.known`"""


@dataclass(frozen=True)
class DeletionRequest:
    """What a report answers, and how much it shows."""

    request_id: str | None = None
    operator: str | None = None
    show_text: bool = False
    """of the forget set, not hashes alone"""
    show_answers: bool = False
    """of the model after unlearning"""


NO_REQUEST = DeletionRequest()


def write_evidence(
    out: Path, *, before: Path, after: Path, retain: Path | None = None, store: str | None = None, attacks: Sequence[Path] = (),
    request: DeletionRequest = NO_REQUEST,
) -> Path:  # fmt: skip
    """Writes the folder in one step. `attacks`: folders of tu-eval attack, and for the verdict alone of depth, tamper,
    choices and benchmarks. Raises StoreError for results that do not go together, and for a store that is not the one
    used."""
    with claimed_folder(out, what="the report"):
        comparison = load_comparison([before, after, *([retain] if retain else [])])
        report = build(comparison, store=store, attacks=attacks, request=request)
        return _write(out, report)


def _write(out: Path, report: dict[str, Any]) -> Path:
    with atomic_folder(out) as folder:
        write_json(folder / "evidence.json", report)
        write_text(folder / "evidence.html", page(report))
    return out


def page(report: dict[str, Any]) -> str:
    """The report as HTML; tu-eval verify makes it once more. Raises StoreError for a report that has not the form of
    ours."""
    import jinja2

    report = {**EARLIER, **report}
    try:
        definitions = {m["name"]: m["definition"] for m in report["measured"] if m["definition"]}
        return fill("evidence.html.j2", report=report, definitions=definitions, show=show, version=__version__)
    except (jinja2.TemplateError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise StoreError(f"evidence.json: has not the form of a report ({type(error).__name__}); it was edited, make it again") from None


def build(
    comparison: Comparison, *, store: str | None, attacks: Sequence[Path] = (), request: DeletionRequest = NO_REQUEST
) -> dict[str, Any]:
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
    models = {role: r for role, r in (("before", before), ("after", after), ("retain", retain)) if r is not None}
    more = beside(attacks)
    others = [one for one in more if one.kind is not ATTACK_FOLDER]
    require_of(comparison, others)
    attempts, leaks = attacked([f for f in attacks if f not in {one.folder for one in others}], models), leaks_of(models)
    scored = _store(store, before, training, rows) if store else None
    report = {
        "format": FORMAT,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "request": {"id": request.request_id, "operator": request.operator},
        "suite": {k: after.summary[k] for k in ("suite", "limit", "data_fingerprint", "rows")},
        "asked": {"rows": len(rows), "hashes": [_named(row, request) for row in rows], "store": scored},
        "models": {role: _model(r) for role, r in models.items()},
        "training": {
            **(training.record.to_json() if training else {}),
            "recorded": training is not None,
            "verified": False,
            "said": RECORDED if training else "",
            "why_not": why,
        },
        "signed_by": {role: check_signature(r.folder) for role, r in models.items()},
        "measured": _measured(comparison),
        "verdict": {**_verdict(comparison, more), "beside": [_made(one) for one in others]},
        "attacks": attempts,
        "leaks": leaks,
        "not_claimed": [*NEVER, *conditions(before, after, retain, training, why, scored, len(rows)), *untried(attempts, leaks)],
    }
    report = without_secrets_in(report)
    return {**report, "evidence_sha256": seal_of(report, "evidence_sha256")}


def _verdict(comparison: Comparison, more: Sequence[Finished]) -> dict[str, Any]:
    """What tu-eval report says of the model after, with the models as the report names them."""
    roles = {"target": 0, **({"retain": 2} if len(comparison.results) > 2 else {})}
    said = as_json(verdict_of(comparison, 1, roles, more, comparison.labels[1]))
    named = {"model": "after", "target": "before", "retain": "retain"}
    return {**said, "lines": [{named.get(name, name): value for name, value in line.items()} for line in said["lines"]]}


def _made(one: Finished) -> dict[str, Any]:
    about = {"command": one.kind.command, "rows_sha256": one.summary["rows_sha256"]}
    return {**about, "sealed": one.sealed, "signed_by": check_signature(one.folder)}


def _named(row: dict[str, Any], request: DeletionRequest) -> dict[str, str]:
    text = {"answer": row["answer"], "question": row["question"]}
    after = {"after": row["generation"] or ""} if request.show_answers else {}
    return {"id": row["example_id"], "sha256": hash_json(text), **(text if request.show_text else {}), **after}


def _model(result: Results) -> dict[str, Any]:
    kept = ("label", "model", "model_fingerprint", "tokenizer_fingerprint", "template_fingerprint", "settings", "engine", "rows_sha256")
    return {k: result.summary[k] for k in (*kept, "summary_sha256")}


def _store(where: str, before: Results, training: Training | None, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from shared.store.scores import open_store
    from tu_eval.evidence.asked import rows_in

    store = open_store(where)
    if store.fingerprints["model"] != before.summary["model_fingerprint"]:
        raise StoreError(f"--store {where}: scores another model than --before {before.folder} measured; give that model's store")
    if training is not None and not {None, store.sha256} & {training.record.store, *(training.record.stores or ())}:
        raise StoreError(f"--store {where}: is not the store that the model was unlearned with, as its training.json says; give that one")
    matched, others = rows_in(store, rows, texts=before.summary["suite"].startswith("muse:"), where=where)
    counts = {"sha256": store.sha256, "rows": len(store), "matched": matched, "others": others}
    return {**counts, "data": store.manifest["options"]["data"], "fingerprints": store.fingerprints}


def _measured(comparison: Comparison) -> list[dict[str, Any]]:
    """One entry a metric, with its definition. Intervals are drawn again."""
    out, drawn = [], [intervals(r) for r in comparison.results]
    for column in columns_of(
        {**{k: comparison.results[0].summary[k] for k in ("rows", "suite")}, "metrics": dict.fromkeys(c.metric for c in comparison.columns)}
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
