"""Causal language models and tokenizers: found by name, loaded from safetensors only, identified by content.

A name is `smollm2` (embedded), a local folder, or a hub id `org/name` or `org/name@revision`. All three become a local
folder (shared/lm/locate.py), so that everything after it is the same for each.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from shared.data.layout import LayoutOptions, lay_out, layout_of
from shared.errors import ConfigError, ModelError, nearest
from shared.files.fs import hash_json, read_json
from shared.lm.library import NO_CODE, quiet_transformers, reading
from shared.lm.library import first_line as first_line
from shared.lm.locate import locate as locate
from shared.lm.locate import refuse_adapter
from shared.lm.model_files import check_token_ids, weights_digest
from shared.lm.model_files import weight_files as weight_files
from shared.settings import About

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES = get_args(Dtype)
FUSED = ("cpu", "cuda", "mps")
"""devices on which torch updates all parameters in one kernel (`fused` of its optimizers)"""
# Entries of config.json that say where a model came from or how to run it, not what it computes.
VOLATILE = ("_name_or_path", "_attn_implementation", "transformers_version", "use_cache", "dtype", "torch_dtype")
TRIED = "Ab 1,é\n"
"""a text that every tokenizer can take"""
QUANTISERS = {
    "gptq": ("optimum", "gptqmodel"), "awq": ("gptqmodel",), "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed-tensors",),
}  # fmt: skip
"""`quant_method` of a configuration -> packages that transformers reads it with"""


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where the model runs."""

    device: Annotated[str | None, About(flag=True, changes=False, default="cuda if there is one")] = None
    """cpu, cuda, cuda:N, mps"""


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions(DeviceOptions):
    """In which precision it runs."""

    dtype: Annotated[Dtype, About(flag=True)] = "float32"
    """of weights and activations"""


def _reading(folder: Path, what: str) -> AbstractContextManager[None]:
    """Whatever the libraries raise over a folder's files in the block becomes a ModelError that says `what` cannot be
    done."""

    def explain(error: BaseException) -> None:
        _refuse_code(folder, error)
        _refuse_quantised(folder, error)
        if "ignore_mismatched_sizes" in str(error):  # it speaks of a report that nobody has seen
            raise ModelError(f"model {folder}: cannot be loaded: its weights have other shapes than its config.json says") from None

    return reading(f"model {folder}: {what}", explain=explain)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A fast tokenizer (offsets are needed to find spans), tried on a short text. Raises ModelError otherwise."""
    from transformers import AutoTokenizer

    quiet_transformers()
    check_token_ids(folder)
    with _reading(folder, "its tokenizer cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(folder, **NO_CODE)
        if not tokenizer.is_fast:
            raise ModelError(f"model {folder}: needs a fast tokenizer (tokenizer.json), found {type(tokenizer).__name__}")
        made = tokenizer(TRIED, return_offsets_mapping=True, add_special_tokens=False)
        tokenizer(TRIED, return_offsets_mapping=True, split_special_tokens=True)
        tokenizer.decode(made["input_ids"], skip_special_tokens=True)
        named = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
        json.dumps([named, tokenizer.all_special_ids, len(tokenizer), tokenizer.chat_template], ensure_ascii=False).encode()
        vocabulary_fingerprint(tokenizer)
    return tokenizer


def load_laid_out(name: str, folder: Path, options: LayoutOptions) -> PreTrainedTokenizerBase:
    """The tokenizer with the options tied to it. Raises ModelError, or ConfigError naming the option."""
    names = _text_config(folder).get("bos_token_id")
    names = names if isinstance(names, int) else None
    return lay_out(load_tokenizer(folder), options, model=name, names_beginning=names, rows=embedding_rows(folder))


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
    """A causal LM in eval mode. Runs no code from the folder. Raises ModelError when the weights do not fit the
    architecture."""
    from transformers import AutoModelForCausalLM

    quiet_transformers()
    _refuse_hub_code(folder)
    refuse_adapter(str(folder), folder)
    # SDPA leaves out the soft cap of attention scores (Gemma 2) without a word.
    attention = {"attn_implementation": "eager"} if _text_config(folder).get("attn_logit_softcapping") else {}
    with _reading(folder, "cannot be loaded"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **attention, **NO_CODE
        )
    model, info = loaded
    if info["missing_keys"]:
        raise ModelError(f"model {folder}: weights are missing, first {sorted(info['missing_keys'])[0]}; the folder is incomplete")
    return model.to(device).eval()


def _refuse_code(folder: Path, error: BaseException) -> None:
    """Raises ModelError for a folder that only its own code can load."""
    if "trust_remote_code" in str(error):
        raise ModelError(
            f"model {folder}: it can only be loaded with Python code from its folder (auto_map), which is not run; "
            "use a model whose architecture transformers knows"
        ) from None


def quantisation(folder: Path) -> str | None:
    """How the weights of a folder are quantised, as its configuration says; None where they are not."""
    entry = _config(folder).get("quantization_config")
    if entry is None:
        return None
    return str(entry.get("quant_method") or "unnamed") if isinstance(entry, dict) else "unnamed"


def _refuse_quantised(folder: Path, error: BaseException) -> None:
    """Raises ModelError for quantised weights, naming what reads them."""
    if "quantization_config" not in _config(folder):
        return
    entry = _config(folder)["quantization_config"]
    method = entry.get("quant_method") if isinstance(entry, dict) else None
    missing = [p for p in QUANTISERS.get(str(method), ()) if importlib.util.find_spec(p.replace("-", "_")) is None]
    needs = f"reading them needs a package that is not installed: pip install {' '.join(missing)}" if missing else "they cannot be read"
    raise ModelError(
        f"model {folder}: its weights are quantised ({method or 'config.json does not say how'}), and {needs} "
        f"({' '.join(str(error).split())[:300]}); {'or ' if missing else ''}use the model before quantisation"
    ) from None


def _config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json", foreign=True)
    if not isinstance(config, dict):
        raise ModelError(f"model {folder}: its config.json is not an object with named values")
    try:
        json.dumps(config, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        raise ModelError(f"model {folder}: its config.json is nested too deeply, or holds half of a character; download it again") from None
    return config


def _text_config(folder: Path) -> dict[str, Any]:
    """What config.json says of the language model, which in a model that also sees or hears is a part of it."""
    config = _config(folder)
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def context_length(folder: Path) -> int | None:
    """Largest number of tokens the model can read, or None when its configuration names none."""
    config = _text_config(folder)
    name = next((k for k in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len") if config.get(k)), None)
    if name is None:
        return None
    if isinstance(config[name], bool) or not isinstance(config[name], int) or config[name] < 1:
        raise ModelError(f"model {folder}: its config.json has {str(config[name])[:40]!r} as {name}, expected a number of tokens")
    return config[name]


def embedding_rows(folder: Path) -> int | None:
    """Ids that the model's embedding has, numbered from 0, or None when its configuration names no number."""
    rows = _text_config(folder).get("vocab_size")
    return rows if isinstance(rows, int) and not isinstance(rows, bool) else None


