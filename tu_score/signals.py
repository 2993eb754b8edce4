"""Engine answers -> the columns of the store: log-probability, entropy, and what masking each span takes away.

For target token t and span s that is masked, drop[s, t] = log p(t) − log p(t | s masked), nats, signed. `delta` is the
drop of the span that matters most to t (largest |drop|, the earlier span on a tie), `delta_span` its index,
`masked_entropy` the entropy at t when it is masked, `delta_mean` the mean of drop over the spans that t was read after.
Tokens that were read after no span hold null. Copy-aware, a span that holds a copy of t is none of the spans of t in
all of these; `span_deltas`, the whole matrix drop, keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from shared.data.examples import Example, Memo, answer_offsets, answer_place, placed_once, token_texts
from shared.data.placed import asked_in
from shared.data.raw_text import EarlierWords
from shared.data.words import columns as word_columns
from shared.engines.interface import Engine, Request, TokenScores
from shared.errors import ModelError
from shared.weighting.importance import importance
from tu_score.config import ScoreConfig
from tu_score.replace import Span
from tu_score.spans import Masking


def score_examples(
    examples: Sequence[Example], engine: Engine, config: ScoreConfig, masking: Masking, advance: Callable[[int], None]
) -> list[dict[str, Any]]:
    """One dictionary an example: columns without ids and base signals, [T] arrays with NaN for null, and optional ones
    where asked for.

    The requests of an example follow one another: they share all that comes before their spans.
    """
    extras = config.topk > 0 or config.temperature is not None
    requests, names = [], []
    reads = [masking.reads(example) for example in examples]
    for example, read in zip(examples, reads, strict=True):
        requests.append(Request(example.input_ids, list(range(1, len(example.input_ids))), extras))
        requests += [masking.replacement.request(example, span, wanted) for span, wanted in read]
        names += [example.id] * (1 + len(read))
    scores = engine.score(requests, advance)
    _check_finite(names, scores)
    answers, out = iter(scores), []
    for example, read in zip(examples, reads, strict=True):
        plain = next(answers)
        columns = _span_columns(example, plain, [(span, wanted, next(answers)) for span, wanted in read], masking)
        out.append({**columns, **_plain_columns(example, plain, config)})
        if not config.keep_spans:
            del out[-1]["span_deltas"]
    return out


def _check_finite(names: list[str], scores: Sequence[TokenScores]) -> None:
    for name, answer in zip(names, scores, strict=True):
        if not (np.isfinite(answer.logprob).all() and np.isfinite(answer.entropy).all()):
            raise ModelError(
                f"{name}: log-probabilities are not finite there; the weights are broken, or --dtype is too narrow (try float32)"
            )


def _plain_columns(example: Example, plain: TokenScores, config: ScoreConfig) -> dict[str, Any]:
    columns: dict[str, Any] = {"logprob": _after_first(plain.logprob), "entropy": _after_first(plain.entropy)}
    if config.temperature is not None:
        assert plain.tempered is not None
        columns["tempered_entropy"] = _after_first(plain.tempered)
    if config.topk:
        assert plain.top_ids is not None and plain.top_logprobs is not None
        for name, values in (("top_ids", plain.top_ids), ("top_logprobs", plain.top_logprobs)):
            columns[name] = [values[i - 1].tolist() if target else None for i, target in enumerate(example.is_target)]
    return columns


def _after_first(values: np.ndarray) -> np.ndarray:
    """[T - 1] -> [T] float32, NaN at the first token."""
    return np.concatenate([[np.nan], values]).astype(np.float32)


def _span_columns(
    example: Example, plain: TokenScores, masked: list[tuple[Span, list[int], TokenScores]], masking: Masking
) -> dict[str, Any]:
    """What S masked variants say of T tokens; `span_deltas` is [S, T] with NaN where a token was not read, copies
    included."""
    n, s = len(example.input_ids), len(masked)
    logprob, nan = _after_first(plain.logprob), np.full(n, np.nan, dtype=np.float32)
    drop, after = np.full((s, n), np.nan, dtype=np.float32), np.full((s, n), np.nan, dtype=np.float32)
    copied = np.zeros((s, n), dtype=bool)
    for k, (span, wanted, scores) in enumerate(masked):
        drop[k, wanted] = logprob[wanted] - scores.logprob
        after[k, wanted] = scores.entropy
        copied[k, wanted] = masking.copied(example, span, wanted)
    counted = np.where(copied, np.float32(np.nan), drop)
    delta, mean, masked_entropy, which = nan.copy(), nan.copy(), nan.copy(), np.full(n, -1)
    read = np.flatnonzero(~np.isnan(counted).all(0)) if s else np.array([], dtype=int)
    if len(read):
        best = np.nanargmax(np.abs(counted[:, read]), axis=0)
        delta[read], masked_entropy[read], which[read] = counted[best, read], after[best, read], best
        mean[read] = np.nanmean(counted[:, read], axis=0)
    return {
        "delta": delta, "delta_mean": mean, "masked_entropy": masked_entropy, "delta_span": which,
        "spans": [{"start": start, "end": end} for (start, end), _, _ in masked], "span_deltas": drop,
    }  # fmt: skip


def optional_columns(scored: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The optional columns of a part, in the forms that pyarrow takes."""
    make = {"word": indices, "copied": flags, "tempered_entropy": nullable, "top_ids": list, "top_logprobs": list}
    return {
        name: _matrices([c[name] for c in scored]) if name == "span_deltas" else [make[name](c[name]) for c in scored] for name in names
    }


