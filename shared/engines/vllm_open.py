"""The one place where vLLM is opened and closed, whoever asks for it: our two engines, and lm-eval's backend.

A process holds one vLLM at a time. What they share is here: environment, device and threads before it starts, one line
of error where it does not take a model, and the memory afterwards.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from shared.engines.vllm_setup import ENGINE, Choice, fitting_device, free, prepare_environment, require_vllm, threads_for_each_rank
from shared.errors import ModelError

MAX_SEQUENCES = 256
"""requests in one forward pass at most; fixed, because vLLM's own default depends on the machine and changes which rows
share a step"""
LOAD_ERRORS = (
    ValueError, RuntimeError, NotImplementedError, KeyError, AttributeError, TypeError, AssertionError, ImportError, OSError, IndexError,
)  # fmt: skip
"""what vLLM raises for a model or an option that it does not take; it has no error class of its own for it"""
_open: weakref.WeakSet[Any] = weakref.WeakSet()
"""the vLLM of this process: its process groups are global, and closing one would take them from another"""

Holder = TypeVar("Holder")


def prepare_vllm(device: str | None, *, scoring: bool, choice: Choice = ENGINE) -> str:
    """Before anything of vLLM is imported -> its device type. `scoring`: with our pooler in place of generation.

    Raises ConfigError where vLLM is not installed or built for another device.
    """
    if _open:
        raise RuntimeError("a vLLM engine is open in this process; close it first")
    require_vllm(choice)
    prepare_environment(scoring=scoring)
    return fitting_device(device, choice)


def start_vllm(
    start: Callable[[], Holder],
    try_out: Callable[[Any], None] = lambda llm: None,
    *,
    refusal: str,
    ranks: int = 1,
    choice: Choice = ENGINE,
    llm_of: Callable[[Holder], Any] = lambda llm: llm,
) -> Holder:
    """What `start()` gives, which is vLLM's own object or holds it (`llm_of`); after `prepare_vllm`.

    `try_out(llm)` runs a first forward pass. Raises ModelError (`refusal`, vLLM's reason, what to use instead) for a
    model that it does not take; nothing of vLLM is left then. `ranks`: processes on a CPU, each with its own threads.
    """
    import torch

    set_num_threads = torch.set_num_threads  # the CPU worker replaces it with a function that refuses
    holder = None
    try:
        with threads_for_each_rank(ranks):
            holder = start()
        try_out(llm_of(holder))
        _open.add(llm_of(holder))
        return holder
    except Exception as error:
        if holder is not None:
            llm_of(holder).llm_engine.engine_core.shutdown()
        if not isinstance(error, LOAD_ERRORS) and type(error) is not Exception:  # bare: a worker process of vLLM failed
            raise
        reason = _reason(error)
    finally:
        torch.set_num_threads = set_num_threads
    del holder
    free()
    raise ModelError(f"{refusal}: {reason}; use {choice.without}")


def close_vllm(holder: Any, name: str) -> None:
    """Shuts down the vLLM that `holder` has under `name`, takes it from there and frees weights and cache."""
    llm = getattr(holder, name)
    llm.llm_engine.engine_core.shutdown()
    delattr(holder, name)
    _open.discard(llm)
    del llm
    free()


def _reason(error: Exception) -> str:
    """The last line that says something; pydantic closes with a link and the type of the value."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "errors.pydantic.dev" not in line]
    return lines[-1].split(" [type=")[0].removeprefix("Value error, ")[:300] if lines else type(error).__name__
