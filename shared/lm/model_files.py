"""Which files of a folder a causal language model's weights are read from, as transformers chooses them; none lies
outside of the folder.

In this order: what config.json names as `transformers_weights`; model.safetensors; the shards that
model.safetensors.index.json names.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from shared.errors import ModelError
from shared.files.fs import hash_file, hash_json, read_json

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
LONGEST_HEADER = 100_000_000
"""bytes; the limit of the safetensors library itself"""
LARGEST_ID, LONG_NUMBER = 10**8, re.compile(rb":\s*\d{9}")
"""token ids; the largest vocabularies have some hundred thousand"""
READ = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
"""what transformers reads of a model's folder"""
POINTER = b"version https://git-lfs.github.com/spec/"


def weight_files(folder: Path) -> list[Path]:
    """In the order of their names; none where the folder holds no safetensors weights. Raises ModelError for names
    outside of it."""
    file = folder / (_named(folder) or (SINGLE if (folder / SINGLE).is_file() else INDEX))
    if file.name.endswith(".index.json"):
        return [folder / name for name in sorted(set(weight_map(folder, file).values()))] if file.is_file() else []
    return [file] if file.is_file() else []


def _named(folder: Path) -> str | None:
    """`transformers_weights` of config.json."""
    file = folder / CONFIG
    config = read_json(file, foreign=True) if file.is_file() else None
    name = config.get("transformers_weights") if isinstance(config, dict) else None
    if name is None:
        return None
    if not _within(name, (".safetensors", ".safetensors.index.json")):
        raise ModelError(f"model {folder}: its {CONFIG} names {name!r} as transformers_weights; expected a safetensors file in the folder")
    return name


def weight_map(folder: Path, index: Path) -> dict[str, str]:
    """Tensor -> file, as an index has it. Raises ModelError for an index of another form, and for a file outside of the
    folder."""
    found = read_json(index, foreign=True)
    shards = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise ModelError(f"model {folder}: {index.name} has no weight_map from tensors to files; download it again")
    for name in shards.values():
        if not _within(name, (".safetensors",)):
            raise ModelError(f"model {folder}: {index.name} names {name!r} as weights; expected a safetensors file in the folder")
    return shards


def check_token_ids(folder: Path) -> None:
    """Raises ModelError for a tokenizer.json with a token id that no vocabulary reaches: the library makes a table up
    to the largest."""
    file = folder / "tokenizer.json"
    if not file.is_file() or not LONG_NUMBER.search(file.read_bytes()):  # a file of 30 MB is searched in no time, and parsed in a second
        return
    found = read_json(file, foreign=True)
    model, added = (found.get(k) for k in ("model", "added_tokens")) if isinstance(found, dict) else (None, None)
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = [*(vocabulary.values() if isinstance(vocabulary, dict) else ())]
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    if any(isinstance(i, (int, float)) and i > LARGEST_ID for i in ids):
        raise ModelError(f"model {folder}: its tokenizer.json has a token id above {LARGEST_ID:,}; download it again")


def _within(name: Any, endings: tuple[str, ...]) -> bool:
    if not isinstance(name, str) or not name.endswith(endings) or "\0" in name or "\\" in name:
        return False
    parts = Path(name)
    return not parts.is_absolute() and ".." not in parts.parts


def require_inside(name: str, folder: Path, files: list[Path]) -> None:
    """Raises ModelError for a link that leaves the folder; those of the hub's cache lead to its blobs, which are named
    by their content."""
    root = folder.resolve()
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else None
    for file in files:
        try:
            place = file.resolve()
        except (OSError, RuntimeError):
            raise ModelError(f"model {name}: {file.name} is a link that leads nowhere; download the folder again") from None
        if not place.is_relative_to(root) and not (blobs is not None and place.parent == blobs):
            shown = file.relative_to(folder)
            raise ModelError(
                f"model {name}: {shown} is a link to a file outside of the folder; put the file itself there (cp -L), or name its folder"
            )


def refuse_pointer(name: str, file: Path) -> None:
    """Raises ModelError for what Git LFS leaves in the place of a file that it did not fetch."""
    with open(file, "rb") as handle:
        if handle.read(len(POINTER)) == POINTER:
            raise ModelError(
                f"model {name}: {file.name} is a pointer of Git LFS, not the file itself; "
                "run git lfs pull in the folder, or download it again"
            )


def header_of(name: str, file: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors: 8 bytes with the length of a header in JSON, the header, the tensors
    that it names. Raises ModelError for a file that is cut, or is none."""
    size = file.stat().st_size
    with open(file, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        try:
            header: Any = json.loads(handle.read(length)) if length <= min(LONGEST_HEADER, size) else None
            expected = 8 + length + max((v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"), default=0)
        except (ValueError, AttributeError, TypeError, KeyError, IndexError, RecursionError):
            header, expected = None, None
    if expected is None or header is None:
        what = "cut or damaged" if length <= LONGEST_HEADER else "no safetensors file"
        raise ModelError(f"model {name}: {file.name} ({size} bytes) is {what}; download it again")
    if size < expected:
        raise ModelError(f"model {name}: {file.name} is cut: it has {size} bytes, and its header says {expected}; download it again")
    return {k: v for k, v in header.items() if k != "__metadata__"}


def check_weights(name: str, folder: Path) -> int:
    """-> how many tensors there are. Raises ModelError for weights that are missing or cut, and for a tensor that two
    files hold: it would depend on the reader which one counts."""
    held: dict[str, str] = {}
    for file in weight_files(folder):
        if not file.is_file():
            raise ModelError(f"model {name}: {file.relative_to(folder)} is missing, which {INDEX} names; the folder is incomplete, "
                             "download it again")  # fmt: skip
        for tensor in header_of(name, file):
            if tensor in held:
                raise ModelError(f"model {name}: {held[tensor]} and {file.name} both hold {tensor[:100]!r}; download the folder again")
            held[tensor] = file.name
    return len(held)


def weights_digest(folder: Path) -> list[str]:
    """What stands for the weights in a model's fingerprint: the sha256 of each file that is loaded. Where more
    safetensors files lie in the folder, also which are loaded, and the others' names and bytes: vLLM chooses among them
    by another rule."""
    loaded = weight_files(folder)
    rest = [f for f in sorted(folder.glob("*.safetensors")) if f not in loaded]
    digests = [hash_file(file) for file in loaded]
    if rest or _named(folder) is not None:
        digests.append(hash_json({"loaded": [str(f.relative_to(folder)) for f in loaded], "beside": {f.name: hash_file(f) for f in rest}}))
    return digests
