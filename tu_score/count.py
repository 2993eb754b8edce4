"""What a run holds, counted by tokenising every row once: whatever a row is refused for is said before any work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.config import as_dict
from shared.console import number_of, readable_bytes, say
from shared.data.datasets import Row
from shared.data.examples import Example
from shared.errors import DataError, ModelError
from shared.lm.models import context_length, load_tokenizer, locate, require_rows, vocabulary_fingerprint
from tu_score.source import Cut, Source
from tu_score.spans import Masking, plan_masking

CHECKED = 32 * 2**20
"""bytes of text that a run checks before it begins, a minute or so; of more `--dry-run` does"""


@dataclass
class Counts:
    """One entry a part."""

    examples: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    variants: list[int] = field(default_factory=list)
    work: list[int] = field(default_factory=list)
    """tokens of all requests before sharing, the base model's aside"""


@dataclass(frozen=True)
class BaseLimits:
    """What the base model can read."""

    name: str
    folder: Path
    context: int | None

    @classmethod
    def of(cls, name: str, tokenizer: Any) -> BaseLimits:
        """Raises ModelError for a base model of another vocabulary."""
        folder = locate(name)
        if vocabulary_fingerprint(load_tokenizer(folder)) != vocabulary_fingerprint(tokenizer):
            raise ModelError(
                f"--base-model {name}: its tokenizer differs from the model's, so their tokens cannot be compared; "
                "use the checkpoint before fine-tuning"
            )
        return cls(name, folder.absolute(), context_length(folder))

    def check(self, examples: Sequence[Example]) -> None:
        """Raises ModelError for the first example that it cannot read."""
        require_rows(f"--base-model {self.name}", self.folder, ((e.id, e.input_ids) for e in examples))
        longest = max((len(e.input_ids) for e in examples), default=0)
        if self.context is not None and longest > self.context:
            raise ModelError(
                f"--base-model {self.name}: its context holds {self.context} tokens, the longest example has {longest}; "
                "use another base model"
            )


def count(source: Source, cut: Cut, base: BaseLimits | None, wanted: Sequence[int] | None = None) -> Counts:
    """Of all parts, or some. Raises DataError, ConfigError and ModelError for all that the run would be refused for
    later, naming the row."""
    config, context, found, told = source.config, source.context, Counts(), Counter()
    for _, rows in source.parts(cut, range(len(cut.ranges)) if wanted is None else wanted):
        examples = source.examples(rows)
        if base is not None:
            base.check(examples)
        masking = plan_masking(config, source.tokenizer, examples, context)
        found.examples.append(len(examples))
        found.tokens.append(sum(len(e.input_ids) for e in examples))
        found.variants.append(masking.variants)
        found.work.append(sum(map(masking.work, examples)))
        told.update(noticed(source, rows, examples, masking))
    say_noticed(as_dict(config), told, sum(found.examples), context)
    if found.examples:  # a shard may have no part
        require_some(sum(found.examples))
    return found


def noticed(source: Source, rows: Sequence[Row], examples: Sequence[Example], masking: Masking) -> dict[str, int]:
    """What was left out of a part or cut, and how often, where it was at all."""
    config = source.config
    found = {
        "rows_left_out": len({row.id for row in rows}) - len({example.row.id for example in examples}),
        "full_examples": sum(len(e.input_ids) == source.context for e in examples) if config.long == "truncate" else 0,
        "examples_of_drawn_spans": masking.cut,
        "examples_without_spans": sum(not spans for spans in masking.spans.values()) if config.spans != "none" else 0,
    }
    return {name: count for name, count in found.items() if count}


def say_noticed(options: Mapping[str, Any], told: Mapping[str, int], examples: int, context: int | None = None) -> None:
    """A line for each of these; `options`: the settings of the run, `examples`: of how many, `context`: what the model
    reads, where that is known."""
    limit = f"the model's context{f' of {context} tokens' if context is not None else ''}"
    if skipped := told.get("rows_left_out"):
        say(f"--long skip: {number_of(skipped, 'row')} left out, longer than {limit}")
    if full := told.get("full_examples"):
        say(f"--long truncate: {full} examples fill {limit}, cut there if they were longer")
    if drawn := told.get("examples_of_drawn_spans"):
        say(f"--spans {options['spans']}: {drawn} of {examples} examples have more than {options['max_spans']} spans; that many were drawn "
            f"in each (seed {options['seed']}; --set max_spans=0 masks all)")  # fmt: skip
    if empty := told.get("examples_without_spans"):
        say(f"--spans {options['spans']}: {empty} of {examples} examples have no span that a target follows; their delta is null")


def say_all_noticed(options: Mapping[str, Any], entries: Iterable[Mapping[str, Any]], context: int | None = None) -> None:
    """The same of finished parts, as they are recorded."""
    told, examples = Counter(), 0
    for entry in entries:
        told.update(entry.get("noticed", {}))
        examples += entry["rows"]
    say_noticed(options, told, examples, context)


def require_some(examples: int) -> None:
    """Raises DataError where there is none."""
    if not examples:
        raise DataError("no example is left: every row was skipped as longer than the model's context (see --long)")


def counted(source: Source, cut: Cut, base: BaseLimits | None) -> Counts | None:
    """The same for data of which that takes little time; of more None, and a line says so."""
    if cut.bytes <= CHECKED:
        return count(source, cut, base)
    say(f"{readable_bytes(cut.bytes)} of text: rows are checked as they are scored, --dry-run checks them all before")
    return None
