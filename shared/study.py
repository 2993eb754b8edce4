"""A study file (TOML): what `tu-train many` trains, what it makes before that, and what `tu-eval many` measures.

    base = "org/model"              # the model of every step that names none
    model = "step:target"           # fields of `tu-train run`; a list takes each of its values in turn
    scores = "step:scores"
    seed = [0, 1, 2]

    [[steps]]                       # made in order, before the runs
    command = "tu-train finetune"   # or "tu-score run"; the other fields are that command's
    out = "target"
    data = "tofu:full"

    [models]                        # measured beside the runs, by label; they are compared with `retain`
    target = "step:target"

    [eval]                          # fields of `tu-eval run`
    suite = "tofu:forget01"

    [benchmarks]                    # fields of `tu-eval benchmarks`
    [choices]                       # fields of `tu-eval choices`

`step:NAME` is what the step with that `out` made; it lies in the folder of the study, as DIR/NAME. `step:base` is the
base itself. Other names are what they are for each command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.config import pairs, read_toml
from shared.errors import ConfigError, nearest

STEP = "step:"
BASE = "base"
NONE = "none"
"""--set TABLE=none: without that table"""
STEPS = {"tu-train finetune": "tu_train.config:FinetuneConfig", "tu-score run": "tu_score.config:ScoreConfig"}
"""commands that a step may name -> their configuration"""
MEASURES = {
    "eval": ("tu-eval run", "tu_eval.measure.config:EvalConfig"),
    "benchmarks": ("tu-eval benchmarks", "tu_eval.harness.config:BenchmarksConfig"),
    "choices": ("tu-eval choices", "tu_eval.choices.config:ChoicesConfig"),
}
"""tables of measurements -> command and configuration"""
OWN = ("options", "template_options", "eval_options")
"""tables that are fields of `tu-train run`"""
TABLES = ("steps", "models", *MEASURES, *OWN)
PLACED = ("model", "out")
"""fields of a measurement that are another for each model"""


@dataclass(frozen=True)
class Step:
    name: str
    """its `out`, the name of its folder in the study's"""
    command: str
    settings: dict[str, Any]
    """fields of the command, with the folder as `out`"""


@dataclass(frozen=True)
class Study:
    path: Path
    runs: dict[str, Any]
    """fields of `tu-train run`, those with several values as lists"""
    steps: tuple[Step, ...] = ()
    models: dict[str, str] = field(default_factory=dict)
    """label -> model"""
    measures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """by table, the fields of its command"""


def load_study(path: Path, out: Path, sets: Sequence[str] = ()) -> Study:
    """`out`: folder of the study; `sets`: `NAME=VALUE` instead of what the file says, where NAME is a field of
    `tu-train run`, `base`, TABLE.FIELD, steps.FIELD (of every step that has it) or steps.NAME.FIELD.

    Raises ConfigError naming the file and what is wrong. Fields and values of the commands are not looked at.
    """
    given = read_toml(path, flag="")
    for name, value in given.items():
        tables = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value))
        if tables and name not in TABLES:
            raise ConfigError(f"{path}: unknown table {name!r}{nearest(name, TABLES)}")
        if name in TABLES and name not in OWN and not tables:
            raise ConfigError(f"{path}: {name} is no table; write [{'[steps]' if name == 'steps' else name}] and its fields below")
    for name, value in pairs(sets, "--set").items():
        _override(given, name, value, path)
    base, steps = given.pop(BASE, None), _steps(path, given.pop("steps", []), out)
    known = {BASE: base} if base is not None else {}
    if base is not None:
        if not isinstance(base, str) or not steps:
            raise ConfigError(f"{path}: base is {base!r:.80}; expected the model that its [[steps]] begin with")
        for step in steps:
            step.settings.setdefault("model", base)
    _place_steps(path, steps, out, known)
    places = {**known, **{step.name: str(out / step.name) for step in steps}}
    models = _placed(given.pop("models", {}), places, f"{path}: models")
    for label, model in models.items():
        if not isinstance(model, str) or not _is_name(label):
            raise ConfigError(f"{path}: models: {label!r:.80}: expected a plain name for its results, and the name of a model")
    measures = {name: _placed(given.pop(name), places, f"{path}: {name}") for name in MEASURES if name in given}
    for name, table in measures.items():
        if wrong := next((n for n in PLACED if n in table), None):
            raise ConfigError(f"{path}: {name}: {wrong} is another for each model, so it is not for the file; models stand in [models]")
    return Study(path, _placed(given, places, str(path)), tuple(steps), models, measures)


def _override(given: dict[str, Any], name: str, value: Any, path: Path) -> None:
    table, _, rest = name.partition(".")
    if name in TABLES and value == NONE:
        given.pop(name, None)
    elif not rest:
        given[name] = value
    elif table == "steps":
        step, _, of = rest.rpartition(".")
        there = [s for s in given.get("steps", []) if isinstance(s, dict) and (s.get("out") == step if step else rest in s)]
        if not there:
            names = [str(s.get("out")) for s in given.get("steps", []) if isinstance(s, dict)]
            what = f"no step {step!r}{nearest(step, names)}" if step else f"none of its steps has {rest!r}; name one: steps.NAME.{rest}"
            raise ConfigError(f"{path}: --set {name}: {what}")
        for found in there:
            found[of] = value
    elif table in TABLES and isinstance(given.get(table, {} if table in (*OWN, "eval") else None), dict):
        given.setdefault(table, {})[rest] = value
    else:
        raise ConfigError(f"{path}: --set {name}: the file has no table {table!r}{nearest(table, [t for t in TABLES if t in given])}")


def _steps(path: Path, tables: Any, out: Path) -> list[Step]:
    steps: list[Step] = []
    for number, table in enumerate(tables, 1):
        settings = dict(table) if isinstance(table, dict) else {}
        command, name = settings.pop("command", None), settings.pop("out", None)
        if command not in STEPS:
            raise ConfigError(f"{path}: step {number}: command is {command!r:.80}{nearest(str(command)[:80], STEPS)}")
        if not _is_name(name) or name == BASE:
            raise ConfigError(f"{path}: step {number}: out is {name!r:.80}; expected a plain name, for its folder in that of the study")
        if name in [step.name for step in steps]:
            raise ConfigError(f"{path}: two steps have the out {name!r}; give each its own")
        steps.append(Step(name, command, {**settings, "out": str(out / name)}))
    return steps


def _is_name(name: Any) -> bool:
    """Can it be the name of a folder in that of the study?"""
    return isinstance(name, str) and bool(name) and not name.startswith(".") and not set(name) & set("/\\:")


def _place_steps(path: Path, steps: Sequence[Step], out: Path, before: Mapping[str, str]) -> None:
    """A step reads what steps before it made."""
    for step in steps:
        step.settings.update(_placed(step.settings, before, f"{path}: step {step.name}"))
        before = {**before, step.name: str(out / step.name)}


def _placed(value: Any, places: Mapping[str, str], where: str) -> Any:
    """With the folder in place of each `step:NAME`, in lists and tables too."""
    if isinstance(value, dict):
        return {name: _placed(entry, places, where) for name, entry in value.items()}
    if isinstance(value, list):
        return [_placed(entry, places, where) for entry in value]
    if not isinstance(value, str) or not value.startswith(STEP):
        return value
    if (name := value.removeprefix(STEP)) not in places:
        raise ConfigError(f"{where}: {value}: no earlier step has that out{nearest(name, places)}")
    return places[name]
