"""Everything that `tu-score run` can be told."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from shared.data.datasets import DataOptions, is_raw_text
from shared.data.layout import LayoutOptions
from shared.data.raw_text import OVERLAP
from shared.data.row_bytes import PART_TOKENS
from shared.errors import ConfigError
from shared.extensions import Kind, is_function, load
from shared.lm.models import PrecisionOptions
from shared.settings import COUNT, NONE_OR_MORE, SEED, About
from shared.weighting.importance import LEARNED, Recipe
from shared.weighting.learned import TEMPERATURE as LEARNED_AT

TEMPERATURE = 2.0
OWN_TEMPERATURE = ("auto", LEARNED)
"""values of `uncertainty` that have tempered_entropy stored where they read it"""
SPAN_COLUMNS = ("delta", "delta_mean", "masked_entropy")
"""what only masked variants tell"""


MASKING = (
    "keep_spans", "copy_aware", "replacement", "max_spans", "horizon", "window_length", "window_stride", "window_over",
)  # fmt: skip
"""fields that say how context is masked: who sets one wants it masked"""
PLANS = {
    "auto": "what the recipe reads: nothing, the whole question, or of raw text windows", "none": "nothing",
    "question": "the whole question", "window": "windows over the question, or over raw text", "entity": "names, numbers and dates",
    "given": "the spans of a column (--span-key)",
}  # fmt: skip
"""name -> which context is masked"""
SPAN_PLAN = Kind("token_unlearn.span_plans", "--spans", "a function, row -> list of (start, end) character offsets", is_function)


def shard_of(text: str) -> tuple[int, int]:
    """`3/64` -> 3, 64. Raises ConfigError."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    number, of = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= of:
        raise ConfigError(f"--shard {text}: expected K/N with K from 1 to N, such as 3/64")
    return number, of


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(DataOptions, LayoutOptions, Recipe, PrecisionOptions):
    """Scoring. The fields of the recipe (alpha, knowledge, norm, ...) and those of the layout (template, system, ...)
    are fields here too."""

    model: Annotated[str, About(flag=True)]
    """the model to be unlearned: local folder, FILE.gguf, org/name[@revision], or smollm2"""
    data: Annotated[str, About(flag=True)]
    """the forget set: tofu:forget01, atlas:forget, hub:org/name:config:split, or a .jsonl, .json, .csv, .tsv or
    .parquet file"""
    out: Annotated[str, About(flag=True, changes=False)]
    """folder (or URL) of the score store; must be new, or that of a killed run of the same settings, which goes on"""
    base_model: Annotated[str | None, About(flag=True)] = None
    """a model that never saw the data, such as the one before fine-tuning; it judges best which tokens matter"""
    engine: Annotated[Literal["auto", "torch", "vllm"], About(flag=True)] = "auto"
    """auto: vLLM where it is installed and CUDA is there, else torch"""
    spans: Annotated[str, About(flag=True, metavar="auto|none|question|window|entity|given|MODULE:NAME")] = "auto"
    """which context is masked: what the recipe reads (auto: nothing, or the whole question, of raw text windows),
    nothing, the whole question, windows over it, its names, numbers and dates, the spans of `span_key`, or those of a
    function of your own (docs/extending.md); but for `question`, raw text has them anywhere (docs/spans.md)"""
    span_key: Annotated[str | None, About(flag=True)] = None
    """column of the given spans: a list of [start, end) character offsets in the question, or in the text of a raw
    row"""
    window_length: Annotated[int, About(unit="tokens", **COUNT)] = 4
    """length of a window that is masked"""
    window_stride: Annotated[int, About(unit="tokens", **COUNT)] = 4
    """from the beginning of one window to that of the next"""
    window_over: Literal["prompt", "answer"] = "prompt"
    """windows over the question only, or over the answer too"""
    horizon: Annotated[int, About(unit="tokens", **COUNT)] = 256
    """raw text: how much after a span is read"""
    max_spans: Annotated[int, About(unit="spans", **NONE_OR_MORE)] = 256
    """spans an example; from more, that many are drawn by the seed; 0: no limit"""
    replacement: str = "auto"
    """what stands in for a masked token: auto (the first there is of mask, unk, pad, eos), one of these four, a token
    id, random, or delete (the span is taken out)"""
    text_copies: Annotated[Literal["earlier", "none"] | None, About(default="earlier")] = None
    """raw text: which words count as copies, as those of the question do elsewhere: words that an earlier sentence of
    the same text holds, or none"""
    copy_aware: bool = False
    """leave out, for each token, the spans that hold a copy of it"""
    keep_spans: Annotated[bool, About(flag=True)] = False
    """also store what each span's masking takes from each token, as column span_deltas"""
    entropy_temperature: Annotated[float | None, About(above=0, default="2 or not stored, as the recipe needs it")] = None
    """also store the entropy at this softmax temperature, as column tempered_entropy; 2 where the recipe is the default
    one, or learned, and there is no base model"""
    topk: Annotated[int, About(unit="tokens", flag=True, **NONE_OR_MORE)] = 0
    """also store this many likeliest tokens at each target, as columns top_ids and top_logprobs"""
    seed: Annotated[int, About(flag=True, least=0, most=SEED)] = 0
    """of the spans that are drawn, of random replacements, and of the self-check's choice of rows"""
    batch_tokens: Annotated[int, About(unit="tokens", changes=False, **COUNT)] = 2048
    """of a forward pass, counted after sharing; memory depends on it"""
    head_mib: Annotated[int, About(unit="MiB", changes=False, **COUNT)] = 64
    """memory that logits and what is made of them may fill at a time"""
    workers: Annotated[int, About(unit="processes", flag=True, changes=False, **COUNT)] = 1
    """processes that score, each with the model of its own (Ray, extra ray); on CUDA each takes one device (with
    tensor_parallel: so many)"""
    ray: Annotated[str | None, About(flag=True, metavar="ADDRESS", changes=False)] = None
    """score on a running Ray cluster: HOST:PORT of its head, or auto; without --workers on all of its GPUs, else
    CPUs"""
    shard: Annotated[str | None, About(flag=True, metavar="K/N", changes=False)] = None
    """score only the K-th of N shares of the parts, into a folder below OUT; `tu-score merge OUT` joins them
    (docs/scale.md)"""
    tensor_parallel: Annotated[int, About(unit="devices", changes=False, **COUNT)] = 1
    """devices that hold one model together; vLLM only"""
    part_tokens: Annotated[int, About(unit="tokens", **COUNT)] = PART_TOKENS
    """of a part of the store; a killed run loses at most the part in hand"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.imported()
        if self.shard is not None:
            shard_of(self.shard)
        if self.spans not in PLANS:
            load(SPAN_PLAN, self.spans, PLANS)
        resolved: dict[str, Any] = {}
        if self.spans == "auto":
            resolved["spans"] = self.useful_spans if self.masks else "none"
        if is_raw_text(self.data, self.keys):
            texts = {"text_overlap": min(OVERLAP, self.text_length // 2), "text_copies": "earlier"}
            resolved |= {name: value for name, value in texts.items() if getattr(self, name) is None}
        for name, value in {**resolved, "left_open": frozenset(resolved)}.items():
            object.__setattr__(self, name, value)  # as they stand in the plan and in _config.toml
        if (self.spans == "given") != (self.span_key is not None):
            raise ConfigError(
                "--spans given needs --span-key, the column that holds the spans"
                if self.spans == "given"
                else f"--span-key {self.span_key}: only --spans given reads it, this run has --spans {self.spans}"
            )
        reads = self.recipe.columns()
        if self.base_model is None and any(c.startswith("base_") for c in reads):
            raise ConfigError(f"the recipe reads {', '.join(reads)}; add --base-model, the model before it learned the data")
        if "learned_alone" in self.recipe.shares() and self.temperature not in (None, LEARNED_AT):
            raise ConfigError(
                f"the recipe reads the entropy at temperature {LEARNED_AT:g}; leave entropy_temperature out, or take learned_text"
            )
        if self.temperature is None and "tempered_entropy" in reads:
            raise ConfigError("the recipe reads tempered_entropy; add --set entropy_temperature=2 (or another), or choose another signal")

    left_open = frozenset[str]()
    """no field: names of those that were resolved here, as nobody gave them"""

    @property
    def masks(self) -> bool:
        """Does anything ask for masked variants, each of which costs a forward pass over what follows its span?"""
        return self._given(*MASKING) or not set(SPAN_COLUMNS).isdisjoint(self.recipe.columns())

    def _given(self, *names: str) -> bool:
        return any(getattr(self, f.name) != f.default for f in fields(self) if f.name in names)

    @property
    def useful_spans(self) -> Literal["window", "question"]:
        """The plan that masks what this data has."""
        return "window" if is_raw_text(self.data, self.keys) or self._given("window_length", "window_stride", "window_over") else "question"

    @property
    def recipe(self) -> Recipe:
        """Of importance, with `auto` resolved for the columns that the store will have."""
        asked = Recipe(**{f.name: getattr(self, f.name) for f in fields(Recipe)})
        tempered = self.entropy_temperature is not None or self.uncertainty in OWN_TEMPERATURE
        base = ["base_entropy", "base_logprob"] if self.base_model is not None else []
        held = [*base, "entropy", *(["tempered_entropy"] if tempered else [])]
        return asked.resolved(held, as_learned=self.entropy_temperature in (None, LEARNED_AT))

    @property
    def temperature(self) -> float | None:
        """Of tempered_entropy; None where it is not stored."""
        chosen = self.entropy_temperature is None and self.uncertainty in OWN_TEMPERATURE and "tempered_entropy" in self.recipe.columns()
        return TEMPERATURE if chosen else self.entropy_temperature

    @property
    def lacking(self) -> list[str]:
        """Columns that the recipe reads and this run will not fill; importance is null then."""
        return [c for c in self.recipe.columns() if c in SPAN_COLUMNS and self.spans == "none"]

    @property
    def optional(self) -> list[str]:
        """Optional columns of the store: those of words, and what was asked for."""
        top = ["top_ids", "top_logprobs"] if self.topk else []
        tempered = ["tempered_entropy"] if self.temperature is not None else []
        return ["word", "copied", *tempered, *top, *(["span_deltas"] if self.keep_spans else [])]
