"""Everything that `tu-eval tamper` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from shared.data.layout import LayoutOptions
from shared.errors import ConfigError
from shared.lm.models import PrecisionOptions
from shared.settings import COUNT, SEED, About, check_ranges

ON = ("forget", "related", "unrelated")


@dataclass(frozen=True, kw_only=True)
class TamperConfig(LayoutOptions, PrecisionOptions):
    """Tampering. Raises ConfigError naming the field that is out of range."""

    model: Annotated[str, About(flag=True)]
    """the model after unlearning: local folder, FILE.gguf, org/name[@revision], or smollm2"""
    before: Annotated[str, About(flag=True)]
    """the model before unlearning: half of what it knows is what has to come back"""
    suite: Annotated[str, About(flag=True)]
    """its forget set is what is looked for, its other sets are what is trained on: tofu:forget01,
    atlas[:people=..,seed=..], or a TOML file of your own"""
    out: Annotated[str, About(flag=True, changes=False)]
    """folder for the numbers and the picture; must be new or empty"""
    retain: Annotated[str | None, About(flag=True)] = None
    """the model that never saw the forget set, tampered with in the same way: what it learns was not remembered"""
    on: tuple[str, ...] = ON
    """what is trained on: forget (rows of the forget set; in-domain), related, unrelated (both out-of-domain)"""
    related: Annotated[str | None, About(default="the suite's retain set")] = None
    """data spec of related rows, questions and answers"""
    unrelated: Annotated[str | None, About(default="the suite's last set")] = None
    """data spec of unrelated rows or text"""
    unrelated_text_key: str | None = None
    """column of raw text in unrelated; without one its rows are questions and answers"""
    rates: Annotated[tuple[float, ...], About(above=0, most=1)] = (1e-5, 5e-5)
    """learning rates of AdamW, constant, without weight decay"""
    rows: Annotated[tuple[int, ...], About(unit="rows", **COUNT)] = (1, 4, 16)
    """amounts of data, each a part of the next"""
    steps: Annotated[int, About(unit="steps", **COUNT)] = 20
    """optimizer steps of each run"""
    every: Annotated[int, About(unit="steps", **COUNT)] = 5
    """steps between measurements; the last step is always measured"""
    batch: Annotated[int, About(unit="rows", **COUNT)] = 4
    """rows a step; fewer where there are fewer"""
    limit: Annotated[int | None, About(unit="rows", flag=True, default="all", **COUNT)] = None
    """only the first forget rows"""
    seed: Annotated[int, About(flag=True, least=0, most=SEED)] = 0
    """of the rows trained on and their order"""
    long: Annotated[Literal["error", "truncate", "skip"], About(flag=True)] = "error"
    """what happens to a row that exceeds the model's context"""
    batch_tokens: Annotated[int, About(unit="tokens", changes=False, **COUNT)] = 2048
    """of a forward pass; memory, not results, depends on it"""
    dtype: Literal["float32"] = "float32"
    """of weights and activations; small steps are lost in any other"""

    def __post_init__(self) -> None:
        check_ranges(self)
        for name in ("on", "rates", "rows"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{name}: got {list(values)}, expected at least one, each once")
        if wrong := sorted(set(self.on) - set(ON)):
            raise ConfigError(f"on: got {wrong[0]!r}, expected some of {', '.join(ON)}")
        if self.unrelated_text_key is not None and self.unrelated is None:
            raise ConfigError("unrelated_text_key: names a column of unrelated, which is not given")
