"""--keep auto: the threshold on importance that a store's own probabilities call best."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from shared.errors import ConfigError
from shared.secret import without_secrets as shown
from shared.store.parts import flat
from shared.store.scores import Store
from shared.weighting.importance import describe, is_probability, was_learned
from shared.weighting.selection import Selection
from shared.weighting.weights import Expected


@dataclass(frozen=True)
class Settled:
    """A selection that weights can be made of."""

    selection: Selection
    found: str | None = None
    """what keep=auto came to, as a line for the user"""


def settled(selection: Selection, store: Store) -> Settled:
    """With a threshold in place of keep=auto, from one read of the importance column; any other selection as it is.

    Where nobody said how many tokens, auto is meant if the store's importance was learned. Every answer keeps a word:
    what its owner wants forgotten must not be left alone since other answers hold more.

    Raises ConfigError where the store's importance is no probability.
    """
    recipe, where = store.manifest.get("recipe"), shown(str(store.folder))
    if selection.keep != "auto" and not (selection.left_open and was_learned(recipe)):
        return Settled(selection)
    if recipe is None or not is_probability(recipe):
        by = "there is none" if recipe is None else f"that of {where} is {describe(recipe)}"
        raise ConfigError(f"--keep auto: needs an importance that is a probability, {by}; "
                          f"tu-score recipe {where} --recipe uncertainty=learned makes one, or give a share")  # fmt: skip
    expected = Expected()
    for index in range(len(store.manifest["parts"])):
        values, _ = flat(store.table(index, ["importance"]), "importance")
        expected.add(values[~np.isnan(values)])
    if not expected.share():
        raise ConfigError(f"--keep auto: no token of {where} has any importance; another recipe (tu-score recipe) may give some")
    threshold = expected.threshold()
    found = f"--keep auto: tokens of {where} with importance {threshold:g} or more, {expected.share():.1%} of them"
    return Settled(replace(selection, keep=None, threshold=threshold, at_least_a_word=True), found)
