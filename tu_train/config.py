"""Everything that `tu-train run` and `tu-train finetune` can be told."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from shared.data.datasets import DataOptions
from shared.data.layout import LayoutOptions
from shared.errors import ConfigError
from shared.lm.models import Dtype, PrecisionOptions
from shared.secret import without_secrets as shown
from shared.settings import COUNT, NONE_OR_MORE, SEED, About, check_ranges
from shared.weighting.selection import Selection, TokenOptions

if TYPE_CHECKING:
    from tu_train.stopping.rule import Rule


EPOCHS = 5
NEWER = {"weights": "float32", "moments": "float32", "moments_on": "device", "rounding": "stochastic"}
"""settings that earlier versions did not have, with what those did: in a record without them these are meant, and they
stand in the hash of a study's run only where they are other"""


@dataclass(frozen=True, kw_only=True)
class LoopConfig(DataOptions, LayoutOptions, PrecisionOptions):
    """Training. What both commands share: the optimisation, checkpoints, and the data's reading."""

    model: Annotated[str, About(flag=True, content=True)]
    """model to start from: local folder, FILE.gguf, org/name[@revision], or smollm2"""
    out: Annotated[str, About(flag=True, changes=False)]
    """folder of the trained model; must be new"""
    epochs: Annotated[int | None, About(unit="passes", flag=True, default="5, without steps", **COUNT)] = None
    """passes over the data (run: over the forget set)"""
    steps: Annotated[int | None, About(unit="steps", flag=True, **COUNT)] = None
    """optimizer steps, however many passes over the data they take, instead of epochs"""
    learning_rate: Annotated[float | None, About(flag=True, above=0, default="the method's")] = None
    """peak of the schedule"""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """how the learning rate falls after the warm-up: to zero along a line or half a cosine, or not at all"""
    warmup: Annotated[float, About(unit="share", least=0, most=1, expected="a share of the steps, 0 to 1")] = 0.1
    """share of the steps over which the learning rate rises from zero"""
    max_steps: Annotated[int | None, About(unit="steps", default="all epochs", **COUNT)] = None
    """optimizer steps at most; training ends there, in the middle of an epoch too"""
    order: Annotated[Literal["seeded", "file"] | None, About(default="seeded")] = None
    """of rows: drawn by the seed, anew in each epoch, or as they stand in the data"""
    optimizer: Literal["adamw", "adamw8bit", "adamw_transformers"] = "adamw"
    """adamw8bit keeps its state in 8 bits (bitsandbytes, an extra); adamw_transformers takes the steps of the AdamW
    that transformers had until version 4 (epsilon 1e-6, which counts for more in the first steps), as published runs
    did"""
    weights: Literal["float32", "bfloat16", "nf4"] = "float32"
    """what the model is held in while it trains: bfloat16 takes half the bytes, nf4 (for --lora) a seventh of them;
    both need --dtype bfloat16. Adapters are float32 always"""
    moments: Literal["float32", "8bit", "4bit"] = "float32"
    """what optimizer=adamw keeps its two moments in: 8, 2 or 1 bytes a parameter that trains, and scales"""
    moments_on: Literal["device", "cpu"] = "device"
    """where optimizer=adamw keeps them: beside the model, or in the host's memory"""
    rounding: Literal["stochastic", "nearest"] = "stochastic"
    """of weights that train in bfloat16; to nearest, updates below 1/512 of a weight are lost"""
    weight_decay: Annotated[float, About(least=0)] = 0.01
    """of AdamW"""
    clip: Annotated[float, About(least=0)] = 1.0
    """largest norm of the gradient; 0: any"""
    batch_size: Annotated[int, About(unit="rows", **COUNT)] = 8
    """of a forward and backward pass (run: forget rows, with as many retain rows)"""
    accumulate: Annotated[int, About(unit="batches", **COUNT)] = 1
    """batches of an optimizer step"""
    batch_tokens: Annotated[int, About(unit="tokens", changes=False, **COUNT)] = 2048
    """of a forward pass, before sharing; a batch is cut into as many passes as it needs, which changes no result"""
    checkpointing: Annotated[bool | None, About(changes=False, default="with all weights in training, if it can")] = None
    """compute the activations of each block again in the backward pass instead of keeping them: much less memory, a
    sixth more time, the same numbers; by default where all weights train and the architecture can, so not with --lora,
    which takes little memory anyway"""
    train_only: Annotated[tuple[str, ...], About(default="all; run: the method's")] = ()
    """globs of parameter names: only these train"""
    lora: Annotated[int, About(unit="rank", flag=True, metavar="RANK", least=0, most=65_536)] = 0
    """rank of LoRA adapters, which then train instead of the weights and are merged at the end; 0: none"""
    lora_alpha: Annotated[float | None, About(above=0, default="twice the rank")] = None
    """scale of the adapters times rank"""
    lora_targets: Annotated[tuple[str, ...], About(default="query and value, as peft chooses")] = ()
    """endings of the names of the linear layers that get adapters, or all-linear"""
    save_every: Annotated[int, About(unit="steps", flag=True, changes=False, **NONE_OR_MORE)] = 0
    """steps between checkpoints to resume from; 0: only when the run is told to stop (SIGTERM)"""
    keep_checkpoints: Annotated[int, About(unit="checkpoints", changes=False, **COUNT)] = 2
    """newest checkpoints that are kept"""
    resume: Annotated[bool, About(flag=True, changes=False)] = False
    """go on from the newest checkpoint in OUT.unfinished"""
    exact: Annotated[bool, About(changes=False)] = False
    """with --resume: only with as many ranks (torchrun) as the checkpoint was made with, which gives the same bytes;
    with another number results are the same but for rounding"""
    trackers: Annotated[tuple[str, ...], About(changes=False)] = ()
    """also send the log's numbers to tensorboard, wandb or trackio"""
    seed: Annotated[int, About(flag=True, least=0, most=SEED)] = 0
    """of the order of rows, and of every other random choice"""
    dtype: Dtype = "float32"
    """of the forward pass (bfloat16 means autocast); what the weights are held in is weights"""
    save_dtype: Annotated[Dtype | None, About(default="that of the model it began with")] = None
    """of the written model; checkpoints hold weights as they train"""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.steps is not None and (self.epochs is not None or self.max_steps is not None):
            other = f"--epochs {self.epochs}" if self.epochs is not None else f"--set max_steps={self.max_steps}"
            raise ConfigError(f"--steps {self.steps} and {other}: each says when training ends; give one of them")
        if self.steps is None and self.epochs is None:
            object.__setattr__(self, "epochs", EPOCHS)  # as it stands in _config.toml and in the hashes of studies
        if self.dtype == "float16":
            raise ConfigError("--dtype float16: training in float16 needs loss scaling, which is not built; use bfloat16 or float32")
        if self.lora and self.train_only:
            raise ConfigError("--lora and train_only: adapters train instead of the weights; choose their layers with --set lora_targets")
        if not self.lora and (self.lora_alpha is not None or self.lora_targets):
            raise ConfigError("lora_alpha and lora_targets are for --lora RANK; give a rank, or drop them")
        self._check_memory()

    def _check_memory(self) -> None:
        if self.weights == "nf4" and not self.lora:
            raise ConfigError("--set weights=nf4: quantised weights cannot train; add --lora RANK, or train bfloat16 weights with "
                              "--set weights=bfloat16")  # fmt: skip
        if self.weights != "float32" and self.dtype != "bfloat16":
            raise ConfigError(f"--set weights={self.weights}: such weights compute in bfloat16, this is --dtype {self.dtype}; add "
                              "--dtype bfloat16")  # fmt: skip
        if self.optimizer != "adamw" and (self.moments != "float32" or self.moments_on == "cpu" or self.trains_bfloat16):
            what = (f"moments={self.moments}" if self.moments != "float32" else "moments_on=cpu" if self.moments_on == "cpu"
                    else f"weights={self.weights}")  # fmt: skip
            raise ConfigError(f"--set {what} is for optimizer=adamw, this is {self.optimizer}; leave one of them out")
        if self.rounding == "nearest" and not self.trains_bfloat16:
            raise ConfigError("--set rounding=nearest: only weights that train in bfloat16 are rounded; add --set weights=bfloat16 without "
                              "--lora, or leave it out")  # fmt: skip

    @property
    def trains_bfloat16(self) -> bool:
        """Whether weights in bfloat16 train."""
        return self.weights == "bfloat16" and not self.lora

    @property
    def order_seed(self) -> int | None:
        """Of the order of rows; None: as they stand in the data."""
        return None if self.order == "file" else self.seed

    @property
    def peak(self) -> float:
        """The learning rate, which `filled` has put there."""
        assert self.learning_rate is not None
        return self.learning_rate


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(LoopConfig):
    """Fine-tuning."""

    data: Annotated[str, About(flag=True)]
    """data spec to learn"""
    learning_rate: float | None = 5e-5


