"""Losses of METHODS on batches of `collate`, from the logits of any causal language model: what the `compute_loss` of
somebody else's trainer needs. docs/trainers.md has three of them.

Shapes: B rows, T tokens of the longest, V vocabulary, N tokens with a weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from shared.errors import ConfigError, DataError
from tu_train.methods.table import METHODS, Method, check_options, find_method
from tu_train.methods.tokens import Options, Tokens

HELD = frozenset({"reference"})
"""what a batch holds besides token ids and weights, as methods call it (`Method.needs`)"""
RETAIN = ("nll", "none")
"""retain terms that read nothing of the model before training"""
INPUTS = ("input_ids", "attention_mask")


def compute_loss(
    model: Any, batch: Mapping[str, Any], method: str | Method = "npo", options: Options | None = None, *, gamma: float | None = None,
    alpha: float | None = None,
) -> Tensor:  # fmt: skip
    """What `tu-train run` minimises, on one batch of `collate`: gamma · forget loss / its denominator (rows, or the sum
    of weights, as the method has it) + alpha · NLL of the retain rows / their tokens; a float32 scalar with a gradient.

    `model`: a causal language model, called with input_ids and attention_mask, that gives `logits` [B, T, V]; once for
    the forget and once for the retain rows of Pairs. `method`: a name of METHODS, a Method, or package.module:NAME;
    `options`: its own numbers in place of its defaults; gamma, alpha: its own unless given. Denominators are those of
    the batch: steps that accumulate several batches take the mean of them.

    Raises ConfigError for a method that reads more than a batch holds, and for options that it does not have.
    """
    found, numbers = _method(method, options)
    forget, retain = (batch["forget"], batch["retain"]) if "forget" in batch else (batch, None)
    if retain is not None and found.retain not in RETAIN:
        raise ConfigError(f"compute_loss: the method holds retain rows by {found.retain}, which reads the model before training; "
                          "a trainer of others has NLL: take graddiff for kl, or train with tu-train run")  # fmt: skip
    loss = (found.gamma if gamma is None else gamma) * forget_loss(_logits(model, forget), forget, found, numbers)
    if retain is not None and found.retain != "none":
        loss = loss + (found.alpha if alpha is None else alpha) * retain_loss(_logits(model, retain), retain)
    return loss.float()


def forget_loss(logits: Tensor, batch: Mapping[str, Tensor], method: str | Method, options: Options | None = None) -> Tensor:
    """The method's loss on the logits [B, T, V] of the forget rows, divided by their number or their weights; a scalar.

    Raises ConfigError as `compute_loss` does.
    """
    found, numbers = _method(method, options)
    tokens = weighted_tokens(logits, batch)
    over = tokens.rows if found.per == "row" else tokens.weight_N.double().sum().clamp_min(1e-30)
    return found.loss(tokens, None, numbers, {}) / over


def retain_loss(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """−Σ w · log p / Σ w over the tokens of the retain rows, nats a token; a scalar. `logits`: [B, T, V]."""
    tokens = weighted_tokens(logits, batch)
    weights = tokens.weight_N.double()
    return -(weights * tokens.logp_N.double()).sum() / weights.sum().clamp_min(1e-30)


def weighted_tokens(logits: Tensor, batch: Mapping[str, Tensor]) -> Tokens:
    """What losses see of a batch: its N tokens with a weight, row by row. `logits`: [B, T, V]. Raises DataError where
    they are of another shape than the batch."""
    ids = batch["input_ids"]
    if logits.shape[:2] != ids.shape:
        raise DataError(f"logits of shape {tuple(logits.shape)} for input_ids of shape {tuple(ids.shape)}; expected rows and tokens alike")
    row, before = torch.nonzero(batch["loss_weights"][:, 1:] > 0, as_tuple=True)
    at = before + 1
    targets = ids[row, at]
    logp = -cross_entropy(logits[row, before].float(), targets, reduction="none")
    starts = torch.searchsorted(row, torch.arange(len(ids), device=row.device))
    place = torch.arange(len(row), device=row.device) - starts[row]
    return Tokens(logp, batch["loss_weights"][row, at].float(), row, place, targets, len(ids), batch["reference_logps"][row, at].float())


def _logits(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    return model(**{name: batch[name] for name in INPUTS}).logits


def _method(method: str | Method, options: Options | None) -> tuple[Method, Options]:
    """The method and its options, complete."""
    if isinstance(method, str):
        found, numbers = find_method(method), check_options(method, dict(options or {}))
    else:
        found, numbers = method, {**method.options, **(options or {})}
        if unknown := sorted(set(numbers) - set(method.options)):
            raise ConfigError(f"compute_loss: {unknown[0]} is none of the method's options ({', '.join(method.options) or 'it has none'})")
    more = sorted(found.needs - HELD)
    if more or found.start is not None:
        usable = ", ".join(name for name, each in METHODS.items() if each.needs <= HELD and each.start is None)
        reads = " and ".join(more) or "a state from step to step"
        raise ConfigError(f"compute_loss: the method reads {reads}, which a batch does not hold; train it with tu-train run, or take one "
                          f"of {usable}")  # fmt: skip
    return found, numbers
