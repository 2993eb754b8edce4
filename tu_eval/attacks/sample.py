"""Asking many times: the probability that at least one of k answers, drawn at a temperature, holds what was to be
forgotten.

One greedy answer hides what the second draw gives away. From n answers drawn, c of which hold the fact, the unbiased
estimate is that of pass@k (Chen et al. 2021, arXiv 2107.03374), averaged over rows:

    1 - C(n - c, k) / C(n, k)

Rows that mark their fact: `fact_in_k`, an answer is a hit when it has the words of every marked span, a word that is
marked in part as a whole, so that the gold answer itself is always a hit. Rows that mark none, or no word:
`answer_in_k`, a hit when its ROUGE-L recall of the whole gold answer is at least a threshold; an answer that gives the
fact in other words is no hit, so that 0 there says nothing of the fact, and `best_recall`, the mean over rows of the
highest recall of any draw, stands beside it. The k-th draw depends on the seed, the row's id and k alone
(drawing.py). Cost: n answers a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shared.console import progress, say
from shared.data.datasets import Row
from shared.data.words import TERM, terms
from shared.data.words import holds as in_a_row
from tu_eval.attacks.probing import Numbers, Probe
from tu_eval.measure.drawing import ToDraw, draws
from tu_eval.metrics.rouge import rouge_l_recall
from tu_eval.results.folder import ResultRow

if TYPE_CHECKING:
    from shared.engines.torch import TorchEngine


def sample(
    engine: TorchEngine, probes: Sequence[Probe], tokenizer: Any, stop_ids: Sequence[int], *,
    count: int, temperature: float, max_new_tokens: int, context: int | None, threshold: float, facts: bool, seed: int,
) -> list[ResultRow]:  # fmt: skip
    """Rows with all answers drawn, `samples` of them, `hits` among them, `found`, the first hit's text, what was
    `matched`, the highest `recall` of the whole answer, and `cut`: how many had not ended when they had to."""
    prompts = [probe.example.input_ids[: probe.example.prompt_length] for probe in probes]
    rooms = [max_new_tokens if context is None else min(max_new_tokens, context - len(prompt)) for prompt in prompts]
    wanted = [ToDraw(probe.example.id, prompt, room) for probe, prompt, room in zip(probes, prompts, rooms, strict=True)]
    rows: list[ResultRow] = []
    with progress("drawing answers", len(wanted) * count, "answers") as bar:
        made = draws(engine, wanted, count, temperature, stop_ids, seed, bar.advance)
        for probe, own, room in zip(probes, made, rooms, strict=True):
            example = probe.example
            texts = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in own]
            hits = [text for text, hit in zip(texts, holds(example.row, texts, threshold, facts), strict=True) if hit]
            found = {"samples": count, "hits": len(hits), "found": hits[0] if hits else None, "drawn": texts}
            found["matched"] = f"answer (ROUGE-L recall ≥ {threshold:g})" if not _wanted(example.row, facts) else "fact"
            found["recall"] = max(rouge_l_recall([example.row.answer] * count, texts))
            found["cut"] = sum(len(ids) == room for ids in own)
            rows.append({"setting": f"temperature {temperature:g}", "set": "forget", "example_id": example.id, **found})
    if facts and (blind := sum(row["matched"] != "fact" for row in rows)):
        say(f"sample: {blind} of {len(rows)} rows mark no fact that could be looked for; of these the whole answer is, as answer_in_k")
    if cut := sum(row["cut"] for row in rows):
        where = f"{max_new_tokens} tokens (--set max_new_tokens) or the model's context"
        say(f"{cut} of {count * len(rows)} drawn answers had not ended after {where}")
    return rows


def holds(row: Row, texts: Sequence[str], threshold: float, facts: bool) -> list[bool]:
    """For each text, whether it has the fact of the row, or its answer where no fact is marked."""
    if wanted := _wanted(row, facts):
        return [all(in_a_row(found, words) for words in wanted) for found in map(terms, texts)]
    return [recall >= threshold for recall in rouge_l_recall([row.answer] * len(texts), texts)]


def _wanted(row: Row, facts: bool) -> list[list[str]]:
    """Terms of each marked span, words that it cuts into taken whole; spans without a word left out. Empty: no fact to
    look for."""
    spans = row.extra["fact_spans"] if facts else []
    words = [match.span() for match in TERM.finditer(row.answer)] if spans else []
    touched = [[(a, b) for a, b in words if a < end and start < b] for start, end in spans]
    return [terms(row.answer[some[0][0] : some[-1][1]]) for some in touched if some]


def at_least_one(n: int, c: int, k: int) -> float:
    """Unbiased estimate of the probability that one of k draws is a hit, from c hits in n draws; k ≤ n."""
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def summarise(rows: Iterable[Mapping[str, Any]]) -> Numbers:
    """For k = 1, 4, 16, … and the number of draws; rows that mark a fact and rows that mark none each by themselves."""
    rows = list(rows)
    drawn = min(row["samples"] for row in rows)
    counts = sorted({4**power for power in range(16) if 4**power < drawn} | {drawn})
    setting, out = rows[0]["setting"], {}
    for matched in sorted({row["matched"] for row in rows}, reverse=True):
        own = [row for row in rows if row["matched"] == matched]
        kind, _, how = matched.partition(" ")
        for k in counts:
            value = math.fsum(at_least_one(row["samples"], row["hits"], k) for row in own) / len(own)
            out[setting, f"{kind}_in_{k} {how}".strip()] = value
        if kind == "answer":
            out[setting, f"best_recall of {drawn}"] = math.fsum(row["recall"] for row in own) / len(own)
    return out
