"""The hashes that stand in the files of a folder, computed again: what somebody does who edits, and knows the
formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from shared.errors import UserError
from shared.files.fs import hash_file, hash_json, json_text


def seal(folder: Path) -> None:
    """Each file that holds hashes of others is written again with those of now. What has lost its form is left as it
    is."""
    results = dict.fromkeys(("summary.json", "attack.json", "choices.json", "judge.json", "benchmark.json"), _summary)
    for name, again in {RECORD: _record, "_manifest.json": _manifest, **results, "state.json": _state}.items():
        for path in folder.rglob(name):
            with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, UserError):
                _again(path, again)


RECORD = "training.json"


def _again(path: Path, change: Callable[[Path, Any], Any]) -> None:
    if path.is_symlink() or not path.is_file():
        return
    value = json.loads(path.read_text())
    path.write_text(json_text(change(path.parent, value)))


def _manifest(folder: Path, value: Any) -> Any:
    for entry in value["parts"]:
        file = folder / entry["file"]
        if file.parent == folder and file.is_file() and not file.is_symlink():
            entry.update(sha256=hash_file(file), bytes=file.stat().st_size)
    body = {k: v for k, v in value.items() if k != "manifest_sha256"}
    return {**body, "manifest_sha256": hash_json(body)}


def _summary(folder: Path, value: Any) -> Any:
    value["rows_sha256"] = hash_file(folder / "rows.parquet")
    body = {k: v for k, v in value.items() if k != "summary_sha256"}
    return {**body, "summary_sha256": hash_json(body)}


def _state(folder: Path, value: Any) -> Any:
    value["tensors_sha256"] = hash_file(folder / "state.safetensors")
    body = {k: v for k, v in value.items() if k != "sha256"}
    return {**body, "sha256": hash_json(body)}


def _record(folder: Path, value: Any) -> Any:
    from shared.lm.finished import output_record

    return {**value, **output_record(folder)}
