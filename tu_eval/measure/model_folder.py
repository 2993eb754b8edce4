"""Where a measured model is: found by its name, and still what training wrote where training left a record."""

from __future__ import annotations

from pathlib import Path

from shared.lm import models
from shared.lm.finished import check_output


def find_model(name: str) -> Path:
    """Raises ModelError for what is no model, and for a folder of tu-train whose files are no longer those that it
    wrote."""
    folder = models.locate(name)
    check_output(folder)
    return folder


def local_folder(name: str) -> Path | None:
    """The folder that a summary or an index names, where it is on this machine. A summary may name anything at all."""
    try:
        folder = Path(name).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long a name, an unknown user, a zero byte
        return None
