"""The configuration of attacks on one model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from shared.data.layout import LayoutOptions
from shared.errors import ConfigError
from shared.extensions import Kind, is_function, load
from shared.lm.models import PrecisionOptions
from shared.settings import COUNT, SEED, About, check_ranges
from tu_eval.measure.config import check_files, never_saw, rows_kept

AttackName = Literal["paraphrase", "sample", "quantise", "nf4", "relearn"]
NAMES: tuple[AttackName, ...] = ("paraphrase", "sample", "quantise", "nf4", "relearn")
ATTACK = Kind("token_unlearn.attacks", "--attack", "a function, (engine, probes, seed) -> rows of tu_eval.attacks.probing", is_function)


@dataclass(frozen=True, kw_only=True)
class AttackConfig(LayoutOptions, PrecisionOptions):
    """Attacks. Raises ConfigError naming the field that is out of range."""

    model: Annotated[str, About(flag=True)]
    """the model after unlearning: local folder, FILE.gguf, org/name[@revision], or smollm2"""
    suite: Annotated[str | None, About(flag=True, default="none: a file of your own, --forget")] = None
    """its forget set is what attacks look for: tofu:forget01, tofu:forget05, tofu:forget10, or
    atlas[:people=..,seed=..], or a TOML file of your own"""
    forget: Annotated[str | None, About(flag=True)] = None
    """instead of a suite: data spec, say a file, of the rows that attacks look for (docs/own_data.md)"""
    out: Annotated[str, About(flag=True, changes=False)]
    """folder for the numbers; must be new or empty"""
    before: Annotated[str | None, About(flag=True)] = None
    """the model before unlearning, attacked in the same way; steps_to_half needs it"""
    retain: Annotated[str | None, About(flag=True)] = None
    """data spec, say a file, of rows that must stay: they are looked at after rounding and relearning. A name that is
    no data spec is that of retain_model"""
    retain_model: Annotated[str | None, About(flag=True)] = None
    """the model that never saw the forget set, attacked in the same way: what an attack gets from it was not
    remembered"""
    attacks: Annotated[tuple[str, ...], About(flag="--attack")] = NAMES
    """which attacks are made: paraphrase, sample, quantise, nf4, relearn, or one of your own, package.module:NAME
    (docs/extending.md); the flag may be repeated"""
    store: Annotated[str | None, About(flag=True, changes=False, default="OUT.unfinished")] = None
    """folder for what was measured, by content; OUT.unfinished goes away when the numbers are written"""
    limit: Annotated[int | None, About(unit="rows", flag=True, default="all", **COUNT)] = None
    """only the first rows, of those to forget and of those that must stay"""
    seed: Annotated[int, About(flag=True, least=0, most=SEED)] = 0
    """of the rows relearned, their order, and the sampled answers"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """of weights and activations; relearning needs float32"""
    long: Annotated[Literal["error", "truncate", "skip"], About(flag=True)] = "error"
    """what happens to a row, also in one of its prompts, that exceeds the model's context"""
    batch_tokens: Annotated[int, About(unit="tokens", changes=False, **COUNT)] = 2048
    """of a forward pass; memory, not results, depends on it"""

    secrets: Annotated[str | None, About(flag=True, metavar="FILE")] = None
    """leak check: file with one secret a line, or column:NAME of the forget set, looked for in greedy answers, those to
    all prompts, and `samples` drawn ones, of each model (docs/secrets.md)"""

    relearn_steps: Annotated[int, About(unit="steps", **COUNT)] = 20
    """optimizer steps of fine-tuning"""
    relearn_every: Annotated[int, About(unit="steps", **COUNT)] = 1
    """steps between measurements; the last step is always measured"""
    relearn_rows: Annotated[int, About(unit="rows", **COUNT)] = 4
    """forget rows trained on, drawn by seed; all the others are the rest, which the attacker never shows"""
    relearn_on: str | None = None
    """data spec of related text to train on instead; then all forget rows are the rest"""
    relearn_text_key: str | None = None
    """column of raw text in relearn_on; without one its rows are questions and answers"""
    relearn_batch: Annotated[int, About(unit="rows", **COUNT)] = 4
    """rows a step"""
    learning_rate: Annotated[float, About(above=0, most=1)] = 1e-5
    """of AdamW, constant, without weight decay"""

    bits: Annotated[tuple[int, ...], About(unit="bits", least=2, most=8, expected="2 to 8")] = (8, 4)
    """of the rounded weights"""
    group: Annotated[int, About(unit="inputs", **COUNT)] = 64
    """inputs that share a scale in the grouped form"""

    prompts: tuple[str, ...] = ()
    """further templates of a question, each with {question}"""
    question_columns: tuple[str, ...] = ()
    """columns of the data with the same question in other words or another language, beside paraphrased_question"""

    samples: Annotated[int, About(unit="answers", **COUNT)] = 16
    """answers drawn a row"""
    temperature: Annotated[float, About(least=1e-3)] = 1.0
    """of the softmax that answers are drawn from"""
    max_new_tokens: Annotated[int, About(unit="tokens", **COUNT)] = 100
    """length of a drawn answer"""
    rouge_threshold: Annotated[float, About(unit="share", above=0, most=1, expected="more than 0 and at most 1")] = 0.8
    """ROUGE-L recall from which on a drawn answer counts as the whole answer; where rows mark their fact, the fact's
    own words count"""

    @property
    def models(self) -> dict[str, str]:
        """By role: model, and where they are named before and retain."""
        named = {"model": self.model, "before": self.before, "retain": never_saw(self)}
        return {role: name for role, name in named.items() if name is not None}

    def __post_init__(self) -> None:
        check_ranges(self)
        check_files(self)
        rows_kept(self)
        for name in ("attacks", "bits"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{name}: got {list(values)}, expected at least one, each once")
        for name in set(self.attacks) - set(NAMES):
            load(ATTACK, name, NAMES)
        for prompt in self.prompts:
            if "{question}" not in prompt:
                raise ConfigError(f"prompts: {prompt!r} has no {{question}}, so the model would not be asked anything")
        if self.relearn_text_key is not None and self.relearn_on is None:
            raise ConfigError("relearn_text_key: names a column of relearn_on, which is not given")
        if "relearn" in self.attacks and self.dtype != "float32":
            raise ConfigError(f"--dtype {self.dtype}: relearning's small steps are lost in it; use float32, or --attack without relearn")
