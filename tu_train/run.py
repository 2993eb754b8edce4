"""The two commands: `finetune` (learn a data set) and `run` (unlearn what a score store describes)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from shared.config import as_dict, write_config
from shared.console import say
from shared.datasets import load_rows
from shared.errors import ConfigError
from shared.examples import data_fingerprint, make_examples
from shared.fs import atomic_folder, require_fresh, write_json
from shared.models import (
    choose_device,
    choose_dtype,
    context_length,
    load_model,
    load_tokenizer,
    locate,
    model_fingerprint,
    save_model,
    template_fingerprint,
    tokenizer_fingerprint,
)  # fmt: skip
from shared.packed import PackedModel
from shared.scores import Store, check_fits, open_store
from tu_train.batches import READ, Item, Pass, endless, forget_items, item_of_example, item_of_row, steps
from tu_train.config import FinetuneConfig, LoopConfig, UnlearnConfig
from tu_train.loop import Objective, train
from tu_train.methods import find_method


def run_finetune(config: FinetuneConfig) -> Path:
    """Trains on every target token of a data set; returns the model's folder."""
    _check_place(config)
    folder = locate(config.model)
    tokenizer = load_tokenizer(folder)
    examples = _examples(config, config.data, folder, tokenizer)
    items = [item_of_example(e) for e in examples]
    count = config.epochs * -(-len(items) // config.batch_size)

    def stream() -> Iterator[list[Pass]]:
        rows = endless(items, seed=config.seed)
        for _ in range(config.epochs):
            epoch = (next(rows) for _ in items)
            for step in steps(epoch, None, batch_size=config.batch_size, batch_tokens=config.batch_tokens):
                yield [Pass([], p.forget) for p in step]

    about = {"task": "finetune", "data": data_fingerprint(examples), "start_model": model_fingerprint(folder)}
    say(f"fine-tuning on {len(items)} rows: {count} steps")
    return _train_and_save(config, folder, tokenizer, stream(), count, Objective(None), about)


def run_unlearn(config: UnlearnConfig) -> Path:
    """Unlearns a scored forget set; returns the model's folder. The reference log-probabilities come from the store."""
    _check_place(config)
    store = open_store(config.scores)
    folder = locate(config.model)
    tokenizer = load_tokenizer(folder)
    names = {
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "chat_template": template_fingerprint(tokenizer),
        "model": model_fingerprint(folder),
    }
    check_fits(store, names, model=config.model)
    make = partial(item_of_row, selection=config.selection, where=config.scores)
    rows = _weighted_rows(store, make, config)
    retain = [item_of_example(e) for e in _examples(config, config.retain, folder, tokenizer)]
    count = config.epochs * -(-rows // config.batch_size)

    def stream() -> Iterator[list[Pass]]:
        others = endless(retain, seed=config.seed)
        for epoch in range(config.epochs):
            forget = forget_items(store, make, seed=config.seed, epoch=epoch, limit=config.limit)
            weighted = (item for item in forget if item.positions)
            yield from steps(weighted, others, batch_size=config.batch_size, batch_tokens=config.batch_tokens)

    objective = Objective(find_method(config.method), config.gamma, config.alpha, config.beta)
    about = {
        "task": "unlearn",
        "store": store.sha256,
        "start_model": names["model"],
        "forget_data": store.fingerprints["data"],
        "weights": config.selection.describe(),
    }
    say(f"{config.method}, {config.selection.describe()}: {rows} forget rows, {len(retain)} retain rows, {count} steps, no reference model")
    return _train_and_save(config, folder, tokenizer, stream(), count, objective, about)


def _weighted_rows(store: Store, make: Callable[[dict[str, Any]], Item], config: UnlearnConfig) -> int:
    """How many rows have a token with a weight; a threshold may leave none in a row, which then is no forget row.

    One verified read of everything before the model is loaded: damage shows now, not in the third epoch.
    """
    weighted = [bool(make(row).positions) for row in store.rows(READ)][: config.limit]
    if weighted and not any(weighted):
        raise ConfigError(
            f"--set threshold={config.threshold}: no token of {config.scores} is that important; choose a lower one, or --keep"
        )
    if not all(weighted):
        say(f"threshold {config.threshold}: {len(weighted) - sum(weighted)} of {len(weighted)} forget rows have no token that important; "
            "they are left out")  # fmt: skip
    return sum(weighted)


def _check_place(config: LoopConfig) -> None:
    """Refuses an output folder, device or dtype that will not do, before any work and any line about it."""
    require_fresh(Path(config.out), what="this model")
    choose_device(config.device)
    choose_dtype(config.dtype)


def _examples(config: LoopConfig, spec: str, folder: Path, tokenizer):
    rows = load_rows(spec, keys=config.keys, limit=config.limit)
    examples = make_examples(rows, tokenizer, context=context_length(folder), long=config.long, text_length=config.text_length)
    return examples


def _train_and_save(
    config: LoopConfig, folder: Path, tokenizer, stream: Iterator[list[Pass]], count: int, objective: Objective, about: dict
) -> Path:
    """The output folder appears whole when training is done: model, tokenizer, configuration, log, and what it was made from."""
    torch.manual_seed(config.seed)
    packed = PackedModel(load_model(folder, dtype=torch.float32, device=choose_device(config.device)))
    with atomic_folder(Path(config.out)) as temporary:
        train(packed, stream, count, objective, config, temporary / "log.jsonl")
        save_model(packed.model, tokenizer, temporary)
        write_config(temporary / "_config.toml", config)
        write_json(temporary / "training.json", {"format": 1, **about, "settings": as_dict(config), "torch": torch.__version__})
    return Path(config.out)
