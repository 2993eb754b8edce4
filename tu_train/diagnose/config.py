"""Everything that `tu-train diagnose` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shared.data.datasets import Keys
from shared.data.layout import LayoutOptions
from shared.errors import ConfigError
from shared.weighting.weights import Selection, SoftMode
from tu_train.ranges import MANY, SEED, Range, check_ranges

FEWEST = 3
"""rows, so that a covariance is left when the jackknife leaves one out"""
DIAGNOSE = {
    "rows": Range(FEWEST, MANY), "retain_rows": Range(FEWEST, MANY), "sketch": Range(16, 2**26), "seed": Range(0, SEED),
    "text_length": Range(2, MANY),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DiagnoseConfig(LayoutOptions):
    model: str
    """the scored model: local folder, org/name[@revision], or smollm2"""
    scores: str
    """score store of the forget set"""
    out: str = "diagnose"
    """folder of the report: diagnose.json, snr.png"""
    retain: str | None = None
    """data spec of what must stay; without it conflict is not measured"""
    rows: int = 40
    """forget rows, drawn by the seed; each of their target tokens costs a backward pass"""
    retain_rows: int = 40
    """retain rows, drawn by the seed; a backward pass each"""
    sketch: int = 4096
    """numbers kept of a token's gradient (the next lower prime is used); relative error of an inner product about √(2 / sketch)"""
    keep: float | None = None
    """hard: share of each answer's tokens that keep weight 1; 0.3 unless top or threshold is given"""
    top: int | None = None
    """hard: number of each answer's tokens that keep weight 1, instead of keep"""
    threshold: float | None = None
    """hard: importance from which on a token keeps weight 1, instead of keep"""
    soft: SoftMode | None = None
    """soft: weights by softmax (unless given) or linear in importance"""
    temperature: float | None = None
    """soft=softmax: small is selective, large is uniform; 0.3 unless given"""
    given_key: str | None = None
    """column of the scored data with the true spans of its answers, [[start, end], ...] in characters (atlas: fact_spans)"""
    forget_data: str | None = None
    """given_key: data spec that the store was scored from; the store's own unless given"""
    train_only: tuple[str, ...] = ()
    """globs of parameter names whose gradients count, such as model.layers.5.*; empty: all"""
    question_key: str = "question"
    """retain: column of the question, for files and hub sets"""
    answer_key: str = "answer"
    """retain: column of the answer"""
    text_key: str | None = None
    """retain: column of raw text, instead of question and answer"""
    text_length: int = 512
    """retain: raw text: tokens an example"""
    long: Literal["error", "truncate", "skip"] = "error"
    """retain: examples beyond the model's context"""
    seed: int = 0
    """of the choice of rows, of the random weighting and of the sketch"""
    device: str | None = None
    """cpu, cuda, cuda:N, mps; default cuda if there is one"""

    def __post_init__(self) -> None:
        check_ranges(self, DIAGNOSE)
        if self.forget_data is not None and self.given_key is None:
            raise ConfigError("--set forget_data says where true spans are, but no --given-key names their column")
        _ = self.selections

    @property
    def keys(self) -> Keys:
        """Of the retain data."""
        return Keys(self.question_key, self.answer_key, self.text_key)

    @property
    def selections(self) -> dict[str, Selection]:
        """Weightings that need the store alone. Raises ConfigError for token options that do not go together."""
        return {
            "all": Selection(tokens="all"),
            "hard": Selection(tokens="hard", keep=self.keep, top=self.top, threshold=self.threshold),
            "soft": Selection(tokens="soft", soft=self.soft, temperature=self.temperature),
        }
