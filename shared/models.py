"""Causal language models and tokenizers: found by name, loaded from safetensors only, identified by content.

A name is `smollm2` (embedded), a local folder, or a hub id `org/name` or `org/name@revision`. All three become a local folder, so
that everything after `locate` is the same for each.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import ConfigError, ModelError, nearest
from shared.fs import hash_file, hash_json, read_json
from shared.layout import LayoutOptions, lay_out, layout_of
from shared.smollm2 import smollm2_folder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16", "float16")
# Entries of config.json that say where a model came from or how to run it, not what it computes.
VOLATILE = ("_name_or_path", "_attn_implementation", "transformers_version", "use_cache", "dtype", "torch_dtype")


def locate(name: str) -> Path:
    """The local folder of a model. Raises ModelError when it cannot be found or holds no safetensors weights."""
    if name == "smollm2":
        return smollm2_folder()
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name.startswith((".", "/", "~")) or name.count("/") != 1:
            known = ["smollm2", *(str(p.parent) for p in Path(name).parent.glob("*/config.json"))]
            raise ModelError(
                f"model {name}: no such folder{nearest(name, known)}; a model is a local folder, org/name[@revision], or smollm2"
            )
        folder = _download(name)
    if not (folder / "config.json").exists():
        raise ModelError(f"model {name}: {folder} has no config.json; expected a Hugging Face model folder")
    if not weight_files(folder):
        other = [p.name for p in sorted(folder.glob("*.bin"))]
        hint = f"found {other[0]}, which can run code when loaded; convert it to safetensors" if other else "the folder is incomplete"
        raise ModelError(f"model {name}: no *.safetensors weights in {folder}; {hint}")
    return folder


def weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    try:
        patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        reason = str(error).splitlines()[0][:200]
        raise ModelError(f"model {name}: neither a local folder nor to be had from the hub{offline}: {reason}") from None


def quiet_transformers() -> None:
    """Our own lines say what is loading; the library's bars and notices would drown them."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A fast tokenizer (offsets are needed to find spans). Raises ModelError otherwise."""
    from transformers import AutoTokenizer

    quiet_transformers()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelError(f"model {folder}: its tokenizer cannot be loaded: {str(error).splitlines()[0]}") from None
    if not tokenizer.is_fast:
        raise ModelError(f"model {folder}: needs a fast tokenizer (tokenizer.json), found {type(tokenizer).__name__}")
    return tokenizer


def load_laid_out(name: str, folder: Path, options: LayoutOptions) -> PreTrainedTokenizerBase:
    """The tokenizer with the options tied to it. Raises ModelError, or ConfigError naming the option."""
    names = _text_config(folder).get("bos_token_id")
    return lay_out(load_tokenizer(folder), options, model=name, names_beginning=names if isinstance(names, int) else None)


def choose_device(device: str | None) -> torch.device:
    """`None` means CUDA where there is one. Raises ConfigError when the device asked for is not there."""
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"--device {device}: expected cpu, cuda, cuda:N or mps") from None
    there = {"cpu": lambda: True, "cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}.get(chosen.type, lambda: False)()
    if not there:
        raise ConfigError(
            f"--device {device}: this machine has no {chosen.type} device that torch {torch.__version__} can use; try --device cpu"
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {device}: this machine has {torch.cuda.device_count()} CUDA devices, numbered from 0")
    return chosen


def choose_dtype(dtype: str) -> torch.dtype:
    import torch

    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype}: unknown{nearest(dtype, DTYPES)}")
    return getattr(torch, dtype)


def load_model(folder: Path, *, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """A causal LM in eval mode. Runs no code from the folder. Raises ModelError when the weights do not fit the architecture."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    quiet_transformers()
    # SDPA leaves out the soft cap of attention scores (Gemma 2) without a word.
    attention = {"attn_implementation": "eager"} if _text_config(folder).get("attn_logit_softcapping") else {}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **attention)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"model {folder}: cannot be loaded: {str(error).splitlines()[0]}") from None
    model, info = loaded
    if info["missing_keys"]:
        raise ModelError(f"model {folder}: weights are missing, first {sorted(info['missing_keys'])[0]}; the folder is incomplete")
    return model.to(device).eval()


def _config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise ModelError(f"model {folder}: its config.json is not an object with named values")
    return config


def _text_config(folder: Path) -> dict[str, Any]:
    """What config.json says of the language model, which in a model that also sees or hears is a part of it."""
    config = _config(folder)
    return config.get("text_config", config)


def context_length(folder: Path) -> int | None:
    """Largest number of tokens the model can read, or None when its configuration names none."""
    config = _text_config(folder)
    return next((config[k] for k in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len") if config.get(k)), None)


def model_fingerprint(folder: Path) -> str:
    """sha256 over the weight files' bytes and what config.json says of the computation; the folder's name plays no part."""
    digest = hashlib.sha256()
    for file in weight_files(folder):
        digest.update(hash_file(file).encode())
    config = _config(folder)
    digest.update(hash_json({k: v for k, v in config.items() if k not in VOLATILE}).encode())
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """sha256 over the tokenizer's whole state (vocabulary, merges, normalisation) and its special tokens."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["truncation"] = state["padding"] = None  # set by callers at run time, not part of the vocabulary
    return hash_json([state, {k: str(v) for k, v in tokenizer.special_tokens_map.items()}])


def template_fingerprint(tokenizer: Any) -> str:
    """sha256 of what decides a row's text (shared/layout.py): by default of the chat template, or of the plain layout without one."""
    return layout_of(tokenizer).fingerprint()


def save_model(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Writes an ordinary Hugging Face folder (safetensors)."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
