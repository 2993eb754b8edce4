"""Everything that `tu-train run` and `tu-train finetune` can be told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

from shared.data.datasets import Keys
from shared.data.layout import LayoutOptions
from shared.errors import ConfigError
from shared.settings import About
from shared.weighting.weights import Selection, SoftMode, TokenMode
from tu_train.ranges import ABOVE, COUNT, MANY, NONE_OR_MORE, SEED, Range, check_ranges

if TYPE_CHECKING:
    from tu_train.stopping.rule import Rule

LOOP = {
    "epochs": COUNT, "batch_size": COUNT, "batch_tokens": COUNT, "accumulate": COUNT, "keep_checkpoints": COUNT, "limit": COUNT,
    "text_length": Range(2, MANY), "learning_rate": ABOVE, "clip": ABOVE, "lora_alpha": ABOVE, "weight_decay": Range(),
    "warmup": Range(0, 1, expected="a share of the steps, 0 to 1"), "seed": Range(0, SEED), "lora": Range(0, 65_536),
    "save_every": NONE_OR_MORE,
}  # fmt: skip
"""fields that every training has"""
UNLEARN = {
    "gamma": Range(), "alpha": Range(), "eval_every": NONE_OR_MORE, "eval_rows": NONE_OR_MORE,
}  # fmt: skip
"""those of unlearning; what chooses tokens, Selection checks"""


@dataclass(frozen=True, kw_only=True)
class LoopConfig(LayoutOptions):
    """What both commands share: the optimisation and the data's reading."""

    model: Annotated[str, About(content=True)]
    """model to start from: local folder, org/name[@revision], or smollm2"""
    out: Annotated[str, About(changes=False)]
    """folder of the trained model"""
    epochs: int = 5
    """passes over the data (run: over the forget set)"""
    learning_rate: float | None = None
    """peak of the schedule; run: the method's unless given; finetune: 5e-5"""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """how the learning rate falls after the warm-up: to zero along a line or half a cosine, or not at all"""
    warmup: float = 0.1
    """share of the steps over which the learning rate rises from zero"""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit keeps its state in 8 bits (bitsandbytes, an extra)"""
    weight_decay: float = 0.01
    """of AdamW"""
    clip: float = 1.0
    """largest norm of the gradient"""
    batch_size: int = 8
    """rows a forward and backward pass (run: forget rows, with as many retain rows)"""
    accumulate: int = 1
    """batches an optimizer step"""
    batch_tokens: Annotated[int, About(changes=False)] = 2048
    """tokens a forward pass, before sharing; a batch is cut into as many passes as it needs, which changes no result"""
    checkpointing: Annotated[bool | None, About(changes=False)] = None
    """compute the activations of each block again in the backward pass instead of keeping them: much less memory, a sixth more time, the
    same numbers. Default: with all weights in training, where the architecture can; not with --lora, which takes little memory anyway"""
    train_only: tuple[str, ...] = ()
    """globs of parameter names, only these train; all unless given (run: unless the method says)"""
    lora: int = 0
    """rank of LoRA adapters, which then train instead of the weights; 0: none"""
    lora_alpha: float | None = None
    """scale of the adapters times rank; twice the rank unless given"""
    lora_targets: tuple[str, ...] = ()
    """endings of the names of the linear layers that get adapters, or all-linear; unless given those that peft chooses (query and value)"""
    save_every: Annotated[int, About(changes=False)] = 0
    """steps between checkpoints to resume from; 0: only when the run is told to stop (SIGTERM)"""
    keep_checkpoints: Annotated[int, About(changes=False)] = 2
    """newest checkpoints that are kept"""
    resume: Annotated[bool, About(changes=False)] = False
    """go on from the newest checkpoint in OUT.unfinished"""
    trackers: Annotated[tuple[str, ...], About(changes=False)] = ()
    """also send the log's numbers to tensorboard, wandb or trackio"""
    question_key: str = "question"
    """column of the question, for files and hub sets"""
    answer_key: str = "answer"
    """column of the answer"""
    text_key: str | None = None
    """column of raw text, instead of question and answer"""
    text_length: int = 512
    """raw text: tokens an example"""
    long: Literal["error", "truncate", "skip"] = "error"
    """examples beyond the model's context"""
    limit: int | None = None
    """only the first rows of each data set"""
    seed: int = 0
    """seed of the order of rows"""
    dtype: str = "float32"
    """of the forward pass; the weights that are trained stay float32 (bfloat16 and float16 mean autocast)"""
    save_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """of the written model; that of the model it began with unless given. Checkpoints hold float32"""
    device: Annotated[str | None, About(changes=False)] = None
    """cpu, cuda, cuda:N, mps; default cuda if there is one"""

    def __post_init__(self) -> None:
        check_ranges(self, LOOP, {"limit": "--limit"})
        if self.dtype == "float16":
            raise ConfigError("--dtype float16: training in float16 needs loss scaling, which is not built; use bfloat16 or float32")

        if self.lora and self.train_only:
            raise ConfigError("--lora and train_only: adapters train instead of the weights; choose their layers with --set lora_targets")
        if not self.lora and (self.lora_alpha is not None or self.lora_targets):
            raise ConfigError("lora_alpha and lora_targets are for --lora RANK; give a rank, or drop them")

    @property
    def peak(self) -> float:
        """The learning rate, which `filled` has put there."""
        assert self.learning_rate is not None
        return self.learning_rate

    @property
    def keys(self) -> Keys:
        return Keys(self.question_key, self.answer_key, self.text_key)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(LoopConfig):
    data: str
    """data spec to learn"""
    learning_rate: float | None = 5e-5


