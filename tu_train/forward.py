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
from shared.lm.logprobs import target_logprobs
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


def forward_pass(packed: PackedModel, rows: PassRows, forget: Needs, retain: Needs, reference: Reference | None) -> PassTokens:
    """One forward over all rows of a pass, then the head at the tokens that a loss sees."""
    partners = [i.partner for i in rows.forget if i.partner is not None]
    groups = [(rows.forget, forget), (partners, Needs()), (rows.retain, retain)]
    items = [item for group, _ in groups for item in group]
    layer = next((needs.layer for group, needs in groups if group and needs.layer is not None), None)
    hidden_LD, layer_LD, slots = _forward(packed, items, layer)
    before = torch.tensor([slots[k][p - 1] for k, i in enumerate(items) for p in i.positions], device=hidden_LD.device, dtype=torch.long)
    own = torch.tensor([slots[k][p] for k, i in enumerate(items) for p in i.positions], device=hidden_LD.device, dtype=torch.long)
    targets = torch.tensor([i.ids[p] for i in items for p in i.positions], device=hidden_LD.device, dtype=torch.long)
    hidden_ND = hidden_LD[before]
    logp_N = target_logprobs(hidden_ND, targets, packed.head)
    tokens_of, start = [], 0
    for group, needs in groups:
        part = slice(start, start := start + sum(len(i.positions) for i in group))
        tokens = tokens_of_items(group, logp_N[part], targets[part])
        if needs.logits:
            tokens.hidden_ND, tokens.head = hidden_ND[part], packed.head
        if needs.layer is not None and layer_LD is not None:
            tokens.layer_ND = layer_LD[own[part]]
        if needs.reference and group:
            assert reference is not None, "made for every method that needs it"
            _reference_pass(packed, group, needs, reference, tokens)
        tokens_of.append(tokens)
    return PassTokens(tokens_of[0], tokens_of[1] if partners else None, tokens_of[2])


def _reference_pass(packed: PackedModel, group: Sequence[Item], needs: Needs, reference: Reference, tokens: Tokens) -> None:
    """The same tokens under the model before training."""
    with reference.active():
        hidden_LD, layer_LD, slots = _forward(packed, group, needs.layer)
        where = [(slots[k][p - 1], slots[k][p]) for k, i in enumerate(group) for p in i.positions]
        before, own = torch.tensor(where, device=hidden_LD.device, dtype=torch.long).reshape(-1, 2).T
        if needs.logits:
            tokens.ref_hidden_ND = hidden_LD[before]
        if layer_LD is not None:
            tokens.ref_layer_ND = layer_LD[own]
    if needs.logits:
        tokens.ref_head = reference.head


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
        return torch.tensor(np.concatenate(arrays) if arrays else np.zeros(0), device=device, dtype=dtype)

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
