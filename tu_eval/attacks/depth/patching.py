"""Batches of facts through two opened models: what each layer of the one costs in the place of the other's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from shared.budget import padded_batches
from shared.console import progress
from tu_eval.attacks.depth.begun import Begun
from tu_eval.attacks.depth.facts import Fact
from tu_eval.attacks.depth.layers import Layers, padded


@dataclass(frozen=True)
class PaddedFacts:
    """B facts that share a pass."""

    places: list[int]
    """of the facts"""
    ids: torch.Tensor
    """[B, T]"""
    mask: torch.Tensor
    wanted: list[list[int]]
    """positions of each fact's tokens"""

    def predicting(self) -> torch.Tensor:
        """[B, T], true where a token of the fact is predicted."""
        found = torch.zeros_like(self.ids, dtype=torch.bool)
        for row, positions in enumerate(self.wanted):
            found[row, [i - 1 for i in positions]] = True
        return found

    def from_token(self, at: int) -> PaddedFacts:
        """The same without the first `at` tokens, none of which predicts a fact."""
        return replace(self, ids=self.ids[:, at:], mask=self.mask[:, at:], wanted=[[i - at for i in own] for own in self.wanted])

    def of(self, layers: Layers, hidden_BTD: torch.Tensor) -> list[float]:
        """Mean log-probability of each fact."""
        return layers.mean_logprobs(hidden_BTD, self.ids, self.wanted)


def lens(layers: Layers, facts: Sequence[Fact], batch_tokens: int) -> list[list[float]]:
    """[facts][L] mean log-probability of the fact by the model's own last step right behind each layer."""
    out: list[list[float]] = [[] for _ in facts]
    for batch in _batches(layers, facts, batch_tokens):
        _add(out, batch, _lens(layers, batch, layers.outputs(batch.ids, batch.mask)))
    return out


def patched(
    full: Layers, source: Layers, facts: Sequence[Fact], batch_tokens: int, *, everywhere: bool = False, with_lens: bool = True
) -> tuple[list[list[float]], list[list[float]] | None]:
    """-> [facts][L] nats a token that each layer of `source` costs in `full`, and the lens of `source`. It is put in
    place for the tokens that predict the fact's, or `everywhere`."""
    costs: list[list[float]] = [[] for _ in facts]
    seen: list[list[float]] = [[] for _ in facts]
    with progress("patching layers", len(facts), "rows") as bar:
        for batch in _batches(full, facts, batch_tokens):
            outputs = source.outputs(batch.ids, batch.mask)
            if everywhere:
                own, rest, begun = batch.of(full, full.last(batch.ids, batch.mask)), batch, None
            else:
                # Before the first token at which something is put in place, all is as the full model has it.
                at = min(map(min, batch.wanted)) - 1
                begun = Begun() if at and full.can_go_on(batch.ids.shape[1]) else None
                theirs = full.outputs(batch.ids, batch.mask, begun)
                own = batch.of(full, full.after(len(full) - 1, theirs[-1], batch.ids, batch.mask))
                rest = batch
                if begun is not None:
                    begun.close(at)
                    rest = batch.from_token(at)
                    outputs, theirs = ([output[:, at:].clone() for output in several] for several in (outputs, theirs))
                put_where(rest.predicting(), outputs, theirs)  # the lens looks at the same positions
            by_layer = []
            for layer, output in enumerate(outputs):
                there = rest.of(full, full.after(layer, output, rest.ids, batch.mask, begun))
                by_layer.append([before - now for before, now in zip(own, there, strict=True)])
            _add(costs, batch, by_layer)
            if with_lens:
                _add(seen, batch, _lens(source, rest, outputs))
            bar.advance(len(batch.places))
    return costs, seen if with_lens else None


def put_where(places_BT: torch.Tensor, outputs: list[torch.Tensor], others: list[torch.Tensor]) -> None:
    """Each layer's output becomes the other one elsewhere than at those places; one layer at a time, so that no third
    list of them is held."""
    for layer in range(len(outputs)):
        outputs[layer] = torch.where(places_BT[..., None], outputs[layer], others.pop(0))


def _lens(layers: Layers, batch: PaddedFacts, outputs: Sequence[torch.Tensor]) -> list[list[float]]:
    """[L][B]. Put out by the last layer, an earlier output goes through the last norm and the head alone."""
    return [batch.of(layers, layers.after(len(layers) - 1, output, batch.ids, batch.mask)) for output in outputs]


def _add(out: list[list[float]], batch: PaddedFacts, by_layer: Sequence[Sequence[float]]) -> None:
    for row, place in enumerate(batch.places):
        out[place] = [values[row] for values in by_layer]


def _batches(layers: Layers, facts: Sequence[Fact], batch_tokens: int) -> Iterator[PaddedFacts]:
    # The last token that is asked for is only compared with, so the model does not read what is behind it.
    read = [f.example.input_ids[: max(f.tokens) + 1] for f in facts]
    turn = layers.packed.turn
    # Where the rotation goes by the longest row of a pass, longer rows share none with those that are short enough.
    longer = [turn is not None and len(ids) > turn for ids in read]
    sides = [[i for i, is_longer in enumerate(longer) if is_longer is side] for side in (False, True)]
    for places in ([own[k] for k in places] for own in sides for places in padded_batches([len(read[i]) for i in own], batch_tokens)):
        ids, mask = padded([read[i] for i in places], layers.packed.model.device)
        yield PaddedFacts(places, ids, mask, [facts[i].tokens for i in places])
