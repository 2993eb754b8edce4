"""Where a model is: a name -> a local folder, looked at before anything is loaded from it.

What is wrong with a folder is said here, in terms of what the user has: an adapter, a pointer of Git LFS, weights that can run code. No
code of a folder is ever run; `NO_CODE` goes with every load of a configuration, tokenizer or model.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from shared.errors import ModelError, nearest
from shared.fs import read_json
from shared.smollm2 import smollm2_folder

NO_CODE: dict[str, Any] = {"trust_remote_code": False}
"""given to transformers wherever it loads: left out, it asks on standard input whether to run the folder's Python"""
POINTER = b"version https://git-lfs.github.com/spec/"
LONGEST_HEADER = 100_000_000
"""bytes; the limit of the safetensors library itself"""
PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


def locate(name: str) -> Path:
    """The local folder of a model. Raises ModelError when it cannot be found or holds no safetensors weights."""
    if name == "smollm2":
        return smollm2_folder()
    folder = Path(name).expanduser()
    if not name.strip() or not folder.is_dir():
        if not name.strip() or name.startswith((".", "/", "~")) or name.count("/") != 1 or folder.exists():
            known = ["smollm2", *(str(p.parent) for p in Path(name).parent.glob("*/config.json"))]
            what = "is a file" if folder.is_file() else "no such folder"
            raise ModelError(f"model {name}: {what}{nearest(name, known)}; a model is a local folder, org/name[@revision], or smollm2")
        folder = _download(name)
    _check(name, folder)
    return folder


def weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _check(name: str, folder: Path) -> None:
    if (folder / "adapter_config.json").exists():  # with a config.json too: transformers would load the base and add the adapter unasked
        raise ModelError(f"model {name}: {_adapter(folder)}")
    if not (folder / "config.json").exists():
        raise ModelError(f"model {name}: {folder} has no config.json; expected a Hugging Face model folder")
    if not weight_files(folder):
        other = [p.name for p in sorted(folder.glob("*.bin"))]
        hint = f"found {other[0]}, which can run code when loaded; convert it to safetensors" if other else "the folder is incomplete"
        raise ModelError(f"model {name}: no *.safetensors weights in {folder}; {hint}")
    for file in sorted(file for pattern in PATTERNS for file in folder.glob(pattern)):
        if not file.is_file():
            what = "a link to a file that is not there" if file.is_symlink() else "not a file"
            raise ModelError(f"model {name}: {file.name} is {what}; download the folder again")
        with open(file, "rb") as handle:
            if handle.read(len(POINTER)) == POINTER:
                raise ModelError(
                    f"model {name}: {file.name} is a pointer of Git LFS, not the file itself; "
                    "run git lfs pull in the folder, or download it again"
                )
    if not isinstance(read_json(folder / "config.json", foreign=True), dict):
        raise ModelError(f"model {name}: its config.json is not an object with named values")
    for file in weight_files(folder):
        _check_whole(name, file)
    _check_shards(name, folder)


def _check_whole(name: str, file: Path) -> None:
    """Refuses a safetensors file that is cut: 8 bytes with the length of a header in JSON, the header, the tensors that it names."""
    size = file.stat().st_size
    with open(file, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        try:
            header: Any = json.loads(handle.read(length)) if length <= LONGEST_HEADER else None
            expected = 8 + length + max((v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"), default=0)
        except (ValueError, AttributeError, TypeError, KeyError, IndexError):
            expected = None
    if expected is None:
        what = "cut or damaged" if length <= LONGEST_HEADER else "no safetensors file"
        raise ModelError(f"model {name}: {file.name} ({size} bytes) is {what}; download it again")
    if size < expected:
        raise ModelError(f"model {name}: {file.name} is cut: it has {size} bytes, and its header says {expected}; download it again")


def _check_shards(name: str, folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    found = read_json(index, foreign=True) if index.is_file() and not (folder / "model.safetensors").exists() else {}
    shards = found.get("weight_map") if isinstance(found, dict) else None
    missing = sorted(set(shards.values()) - {f.name for f in weight_files(folder)}) if isinstance(shards, dict) else []
    if missing:
        raise ModelError(f"model {name}: {missing[0]} is missing, which {index.name} names; the folder is incomplete, download it again")


def _adapter(folder: Path) -> str:
    found = read_json(folder / "adapter_config.json", foreign=True)
    base = found.get("base_model_name_or_path") if isinstance(found, dict) else None
    return (
        f"{folder} holds a LoRA adapter of {base or 'another model'}, not a model; merge it into its base with peft "
        f"(PeftModel.from_pretrained(base, '{folder}').merge_and_unload().save_pretrained(OUT), and the tokenizer beside it), and name OUT"
    )


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=PATTERNS))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
        said = " (HF_HUB_OFFLINE is set)" if offline else ""
        reason = _why(error, offline=offline)
    raise ModelError(f"model {name}: neither a local folder nor to be had from the hub{said}: {reason}") from None


def _why(error: Exception, *, offline: bool) -> str:
    """In our words: the hub library's own message goes over many lines."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, HFValidationError):
        return "no model of the hub can have this name; a model is a local folder, org/name[@revision], or smollm2"
    if isinstance(error, GatedRepoError):
        return "its owners ask you to accept their terms first; do that on its page, then log in with hf auth login"
    if isinstance(error, RevisionNotFoundError):
        return "the hub has the model, but not this revision"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such model, or it is private; check the name, or log in with hf auth login"
    if offline or isinstance(error, LocalEntryNotFoundError):
        missing = (
            "the hub is not asked, and no copy is in its cache" if offline else "the hub cannot be reached, and no copy is in its cache"
        )
        return f"{missing}; name a local folder"
    return " ".join(str(error).split()) or type(error).__name__
