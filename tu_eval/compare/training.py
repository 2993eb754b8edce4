"""How a measured model was made: training.json in its folder, believed only while the folder still holds the weights
that were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import StoreError, UserError
from shared.files.fs import TEMPORARY, hash_json, read_json, read_object
from shared.files.shape import Text, misfit
from shared.lm import models
from shared.lm.finished import check_output
from shared.records import INDEX, TRAINING, Index, IndexedRun, TrainingRecord
from tu_eval.measure.model_folder import local_folder
from tu_eval.results.columns import said
from tu_eval.results.results import SUMMARY, Results

WHAT = {"task": "task", "store": "scores", "start_model": "model", "forget_data": "forget_data", "retain_store": "retain_scores"}
"""what a run is made from, by content -> the setting that names it"""


@dataclass(frozen=True)
class Training:
    record: TrainingRecord
    """training.json; from an index of many runs, its settings alone"""

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.record.settings

    @property
    def about(self) -> dict[str, Any]:
        """What it was made from and what came out, but for its settings."""
        return {name: value for name, value in self.record.to_json().items() if name not in ("settings", "changes_nothing")}

    @property
    def method(self) -> str | None:
        return self.settings.get("method")

    @property
    def tokens(self) -> str | None:
        return self.settings.get("tokens")

    @property
    def seed(self) -> int | None:
        return self.settings.get("seed")

    @property
    def told(self) -> dict[str, tuple[Any, str]]:
        """Everything that the key is made of, in words: name -> (what is compared, what is shown)."""
        recipe = self.record.recipe
        known = {name: (value, said(value)) for name, value in recipe.items() if name != "options"}
        known |= {name: (value, said(value)) for name, value in (recipe.get("options") or {}).items()}
        named = {**self.settings, "forget_data": self.settings.get("forget_data", self.settings.get("forget"))}
        known |= {name: (getattr(self.record, what), said(named.get(name))) for what, name in WHAT.items()}
        if (code := self.record.method_code) is not None:
            known["method_code"] = (code, code.rpartition(":")[2][:8])
        # Of a place the last part: a label has no room for more.
        return {name: (value, shown.rstrip("/").rsplit("/", 1)[-1]) for name, (value, shown) in known.items()}

    @property
    def key(self) -> str:
        """Equal for seeds of one recipe."""
        made_from = {what: getattr(self.record, what) for what in (*WHAT, "method_code")}
        return hash_json([made_from, self.record.recipe])


def find_training(results: Results, indexed: Mapping[str, Mapping[str, Any]] | None = None) -> tuple[Training | None, str]:
    """-> how the model was trained, or None and why that is not known. `indexed`: settings by absolute model folder."""
    folder = local_folder(results.summary["model"])
    if folder is None:
        return None, "the model's folder is not on this machine"
    path, settings = folder / TRAINING, (indexed or {}).get(str(folder.resolve()))
    if not path.is_file() and settings is None:
        return None, f"no {TRAINING} in the model's folder"
    try:
        fingerprint = models.model_fingerprint(folder)
        if fingerprint != results.summary["model_fingerprint"]:
            return None, "the model's folder holds other weights than those measured"
        check_output(folder, fingerprint)
        about = read_json(path, hint="train again") if path.is_file() else {"settings": settings}
    except (UserError, OSError) as error:
        return None, " ".join(str(error).split())
    if not isinstance(about, dict) or not isinstance(about.get("settings"), dict):
        return None, f"{TRAINING} holds no settings"
    try:
        record = TrainingRecord.from_json(about)
    except StoreError as error:
        return None, f"{TRAINING} has another form than training writes ({error})"
    if wrong := _of_another_form(record):
        return None, f"{TRAINING} has another form than training writes ({wrong})"
    return Training(record), ""


def _of_another_form(record: TrainingRecord) -> str:
    """The first field that is not what it must be to be compared and shown, or nothing."""
    settings = record.settings
    named = {k: getattr(record, k) for k in (*WHAT, "retain_data", "method_code")}
    texts = {**named, **{k: settings.get(k) for k in ("method", "tokens")}}
    wrong = [name for name, value in texts.items() if misfit(value, (Text(), None))]
    seed, options = settings.get("seed"), settings.get("options")
    wrong += ["seed"] if isinstance(seed, bool) or not isinstance(seed, int | None) else []
    return next(iter([*wrong, *(["options"] if not isinstance(options, dict | None) else [])]), "")


@dataclass(frozen=True)
class RunFolder:
    """A run of an index, and where its folder is."""

    run: IndexedRun
    folder: Path

    @property
    def place(self) -> str:
        return str(self.folder.absolute()) if local_folder(str(self.folder)) is None else str(self.folder.resolve())

    @property
    def results(self) -> list[Path]:
        """Finished evaluations: the run's folder itself, or a folder in it."""
        inside = sorted(p for p in self.folder.iterdir() if p.is_dir()) if local_folder(str(self.folder)) is not None else []
        # A killed run may have left a folder that has not got its name yet.
        places = [self.folder, *(p for p in inside if not p.name.startswith(TEMPORARY))]
        return [place for place in places if (place / SUMMARY).is_file()]


def read_index(path: Path) -> list[RunFolder]:
    """Folders that are not absolute are taken from the index's place. Raises StoreError for a file that is no index."""
    if path.is_dir():
        raise StoreError(f"--index {path}: is a folder; expected the file that tu-train many writes, {path / INDEX}")
    if not path.is_file():
        raise StoreError(f"--index {path}: no such file; expected the {INDEX} that tu-train many writes into its --out folder")
    found = read_object(path, hint="expected what tu-train many writes; make it again")
    try:
        index = Index.from_json(found)
    except StoreError as error:
        raise StoreError(f"--index {path}: {error}") from None
    for number, run in enumerate(index.runs):
        if any(misfit(name, Text()) for name in (run.folder, run.name, run.status)) or "\0" in run.folder:
            raise StoreError(f"--index {path}: run {number} has a folder, name or status that is none; the file is damaged, make it again")
    return [RunFolder(run, path.parent / run.folder) for run in index.runs]
