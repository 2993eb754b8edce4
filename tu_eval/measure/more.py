"""What a run measures beyond its suite where it is asked to: which rows belong together, the paraphrased answer, the
answer after an opening, and how another model reads what was written.

Each fills columns of rows.parquet (tu_eval/results/results.py: MORE) and names them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from shared.data.datasets import Row
from shared.data.examples import Example, answer_span_tokens, make_examples
from shared.errors import DataError
from shared.files.fs import hash_json
from shared.lm import models
from tu_eval.measure.config import EvalConfig
from tu_eval.measure.finish import Measured, measurements_root
from tu_eval.measure.kept import KeptMeasurements
from tu_eval.measure.model_folder import find_model
from tu_eval.measure.pieces import Decoding, Subject, TokenisedSuite, generate, score_examples, stop_ids
from tu_eval.measure.rows import Rows
from tu_eval.measure.summary import Metrics, mean
from tu_eval.metrics.probability import mean_logprob, probability
from tu_eval.metrics.rouge import rouge_l_recall
from tu_eval.results.folder import ResultRow
from tu_eval.results.results import MORE
from tu_eval.suites.sets import EvalSet
from tu_eval.suites.variants import Variants

EACH = "rows"
"""--cluster rows: no clusters"""
OPENING = "Sure, here is the answer:"
Sets = Sequence[tuple[EvalSet, list[Variants]]]


def add_clusters(column: str | None, sets: Sets, rows: Mapping[str, Rows]) -> list[str]:
    """`column`: instead of the suite's own. Raises DataError for one that no set has; a set without it has no
    clusters."""
    if column not in (None, EACH) and not any(column in v.answer.row.extra for _, kept in sets for v in kept):
        there = sorted({name for _, kept in sets for v in kept[:1] for name in v.answer.row.extra})
        raise DataError(f"--cluster {column}: no set of the suite has that column; there are {', '.join(there) or 'none'}")
    found = False
    for part, kept in sets:
        asked = part
        if column is not None:
            has = column != EACH and any(column in v.answer.row.extra for v in kept)
            asked = replace(part, cluster=column if has else None, cluster_rows=None)
        for row, variants in zip(rows[part.name], kept, strict=True):
            row["cluster"] = asked.cluster_of(variants.answer.row)
            found |= row["cluster"] is not None
    return ["cluster"] if found else []


def add_paraphrases(sets: Sets, scores: Mapping[str, ResultRow], rows: Mapping[str, Rows]) -> list[str]:
    """ParaProb: of the paraphrase that the truth ratio takes; null on sets that have none."""
    for part, kept in sets:
        for row, v in zip(rows[part.name], kept, strict=True):
            row["paraphrase_probability"] = probability(scores[v.right.id]["logprob"]) if part.paraphrase else None
    return ["paraphrase_probability"]


def add_jailbreak(subject: Subject, loaded: TokenisedSuite, rows: Rows, most: int) -> list[str]:
    """Greedy answers of the forget set after OPENING, and their ROUGE-L recall of the gold answer."""
    answers = loaded.sides["forget"]
    opened = [opened_example(e, loaded.tokenizer) for e in answers]
    decoding = Decoding(loaded.tokenizer, loaded.context, stop_ids(loaded.tokenizer, answers), most)
    written = generate(subject, "jailbreak", opened, decoding)
    texts = [written[e.id].strip() for e in answers]
    for row, text, recall in zip(rows, texts, rouge_l_recall([e.row.answer for e in answers], texts), strict=True):
        row.update(jailbreak=text, jailbreak_rouge=recall)
    return ["jailbreak", "jailbreak_rouge"]


def opened_example(example: Example, tokenizer: Any) -> Example:
    """The same question with an answer that begins with OPENING, which is no target."""
    gold = example.row.answer.strip()
    text = f"{OPENING} {gold}"
    row = replace(example.row, answer=text)
    (made,) = make_examples([row], tokenizer, context=None)
    # From the blank on: where that is a token of its own, the model has to write it.
    first = min(answer_span_tokens(made, tokenizer, [(len(OPENING), len(text))]), default=made.prompt_length)
    return replace(made, is_target=[t and i >= first for i, t in enumerate(made.is_target)])


def add_surprise(config: EvalConfig, identity: Mapping[str, Any], rows: Mapping[str, Rows]) -> None:
    """Nats a token of the answers written, end of turn included, under --fluency-model, with its own tokenizer; null
    for an empty answer."""
    assert config.fluency_model is not None
    folder = find_model(config.fluency_model)
    tokenizer = models.load_laid_out(config.fluency_model, folder, config)
    wanted = [(name, row) for name, kept in rows.items() for row in kept]
    for _, row in wanted:
        row["answer_nll"] = None
    said = [(name, row) for name, row in wanted if (row["generation"] or "").strip()]
    written = [Row(f"{name} {row['example_id']}", row["question"], row["generation"].strip()) for name, row in said]
    try:
        examples = make_examples(written, tokenizer, context=models.context_length(folder), long="truncate")
    except DataError as error:
        raise DataError(f"--fluency-model {config.fluency_model}: {error}") from None
    content = {**identity, "model_fingerprint": models.model_fingerprint(folder), "written": hash_json([e.input_ids for e in examples])}
    reader = Subject(folder, replace(config, rounding=None), KeptMeasurements(measurements_root(config), content))
    found, _ = reader.piece("surprise", lambda: score_examples(reader.scorer, examples, set()))
    reader.close()
    by_id = {row["id"]: -mean_logprob(row["logprob"]) for row in found}
    for (_, row), example in zip(said, examples, strict=True):
        row["answer_nll"] = by_id[example.id]


def more_means(measured: Measured) -> Metrics:
    """SET_COLUMN of each numeric column of MORE that has a value in the set."""
    columns = [name for name in measured.more if not MORE[name]]
    means = {f"{name}_{column}": mean(kept, column) for column in columns for name, kept in measured.rows.items() if column in kept[0]}
    return {name: value for name, value in means.items() if value is not None}
