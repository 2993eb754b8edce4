"""`tu-train run --dry-run`: steps, tokens and memory of a run, said before it begins.

It gathers and plans as the run does, and takes the largest pass of the first epoch through the training code itself, on
tensors that have shapes and no numbers (tu_train/model/peak.py): no weight is read, nothing is written. Kernels'
own buffers, holes in the heap, the interpreter and its libraries come on top (benchmarks/memory.py measures how much).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.console import readable_bytes
from shared.lm.attention import attending
from shared.lm.forest import pack
from shared.lm.logprobs import CHUNK_MIB, accumulation_dtype, sizes
from shared.lm.models import choose_device
from shared.lm.packed import BLOCKS_OF_ATTENTION, PackedModel, turning_length
from tu_train.config import LoopConfig, UnlearnConfig
from tu_train.data.batches import Item, PassRows, tokens_of
from tu_train.data.sources import with_partners
from tu_train.forward import forward_pass
from tu_train.gather import gather_unlearning
from tu_train.load import held_in, refuse_quantised
from tu_train.loop import Objective, Totals, losses_of, prepare, start_state
from tu_train.model.lora import add_lora
from tu_train.model.nf4 import in_four_bits
from tu_train.model.peak import Peak, bytes_a_weight, bytes_of, fill_with_shapes, without_numbers
from tu_train.model.reference import Reference
from tu_train.model.trainable import freeze_all_but, in_this_model
from tu_train.padded import padded_pass
from tu_train.plan import Plan, plan_unlearning


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
    """everything else that is alive at the worst moment of the backward pass"""

    @property
    def peak(self) -> int:
        return sum(vars(self).values())


@dataclass(frozen=True)
class TrainingEstimate:
    steps: int
    rows: dict[str, int]
    tokens: int
    """read in all steps, before sharing"""
    largest: int
    """tokens of the largest pass"""
    memory: Memory
    trained: int
    """parameters"""
    device: str
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        rows = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in self.rows.items())
        parts = [f"  {name:<15}{readable_bytes(count)}" for name, count in vars(self.memory).items()]
        return [
            f"rows             {rows}",
            f"steps            {self.steps:,}",
            f"tokens           about {self.tokens:,} in all steps, {self.largest:,} in the largest pass, before sharing",
            f"trained          {self.trained:,} parameters",
            f"peak memory      about {readable_bytes(self.memory.peak)} of tensors on {self.device}, of which",
            *parts,
            "more is resident than tensors fill: docs/methods.md says how much",
            *self.notes,
        ]


def estimate(config: UnlearnConfig) -> TrainingEstimate:
    """Raises what the run itself would raise before it loads the model."""
    config = config.filled()
    plan = _with_known_answers(plan_unlearning(config, gather_unlearning(config)))
    device = choose_device(config.device)
    epoch = plan.order.steps_an_epoch
    steps = list(islice(plan.stream(0), min(plan.steps, sum(epoch(corpus.forget.count) for corpus in plan.corpora))))
    tokens = sum(map(pass_tokens, (rows for step in steps for rows in step)))
    largest = max((step for step in steps), key=lambda step: max(map(pass_tokens, step)))
    memory, trained = memory_of(plan, largest)
    notes = [] if device.type == "cpu" else [f"of a CPU's attention; that of {device.type} holds less"]
    if any(c.answers is not None and c.answers.given is None for c in plan.corpora):
        notes.append("without the answers that the model is yet to write")
    return TrainingEstimate(plan.steps, plan.rows, round(tokens / len(steps) * plan.steps), max(map(pass_tokens, largest)), memory, trained,
                            str(device), tuple(notes))  # fmt: skip


def pass_tokens(rows: PassRows) -> int:
    return sum(map(tokens_of, [*rows.forget, *rows.retain]))


def _with_known_answers(plan: Plan) -> Plan:
    """With the other answers that stand in the data."""

    def known(corpus: Any) -> Any:
        if corpus.answers is None or corpus.answers.given is None:
            return corpus
        items = {name: _with_reference(item) for name, item in corpus.answers.given.items()}
        return replace(corpus, forget=with_partners(corpus.forget, items))

    return replace(plan, corpora=tuple(map(known, plan.corpora)))


def _with_reference(item: Item) -> Item:
    return replace(item, ref_logp=np.zeros(len(item.positions), dtype=np.float32))


def memory_of(plan: Plan, step: list[PassRows]) -> tuple[Memory, int]:
    """-> bytes at the worst moment of a step, and how many parameters train."""
    config, objective = plan.config, plan.objective
    with torch.device("meta"):
        model, wrapper = _empty_model(plan)
    with without_numbers() as outside:
        fill_with_shapes(model)
        packed = Shapes(model, outside)
        trained = [p for p in model.parameters() if p.requires_grad]
        reference = Reference(packed, wrapper.disable_adapter if wrapper else None) if objective.reads_start else None
        held = [*model.parameters(), *model.buffers()]
        kept = [before for _, before in reference.kept] if reference else []
        gradients, most = bytes_of(trained), 0
        autocast = prepare(packed, config, packs=objective.pad_id is None)
        state = start_state(packed, objective)
        peak = Peak()
        peak.known(iter([*held, *kept]))
        with peak:
            for rows in step:
                mine = objective.of(rows.corpus)
                _backward(packed, rows, mine, objective.state_of(rows.corpus, state), reference, autocast, Totals.of(step, mine.method))
        most = peak.most
    beside = max(0, most - gradients)  # gradients that are not there yet leave their room to activations
    head = min(_head_bytes(packed, step), beside)
    moments = _moments(trained, config, choose_device(config.device))
    memory = Memory(weights=bytes_of(held), gradients=gradients, moments=moments, reference=bytes_of(kept), head=head,
                    activations=beside - head)  # fmt: skip
    return memory, sum(p.numel() for p in trained)


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


def _backward(
    packed: Shapes, rows: PassRows, objective: Objective, state: Any, reference: Reference | None, autocast: Any, totals: Totals
) -> None:  # fmt: skip
    """That of the loop, which looks at no number."""
    with autocast:
        if objective.pad_id is None:
            tokens = forward_pass(packed, rows, *objective.needs, reference)
        else:
            tokens = padded_pass(packed, rows, *objective.needs, reference, objective.pad_id)
        forget, retain = losses_of(tokens, objective, state, totals)
        loss: Tensor = objective.gamma * forget + objective.alpha * retain
    if loss.requires_grad:
        loss.backward()


def _head_bytes(packed: Shapes, step: list[PassRows]) -> int:
    """Of a block of logits with what is computed of it."""
    weight = packed.head.weight
    most = max(sum(len(item.positions) for item in [*rows.forget, *rows.retain]) for rows in step)
    size = sizes(weight, most, weight.shape[0], CHUNK_MIB)
    return size.rows * size.width * (2 * accumulation_dtype(weight.dtype).itemsize + 3)
