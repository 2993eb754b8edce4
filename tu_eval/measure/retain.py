"""What is needed of the retain model: its truth ratios on the forget rows, and how well Min-K separates them from the
holdout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import StoreError
from shared.files.fs import hash_file
from tu_eval.metrics.forget_quality import require_same_rows
from tu_eval.results.open_unlearning import log_truth_ratios, min_k_auc, read_log
from tu_eval.results.results import Results, load_results, require_comparable


@dataclass(frozen=True)
class RetainModel:
    about: dict[str, Any]
    """label, model_fingerprint (None: unknown), rows_sha256, source; goes into the summary"""
    log_ratios: list[float]
    """of the forget rows; empty where the suite has none"""
    min_k_auc: float | None
    no_min_k: str
    """why there is none"""


def load_retain(place: str, identity: dict[str, Any], forget: list[tuple[str, str]], holdout: tuple[str, int]) -> RetainModel:
    """`forget`: (example id, answer) of each row; `holdout`: fingerprint and number of rows. Raises StoreError where
    the retain results speak of other rows, or were measured with another tokenizer or template (which a file of
    OpenUnlearning does not tell)."""
    path = Path(place)
    if path.suffix == ".json" or path.is_file():
        return _of_log(path, [answer for _, answer in forget], holdout[1])
    results = load_results(path)
    require_comparable(identity, results, what="--retain-results")
    rows = results.rows("forget")
    require_same_rows([i for i, _ in forget], [r["example_id"] for r in rows], where=str(path))
    return _of_results(results, [r["log_truth_ratio"] for r in rows], holdout[0])


def load_texts_retain(place: str, identity: dict[str, Any]) -> RetainModel:
    """The same of MUSE and LUME, which have no truth ratios: Min-K alone. Raises StoreError likewise."""
    path = Path(place)
    if path.suffix == ".json" or path.is_file():
        raise StoreError(
            f"--retain-results {path}: a file does not tell which corpus was measured; expected a results folder of tu-eval run"
        )
    results = load_results(path)
    require_comparable(identity, results, what="--retain-results")
    return _of_results(results, [], identity["holdout_fingerprint"])


def _of_results(results: Results, log_ratios: list[float], holdout: str | None) -> RetainModel:
    membership = results.summary.get("membership")
    about = {k: results.summary[k] for k in ("label", "model_fingerprint", "rows_sha256")}
    auc = None
    if membership is not None and membership["holdout_fingerprint"] == holdout:
        auc = membership["attacks"]["min_k"]["auc"]
    reason = (
        "the retain results have no membership inference" if membership is None else "the retain results were measured with another holdout"
    )
    return RetainModel({**about, "source": "tu-eval"}, log_ratios, auc, reason)


def _of_log(path: Path, answers: list[str], holdout_rows: int) -> RetainModel:
    log = read_log(path)
    about = {"label": path.parent.name or path.stem, "model_fingerprint": None, "rows_sha256": hash_file(path), "source": "OpenUnlearning"}
    found = min_k_auc(log)
    if found is None:
        return RetainModel(about, log_truth_ratios(log, answers, path), None, f"{path.name} has no mia_min_k")
    auc, rows = found
    same = rows == holdout_rows
    reason = f"{path.name} was measured with {rows} holdout rows, this run with {holdout_rows}"
    return RetainModel(about, log_truth_ratios(log, answers, path), auc if same else None, reason)
