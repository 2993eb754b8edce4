"""Which files a GGUF model is in, and what stands for their content: one file, or a folder below which its numbered
parts lie (`NAME.part00`, `part01.bin`), as packages with a limit to their size carry them.

Nothing is joined in memory. The sha256 of the content is remembered in the cache, so that a file of some hundred
megabytes is read once and not for each command.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from shared.errors import ModelError, UserError
from shared.files.fs import CHUNK_BYTES, hash_json, open_regular, read_json, write_json
from shared.lm.gguf_header import MAGIC, split_form
from shared.lm.model_files import require_inside

HASHED = re.compile(r"(?P<name>.+)@sha256:(?P<hash>.*)", re.DOTALL)
PART = re.compile(r"(?P<stem>.*?)[.\-_]?part[-_]?(?P<number>\d{1,4})(\.bin)?", re.IGNORECASE)
SPLIT = re.compile(r".*-\d{5}-of-(?P<pieces>\d{5})\.gguf", re.IGNORECASE)
DEPTH, MOST_FILES = 4, 20_000
"""how far below a folder parts are looked for: package/data/part is two; a whole disk is not searched"""
SETTLED_S = 2.0
"""a file that changed this recently may change again without a later time on it"""


def cache_folder() -> Path:
    """`TU_CACHE_DIR`, or token-unlearn in the user's cache folder; a variable that is empty is none."""
    if own := os.environ.get("TU_CACHE_DIR"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "token-unlearn"


def split_hash(name: str) -> tuple[str, str | None]:
    """`FILE@sha256:HEX` -> (FILE, HEX). Raises ModelError for a HEX that is none."""
    found = HASHED.fullmatch(name)
    if found is None:
        return name, None
    if not re.fullmatch("[0-9a-fA-F]{64}", found["hash"]):
        raise ModelError(f"model {name}: what follows @sha256: is no hash; expected its 64 digits, as sha256sum prints them")
    return found["name"], found["hash"].lower()


def gguf_files(name: str, place: Path) -> list[Path]:
    """The files in the order in which they are joined; none where `place` is neither a GGUF file nor a folder with one.

    Raises ModelError for parts with a gap, several GGUFs, and a split GGUF.
    """
    if place.is_file():
        return _one(name, place)
    if not place.is_dir() or (place / "config.json").exists():
        return []
    found = [file for file in _below(place) if _is_gguf(file) or (PART.fullmatch(file.name) and file.suffix.lower() != ".gguf")]
    whole = [file for file in found if _is_gguf(file)]
    parts = _by_stem(name, [file for file in found if file not in whole], alone=not whole)
    if not whole and not parts:
        return []
    if (split := SPLIT.fullmatch(whole[0].name) if whole else None) and int(split["pieces"]) > 1:
        raise split_form(name, int(split["pieces"]))
    if len(whole) + len(parts) > 1:
        shown = [*(file.name for file in whole), *(f"{parts[0].name} to {parts[-1].name}" for parts in parts)]
        raise ModelError(f"model {name}: holds {len(shown)} GGUF models ({', '.join(shown[:3])}{', …' if shown[3:] else ''}); "
                         "name the file, or the folder of one alone")  # fmt: skip
    files = whole or parts[0]
    require_inside(name, place, files)
    return files


def _one(name: str, file: Path) -> list[Path]:
    if PART.fullmatch(file.name) and not _is_gguf(file):
        raise ModelError(f"model {name}: is one part of a GGUF file; name the folder that holds all of them")
    if (split := SPLIT.fullmatch(file.name)) and int(split["pieces"]) > 1:
        raise split_form(name, int(split["pieces"]))
    return [file] if _is_gguf(file) or _begins(file) else []


def _is_gguf(file: Path) -> bool:
    return file.suffix.lower() == ".gguf"


def _begins(file: Path) -> bool:
    with open_regular(file) as handle:
        return handle.read(len(MAGIC)) == MAGIC


def _below(place: Path) -> Iterator[Path]:
    seen = 0
    for folder, inner, files in os.walk(place):
        inner[:] = sorted(inner) if len(Path(folder).relative_to(place).parts) < DEPTH else []
        for file in sorted(files):
            seen += 1
            if seen > MOST_FILES:
                return
            yield Path(folder) / file


def _by_stem(name: str, files: list[Path], *, alone: bool) -> list[list[Path]]:
    """Numbered files of one stem belong together, wherever they lie; those whose first is no GGUF are left out.
    `alone`: no whole GGUF lies beside them, so that the only ones are meant."""
    groups: dict[str, list[tuple[int, Path]]] = {}
    for file in files:
        found = PART.fullmatch(file.name)
        if found is not None and file.is_file():
            groups.setdefault(found["stem"].lower(), []).append((int(found["number"]), file))
    models = [sorted(numbered) for numbered in groups.values() if _begins(min(numbered)[1])]
    if alone and not models and len(groups) == 1:
        (numbered,) = groups.values()
        first, last = min(numbered)[1].name, max(numbered)[1].name
        raise ModelError(
            f"model {name}: its parts {first} to {last} do not begin with GGUF; the first part is missing, or they are no GGUF"
        )
    for numbered in models:
        _require_all(name, numbered)
    return [[file for _, file in numbered] for numbered in models]


def _require_all(name: str, numbered: list[tuple[int, Path]]) -> None:
    """Raises ModelError for a number that is missing or there twice."""
    for (number, _), (following, file) in pairwise(numbered):
        if number == following:
            raise ModelError(f"model {name}: two files are part {number} ({file.name}); name a folder that holds each part once")
        if number + 1 != following:
            raise ModelError(f"model {name}: part {number + 1} is missing, before {file.name}; get all parts")


def join(files: list[Path], target: Path) -> None:
    """The files one behind the other."""
    with open(target, "wb") as out:
        for file in files:
            with open_regular(file) as handle:
                while chunk := handle.read(CHUNK_BYTES):
                    out.write(chunk)


def content_hash(files: list[Path]) -> str:
    """sha256 of the files' joined bytes, hex; remembered for as long as nothing of them changes."""
    note = cache_folder() / "hashes" / f"{hash_json([str(file.resolve()) for file in files])}.json"
    before = _state(files)
    with suppress(OSError, UserError):
        held = read_json(note, foreign=True)
        if isinstance(held, dict) and held.get("files") == before and re.fullmatch("[0-9a-f]{64}", str(held.get("sha256"))):
            return held["sha256"]
    began, digest = time.time(), hashlib.sha256()
    for file in files:
        with open_regular(file) as handle:
            while chunk := handle.read(CHUNK_BYTES):
                digest.update(chunk)
    if _state(files) == before and all(max(entry[1:3]) < (began - SETTLED_S) * 1e9 for entry in before):
        with suppress(OSError):
            note.parent.mkdir(parents=True, exist_ok=True)
            write_json(note, {"files": before, "sha256": digest.hexdigest()})
    return digest.hexdigest()


def _state(files: list[Path]) -> list[list[Any]]:
    """Of each file bytes, when its content and its entry last changed (ns), and which file it is on the disk."""
    found = [file.stat() for file in files]
    return [[s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev] for s in found]
