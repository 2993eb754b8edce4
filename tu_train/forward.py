"""One forward pass over forget, partner and retain rows together, and what the losses see of it.

The head runs at wanted positions only. Where a loss needs the model before training, its rows go through that in one
more forward pass, without gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shared.console import say
from shared.errors import ConfigError, ModelError
from shared.lm.attention import recomputing
from shared.lm.logprobs import Head, target_logprobs
from shared.lm.memory import placed
from shared.lm.models import block_count
from shared.lm.packed import PackedModel
from tu_train.data.batches import Item, PassRows
from tu_train.methods.tokens import Tokens
from tu_train.model.reference import Reference


@dataclass(frozen=True)
class Needs:
    """What losses need of a pass besides log-probabilities; for forget rows and for retain rows."""

    logits: bool = False
    """final hidden states and the head"""
    reference: bool = False
    """the same (or the layer) under the model before training"""
    layer: int | None = None
    """output of this block"""


@dataclass
class PassTokens:
    """The three kinds of tokens of a pass."""

    forget: Tokens
    partner: Tokens | None
    retain: Tokens


@dataclass
class Before:
    """What the model before training makes of the same rows, without gradient; see Tokens."""

    hidden_ND: Tensor | None = None
    head: Head | None = None
    layer_ND: Tensor | None = None


def forward_pass(
    packed: PackedModel, rows: PassRows, forget: Needs, retain: Needs, reference: Reference | None,
    before: tuple[Before, Before] | None = None,
) -> PassTokens:  # fmt: skip
    """One forward over all rows of a pass, then the head at the tokens that a loss sees. `before`: of its forget and
    retain rows, as `before_training` gives it; unless given, it is made here."""
    ahead = before or before_training(packed, rows, forget, retain, reference)
    partners = [i.partner for i in rows.forget if i.partner is not None]
    groups = [(rows.forget, forget, ahead[0]), (partners, Needs(), Before()), (rows.retain, retain, ahead[1])]
    items = [item for group, _, _ in groups for item in group]
    layer = next((needs.layer for group, needs, _ in groups if group and needs.layer is not None), None)
    hidden_LD, layer_LD, slots = _forward(packed, items, layer)
    predicting, own = _rows_of(items, slots, hidden_LD.device)
    targets = placed([i.ids[p] for i in items for p in i.positions], hidden_LD.device, torch.long)
    hidden_ND = hidden_LD[predicting]
    logp_N = target_logprobs(hidden_ND, targets, packed.head)
    tokens_of, start = [], 0
    for group, needs, then in groups:
        part = slice(start, start := start + sum(len(i.positions) for i in group))
        tokens = tokens_of_items(group, logp_N[part], targets[part])
        if needs.logits:
            tokens.hidden_ND, tokens.head = hidden_ND[part], packed.head
        if needs.layer is not None and layer_LD is not None:
            tokens.layer_ND = layer_LD[own[part]]
        tokens.ref_hidden_ND, tokens.ref_head, tokens.ref_layer_ND = then.hidden_ND, then.head, then.layer_ND
        tokens_of.append(tokens)
    return PassTokens(tokens_of[0], tokens_of[1] if partners else None, tokens_of[2])


def before_training(
    packed: PackedModel, rows: PassRows, forget: Needs, retain: Needs, reference: Reference | None
) -> tuple[Before, Before]:  # fmt: skip
    """Of forget and of retain rows what losses read of the model before training: a forward pass each, where they read
    anything."""
    forgotten, kept = (_before(packed, group, needs, reference) for group, needs in ((rows.forget, forget), (rows.retain, retain)))
    return forgotten, kept


def _before(packed: PackedModel, group: Sequence[Item], needs: Needs, reference: Reference | None) -> Before:
    if not needs.reference or not group:
        return Before()
    assert reference is not None, "made for every method that needs it"

    def run() -> Before:
        hidden_LD, layer_LD, slots = _forward(packed, group, needs.layer)
        predicting, own = _rows_of(group, slots, hidden_LD.device)
        hidden_ND, head = (hidden_LD[predicting], reference.head) if needs.logits else (None, None)
        return Before(hidden_ND, head, None if layer_LD is None else layer_LD[own])

    with reference.active():
        return packed.whole(run)


def _rows_of(items: Sequence[Item], slots: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """[N] rows of hidden states that predict the tokens, and those of the tokens themselves."""
    predicting = [slots[k][p - 1] for k, i in enumerate(items) for p in i.positions]
    own = [slots[k][p] for k, i in enumerate(items) for p in i.positions]
    return placed(predicting, device, torch.long), placed(own, device, torch.long)


def _forward(packed: PackedModel, items: Sequence[Item], layer: int | None) -> tuple[Tensor, Tensor | None, list[list[int]]]:
    """-> final hidden states [L, D], output of the block [L, D], and for each item the row of each of its tokens."""
    with captured(packed, layer) if layer is not None else nullcontext([]) as outputs:
        hidden_LD, slots = packed.hidden([i.ids for i in items])
    return hidden_LD, torch.cat([output.flatten(0, -2) for output in outputs]) if outputs else None, slots


@contextmanager
def captured(packed: PackedModel, layer: int) -> Iterator[list[Tensor]]:
    """Inside, the output of the block of each forward pass is added to the list."""
    outputs: list[Tensor] = []
    handle = blocks(packed)[layer].register_forward_hook(lambda _, __, out: outputs.append(out if isinstance(out, Tensor) else out[0]))
    try:
        yield outputs
    finally:
        handle.remove()


def blocks(packed: PackedModel) -> nn.ModuleList:
    """The model's blocks, in order. Raises ModelError for an architecture in which they are not found."""
    count = packed.model.config.get_text_config().num_hidden_layers
    found = next((m for m in packed.backbone.modules() if isinstance(m, nn.ModuleList) and len(m) == count), None)
    if found is None:
        raise ModelError(f"{type(packed.model).__name__}: its {count} blocks were not found; use a method that reads no layer")
    return found


