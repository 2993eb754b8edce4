"""Engine answers -> the columns of the store: log-probability, entropy, and what masking each span takes away.

For target token t and span s that is masked, drop[s, t] = log p(t) − log p(t | s masked), nats, signed. `delta` is the drop of the span
that matters most to t (largest |drop|, the earlier span on a tie), `delta_span` its index, `masked_entropy` the entropy at t when it is
masked, `delta_mean` the mean of drop over the spans that t was read after. Tokens that were read after no span hold null.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shared.engines import Engine, Request, TokenScores
from shared.errors import ModelError
from shared.examples import Example
from shared.importance import Recipe, importance
from tu_score.config import ScoreConfig
from tu_score.spans import plan_spans, read_after


def score_examples(
    examples: Sequence[Example], engine: Engine, config: ScoreConfig, mask_id: int, advance: Callable[[int], None]
) -> list[dict[str, Any]]:
    """One dictionary an example: columns without ids and base signals, [T] arrays with NaN for null."""
    requests, owners = [], []
    for k, example in enumerate(examples):
        spans = plan_spans(example, config)
        requests.append(Request(example.input_ids, list(range(1, len(example.input_ids)))))
        read = [(span, read_after(example, span, config.horizon)) for span in spans]
        requests += [masked_request(example, span, wanted, mask_id) for span, wanted in read if wanted]
        owners.append((k, [(span, wanted) for span, wanted in read if wanted]))
    scores = engine.score(requests, advance)
    _check_finite([examples[k].id for k, read in owners for _ in range(1 + len(read))], scores)
    answers = iter(scores)
    out = []
    for k, read in owners:
        plain = next(answers)
        out.append(columns_of(examples[k], plain, [(span, wanted, next(answers)) for span, wanted in read]))
    return out


def _check_finite(names: list[str], scores: Sequence[TokenScores]) -> None:
    for name, answer in zip(names, scores, strict=True):
        if not (np.isfinite(answer.logprob).all() and np.isfinite(answer.entropy).all()):
            raise ModelError(
                f"{name}: log-probabilities are not finite there; the weights are broken, or --dtype is too narrow (try float32)"
            )


def masked_request(example: Example, span: tuple[int, int], wanted: list[int], mask_id: int) -> Request:
    """The example with every token of the span replaced, cut after the last token that is read."""
    ids = list(example.input_ids[: wanted[-1] + 1])
    ids[span[0] : span[1]] = [mask_id] * (span[1] - span[0])
    return Request(ids, wanted)


def columns_of(example: Example, plain: TokenScores, masked: list[tuple[tuple[int, int], list[int], TokenScores]]) -> dict[str, Any]:
    """[T] columns of one example from its plain answer and its masked variants."""
    n, s = len(example.input_ids), len(masked)
    nan = np.full(n, np.nan, dtype=np.float32)
    logprob, entropy = nan.copy(), nan.copy()
    logprob[1:], entropy[1:] = plain.logprob, plain.entropy
    drop, after = np.full((s, n), np.nan, dtype=np.float32), np.full((s, n), np.nan, dtype=np.float32)
    for k, (_, wanted, scores) in enumerate(masked):
        drop[k, wanted] = logprob[wanted] - scores.logprob
        after[k, wanted] = scores.entropy
    delta, mean, masked_entropy, which = nan.copy(), nan.copy(), nan.copy(), np.full(n, -1)
    read = np.flatnonzero(~np.isnan(drop).all(0)) if s else np.array([], dtype=int)
    if len(read):
        best = np.nanargmax(np.abs(drop[:, read]), axis=0)
        delta[read], masked_entropy[read], which[read] = drop[best, read], after[best, read], best
        mean[read] = np.nanmean(drop[:, read], axis=0)
    return {
        "logprob": logprob, "entropy": entropy, "delta": delta, "delta_mean": mean, "masked_entropy": masked_entropy,
        "delta_span": which, "spans": [{"start": a, "end": b} for (a, b), _, _ in masked],
    }  # fmt: skip


def add_importance(columns: dict[str, Any], example: Example, recipe: Recipe) -> None:
    """Adds `importance`, null off target and everywhere when the recipe lacks a signal."""
    at = example.targets
    signals = {k: columns[k][at] for k in ("logprob", "entropy", "delta", "masked_entropy", "base_logprob", "base_entropy")}
    values = importance(signals, recipe)
    columns["importance"] = np.full(len(example.input_ids), np.nan, dtype=np.float32)
    if values is not None:
        columns["importance"][at] = values


def nullable(values: np.ndarray) -> list:
    """NaN (and −1 in an index column) becomes null: Parquet then says "no value" and not "not a number"."""
    if values.dtype.kind == "f":
        return [None if v != v else v for v in values.tolist()]
    return [None if v < 0 else v for v in values.tolist()]
