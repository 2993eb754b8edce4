"""What a run of a study is known by: a hash of everything that it is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from pathlib import Path
from typing import Any

from shared.config import as_dict
from shared.data.datasets import Keys, Row, iter_rows
from shared.data.placed import system_of
from shared.data.secrets import COLUMN
from shared.errors import ConfigError
from shared.extensions import identity
from shared.files.fs import hash_file, hash_json, hash_json_list
from shared.lm.models import locate, model_fingerprint
from shared.secret import lacks_secrets, without_secrets, without_secrets_in
from shared.settings import harmless
from shared.store.scores import open_store
from tu_train.config import NEWER, UnlearnConfig
from tu_train.methods.table import METHOD, find_method

EARLIER = frozenset({"out", "resume", "save_every", "keep_checkpoints", "exact"})
"""settings that earlier versions left out of the hash, or did not have"""
NAMES = ("model", "scores", "retain", "retain_scores", "forget_data", "refusals", "blocklist", "secrets", "forget")
"""fields whose content counts, not their text"""
LATER = ("scores", "blocklist", "secrets", "forget")
"""those that earlier versions did not have, and that stand in the hash only where they are given"""
HASH_LENGTH = 10


def content_of(config: UnlearnConfig, known: dict[tuple[str, ...], str]) -> tuple[str, str]:
    """Hash of what the run is made from, and what it was in earlier versions. `known` keeps the hashes of what several
    runs share."""
    config = config.filled()
    reading = (*map(str, vars(config.keys).values()), str(config.limit), config.given_key, str(config.alternate_key))
    hashes: dict[str, Callable[[str], str]] = {
        "model": lambda name: model_fingerprint(locate(name)),
        "scores": lambda name: open_store(name).sha256,
        "retain": lambda name: _hash_rows(name, config),
        "retain_scores": lambda name: open_store(name).sha256,
        "forget_data": lambda name: _hash_rows(name, config),
        "forget": lambda name: _hash_rows(name, config),
        "refusals": lambda name: _hash_lines(name, "refusals", "one refusal a line"),
        "blocklist": lambda name: _hash_lines(name, "blocklist", "one word or phrase a line"),
        "secrets": lambda name: name if name.startswith(COLUMN) else _hash_lines(name, "secrets", "one secret a line"),
    }

    def hash_of(field: str, name: str | None) -> str | None:
        key = (field, str(name), *reading)
        if name is not None and key not in known:
            known[key] = name if (field, name) == ("retain", "none") else hashes[field](name)
        return known.get(key)

    parts: dict[str, Any] = {}
    for field in NAMES:
        name = getattr(config, field)
        if name is None and field in LATER:
            continue
        parts[field] = [hash_of(field, each) for each in name] if isinstance(name, tuple) else hash_of(field, name)
    if columns := columns_read(config):
        found = []
        for corpus in config.corpora:
            key = ("columns", str(corpus.forget_data or corpus.scores or corpus.forget), *columns, *reading)
            if key not in known:
                known[key] = _hash_columns(corpus, columns)
            found.append(known[key])
        parts["columns"] = found if len(found) > 1 else found[0]
    if (code := identity(METHOD, config.method)) is not None:
        parts["method_code"] = code

    def hashed(left_out: Set[str]) -> str:
        settings = {k: v for k, v in as_dict(config).items() if k not in left_out and k not in NAMES and NEWER.get(k) != v}
        return hash_json({"settings": without_secrets_in(settings), **parts})[:HASH_LENGTH]

    return hashed(harmless(config)), hashed(EARLIER)


def _hash_rows(spec: str, config: UnlearnConfig) -> str:
    """Of all that a run may read of them."""
    wanted = (config.given_key, config.alternate_key)
    rows = iter_rows(spec, keys=config.keys, limit=config.limit)
    return hash_json_list(
        [r.id, r.question, r.answer, *r.before, *_own_system(r), *(repr(r.extra.get(key)) for key in wanted if key)] for r in rows
    )


def _own_system(row: Row) -> list[list[str]]:
    """The system prompt of its column, where it has one: earlier versions read no such column."""
    system = system_of(row)
    return [] if system is None or ("system", system) in row.before else [["system", system]]


def columns_read(config: UnlearnConfig) -> list[str]:
    """Columns of the scored data that the run reads, beyond those that the hash of forget_data holds already."""
    read = {
        config.given_key if config.tokens == "given" and config.blocklist is None and config.secrets is None else None,
        config.alternate_key if "alternate" in find_method(config.method).needs and config.alternates == "column" else None,
        config.secrets.removeprefix(COLUMN) if config.secrets is not None and config.secrets.startswith(COLUMN) else None,
        config.eval_key if config.eval_every else None,
        config.paraphrase_key if config.eval_every else None,
    }
    held = {config.given_key, config.alternate_key} if config.forget_data is not None or config.forget is not None else set()
    return sorted(name for name in read - held if name is not None)


def _hash_columns(config: UnlearnConfig, columns: list[str]) -> str:
    """Of what stands in them now: the store's own fingerprint is that of its texts alone. `config`: of one forget
    corpus."""
    if config.forget is not None:
        return _hash_of_columns(iter_rows(str(config.forget), keys=config.keys, limit=config.limit), columns)
    where = str(config.scores)
    options = open_store(where).manifest["options"]
    spec = str(config.forget_data or options["data"])
    if lacks_secrets(spec):
        raise ConfigError(f"{without_secrets(where)}: scored from {spec}, whose credentials are not kept; name the data with forget_data")
    return _hash_of_columns(iter_rows(spec, keys=Keys.recorded(options), limit=options.get("limit")), columns)


def _hash_of_columns(rows: Iterable[Row], columns: list[str]) -> str:
    return hash_json_list([r.id, *(repr(r.extra.get(name)) for name in columns)] for r in rows)


def _hash_lines(name: str, field: str, expected: str) -> str:
    if not Path(name).is_file():
        raise ConfigError(f"{field} {name}: no such file; expected {expected}")
    return hash_file(Path(name))
