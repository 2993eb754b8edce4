"""A small start for data of one's own: rows to forget, to keep and to hold out, secrets, and a page with the six
commands. The files stand in start/ as they are written."""

from __future__ import annotations

import shutil
from pathlib import Path

from shared.errors import StoreError
from shared.files.fs import atomic_folder
from shared.files.outputs import claimed_folder

START = Path(__file__).with_name("start")


def write_start(folder: Path) -> list[str]:
    """Makes `folder`, whole or not at all. Returns the names of its files. Raises StoreError for a folder that holds
    files, a link, a URL."""
    names = sorted(path.name for path in START.iterdir())
    if folder.is_dir() and any(folder.iterdir()):
        raise StoreError(f"{folder}: already holds files, and nothing is written among them; name a new folder")
    with claimed_folder(folder, what="rows of your own", flag="FOLDER"), atomic_folder(folder) as work:
        for name in names:
            shutil.copyfile(START / name, work / name)
    return names
