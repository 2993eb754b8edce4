"""A forward pass as the published code of RMU makes it: rows of a batch padded on the left to the longest of them, and
every position, padding too, a token that losses see.

The mean over a batch then runs over rows times the longest length. What a block gives at a padded position is what it
makes of padding tokens that nothing is to attend to: transformers' own, finite and the same each time, but not the same
for all its attention implementations. Nothing is packed, and products are torch's own: forget and retain rows are
batches of their own, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from shared.lm.logprobs import target_logprobs
from shared.lm.packed import PackedModel
from tu_train.data.batches import Item, PassRows
from tu_train.forward import Needs, PassTokens, captured, tokens_of_items
from tu_train.methods.tokens import Tokens
from tu_train.model.reference import Reference


def positions_of(items: Sequence[Item]) -> int:
    """Of a batch of these rows, padding included."""
    return len(items) * max((len(item.ids) for item in items), default=0)


def padded_pass(
    packed: PackedModel, rows: PassRows, forget: Needs, retain: Needs, reference: Reference | None, pad_id: int
) -> PassTokens:  # fmt: skip
    """Forget rows and retain rows, each as one padded batch. There are no partners: the losses are of hidden states."""
    groups = ((rows.forget, forget), (rows.retain, retain))
    made = [padded_tokens(packed, items, needs, reference, pad_id) for items, needs in groups]
    return PassTokens(made[0], None, made[1])


def padded_tokens(packed: PackedModel, items: Sequence[Item], needs: Needs, reference: Reference | None, pad_id: int) -> Tokens:
    """N = rows · longest tokens, each with weight 1. `logp_N`: at target tokens theirs, without gradient, elsewhere
    0."""
    if not items:
        return tokens_of_items([], torch.zeros(0, device=packed.model.device), torch.zeros(0, device=packed.model.device).long())
    ids_BT, mask_BT = left_padded(items, pad_id, packed.model.device)
    hidden_BTD, layer_ND = _forward(packed, ids_BT, mask_BT, needs.layer)
    count, longest = ids_BT.shape
    places = torch.arange(longest, device=ids_BT.device)
    logp_N = _logprobs(packed, items, ids_BT, hidden_BTD)
    tokens = Tokens(logp_N, torch.ones_like(logp_N), places.new_tensor(range(count)).repeat_interleave(longest), places.repeat(count),
                    ids_BT.flatten(), count, layer_ND=layer_ND)  # fmt: skip
    if needs.reference:
        assert reference is not None, "made for every method that needs it"
        with reference.active():
            tokens.ref_layer_ND = _forward(packed, ids_BT, mask_BT, needs.layer)[1]
    return tokens


def left_padded(items: Sequence[Item], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """-> ids [B, T] and their mask."""
    longest = max(len(item.ids) for item in items)
    ids = torch.tensor([[pad_id] * (longest - len(item.ids)) + list(item.ids) for item in items], device=device)
    lengths = torch.tensor([len(item.ids) for item in items], device=device)
    return ids, (torch.arange(longest, device=device) >= longest - lengths[:, None]).long()


def _forward(packed: PackedModel, ids_BT: Tensor, mask_BT: Tensor, layer: int | None) -> tuple[Tensor, Tensor | None]:
    """-> final hidden states [B, T, D] and the output of the block [B · T, D]."""
    with captured(packed, layer) if layer is not None else nullcontext([]) as outputs:
        hidden = packed.backbone(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state
    return hidden, outputs[0].flatten(0, 1) if outputs else None


@torch.no_grad()
def _logprobs(packed: PackedModel, items: Sequence[Item], ids_BT: Tensor, hidden_BTD: Tensor) -> Tensor:
    """[B · T] for the log: nothing is learned from them."""
    longest = ids_BT.shape[1]
    own = [row * longest + longest - len(item.ids) + p for row, item in enumerate(items) for p in item.positions]
    at = torch.tensor(own, device=ids_BT.device, dtype=torch.long)
    found = target_logprobs(hidden_BTD.flatten(0, 1)[at - 1], ids_BT.flatten()[at], packed.head)
    return found.new_zeros(ids_BT.numel()).index_copy(0, at, found)