@dataclass(frozen=True, kw_only=True)
class UnlearnConfig(LoopConfig):
    scores: Annotated[str, About(content=True)]
    """score store of the forget set"""
    retain: str | None = None
    """data spec of what must stay; none where nothing is to hold it"""
    retain_scores: Annotated[str | None, About(content=True)] = None
    """score store of what must stay, instead of retain: KL to the scored model from its top tokens (tu-score run --topk 64)"""
    retain_term: str | None = None
    """what holds the retain rows, an entry of tu_train/methods/retain_terms.py: nll (likelihood), kl (KL to the model before training), or
    none (nothing); the method's unless given"""
    method: str = "npo"
    """an entry of tu_train/methods/table.py"""
    options: dict[str, float] = field(default_factory=dict)
    """the method's own options (tu-train methods lists them)"""
    gamma: float | None = None
    """weight of the forget loss; the method's unless given"""
    alpha: float | None = None
    """weight of the retain loss; the method's unless given"""
    tokens: TokenMode = "hard"
    """which tokens of the forget set are pushed: all alike, the most important, all by importance, those a column names, random ones"""
    keep: float | None = None
    """hard, random: share of each answer's tokens that keep weight 1; 0.3 unless top or threshold is given"""
    top: int | None = None
    """hard: number of each answer's tokens that keep weight 1, instead of keep"""
    threshold: float | None = None
    """hard: importance from which on a token keeps weight 1, instead of keep; an answer without such a token is left out"""
    whole_words: bool | None = None
    """hard, by keep or top: words are chosen whole; false is the rule of earlier versions, token by token"""
    soft: SoftMode | None = None
    """soft: weights by softmax (unless given) or linear in importance"""
    temperature: float | None = None
    """soft=softmax: small is selective, large is uniform; 0.3 unless given"""
    forget_data: str | None = None
    """data spec that the store was scored from, where its texts or columns are needed; the store's own unless given"""
    given_key: str = "fact_spans"
    """tokens=given: column of forget_data with [start, end) character offsets in the answer"""
    refusals: str | None = None
    """file with one refusal a line, for methods that learn to refuse; a short list of our own unless given"""
    alternate_key: str | None = None
    """column of forget_data with another answer (or a list of them), for methods that learn one"""
    alternates: Literal["column", "generate"] = "column"
    """where other answers come from: that column, or the model before training, asked for another answer"""
    allow_other_model: bool = False
    """train another model than the one that was scored; weights and reference values then speak of that other model"""
    eval_every: Annotated[int, About(changes="stop_when")] = 0
    """steps between evaluations on fixed rows; 0: none"""
    eval_rows: int = 32
    """first rows of the forget and of the retain set that are evaluated"""
    eval_key: str | None = None
    """also evaluate the fact alone: column of forget_data with [start, end) character offsets in the answer"""
    paraphrase_key: str | None = None
    """also evaluate the answers reworded: column of forget_data with another wording of each answer (of a list, the first)"""
    stop_when: str | None = None
    """ends training at the first evaluation where this holds, such as forget_probability<0.05"""
    land: bool = False
    """end where stop_when begins to hold, between two evaluations, so that runs of several methods are equally far"""

    def __post_init__(self) -> None:
        super().__post_init__()
        from tu_train.methods.retain_terms import check_retain_term
        from tu_train.methods.table import check_options
        from tu_train.stopping.rule import parse_stop

        check_ranges(self, UNLEARN)
        check_options(self.method, self.options)
        if self.retain_term is not None:
            check_retain_term(self.retain_term)
        _ = self.selection
        if self.retain is not None and self.retain_scores is not None:
            raise ConfigError("--retain and retain_scores: each names what must stay; give one of them")
        if self.retain_scores is not None and self.term != "kl":
            raise ConfigError(f"retain_scores holds what KL needs, but the retain term is {self.term}; add --set retain_term=kl")
        if self.term != "none" and self.retain is None and self.retain_scores is None:
            raise ConfigError(
                f"--retain is missing: {self.method} holds what must stay by {self.term}; name its data, or --retain none to do without"
            )
        if self.alternates == "generate" and self.alternate_key is not None:
            raise ConfigError("--set alternates=generate writes what alternate_key reads from a column; give one of them")
        if self.stop_when is not None:
            watched = parse_stop(self.stop_when).name
            if not self.eval_every:
                raise ConfigError("--stop-when is looked at when the model is evaluated; add --eval-every N")
            if watched.startswith("forget_fact") and self.eval_key is None:
                raise ConfigError(f"--stop-when {self.stop_when}: which tokens are the fact? name their column with --set eval_key=COLUMN")
            if watched.startswith("forget_paraphrase") and self.paraphrase_key is None:
                raise ConfigError(f"--stop-when {self.stop_when}: which answers? name their column with --set paraphrase_key=COLUMN")
            if self.land and watched.startswith("retain") and self.term == "none":
                raise ConfigError(f"--stop-when {self.stop_when}: there are no retain rows; name their data with --retain")
        elif self.land:
            raise ConfigError("--set land=true says where --stop-when ends; give a rule, such as --stop-when forget_probability<0.05")

    @property
    def rule(self) -> Rule | None:
        """What stop_when says."""
        from tu_train.stopping.rule import parse_stop

        return None if self.stop_when is None else parse_stop(self.stop_when)

    @property
    def term(self) -> str:
        """The retain term."""
        from tu_train.methods.table import find_method

        return "none" if self.retain == "none" else self.retain_term or find_method(self.method).retain

    def filled(self) -> UnlearnConfig:
        """With the method's own values where none were given."""
        from tu_train.methods.table import check_options, find_method

        method = find_method(self.method)
        values = {name: getattr(method, name) for name in ("learning_rate", "gamma", "alpha") if getattr(self, name) is None}
        return replace(self, options=dict(check_options(self.method, self.options)), **values)

    @property
    def selection(self) -> Selection:
        """Raises ConfigError for token options that do not go together."""
        return Selection(
            tokens=self.tokens, keep=self.keep, top=self.top, threshold=self.threshold, soft=self.soft, temperature=self.temperature,
            whole_words=self.whole_words, seed=self.seed,
        )  # fmt: skip
