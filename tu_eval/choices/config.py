"""Everything that `tu-eval choices` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from shared.data.layout import LayoutOptions
from shared.lm.models import PrecisionOptions
from shared.settings import COUNT, About, check_ranges


@dataclass(frozen=True, kw_only=True)
class ChoicesConfig(LayoutOptions, PrecisionOptions):
    """Multiple-choice questions. Raises ConfigError naming the field that is out of range."""

    model: Annotated[str, About(flag=True)]
    """local folder, FILE.gguf, org/name[@revision], or smollm2"""
    data: Annotated[str, About(flag=True)]
    """rows of {question, choices, answer}: .jsonl, .json or .parquet, or hub:org/name:config:split"""
    out: Annotated[str, About(flag=True, changes=False)]
    """folder for the numbers; must be new or empty"""
    question_key: str = "question"
    """column of the question"""
    choices_key: str = "choices"
    """column of the choices: a list of at least two texts"""
    answer_key: str = "answer"
    """column of the right choice: its place, from 0; its letter, from A; or its text"""
    limit: Annotated[int | None, About(unit="rows", flag=True, default="all", **COUNT)] = None
    """only the first rows"""
    long: Annotated[Literal["error", "skip"], About(flag=True)] = "error"
    """what happens to a question of which some choice exceeds the model's context"""
    batch_tokens: Annotated[int, About(unit="tokens", changes=False, **COUNT)] = 2048
    """of a forward pass; memory, not results, depends on it"""

    def __post_init__(self) -> None:
        check_ranges(self)
