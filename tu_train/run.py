"""The two commands, `finetune` (learn a data set) and `run` (unlearn what a score store describes): gather, plan, load,
train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from shared.console import say
from shared.errors import ModelError
from shared.files.fs import require_fresh
from shared.files.outputs import claimed_folder
from shared.lm.models import choose_device, choose_dtype
from shared.records import TrainingRecord
from tu_train.config import FinetuneConfig, LoopConfig, UnlearnConfig
from tu_train.gather import Gathered, gather_finetuning, gather_unlearning
from tu_train.load import Loaded, load, with_answers
from tu_train.loop import start_state, train
from tu_train.model.optimizer import adamw8bit
from tu_train.plan import Plan, plan_finetuning, plan_unlearning, say_plan
from tu_train.saving.checkpoint import has_checkpoint
from tu_train.saving.finishing import kept_if_not_written
from tu_train.saving.logs import open_trackers, say_unmoved
from tu_train.saving.output import try_output, write_output
from tu_train.saving.room import Room, require_finite_weights
from tu_train.saving.working_folder import (
    LOG,
    UNFINISHED,
    Checkpoints,
    check_name,
    check_unfinished,
    finished,
    nothing_to_do,
    unfinished,
    working_folder,
)
from tu_train.stopping.interrupts import Stopping

Config = TypeVar("Config", bound=LoopConfig)


def run_finetune(config: FinetuneConfig) -> Path:
    """Trains on every target token of a data set; returns the model's folder."""
    return _run(config, gather_finetuning, plan_finetuning)


def run_unlearn(config: UnlearnConfig) -> Path:
    """Unlearns a scored forget set; returns the model's folder. The reference log-probabilities come from the store."""
    return _run(config.filled(), gather_unlearning, plan_unlearning)


def _run(config: Config, gather: Callable[[Config], Gathered], plan: Callable[[Config, Gathered], Plan]) -> Path:
    before = _begin(config)
    read = gather(config)
    if before is not None:
        return nothing_to_do(config, before, read.about)
    planned = plan(config, read)
    try:
        loaded = load(planned)
        planned = with_answers(planned, loaded.packed)
        say_plan(planned)
        return _train_and_save(planned, loaded)
    except torch.OutOfMemoryError as error:
        raise ModelError(out_of_memory(config, error)) from None


def out_of_memory(config: LoopConfig, error: BaseException) -> str:
    """What to change, in order of what it costs: nothing, time, digits, another kind of training."""
    ways = [f"--set batch_tokens={config.batch_tokens // 2} (the same numbers, more passes)"] if config.batch_tokens > 1 else []
    if config.checkpointing is False or (config.checkpointing is None and config.lora):
        ways.append("--set checkpointing=true (the same numbers, a sixth more time)")
    if config.dtype == "float32":
        ways.append("--dtype bfloat16 (smaller activations, fewer digits)")
    if not config.lora:
        ways += ["--set optimizer=adamw8bit (6 bytes a parameter less)"] if config.optimizer != "adamw8bit" else []
        ways.append("--lora 16 (adapters train instead of the weights)")
    said = " ".join(str(error).split())[:200]
    first = f"out of memory on {choose_device(config.device).type} ({said}); in order of cost: {', '.join(ways)}"
    left = unfinished(Path(config.out))
    on = f"; {left} has a checkpoint: go on from it with --resume and a way that keeps the numbers" if has_checkpoint(left) else ""
    return f"{first}; a larger or another device; tu-train run --dry-run says what takes the memory{on}"


def _begin(config: LoopConfig) -> TrainingRecord | None:
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


def _train_and_save(plan: Plan, loaded: Loaded) -> Path:
    """Trains in OUT.unfinished; the output folder appears whole when training is done."""
    config, objective, packed, wrapper = plan.config, plan.objective, loaded.packed, loaded.wrapper
    out = Path(config.out)
    with working_folder(out) as work, claimed_folder(out, what="this model"), Stopping() as stopping, Room(work) as room:
        room.take(try_output(work, config, packed, wrapper, plan.tokenizer), plan.steps, packed.model)
        checkpoints = Checkpoints(work, plan.about, config, stopping, room)
        trackers = open_trackers(config.trackers, name=out.name, settings=plan.about.settings, folder=work)
        state = start_state(packed, objective)
        early = train(packed, plan.stream, plan.steps, objective, config, work / LOG, state=state, reference=loaded.reference,
                      evaluation=plan.evaluation, checkpoints=checkpoints, trackers=trackers)  # fmt: skip
        require_finite_weights(packed.model, state)
        if objective.method is not None and "layer" in objective.method.needs:
            say_unmoved(work / LOG, config)
        if early:
            say(f"stopped early: {early}")
        with kept_if_not_written(out, checkpoints, packed.model, state, room):
            counts = {**plan.rows, "steps": plan.steps}
            write_output(out, work, config, packed, wrapper, plan.tokenizer, objective.method, plan.about, counts, state, early)
    return out
