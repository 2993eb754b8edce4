"""`tu-train many STUDY.toml --out DIR`: every combination of a study, one run after another.

A study holds the fields of `tu-train run` but out and resume. A field with a list takes each of its values in turn:

    model = "target"
    scores = "scores"
    retain = "tofu:retain99"
    method = ["npo", "simnpo"]
    tokens = ["all", "hard"]
    keep = [0.1, 0.3]
    seed = [0, 1, 2]
    train_only = [["*.mlp.*"], ["*.mlp.*", "*.self_attn.*"]]   # a field that is a list by itself: a list of lists
    [options]
    beta = [0.05, 0.1]

Order: that of nested loops, the first field of the file outermost. What a combination has no use for is left out of it:
a token setting that its token mode does not know (keep with tokens = "all"), an option that its method does not have, a
LoRA setting where lora is 0. Combinations that become equal are one run (here `all` is run once for each method, seed,
train_only and beta). A value that no combination uses is an error, and so is any combination that `tu-train run` would
refuse: both before the first run.

A run is what it is made from: its resolved settings, with the content of model, stores, data and files in place of
their names. The hash of that ends the name of its folder, so a run is finished whatever the study is called or lists
besides it, and an edited study trains anew only what changed. DIR/index.json is written after each run, and before the
first:

    {"format": 1, "runs": [{"name", "folder" (inside DIR), "settings", "status": waiting | finished | failed, "error":
    text or null}]}

A run is finished when its folder is complete by its own training.json; whatever else has its name is not.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

from shared.config import as_dict, checked, read_toml, resolve
from shared.console import say
from shared.data.datasets import Keys, load_rows
from shared.errors import ConfigError, StoreError, UserError
from shared.extensions import identity
from shared.files.fs import hash_file, hash_json, write_json
from shared.files.lock import locked
from shared.files.storage import open_place
from shared.lm.models import locate, model_fingerprint
from shared.secret import lacks_secrets, without_secrets, without_secrets_in
from shared.store.scores import open_store
from shared.weighting.weights import Selection
from tu_train.config import UnlearnConfig
from tu_train.methods.table import METHOD, find_method
from tu_train.run import run_unlearn
from tu_train.saving.record import complete, recorded_settings
from tu_train.saving.working_folder import UNFINISHED, tidy, unfinished

INDEX = "index.json"
LONGEST = 150
"""characters of a run's name in that of its folder; the hash behind it tells runs apart"""
NOT_OF_THE_RESULT = ("out", "resume", "save_every", "keep_checkpoints")
NAMES = ("model", "scores", "retain", "retain_scores", "forget_data", "refusals")
"""fields whose content counts, not their text"""
LORA = ("lora_alpha", "lora_targets")
HASH_LENGTH = 10
PIECE_LENGTH = 40
OPTION = "options."

Values = dict[str, Any]
"""settings of one combination; an option of the method is `options.NAME`"""


@dataclass
class Run:
    name: str
    """what varies in the study, readable"""
    config: UnlearnConfig
    content: str
    status: Literal["waiting", "finished", "failed"] = "waiting"
    error: str | None = None

    def entry(self) -> dict[str, Any]:
        return {"name": self.name, "folder": Path(self.config.out).name, "settings": recorded_settings(self.config), "status": self.status,
                "error": self.error}  # fmt: skip


def run_many(study: Path, out: Path) -> list[Run]:
    """Runs what is not finished yet; a failed run is noted and the next one begins. Raises UserError for a study that
    cannot be run."""
    runs = plan(study, out)
    if out.exists() and not out.is_dir():
        raise StoreError(f"{out}: is a file; --out wants a folder for the runs")
    out.mkdir(parents=True, exist_ok=True)
    with locked(open_place(out)):
        waiting = [run for run in runs if run.status == "waiting"]
        done = [run for run in runs if run.status == "finished"]
        say(f"{len(runs)} runs, {len(done)} of them finished")
        for run in done:
            tidy(Path(run.config.out))
        _write_index(out, runs)
        for number, run in enumerate(waiting, start=1):
            say(f"run {number} of {len(waiting)}: {run.name}")
            _run(run)
            _write_index(out, runs)
    return runs


def _run(run: Run) -> None:
    try:
        run_unlearn(replace(run.config, resume=unfinished(Path(run.config.out)).exists()))
    except Exception as error:  # whatever it is, a night's other runs do not depend on it
        if not isinstance(error, UserError):
            traceback.print_exc()
        said = f"{'' if isinstance(error, UserError) else type(error).__name__ + ': '}{error}"
        run.status, run.error = "failed", without_secrets(" ".join(said.split()))
        say(f"{run.name} failed: {run.error}")
    else:
        run.status = "finished"


