"""The rows of a score store as a torch data set, for the trainers of others: token ids with weights and reference
log-probabilities.

Shapes: L tokens of a row, prompt and answer; B rows of a batch, T tokens of its longest row. A row is a dictionary of

    input_ids        [L] int64
    labels           [L] int64     the token itself where it is pushed (has a weight), else -100
    loss_weights     [L] float32   0 at all other tokens
    reference_logps  [L] float32   log-probability under the scored model, nats; 0 at all other tokens

The value at i speaks of token i, which the logits at i - 1 predict. One verified pass is made when the set is opened;
after that a part is read, verified again, when a row of it is asked for, and the last few are kept in memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike, fspath
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from shared.calls import configured
from shared.console import say
from shared.data.datasets import DataOptions
from shared.data.layout import LayoutOptions, as_scored
from shared.errors import ConfigError, DataError
from shared.lm.models import embedding_rows, load_laid_out, locate
from shared.secret import without_secrets as shown
from shared.store.auto_keep import settled
from shared.store.scores import Store, open_store
from shared.weighting.selection import Keep, Selection, SoftMode, TokenMode
from tu_train.corpus import rows_and_examples
from tu_train.data.batches import Item, columns_to_read, item_of_row, shuffled
from tu_train.data.sources import open_fitting, read_forget
from tu_train.data.unscored import RowsInParts, Unscored
from tu_train.gather import fingerprints

IGNORED = -100
"""label of a token that no loss sees, as in torch and transformers"""
PARTS = 8
"""of a store that are kept in memory; each holds some 65 thousand tokens"""
Batch = dict[str, Any]
Place = str | PathLike[str]


@dataclass(frozen=True, kw_only=True)
class _DataRows(DataOptions, LayoutOptions):
    """Data without scores. How rows are read and laid out."""


class WeightedDataset(Dataset[dict[str, Tensor]]):
    """Map-style: `len()` is the number of rows that have a weight, `[i]` one of them (see the top of this file).

    `WeightedDataset("scores", keep=0.3)` holds the forget rows of a score store, `WeightedDataset.of_data(...)` rows
    that no store is needed for, such as those that must stay.
    """

    def __init__(
        self, scores: Place, *, model: Place | None = None, tokens: TokenMode = "hard", keep: Keep | None = None, top: int | None = None,
        threshold: float | None = None, soft: SoftMode | None = None, temperature: float | None = None, whole_words: bool | None = None,
        seed: int = 0, given: Mapping[str, Iterable[int]] | None = None, parts: int = PARTS,
    ):  # fmt: skip
        """`scores`: folder or URL of a store, or what `tu_score.open_scores` gave. `model`: the one that is trained;
        then a store of another model, tokenizer or template is refused. The options of tokens are those of `tu-train
        run`; `given`, for tokens="given": example id -> positions, 0 to L - 1. `parts`: how many are kept in memory.

        Raises ConfigError for options that do not go together, or where no token has a weight; StoreError for a store
        that is damaged, or that does not fit the model.
        """
        named = {"tokens": tokens, "keep": keep, "top": top, "threshold": threshold, "soft": soft, "temperature": temperature,
                 "whole_words": whole_words, "seed": seed}  # fmt: skip
        asked = configured(Selection, None, named, call="WeightedDataset")
        if (asked.tokens == "given") != (given is not None):
            raise ConfigError("WeightedDataset: tokens='given' and given={example id: positions} go together; give both or neither")
        name = fspath(scores)
        store, rows = (open_store(name), None) if model is None else _fitting(name, fspath(model))
        settlement = settled(asked, store)
        if settlement.found is not None:
            say(settlement.found)
        self._open(store, settlement.selection, shown(name), given=given, rows=rows, parts=parts)

    @classmethod
    def of_data(cls, data: str, *, model: Place, like: WeightedDataset | None = None, **reading: Any) -> WeightedDataset:
        """Rows of a data spec as the model's tokenizer has them: every token of the answer with weight 1, reference 0.
        `like`: laid out as the rows of that store were; `reading`: question_key, limit, template, ...
        (docs/configuration.md, the settings of data and layout). All rows are in memory.

        Raises ConfigError, DataError or ModelError for what cannot be read.
        """
        options = configured(_DataRows, None, reading, call="WeightedDataset.of_data")
        store = None if like is None else like.source
        layout = as_scored(options, store.manifest["options"]) if isinstance(store, Store) else options
        folder = locate(fspath(model))
        rows, examples = rows_and_examples(options, fspath(data), folder, load_laid_out(fspath(model), folder, layout))
        kept = examples if options.limit is None else examples[: options.limit]
        made = cls.__new__(cls)
        made._open(Unscored(rows, kept), Selection(tokens="all"), shown(fspath(data)), rows=embedding_rows(folder))
        return made

    def _open(
        self, source: RowsInParts, selection: Selection, where: str, *, given: Mapping[str, Iterable[int]] | None = None,
        rows: int | None = None, parts: int = PARTS,
    ) -> None:  # fmt: skip
        """One verified pass over all rows, in which those that have a weight are noted."""
        if parts < 1:
            raise ConfigError(f"WeightedDataset: parts is {parts}, expected at least 1")
        positions = None if given is None else {name: set(map(int, at)) for name, at in given.items()}
        self.source, self._parts = source, parts
        self._make = partial(item_of_row, selection=selection, where=where, given=positions, rows=rows)
        self._held: OrderedDict[int, list[Item]] = OrderedDict()
        self._starts = np.cumsum([0, *(part["rows"] for part in source.manifest["parts"])])
        weighted: list[bool] = []

        def noted(row: Mapping[str, Any]) -> Item:
            item = self._make(row)
            weighted.append(bool(item.positions))
            return item

        read_forget(source, noted, selection=selection, where=where)
        self._rows = np.flatnonzero(weighted)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Raises IndexError beyond the last row, StoreError where the part it stands in is damaged."""
        return row_of_item(self._item(index))

    def name(self, index: int) -> str:
        """The example id of a row. Raises as `[index]` does."""
        return self._item(index).name

    def order(self, *, seed: int = 0, epoch: int = 0) -> list[int]:
        """All indices in the order in which `tu-train run` reads the rows in this epoch: parts in a random order, and
        rows in a random order within each, so that a pass over a large store reads each part once. For
        `DataLoader(..., sampler=...)`."""
        known = np.full(self._starts[-1], -1)
        known[self._rows] = np.arange(len(self._rows))
        found: list[int] = []
        for part in shuffled(len(self._starts) - 1, seed, epoch):
            first, last = self._starts[part], self._starts[part + 1]
            found += known[first + np.asarray(shuffled(int(last - first), seed, epoch, int(part)), dtype=int)].tolist()
        return [index for index in found if index >= 0]

    def _item(self, index: int) -> Item:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        row = self._rows[index]
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._part(part)[row - self._starts[part]]

    def _part(self, part: int) -> list[Item]:
        """Verified as it is read; the parts that were asked for last are kept."""
        if part not in self._held:
            while len(self._held) >= self._parts:
                self._held.popitem(last=False)
            self._held[part] = [self._make(row) for row in self.source.part(part, columns_to_read(self.source))]
        self._held.move_to_end(part)
        return self._held[part]

    def __getstate__(self) -> dict[str, Any]:
        """A worker of a DataLoader reads its own parts."""
        return {**self.__dict__, "_held": OrderedDict()}


