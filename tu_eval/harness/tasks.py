"""lm-eval's tasks: found by name, loaded with their data, written out as questions before a model is asked."""

from __future__ import annotations

import difflib
import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2

from shared.console import say
from shared.errors import ConfigError, DataError
from shared.files.fs import hash_json
from shared.lm.models import check_readable

SHORT = ("wmdp", "wmdp_bio", "wmdp_cyber", "wmdp_chem", "mmlu")
FOLDERS = ("wmdp", "mmlu/default")
"""where lm-eval keeps the tasks of these names; reading all of its 14,000 takes ten seconds"""
BUILD_ERRORS = (
    KeyError, IndexError, TypeError, ValueError, AttributeError, ImportError, SyntaxError, ArithmeticError, AssertionError, RuntimeError,
    jinja2.TemplateError,
)  # fmt: skip
"""what lm-eval raises for a task's YAML, or a row of its data, that it cannot use; it has no error class of its own for
it"""


def load_tasks(names: Sequence[str], include: Path | None) -> dict[str, Any]:
    """lm-eval's tasks and groups of these names, with their data, and which come from `include`. Raises ConfigError or
    DataError naming the task."""
    import numpy
    import torch
    from datasets.exceptions import DatasetsError

    manager = _manager(names, include)
    _require_known(names, manager, include)
    # As lm-eval's own command does before it loads tasks: some draw from these.
    random.seed(0)
    numpy.random.seed(1234)
    torch.manual_seed(1234)
    out: dict[str, Any] = {"tasks": {}, "groups": {}, "group_map": {}}
    for name in names:
        try:
            loaded = manager.load([name])
        except (OSError, DatasetsError, *BUILD_ERRORS) as error:
            raise _unusable(name, error) from None
        twice = sorted(set(loaded["tasks"]) & set(out["tasks"]))
        if twice:
            raise ConfigError(f"--tasks {name}: {twice[0]} is already there, by itself or in another group; name it once")
        for part in ("tasks", "groups", "group_map"):
            out[part] |= loaded.get(part, {})
    out["included"] = [name for name in out["tasks"] if _inside(manager.task_index.get(name), include)]
    for name, task in out["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise ConfigError(
                f"task {name}: runs code that the model writes; this is not done here, use lm-eval's own command in a sandbox"
            )
        if getattr(task, "MULTIMODAL", False):
            raise ConfigError(f"task {name}: asks about pictures or sound, which a causal language model does not read")
    return out


def _manager(names: Sequence[str], include: Path | None) -> Any:
    """lm-eval's index of tasks: of the short names and `include` where that is enough."""
    import lm_eval.tasks

    if include is not None and not include.is_dir():
        raise ConfigError(f"--include {include}: no such folder; expected one with YAML files of tasks")
    mine = [include] if include else []
    root = Path(lm_eval.tasks.__file__).parent
    few = lm_eval.tasks.TaskManager(include_defaults=False, include_path=[*(root / name for name in FOLDERS), *mine])
    index = few.task_index
    # A group of the user's own may hold any task.
    if all(name in index and not (name in few.all_groups and _inside(index[name], include)) for name in names):
        return few
    say("reading lm-eval's list of tasks")
    return lm_eval.tasks.TaskManager(include_path=[*mine] or None)


def _inside(entry: Any, folder: Path | None) -> bool:
    if folder is None or entry is None or entry.yaml_path is None:
        return False
    return folder.resolve() in Path(entry.yaml_path).resolve().parents


