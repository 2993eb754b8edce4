"""Everything that `tu-eval depth` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from shared.data.layout import LayoutOptions
from shared.errors import ConfigError
from shared.lm.models import PrecisionOptions
from shared.settings import COUNT, About, check_ranges


@dataclass(frozen=True, kw_only=True)
class DepthConfig(LayoutOptions, PrecisionOptions):
    """Depth. Raises ConfigError naming the field that is out of range."""

    model: Annotated[str, About(flag=True)]
    """the model after unlearning: local folder, FILE.gguf, org/name[@revision], or smollm2"""
    full: Annotated[str, About(flag=True)]
    """the model before unlearning, which knows the facts and into which layers of the others are put"""
    retain_model: Annotated[str, About(flag=True)]
    """the model that never saw the facts: what of it put into the full model costs is what there was to forget"""
    out: Annotated[str, About(flag=True, changes=False)]
    """folder for the numbers and the picture; must be new or empty"""
    suite: Annotated[str | None, About(flag=True)] = None
    """its forget set has the facts: tofu:forget01, atlas[:people=..,seed=..], or a TOML file of your own"""
    data: Annotated[str | None, About(flag=True)] = None
    """instead of a suite, a data spec of questions and answers; their column fact_spans marks the facts"""
    question_key: str = "question"
    """column of the question in data"""
    answer_key: str = "answer"
    """column of the answer in data"""
    limit: Annotated[int | None, About(unit="rows", flag=True, default="all", **COUNT)] = None
    """only the first rows"""
    long: Annotated[Literal["error", "truncate", "skip"], About(flag=True)] = "error"
    """what happens to a row that exceeds the model's context"""
    batch_tokens: Annotated[int, About(unit="tokens", changes=False, **COUNT)] = 2048
    """of a forward pass, with the padding; the outputs of all layers of two models for them are in memory at once"""
    threshold: Annotated[float, About(unit="nats", least=0)] = 0.05
    """a layer counts where the retain model's output in its place costs a fact more than this a token"""
    positions: Literal["fact", "all"] = "fact"
    """which tokens' output is put in place: fact, those that predict the fact's tokens, as the paper does; all, every
    token of the row, so that what early layers make of the question counts too"""
    lens: bool = True
    """false leaves the logit lens out"""

    def __post_init__(self) -> None:
        check_ranges(self)
        if (self.suite is None) == (self.data is None):
            raise ConfigError("depth: give either --suite, whose forget set has the facts, or --data, a file of questions and answers")
