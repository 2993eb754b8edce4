"""Task files of others run no code: what lm-eval would import or fetch for them is refused, and their templates are
rendered in a sandbox.

lm-eval's own tasks are part of an installed package, and their functions run as such.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shared.errors import ConfigError

REFUSED = {
    "class": "names Python code for the whole task",
    "custom_dataset": "names Python code for its data",
    "use_prompt": "takes its prompt from another package",
}
"""fields of a YAML file that lm-eval follows into code"""
MOST = 100_000
"""values of one file"""


class _Function:
    """What stands behind `!function`."""


@contextmanager
def sandboxed() -> Iterator[None]:
    """lm-eval renders doc_to_text and its like without any sandbox, so that a template reaches Python's builtins; here
    in one."""
    import lm_eval.utils

    module: Any = lm_eval.utils
    plain = module.env
    safe = ImmutableSandboxedEnvironment(loader=jinja2.BaseLoader(), undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    safe.filters["regex_replace"] = plain.filters["regex_replace"]
    module.env = safe
    try:
        yield
    finally:
        module.env = plain


def refuse_code(folder: Path) -> None:
    """Raises ConfigError for a YAML file in the folder that has lm-eval import or fetch code, or that includes a file
    from elsewhere."""
    for file in sorted(p for suffix in ("yaml", "yml") for p in folder.rglob(f"*.{suffix}")):
        _refuse(file, folder.resolve(), set())


def _refuse(file: Path, root: Path, seen: set[Path]) -> None:
    import lm_eval.tasks

    place = file.resolve()
    if place in seen or place.is_relative_to(Path(lm_eval.tasks.__file__).parent):
        return
    if not place.is_relative_to(root):
        raise ConfigError(f"--include: {file} lies outside of {root}; put a copy into the folder")
    seen.add(place)
    value = _read(file)
    for key, held in _pairs(file, value):
        problem = _problem(key, held)
        if problem:
            raise ConfigError(
                f"--include: {file} {problem}, which is not run; if you trust the folder as you trust a program, --set task_code=true"
            )
    named = value.get("include") if isinstance(value, dict) else None
    for name in named if isinstance(named, list) else [named]:
        if isinstance(name, str):
            _refuse(file.parent / name, root, seen)


def _read(file: Path) -> Any:
    """None for what lm-eval cannot read either, and so leaves out."""
    import yaml

    base: Any = yaml.CSafeLoader if getattr(yaml, "__with_libyaml__", False) else yaml.FullLoader

    class Loader(base): ...

    Loader.add_constructor("!function", lambda *_: _Function())
    try:
        with open(file, "rb") as handle:
            return yaml.load(handle, Loader=Loader)  # noqa: S506 — a safe loader
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, OSError):
        return None


def _pairs(file: Path, value: Any) -> Iterator[tuple[Any, Any]]:
    """Every key with its value, and every entry of a list with None; values that YAML's references repeat once."""
    left, seen = [value], set()
    while left:
        held = left.pop()
        if id(held) in seen:
            continue
        seen.add(id(held))
        if len(seen) > MOST:
            raise ConfigError(f"--include: {file} has more than {MOST:,} values, which no task has")
        pairs = list(held.items()) if isinstance(held, dict) else [(None, v) for v in held] if isinstance(held, list) else []
        yield from pairs
        left += [v for _, v in pairs if isinstance(v, dict | list)]


def _problem(key: Any, value: Any) -> str:
    if isinstance(value, _Function) or isinstance(key, _Function):
        return f"names a Python function{f' as {key}' if isinstance(key, str) else ''} (!function)"
    if key in REFUSED and value is not None:
        return f"{REFUSED[key]} ({key})"
    if key == "hf_evaluate" and value is True:
        return "takes a metric from the hub (hf_evaluate)"
    if key == "trust_remote_code" and value:
        return "wants the code of a data set run (trust_remote_code)"
    if key == "metric" and isinstance(value, str) and not _known_metric(value):
        return f"names the metric {value[:60]!r}, which lm-eval does not know and would take from the hub"
    return ""


def _known_metric(name: str) -> bool:
    import lm_eval.api.metrics  # noqa: F401 — fills the registry
    from lm_eval.api.registry import metric_registry

    return name in metric_registry
