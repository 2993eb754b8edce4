"""A causal LM opened between its layers: what each layer puts out, and what the layers behind one make of another
output.

A pass that begins behind a layer runs through the model's own code: the layer and those before it give the new output
instead of computing, so that embeddings, masks and positions are those of the architecture. Whether an architecture can
be opened so is tried when a model is taken: its own output put back must give its own hidden states.

Nothing that is put behind a token changes what the layers make of the tokens before it. So the first tokens of a batch,
those before the first that anything is put in place for, are run once, and passes over the others read their keys and
values (`begun`).

Shapes: B rows of a batch, right-padded to T tokens, of which the first P were run before; D width, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from shared.errors import ModelError
from shared.lm.logprobs import score_positions
from shared.lm.packed import PREFIX, TOLERANCE, PackedModel
from shared.lm.products import FasterProducts
from tu_eval.attacks.depth.begun import Begun


class Layers:
    """Raises ModelError where the architecture does not let itself be opened."""

    def __init__(self, packed: PackedModel):
        self.packed, self.backbone = packed, packed.backbone
        config: Any = packed.model.config.get_text_config()
        lists = [m for m in self.backbone.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == config.num_hidden_layers]
        if not lists:
            raise ModelError(
                f"{type(packed.model).__name__}: its layers are in no list of {config.num_hidden_layers}; depth cannot look into it"
            )
        self.blocks = list(lists[0])
        self._check()

    def __len__(self) -> int:
        return len(self.blocks)

    @torch.inference_mode()
    def outputs(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, begun: Begun | None = None) -> list[torch.Tensor]:
        """[B, T, D] of each of the L layers; an open `begun` takes the keys and values."""
        held: list[torch.Tensor] = []

        def keep(_module: Any, _given: Any, out: Any) -> None:
            held.append(out[0] if isinstance(out, tuple) else out)

        hooks = [block.register_forward_hook(keep) for block in self.blocks]
        try:
            self._run(ids_BT, mask_BT, begun)
        finally:
            for hook in hooks:
                hook.remove()
        if len(held) != len(self.blocks) or any(h.shape[:2] != ids_BT.shape for h in held):
            raise ModelError(f"{type(self.packed.model).__name__}: its layers are not run once each, in order; depth cannot look into it")
        return held

    @torch.inference_mode()
    def last(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Last hidden states [B, T, D] of the model as it is."""
        return self._run(ids_BT, mask_BT)

    @torch.inference_mode()
    def after(
        self, layer: int, output_BTD: torch.Tensor, ids_BT: torch.Tensor, mask_BT: torch.Tensor, begun: Begun | None = None
    ) -> torch.Tensor:
        """Last hidden states [B, T, D], ready for the head, where `layer` (from 0) had put out `output_BTD`. Behind
        `begun` output and ids are those of the other T - P tokens, and the mask is that of all."""
        with self._giving(layer, output_BTD):
            return self._run(ids_BT, mask_BT, begun)

    def can_go_on(self, length: int) -> bool:
        """Whether passes over rows of up to `length` tokens may go on from their first tokens. Not where it was tried
        and is not so, where the precision is too low to try it, or where rows are so long that a window or another
        rotation begins."""
        ends = [end for end in (self.packed.reach, self.packed.turn) if end is not None]
        return self.goes_on and (not ends or length <= min(ends))

    def mean_logprobs(self, hidden_BTD: torch.Tensor, ids_BT: torch.Tensor, wanted: Sequence[Sequence[int]]) -> list[float]:
        """For each row the mean log-probability (nats) of the tokens at `wanted` positions, none of them empty or 0."""
        rows = [b for b, positions in enumerate(wanted) for _ in positions]
        places = [i for positions in wanted for i in positions]
        hidden = hidden_BTD[rows, [i - 1 for i in places]]
        found = score_positions(hidden, ids_BT[rows, places], self.packed.head).logprob.double().cpu()
        return [part.mean().item() for part in found.split([len(positions) for positions in wanted])]

    def _run(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, begun: Begun | None = None) -> torch.Tensor:
        more: dict[str, Any] = {"use_cache": False} if begun is None else {"use_cache": True, "past_key_values": begun}
        with FasterProducts():
            return self.backbone(input_ids=ids_BT, attention_mask=mask_BT, **more).last_hidden_state

    @contextmanager
    def _giving(self, layer: int, output_BTD: torch.Tensor) -> Iterator[None]:
        # What a layer gives beside its output (attention weights) nobody asked for.
        given: Any = (output_BTD,) if self.tuples else output_BTD
        replaced: list[Any] = self.blocks[: layer + 1]
        try:
            for block in replaced:
                block.forward = lambda *_, **__: given
            yield
        finally:
            for block in replaced:
                block.__dict__.pop("forward", None)

    @torch.inference_mode()
    def _check(self) -> None:
        name = type(self.packed.model).__name__
        ids = torch.tensor([PREFIX], device=self.packed.model.device)
        mask, kinds = torch.ones_like(ids), []
        hook = self.blocks[0].register_forward_hook(lambda _module, _given, out: kinds.append(isinstance(out, tuple)))
        try:
            expected = self._run(ids, mask)
            self.tuples = bool(kinds and kinds[0])
            own = self.outputs(ids, mask)
            found = [self.after(layer, own[layer], ids, mask) for layer in sorted({0, len(self) // 2, len(self) - 1})]
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError):
            raise ModelError(f"{name}: its layers cannot be run one without the others; depth cannot look into it") from None
        finally:
            hook.remove()
        bound = TOLERANCE[self.packed.head.weight.dtype] * expected.abs().max().item()
        if any((f - expected).abs().max() > bound for f in found):
            raise ModelError(f"{name}: a layer's own output, put back, changes what the model says; depth cannot look into it")
        # In low precision a pass in two parts is rounded otherwise than a whole one, by more than layers may cost.
        exact = self.packed.head.weight.dtype in (torch.float32, torch.float64)
        self.goes_on = exact and self.packed.packs and self._goes_on(own, ids, mask, expected, bound)

    def _goes_on(self, own: list[torch.Tensor], ids: torch.Tensor, mask: torch.Tensor, expected: torch.Tensor, bound: float) -> bool:
        at = ids.shape[1] // 2
        try:
            self.outputs(ids, mask, begun := Begun())
            begun.close(at)
            found = [self.after(layer, own[layer][:, at:], ids[:, at:], mask, begun) for layer in sorted({0, len(self) // 2})]
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError):
            return False
        return all(f.shape == expected[:, at:].shape and bool((f - expected[:, at:]).abs().max() <= bound) for f in found)


def padded(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """-> ids and mask [B, T], padded at the right, where causal attention lets nobody see it."""
    longest = max(map(len, sequences))
    ids, mask = torch.zeros(2, len(sequences), longest, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return ids.to(device), mask.to(device)
