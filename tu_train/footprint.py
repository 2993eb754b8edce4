"""What training holds in memory, part by part, from shapes alone.

The passes of a step go through the training code itself, on tensors that have shapes and no numbers
(tu_train/model/peak.py). Of several ranks it is what one of them holds: the model is split as it would be, by a process
that is alone and whose messages to the others go nowhere. Kernels' own buffers, holes in the heap, the interpreter and
its libraries come on top (benchmarks/memory.py measures how much).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shared.lm.attention import attending
from shared.lm.forest import pack
from shared.lm.logprobs import CHUNK_MIB, accumulation_dtype, sizes
from shared.lm.packed import BLOCKS_OF_ATTENTION, PackedModel, turning_length
from tu_train.config import LoopConfig
from tu_train.data.batches import PassRows
from tu_train.forward import blocks
from tu_train.load import held_in, refuse_quantised
from tu_train.loop import Totals, backward, prepare, start_state
from tu_train.model.exchange import Allocating
from tu_train.model.lora import add_lora
from tu_train.model.nf4 import in_four_bits
from tu_train.model.peak import Peak, bytes_a_weight, bytes_of, fill_with_shapes, without_numbers
from tu_train.model.reference import Reference
from tu_train.model.sharded import here, mesh_on, ready, shard
from tu_train.model.trainable import freeze_all_but, in_this_model
from tu_train.plan import Plan

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    weights: int
    gradients: int
    moments: int
    reference: int
    """the model before training: weights that train, once more"""
    head: int
    """blocks of logits"""
    activations: int
    """everything else that is alive at the worst moment of the backward pass; of several ranks also gradients that are
    yet whole, and messages"""
    gathered: int = 0
    """weights that are whole at that moment, of several ranks, which hold a share of them else"""

    @property
    def peak(self) -> int:
        return sum(vars(self).values())


@dataclass(frozen=True)
class Footprint:
    memory: Memory
    """of a process, or of a rank"""
    trained: int
    """parameters, of all ranks together"""
    model: int
    """bytes of the weights, before they are split"""


def footprint(plan: Plan, step: list[PassRows], share: list[PassRows], device: torch.device, ranks: int = 1) -> Footprint:
    """At the worst moment of a step. `share`: the passes of it that this rank runs; `device`: where training would
    be."""
    config, objective = plan.config, plan.objective
    with torch.device("meta"):
        model, wrapper = _empty_model(plan)
    whole, trains = bytes_of([*model.parameters(), *model.buffers()]), sum(p.numel() for p in model.parameters() if p.requires_grad)
    with _alone_of(ranks) as mesh, without_numbers() as outside:
        fill_with_shapes(model)
        packed = Shapes(model, outside)
        if mesh is not None:
            shard(packed, blocks(packed), mesh)
            _send_nothing(packed.root, summed=device.type == "cpu")
            ready(packed)
        trained = [here(p) for p in model.parameters() if p.requires_grad]
        reference = Reference(packed, wrapper.disable_adapter if wrapper else None) if objective.reads_start else None
        held = [here(t) for t in (*model.parameters(), *model.buffers())]
        kept = [here(before) for _, before in reference.kept] if reference else []
        autocast = prepare(packed, config, packs=objective.pad_id is None)
        state, peak, corpus = start_state(packed, objective), Peak(), share[0].corpus
        peak.known(iter([*held, *kept]))
        mine = objective.of(corpus)
        totals = Totals.of(step, mine.method, padded=mine.pad_id is not None)
        with peak:
            backward(packed, share, totals, mine, objective.state_of(corpus, state), reference, autocast)
        gradients = bytes_of(trained)
        beside = max(0, peak.most - gradients)  # gradients that are not there yet leave their room to activations
        gathered = min(peak.gathered, beside)
        head = min(_head_bytes(packed, share), beside - gathered)
        memory = Memory(weights=bytes_of(held), gradients=gradients, moments=_moments(trained, config, device), reference=bytes_of(kept),
                        head=head, activations=beside - gathered - head, gathered=gathered)  # fmt: skip
    return Footprint(memory, trains, whole)


def _moments(trained: Sequence[Tensor], config: LoopConfig, device: torch.device) -> int:
    """On that device."""
    if config.moments_on == "cpu" and device.type != "cpu":
        return 0
    return round(sum(p.numel() for p in trained) * bytes_a_weight(config.optimizer, config.moments))


def _empty_model(plan: Plan) -> tuple[Any, Any]:
    """-> model, and peft's wrapper."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = plan.config
    refuse_quantised(plan)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(plan.folder), dtype=held_in(config)).eval()
    if config.lora:
        wrapper = add_lora(model, config.lora, config.lora_alpha, config.lora_targets)
        if config.weights == "nf4":
            in_four_bits(model)
        return model, wrapper
    if plan.train_only:
        globs = config.train_only or in_this_model(model, plan.train_only)
        freeze_all_but(model, globs, named_by="--set train_only")
    return model, None


class Shapes(PackedModel):
    """A model without numbers, which cannot be asked how it wants to be fed: that follows from its configuration."""

    def __init__(self, model: Any, outside: Any):
        self.model, self.outside, self.root = model, outside, None
        self.backbone = model.base_model if model.base_model is not model else getattr(model, "model", model)
        kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
        self.packs, self.reach, self.turn = kinds <= BLOCKS_OF_ATTENTION, None, turning_length(model)

    def _packed(self, sequences: Any) -> Any:
        with self.outside():
            forest = pack(sequences, "cpu")
            mask = torch.ones(1, 1, 1, 1, dtype=torch.bool)
        with attending(self.model, forest):
            out = self.backbone(input_ids=forest.ids_L[None], position_ids=forest.positions_L[None], attention_mask=mask, use_cache=False)
        return out.last_hidden_state[0], forest.slots, forest.windows


def _head_bytes(packed: Shapes, share: list[PassRows]) -> int:
    """Of a block of logits with what is computed of it."""
    weight = packed.head.weight
    most = max(sum(len(item.positions) for item in [*rows.forget, *rows.retain]) for rows in share)
    size = sizes(weight, most, weight.shape[0], CHUNK_MIB)
    return size.rows * size.width * (2 * accumulation_dtype(weight.dtype).itemsize + 3)


# --- one of several ranks


@contextmanager
def _alone_of(ranks: int) -> Iterator[Any]:
    """As rank 0, whose shares are none smaller than others', of a group in which no other is there -> the ranks in a
    row; None for one process."""
    if ranks == 1:
        yield None
        return
    torch.distributed.init_process_group("fake", rank=0, world_size=ranks)
    try:
        yield mesh_on(CPU)
    finally:
        torch.distributed.destroy_process_group()


def _send_nothing(root: Any, *, summed: bool) -> None:
    """All that ranks say to each other inside of a step: shapes have nothing to say."""
    for part in (root.root, *root.blocks):
        part.set_custom_all_gather(_Nothing(summed))
        part.set_custom_reduce_scatter(_Nothing(summed))


class _Nothing(Allocating):
    """A message of torch's FSDP that reaches nobody, in memory that it would fill; `summed`: where ranks themselves
    add the pieces of others to a sum (exchange.py)."""

    def __init__(self, summed: bool) -> None:
        self.summed = summed

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, **how: Any) -> Any:
        return input_tensor.new_empty(max(0, input_tensor.numel() - output_tensor.numel())) if self.summed else None
