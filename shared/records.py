"""What a training run says of itself: training.json in the model's folder, the index of a study's runs, and what a
checkpoint keeps so that a run goes on only as it was begun. Written by tu_train, read by tu_train and tu_eval.

Names that this version does not know are kept as they are. Older versions wrote fewer names: what they left out is
None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from shared.errors import StoreError
from shared.files.shape import Maybe, misfit

TRAINING, INDEX = "training.json", "index.json"
Names = Mapping[str, Any]
FORMS: dict[str, Any] = {
    "str": str, "str | None": (str, None), "float | None": (float, None), "int": int, "Names": dict, "Names | None": (dict, None),
    "tuple[str, ...] | None": ([str], None),
}  # fmt: skip
"""annotation -> form of shared/files/shape.py"""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run is made from: fingerprints, and its settings. A checkpoint holds it as `about`."""

    task: str | None = None
    """unlearn or finetune"""
    data: str | None = None
    """fine-tuning: of the rows that are learned"""
    store: str | None = None
    """of the score store of the forget set"""
    stores: tuple[str, ...] | None = None
    """of each of several forget corpora, of whose hashes `store` is then the hash"""
    start_model: str | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    forget_data: str | None = None
    """of the rows that were scored, or that are forgotten without a store"""
    weights: str | None = None
    """which tokens are pushed, in words"""
    threshold: float | None = None
    """that --keep auto found: importance from which on tokens are pushed (of several corpora the mean)"""
    method_code: str | None = None
    """of a method that is no part of tu_train: where it comes from, and its version or hash"""
    layout: Names | None = None
    """how rows were laid out, where that is not the default"""
    given_tokens: str | None = None
    """of the positions that given_key names"""
    retain_data: str | None = None
    retain_store: str | None = None
    retain_outside_top_tokens: float | None = None
    """mean probability outside the top tokens of the retain store"""
    other_answers: str | None = None
    """of the refusals or alternate answers that are learned"""
    eval_tokens: str | None = None
    """of the positions that eval_key names"""
    paraphrases: str | None = None
    """of the answers that paraphrase_key names"""
    settings: Names
    """the resolved configuration, without credentials"""
    more: Names = field(default_factory=dict)
    """names of other versions"""

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises StoreError saying what has another form."""
        known = [f for f in fields(cls) if f.name != "more"]
        if wrong := misfit(value, {f.name: FORMS[str(f.type)] if f.name == "settings" else Maybe(FORMS[str(f.type)]) for f in known}):
            raise StoreError(wrong)
        names = {f.name for f in known}
        given: dict[str, Any] = {name: tuple(found) if isinstance(found, list) else found for name, found in value.items() if name in names}
        return cls(**given, more={name: found for name, found in value.items() if name not in names})

    def to_json(self) -> dict[str, Any]:
        """What is None is left out."""
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "more"}
        return {**{name: value for name, value in known.items() if value is not None}, **self.more}


@dataclass(frozen=True, kw_only=True)
class TrainingRecord(RunRecord):
    """training.json: what a finished run was made from, and what came out."""

    format: int = 1
    counts: Names | None = None
    """rows of each kind, and steps"""
    stopped_early: str | None = None
    """the rule that ended training"""
    changes_nothing: tuple[str, ...] | None = None
    """settings in which two runs of one recipe may differ: they change no result, or name what a fingerprint stands
    for"""
    output_dtype: str | None = None
    torch: str | None = None
    """version"""
    output_fingerprint: str | None = None
    output_files: Names | None = None
    """sha256 of the files beside it (shared/lm/finished.py)"""

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings that make two runs of them seeds of one recipe."""
        names = without_effect(self.settings) if self.changes_nothing is None else self.changes_nothing
        return {name: value for name, value in self.settings.items() if name not in names and name != "seed"}


def without_effect(settings: Names) -> frozenset[str]:
    """`changes_nothing` of runs of earlier versions, which did not write it."""
    names = {"out", "resume", "save_every", "keep_checkpoints", "trackers", "device", "batch_tokens", "checkpointing"}
    names |= {"model", "scores", "retain_scores"}  # what they name is compared by fingerprints
    return frozenset(names if settings.get("stop_when") is not None else names | {"eval_every"})


@dataclass(frozen=True, kw_only=True)
class IndexedRun:
    """An entry of index.json."""

    name: str
    folder: str
    """from the folder of the index"""
    settings: Names | None = None
    status: str = "waiting"
    """waiting, finished or failed"""
    error: str | None = None
    """why it failed"""


@dataclass(frozen=True)
class Index:
    """index.json: the runs of a study, in its order."""

    runs: tuple[IndexedRun, ...]

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises StoreError saying what has another form."""
        if not isinstance(value, dict) or value.get("format") != 1 or not isinstance(value.get("runs"), list):
            raise StoreError('not an index of runs of format 1; expected {"format": 1, "runs": [...]}')
        runs = []
        for number, run in enumerate(value["runs"]):
            if not isinstance(run, dict) or not isinstance(run.get("folder"), str):
                raise StoreError(f"run {number} names no folder; the file is damaged, make it again")
            if not all(isinstance(run.get(name) or "", str) for name in ("name", "status")):
                raise StoreError(f"run {number} has a folder, name or status that is none; the file is damaged, make it again")
            settings, error = run.get("settings"), run.get("error")
            runs.append(
                IndexedRun(
                    name=run.get("name") or run["folder"],
                    folder=run["folder"],
                    settings=settings if isinstance(settings, dict) else None,
                    status=run.get("status") or "waiting",
                    error=str(error).strip() if error else None,
                )
            )
        return cls(tuple(runs))

    def to_json(self) -> dict[str, Any]:
        return {"format": 1, "runs": [vars(run) for run in self.runs]}
