"""How a question is put, and how answers are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from shared.data.layout import LayoutOptions
from shared.lm.models import PrecisionOptions
from shared.settings import COUNT, NONE_OR_MORE, SEED, About, check_ranges


@dataclass(frozen=True, kw_only=True)
class AskConfig(LayoutOptions, PrecisionOptions):
    """Asking. Raises ConfigError naming the field that is out of range."""

    beside: Annotated[str | None, About(flag=True, metavar="MODEL")] = None
    """another model, asked the same: the one before unlearning, say"""
    samples: Annotated[int, About(unit="answers", flag=True, **NONE_OR_MORE)] = 3
    """answers drawn, beside the greedy one"""
    temperature: Annotated[float, About(flag=True, least=1e-3)] = 1.0
    """of the softmax that answers are drawn from"""
    max_new_tokens: Annotated[int, About(unit="tokens", flag=True, **COUNT)] = 200
    """length of an answer"""
    seed: Annotated[int, About(flag=True, least=0, most=SEED)] = 0
    """of the drawn answers"""

    def __post_init__(self) -> None:
        check_ranges(self)
