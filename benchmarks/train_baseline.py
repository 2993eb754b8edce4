"""What a user would write today to unlearn with NPO: the Hugging Face Trainer with a loss of its own, padded batches,
full logits, and a copy of the model as reference in the loop. The baseline of benchmarks/train.py; its first loss is
also what ours is compared with."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import Trainer, TrainingArguments

from tu_train.data.batches import Item

IGNORED = -100
Pair = tuple[Item, Item]
"""a forget row and a retain row"""


def padded(items: Sequence[Item]) -> dict[str, Tensor]:
    """[B, T] ids, mask and labels; no loss at padding and prompt."""
    longest = max(len(i.ids) for i in items)
    out = {name: torch.full((len(items), longest), value) for name, value in (("input_ids", 0), ("attention_mask", 0), ("labels", IGNORED))}
    for row, item in enumerate(items):
        out["input_ids"][row, : len(item.ids)] = torch.tensor(item.ids)
        out["attention_mask"][row, : len(item.ids)] = 1
        out["labels"][row, item.positions] = torch.tensor([item.ids[p] for p in item.positions])
    return out


def collate(pairs: Sequence[Pair]) -> dict[str, dict[str, Tensor]]:
    forget, retain = zip(*pairs, strict=True)
    return {"forget": padded(forget), "retain": padded(retain)}


def row_nll(model, batch: dict[str, Tensor]) -> Tensor:
    """[B] negative log-likelihood of each answer, nats."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].float()
    losses = cross_entropy(logits.transpose(1, 2), batch["labels"][:, 1:], ignore_index=IGNORED, reduction="none")
    return losses.sum(-1)


class NPOTrainer(Trainer):
    """NPO (arXiv 2404.05868) with retain NLL beside it, weights 1 and 1."""

    def __init__(self, *, beta: float, **others: Any):
        super().__init__(**others)
        self.reference = copy.deepcopy(others["model"]).eval()
        self.beta = beta
        self.losses: list[float] = []

    def compute_loss(self, model, inputs: Any, return_outputs=False, num_items_in_batch=None):
        with torch.no_grad():
            before = row_nll(self.reference, inputs["forget"])
        ratio = before - row_nll(model, inputs["forget"])
        retain = inputs["retain"]
        loss = -(2 / self.beta) * logsigmoid(-self.beta * ratio).mean()
        loss = loss + row_nll(model, retain).sum() / (retain["labels"] != IGNORED).sum()
        self.losses.append(loss.item())
        return (loss, None) if return_outputs else loss


def train_baseline(model, pairs: Sequence[Pair], *, batch_size: int, beta: float, learning_rate: float, bf16: bool = False) -> float:
    """One pass over `pairs` in their order, on the model's device (the one that Trainer finds); returns the loss of the
    first batch. `bf16`: under autocast. Raises ImportError where accelerate, which Trainer needs, is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=batch_size, num_train_epochs=1, learning_rate=learning_rate, weight_decay=0.01,
            train_sampling_strategy="sequential", remove_unused_columns=False, save_strategy="no", report_to=[], disable_tqdm=True,
            use_cpu=model.device.type == "cpu", bf16=bf16, dataloader_pin_memory=False, logging_strategy="no",
        )  # fmt: skip
        trainer = NPOTrainer(beta=beta, model=model, args=arguments, train_dataset=list(pairs), data_collator=collate)  # type: ignore[arg-type]
        trainer.train()
    return trainer.losses[0]
