"""Checkpoints to resume from: what a run needs to go on as if it had never stopped, complete or absent.

    OUT.unfinished/checkpoint-000120/state.safetensors    parameters that train, optimizer, method state, landing,
                                                          random generators
    OUT.unfinished/checkpoint-000120/state.json           step, learning rates, schedule, settings and fingerprints,
                                                          hashes of both files

Several ranks write the same tensors in shards, each its own, and any number of ranks reads them (shards.py).

A folder is written under a temporary name, synced and renamed; older ones go only when it is safe. Position in the data
is the step alone, because the order of rows is a function of (seed, epoch). Reading runs no code: safetensors and JSON.
Numbers come back bit for bit.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from shared.errors import StoreError
from shared.files.fs import TEMPORARY, atomic_folder, fsync_folder, hash_file, hash_json, json_text, read_json
from tu_train.ranks import ALONE, Ranks
from tu_train.saving.shards import forms, write_shards
from tu_train.saving.snapshot import Snapshot
from tu_train.saving.snapshot_form import FOREIGN, about_of

FORMAT, SHARDED = 1, 2
"""of state.json: all tensors in one file, or in shards"""
NAME = re.compile(r"checkpoint-(\d{6,})")
TENSORS, STATE = "state.safetensors", "state.json"


def save_snapshot(folder: Path, snapshot: Snapshot, keep: int, ranks: Ranks = ALONE) -> Path:
    """Writes `folder/checkpoint-000120` whole and durably, then removes all but the newest `keep`.

    Raises StoreError when the disk does not take it; the checkpoints before it are then untouched. It never replaces
    one of that step.
    """
    path = folder / f"checkpoint-{snapshot.step:06d}"
    try:
        ranks.first(lambda: _clear(folder))
        if not ranks.gather(path.exists())[0]:  # a run told to stop right after it resumed stands where it stood
            body = {"format": FORMAT, "step": snapshot.step, "about": snapshot.about.to_json(), "numbers": snapshot.numbers}
            if ranks.count > 1:
                _save_in_shards(path, snapshot, {**body, "format": SHARDED, "ranks": ranks.count}, ranks)
            else:
                with atomic_folder(path) as temporary:
                    save_file(snapshot.tensors, temporary / TENSORS)
                    _write_state(temporary, {**body, "tensors_sha256": hash_file(temporary / TENSORS)})
        ranks.first(lambda: _drop(folder, keep))
    except (OSError, SafetensorError) as error:
        raise not_written(path, error, folder) from None
    return path


def _save_in_shards(path: Path, snapshot: Snapshot, body: dict[str, Any], ranks: Ranks) -> None:
    """Rank 0 makes the folder, all write into it, and its name is the last that is written."""
    with ExitStack() as made:
        temporary = ranks.gather(ranks.first(lambda: made.enter_context(atomic_folder(path))))[0]
        assert temporary is not None, "made by rank 0"
        files = ranks.together(lambda: write_shards(temporary, snapshot.tensors, ranks))
        ranks.first(lambda: _write_state(temporary, {**body, "files": files}))
        ranks.first(made.close)


def _write_state(folder: Path, body: dict[str, Any]) -> None:
    (folder / STATE).write_text(json_text({**body, "sha256": hash_json(body)}), encoding="utf-8")


def _clear(folder: Path) -> None:
    for litter in folder.glob(f"{TEMPORARY}checkpoint-*"):  # of a run that was killed
        shutil.rmtree(litter)


def _drop(folder: Path, keep: int) -> None:
    """Removes all but the newest."""
    for _, old in sorted(_checkpoints(folder), reverse=True)[keep:]:
        gone = old.with_name(f"{TEMPORARY}{old.name}")
        os.replace(old, gone)  # so that a kill leaves no half of one under its name
        shutil.rmtree(gone)
    fsync_folder(folder)


def not_written(path: Path, error: BaseException, folder: Path) -> StoreError:
    """Says truly whether a run in `folder` can go on: only from a checkpoint that is there."""
    step, _ = max(_checkpoints(folder), default=(None, None))
    way_on = (
        "no checkpoint was saved before: make room, then start the run anew"
        if step is None
        else f"the checkpoint of step {step} is good: make room, then go on with --resume"
    )
    return StoreError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error}); {way_on}")


def has_checkpoint(folder: Path) -> bool:
    return any(True for _ in _checkpoints(folder))


def newest_step(folder: Path) -> int:
    """Of the checkpoints; 0 where there is none."""
    return max((step for step, _ in _checkpoints(folder)), default=0)


def _checkpoints(folder: Path) -> Iterator[tuple[int, Path]]:
    for entry in folder.iterdir() if folder.is_dir() else ():
        if found := NAME.fullmatch(entry.name):
            yield int(found[1]), entry


def latest_snapshot(folder: Path, ranks: Ranks = ALONE) -> Snapshot | None:
    """The newest checkpoint, or None; its tensors are read where one process made it and one wants it, else `restore`
    reads what it needs of them. Raises StoreError naming the file when it is damaged: it is never trained on."""
    step = ranks.gather(newest_step(folder))[0]  # by one listing: on network folders others may be older
    if not step:
        return None
    path = folder / f"checkpoint-{step:06d}"
    others = [step for step, other in _checkpoints(folder) if other != path]
    back = f"delete {path} to go on from the checkpoint of step {max(others)}" if others else f"delete {folder} to start anew"
    advice = f"it is damaged; {back}"
    if not (path / STATE).is_file():
        raise StoreError(f"{path / STATE}: missing; {advice}")
    body = _state(path, advice)
    about = about_of(body, step)
    if about is None:
        raise StoreError(f"{path / STATE}: not of the form of a checkpoint of step {step}; {advice}")
    files = body["files"] if body["format"] == SHARDED else {TENSORS: body["tensors_sha256"]}
    for name, sha256 in list(files.items())[ranks.number :: ranks.count]:
        if not (path / name).is_file():
            raise StoreError(f"{path / name}: missing; {advice}")
        if hash_file(path / name) != sha256:
            raise StoreError(f"{path / name}: fails its checksum; {advice}")
    in_parts = ranks.count > 1 or body["format"] == SHARDED
    if unseen := sorted(set(files) - {file.name for file in path.iterdir()}) if in_parts else []:
        raise StoreError(f"{path / unseen[0]}: not in this machine's listing of the folder, which may be an old one; try again in a minute")
    try:
        tensors = forms(path) if in_parts else load_file(path / TENSORS)
    except (SafetensorError, *FOREIGN) as error:
        raise StoreError(f"{path / TENSORS}: cannot be read ({type(error).__name__}); {advice}") from None
    return Snapshot(body["step"], tensors, about, body["numbers"], body.get("ranks", 1), path if in_parts else None)


def _state(path: Path, advice: str) -> dict[str, Any]:
    """What state.json says."""
    try:
        body = read_json(path / STATE)
    except (StoreError, ValueError, RecursionError):
        raise StoreError(f"{path / STATE}: not valid JSON; {advice}") from None
    if not isinstance(body, dict) or body.pop("sha256", None) != _hash(body):
        raise StoreError(f"{path / STATE}: fails its checksum; {advice}")
    if body.get("format") not in (FORMAT, SHARDED):
        found = str(body.get("format"))[:20]
        raise StoreError(
            f"{path / STATE}: format {found}, this version reads {FORMAT} and {SHARDED}; resume with the version that wrote it"
        )
    return body


def _hash(body: dict[str, Any]) -> str | None:
    try:
        return hash_json(body)
    except (ValueError, RecursionError):  # lone surrogates
        return None
