"""More numbers than memory holds: in files without a name, of which nothing is left whatever ends the command, in the
folder for temporary files (TMPDIR)."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np


class Spilled:
    """Values in a file, in the order in which they came."""

    def __init__(self, kind: Any):
        self.kind, self.count = np.dtype(kind), 0
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the column

    def add(self, values: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(values, dtype=self.kind).data)
        self.count += values.size

    def mapped(self) -> np.ndarray:
        """[count], backed by the file, also once the column is closed; nothing may be added while it is used."""
        if not self.count:
            return np.zeros(0, dtype=self.kind)
        self.file.flush()
        return np.asarray(np.memmap(self.file, self.kind, "r+", shape=(self.count,)))

    def close(self) -> None:
        self.file.close()
