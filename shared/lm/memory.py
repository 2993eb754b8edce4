"""How this process gives memory back, and how numbers get from it to a device.

Every layer makes activations of a few MiB and drops them again. A C library that returns them to the system each time
makes the system clear the same pages again and again, which takes as long as a small matrix product.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""names and values of glibc's malloc.h"""
LARGEST = 1 << 30
"""bytes; what is larger still goes back at once"""

LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
"""says whether a process may ask for pages of 2 MiB"""
VARIABLE = "THP_MEM_ALLOC_ENABLE"
"""makes torch ask"""


def keep_freed_memory() -> bool:
    """Asks glibc to keep what is freed for the next allocation; resident memory then stays at its peak. -> whether the
    library could.

    Elsewhere than on Linux with glibc nothing happens.
    """
    return _mallopt(M_MMAP_THRESHOLD, LARGEST) and _mallopt(M_TRIM_THRESHOLD, 2 * LARGEST - 1)


def take_large_pages() -> None:
    """Tensors from 2 MiB on lie in pages of that size, where the system lets a process ask: they leave fewer holes
    between them, and one page is cleared where 512 were. For training; scoring was slower with it. A user's own value
    of the variable stays."""
    with suppress(OSError):
        if "[never]" in LARGE_PAGES.read_text() or VARIABLE in os.environ:
            return
        os.environ[VARIABLE] = "1"
        torch.empty(1)  # torch reads it once, at its first allocation
        del os.environ[VARIABLE]  # it is not for the processes that this one starts


def _mallopt(name: int, value: int) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc; on Windows there is no CDLL(None)
        return False
    return bool(mallopt(name, value))


def placed(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Numbers of the host as a tensor on the device. A GPU gets them when it comes to them: through memory that the
    system does not move, so that the host goes on at once and does not wait for all the work before."""
    made = torch.tensor(values, dtype=dtype)
    return made.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else made.to(device)
