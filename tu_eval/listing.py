"""The text of `tu-eval list`: suites, metrics and attacks, and where they come from."""

from __future__ import annotations

from collections.abc import Iterator

from shared.better import OVERALL
from shared.console import print_table
from shared.extensions import first_sentence, listed
from tu_eval.attacks.config import ATTACK, NAMES
from tu_eval.measure.own import METRIC
from tu_eval.results.columns import KINDS, LONE, MEANING
from tu_eval.suites.suites import KNOWN, SUITE, TOFU_FORGET

COLUMNS = ("kind", "name", "meaning", "from")
SUITES = {
    **{f"tofu:{name}": f"TOFU: {int(name[-2:])} % of its authors are to be forgotten" for name in TOFU_FORGET},
    "muse:news": "MUSE: news articles", "muse:books": "MUSE: books",
    "lume": "LUME: stories, invented and real biographies; continued, and asked about",
    "atlas": "a generated world whose facts are marked",
}  # fmt: skip
ATTACKS = {
    "paraphrase": "the same question in other words, languages and frames", "sample": "many answers drawn at a temperature",
    "quantise": "weights rounded to a few bits", "nf4": "weights rounded to the 16 levels of NF4",
    "relearn": "a few steps of fine-tuning on some of the forgotten rows",
}  # fmt: skip
assert set(SUITES) == set(KNOWN) and set(ATTACKS) == set(NAMES)


def rows() -> Iterator[tuple[str, ...]]:
    """One tuple of COLUMNS each: those that are here, then those of installed packages."""
    metrics = {name: first_sentence(MEANING[heading]) for name, heading in {**KINDS, **OVERALL, **LONE}.items()}
    yield from (("suite", *row) for row in listed(SUITE, SUITES, lambda suite: f"sets {', '.join(s.name for s in suite.sets)}"))
    yield from (("metric", *row) for row in listed(METRIC, metrics, lambda metric: metric.__doc__))
    yield from (("attack", *row) for row in listed(ATTACK, ATTACKS, lambda attack: attack.__doc__))


def print_list() -> None:
    print_table(COLUMNS, rows())
