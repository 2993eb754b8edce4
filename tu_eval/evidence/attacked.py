"""Attacks and leak checks in a report: folders that speak of the same models and data, and whose numbers follow from
their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.errors import StoreError
from tu_eval.attacks.run import ATTACK_FOLDER, numbers_again
from tu_eval.evidence.sign import check_signature
from tu_eval.measure.recompute import differs
from tu_eval.results.folder import read_folder
from tu_eval.results.leaks import require_counted
from tu_eval.results.results import SUITE_FOLDER, Results

NAMES = {"model": "after", "before": "before", "retain": "retain"}
"""what an attack calls a model -> what a report does"""


def attacked(folders: Sequence[Path], models: Mapping[str, Results]) -> list[dict[str, Any]]:
    """One entry a folder of tu-eval attack. `models`: by role. Raises StoreError for a folder of other models or
    another suite, and for numbers that its rows do not give."""
    return [_attacked(folder, models) for folder in folders]


def _attacked(folder: Path, models: Mapping[str, Results]) -> dict[str, Any]:
    finished = read_folder(folder, ATTACK_FOLDER)
    about, after = finished.summary, models["after"].summary
    if about["suite"] != after["suite"]:
        raise StoreError(
            f"--attacks {folder}: attacked on {str(about['suite'])[:60]}, the results are of {after['suite']}; attack on the same suite"
        )
    for role, name in NAMES.items():
        held = about["models"].get(role)
        if held is not None and name in models and held.get("model_fingerprint") != models[name].summary["model_fingerprint"]:
            raise StoreError(f"--attacks {folder}: its {role} has other weights than the results {name} ({models[name].folder})")
    if "model" not in about["models"]:
        raise StoreError(f"--attacks {folder}: names no attacked model; attack again")
    _require_same_numbers(folder, about, finished.rows())
    numbers = [{**{k: n[k] for k in ("attack", "setting", "measure")}, **{NAMES[r]: n.get(r) for r in about["models"] if r in NAMES}}
               for n in about["numbers"]]  # fmt: skip
    leaks = about.get("leaks")
    if leaks is not None:
        require_counted(folder, leaks, ATTACK_FOLDER.summary)
    return {
        "models": [NAMES[role] for role in about["models"] if role in NAMES],
        "attacks": list(dict.fromkeys(n["attack"] for n in numbers)), "numbers": numbers, "sealed": finished.sealed,
        "rows_sha256": about["rows_sha256"], "signed_by": check_signature(folder),
        "leaks": None if leaks is None else _renamed(leaks),
    }  # fmt: skip


def _require_same_numbers(folder: Path, about: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    try:
        again = numbers_again(about, rows)
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError, OverflowError, AttributeError):
        again = None
    if again is None or differs(about["numbers"], again) is not None:
        raise StoreError(f"--attacks {folder}: its numbers are not what its rows give; it was edited, attack again")


def _renamed(leaks: Mapping[str, Any]) -> dict[str, Any]:
    """With the models as the report names them."""
    secrets = [{**s, "found": {NAMES[r]: kinds for r, kinds in s["found"].items() if r in NAMES}} for s in leaks["secrets"]]
    return {**leaks, "answers": {NAMES[r]: kinds for r, kinds in leaks["answers"].items() if r in NAMES}, "secrets": secrets}


def leaks_of(models: Mapping[str, Results]) -> dict[str, Any] | None:
    """The leak checks of the evaluations, model by model, as one; None where the model after unlearning had none.

    Raises StoreError where models were searched for other secrets, or their answers written otherwise.
    """
    after = models["after"].summary.get("leaks")
    if after is None:
        return None
    answers, secrets = {}, [{"name": s["name"], "rows": s["rows"], "found": {}} for s in after["secrets"]]
    for role, results in models.items():
        leaks = results.summary.get("leaks")
        if leaks is None:
            continue
        require_counted(results.folder, leaks, SUITE_FOLDER.summary)
        for field in ("secrets_sha256", "settings"):
            if leaks[field] != after[field]:
                what = "secrets" if field == "secrets_sha256" else "settings of the leak check"
                raise StoreError(f"{results.folder}: other {what} than {models['after'].folder}; check both in the same way")
        answers[role] = leaks["answers"]["model"]
        for mine, theirs in zip(secrets, leaks["secrets"], strict=True):
            mine["found"][role] = theirs["found"]["model"]
    return {"secrets_sha256": after["secrets_sha256"], "settings": after["settings"], "answers": answers, "secrets": secrets}
