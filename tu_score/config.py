"""Everything that `tu-score run` can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from shared.data.datasets import Keys
from shared.data.layout import LayoutOptions
from shared.errors import ConfigError
from shared.weighting.importance import Recipe

TEMPERATURE = 2.0
SPAN_COLUMNS = ("delta", "delta_mean", "masked_entropy")
"""what only masked variants tell"""


MASKING = (
    "keep_spans", "copy_aware", "replacement", "max_spans", "horizon", "window_length", "window_stride", "window_over",
)  # fmt: skip
"""fields that say how context is masked: who sets one wants it masked"""


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(Recipe, LayoutOptions):
    """The fields of the recipe (alpha, knowledge, norm, ...) and those of the layout (template, system, ...) are fields here too."""

    model: str
    """the model to be unlearned: local folder, org/name[@revision], or smollm2"""
    data: str
    """data spec of the forget set"""
    out: str
    """folder of the score store"""
    base_model: str | None = None
    """a model that never saw the data, for base_logprob and base_entropy"""
    engine: Literal["auto", "torch", "vllm"] = "auto"
    """auto: vLLM where it is installed and CUDA is there, else torch"""
    spans: Literal["auto", "none", "question", "window", "entity", "given"] = "auto"
    """which context is masked: what the recipe reads (auto: nothing, or the whole question, of raw text windows), nothing, the whole
    question, windows over it, its names, numbers and dates, or the spans of `span_key`; but for `question`, raw text has them anywhere
    (docs/spans.md)"""
    span_key: str | None = None
    """column of the given spans: a list of [start, end) character offsets in the question, or in the text of a raw row"""
    window_length: int = 4
    """tokens a window masks"""
    window_stride: int = 4
    """tokens from one window to the next"""
    window_over: Literal["prompt", "answer"] = "prompt"
    """windows over the question only, or over the answer too"""
    horizon: int = 256
    """raw text: how many tokens after a span are read"""
    max_spans: int = 256
    """spans an example; from more, that many are drawn by the seed; 0: no limit"""
    replacement: str = "auto"
    """what stands in for a masked token: auto (the first there is of mask, unk, pad, eos), one of these four, a token id, random, or
    delete (the span is taken out)"""
    copy_aware: bool = False
    """leave out, for each token, the spans that hold a copy of it"""
    keep_spans: bool = False
    """also store every span's delta for every token, as column span_deltas"""
    entropy_temperature: float | None = None
    """also store the entropy at this softmax temperature, as column tempered_entropy; 2 where the recipe is the default one and there is
    no base model"""
    topk: int = 0
    """also store this many likeliest tokens at each target, as columns top_ids and top_logprobs"""
    question_key: str = "question"
    """column of the question, for files and hub sets"""
    answer_key: str = "answer"
    """column of the answer"""
    text_key: str | None = None
    """column of raw text, instead of question and answer"""
    text_length: int = 512
    """raw text: tokens an example"""
    long: Literal["error", "truncate", "skip"] = "error"
    """examples beyond the model's context"""
    limit: int | None = None
    """only the first rows of the data"""
    seed: int = 0
    """of the spans that are drawn, of random replacements, and of the self-check's choice of rows"""
    dtype: str = "float32"
    """of the weights: float32, bfloat16, float16"""
    device: str | None = None
    """cpu, cuda, cuda:N, mps; default cuda if there is one"""
    batch_tokens: int = 2048
    """tokens a forward pass, counted after sharing"""
    head_mib: int = 64
    """MiB that logits and what is made of them may fill at a time"""
    workers: int = 1
    """processes that score parts, each with the model of its own; on CUDA each takes one device (with tensor_parallel: so many)"""
    tensor_parallel: int = 1
    """devices that hold one model together; vLLM only"""
    part_tokens: int = 65_536
    """tokens a part of the store; a killed run loses at most the part in hand"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spans == "auto":
            object.__setattr__(self, "spans", self.useful_spans if self.masks else "none")  # as it stands in the plan and in _config.toml
            object.__setattr__(self, "chosen", True)
        for name in ("window_length", "window_stride", "horizon", "batch_tokens", "part_tokens", "head_mib", "workers", "tensor_parallel"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.text_length < 2:
            raise ConfigError(f"text_length is {self.text_length}, expected at least 2")
        for name in ("max_spans", "topk"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if self.entropy_temperature is not None and not 0 < self.entropy_temperature < math.inf:
            raise ConfigError(f"entropy_temperature is {self.entropy_temperature}, expected more than 0")
        if (self.spans == "given") != (self.span_key is not None):
            raise ConfigError(
                "--spans given needs --span-key, the column that holds the spans"
                if self.spans == "given"
                else f"--span-key {self.span_key}: only --spans given reads it, this run has --spans {self.spans}"
            )
        reads = self.recipe.columns()
        if self.base_model is None and any(c.startswith("base_") for c in reads):
            raise ConfigError(f"the recipe reads {', '.join(reads)}; add --base-model, the model before it learned the data")
        if self.temperature is None and "tempered_entropy" in reads:
            raise ConfigError("the recipe reads tempered_entropy; add --set entropy_temperature=2 (or another), or choose another signal")

    chosen = False
    """no field: whether `spans` was auto"""

    @property
    def masks(self) -> bool:
        """Does anything ask for masked variants, each of which costs a forward pass over what follows its span?"""
        return self._given(*MASKING) or not set(SPAN_COLUMNS).isdisjoint(self.recipe.columns())

    def _given(self, *names: str) -> bool:
        return any(getattr(self, f.name) != f.default for f in fields(self) if f.name in names)

    @property
    def useful_spans(self) -> Literal["window", "question"]:
        """The plan that masks what this data has."""
        return "window" if self.text_key is not None or self._given("window_length", "window_stride", "window_over") else "question"

    @property
    def recipe(self) -> Recipe:
        asked = Recipe(**{f.name: getattr(self, f.name) for f in fields(Recipe)})
        return asked.resolved(["tempered_entropy" if self.base_model is None else "base_entropy"])

    @property
    def temperature(self) -> float | None:
        """Of tempered_entropy; None where it is not stored."""
        chosen = self.entropy_temperature is None and self.uncertainty == "auto" and "tempered_entropy" in self.recipe.columns()
        return TEMPERATURE if chosen else self.entropy_temperature

    @property
    def lacking(self) -> list[str]:
        """Columns that the recipe reads and this run will not fill; importance is null then."""
        return [c for c in self.recipe.columns() if c in SPAN_COLUMNS and self.spans == "none"]

    @property
    def optional(self) -> list[str]:
        """Optional columns of the store: those of words, and what was asked for."""
        top = ["top_ids", "top_logprobs"] if self.topk else []
        tempered = ["tempered_entropy"] if self.temperature is not None else []
        return ["word", "copied", *tempered, *top, *(["span_deltas"] if self.keep_spans else [])]

    @property
    def keys(self) -> Keys:
        return Keys(self.question_key, self.answer_key, self.text_key)
