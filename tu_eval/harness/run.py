"""Benchmarks that others have defined (WMDP, MMLU, whatever lm-eval knows), asked through lm-eval (extra `[eval]`).

Tasks, prompts and metrics are lm-eval's. The model is opened as everywhere here: safetensors only, no code from its
folder. Every question is written out before the first forward pass, so that bad tasks and data are refused early, and
what was asked has a fingerprint.

    benchmark.json  metrics with standard errors for each task and group, and what they belong to
    rows.parquet    one row a question: the log-likelihood of each choice (or the text written), and its metrics
    _config.toml    the settings, as --config reads them back
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.config import as_dict
from shared.console import number_of, say
from shared.data.layout import layout_of, say_layout
from shared.errors import ConfigError, DataError, ModelError, printable
from shared.files.fs import hash_file
from shared.files.outputs import claims
from shared.files.shape import Count, Maybe, Named, Text
from shared.lm import models
from shared.lm.saved import GENERATION
from tu_eval.harness.config import BenchmarksConfig
from tu_eval.measure.model_folder import find_model
from tu_eval.results.folder import ROWS, FolderKind, ResultRow, write_folder

if TYPE_CHECKING:
    import pyarrow

FORM = {
    "metrics": Named({}), "questions": Count(), "tasks": Maybe(Named({"questions": Count()})), "groups": Maybe(Named({"tasks": [Text()]})),
}  # fmt: skip
BENCHMARKS_FOLDER = FolderKind("benchmark.json", "tu-eval benchmarks", FORM)
PACKAGES = ("lm_eval", "torch", "transformers", "datasets")
NO_NUMBERS = ("model", "tasks", "out", "include", "task_code", "device")
"""fields of the configuration that stand elsewhere in benchmark.json, or say nothing of the numbers"""


@claims("the numbers of one model")
def run_benchmarks(config: BenchmarksConfig) -> dict[str, Any]:
    """Writes the folder and returns what benchmark.json holds. Raises UserError before the first question for all that
    cannot fit."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")  # of lm-eval's progress bars; read when tqdm is imported, by what follows
    from tu_eval import harness
    from tu_eval.harness import backends, tasks, trust

    out = Path(config.out)
    harness.require_lm_eval()
    folder = find_model(config.model)
    tokenizer = _tokenizer(config, folder)
    about = {
        "model": config.model,
        "model_fingerprint": models.model_fingerprint(folder),
        "tokenizer_fingerprint": models.tokenizer_fingerprint(tokenizer),
        "template_fingerprint": models.template_fingerprint(tokenizer),
        "generation_sha256": hash_file(wishes) if (wishes := folder / GENERATION).is_file() else None,
    }
    include = Path(config.include) if config.include else None
    with harness.said_once(), trust.sandboxed():
        if include is not None and not config.task_code:
            trust.refuse_code(include)
        loaded = tasks.load_tasks(config.tasks, include)
        tasks.set_shots(loaded["tasks"], config.shots, config.seed)
        if tokenizer.chat_template and not config.chat_template:
            say(f"{config.model} has a chat template; the questions are asked without it (--chat-template asks in it)")
        lm, engine = backends.open_model(folder, tokenizer, config)
        try:
            room = backends.room(lm, config.backend)
            if config.chat_template:
                backends.lay_out_as(lm, config.backend, layout_of(tokenizer))
                say_layout(tokenizer, config.model)
            system = config.system if config.chat_template else None
            asked, questions, long = tasks.build(
                loaded["tasks"], lm, folder, room, limit=config.limit, chat=config.chat_template, system=system
            )
            if long:
                _refuse_or_say(config.long, f"{number_of(long, 'prompt')} with more than the {room} tokens that fit")
            say(f"asking {config.model} {number_of(questions, 'question')} of {number_of(len(loaded['tasks']), 'task')}")
            results = backends.ask(lm, loaded, limit=config.limit, chat=config.chat_template)
        finally:
            backends.close(lm, config.backend)
    rows = backends.rows(results)
    about |= {
        "data_fingerprint": asked,
        "engine": engine,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "settings": {k: v for k, v in as_dict(config).items() if k not in NO_NUMBERS},
        "questions": questions,
        "prompts_cut": long,
        "tasks": {name: _described(name, results, name in loaded["included"]) for name in loaded["tasks"]},
        "groups": {name: {"version": results["versions"].get(name), "tasks": list(loaded["group_map"][name])} for name in loaded["groups"]},
        "metrics": {name: found for name in results["results"] if (found := backends.numbers(results["results"][name]))},
    }
    return write_folder(out, BENCHMARKS_FOLDER, about, {ROWS: (schema(rows), rows)}, config)


def _tokenizer(config: BenchmarksConfig, folder: Path) -> Any:
    """Laid out where the chat template is asked for. Raises ModelError where the model has none."""
    tokenizer = models.load_tokenizer(folder)
    if config.chat_template and not tokenizer.chat_template:
        raise ModelError(f"model {config.model}: has no chat template, which --chat-template asks for; leave it out to ask in plain text")
    if config.chat_template:
        tokenizer = models.load_laid_out(config.model, folder, config)
    elif config.system is not None:
        raise ConfigError("--system: without --chat-template there is no system turn; add it, or drop the system prompt")
    return tokenizer


def _refuse_or_say(long: str, what: str) -> None:
    if long == "error":
        raise DataError(f"{what}; use --long truncate, which cuts their beginning")
    say(f"{what}: their beginning is cut (--long truncate)")


def _described(name: str, results: dict[str, Any], included: bool) -> dict[str, Any]:
    config, count = results["configs"][name], results["n-samples"][name]
    return {
        "version": results["versions"][name],
        "shots": results["n-shot"][name],
        "questions": count["effective"],
        "of": count["original"],
        "defined_by": "--include" if included else "lm-eval",
        "data": "/".join(str(part) for part in (config.get("dataset_path"), config.get("dataset_name")) if part),
    }


def schema(rows: Sequence[ResultRow]) -> pyarrow.Schema:
    """Beside what every task gives, a column of numbers for each metric of these rows."""
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    fixed = [("task", text), ("question", pa.int32()), ("filter", text), ("answer", text)]
    fixed += [("loglikelihoods", pa.list_(number)), ("responses", pa.list_(text))]
    measured = sorted({name for row in rows for name in row} - {name for name, _ in fixed})
    return pa.schema([*fixed, *((name, number) for name in measured)])


def print_benchmarks(about: dict[str, Any]) -> None:
    """A line a task or group and metric: what belongs to no group, then groups within groups, then their tasks."""
    within = {name for group in about["groups"].values() for name in group["tasks"]}
    for name in sorted(about["metrics"], key=lambda name: (name in within, name not in about["groups"])):
        found = about["metrics"][name]
        for metric, value in found.items():
            if "_stderr" in metric:
                continue
            base, _, chosen = metric.partition(" ")
            error = found.get(f"{base}_stderr {chosen}".strip())
            shown = "none" if value is None else f"{value:.4f}" + (f" ± {error:.4f}" if error is not None else "")
            print(printable(f"{name} {metric}: {shown}"))
    print(f"questions: {about['questions']}")