def check_layer(folder: Path, layer: int) -> None:
    """Raises ConfigError for a block that the model in `folder` does not have, before it is loaded."""
    count = block_count(folder)
    if not 0 <= layer < count:
        raise ConfigError(f"--option layer={layer}: {folder} has {count} blocks, numbered 0 to {count - 1}")


def tokens_of_items(items: Sequence[Item], logp_N: Tensor, target_N: Tensor) -> Tokens:
    device = logp_N.device

    def joined(arrays: list[Any], dtype: torch.dtype) -> Tensor:
        return placed(np.concatenate(arrays) if arrays else np.zeros(0), device, dtype)

    tokens = Tokens(
        logp_N,
        joined([i.weights for i in items], torch.float32),
        joined([np.full(len(i.positions), k) for k, i in enumerate(items)], torch.long),
        joined([np.arange(len(i.positions)) if i.places is None else i.places for i in items], torch.long),
        target_N,
        len(items),
    )
    if all(i.ref_logp is not None for i in items):
        tokens.ref_logp_N = joined([i.ref_logp for i in items], torch.float32)
    if items and all(i.top_ids is not None for i in items):
        tokens.top_ids_NK = joined([i.top_ids for i in items], torch.long)
        tokens.top_logp_NK = joined([i.top_logp for i in items], torch.float32)
    return tokens


def checkpoint_activations(packed: PackedModel, *, required: bool, packs: bool = True) -> None:
    """Blocks keep no activations and run again in the backward pass, each within the packed row it ran in (not `packs`:
    as transformers runs them). Dropout stays off.

    An architecture that cannot is a ConfigError where it is `required`, else it keeps them, which is said.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    model = packed.model

    def contexts():
        return nullcontext(), recomputing(model) if packs else nullcontext()

    try:
        model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": contexts})
    except ValueError as error:
        if required:
            raise ConfigError(f"checkpointing: {type(model).__name__} cannot: {str(error).splitlines()[0]}") from None
        say(f"{type(model).__name__} cannot compute activations again: they are kept, which takes more memory")
        return
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            # A block is computed again only in training mode. What is inside of it stays in eval mode, and so does the
            # block while it runs: some read their own mode for dropout.
            module.training = True
            module.register_forward_pre_hook(_evaluating)
            module.register_forward_hook(_training, always_call=True)


def _evaluating(module: nn.Module, _: Any) -> None:
    module.training = False


def _training(module: nn.Module, *_: Any) -> None:
    module.training = True
