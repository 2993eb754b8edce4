"""The configuration of one evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shared.data.layout import LayoutOptions


@dataclass(frozen=True, kw_only=True)
class EvalConfig(LayoutOptions):
    """Raises ValueError naming the field that is out of range."""

    model: str
    """local folder, org/name[@revision], or smollm2"""
    suite: str
    """tofu:forget01, tofu:forget05, tofu:forget10, muse:news, muse:books, or atlas[:people=..,facts_per_person=..,seed=..], or a TOML file
    of your own (docs/evaluation.md)"""
    out: str
    """folder for the results; must be new or empty"""
    retain_results: str | None = None
    """results folder of the retain model on the same suite, or (TOFU) a TOFU_EVAL.json that OpenUnlearning published; without it there is
    no forget quality and no PrivLeak"""
    store: str | None = None
    """folder for what was measured, by content of model, tokenizer, data and code, shared by all runs; finished pieces are taken from
    there. Default: OUT.unfinished, which goes away when the results are written"""
    label: str | None = None
    """name in tables and plots; default: the last part of `model`"""
    limit: int | None = None
    """only the first N rows of each set; default all"""
    engine: Literal["auto", "torch", "vllm"] = "auto"
    """scores the answers and writes greedy text; auto: vLLM where it is installed and CUDA is there, else torch. Gradients are torch's"""
    seed: int = 0
    """seed of every random choice: the bootstrap of membership inference; generation is greedy"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """of weights and activations"""
    device: str | None = None
    """cpu, cuda, cuda:1, mps; default: cuda if there is one"""
    long: Literal["error", "truncate", "skip"] = "error"
    """what happens to a row of which some variant exceeds the model's context; skip leaves the whole row out"""
    template: str | None = "model"
    """how a question is put: model (by the tokenizer's chat template), plain (as `Question: …`, `Answer: …`), auto, or the name of one of
    several templates; MUSE is always plain text"""
    batch_tokens: int = 2048
    """tokens a forward pass; memory, not results, depends on it"""
    max_new_tokens: int = 200
    """tokens an answer may take in generation (ROUGE); 200 in the TOFU paper. Not for MUSE, which has the two below"""
    verbmem_tokens: int = 128
    """MUSE: tokens by which a text is continued, and to which the true continuation is cut"""
    knowmem_tokens: int = 32
    """MUSE: tokens an answer may take"""
    generate: bool = True
    """False skips generation, and with it ROUGE and model utility (MUSE: both kinds of memorisation)"""
    holdout: str | None = None
    """data spec (or file) of rows that no model was trained on; default: the suite's own. Not for MUSE, which always takes its own"""
    reference_model: str | None = None
    """a model that never saw the forget set, with the same tokenizer; membership inference by the difference of losses needs it"""
    gradients: bool = False
    """True adds membership inference by the norm of the gradient: a backward pass for each forget and holdout row"""

    def __post_init__(self) -> None:
        for name in ("batch_tokens", "max_new_tokens", "verbmem_tokens", "knowmem_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected at least 1")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit}: expected at least 1")
        unused = ("max_new_tokens", "holdout") if self.suite.startswith("muse:") else ("verbmem_tokens", "knowmem_tokens")
        for name in unused:
            if getattr(self, name) != getattr(EvalConfig, name):
                raise ValueError(f"{name}: --suite {self.suite} makes no use of it; leave it out")
