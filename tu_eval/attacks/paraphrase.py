"""The same question in other clothes: reworded, after a prefix, with the answer begun, or in a frame of another
language.

Unlearning that only suppresses an answer to the words it was trained on gives it away here. Each prompt is measured by
the probability of the gold answer; `best` is the most probable of a row's prompts, what an attacker who tries them all
gets.

The prompts stand in tu_eval/suites/prompts.py; questions in translation can be given as a column of the data. Cost: a
forward pass over the forget rows for each prompt, the question's beginning shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shared.data.datasets import Row
from shared.data.examples import answer_span_tokens
from tu_eval.attacks.probing import Numbers, Probe, means, measure
from tu_eval.results.folder import ResultRow
from tu_eval.suites.prompts import Prompt, asked

if TYPE_CHECKING:
    from shared.engines.torch import TorchEngine


def probes(rows: Sequence[Row], prompt: Prompt, tokenizer: Any, *, context: int | None, long: str, facts: bool) -> list[Probe]:
    """The rows asked in this way. What the prompt puts into the model's mouth is no target."""
    made = asked(rows, prompt, tokenizer, context=context, long=long, facts=facts)
    return [Probe(example, answer_span_tokens(example, tokenizer, example.row.extra["fact_spans"])) for example in made]


def paraphrase(engine: TorchEngine, probed: Mapping[str, Sequence[Probe]]) -> list[ResultRow]:
    """Rows of each prompt, by its name."""
    return [row for name, made in probed.items() for row in measure(engine, made, name)]


def summarise(rows: Iterable[Mapping[str, Any]]) -> Numbers:
    """Means by prompt, and `best`: the mean over rows of the highest number that any prompt reached."""
    rows = list(rows)
    best: dict[str, ResultRow] = {}
    for row in rows:
        kept = best.setdefault(row["example_id"], {**row, "setting": "best"})
        for column in ("probability", "fact_probability"):
            if row[column] is not None:
                kept[column] = max(row[column], kept[column] if kept[column] is not None else 0.0)
    return {**means(rows), **means(best.values())}
