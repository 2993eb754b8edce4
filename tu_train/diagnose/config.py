"""Everything that `tu-train diagnose` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from shared.data.datasets import ReadingOptions
from shared.data.layout import LayoutOptions
from shared.errors import ConfigError
from shared.lm.models import DeviceOptions
from shared.settings import MANY, SEED, About, check_ranges
from shared.weighting.selection import Selection, SelectionOptions

FEWEST = 3
"""rows, so that a covariance is left when the jackknife leaves one out"""


@dataclass(frozen=True, kw_only=True)
class DiagnoseConfig(SelectionOptions, ReadingOptions, LayoutOptions, DeviceOptions):
    """Diagnosis. How data is read speaks of the retain data; the scored data is read as it was scored."""

    model: Annotated[str, About(flag=True)]
    """the scored model: local folder, FILE.gguf, org/name[@revision], or smollm2"""
    scores: Annotated[str | tuple[str, ...], About(flag=True)]
    """score store of the forget set (tu-score run); several, or the flag again, for forget corpora"""
    out: Annotated[str, About(flag=True, changes=False)] = "diagnose"
    """folder of the report: diagnose.json, snr.png"""
    retain: Annotated[str | None, About(flag=True)] = None
    """data spec of what must stay; without it conflict is not measured"""
    rows: Annotated[int, About(unit="rows", flag=True, least=FEWEST, most=MANY)] = 40
    """forget rows of each store, drawn by the seed; each of their target tokens costs a backward pass"""
    retain_rows: Annotated[int, About(unit="rows", least=FEWEST, most=MANY)] = 40
    """retain rows, drawn by the seed; a backward pass each"""
    sketch: Annotated[int, About(unit="numbers", least=16, most=2**26)] = 4096
    """numbers kept of a token's gradient (the next lower prime is used); relative error of an inner product about
    √(2 / sketch)"""
    given_key: Annotated[str | None, About(flag=True)] = None
    """column of the scored data with the true spans of its answers, [[start, end], ...] in characters (atlas:
    fact_spans)"""
    forget_data: Annotated[str | tuple[str, ...] | None, About(default="the store's own")] = None
    """given_key: data spec that the store was scored from; of several stores a list"""
    train_only: Annotated[tuple[str, ...], About(default="all")] = ()
    """globs of parameter names whose gradients count, such as model.layers.5.*"""
    seed: Annotated[int, About(flag=True, least=0, most=SEED)] = 0
    """of the choice of rows, of the random weighting and of the sketch"""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.forget_data is not None and self.given_key is None:
            raise ConfigError("--set forget_data says where true spans are, but no --given-key names their column")
        if isinstance(self.forget_data, tuple) and len(self.forget_data) != len(self.each):
            raise ConfigError(f"forget_data: got {len(self.forget_data)} values for {len(self.each)} stores (--scores); give one for each")
        _ = self.selections

    @property
    def each(self) -> tuple[tuple[str, str | None], ...]:
        """(store, data that it was scored from where that is named) of each forget corpus."""
        stores = self.scores if isinstance(self.scores, tuple) else (self.scores,)
        data = self.forget_data if isinstance(self.forget_data, tuple) else (self.forget_data,) * len(stores)
        return tuple(zip(stores, data, strict=False))

    @property
    def selections(self) -> dict[str, Selection]:
        """Weightings that need the store alone. Raises ConfigError for token options that do not go together."""
        return {
            "all": Selection(tokens="all"),
            "hard": Selection(tokens="hard", keep=self.keep, top=self.top, threshold=self.threshold),
            "soft": Selection(tokens="soft", soft=self.soft, temperature=self.temperature),
        }
