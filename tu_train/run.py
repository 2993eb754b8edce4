"""The two commands: `finetune` (learn a data set) and `run` (unlearn what a score store describes)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from shared.config import as_dict
from shared.console import say
from shared.datasets import load_rows
from shared.errors import ConfigError
from shared.examples import Example, data_fingerprint, make_examples
from shared.fs import hash_json, require_fresh
from shared.layout import as_scored, layout_of, say_layout
from shared.memory import keep_freed_memory
from shared.models import (
    choose_device,
    choose_dtype,
    context_length,
    load_laid_out,
    load_model,
    locate,
    model_fingerprint,
    template_fingerprint,
    tokenizer_names,
)  # fmt: skip
from shared.packed import PackedModel
from shared.scored import scored_examples
from shared.scores import open_store
from tu_train.batches import Item, Pass, endless, item_of_example, item_of_row, only, steps
from tu_train.config import FinetuneConfig, LoopConfig, UnlearnConfig
from tu_train.evaluating import Evaluation
from tu_train.forward import check_layer
from tu_train.logs import open_trackers, say_unmoved
from tu_train.loop import Objective, start_state, train
from tu_train.lora import add_lora
from tu_train.methods import find_method, trained_globs
from tu_train.optimizer import adamw8bit
from tu_train.output import try_output, write_output
from tu_train.partners import answers_in, generated, given_answers, partner_items, with_reference
from tu_train.reference import Reference
from tu_train.saving import LOG, UNFINISHED, Checkpoints, check_name, check_unfinished, finished, working_folder
from tu_train.sources import Forget, Retain, given_positions, open_fitting, read_forget, read_retain, read_retain_store, stream
from tu_train.stop import Stopping
from tu_train.trainable import freeze_all_but

Stream = Callable[[int], Iterator[list[Pass]]]


def run_finetune(config: FinetuneConfig) -> Path:
    """Trains on every target token of a data set; returns the model's folder."""
    check_name(config.out, UNFINISHED)
    if finished(config):
        return Path(config.out)
    _check_place(config)
    folder = locate(config.model)
    tokenizer = load_laid_out(config.model, folder, config)
    examples = _examples(config, config.data, folder, tokenizer)
    items = [item_of_example(e) for e in examples]
    per_epoch = -(-len(items) // config.rows_a_step)

    def begin(first: int) -> Iterator[list[Pass]]:
        start, inside = divmod(first, per_epoch)
        rows = endless(items, seed=config.seed, start=start * len(items) + inside * config.rows_a_step)
        for epoch in range(start, config.epochs):
            here = (next(rows) for _ in range(len(items) - (inside * config.rows_a_step if epoch == start else 0)))
            made = steps(here, None, batch_size=config.batch_size, batch_tokens=config.batch_tokens, accumulate=config.accumulate)
            yield from ([Pass([], p.forget) for p in step] for step in made)

    about = {"task": "finetune", "data": data_fingerprint(examples), **_start(_names(folder, tokenizer)), **_layout(tokenizer)}
    say_layout(tokenizer, config.model)
    say(f"fine-tuning on {len(items)} rows: {config.epochs * per_epoch} steps")
    torch.manual_seed(config.seed)
    packed, wrapper = _load(config, folder, config.train_only)
    count = config.epochs * per_epoch
    return _train_and_save(config, packed, wrapper, tokenizer, begin, count, Objective(None), about, {"rows": len(items)})


def run_unlearn(config: UnlearnConfig) -> Path:
    """Unlearns a scored forget set; returns the model's folder. The reference log-probabilities come from the store."""
    config = config.filled()
    check_name(config.out, UNFINISHED)
    if finished(config):
        return Path(config.out)
    _check_place(config)
    folder = locate(config.model)
    recorded = open_store(config.scores).manifest["options"]
    tokenizer = load_laid_out(config.model, folder, as_scored(config, recorded))
    names = _names(folder, tokenizer)
    store = open_fitting(config.scores, names, config)
    method, needs = find_method(config.method), find_method(config.method).needs
    if "layer" in needs:
        check_layer(folder, int(config.options["layer"]))
    wants_partner = bool(needs & {"refusal", "alternate"})
    examples = scored_examples(store, tokenizer, config.model, config.forget_data, flag="--set forget_data") \
        if wants_partner or config.tokens == "given" or config.eval_key or config.paraphrase_key else []  # fmt: skip
    given = given_positions(examples, tokenizer, config.given_key) if config.tokens == "given" else None
    make = partial(
        item_of_row, selection=config.selection, where=config.scores, all_targets="all targets" in needs, given=given
    )  # fmt: skip
    about: dict[str, Any] = {"task": "unlearn", "store": store.sha256, **_start(names), "forget_data": store.fingerprints["data"]}
    about["weights"] = config.selection.describe()
    about |= _layout(tokenizer)
    if given is not None:
        about["given_tokens"] = hash_json({name: sorted(positions) for name, positions in given.items()})
    forget = read_forget(store, make, config)
    retain = None
    if config.retain_scores is not None:
        others = open_fitting(config.retain_scores, names, config)
        retain, about["retain_store"] = read_retain_store(others, forget, config), others.sha256
    elif config.retain not in (None, "none"):
        others = _examples(config, config.retain, folder, tokenizer)
        retain, about["retain_data"] = read_retain([item_of_example(e) for e in others], forget, config), data_fingerprint(others)
    context = context_length(folder)
    with_answers = partial(partner_items, examples, tokenizer, seed=config.seed, context=context)
    writes = "alternate" in needs and config.alternates == "generate"
    partners = with_answers(given_answers(examples, config, refuse="refusal" in needs)) if wants_partner and not writes else None

    count = config.epochs * -(-forget.count // config.rows_a_step)
    objective = Objective(method, config.options, config.gamma or 0.0, config.alpha or 0.0, _term(config))
    torch.manual_seed(config.seed)
    packed, wrapper = _load(config, folder, config.train_only or trained_globs(config.method, config.options))
    if writes:
        made = generated(packed, examples, tokenizer, seed=config.seed, batch_tokens=config.batch_tokens, context=context)
        partners = with_answers(made)
    if partners is not None:
        about["other_answers"] = hash_json({name: item.ids for name, item in partners.items()})
        partners = with_reference(packed, partners, config.batch_tokens) if "reference" in needs else partners
        forget = read_forget(store, partial(make, partners=partners), config)
    reads_back = any(reading.reference for reading in objective.readings)
    reference = Reference(packed, wrapper.disable_adapter if wrapper else None) if reads_back else None
    evaluation = _evaluation(config, forget, retain, examples, tokenizer, context)
    if retain is not None and retain.outside is not None:
        about["retain_outside_top_tokens"] = retain.outside
        say(f"{config.retain_scores}: KL sees {retain.outside:.2%} of the probability, outside the stored top tokens, as one token")
    trained_on = retain if objective.retain != "none" else None
    say_layout(tokenizer, config.model)
    say(f"{config.method}, {config.selection.describe()}: {forget.count} forget rows, {trained_on.count if trained_on else 0} retain rows, "
        f"{count} steps, {'the start model for some of it' if reference else 'no reference model'}")  # fmt: skip
    steps_from = stream(config, forget, trained_on)
    rows = {"forget_rows": forget.count, "retain_rows": trained_on.count if trained_on else 0}
    return _train_and_save(config, packed, wrapper, tokenizer, steps_from, count, objective, about, rows, reference, evaluation)


def _evaluation(
    config: UnlearnConfig, forget: Forget, retain: Retain | None, examples: list[Example], tokenizer, context: int | None
) -> Evaluation | None:
    if not config.eval_every:
        return None
    facts: list[Item] = []
    if config.eval_key is not None:
        at = given_positions(examples, tokenizer, config.eval_key, flag="--set eval_key")
        facts = [only(item, at[item.name]) for item in forget.first if at[item.name]]
        if not facts:
            raise ConfigError(f"--set eval_key={config.eval_key}: no token of the {len(forget.first)} evaluated rows lies there")
    paraphrases: list[Item] = []
    if config.paraphrase_key is not None:
        evaluated = {item.name for item in forget.first}
        asked = [e for e in examples if e.id in evaluated]
        answers = {e.id: answers_in(e.row, config.paraphrase_key, flag="--set paraphrase_key")[:1] for e in asked}
        paraphrases = list(partner_items(asked, tokenizer, answers, seed=config.seed, context=context).values())
    rows = retain.first if retain else []
    return Evaluation(forget.first, rows, config.eval_every, config.batch_tokens, config.stop_when, facts, paraphrases, config.land)


def _names(folder: Path, tokenizer: Any) -> dict[str, str]:
    """Fingerprints of what a run starts from."""
    return {
        **tokenizer_names(tokenizer),
        "chat_template": template_fingerprint(tokenizer),
        "model": model_fingerprint(folder),
    }


def _start(names: dict[str, str]) -> dict[str, str]:
    """The same as they stand beside those of data."""
    return {"start_model": names["model"], "tokenizer": names["tokenizer"], "chat_template": names["chat_template"]}


def _layout(tokenizer: Any) -> dict[str, Any]:
    """How rows were laid out, where that is not the default."""
    layout = layout_of(tokenizer)
    found = {**layout.describe(), **({"date": layout.date} if layout.writes_date else {})}
    return {"layout": found} if found else {}


def _term(config: UnlearnConfig) -> str:
    """The retain term, KL from stored top tokens where the rows have them."""
    return "kl_topk" if config.retain_scores is not None else config.term


def _check_place(config: LoopConfig) -> None:
    """Refuses an output folder, device or dtype that will not do, before any work and any line about it."""
    require_fresh(Path(config.out), what="this model")
    check_unfinished(config)
    choose_device(config.device)
    choose_dtype(config.dtype)
    if config.optimizer == "adamw8bit":
        adamw8bit()


def _examples(config: LoopConfig, spec: str | None, folder: Path, tokenizer):
    if spec is None:
        raise ConfigError("--retain is missing")
    rows = load_rows(spec, keys=config.keys, limit=config.limit)
    return make_examples(rows, tokenizer, context=context_length(folder), long=config.long, text_length=config.text_length)


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


def _train_and_save(
    config: LoopConfig, packed: PackedModel, wrapper: Any, tokenizer, steps_from: Stream, count: int, objective: Objective, about: dict,
    rows: dict[str, int], reference: Reference | None = None, evaluation: Evaluation | None = None,
) -> Path:  # fmt: skip
    """Trains in OUT.unfinished; the output folder appears whole when training is done. `rows`: how many of each kind."""
    out, settings = Path(config.out), as_dict(config)
    with working_folder(out) as work, Stopping() as stopping:
        checkpoints = Checkpoints(work, {**about, "settings": settings}, config, stopping)
        try_output(work, config, packed, wrapper, tokenizer)
        trackers = open_trackers(config.trackers, name=out.name, settings=settings, folder=work)
        state = start_state(packed, objective)
        own = tuple(state)  # while training, landing adds the weights of the evaluation before
        early = train(packed, steps_from, count, objective, config, work / LOG, state=state,
                      reference=reference, evaluation=evaluation, checkpoints=checkpoints, trackers=trackers)  # fmt: skip
        if objective.method is not None and "layer" in objective.method.needs:
            say_unmoved(work / LOG, config)
        if early:
            say(f"stopped early: {early}")
            about = {**about, "stopped_early": early}
        write_output(out, work, config, packed, wrapper, tokenizer, objective.method, about, {**rows, "steps": count},
                     {name: state[name] for name in own})  # fmt: skip
    return out
