"""Whether a folder still holds what training wrote there: training.json carries the hashes of the files beside it.

This is a checksum against damage and mixed-up files, not against somebody who edits both: training.json is a file like
the others. Folders of earlier versions, and models from elsewhere, carry no hashes; they are taken as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.errors import ModelError, StoreError
from shared.files.fs import hash_file, read_json
from shared.lm.models import model_fingerprint
from shared.records import TRAINING

FINGERPRINT, FILES = "output_fingerprint", "output_files"
READ = (
    "*.safetensors", "*.safetensors.index.json", "adapter_config.json", "config.json", "generation_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model",
    "*.jinja", "chat_template.json", "additional_chat_templates/*.jinja",
)  # fmt: skip
"""what transformers reads of a folder with a causal language model"""


def output_record(folder: Path) -> dict[str, Any]:
    """What training.json says of the files beside it: the model's fingerprint, and a sha256 for each file that is
    read."""
    return {FINGERPRINT: model_fingerprint(folder), FILES: {name: hash_file(folder / name) for name in _read(folder)}}


def check_output(folder: Path, fingerprint: str | None = None) -> None:
    """Raises ModelError naming the file where `folder` no longer holds what its training.json recorded. `fingerprint`:
    the folder's, where the caller has computed it already. Fine without a record."""
    record = read_record(folder)
    if record is None:
        return
    files, expected = record.get(FILES, {}), record.get(FINGERPRINT)
    if not isinstance(files, Mapping) or not isinstance(expected, (str, type(None))):
        raise ModelError(f"model {folder}: {TRAINING} is damaged ({FILES} and {FINGERPRINT} have another form); {_way_on()}")
    if files:
        _check_files(folder, files)
    if expected is not None and (fingerprint or model_fingerprint(folder)) != expected:
        raise ModelError(f"model {folder}: its weights or config.json are not those that training wrote, as {TRAINING} says; {_way_on()}")


def read_record(folder: Path) -> dict[str, Any] | None:
    """training.json, or None where there is none, or one that is no object (other tools use the name too). Raises
    ModelError for one that cannot be read."""
    path = folder / TRAINING
    if not path.is_file():
        return None
    try:
        found = read_json(path, foreign=True)
    except StoreError:
        raise ModelError(f"model {folder}: {TRAINING} is not valid JSON; {_way_on()}") from None
    return found if isinstance(found, dict) else None


def _read(folder: Path) -> list[str]:
    return sorted({p.relative_to(folder).as_posix() for pattern in READ for p in folder.glob(pattern)})


def _check_files(folder: Path, files: Mapping[str, Any]) -> None:
    there = _read(folder)
    for name in sorted(files):
        if name not in there:
            raise ModelError(f"model {folder}: {name!r} is missing, which training wrote, as {TRAINING} says; {_way_on()}")
    for name in there:
        if name not in files:
            raise ModelError(f"model {folder}: {name} was added, which training did not write, as {TRAINING} says; {_way_on()}")
        if hash_file(folder / name) != files[name]:
            raise ModelError(f"model {folder}: {name} is not the file that training wrote, as {TRAINING} says; {_way_on()}")


def _way_on() -> str:
    return f"take a good copy of the folder or train again; if you changed it on purpose, take {TRAINING} out of it"
