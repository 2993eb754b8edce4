"""The two commands: `finetune` (learn a data set) and `run` (unlearn what a score store describes)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shared.console import say
from shared.data.examples import data_fingerprint
from shared.data.layout import say_layout
from shared.files.fs import require_fresh
from shared.files.outputs import claimed_folder
from shared.lm.memory import keep_freed_memory
from shared.lm.models import choose_device, choose_dtype, load_laid_out, load_model, locate
from shared.lm.packed import PackedModel
from shared.secret import without_secrets as shown
from tu_train.config import FinetuneConfig, LoopConfig, UnlearnConfig
from tu_train.data.batches import Pass, endless, item_of_example, steps
from tu_train.data.partners import generated, with_reference
from tu_train.data.sources import stream
from tu_train.gather import Gathered, fingerprints, gather, laid_out, of_items, read_examples, start
from tu_train.loop import Objective, start_state, train
from tu_train.methods.table import trained_globs
from tu_train.model.lora import add_lora
from tu_train.model.optimizer import adamw8bit
from tu_train.model.reference import Reference
from tu_train.model.trainable import freeze_all_but
from tu_train.saving.finishing import kept_if_not_written
from tu_train.saving.logs import open_trackers, say_unmoved
from tu_train.saving.output import try_output, write_output
from tu_train.saving.record import recorded_settings
from tu_train.saving.room import Room, require_finite_weights
from tu_train.saving.working_folder import (
    LOG,
    UNFINISHED,
    Checkpoints,
    check_name,
    check_unfinished,
    finished,
    nothing_to_do,
    working_folder,
)
from tu_train.stopping.evaluating import Evaluation
from tu_train.stopping.signals import Stopping

Stream = Callable[[int], Iterator[list[Pass]]]


@dataclass
class Job:
    """What is trained on what, and what is said of it."""

    steps_from: Stream
    count: int
    """steps"""
    objective: Objective
    about: dict[str, Any]
    """fingerprints"""
    rows: dict[str, int]
    """how many of each kind"""
    reference: Reference | None = None
    evaluation: Evaluation | None = None


def run_finetune(config: FinetuneConfig) -> Path:
    """Trains on every target token of a data set; returns the model's folder."""
    before = _begin(config)
    folder = locate(config.model)
    tokenizer = load_laid_out(config.model, folder, config)
    examples = read_examples(config, config.data, folder, tokenizer)
    items = [item_of_example(e) for e in examples]
    per_epoch = -(-len(items) // config.rows_a_step)

    def begin(first: int) -> Iterator[list[Pass]]:
        at, inside = divmod(first, per_epoch)
        rows = endless(items, seed=config.seed, start=at * len(items) + inside * config.rows_a_step)
        for epoch in range(at, config.epochs):
            here = (next(rows) for _ in range(len(items) - (inside * config.rows_a_step if epoch == at else 0)))
            made = steps(here, None, batch_size=config.batch_size, batch_tokens=config.batch_tokens, accumulate=config.accumulate)
            yield from ([Pass([], p.forget) for p in step] for step in made)

    names = fingerprints(folder, tokenizer)
    about = {"task": "finetune", "data": data_fingerprint(examples), **start(names), **laid_out(tokenizer)}
    if before is not None:
        return nothing_to_do(config, before, about)
    say_layout(tokenizer, config.model)
    say(f"fine-tuning on {len(items)} rows: {config.epochs * per_epoch} steps")
    torch.manual_seed(config.seed)
    packed, wrapper = _load(config, folder, config.train_only)
    job = Job(begin, config.epochs * per_epoch, Objective(None), about, {"rows": len(items)})
    return _train_and_save(config, packed, wrapper, tokenizer, job)


def run_unlearn(config: UnlearnConfig) -> Path:
    """Unlearns a scored forget set; returns the model's folder. The reference log-probabilities come from the store."""
    config = config.filled()
    before = _begin(config)
    read = gather(config)
    if before is not None:
        return nothing_to_do(config, before, read.about)
    objective = Objective(read.method, config.options, config.gamma or 0.0, config.alpha or 0.0, _term(config))
    torch.manual_seed(config.seed)
    packed, wrapper = _load(config, read.folder, config.train_only or trained_globs(config.method, config.options))
    forget = _with_partners(read, packed)
    reads_back = any(reading.reference for reading in objective.readings)
    reference = Reference(packed, wrapper.disable_adapter if wrapper else None) if reads_back else None
    retain = read.retain
    if retain is not None and retain.outside is not None:
        read.about["retain_outside_top_tokens"] = retain.outside
        say(
            f"{shown(str(config.retain_scores))}: KL sees {retain.outside:.2%} of the probability, outside the stored top tokens, "
            "as one token"
        )
    trained_on = retain if objective.retain != "none" else None
    count = config.epochs * -(-forget.count // config.rows_a_step)
    say_layout(read.tokenizer, config.model)
    say(f"{config.method}, {config.selection.describe()}: {forget.count} forget rows, {trained_on.count if trained_on else 0} retain rows, "
        f"{count} steps, {'the start model for some of it' if reference else 'no reference model'}")  # fmt: skip
    rows = {"forget_rows": forget.count, "retain_rows": trained_on.count if trained_on else 0}
    job = Job(stream(config, forget, trained_on), count, objective, read.about, rows, reference, read.evaluation)
    return _train_and_save(config, packed, wrapper, read.tokenizer, job)


def _with_partners(read: Gathered, packed: PackedModel):
    """The forget rows, each with its other answer where the method learns one."""
    config, partners = read.config, read.partners
    if read.writes:
        made = generated(
            packed, read.examples, read.tokenizer, seed=config.seed, batch_tokens=config.batch_tokens, context=read.context
        )  # fmt: skip
        partners = read.items(made)
        read.about["other_answers"] = of_items(partners)
    if partners is None:
        return read.forget
    partners = with_reference(packed, partners, config.batch_tokens) if "reference" in read.method.needs else partners
    return read.paired(partners)


def _term(config: UnlearnConfig) -> str:
    """The retain term, KL from stored top tokens where the rows have them."""
    return "kl_topk" if config.retain_scores is not None else config.term


def _begin(config: LoopConfig) -> dict[str, Any] | None:
    """-> the record of the run where it is finished already. Refuses an output folder, device or dtype that will not
    do, before any work and any line about it."""
    check_name(config.out, UNFINISHED)
    record = finished(config)
    if record is not None:
        return record
    require_fresh(Path(config.out), what="this model")
    check_unfinished(config)
    choose_device(config.device)
    choose_dtype(config.dtype)
    if config.optimizer == "adamw8bit":
        adamw8bit()
    return None


def _load(config: LoopConfig, folder: Path, globs: tuple[str, ...]) -> tuple[PackedModel, Any]:
    """-> the model with what trains marked, and peft's wrapper where there are adapters."""
    keep_freed_memory()
    model = load_model(folder, dtype=torch.float32, device=choose_device(config.device))
    wrapper = None
    if config.lora:
        wrapper = add_lora(model, config.lora, config.lora_alpha, config.lora_targets)
    elif globs:
        default = f"--method {getattr(config, 'method', '')} (its default; say what trains with --set train_only=GLOB)"
        freeze_all_but(model, globs, named_by="--set train_only" if config.train_only else default)
    return PackedModel(model), wrapper


def _train_and_save(config: LoopConfig, packed: PackedModel, wrapper: Any, tokenizer: Any, job: Job) -> Path:
    """Trains in OUT.unfinished; the output folder appears whole when training is done."""
    out, settings, objective = Path(config.out), recorded_settings(config), job.objective
    with working_folder(out) as work, claimed_folder(out, what="this model"), Stopping() as stopping, Room(work) as room:
        room.take(try_output(work, config, packed, wrapper, tokenizer), job.count, packed.model)
        checkpoints = Checkpoints(work, {**job.about, "settings": settings}, config, stopping, room)
        trackers = open_trackers(config.trackers, name=out.name, settings=settings, folder=work)
        state = start_state(packed, objective)
        own = tuple(state)  # while training, landing adds the weights of the evaluation before
        early = train(packed, job.steps_from, job.count, objective, config, work / LOG, state=state, reference=job.reference,
                      evaluation=job.evaluation, checkpoints=checkpoints, trackers=trackers)  # fmt: skip
        require_finite_weights(packed.model, state)
        if objective.method is not None and "layer" in objective.method.needs:
            say_unmoved(work / LOG, config)
        about = job.about
        if early:
            say(f"stopped early: {early}")
            about = {**about, "stopped_early": early}
        with kept_if_not_written(out, checkpoints, packed.model, state, room):
            write_output(out, work, config, packed, wrapper, tokenizer, objective.method, about, {**job.rows, "steps": job.count},
                         {name: state[name] for name in own})  # fmt: skip
    return out