def _matrices(values: Sequence[np.ndarray]) -> pa.ListArray:
    """[S, T] float32 arrays -> list<list<float>>, NaN as null; without a Python object a value, of which there can be
    millions."""
    if not values:  # a part whose rows were all left out
        return pa.array([], pa.list_(pa.list_(pa.float32())))
    flat = pa.array(np.concatenate([v.ravel() for v in values]), from_pandas=True)
    widths = np.concatenate([np.full(len(v), v.shape[1]) for v in values])
    inner = pa.ListArray.from_arrays(_offsets(widths), flat)
    return pa.ListArray.from_arrays(_offsets([len(v) for v in values]), inner)


def _offsets(lengths: Sequence[int] | np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())


def add_importance(columns: dict[str, Any], example: Example, config: ScoreConfig) -> None:
    """Adds `importance`: null off target, and everywhere when the recipe lacks a signal or waits for the whole
    store."""
    at = example.targets
    columns["importance"] = np.full(len(example.input_ids), np.nan, dtype=np.float32)
    recipe = config.recipe
    if not recipe.waits and not config.lacking:
        signals = {name: columns[name][at] for name in recipe.columns()}
        columns["importance"][at] = importance(signals, np.array([0, len(at)]), recipe)


def add_words(
    scored: Sequence[dict[str, Any]], examples: Sequence[Example], tokenizer: Any, *, copies: str | None = None, memo: Memo | None = None
) -> None:
    """Adds the text of each token, `word` and `copied` (shared/data/words.py) to the columns of examples; a row of many
    pieces is read once. `copies`: with "earlier", words of raw text are copies of those in earlier sentences of the
    row."""
    row, placed, text_before = None, None, None
    for columns, example in zip(scored, examples, strict=True):
        if example.row is not row or placed is None:
            row, placed = example.row, placed_once(example.row, tokenizer, memo)
            text_before = EarlierWords(row.answer) if row.question is None and copies == "earlier" else None
        columns["tokens"] = token_texts(example, placed, tokenizer)
        text, offsets = answer_offsets(example, placed)
        said = None if text_before is None else partial(text_before.before, at=answer_place(example, placed)[0])
        columns |= word_columns(text, offsets, example.targets, len(example.input_ids), asked_in(example.row), said)


def indices(values: np.ndarray) -> list[int | None]:
    return [None if v != v else int(v) for v in values.tolist()]


def flags(values: np.ndarray) -> list[bool | None]:
    return [None if v != v else bool(v) for v in values.tolist()]


def nullable(values: np.ndarray) -> list:
    """NaN (and −1 in an index column) becomes null: Parquet then says "no value" and not "not a number"."""
    if values.dtype.kind == "f":
        return [None if v != v else v for v in values.tolist()]
    return [None if v < 0 else v for v in values.tolist()]
