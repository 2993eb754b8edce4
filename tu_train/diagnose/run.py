"""`tu-train diagnose`: the signal-to-noise ratio of token weightings on real gradients, and how far forgetting works
against retaining.

    for each of a few rows of the store:    one forward pass; for each target token one backward pass, its gradient
                                            sketched (sketch.py)
    for each of a few retain rows:          one forward, one backward
    then, numbers only (snr.py):            SNR, gain over uniform weights, conflict with the retain gradient, for each
                                            weighting and class

Weightings: `all`, `hard`, `soft` as `tu-train run --tokens` makes them; `random`, the weights of hard in a random order
within each answer: the floor; `given`, the true spans, where a column names them: the ceiling.

Cost: a backward pass a target token. Memory: the model, one gradient, and K numbers a target token of the rows read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared.config import as_dict, write_config
from shared.console import say
from shared.data.datasets import iter_rows
from shared.data.examples import each_example, special_ids
from shared.data.layout import as_scored, say_layout
from shared.errors import ConfigError, DataError, StoreError
from shared.files.fs import atomic_folder, hash_json, write_json
from shared.files.outputs import claims
from shared.lm.models import (
    choose_device,
    context_length,
    embedding_rows,
    load_laid_out,
    load_model,
    locate,
)  # fmt: skip
from shared.secret import without_secrets as shown
from shared.secret import without_secrets_in
from shared.store.auto_keep import settled
from shared.store.scored import given_tokens, scored_examples
from shared.store.scores import Store, check_fits, open_store
from shared.weighting.selection import Selection
from shared.weighting.weights import seeded, token_weights
from tu_train.data.batches import check_row, importance_of, item_of_example, word_of
from tu_train.data.filed import filed
from tu_train.data.sources import Shared, fingerprint
from tu_train.diagnose.config import FEWEST, DiagnoseConfig
from tu_train.diagnose.gradients import all_gradients
from tu_train.diagnose.measures import measure_all
from tu_train.diagnose.plot import draw, print_table
from tu_train.diagnose.token_classes import classes_of
from tu_train.gather import fingerprints

READ = ("example_id", "input_ids", "tokens", "is_target", "importance", "word")
"""columns of the store that are read"""


@claims("this diagnosis")
def run_diagnose(config: DiagnoseConfig) -> Path:
    """Measures, prints the table, and returns the folder of the report. Raises UserError before any gradient is
    computed."""
    device = choose_device(config.device)
    stores, folder = [open_store(where) for where, _ in config.each], locate(config.model)
    tokenizer = load_laid_out(config.model, folder, as_scored(config, stores[0].manifest["options"]))
    names = fingerprints(folder, tokenizer)
    rows, each = [], []
    for store, (where, data) in zip(stores, config.each, strict=True):
        check_fits(store, names, model=config.model)
        one = replace(config, scores=where, forget_data=data)
        drawn = sampled_rows(store, one, embedding_rows(folder))
        chosen = {name: settled(selection, store) for name, selection in one.selections.items()}
        for line in (each.found for each in chosen.values() if each.found is not None):
            say(line)
        found = weightings(drawn, one, {name: each.selection for name, each in chosen.items()})
        if config.given_key is not None:
            found["given"] = given_weights(store, drawn, tokenizer, one)
        rows, each = rows + drawn, [*each, found]
    weights = {name: np.concatenate([found[name] for found in each]) for name in each[0]}
    kinds = kinds_of(rows, special_ids(tokenizer))
    retain = retain_rows(config, rows, folder, tokenizer)
    say_layout(tokenizer, config.model)
    model = load_model(folder, dtype=torch.float32, device=device)
    forget = [(row["input_ids"], targets_of(row)) for row in rows]
    gradients = all_gradients(model, forget, retain, train_only=config.train_only, numbers=config.sketch, seed=config.seed)
    result = {
        "format": 1,
        "store": stores[0].sha256 if len(stores) == 1 else hash_json([store.sha256 for store in stores]),
        "model": names["model"],
        "settings": without_secrets_in(as_dict(config)),
        **measure_all(gradients, weights, kinds),
    }
    with atomic_folder(Path(config.out)) as temporary:
        write_json(temporary / "diagnose.json", result)
        write_config(temporary / "_config.toml", config)
        draw(result, temporary / "snr.png")
    print_table(result)
    return Path(config.out)


def targets_of(row: dict[str, Any]) -> list[int]:
    return [i for i, t in enumerate(row["is_target"]) if t]


def sampled_rows(store: Store, config: DiagnoseConfig, rows: int | None = None) -> list[dict[str, Any]]:
    """Rows of one store drawn by the seed, in its order; only the parts that hold one are read. Raises StoreError for
    too few."""
    if len(store) < FEWEST:
        raise StoreError(f"{shown(str(config.scores))}: holds {len(store)} rows, diagnose needs at least {FEWEST} to tell signal from "
                         "noise; score more rows")  # fmt: skip
    chosen = np.sort(np.random.default_rng([config.seed, 1]).permutation(len(store))[: config.rows])
    starts = np.cumsum([0] + [p["rows"] for p in store.manifest["parts"]])
    out = []
    for part in range(len(starts) - 1):
        inside = chosen[(chosen >= starts[part]) & (chosen < starts[part + 1])] - starts[part]
        if len(inside):
            held = store.part(part, [name for name in READ if name != "word" or name in store.optional])
            out += [held[i] for i in inside]
    for row in out:
        check_row(row, where=shown(str(config.scores)), columns=("tokens", "importance", "word"), rows=rows)
    return out


def weightings(rows: Sequence[dict[str, Any]], config: DiagnoseConfig, selections: Mapping[str, Selection]) -> dict[str, np.ndarray]:
    """Weights of all target tokens, [N] float64, of each weighting that needs no ground truth. `selections`: those of
    the configuration, settled for this store."""
    out: dict[str, list[np.ndarray]] = {"all": [], "hard": [], "soft": [], "random": []}
    for row in rows:
        values = importance_of(row, targets_of(row), where=shown(str(config.scores)))
        for name, selection in selections.items():
            word = word_of(row, targets_of(row))
            out[name].append(
                token_weights(values, len(targets_of(row)), selection, where=shown(str(config.scores)), word=word).astype(np.float64)
            )
        out["random"].append(seeded(config.seed, row["example_id"]).permutation(out["hard"][-1]))
    flat = {name: np.concatenate(each) for name, each in out.items()}
    if not flat["hard"].any():
        raise ConfigError(f"--set threshold={selections['hard'].threshold}: no token of the {len(rows)} rows drawn from "
                          f"{shown(str(config.scores))} is that important; choose a lower one, or --keep")  # fmt: skip
    return flat


def given_weights(store: Store, rows: Sequence[dict[str, Any]], tokenizer: Any, config: DiagnoseConfig) -> np.ndarray:
    """1 at the target tokens that overlap a true span, [N] float64. Raises StoreError for other data than was
    scored."""
    ((_, data),) = config.each
    examples = scored_examples(store, tokenizer, config.model, data, flag="--set forget_data=SPEC")
    drawn = {row["example_id"] for row in rows}
    named = given_tokens([e for e in examples if e.id in drawn], tokenizer, str(config.given_key), flag="--given-key")
    true = {example.id: set(tokens) for example, tokens in named}
    out = [float(i in true[row["example_id"]]) for row in rows for i in targets_of(row)]
    if not any(out):
        raise DataError(f"{shown(str(config.scores))}: no target token of the {len(rows)} rows drawn lies in a span of {config.given_key}; "
                        "draw more with --rows, or name another column with --given-key")  # fmt: skip
    return np.array(out)


def kinds_of(rows: Sequence[dict[str, Any]], special: set[int]) -> list[str]:
    """The class of every target token."""
    out = []
    for row in rows:
        targets = targets_of(row)
        out += classes_of([row["tokens"][i] for i in targets], [row["input_ids"][i] in special for i in targets])
    return out


def retain_rows(
    config: DiagnoseConfig, rows: Sequence[dict[str, Any]], folder: Path, tokenizer: Any
) -> list[tuple[list[int], list[int]]]:  # fmt: skip
    """Token ids and target positions of retain rows drawn by the seed; those that the drawn forget rows hold too are
    left out, since they would conflict with themselves."""
    if config.retain is None:
        return []
    read = each_example(iter_rows(config.retain, keys=config.keys), tokenizer, config, context=context_length(folder))
    shared = Shared({fingerprint(row["input_ids"]) for row in rows})
    own = filed((item for item in map(item_of_example, read) if not shared.holds(item)), out=config.out)
    if shared.count:
        more = f" and {shared.count - 3} more" if shared.count > 3 else ""
        say(f"{shown(config.retain)}: {', '.join(shared.names[:3])}{more} are forget rows too; they are left out")
    if len(own) < FEWEST:
        raise DataError(
            f"{shown(config.retain)}: {len(own)} rows that are no forget rows, expected at least {FEWEST}; name other --retain data"
        )
    chosen = np.sort(np.random.default_rng([config.seed, 3]).permutation(len(own))[: config.retain_rows])
    return [(own[i].ids, own[i].positions) for i in chosen]
