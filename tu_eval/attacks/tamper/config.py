"""Everything that `tu-eval tamper` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from shared.data.layout import LayoutOptions
from shared.errors import ConfigError
from shared.lm.models import PrecisionOptions
from shared.settings import COUNT, SEED, About, check_ranges
from tu_eval.measure.config import check_files, never_saw, rows_kept

ON = ("forget", "related", "unrelated")


@dataclass(frozen=True, kw_only=True)
class TamperConfig(LayoutOptions, PrecisionOptions):
    """Tampering. Raises ConfigError naming the field that is out of range."""

    model: Annotated[str, About(flag=True)]
    """the model after unlearning: local folder, FILE.gguf, org/name[@revision], or smollm2"""
    before: Annotated[str, About(flag=True)]
    """the model before unlearning: half of what it knows is what has to come back"""
    suite: Annotated[str | None, About(flag=True, default="none: a file of your own, --forget")] = None
    """its forget set is what is looked for, its other sets are what is trained on: tofu:forget01,
    atlas[:people=..,seed=..], or a TOML file of your own"""
    forget: Annotated[str | None, About(flag=True)] = None
    """instead of a suite: data spec, say a file, of the rows that are looked for (docs/own_data.md)"""
    out: Annotated[str, About(flag=True, changes=False)]
    """folder for the numbers and the picture; must be new or empty"""
    retain: Annotated[str | None, About(flag=True)] = None
    """with forget: data spec, say a file, of related rows. A name that is no data spec is that of retain_model"""
    retain_model: Annotated[str | None, About(flag=True)] = None
    """the model that never saw the forget set, tampered with in the same way: what it learns was not remembered"""
    on: tuple[str, ...] = ON
    """what is trained on: forget (rows of the forget set; in-domain), related, unrelated (both out-of-domain); with
    files of your own those of the three that are named"""
    related: Annotated[str | None, About(default="the suite's retain set, the file of --retain")] = None
    """data spec of related rows, questions and answers"""
    unrelated: Annotated[str | None, About(default="the suite's last set")] = None
    """data spec of unrelated rows or text"""
    unrelated_text_key: str | None = None
    """column of raw text in unrelated; without one its rows are questions and answers"""
    rates: Annotated[tuple[float, ...], About(above=0, most=1)] = (1e-5, 5e-5)
    """learning rates of AdamW, constant, without weight decay"""
    rows: Annotated[tuple[int, ...], About(unit="rows", **COUNT)] = (1, 4, 16)
    """amounts of data, each a part of the next; a smaller one is trained on only where the larger brought half back"""
    every_amount: bool = False
    """true trains on all amounts, for curves that can be laid side by side"""
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

    @property
    def models(self) -> dict[str, str]:
        """By role: model, before, and where it is named retain."""
        never = never_saw(self)
        return {"model": self.model, "before": self.before, **({"retain": never} if never is not None else {})}

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of `on` those that there are rows for: a suite has all, files of one's own what was named."""
        named = {"forget": True, "related": rows_kept(self) or self.related, "unrelated": self.unrelated}
        return tuple(kind for kind in self.on if self.forget is None or named[kind])

    def __post_init__(self) -> None:
        check_ranges(self)
        check_files(self)
        if (kept := rows_kept(self)) is not None and (self.forget is None or self.related is not None):
            raise ConfigError(
                f"--retain {kept}: names related rows, and {'the suite has its own' if self.forget is None else 'related names others'}; "
                f"{'use --set related=DATA for others' if self.forget is None else 'give one of the two'}, and --retain-model for a model"
            )
        for name in ("on", "rates", "rows"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{name}: got {list(values)}, expected at least one, each once")
        if wrong := sorted(set(self.on) - set(ON)):
            raise ConfigError(f"on: got {wrong[0]!r}, expected some of {', '.join(ON)}")
        if self.unrelated_text_key is not None and self.unrelated is None:
            raise ConfigError("unrelated_text_key: names a column of unrelated, which is not given")
        if not self.kinds:
            raise ConfigError(
                f"on: {', '.join(self.on)} is not there; name related rows with --retain FILE, unrelated ones with --set unrelated=DATA"
            )
