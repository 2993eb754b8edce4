"""The configuration of attacks on one model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from shared.data.layout import LayoutOptions

AttackName = Literal["paraphrase", "sample", "quantise", "relearn"]
NAMES: tuple[AttackName, ...] = ("paraphrase", "sample", "quantise", "relearn")


@dataclass(frozen=True, kw_only=True)
class AttackConfig(LayoutOptions):
    """Raises ValueError naming the field that is out of range."""

    model: str
    """the model after unlearning: local folder, org/name[@revision], or smollm2"""
    suite: str
    """its forget set is what attacks look for: tofu:forget01, tofu:forget05, tofu:forget10, or atlas[:people=..,seed=..]"""
    out: str
    """folder for the numbers; must be new or empty"""
    before: str | None = None
    """the model before unlearning, attacked in the same way; steps_to_half needs it"""
    retain: str | None = None
    """the model that never saw the forget set, attacked in the same way: what an attack gets from it was not remembered"""
    attacks: tuple[AttackName, ...] = NAMES
    store: str | None = None
    """folder for what was measured, by content; default: OUT.unfinished, which goes away when the numbers are written"""
    limit: int | None = None
    """only the first N forget rows; default all"""
    seed: int = 0
    """of the rows relearned, their order, and the sampled answers"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """of weights and activations; relearning needs float32"""
    device: str | None = None
    """cpu, cuda, cuda:1, mps; default: cuda if there is one"""
    long: Literal["error", "truncate", "skip"] = "error"
    """what happens to a row, also in one of its prompts, that exceeds the model's context"""
    batch_tokens: int = 2048
    """tokens a forward pass; memory, not results, depends on it"""

    relearn_steps: int = 20
    """optimizer steps"""
    relearn_every: int = 1
    """steps between measurements; the last step is always measured"""
    relearn_rows: int = 4
    """forget rows trained on, drawn by seed; all the others are the rest, which the attacker never shows"""
    relearn_on: str | None = None
    """data spec of related text to train on instead; then all forget rows are the rest"""
    relearn_text_key: str | None = None
    """column of raw text in relearn_on; default: its rows are questions and answers"""
    relearn_batch: int = 4
    """rows a step"""
    learning_rate: float = 1e-5
    """of AdamW, constant, without weight decay"""

    bits: tuple[int, ...] = (8, 4)
    """of the rounded weights, 2 to 8"""
    group: int = 64
    """inputs that share a scale in the grouped form"""

    prompts: tuple[str, ...] = ()
    """further templates of a question, each with {question}"""
    question_columns: tuple[str, ...] = ()
    """columns of the data with the same question in other words or another language, beside paraphrased_question"""

    samples: int = 16
    """answers drawn a row"""
    temperature: float = 1.0
    max_new_tokens: int = 100
    """tokens of a drawn answer"""
    rouge_threshold: float = 0.8
    """ROUGE-L recall from which on a drawn answer counts as the whole answer; where rows mark their fact, the fact's own words count"""

    def __post_init__(self) -> None:
        counts = ("batch_tokens", "relearn_steps", "relearn_every", "relearn_rows", "relearn_batch", "group", "samples", "max_new_tokens")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected at least 1")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit}: expected at least 1")
        for name in ("learning_rate", "temperature"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: got {value}, expected more than 0")
        if self.learning_rate > 1:
            raise ValueError(f"learning_rate: got {self.learning_rate}, expected at most 1")
        if not 0 < self.rouge_threshold <= 1:
            raise ValueError(f"rouge_threshold: got {self.rouge_threshold}, expected more than 0 and at most 1")
        for bits in self.bits:
            if not 2 <= bits <= 8:
                raise ValueError(f"bits: got {bits}, expected 2 to 8")
        for name in ("attacks", "bits"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}: got {list(values)}, expected at least one, each once")
        for prompt in self.prompts:
            if "{question}" not in prompt:
                raise ValueError(f"prompts: {prompt!r} has no {{question}}, so the model would not be asked anything")
        if self.relearn_text_key is not None and self.relearn_on is None:
            raise ValueError("relearn_text_key: names a column of relearn_on, which is not given")
        if "relearn" in self.attacks and self.dtype != "float32":
            raise ValueError(f"--dtype {self.dtype}: relearning's small steps are lost in it; use float32, or --attack without relearn")
