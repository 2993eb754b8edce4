"""A causal LM as a map from token sequences to hidden states, however its architecture wants to be fed.

Where the architecture takes the forest's attention, sequences are packed and shared prefixes computed once; where it
does not (recurrent layers, attention sinks, position biases), they go as a plain right-padded batch. Which of the two
is decided by trying both on a few tokens when the model is loaded, so that an architecture nobody has heard of is right
or refused, never wrong.

A few tokens do not show everything. In low precision the logits of a wrong pass may be within rounding, so it is also
looked at whether every block asked for the forest's attention, and whether what one sequence says reaches another. And
no short text shows a window: of those that the configuration names and that no block passed to the attention, the
shortest is the longest text that is packed (`reach`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from shared.console import say
from shared.errors import ModelError
from shared.lm.attention import attending
from shared.lm.forest import pack
from shared.lm.logprobs import Head, head_of
from shared.lm.products import FasterProducts, available

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.25, torch.float16: 0.05}
"""largest difference of a logit, relative to the largest logit, that the order of sums may make"""
APART = 1e-2
"""largest change of a sequence's hidden states, relative to their length, when only the one beside it changes: rounding
where experts get other batches, else none at all"""
BLOCKS_OF_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
"""`layer_types` of a configuration that the forest's attention knows; others are recurrent, or choose what they read"""
PREFIX = [(7 * i + 3) % 50 for i in range(12)]


