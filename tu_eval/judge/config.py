"""Everything that `tu-eval judge` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shared.data.layout import LayoutOptions

LONGEST_S = 86_400
"""seconds that a setting may ask for; sockets take no endless ones"""


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(LayoutOptions):
    """Raises ValueError naming the field that is out of range. The endpoint and its key come from the environment alone."""

    model: str
    """local folder, org/name[@revision], or smollm2"""
    data: str
    """JSONL of {id, category, turns: [text, ...]}, also with question_id for id, and reference: [text or null, ...] for each turn"""
    out: str
    """folder for the ratings; must be new or empty"""
    judge_model: str | None = None
    """the judge's name at its endpoint; default: TU_JUDGE_MODEL"""
    judge_greedy: bool = True
    """asks with temperature 0; False names none, for judges that refuse one"""
    store: str | None = None
    """folder for answers and replies, by content; default: OUT.unfinished, which goes away when the ratings are written"""
    limit: int | None = None
    """only the first N conversations; default all"""
    max_new_tokens: int = 1024
    """tokens of an answer"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str | None = None
    """cpu, cuda, cuda:1, mps; default: cuda if there is one"""
    batch_tokens: int = 8192
    """tokens in flight while answers are written; memory, not results, depends on it"""
    timeout_s: float = 120.0
    """that the judge may be silent"""
    reply_s: float = 600.0
    """that a whole reply may take, from the request to its last byte"""
    retries: int = 5
    """after a status of 429 or 5xx, or a broken connection; waits of 1, 2, 4, ... seconds, or as long as the server says (at most 60)"""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected at least 1")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit}: expected at least 1")
        for name in ("timeout_s", "reply_s"):
            if not 0 < (value := getattr(self, name)) <= LONGEST_S:
                raise ValueError(f"{name}: got {value}, expected more than 0, at most {LONGEST_S}")
        if not 0 <= self.retries <= 20:
            raise ValueError(f"retries: got {self.retries}, expected 0 to 20")