def _fitting(scores: str, model: str) -> tuple[Store, int | None]:
    """A store that this model can be trained with, and the rows of the model's embedding."""
    folder = locate(model)
    recorded = open_store(scores).manifest["options"]
    names = fingerprints(folder, load_laid_out(model, folder, as_scored(LayoutOptions(), recorded)))
    return open_fitting(scores, names, model=model, allow_other_model=False), embedding_rows(folder)


class Pairs(Dataset[dict[str, dict[str, Tensor]]]):
    """A forget row and a retain row beside it, as many pairs as there are forget rows: `{"forget": row, "retain":
    row}`. Retain rows are taken in order, from the first again where they are fewer."""

    def __init__(self, forget: Dataset[dict[str, Tensor]], retain: Dataset[dict[str, Tensor]]):
        """Both map-style. Raises DataError where there are no retain rows."""
        self.forget, self.retain = forget, retain
        if not len(retain):  # type: ignore[arg-type]
            raise DataError("Pairs: no retain rows; give data with rows, or train on the forget rows alone")

    def __len__(self) -> int:
        return len(self.forget)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, dict[str, Tensor]]:
        """Raises IndexError beyond the last forget row."""
        at = index if index >= 0 else index + len(self)
        return {"forget": self.forget[index], "retain": self.retain[at % len(self.retain)]}  # type: ignore[arg-type]


def row_of_item(item: Item) -> dict[str, Tensor]:
    """[L] each, see the top of this file."""
    ids = torch.tensor(item.ids, dtype=torch.long)
    at = torch.tensor(item.positions, dtype=torch.long)
    weights = torch.zeros(len(ids)).index_copy(0, at, torch.from_numpy(item.weights))
    reference = torch.zeros(len(ids))
    if item.ref_logp is not None:
        reference = reference.index_copy(0, at, torch.from_numpy(item.ref_logp))
    labels = torch.where(weights > 0, ids, IGNORED)
    return {"input_ids": ids, "labels": labels, "loss_weights": weights, "reference_logps": reference}


PADDING = {"labels": IGNORED, "loss_weights": 0.0, "reference_logps": 0.0}
TYPES = {"input_ids": torch.long, "labels": torch.long, "loss_weights": torch.float32, "reference_logps": torch.float32}


def collate(rows: Sequence[Mapping[str, Any]], pad_id: int = 0) -> Batch:
    """Rows of a WeightedDataset (tensors, or lists of numbers) as one batch, padded on the right: `input_ids` [B, T]
    with `pad_id`, `attention_mask` [B, T] int64, 0 at padding, `labels` with -100, `loss_weights` and `reference_logps`
    with 0. Rows of Pairs: a batch for each side, under its name. Other entries of a row are left out.

    Raises DataError for no rows, and for rows that lack an entry or whose entries are of unequal length.
    """
    if not rows:
        raise DataError("collate: no rows; a batch has at least one")
    if "input_ids" not in rows[0] and all(isinstance(side, Mapping) for side in rows[0].values()):
        return {name: collate([row[name] for row in rows], pad_id) for name in rows[0]}
    for number, row in enumerate(rows):
        lengths = {name: len(row[name]) if name in row else None for name in TYPES}
        if len(set(lengths.values())) > 1:
            raise DataError(f"collate: row {number} has entries of the lengths {lengths}, expected one length for all")
    batch = {name: _padded([row[name] for row in rows], PADDING.get(name, pad_id), kind) for name, kind in TYPES.items()}
    sizes = torch.tensor([len(row["input_ids"]) for row in rows])
    mask = torch.arange(batch["input_ids"].shape[1]) < sizes[:, None]
    return {"input_ids": batch["input_ids"], "attention_mask": mask.long(), **batch}


def _padded(values: Iterable[Any], pad: float, kind: torch.dtype) -> Tensor:
    """[B, T]"""
    tensors: Iterator[Tensor] = (torch.as_tensor(value, dtype=kind) for value in values)
    return torch.nn.utils.rnn.pad_sequence(list(tensors), batch_first=True, padding_value=pad)
