"""Everything that `tu-train run` and `tu-train finetune` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shared.datasets import Keys
from shared.errors import ConfigError
from shared.weights import Selection, SoftMode, TokenMode


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What both commands share: the optimisation and the data's reading."""

    model: str
    """model to start from: local folder, org/name[@revision], or smollm2"""
    out: str
    """folder of the trained model"""
    epochs: int = 5
    """passes over the data (run: over the forget set)"""
    learning_rate: float = 1e-5
    """peak of the schedule: linear warm-up, then linear decay to zero"""
    warmup: float = 0.1
    """share of the steps that warm up"""
    weight_decay: float = 0.01
    """of AdamW"""
    clip: float = 1.0
    """largest norm of the gradient"""
    batch_size: int = 8
    """rows an optimizer step (run: forget rows, with as many retain rows)"""
    batch_tokens: int = 2048
    """tokens a forward pass, before sharing; a step is cut into as many passes as it needs, which changes no result"""
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
    """only the first rows of each data set"""
    seed: int = 0
    """seed of the order of rows"""
    dtype: str = "float32"
    """of the forward pass; the weights that are trained stay float32 (bfloat16 and float16 mean autocast)"""
    device: str | None = None
    """cpu, cuda, cuda:N, mps; default cuda if there is one"""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected more than 0")
        for name in ("weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if not 0 <= self.warmup <= 1:
            raise ConfigError(f"warmup is {self.warmup}, expected a share of the steps, 0 to 1")
        if self.dtype == "float16":
            raise ConfigError("--dtype float16: training in float16 needs loss scaling, which is not built; use bfloat16 or float32")

    @property
    def keys(self) -> Keys:
        return Keys(self.question_key, self.answer_key, self.text_key)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(LoopConfig):
    data: str
    """data spec to learn"""
    learning_rate: float = 5e-5


@dataclass(frozen=True, kw_only=True)
class UnlearnConfig(LoopConfig):
    scores: str
    """score store of the forget set"""
    retain: str
    """data spec of what must stay"""
    method: str = "npo"
    """an entry of tu_train/methods.py"""
    tokens: TokenMode = "hard"
    """which tokens of the forget set are pushed: all alike, the most important ones, or all by importance"""
    keep: float | None = None
    """hard: share of each answer's tokens that keep weight 1; 0.3 unless top or threshold is given"""
    top: int | None = None
    """hard: number of each answer's tokens that keep weight 1, instead of keep"""
    threshold: float | None = None
    """hard: importance from which on a token keeps weight 1, instead of keep; an answer without such a token is left out"""
    soft: SoftMode | None = None
    """soft: weights by softmax (unless given) or linear in importance"""
    temperature: float | None = None
    """soft=softmax: small is selective, large is uniform; 0.3 unless given"""
    beta: float = 0.1
    """npo: inverse temperature"""
    gamma: float = 1.0
    """weight of the forget loss"""
    alpha: float = 1.0
    """weight of the retain loss (NLL)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        from tu_train.methods import find_method

        find_method(self.method)
        _ = self.selection
        if not self.beta > 0:
            raise ConfigError(f"beta is {self.beta}, expected more than 0")

    @property
    def selection(self) -> Selection:
        """Raises ConfigError for token options that do not go together."""
        return Selection(
            tokens=self.tokens, keep=self.keep, top=self.top, threshold=self.threshold, soft=self.soft, temperature=self.temperature
        )