def _write_index(out: Path, runs: list[Run]) -> None:
    write_json(out / INDEX, {"format": 1, "runs": [run.entry() for run in runs]})


def plan(study: Path, out: Path) -> list[Run]:
    """All runs of a study in order, those whose folders are there as finished. Writes nothing."""
    axes = _axes(study)
    runs: dict[str, Run] = {}
    contents: dict[tuple[str, ...], str] = {}
    for values in _combinations(axes, study):
        name = _name(values, axes)
        config = _config(values, study, name)
        content = _content(config, contents)
        if content not in runs:
            runs[content] = _placed(Run(name, config, content), out)
    return list(runs.values())


def _placed(run: Run, out: Path) -> Run:
    """With its folder: that of the finished run, or of one that was begun, wherever a study put it, or a new one."""
    own = out / f"{run.name[:LONGEST]}-{run.content}"
    begun = [p.with_suffix("") for p in sorted(out.glob(f"[!.]*-{run.content}{UNFINISHED}"))]
    folder, status, error = (*begun, own)[0], "waiting", None
    for found in sorted(out.glob(f"[!.]*-{run.content}")):  # a killed run's half-written folder begins with a dot
        try:
            record = complete(found)
        except StoreError as damaged:
            folder, status, error = found, "failed", f"{damaged}; delete {found} to train it again"
            continue
        if record is not None:
            folder, status, error = found, "finished", None
            break
    return replace(run, config=replace(run.config, out=str(folder)), status=status, error=error)


def _axes(study: Path) -> dict[str, list[Any]]:
    """The values of each field of the file, in the file's order."""
    axes: dict[str, list[Any]] = {}
    hints = get_type_hints(UnlearnConfig)
    for field, given in read_toml(study, flag="").items():
        if field in ("out", "resume"):
            raise ConfigError(f"{study}: {field} is not for a study: --out is the folder of all runs, and unfinished runs are resumed")
        table = given if field == "options" and isinstance(given, dict) else None
        for name, value in {f"{OPTION}{k}": v for k, v in table.items()}.items() if table is not None else [(field, given)]:
            lists = get_origin(hints.get(name)) is tuple
            several = isinstance(value, list) and (not lists or any(isinstance(v, list) for v in value))
            if several and not value:
                raise ConfigError(f"{study}: {name} is an empty list, expected at least one value")
            checks = [checked(UnlearnConfig, _nested({name: v}), str(study)) for v in (value if several else [value])]
            axes[name] = [c["options"][name.removeprefix(OPTION)] if table is not None else c[field] for c in checks]
    return axes


def _combinations(axes: Mapping[str, list[Any]], study: Path) -> list[Values]:
    """The product, each combination without what it cannot use. Raises ConfigError for a value that none can use."""
    out: list[Values] = []
    refused: dict[tuple[str, Any], str] = {}
    for chosen in product(*axes.values()):
        out.append(_usable(dict(zip(axes, chosen, strict=True)), refused))
    used = {item for values in out for item in values.items()}
    for (name, value), why in refused.items():
        if (name, value) not in used:
            raise ConfigError(f"{study}: {name} = {value}: no combination of the study can use it: {why}")
    return out


def _usable(values: Values, refused: dict[tuple[str, Any], str]) -> Values:
    """`values` without what it has no use for, which goes to `refused` with the reason."""
    defaults = {f.name: f.default for f in fields(UnlearnConfig)}
    settings = {f.name for f in fields(Selection)} - {"tokens", "seed"}
    method = values.get("method", defaults["method"])
    selection: dict[str, Any] = {"tokens": values.get("tokens", defaults["tokens"])}
    kept: Values = {}
    for name, value in values.items():
        if name in settings:
            try:
                Selection(**selection, **{name: value})
            except ConfigError as error:
                refused[name, value] = str(error)
                continue
            selection[name] = value
        elif name.startswith(OPTION) and name.removeprefix(OPTION) not in find_method(method).options:
            refused[name, value] = f"{method} has the options: {', '.join(find_method(method).options) or 'none'}"
            continue
        elif name in LORA and not values.get("lora"):
            refused[name, value] = "it is for a LoRA rank above 0"
            continue
        kept[name] = value
    return kept


