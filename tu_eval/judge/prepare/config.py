"""Everything that `tu-eval prepare` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from shared.settings import COUNT, NONE_OR_MORE, About, check_ranges


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Columns for rows of your own. Raises ConfigError naming the field that is out of range. The endpoint of a judge
    and its key come from the environment alone."""

    forget: Annotated[str, About(flag=True)]
    """data spec, say a file, of the rows to be forgotten"""
    out: Annotated[str, About(flag=True, changes=False)]
    """folder for forget.jsonl and retain.jsonl; must be new or empty"""
    retain: Annotated[str | None, About(flag=True)] = None
    """data spec of rows that must stay; they lend wrong answers too"""
    question_key: Annotated[str, About(flag=True)] = "question"
    """column of the question; it is called question in what is written"""
    answer_key: Annotated[str, About(flag=True)] = "answer"
    """column of the answer; it is called answer in what is written"""
    wrong: Annotated[int, About(unit="answers", flag=True, **NONE_OR_MORE)] = 3
    """wrong answers a row, taken from other rows that ask for the same kind of thing (perturbed_answer); rows that have
    some keep them"""
    paraphrase: Annotated[Literal["rules", "judge", "none"], About(flag=True)] = "rules"
    """who puts questions in other words (paraphrased_question): rules, for English, or a model behind the endpoint that
    TU_JUDGE_URL names, for every language; rows that have one keep it"""
    judge_model: Annotated[str | None, About(flag=True, default="TU_JUDGE_MODEL")] = None
    """the judge's name at its endpoint"""
    judge_greedy: bool = True
    """asks with temperature 0; false names none, for judges that refuse one"""
    limit: Annotated[int | None, About(unit="rows", flag=True, default="all", **COUNT)] = None
    """only the first rows of each file"""
    timeout_s: Annotated[float, About(unit="seconds", changes=False, above=0, most=86_400)] = 120.0
    """that the judge may be silent"""
    reply_s: Annotated[float, About(unit="seconds", changes=False, above=0, most=86_400)] = 600.0
    """that a whole reply may take"""
    retries: Annotated[int, About(unit="attempts", changes=False, least=0, most=20)] = 5
    """after a status of 429 or 5xx, or a broken connection"""

    def __post_init__(self) -> None:
        check_ranges(self)
