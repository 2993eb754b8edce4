"""Settings of a run with several forget corpora: each is one value for all of them, or a list with one for each.

    scores = ["bio-scores", "cyber-scores"]
    alpha = [1200, 600]
    [options]
    steering = [6.5, 7.0]

From them come as many configurations as there are corpora, each with single values: what gathers rows and makes losses
knows nothing of lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from shared.errors import ConfigError

FIELDS = ("retain", "retain_scores", "forget_data", "gamma", "alpha")
"""settings that may have a value for each corpus, beside `scores` (or `forget`) and the method's options"""
SHARED = ("layer",)
"""options that all corpora share: they say which parameters train"""


def one_each(config: Any) -> tuple[Any, ...]:
    """A configuration for each forget corpus, in their order; of a run with one corpus it is the configuration itself.

    A direction is drawn from the option `seed`: where that is one number, each corpus after the first takes the next,
    so that no two have the same direction. Raises ConfigError for a list that has not one value a corpus.
    """
    name = "scores" if config.scores is not None else "forget"
    named = getattr(config, name)
    sources = _listed(named)
    _check_lengths(config, len(sources), name)
    if not isinstance(named, tuple):
        held = (*(getattr(config, name) for name in FIELDS), *config.options.values())
        return (_of(config, 0, {name: named}) if any(isinstance(value, tuple) for value in held) else config,)
    return tuple(_of(config, number, {name: source}) for number, source in enumerate(sources))


def _of(config: Any, number: int, source: Mapping[str, str]) -> Any:
    chosen = {name: _value(getattr(config, name), number) for name in FIELDS}
    options = {name: _value(value, number) for name, value in config.options.items()}
    if isinstance(seed := config.options.get("seed"), (int, float)):
        options["seed"] = seed + number
    return replace(config, options=options, **source, **chosen)


def _check_lengths(config: Any, corpora: int, source: str) -> None:
    given: Mapping[str, Any] = {name: getattr(config, name) for name in FIELDS}
    given = {**given, **{f"--option {name}": value for name, value in config.options.items()}}
    for name, value in given.items():
        if not isinstance(value, tuple):
            continue
        if name.removeprefix("--option ") in SHARED:
            raise ConfigError(f"{name}: got {len(value)} values, expected one: it says what trains, which all forget corpora share")
        if len(value) != corpora:
            raise ConfigError(f"{name}: got {len(value)} values for {corpora} forget corpora (--{source}); give one value for all of them, "
                              "or one for each")  # fmt: skip


def _value(value: Any, number: int) -> Any:
    return value[number] if isinstance(value, tuple) else value


def _listed(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
