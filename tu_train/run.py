"""The two commands, `finetune` (learn a data set) and `run` (unlearn what a score store describes): gather, plan, load,
train. Under torchrun every rank does all of it, and rank 0 alone writes."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

import shared
from shared.console import say
from shared.errors import ModelError
from shared.files.fs import require_fresh
from shared.files.outputs import claimed_folder
from shared.lm.memory import take_large_pages
from shared.lm.models import choose_device, choose_dtype
from shared.records import TrainingRecord
from tu_train.config import FinetuneConfig, LoopConfig, UnlearnConfig
from tu_train.gather import Gathered, gather_finetuning, gather_unlearning
from tu_train.load import Loaded, load, whole_on_first, with_answers
from tu_train.loop import start_state, train
from tu_train.model.optimizer import adamw8bit
from tu_train.plan import Plan, check_ranks, plan_finetuning, plan_unlearning, say_plan
from tu_train.ranks import Ranks, agree, joined
from tu_train.saving.checkpoint import has_checkpoint
from tu_train.saving.finishing import kept_if_not_written
from tu_train.saving.logs import open_trackers, say_unmoved
from tu_train.saving.output import try_output, write_output
from tu_train.saving.record import recorded_settings
from tu_train.saving.room import Room, require_finite_weights
from tu_train.saving.same import flat
from tu_train.saving.working_folder import (
    LOG,
    UNFINISHED,
    Checkpoints,
    check_name,
    check_unfinished,
    finished,
    nothing_to_do,
    told_if_full,
    unfinished,
    working_folder,
)
from tu_train.stopping.interrupts import DOUBLED_S, Stopping
from tu_train.suite import check_suite, kept_best, with_suite

Config = TypeVar("Config", bound=LoopConfig)
FILE_SIZE = "5GB"
"""of a file of weights that several ranks trained"""


def run_finetune(config: FinetuneConfig) -> Path:
    """Trains on every target token of a data set; returns the model's folder."""
    return _run(config, gather_finetuning, plan_finetuning)


def run_unlearn(config: UnlearnConfig) -> Path:
    """Unlearns a scored forget set; returns the model's folder. The reference log-probabilities come from the store."""
    return _run(config.filled(), gather_unlearning, plan_unlearning)


def _run(config: Config, gather: Callable[[Config], Gathered], plan: Callable[[Config, Gathered], Plan]) -> Path:
    take_large_pages()  # before the first tensor: joining makes some
    with joined() as ranks, told_if_full(Path(config.out)):
        agree(ranks, {**versions(), **flat({"settings": recorded_settings(config), "resume": config.resume})})
        before = ranks.together(lambda: _begin(config, ranks))
        read = ranks.together(lambda: gather(config))
        agree(ranks, flat(read.about))
        if before is not None:
            about = read.about
            ranks.first(lambda: nothing_to_do(config, before, about))
            return Path(config.out)
        planned = ranks.together(partial(plan, config, read))
        del read  # it holds what the plan lets go of
        with ranks.alike():
            check_ranks(planned, ranks.count)
        try:
            return _load_and_train(planned, ranks)
        except torch.OutOfMemoryError as error:
            raise ModelError(out_of_memory(config, error)) from None


def _load_and_train(planned: Plan, ranks: Ranks) -> Path:
    loaded = load(planned, ranks)
    with ranks.alike():
        planned = with_answers(planned, loaded.packed)
    say_plan(planned)
    return _train_and_save(planned, loaded, ranks)