def _config(values: Values, study: Path, name: str) -> UnlearnConfig:
    try:
        return resolve(UnlearnConfig, flags={**_nested(values), "out": "-"})
    except ConfigError as error:
        raise ConfigError(f"{study}: {name}: {error}") from None


def _nested(values: Values) -> dict[str, Any]:
    """As UnlearnConfig has it: options in one mapping."""
    options = {k.removeprefix(OPTION): v for k, v in values.items() if k.startswith(OPTION)}
    return {k: v for k, v in values.items() if not k.startswith(OPTION)} | ({"options": options} if options else {})


def _content(config: UnlearnConfig, known: dict[tuple[str, ...], str]) -> str:
    """Hash of what the run is made from. `known` keeps the hashes of what several runs share."""
    config = config.filled()
    reading = (*map(str, vars(config.keys).values()), str(config.limit), config.given_key, str(config.alternate_key))
    hashes: dict[str, Callable[[str], str]] = {
        "model": lambda name: model_fingerprint(locate(name)),
        "scores": lambda name: open_store(name).sha256,
        "retain": lambda name: _hash_rows(name, config),
        "retain_scores": lambda name: open_store(name).sha256,
        "forget_data": lambda name: _hash_rows(name, config),
        "refusals": _hash_refusals,
    }
    parts = {}
    for field in NAMES:
        name = getattr(config, field)
        key = (field, str(name), *reading)
        if name is not None and key not in known:
            known[key] = name if (field, name) == ("retain", "none") else hashes[field](name)
        parts[field] = known.get(key)
    if columns := _columns(config):
        key = ("columns", str(config.forget_data or config.scores), *columns, *reading)
        if key not in known:
            known[key] = _hash_columns(config, columns)
        parts["columns"] = known[key]
    if (code := identity(METHOD, config.method)) is not None:
        parts["method_code"] = code
    settings = {k: v for k, v in as_dict(config).items() if k not in (*NOT_OF_THE_RESULT, *NAMES)}
    return hash_json({"settings": without_secrets_in(settings), **parts})[:HASH_LENGTH]


def _hash_rows(spec: str, config: UnlearnConfig) -> str:
    """Of all that a run may read of them."""
    wanted = (config.given_key, config.alternate_key)
    rows = load_rows(spec, keys=config.keys, limit=config.limit)
    return hash_json([[r.id, r.question, r.answer, *(repr(r.extra.get(key)) for key in wanted if key)] for r in rows])


def _columns(config: UnlearnConfig) -> list[str]:
    """Columns of the scored data that the run reads, beyond those that the hash of forget_data holds already."""
    read = {
        config.given_key if config.tokens == "given" else None,
        config.alternate_key if "alternate" in find_method(config.method).needs and config.alternates == "column" else None,
        config.eval_key if config.eval_every else None,
        config.paraphrase_key if config.eval_every else None,
    }
    held = {config.given_key, config.alternate_key} if config.forget_data is not None else set()
    return sorted(name for name in read - held if name is not None)


def _hash_columns(config: UnlearnConfig, columns: list[str]) -> str:
    """Of what stands in them now: the store's own fingerprint is that of its texts alone."""
    options = open_store(config.scores).manifest["options"]
    spec = config.forget_data or options["data"]
    if lacks_secrets(spec):
        raise ConfigError(
            f"{without_secrets(config.scores)}: scored from {spec}, whose credentials are not kept; name the data with forget_data"
        )
    keys = Keys(options["question_key"], options["answer_key"], options.get("text_key"))
    rows = load_rows(spec, keys=keys, limit=options.get("limit"))
    return hash_json([[r.id, *(repr(r.extra.get(name)) for name in columns)] for r in rows])


def _hash_refusals(name: str) -> str:
    if not Path(name).is_file():
        raise ConfigError(f"refusals {name}: no such file; expected one refusal a line")
    return hash_file(Path(name))


def _name(values: Values, axes: Mapping[str, list[Any]]) -> str:
    """Method, tokens, then every other field that varies: npo-hard-keep0.3-seed1."""
    varying = [k for k, v in axes.items() if len(v) > 1 and k in values and k not in ("method", "tokens")]
    pieces = [(name, str(values[name])) for name in ("method", "tokens") if name in values]
    return "-".join([_piece("", value) for _, value in pieces] + [_piece(k.removeprefix(OPTION), values[k]) for k in varying]) or "run"


def _piece(name: str, value: Any) -> str:
    """As a part of a file's name; of a path its last part."""
    text = "+".join(map(str, value)) if isinstance(value, tuple) else str(value).rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9._+]", "_", name + text)[:PIECE_LENGTH]
