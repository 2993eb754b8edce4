"""Everything that `tu-eval judge` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from shared.data.layout import LayoutOptions
from shared.lm.models import PrecisionOptions
from shared.settings import COUNT, About, check_ranges

LONGEST_S = 86_400
"""seconds that a setting may ask for; sockets take no endless ones"""


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(LayoutOptions, PrecisionOptions):
    """Answers graded by a judge. Raises ConfigError naming the field that is out of range. The endpoint and its key
    come from the environment alone."""

    model: Annotated[str, About(flag=True)]
    """local folder, FILE.gguf, org/name[@revision], or smollm2"""
    data: Annotated[str, About(flag=True)]
    """JSONL of {id, category, turns: [text, ...]}, also with question_id for id, and reference: [text or null, ...] for
    each turn"""
    out: Annotated[str, About(flag=True, changes=False)]
    """folder for the ratings; must be new or empty"""
    judge_model: Annotated[str | None, About(flag=True, default="TU_JUDGE_MODEL")] = None
    """the judge's name at its endpoint"""
    judge_greedy: bool = True
    """asks with temperature 0; false names none, for judges that refuse one"""
    store: Annotated[str | None, About(flag=True, changes=False, default="OUT.unfinished")] = None
    """folder for answers and replies, by content; OUT.unfinished goes away when the ratings are written"""
    limit: Annotated[int | None, About(unit="conversations", flag=True, default="all", **COUNT)] = None
    """only the first conversations"""
    max_new_tokens: Annotated[int, About(unit="tokens", **COUNT)] = 1024
    """length of an answer"""
    batch_tokens: Annotated[int, About(unit="tokens", changes=False, **COUNT)] = 8192
    """in flight while answers are written; memory, not results, depends on it"""
    timeout_s: Annotated[float, About(unit="seconds", changes=False, above=0, most=LONGEST_S)] = 120.0
    """that the judge may be silent"""
    reply_s: Annotated[float, About(unit="seconds", changes=False, above=0, most=LONGEST_S)] = 600.0
    """that a whole reply may take, from the request to its last byte"""
    retries: Annotated[int, About(unit="attempts", changes=False, least=0, most=20)] = 5
    """after a status of 429 or 5xx, or a broken connection; waits of 1, 2, 4, ... seconds, or as long as the server
    says (at most 60)"""

    def __post_init__(self) -> None:
        check_ranges(self)