def out_of_memory(config: LoopConfig, error: BaseException) -> str:
    """What to change, in order of what it costs: nothing, time, digits, another kind of training."""
    ways = [f"--set batch_tokens={config.batch_tokens // 2} (the same numbers, more passes)"] if config.batch_tokens > 1 else []
    if config.checkpointing is False or (config.checkpointing is None and config.lora):
        ways.append("--set checkpointing=true (the same numbers, a sixth more time)")
    if config.dtype == "float32":
        ways.append("--dtype bfloat16 (smaller activations, fewer digits)")
    if not config.lora:
        if config.optimizer != "adamw8bit" and config.moments == "float32":
            ways.append("--set moments=8bit (6 bytes a parameter less)")
        if config.weights == "float32":
            ways.append("--dtype bfloat16 --set weights=bfloat16 (4 bytes a parameter less)")
        ways.append("--lora 16 (adapters train instead of the weights)")
    elif config.weights != "nf4":
        ways.append("--dtype bfloat16 --set weights=nf4 (the model in four bits)")
    said = " ".join(str(error).split())[:200]
    first = f"out of memory on {choose_device(config.device).type} ({said}); in order of cost: {', '.join(ways)}"
    left = unfinished(Path(config.out))
    on = f"; {left} has a checkpoint: go on from it with --resume and a way that keeps the numbers" if has_checkpoint(left) else ""
    return f"{first}; a larger or another device; tu-train run --dry-run says what takes the memory{on}"


def versions() -> dict[str, Any]:
    """Of what decides the numbers of a run."""
    names = {"the version of token-unlearn": shared.__version__, "the version of python": platform.python_version()}
    return names | {f"the version of {name}": version(name) for name in ("torch", "transformers", "numpy")}


def _begin(config: LoopConfig, ranks: Ranks) -> TrainingRecord | None:
    """-> the record of the run where it is finished already. Refuses an output folder, device or dtype that will not
    do, before any work and any line about it."""
    check_name(config.out, UNFINISHED)
    record = finished(config)
    if record is not None:
        return record
    require_fresh(Path(config.out), what="this model")
    check_unfinished(config)
    ranks.device(config.device)
    choose_dtype(config.dtype)
    if config.optimizer == "adamw8bit":
        adamw8bit()
    check_suite(config)
    return None


def _train_and_save(plan: Plan, loaded: Loaded, ranks: Ranks) -> Path:
    """Trains in OUT.unfinished; the output folder appears whole when training is done."""
    config, objective, packed = plan.config, plan.objective, loaded.packed
    out = Path(config.out)
    work = unfinished(out)
    with ExitStack() as held:
        ranks.first(lambda: (held.enter_context(working_folder(out)), held.enter_context(claimed_folder(out, what="this model"))))
        stopping, room = held.enter_context(Stopping(DOUBLED_S if ranks.count > 1 else 0)), Room(work)
        ranks.first(lambda: held.enter_context(room))
        adapter = loaded.wrapper if ranks.count == 1 else None
        ranks.first(lambda: room.take(try_output(work, config, packed, adapter, plan.tokenizer), plan.steps, packed.model))
        checkpoints = Checkpoints(work, plan.about, config, stopping, room, ranks)
        trackers = ranks.first(lambda: open_trackers(config.trackers, name=out.name, settings=plan.about.settings, folder=work))
        state = start_state(packed, objective)
        evaluation = with_suite(plan, loaded, work, ranks, stopping)
        with ranks.alike():
            early = train(packed, plan.stream, plan.steps, objective, config, work / LOG if ranks.leads else None, state=state,
                          reference=loaded.reference, evaluation=evaluation, checkpoints=checkpoints, trackers=trackers or (),
                          ranks=ranks)  # fmt: skip
            require_finite_weights(packed.model, state, ranks=ranks)
        if ranks.leads and objective.method is not None and "layer" in objective.method.needs:
            say_unmoved(work / LOG, config)
        if early:
            say(f"stopped early: {early}")
        with ranks.alike(), kept_if_not_written(out, checkpoints, packed.model, state, room):
            model, wrapper = whole_on_first(plan, loaded, ranks)
            counts = {**plan.rows, "steps": plan.steps}
            ranks.first(lambda: write_output(out, work, config, model, wrapper, plan.tokenizer, objective.method, plan.about, counts,
                                             state, early, None if ranks.count == 1 else FILE_SIZE, kept_best(work)))  # fmt: skip
        ranks.gather(None)
    return out