def _require_known(names: Sequence[str], manager: Any, include: Path | None) -> None:
    for name in names:
        if name in manager.task_index:
            continue
        close = difflib.get_close_matches(name, manager.all_tasks, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else f" (known, among many: {', '.join(SHORT)}; lm-eval ls tasks lists them)"
        if include is not None:
            own = [n for n, entry in manager.task_index.items() if _inside(entry, include)]
            hint += f"; --include {include} holds {', '.join(own[:10]) if own else 'no YAML file that lm-eval can read'}"
        raise ConfigError(f"--tasks {name}: lm-eval knows no such task{hint}")


def _unusable(name: str, error: Exception) -> ConfigError | DataError:
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    told = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
    reason = f"{type(told).__name__}: {(str(told).splitlines() or [''])[0][:300]}"
    hub = isinstance(error, DatasetNotFoundError) or (isinstance(error, OSError) and not isinstance(error, FileNotFoundError))
    if hub or (isinstance(error, ValueError) and "cache" in reason):  # offline, of a set of which another part was fetched before
        return DataError(
            f"task {name}: its data cannot be had from the hub: {reason}; use a local copy: --include FOLDER with a YAML of that "
            "name whose dataset_path is json or parquet (docs/benchmarks.md), or tu-eval choices --data FILE"
        )
    return ConfigError(f"task {name}: lm-eval cannot use its YAML or its data: {reason}")


def set_shots(tasks: dict[str, Any], shots: int | None, seed: int) -> None:
    """Solved examples before each question, by lm-eval's rule: a task that says 0 stays at 0."""
    for name, task in tasks.items():
        own = task.get_config("num_fewshot")
        if shots and own == 0:
            say(f"task {name}: has no solved examples by its definition; --shots {shots} does nothing for it")
        elif shots is not None or own is None:
            task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=seed)


def build(
    tasks: dict[str, Any], lm: Any, folder: Path, room: int, *, limit: int | None, chat: bool, system: str | None = None
) -> tuple[str, int, int]:
    """Writes every question out, once, before the first forward pass. Raises DataError or ModelError naming the task.

    -> sha256 of what is asked and what is right; the number of questions; and of requests with more than `room` tokens,
    of which lm-eval would cut the beginning.
    """
    digest, questions, long = hashlib.sha256(), 0, 0
    for name, task in tasks.items():
        try:
            with _no_bar():
                task.build_all_requests(
                    limit=limit, rank=lm.rank, world_size=lm.world_size, cache_requests=False, apply_chat_template=chat,
                    fewshot_as_multiturn=True, system_instruction=system, chat_template=lm.apply_chat_template if chat else None,
                )  # fmt: skip
            for request in task.instances:
                asked = [str(a) for a in request.args]
                digest.update(hash_json([name, request.doc_id, request.idx, asked, str(task.doc_to_target(request.doc))]).encode())
                ids = _read(request, lm)
                check_readable(folder, [ids], what=f"task {name}, question {request.doc_id}")
                long += _too_long(request, len(ids), lm, room)
        except BUILD_ERRORS as error:
            # What is wrong with a row is said with the row's own text, but by templates.
            reason = f": {(str(error).splitlines() or [''])[0][:300]}" if isinstance(error, jinja2.TemplateError) else " in one of its rows"
            raise DataError(f"task {name}: lm-eval cannot make its questions: {type(error).__name__}{reason}") from None
        questions += len({request.doc_id for request in task.instances})
        task.build_all_requests = lambda **_: None  # lm-eval would do it again
    return digest.hexdigest(), questions, long


@contextmanager
def _no_bar() -> Iterator[None]:
    """lm-eval shows a bar for each of the 57 tasks of MMLU, and has no switch for it."""
    import lm_eval.api.task as module

    bar = module.tqdm
    module.tqdm = lambda items, **_: items  # type: ignore[assignment]
    try:
        yield
    finally:
        module.tqdm = bar


def _read(request: Any, lm: Any) -> list[int]:
    """The tokens that the model reads."""
    return lm.tok_encode("".join(request.args[:2]) if request.request_type == "loglikelihood" else request.args[0])


def _too_long(request: Any, count: int, lm: Any, room: int) -> bool:
    if request.request_type == "loglikelihood":
        return count > room
    if request.request_type == "generate_until":
        return count + request.args[1].get("max_gen_toks", lm.max_gen_toks) > room
    return False  # a rolling likelihood reads a text of any length in windows
