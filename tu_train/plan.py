"""What a run trains on what, and what it says of itself: made before any model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shared.console import number_of, say
from shared.data.layout import say_layout
from shared.errors import ConfigError
from shared.records import RunRecord
from shared.secret import without_secrets as shown
from shared.settings import MANY
from tu_train.config import FinetuneConfig, LoopConfig, UnlearnConfig
from tu_train.corpus import Corpus
from tu_train.data.sources import RetainRows
from tu_train.data.streams import Order, Stream, finetuning_stream, unlearning_stream
from tu_train.gather import Gathered
from tu_train.methods.retain_terms import NONE, RETAIN_TERMS
from tu_train.methods.table import find_method, trained_globs
from tu_train.objective import Objective
from tu_train.saving.record import recorded_settings
from tu_train.stopping.evaluating import Evaluation


@dataclass(frozen=True, kw_only=True)
class Plan:
    config: LoopConfig
    folder: Path
    """of the model that training starts from"""
    tokenizer: Any
    objective: Objective
    train_only: tuple[str, ...]
    """globs of the parameters that train; empty: all"""
    order: Order
    corpora: tuple[Corpus, ...]
    """forget corpora, with other answers that the method learns and the model has to be asked for, and with retain rows
    where a term sees them; none: fine-tuning"""
    learned: RetainRows | None
    """fine-tuning: the rows"""
    evaluation: Evaluation | None
    about: RunRecord
    """what the run is made from"""

    @property
    def stream(self) -> Stream:
        if self.corpora:
            return unlearning_stream([(corpus.forget, corpus.retain) for corpus in self.corpora], self.order)
        assert self.learned is not None, "there is something to train on"
        return finetuning_stream(self.learned, self.order)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        if self.corpora:
            return self.order.steps(*(corpus.forget.count for corpus in self.corpora))
        assert self.learned is not None, "there is something to train on"
        return self.order.steps(self.learned.count)

    @property
    def rows(self) -> dict[str, int]:
        """How many of each kind, as training.json has them; retain rows that several corpora share count once."""
        if self.learned is not None:
            return {"rows": self.learned.count}
        retain = {id(corpus.retain): corpus.retain.count for corpus in self.corpora if corpus.retain}
        return {"forget_rows": sum(corpus.forget.count for corpus in self.corpora), "retain_rows": sum(retain.values())}


def plan_finetuning(config: FinetuneConfig, read: Gathered) -> Plan:
    """Every target token of the data is learned: a retain loss alone."""
    return _plan(config, read, Objective(None), config.train_only)


def plan_unlearning(config: UnlearnConfig, read: Gathered) -> Plan:
    """`config`: as `filled` gives it."""
    objectives = [_objective(corpus.config, read.tokenizer) for corpus in read.corpora]
    objective = objectives[0] if len(objectives) == 1 else replace(objectives[0], corpora=tuple(objectives))
    corpora = [c if o.retain else replace(c, retain=None) for c, o in zip(read.corpora, objectives, strict=True)]
    globs = config.train_only or trained_globs(config.method, objectives[0].options)
    return _plan(config, replace(read, corpora=tuple(corpora)), objective, globs)


def _objective(config: UnlearnConfig, tokenizer: Any) -> Objective:
    """Of one forget corpus."""
    name = "kl_topk" if config.retain_scores is not None else config.term
    term = RETAIN_TERMS[name] if name != NONE else None
    gamma, alpha, options = config.gamma, config.alpha, config.options
    assert gamma is not None and alpha is not None, "filled in by the method"
    assert not isinstance(gamma, tuple) and not isinstance(alpha, tuple), "the settings of one corpus"
    single = {option: value for option, value in options.items() if not isinstance(value, tuple)}
    pad_id = None
    if config.mean_over == "padded":
        pad_id = tokenizer.eos_token_id
        if pad_id is None:
            raise ConfigError(f"mean_over=padded: the tokenizer of {config.model} has no end token, with which the published code pads; "
                              "use mean_over=targets, or name an eos_token in its tokenizer_config.json")  # fmt: skip
    return Objective(find_method(config.method), single, gamma, alpha, term, pad_id=pad_id)


def _plan(config: LoopConfig, read: Gathered, objective: Objective, train_only: tuple[str, ...]) -> Plan:
    # A padded batch is one forward pass: in another batch its rows would have other padding.
    batch_tokens = config.batch_tokens if objective.pad_id is None else MANY
    limit = None if isinstance(config, UnlearnConfig) and config.forget is not None else config.limit  # the data was read with it
    order = Order(epochs=config.epochs or MANY, seed=config.order_seed, batch_size=config.batch_size, accumulate=config.accumulate,
                  batch_tokens=batch_tokens, limit=limit, most=config.steps or config.max_steps)  # fmt: skip
    about = RunRecord(**read.about, settings=recorded_settings(config))
    return Plan(config=config, folder=read.folder, tokenizer=read.tokenizer, objective=objective, train_only=train_only, order=order,
                corpora=read.corpora, learned=read.learned, evaluation=read.evaluation, about=about)  # fmt: skip


def check_ranks(plan: Plan, count: int) -> None:
    """Raises ConfigError for what several ranks cannot do together."""
    config = plan.config
    if count == 1:
        return
    if config.optimizer == "adamw8bit":
        raise ConfigError(f"--set optimizer=adamw8bit: its state cannot be split over {count} ranks; use adamw, or start one process")
    for name, usual in (("weights", "float32"), ("moments", "float32"), ("moments_on", "device")):
        if (value := getattr(config, name)) != usual:
            raise ConfigError(f"--set {name}={value} is not built for {count} ranks; leave it out, or start one process")
    if plan.objective.pad_id is not None:
        raise ConfigError(f"--set mean_over=padded: a padded batch is one forward pass, which {count} ranks cannot share; leave it out, or "
                          "start one process")  # fmt: skip
    if (rows := config.batch_size * config.accumulate) < count:
        raise ConfigError(f"{count} ranks, but a step has {rows} rows (batch_size {config.batch_size} times accumulate "
                          f"{config.accumulate}); start at most {rows} ranks, or raise --set batch_size")  # fmt: skip


def say_plan(plan: Plan) -> None:
    """A line or two on stderr."""
    config = plan.config
    for corpus in plan.corpora:
        if corpus.found is not None:
            say(corpus.found)
        if (where := corpus.config.retain_scores) is not None:
            assert corpus.retain is not None and corpus.retain.outside is not None, "read from the retain store"
            say(f"{shown(str(where))}: KL sees {corpus.retain.outside:.2%} of the probability, outside the stored top tokens, "
                "as one token")  # fmt: skip
    say_layout(plan.tokenizer, config.model)
    if not isinstance(config, UnlearnConfig):
        say(f"fine-tuning on {number_of(plan.rows['rows'], 'row')}: {number_of(plan.steps, 'step')}")
        return
    rows, start = plan.rows, "the start model for some of it" if plan.objective.reads_start else "no reference model"
    several = f" of {len(plan.corpora)} corpora that take turns" if len(plan.corpora) > 1 else ""
    say(f"{config.method}, {plan.about.weights}: {rows['forget_rows']} forget rows{several}, {rows['retain_rows']} retain rows, "
        f"{number_of(plan.steps, 'step')}, {start}")  # fmt: skip