def require_rows(model: str, folder: Path, tokens: Iterable[tuple[str, Sequence[int]]]) -> None:
    """For tokens that were made for another model: raises ModelError when the embedding in `folder` has no row for one
    of them.

    `model`: the model as the user named it, flag included; `tokens`: (example id, token ids). Their tokenizers may be
    the same.
    """
    rows = embedding_rows(folder)
    for name, ids in tokens:
        if rows is not None and max(ids, default=0) >= rows:
            raise ModelError(f"{model}: {name} has a token with id {max(ids)}, but the model's embedding has {rows} rows; "
                             "resize its embedding to its tokenizer, or name another model")  # fmt: skip


def check_readable(folder: Path, sequences: Iterable[Sequence[int]], *, what: str) -> None:
    """The same where there are no examples. `what`: what holds the tokens, or the flag and name of the model."""
    require_rows(what, folder, (("a text", ids) for ids in sequences))


def _refuse_hub_code(folder: Path) -> None:
    """Raises ModelError where config.json names code of the hub for the attention, which transformers would fetch and
    run."""
    for config in (_config(folder), _text_config(folder)):
        for key in ("attn_implementation", "_attn_implementation"):
            named = config.get(key)
            for value in named.values() if isinstance(named, dict) else [named]:
                if isinstance(value, str) and "/" in value:
                    raise ModelError(
                        f"model {folder}: its config.json asks for attention code from the hub ({value}), which is not run; "
                        f"take {key} out of it"
                    )


def block_count(folder: Path) -> int:
    """Blocks of the model, told by its configuration. Raises ModelError for one that transformers cannot read."""
    from transformers import AutoConfig

    quiet_transformers()
    with _reading(folder, "its config.json cannot be read"):
        return AutoConfig.from_pretrained(folder, **NO_CODE).get_text_config().num_hidden_layers


def model_fingerprint(folder: Path) -> str:
    """sha256 over the bytes of the weights that are loaded and what config.json says of the computation; the folder's
    name plays no part.

    Where safetensors files lie in the folder that are not loaded, their names and bytes count too. Adapters are never
    applied (shared/lm/locate.py).
    """
    digest = hashlib.sha256()
    for entry in weights_digest(folder):
        digest.update(entry.encode())
    config = _config(folder)
    digest.update(hash_json({k: v for k, v in config.items() if k not in VOLATILE}).encode())
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """sha256 over the tokenizer's whole state (vocabulary, merges, normalisation) and its special tokens."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["truncation"] = state["padding"] = None  # set by callers at run time, not part of the vocabulary
    return hash_json([state, {k: str(v) for k, v in tokenizer.special_tokens_map.items()}])


def vocabulary_fingerprint(tokenizer: Any) -> str:
    """sha256 over what decides the ids of a text: the tokenizer's state and roles of its special tokens, padding aside.

    Which token pads, and an entry of the vocabulary that was added for that alone, change no id of any text. Recorded
    beside `tokenizer_fingerprint`, which counts padding too and stands in everything that earlier versions wrote.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["truncation"] = state["padding"] = None
    roles = {k: str(v) for k, v in tokenizer.special_tokens_map.items() if k != "pad_token"}
    known = state["model"].get("vocab") or ()
    named = {entry[0] for entry in known} if isinstance(known, list) else set(known)
    only_pads = {str(tokenizer.pad_token)} - set(roles.values()) - named
    state["added_tokens"] = [token for token in state.get("added_tokens", ()) if token["content"] not in only_pads]
    return hash_json([state, roles])


def tokenizer_names(tokenizer: Any) -> dict[str, str]:
    """Both fingerprints, as they stand among those of a store."""
    return {"tokenizer": tokenizer_fingerprint(tokenizer), "vocabulary": vocabulary_fingerprint(tokenizer)}


def template_fingerprint(tokenizer: Any) -> str:
    """sha256 of what decides a row's text (shared/data/layout.py): by default of the chat template, or of the plain
    layout without one."""
    return layout_of(tokenizer).fingerprint()
