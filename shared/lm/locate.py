"""Where a model is: a name -> a local folder that is looked at before anything is loaded from it.

What is wrong with a folder is said here, in terms of what the user has: an adapter, a pointer of Git LFS, weights that
can run code. No code of a folder is ever run; `NO_CODE` goes with every load of a configuration, tokenizer or model
(shared/lm/library.py).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from shared.errors import ModelError, UserError, nearest
from shared.files import hub
from shared.files.fs import read_json
from shared.lm.gguf import gguf_folder
from shared.lm.model_files import READ, check_weights, refuse_pointer, require_inside, weight_files
from shared.lm.smollm2 import smollm2_folder

BLOCKS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""entries of config.json, by architecture"""
ADAPTER = "adapter_config.json"


def locate(name: str) -> Path:
    """The local folder of a model. Raises ModelError when it cannot be found or holds no safetensors weights."""
    if name == "smollm2":
        return smollm2_folder()
    folder = gguf_folder(name) or Path(name).expanduser()
    if not name.strip() or not folder.is_dir():
        if name.lower().endswith(".gguf") and not folder.exists():
            known = [str(p) for p in Path(name).parent.glob("*.gguf")]
            raise ModelError(
                f"model {name}: no such file{nearest(name, known) if known else ''}; name a GGUF file, or the folder of its parts"
            )
        if not name.strip() or name.startswith((".", "/", "~")) or name.partition("@")[0].count("/") != 1 or folder.exists():
            known = ["smollm2", *(str(p.parent) for p in Path(name).parent.glob("*/config.json"))]
            what = "is a file" if folder.is_file() else "no such folder"
            raise ModelError(f"model {name}: {what}{nearest(name, known)}; a model is a local folder, org/name[@revision], or smollm2")
        folder = _download(name)
    _check(name, folder)
    return folder


def _check(name: str, folder: Path) -> None:
    refuse_adapter(name, folder)
    if not (folder / "config.json").exists():
        raise ModelError(f"model {name}: {folder} has no config.json; expected a Hugging Face model folder")
    read = sorted(file for pattern in READ for file in folder.glob(pattern))
    for file in read:
        if not file.is_file():
            what = "a link to a file that is not there" if file.is_symlink() else "not a file"
            raise ModelError(f"model {name}: {file.name} is {what}; download the folder again")
        refuse_pointer(name, file)
    if not isinstance(config := read_json(folder / "config.json", foreign=True), dict):
        raise ModelError(f"model {name}: its config.json is not an object with named values")
    if "configuration_files" in config:  # transformers would read another file in its place, by its own version
        raise ModelError(f"model {name}: its config.json names other files as configuration (configuration_files); "
                         "put the one that is meant in its place")  # fmt: skip
    files = weight_files(folder)
    if not files:
        other = [p.name for p in sorted(folder.glob("*.bin"))]
        hint = f"found {other[0]}, which can run code when loaded; convert it to safetensors" if other else "the folder is incomplete"
        raise ModelError(f"model {name}: no *.safetensors weights in {folder}; {hint}")
    require_inside(name, folder, [*read, *files])
    _check_blocks(name, config, check_weights(name, folder))


def _check_blocks(name: str, config: dict[str, Any], tensors: int) -> None:
    """Refuses more blocks than there are tensors: transformers would build each before it misses the first."""
    inner = config.get("text_config")
    said = [v for c in (config, inner) if isinstance(c, dict) for k in BLOCKS if isinstance(v := c.get(k), int)]
    most = max(said, default=0)
    if most > tensors:
        shown = most if most < 10**15 else "over 10^15"
        raise ModelError(
            f"model {name}: its config.json says {shown} blocks, but its weights are {tensors} tensors; download the folder again"
        )


def refuse_adapter(name: str, folder: Path) -> None:
    """Raises ModelError for an adapter, with a config.json beside it too: transformers would load the base and add the
    adapter unasked."""
    if os.path.lexists(folder / ADAPTER):
        raise ModelError(f"model {name}: {_adapter(folder)}")


def _adapter(folder: Path) -> str:
    try:
        found = read_json(folder / ADAPTER, foreign=True)
    except (OSError, UserError):
        found = None
    base = found.get("base_model_name_or_path") if isinstance(found, dict) else None
    base = base if isinstance(base, str) else None
    return (
        f"{folder} holds a LoRA adapter of {base or 'another model'}, not a model; merge it into its base with peft "
        f"(PeftModel.from_pretrained(base, '{folder}').merge_and_unload().save_pretrained(OUT), and the tokenizer beside it), and name OUT"
    )


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    repo, _, revision = name.partition("@")
    hub.quiet_downloads()
    try:
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=list(READ)))
    except hub.failures() as error:
        reason = hub.why(error, "model", repo, revision) or " ".join(str(error).split())[:300] or type(error).__name__
    said = " (HF_HUB_OFFLINE is set)" if hub.offline() else ""
    raise ModelError(f"model {name}: neither a local folder nor to be had from the hub{said}: {reason}{_local(reason)}") from None


def _local(reason: str) -> str:
    """What else the user can do, where nobody needs to be asked."""
    if "can have this name" in reason:
        return "; a model is a local folder, org/name[@revision], or smollm2"
    return "; name a local folder" if reason.endswith("in its cache") else ""