class PackedModel:
    """Hidden states of many sequences in one forward. `packs` says whether shared prefixes are computed once, `reach`
    for sequences of how many tokens (None: any). Sequences of more than `turn` tokens never share a pass with shorter
    ones."""

    def __init__(self, model: PreTrainedModel):
        """Raises ModelError when head times hidden states are not the model's own logits."""
        self.model = model
        # Llama 4's text model calls its body otherwise than the name that transformers looks for it by.
        self.backbone: Any = model.base_model if model.base_model is not model else getattr(model, "model", model)
        self.packs, self.reach, self.turn = True, None, turning_length(model)
        self.root: Callable[[Callable[[], Any]], Any] | None = None
        """of a model in shards: calls a function while the weights are whole"""
        probes = [PREFIX + tail for tail in ([5, 1, 9], [8, 8], [])]
        expected = self._own_logits(probes)
        if not torch.isfinite(expected).all():
            raise ModelError(f"{type(model).__name__}: its logits are not finite; the weights are broken, or the dtype is too narrow")
        if not (self._agrees(probes, expected) and self._keeps_apart(probes)):
            self.packs = False
            if not self._agrees(probes, expected):
                raise ModelError(
                    f"{type(model).__name__}: its logits are not head times hidden states; this architecture is not understood"
                )
            say(f"{type(model).__name__} cannot take a packed row of shared prefixes: batches of similar length instead, which is slower")

    def whole(self, function: Callable[[], T]) -> T:
        """Its result, called while weights can be read, which in a model in shards they cannot at any time."""
        return function() if self.root is None else self.root(function)

    @property
    def head(self) -> Head:
        return head_of(self.model)

    def check_ids(self, sequences: Iterable[Sequence[int]]) -> None:
        """Raises ModelError for an id without a row in the embedding. Data is looked at before any work; this is for
        what is made later."""
        embedding: Any = self.model.get_input_embeddings()
        rows, highest = embedding.weight.shape[0], max((max(s) for s in sequences if len(s)), default=0)
        if highest >= rows:
            raise ModelError(
                f"{type(self.model).__name__}: its embedding has {rows} rows, but a text has the token with id {highest}; "
                "resize the model's embedding to its tokenizer"
            )

    def hidden(self, sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, list[list[int]]]:
        """-> hidden states [L, D] and, for each sequence, the row of each of its tokens. Row of token i predicts token
        i + 1."""
        self.check_ids(sequences)
        if self.turn is not None and min(map(len, sequences)) <= self.turn < max(map(len, sequences)):
            return self._in_two(sequences, self.turn)
        if not self.packs or (self.reach is not None and max(map(len, sequences)) > self.reach):
            return self._padded(sequences)
        return self._packed(sequences)[:2]

    def _packed(self, sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, list[list[int]], list[int | None]]:
        """The same, and the windows that the blocks passed to the attention, one a call."""
        scoring = not torch.is_grad_enabled() and self.model.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        forest = pack(sequences, self.model.device, alone=scoring and available())
        # A mask that is already four-dimensional keeps transformers from building its own; the forest's attention reads
        # none.
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.model.device)
        with attending(self.model, forest):
            out = self.backbone(input_ids=forest.ids_L[None], position_ids=forest.positions_L[None], attention_mask=mask, use_cache=False)
        return out.last_hidden_state[0], forest.slots, forest.windows

    def _in_two(self, sequences: Sequence[Sequence[int]], turn: int) -> tuple[torch.Tensor, list[list[int]]]:
        """Short sequences, then long ones."""
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]) > turn)
        count = sum(len(s) <= turn for s in sequences)
        short, long = (self.hidden([sequences[i] for i in part]) for part in (order[:count], order[count:]))
        moved = [[row + len(short[0]) for row in rows] for rows in long[1]]
        slots = dict(zip(order, short[1] + moved, strict=True))
        return torch.cat([short[0], long[0]]), [slots[i] for i in range(len(sequences))]

    def _padded(self, sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, list[list[int]]]:
        longest = max(map(len, sequences))
        ids = torch.zeros(len(sequences), longest, dtype=torch.long)
        mask = torch.zeros(len(sequences), longest, dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        device = self.model.device
        with FasterProducts():
            out = self.backbone(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
        slots = [list(range(row * longest, row * longest + len(s))) for row, s in enumerate(sequences)]
        return out.last_hidden_state.flatten(0, 1), slots

    @torch.no_grad()
    def _own_logits(self, probes: list[list[int]]) -> torch.Tensor:
        rows = [self.model(input_ids=torch.tensor([p], device=self.model.device), use_cache=False).logits[0] for p in probes]
        return torch.cat(rows).float()

    @torch.no_grad()
    def _agrees(self, probes: list[list[int]], expected: torch.Tensor) -> bool:
        try:
            hidden, slots = self.hidden(probes)
            found = self.head.logits(hidden[[i for s in slots for i in s]]).float()
        except torch.OutOfMemoryError:
            raise  # says nothing about the architecture
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
            return False  # an architecture that cannot be fed this way says so in many ways
        if found.shape != expected.shape:
            return False
        bound = TOLERANCE[self.head.weight.dtype] * expected.abs().max().item()
        return bool((found - expected).abs().max() <= bound)

    @torch.no_grad()
    def _keeps_apart(self, probes: list[list[int]]) -> bool:
        """Whether a packed row, which `probes` have been through, is right in ways that their logits may not show. Sets
        `reach`."""
        config = self.model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ())
        hidden, slots, windows = self._packed(probes)
        if not kinds <= BLOCKS_OF_ATTENTION or len(windows) < config.num_hidden_layers:
            return False
        chunk = getattr(config, "attention_chunk_size", None) if "chunked_attention" in kinds else None
        named = {window for window in (getattr(config, "sliding_window", None), chunk) if window}
        self.reach = min(named - set(windows), default=None)
        other, _, _ = self._packed([[*PREFIX, 6, 2, 4], *probes[1:]])
        rows = slots[1][len(PREFIX) :]  # of the second tail, which lies behind the first
        return bool((other[rows] - hidden[rows]).float().norm() <= APART * hidden[rows].float().norm())


def turning_length(model: PreTrainedModel) -> int | None:
    """Tokens beyond which a text is rotated by other factors (the longrope of Phi), from its first token on: what
    transformers chooses for a whole pass, by its longest sequence."""
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    entries = [rope, *(entry for entry in rope.values() if isinstance(entry, dict))]
    return next((entry["original_max_position_embeddings"] for entry in entries if entry.get("rope_type") == "longrope"), None)
