"""What a run trains on what, and what it says of itself: made before any model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.console import say
from shared.data.layout import say_layout
from shared.records import RunRecord
from shared.secret import without_secrets as shown
from tu_train.config import FinetuneConfig, LoopConfig, UnlearnConfig
from tu_train.data.sources import ForgetRows, RetainRows
from tu_train.data.streams import Order, Stream, finetuning_stream, unlearning_stream
from tu_train.gather import Answers, Gathered
from tu_train.loop import Objective
from tu_train.methods.retain_terms import NONE, RETAIN_TERMS
from tu_train.methods.table import find_method, trained_globs
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
    forget: ForgetRows | None
    """None: fine-tuning"""
    retain: RetainRows | None
    """the rows that a retain term sees"""
    answers: Answers | None
    """other answers that the method learns, which the model has to be asked for"""
    evaluation: Evaluation | None
    about: RunRecord
    """what the run is made from"""

    @property
    def stream(self) -> Stream:
        if self.forget is not None:
            return unlearning_stream(self.forget, self.retain, self.order)
        assert self.retain is not None, "there is something to train on"
        return finetuning_stream(self.retain, self.order)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        rows = self.forget or self.retain
        assert rows is not None, "there is something to train on"
        return self.order.steps(rows.count)

    @property
    def rows(self) -> dict[str, int]:
        """How many of each kind, as training.json has them."""
        retain = self.retain.count if self.retain else 0
        return {"rows": retain} if self.forget is None else {"forget_rows": self.forget.count, "retain_rows": retain}


def plan_finetuning(config: FinetuneConfig, read: Gathered) -> Plan:
    """Every target token of the data is learned: a retain loss alone."""
    return _plan(config, read, Objective(None), config.train_only, read.retain)


def plan_unlearning(config: UnlearnConfig, read: Gathered) -> Plan:
    """`config`: as `filled` gives it."""
    assert config.gamma is not None and config.alpha is not None, "filled in by the method"
    name = "kl_topk" if config.retain_scores is not None else config.term
    term = RETAIN_TERMS[name] if name != NONE else None
    objective = Objective(find_method(config.method), config.options, config.gamma, config.alpha, term)
    globs = config.train_only or trained_globs(config.method, config.options)
    return _plan(config, read, objective, globs, read.retain if term else None)


def _plan(config: LoopConfig, read: Gathered, objective: Objective, train_only: tuple[str, ...], retain: RetainRows | None) -> Plan:
    order = Order(epochs=config.epochs, seed=config.seed, batch_size=config.batch_size, accumulate=config.accumulate,
                  batch_tokens=config.batch_tokens, limit=config.limit)  # fmt: skip
    about = RunRecord(**read.about, settings=recorded_settings(config))
    return Plan(config=config, folder=read.folder, tokenizer=read.tokenizer, objective=objective, train_only=train_only, order=order,
                forget=read.forget, retain=retain, answers=read.answers, evaluation=read.evaluation, about=about)  # fmt: skip


def say_plan(plan: Plan) -> None:
    """A line or two on stderr."""
    config = plan.config
    if isinstance(config, UnlearnConfig) and config.retain_scores is not None:
        assert plan.retain is not None and plan.retain.outside is not None, "read from the retain store"
        say(f"{shown(config.retain_scores)}: KL sees {plan.retain.outside:.2%} of the probability, outside the stored top tokens, "
            "as one token")  # fmt: skip
    say_layout(plan.tokenizer, config.model)
    if not isinstance(config, UnlearnConfig):
        say(f"fine-tuning on {plan.rows['rows']} rows: {plan.steps} steps")
        return
    rows, start = plan.rows, "the start model for some of it" if plan.objective.reads_start else "no reference model"
    say(f"{config.method}, {config.selection.describe()}: {rows['forget_rows']} forget rows, {rows['retain_rows']} retain rows, "
        f"{plan.steps} steps, {start}")  # fmt: skip