@dataclass(frozen=True, kw_only=True)
class UnlearnConfig(TokenOptions, LoopConfig):
    """Unlearning."""

    scores: Annotated[str | tuple[str, ...] | None, About(flag=True, content=True)] = None
    """score store of the forget set (tu-score run); several, or the flag again, for forget corpora that take turns step
    by step, each with its own retain, retain_scores, forget_data, gamma, alpha and options where these are lists too"""
    forget: Annotated[str | tuple[str, ...] | None, About(flag=True, content=True)] = None
    """data spec of the forget set, instead of scores: for methods and tokens that read nothing that was scored; several
    as of scores"""
    retain: Annotated[str | tuple[str, ...] | None, About(flag=True)] = None
    """data spec of what must stay; the word none where nothing is to hold it"""
    retain_scores: Annotated[str | tuple[str, ...] | None, About(content=True)] = None
    """score store of what must stay, instead of retain: KL to the scored model from its top tokens (tu-score run --topk
    64)"""
    retain_term: Annotated[str | None, About(default="the method's")] = None
    """what holds the retain rows, an entry of tu_train/methods/retain_terms.py: nll (likelihood), kl (KL to the model
    before training), or none (nothing)"""
    method: Annotated[str, About(flag=True)] = "npo"
    """a method (tu-train methods lists them), or your own: package.module:NAME (docs/extending.md)"""
    options: Annotated[dict[str, float | tuple[float, ...]], About(flag="--option", metavar="NAME=VALUE")] = field(default_factory=dict)
    """the method's own options (tu-train methods lists them)"""
    gamma: Annotated[float | tuple[float, ...] | None, About(least=0, default="the method's")] = None
    """weight of the forget loss"""
    alpha: Annotated[float | tuple[float, ...] | None, About(least=0, default="the method's")] = None
    """weight of the retain loss"""
    mean_over: Annotated[Literal["targets", "padded"] | None, About(default="targets")] = None
    """of a method whose losses are means of hidden states (rmu): over target tokens, or over every position of a batch
    that is padded on the left, padding included, as the published code does"""
    forget_data: Annotated[str | tuple[str, ...] | None, About(default="the store's own")] = None
    """data spec that the store was scored from, where its texts or columns are needed"""
    given_key: str = "fact_spans"
    """tokens=given: column of forget_data with [start, end) character offsets in the answer (of raw text: in the text),
    or with words and phrases of it, a list or one"""
    blocklist: str | None = None
    """tokens=given: file with one word or phrase a line, looked for in every answer instead of given_key"""
    secrets: Annotated[str | None, About(flag=True)] = None
    """tokens=given: file with one secret a line, or column:NAME of the data (a text or a list of texts), found in every
    answer whatever their case, form of Unicode or blanks (docs/secrets.md), instead of given_key"""
    refusals: Annotated[str | None, About(default="a short list of our own")] = None
    """file with one refusal a line, for methods that learn to refuse"""
    alternate_key: str | None = None
    """column of forget_data with another answer (or a list of them), for methods that learn one"""
    alternates: Literal["column", "generate"] = "column"
    """where other answers come from: that column, or the model before training, asked for another answer"""
    allow_other_model: Annotated[bool, About(flag=True)] = False
    """train another model than the one that was scored; weights and reference values then speak of that other model"""
    eval_every: Annotated[int, About(unit="steps", flag=True, changes="stop_when keep_best", **NONE_OR_MORE)] = 0
    """steps between evaluations on fixed rows, and on eval_suite; 0: none"""
    eval_rows: Annotated[int, About(unit="rows", **NONE_OR_MORE)] = 32
    """first rows of each forget and of each retain set that are evaluated"""
    eval_key: str | None = None
    """also evaluate the fact alone: column of forget_data with [start, end) character offsets in the answer, or words
    and phrases of it"""
    paraphrase_key: str | None = None
    """also evaluate the answers reworded: column of forget_data with another wording of each answer (of a list, the
    first)"""
    eval_suite: Annotated[str | None, About(flag=True, changes="keep_best")] = None
    """suite that tu-eval run measures on the way, at every evaluation, in a process of its own (docs/on_the_way.md)"""
    eval_options: Annotated[dict[str, Any] | None, About(changes="keep_best", default="{generate = false}")] = None
    """fields of tu-eval run for eval_suite, as in {limit = 20, holdout = "holdout.jsonl"}"""
    keep_best: Annotated[str | None, About(flag=True, metavar="METRIC")] = None
    """number of eval_suite by which the best model of all evaluations is kept, as OUT/best beside the last one"""
    stop_when: Annotated[str | None, About(flag=True)] = None
    """ends training at the first evaluation where this holds, such as forget_probability<0.05"""
    land: bool = False
    """end where stop_when begins to hold, between two evaluations, so that runs of several methods are equally far"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_source()
        self._check_suite()
        if len(self.corpora) > 1:
            return  # each has been looked at by itself
        from tu_train.methods.retain_terms import check_retain_term
        from tu_train.methods.table import check_options
        from tu_train.stopping.rule import parse_stop

        check_options(self.method, self.options)
        if self.retain_term is not None:
            check_retain_term(self.retain_term)
        _ = self.selection
        if self.forget is not None:
            self._check_unscored()
        if self.mean_over == "padded":
            self._check_padded()
        if self.retain is not None and self.retain_scores is not None:
            raise ConfigError("--retain and retain_scores: each names what must stay; give one of them")
        if self.retain_scores is not None and self.term != "kl":
            raise ConfigError(f"retain_scores holds what KL needs, but the retain term is {self.term}; add --set retain_term=kl")
        if self.term != "none" and self.retain is None and self.retain_scores is None:
            raise ConfigError(
                f"--retain is missing: {self.method} holds what must stay by {self.term}; name its data, or --retain none to do without"
            )
        if self.blocklist is not None and self.tokens != "given":
            raise ConfigError(f"--set blocklist={self.blocklist}: names the tokens of --tokens given, this is --tokens {self.tokens}")
        if self.secrets is not None and self.tokens != "given":
            raise ConfigError(f"--secrets {self.secrets}: names the tokens of --tokens given, this is --tokens {self.tokens}")
        if self.secrets is not None and self.blocklist is not None:
            raise ConfigError("--secrets and --set blocklist: each names the tokens of --tokens given; give one of them")
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

    def _check_source(self) -> None:
        if self.scores is None and self.forget is None:
            raise ConfigError("--scores is missing: name the score store of the forget set (tu-score run makes one), or its data with "
                              "--forget DATA --tokens all, which needs no store (or set one of them in --config FILE.toml)")  # fmt: skip
        if self.scores is not None and self.forget is not None:
            raise ConfigError("--scores and --forget: each names what is to be forgotten; give one of them")

    def _check_suite(self) -> None:
        if self.eval_suite is not None and not self.eval_every:
            raise ConfigError(f"--eval-suite {self.eval_suite} is measured when the model is evaluated; add --eval-every N")
        if self.keep_best is not None and self.eval_suite is None:
            raise ConfigError(f"--keep-best {self.keep_best} is a number of a suite; name the suite with --eval-suite SUITE")
        if self.eval_options is not None and self.eval_suite is None:
            raise ConfigError("--set eval_options: are those of a suite; name it with --eval-suite SUITE")
        for name in ("model", "suite", "out", "store"):
            if name in (self.eval_options or {}):
                raise ConfigError(f"--set eval_options: {name} is chosen by training (the suite by --eval-suite); leave it out")

    def _check_unscored(self) -> None:
        from tu_train.methods.table import find_method

        if self.forget_data is not None or self.allow_other_model:
            flag = "--set forget_data" if self.forget_data is not None else "--allow-other-model"
            raise ConfigError(f"{flag}: speaks of a score store, --forget reads none; leave it out")
        model, data = (shlex.quote(shown(str(text))) for text in (self.model, self.forget))
        scored = f"tu-score run --model {model} --data {data} --out SCORES"
        make = f"make a store: {scored}, then give --scores SCORES instead of --forget"
        if "reference" in find_method(self.method).needs:
            raise ConfigError(f"--forget: --method {self.method} reads the log-probabilities of a score store; {make}")
        if self.tokens in ("hard", "soft"):
            raise ConfigError(f"--forget: --tokens {self.tokens} reads the importance of a score store; add --tokens all, or {make}")

    def _check_padded(self) -> None:
        from tu_train.methods.table import LAYER, find_method

        needs = find_method(self.method).needs
        if not needs or not needs <= LAYER:
            raise ConfigError(f"--set mean_over=padded: the loss of --method {self.method} is no mean of hidden states; it is for rmu")
        if self.tokens != "all":
            raise ConfigError(f"--set mean_over=padded counts every position alike, so --tokens {self.tokens} has nothing to choose; "
                              "add --tokens all, or leave mean_over out")  # fmt: skip
        if self.term not in ("layer", "none"):
            raise ConfigError(f"--set mean_over=padded: the retain term {self.term} is no mean of hidden states; leave retain_term out")

    @property
    def corpora(self) -> tuple[UnlearnConfig, ...]:
        """The same for each forget corpus by itself. Raises ConfigError for lists of other lengths."""
        from tu_train.data.corpora import one_each

        return one_each(self)

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
