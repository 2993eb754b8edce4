"""Everything that `tu-score run` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shared.datasets import Keys
from shared.errors import ConfigError
from shared.importance import Recipe


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
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
    spans: Literal["none", "question", "window"] = "question"
    """which context is masked: nothing, the whole question, or windows over the question (raw text: over the text)"""
    window_length: int = 4
    """tokens a window masks"""
    window_stride: int = 4
    """tokens from one window to the next"""
    horizon: int = 256
    """raw text: how many tokens after a window are read"""
    replacement: str = "auto"
    """what stands in for a masked token: auto (the first there is of mask, unk, pad, eos), one of these four, or a token id"""
    alpha: float = 0.5
    """share of the knowledge signal in importance, 0 to 1"""
    knowledge: Literal["absolute", "positive", "gain"] = "absolute"
    """knowledge signal: |delta|, positive part of delta, or log-probability gained over the base model"""
    uncertainty: Literal["entropy", "masked_entropy", "base_entropy"] = "entropy"
    """uncertainty signal"""
    norm: Literal["minmax", "rank"] = "minmax"
    """normalisation within an example"""
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
    """seed of the self-check's choice of rows"""
    dtype: str = "float32"
    """of the weights: float32, bfloat16, float16"""
    device: str | None = None
    """cpu, cuda, cuda:N, mps; default cuda if there is one"""
    batch_tokens: int = 2048
    """tokens a forward pass, counted after sharing"""
    part_tokens: int = 65_536
    """tokens a part of the store; a killed run loses at most the part in hand"""

    def __post_init__(self) -> None:
        for name in ("window_length", "window_stride", "horizon", "batch_tokens", "part_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.text_length < 2:
            raise ConfigError(f"text_length is {self.text_length}, expected at least 2")
        if self.base_model is None and any(c.startswith("base_") for c in self.recipe.columns()):
            raise ConfigError(
                f"the recipe reads {', '.join(self.recipe.columns())}; add --base-model, the model before it learned the data"
            )

    @property
    def recipe(self) -> Recipe:
        return Recipe(alpha=self.alpha, knowledge=self.knowledge, uncertainty=self.uncertainty, norm=self.norm)

    @property
    def keys(self) -> Keys:
        return Keys(self.question_key, self.answer_key, self.text_key)
