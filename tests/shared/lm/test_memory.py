"""Freed memory stays with the process, in a process of its own: the setting cannot be taken back."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from shared.lm import memory
from shared.lm.memory import placed, take_large_pages

MEASURE = """
import ctypes, json, resource, sys
from shared.lm.memory import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "kept" else None
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def touch(size=16 << 20):
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)

touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    touch()
print(json.dumps([kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_what_is_freed_is_used_again_without_asking_the_system():
    """16 MiB are 4,096 pages (or eight huge ones); twenty times over they would be asked for again each time.

    Straight from malloc: which of torch's own allocations fit into what another left is chance.
    """
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    outcomes = {}
    for name in ("kept", "returned"):
        command = [sys.executable, "-c", MEASURE, name]
        outcomes[name] = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    kept, faults = outcomes["kept"]
    assert kept is True
    assert faults * 4 < outcomes["returned"][1]


def test_a_gpu_gets_numbers_without_a_wait_and_a_cpu_without_a_copy_in_pinned_memory(monkeypatch):
    """No GPU is here: what would be asked of it is written down."""
    asked, to = [], torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: asked.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, **how: asked.append((device.type, how)) or to(self, "cpu"))
    here = placed([3, 1], torch.device("cpu"))
    assert here.tolist() == [3, 1] and here.dtype == torch.long and asked == [("cpu", {})]
    there = placed(np.array([0.5, 2]), torch.device("cuda:1"), torch.float32)
    assert there.tolist() == [0.5, 2] and there.dtype == torch.float32 and asked[1:] == ["pinned", ("cuda", {"non_blocking": True})]


@pytest.mark.parametrize("said, theirs, seen", [("always [madvise] never", None, "1"), ("always madvise [never]", None, None),
                                                ("always [madvise] never", "0", None), (None, None, None)])  # fmt: skip
def test_large_pages_are_asked_for_where_the_system_has_them_and_the_user_has_not_said_otherwise(said, theirs, seen, tmp_path, monkeypatch):
    """No process started later inherits the wish."""
    found = []
    monkeypatch.setattr(memory, "LARGE_PAGES", tmp_path / "enabled")
    monkeypatch.setattr(torch, "empty", lambda size: found.append(os.environ.get("THP_MEM_ALLOC_ENABLE")))
    if said:
        (tmp_path / "enabled").write_text(said)
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    if theirs:
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", theirs)
    take_large_pages()
    assert found == ([seen] if seen else []) and os.environ.get("THP_MEM_ALLOC_ENABLE") == theirs


TRAINED = """
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
import torch
import tu_train.run

@contextmanager
def joined():
    torch.zeros(1)  # joining ranks makes tensors of its own
    tensor = torch.ones(16 << 20)
    areas = Path("/proc/self/smaps").read_text().split("VmFlags:")
    print(any(" hg" in area.partition("\\n")[0] for area in areas[1:]))
    raise SystemExit
    yield

tu_train.run.joined = joined
tu_train.run._run(SimpleNamespace(out="nowhere"), None, None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of a process")
def test_training_asks_for_large_pages_before_anything_makes_a_tensor():
    """torch reads the wish once."""
    asks = memory.LARGE_PAGES.exists() and "[never]" not in memory.LARGE_PAGES.read_text()
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    found = subprocess.run([sys.executable, "-c", TRAINED], env=environment, check=True, capture_output=True, text=True).stdout
    assert found.strip() == str(asks)
