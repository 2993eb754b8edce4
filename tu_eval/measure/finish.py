"""What evaluations on every suite share: the models that are measured, membership inference, the results folder at the
end."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shared.config import as_dict
from shared.data.examples import Example, data_fingerprint
from shared.engines import vllm_setup
from shared.engines.open import choose_engine
from shared.errors import ConfigError
from shared.lm import models
from tu_eval.measure.config import EvalConfig
from tu_eval.measure.kept import KeptMeasurements, remove_measurements
from tu_eval.measure.membership import membership_rows
from tu_eval.measure.model_folder import find_model
from tu_eval.measure.pieces import Sides, Subject, gradient_norms, losses
from tu_eval.measure.retain import RetainModel
from tu_eval.measure.rows import Rows
from tu_eval.metrics import rouge
from tu_eval.results.folder import ResultRow
from tu_eval.results.results import Results, write_results

WHERE_ASKED = ("rounding", "cluster")
"""what else was asked for"""
LAYOUT = ("system", "template_date", "template_options", "beginning_token")
"""how rows were laid out, where that was asked for"""
SETTINGS = ("dtype", "seed", "long", "generate")
"""fields of the configuration that stand in every summary"""


@dataclass(frozen=True)
class Measured:
    """All numbers of the rows, by set; membership scores, and how well each attack separates by them; the engine that
    made them."""

    rows: dict[str, Rows]
    membership: Rows
    attacks: dict[str, dict[str, float]]
    engine: dict[str, Any]
    own_metrics: Mapping[str, str] = field(default_factory=dict)
    """column of rows.parquet -> the source that computed it"""
    leaks: tuple[dict[str, Any], Rows] | None = None
    """of a leak check: the field `leaks` of the summary, and the rows of leaks.parquet"""
    more: Sequence[str] = ()
    """columns of rows.parquet that were asked for, keys of tu_eval.results.results.MORE"""


def identity_of(config: EvalConfig, tokenizer: Any, measured: Iterable[Example], holdout: Sequence[Example]) -> dict[str, Any]:
    """Fingerprints of what an evaluation reads, for `Subject.identity`; the suite's name stands before them."""
    return {
        "limit": config.limit,
        "tokenizer_fingerprint": models.tokenizer_fingerprint(tokenizer),
        "vocabulary_fingerprint": models.vocabulary_fingerprint(tokenizer),
        "template_fingerprint": models.template_fingerprint(tokenizer),
        "data_fingerprint": data_fingerprint(measured),
        "holdout_fingerprint": data_fingerprint(holdout) if holdout else None,
    }


def default_label(model: str) -> str:
    """The last part of a path or hub id, without its revision."""
    return Path(model.rstrip("/")).expanduser().resolve().name if Path(model).is_dir() else model.split("/")[-1].split("@")[0]


def measurements_root(config: EvalConfig) -> Path:
    out = Path(config.out)
    return Path(config.store) if config.store else out.with_name(f"{out.name}.unfinished")


def open_subjects(
    config: EvalConfig, folder: Path, device: str, identity: Mapping[str, Any], lengths: Sequence[str], sides: Sides
) -> tuple[Subject, Subject | None]:
    """The model, and the reference model where one is asked for and there is a holdout: each with what is measured on
    it under its own content. `lengths`: fields of the configuration that numbers depend on beside model and data;
    memory settings are not part of it. `sides`: what the reference model reads."""
    engine = choose_engine(config.engine, config.device)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    if engine == "vllm":
        versions["vllm"] = vllm_setup.version()
    fields = {name: getattr(config, name) for name in ("dtype", *lengths)}
    fields |= {"rounding": config.rounding} if config.rounding is not None else {}
    content = {**identity, **fields, "engine": engine, "device": device, "versions": versions}

    def open_subject(place: Path) -> Subject:
        kept = KeptMeasurements(measurements_root(config), {**content, "model_fingerprint": models.model_fingerprint(place)})
        return Subject(place, config, kept)

    subject = open_subject(folder)
    if config.reference_model is None or identity["holdout_fingerprint"] is None:
        return subject, None
    reference = find_model(config.reference_model)
    if models.vocabulary_fingerprint(models.load_tokenizer(reference)) != identity["vocabulary_fingerprint"]:
        raise ConfigError(f"reference_model {config.reference_model}: has another tokenizer than {config.model}, so losses do not compare")
    models.require_rows(
        f"reference_model {config.reference_model}", reference, ((e.id, e.input_ids) for side in sides.values() for e in side)
    )
    fields.pop("rounding", None)
    content, config = {**identity, **fields, "engine": engine, "device": device, "versions": versions}, replace(config, rounding=None)
    return subject, open_subject(reference)


def infer_membership(
    sides: Sides, scores: Mapping[str, ResultRow], tokenizer: Any, subject: Subject, reference: Subject | None
) -> list[ResultRow]:
    """Rows of membership.parquet; none without a holdout. Closes both models, and never holds the two at once."""
    norms = references = None
    if subject.config.gradients and sides["holdout"]:
        norms = {k: v for side in ("forget", "holdout") for k, v in gradient_norms(subject, side, sides[side]).items()}
    subject.close()
    if reference is not None:
        references = losses(reference, sides)
        reference.close()
    return membership_rows(sides, scores, tokenizer, references=references, norms=norms) if sides["holdout"] else []


def finish(
    config: EvalConfig,
    subject: Subject,
    identity: Mapping[str, Any],
    measured: Measured,
    metrics: Mapping[str, float | None],
    reasons: Mapping[str, str],
    *,
    retain: RetainModel | None,
    utility_parts: Sequence[str],
    settings: Sequence[str],
) -> Results:
    """Writes the results folder in one step and drops a store that was this run's own. `settings`: beside SETTINGS."""
    holdout = sum(row["set"] == "holdout" for row in measured.membership)
    summary = {
        "label": config.label or default_label(config.model),
        "model": config.model,
        "model_fingerprint": subject.measurements.identity["model_fingerprint"],
        **identity,
        "retain_results": retain and retain.about,
        "settings": {k: v for k, v in as_dict(config).items() if k in (*SETTINGS, *settings, *LAYOUT)}
        | {k: v for k in WHERE_ASKED if (v := getattr(config, k)) is not None},
        "engine": measured.engine,
        "rouge_words": rouge.WORDS,
        "rows": {name: len(kept) for name, kept in measured.rows.items()},
        "metrics": metrics,
        "reasons": reasons,
        "utility_parts": list(utility_parts),
        **({"own_metrics": dict(measured.own_metrics)} if measured.own_metrics else {}),
        **({"leaks": measured.leaks[0]} if measured.leaks is not None else {}),
        **({"more_columns": list(measured.more)} if measured.more else {}),
        "membership": {"holdout_fingerprint": identity["holdout_fingerprint"], "holdout_rows": holdout, "attacks": measured.attacks}
        if measured.membership
        else None,
    }
    rows = [row for kept in measured.rows.values() for row in kept]
    results = write_results(Path(config.out), summary, rows, measured.membership, config, measured.leaks and measured.leaks[1])
    if not config.store:
        remove_measurements(measurements_root(config))
    return results
