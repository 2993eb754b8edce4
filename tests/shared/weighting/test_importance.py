"""Signals, norms, importance and weights, each against a loop over single tokens that follows the formula."""

import math
import statistics
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.errors import ConfigError, StoreError
from shared.weighting.importance import SIGNALS as EVERY
from shared.weighting.importance import Recipe, columns_of, importance, shaped, signal
from shared.weighting.norms import NormName, Summary, normalise
from shared.weighting.weights import Selection, token_weights

LOGPROBS = st.floats(-30, 0, width=32)
EXAMPLES = st.lists(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=12), min_size=1, max_size=6)
NORMS = get_args(NormName)
SIGNALS = [name for name, signal in EVERY.items() if not signal.ready]
"""tests/shared/weighting/test_learned.py has the others"""


def of_tokens(**fields: Any) -> Recipe:
    """A recipe of single tokens, as published: no words, nothing left out."""
    values: dict[str, Any] = {"uncertainty": "entropy", "unit": "token", "copies": "keep", **fields}
    return Recipe(**values)


def flat(examples: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([v for e in examples for v in e], dtype=np.float64), np.cumsum([0, *map(len, examples)])


def split(values: np.ndarray, starts: np.ndarray) -> list[list[float]]:
    return [values[a:b].tolist() for a, b in pairwise(starts)]


def brute_norm(values: list[float], norm: str) -> list[float]:
    """One example, or one store, by the formulas of shared/weighting/norms.py."""
    low, high = min(values), max(values)
    if norm == "max":
        return [max(v, 0) / high if high > 0 else 0.0 for v in values]
    if low == high:
        return [0.0] * len(values)
    if norm == "zscore":
        mean, std = statistics.fmean(values), statistics.pstdev(values)
        return [statistics.NormalDist().cdf((v - mean) / std) if std > 0 else 0.0 for v in values]
    if norm == "rank":
        values = [sum(w < v for w in values) + (sum(w == v for w in values) + 1) / 2 for v in values]
        low, high = min(values), max(values)
    return [(v - low) / (high - low) for v in values]


@settings(deadline=None)  # the first call imports scipy
@given(EXAMPLES, st.sampled_from(NORMS))
def test_a_norm_within_examples_is_that_of_each_example_alone(examples, norm):
    values, starts = flat(examples)
    expected = [v for e in examples for v in brute_norm(e, norm)]
    assert normalise(values, starts, norm) == pytest.approx(expected, abs=1e-6)


@settings(deadline=None)
@given(EXAMPLES, st.sampled_from(NORMS))
@example([[3.0, 1.0, 2.0, 1.0]], "rank")
def test_a_norm_over_the_store_is_that_of_all_values_however_they_come(examples, norm):
    summary = Summary(norm)
    for part in examples:
        summary.add(np.array(part, dtype=np.float64))
    found = np.concatenate([summary.normalise(np.array(part, dtype=np.float64)) for part in examples])
    assert found == pytest.approx(brute_norm([v for e in examples for v in e], norm), abs=1e-6)


def test_norms_by_hand():
    starts = np.array([0, 3, 3, 7])  # the second example has no target token
    values = np.array([2.0, 4.0, 3.0, 1.0, 100.0, 1.0, 7.0])
    assert normalise(values, starts, "minmax")[:3].tolist() == [0, 1, 0.5]
    assert normalise(values, starts, "rank")[3:].tolist() == [0, 1, 0, 0.6]
    assert normalise(np.array([1.0, 2.0, 5.0, 5.0, 7.0, 9.0]), np.array([0, 3, 6]), "rank").tolist() == [0, 0.5, 1] * 2
    assert normalise(values, starts, "max").tolist() == [0.5, 1, 0.75, 0.01, 1, 0.01, 0.07]
    assert normalise(np.array([1.0, 3.0]), np.array([0, 2]), "zscore") == pytest.approx([0.158655254, 0.841344746])
    assert normalise(np.array([-1.0, 2.0]), np.array([0, 2]), "max").tolist() == [0, 1]
    for norm in NORMS:
        assert normalise(np.zeros(2), np.array([0, 2]), norm).tolist() == [0, 0]


def brute_signal(name: str, c: dict[str, list[float]], r: Recipe) -> list[float]:
    """One signal of one example, token by token."""
    n = range(len(c["logprob"]))
    p = [math.exp(v) for v in c["logprob"]]
    zero = {k: [0.0 if math.isnan(v) else v for v in c[k]] for k in ("delta", "delta_mean")}
    if name == "etw":
        total = sum(c[r.etw_entropy])
        return [len(p) * h / total if total > 0 else 0.0 for h in c[r.etw_entropy]]
    if name == "seul":
        line = statistics.fmean(c["logprob"]) + r.seul_k * statistics.pstdev(c["logprob"])
        chosen = {i for i in n if c["logprob"][i] < line}
        between = {i for a in chosen for b in chosen if 0 < b - a <= r.seul_gap + 1 for i in range(a, b)}
        return [float(i in chosen | between) for i in n]
    if name == "su":
        gaps = [abs(math.exp(a) - math.exp(b)) for a, b in zip(c["logprob"], c["base_logprob"], strict=True)]
        line = statistics.fmean(gaps) + r.su_k * statistics.pstdev(gaps)
        chosen = {i for i in n if gaps[i] > line}
        return [float(any(abs(i - j) <= r.su_widen for j in chosen)) for i in n]
    formulas = {
        "absolute": lambda i: abs(zero["delta"][i]),
        "positive": lambda i: max(0.0, zero["delta"][i]),
        "mean_absolute": lambda i: abs(zero["delta_mean"][i]),
        "mean_positive": lambda i: max(0.0, zero["delta_mean"][i]),
        "entropy": lambda i: c["entropy"][i],
        "masked_entropy": lambda i: c["entropy"][i] if math.isnan(c["masked_entropy"][i]) else c["masked_entropy"][i],
        "tempered_entropy": lambda i: c["tempered_entropy"][i],
        "base_entropy": lambda i: c["base_entropy"][i],
        "gain": lambda i: c["logprob"][i] - c["base_logprob"][i],
        "satimp": lambda i: p[i] ** r.satimp_beta1 * (1 - p[i]) ** r.satimp_beta2,
        "wga": lambda i: p[i] ** r.wga_beta,
    }
    return [formulas[name](i) for i in n]


COLUMNS = ("logprob", "base_logprob", "entropy", "masked_entropy", "tempered_entropy", "base_entropy", "delta", "delta_mean")


def random_columns(rng: np.random.Generator, lengths: list[int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns of some examples; a token here and there was read after no span."""
    n = sum(lengths)
    made = {name: rng.normal(size=n) if "delta" in name else -rng.exponential(size=n) for name in COLUMNS}
    made |= {name: rng.exponential(size=n) for name in COLUMNS if "entropy" in name}
    unread = rng.random(n) < 0.2
    for name in ("delta", "delta_mean", "masked_entropy"):
        made[name][unread] = np.nan
    return made, np.cumsum([0, *lengths])


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("recipe", [Recipe(), Recipe(etw_entropy="entropy", seul_k=-0.5, seul_gap=0, su_k=0.3, su_widen=1, wga_beta=2)])
def test_a_signal_is_its_formula_token_by_token(name, recipe):
    columns, starts = random_columns(np.random.default_rng(3), [9, 1, 17, 4, 30])
    only = {k: columns[k] for k in columns_of(name, recipe)}
    found = split(signal(name, only, starts, recipe), starts)
    for e, (a, b) in enumerate(pairwise(starts)):
        assert found[e] == pytest.approx(brute_signal(name, {k: v[a:b].tolist() for k, v in columns.items()}, recipe), abs=1e-9)
    assert {v for e in found for v in e} != {0.0}


def test_selection_of_seul_and_su_by_hand():
    # mean −2.5: tokens 0, 3 and 7 lie below; the gap of two is filled, that of three is not
    columns = {"logprob": np.array([-5.0, -1, -1, -5, -1, -1, -1, -5.0])}
    assert signal("seul", columns, np.array([0, 8]), Recipe()).tolist() == [1, 1, 1, 1, 0, 0, 0, 1]
    # two examples: neither gaps nor neighbours reach over the border
    assert signal("seul", columns, np.array([0, 6, 8]), Recipe()).tolist() == [1, 1, 1, 1, 0, 0, 0, 1]
    columns = {"logprob": np.log([0.5, 0.5, 0.5, 0.5, 0.9, 0.5]), "base_logprob": np.log([0.5, 0.5, 0.5, 0.5, 0.1, 0.5])}
    assert signal("su", columns, np.array([0, 6]), Recipe()).tolist() == [0, 0, 1, 1, 1, 1]
    assert signal("su", columns, np.array([0, 4, 6]), Recipe(su_k=0.5)).tolist() == [0, 0, 0, 0, 1, 1]
    assert signal("su", columns, np.array([0, 5, 6]), Recipe(su_k=0.5)).tolist() == [0, 0, 1, 1, 1, 0]


@settings(deadline=None)
@given(
    st.lists(st.tuples(LOGPROBS, LOGPROBS), min_size=1, max_size=20),
    st.sampled_from(NORMS),
    st.floats(0, 1),
    st.sampled_from(list(SIGNALS)),
)
def test_importance_lies_in_0_to_1_and_combines_by_alpha(values, norm, alpha, knowledge):
    array = np.array(values)
    columns = {name: np.abs(array[:, 0]) if "entropy" in name else array[:, 1] if "delta" in name else array.min(1) for name in COLUMNS}
    columns["base_logprob"] = array.max(1)
    recipe = of_tokens(alpha=alpha, norm=norm, knowledge=knowledge, etw_entropy="entropy")
    starts = np.array([0, len(values)])
    found = importance({k: columns[k] for k in recipe.columns()}, starts, recipe)
    assert found.shape == (len(values),) and (found >= 0).all() and (found <= 1).all()
    first, second = (normalise(signal(n, columns, starts, recipe), starts, norm) for n in (knowledge, "entropy"))
    assert found == pytest.approx(alpha * first + (1 - alpha) * second, abs=1e-12)


def test_the_published_recipe_by_hand():
    columns = {"delta": np.array([-4.0, 0, 2, np.nan]), "entropy": np.array([0.0, 1, 2, 4])}
    recipe = of_tokens(alpha=0.5)
    assert recipe.columns() == ["delta", "entropy"]
    assert importance(columns, np.array([0, 4]), recipe).tolist() == [0.5, 0.125, 0.5, 0.5]


def test_the_default_recipe_by_hand():
    """`Ann Lee, born 1950.` after a question about Ann: the comma lies between two words, the full stop after the
    last."""
    columns = {
        "entropy": np.array([5.0, 1, 2, 9, 6, 3, 9]),
        "word": np.array([0.0, 1, 1, np.nan, 2, 3, np.nan]),
        "copied": np.array([1.0, 0, 0, 0, 0, 0, 0]),
    }
    recipe = Recipe().resolved([])
    assert recipe.columns() == ["entropy", "word", "copied"]
    phrases = [1.0, 3, 3, 3, 4, 3, 0]  # words 0, 3, 6 and 3; of the comma's neighbours the smaller
    assert importance(columns, np.array([0, 7]), recipe).tolist() == pytest.approx([v / 4 for v in phrases])


@pytest.mark.parametrize(("held", "name"), [
    (["base_entropy", "tempered_entropy"], "base_entropy"), (["tempered_entropy", "word"], "tempered_entropy"), (["word"], "entropy"),
    ([], "entropy"),
])  # fmt: skip
def test_auto_is_the_entropy_of_the_base_model_where_there_is_one_else_the_tempered_one(held, name):
    assert Recipe().resolved(held).shares() == {name: 1.0}
    assert Recipe(norm="rank", alpha=0.3).resolved(held) == Recipe(norm="rank", alpha=0.3, uncertainty=name)


def test_a_signal_that_is_named_is_no_auto():
    chosen = Recipe(uncertainty="gain", alpha=0.2, unit="word")
    assert chosen.resolved(["base_entropy"]) == chosen == chosen.resolved([])


def test_columns_are_those_of_the_signals_that_count():
    assert of_tokens(alpha=0, knowledge="su").columns() == ["entropy"]
    assert of_tokens(alpha=1, knowledge="su").columns() == ["logprob", "base_logprob"]
    assert of_tokens(alpha=0.5, knowledge="etw").columns() == ["tempered_entropy", "entropy"]
    assert of_tokens(alpha=0.5, knowledge="entropy").shares() == {"entropy": 1.0}
    for fields in ({"unit": "word"}, {"unit": "phrase"}, {"copies": "drop"}):
        assert of_tokens(**fields).columns() == ["entropy", "word", "copied"]


@pytest.mark.parametrize(("recipe", "words"), [
    (Recipe().resolved(["base_entropy"]), "1 · minmax(phrase base_entropy), without the question's words"),
    (Recipe(uncertainty="entropy", unit="word", copies="keep"), "1 · minmax(word entropy)"),
    (Recipe(uncertainty="entropy", unit="token", scope="store", norm="rank"),
     "1 · rank(entropy), without the question's words, over the store"),
    (Recipe(alpha=0.5, uncertainty="entropy", unit="token", copies="keep"), "0.5 · minmax(absolute) + 0.5 · minmax(entropy)"),
])  # fmt: skip
def test_a_recipe_describes_its_unit_and_what_it_leaves_out(recipe, words):
    assert recipe.describe() == words


def brute_shape(values: list[float], word: list[float], copied: list[float], r: Recipe) -> list[float]:
    """One example, token by token."""
    out, dropped = [], [c != 0 and r.copies == "drop" for c in copied]
    sums = {w: max(0.0, sum(v for v, own in zip(values, word, strict=True) if own == w)) for w in word if w == w}
    sums |= {w: 0.0 for w, c in zip(word, dropped, strict=True) if c}
    order = sorted(sums)
    means = {w: sum(sums[v] for v in order[max(0, k - 1) : k + 2]) / 3 for k, w in enumerate(order)}
    of = means if r.unit == "phrase" else sums
    for i, (value, own) in enumerate(zip(values, word, strict=True)):
        if r.unit == "token":
            out.append(value if r.copies == "keep" else 0.0 if dropped[i] else max(0.0, value))
            continue
        before = [w for w in word[: i + 1] if w == w][-1:]
        after = [w for w in word[i:] if w == w][:1]
        out.append(of[own] if own == own else min(of[before[0]], of[after[0]]) if before and after else 0.0)
    return out


def random_words(rng: np.random.Generator, starts: np.ndarray) -> dict[str, np.ndarray]:
    """Columns `word` and `copied`: words of one to three tokens, here and there a token between them, every third word
    copied."""
    word, copied = [], []
    for length in np.diff(starts):
        number, own = 0, []
        while len(own) < length:
            held = float(rng.random() < 0.3)
            own += [(float(number), held)] * int(rng.integers(1, 4)) + [(np.nan, 0.0)] * int(rng.random() < 0.4)
            number += 1
        word += [w for w, _ in own[:length]]
        copied += [c for _, c in own[:length]]
    return {"word": np.array(word), "copied": np.array(copied)}


@pytest.mark.parametrize("unit", ["token", "word", "phrase"])
@pytest.mark.parametrize("copies", ["keep", "drop"])
@pytest.mark.parametrize("scope", ["example", "store"])
def test_importance_of_words_and_phrases_is_that_of_a_loop(unit, copies, scope):
    rng = np.random.default_rng(11)
    columns, starts = random_columns(rng, [9, 1, 0, 17, 4, 30])
    columns |= random_words(rng, starts)
    recipe = Recipe(alpha=0.3, knowledge="gain", uncertainty="entropy", unit=unit, copies=copies, scope=scope)
    expected = np.zeros(int(starts[-1]))
    summaries = {name: Summary("minmax") for name in recipe.shares()}
    for name, share in (("gain", 0.3), ("entropy", 0.7)):
        raw = signal(name, columns, starts, recipe)
        words, held = split(columns["word"], starts), split(columns["copied"], starts)
        of = [brute_shape(v, w, c, recipe) for v, w, c in zip(split(raw, starts), words, held, strict=True)]
        assert shaped(name, columns, starts, recipe) == pytest.approx([v for e in of for v in e], abs=1e-12)
        summaries[name].add(np.array([v for e in of for v in e]))
        groups = [[v for e in of for v in e]] if scope == "store" else [e for e in of if e]
        expected += share * np.array([v for group in groups for v in brute_norm(group, "minmax")])
    used = {k: columns[k] for k in recipe.columns()}  # and no other column
    assert importance(used, starts, recipe, summaries if scope == "store" else None) == pytest.approx(expected, abs=1e-9)


def test_unit_and_copies_change_importance():
    """Else the loop above would compare one formula with itself."""
    rng = np.random.default_rng(2)
    columns, starts = random_columns(rng, [20])
    columns |= random_words(rng, starts)
    recipes = [Recipe(uncertainty="entropy", unit=u, copies=c) for u in ("token", "word", "phrase") for c in ("keep", "drop")]
    found = [importance(columns, starts, recipe).tolist() for recipe in recipes]
    assert len({tuple(values) for values in found}) == 6
    without = np.array(found[1])  # tokens, copies dropped
    assert (without[columns["copied"] == 1] == 0).all() and without[columns["copied"] == 0].any()


@pytest.mark.parametrize("field", [{"alpha": 1.5}, {"seul_gap": -1}, {"su_k": math.nan}, {"wga_beta": -1.0}, {"satimp_beta1": math.inf}])
def test_a_recipe_out_of_range_names_the_field(field):
    with pytest.raises(ConfigError, match=next(iter(field))):
        Recipe(**field)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1, width=32), min_size=1, max_size=40), st.floats(0.01, 1),
       st.integers(1, 50))  # fmt: skip
def test_hard_weights_keep_the_most_important_and_of_equals_the_earlier(values, keep, top):
    array, ranked = np.array(values), sorted(range(len(values)), key=lambda i: (-values[i], i))
    for selection, count in (
        (Selection(keep=keep), math.ceil(keep * len(values) - 1e-9)), (Selection(top=top), min(top, len(values))),
        (Selection(threshold=0.5), sum(v >= 0.5 for v in values)),
    ):  # fmt: skip
        found = token_weights(array, len(values), selection, where="x")
        expected = [float(i in ranked[:count] and (values[i] > 0 or count == len(values))) for i in range(len(values))]
        assert found.dtype == np.float32 and found.tolist() == expected


def slow_words(values: list[float], word: list[float | None], count: int) -> list[float]:
    """Hard selection by a loop: whole words in order of importance until the next would go over; the first in any
    case."""
    units: list[list[int]] = []
    for i, own in enumerate(word):
        if units and own is not None and word[i - 1] == own and values[i - 1] == values[i]:
            units[-1].append(i)
        else:
            units.append([i])
    chosen: list[int] = []
    for unit in sorted(units, key=lambda unit: (-values[unit[0]], unit[0])):
        if chosen and len(chosen) + len(unit) > count:
            break
        chosen += unit
    return [float((i in chosen and values[i] > 0) or count >= len(values)) for i in range(len(values))]


WORDS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(1, 4), st.booleans(), st.booleans()), min_size=1, max_size=10
)
"""importance of a word, its tokens, whether a token between words comes after it, whether its importance differs token
by token"""


@settings(deadline=None)
@given(WORDS, st.floats(0.01, 1), st.integers(1, 50))
def test_hard_weights_take_words_whole(words, keep, top):
    values: list[float] = []
    word: list[float | None] = []
    for number, (value, size, gap, apart) in enumerate(words):
        values += [value + (k / 16 if apart else 0) for k in range(size)] + [value / 2] * gap
        word += [float(number)] * size + [None] * gap
    numbers, n = np.array([np.nan if w is None else w for w in word]), len(values)
    for selection, count in ((Selection(keep=keep), math.ceil(keep * n - 1e-9)), (Selection(top=top), top)):
        found = token_weights(np.array(values), n, selection, where="x", word=numbers).tolist()
        assert found == slow_words(values, word, count)
        single = token_weights(np.array(values), n, replace(selection, whole_words=False), where="x", word=numbers)
        ranked = sorted(range(n), key=lambda i: (-values[i], i))[:count]
        assert single.tolist() == [float(i in ranked) for i in range(n)], "the rule of earlier versions"
        unknown = token_weights(np.array(values), n, selection, where="x")
        assert unknown.tolist() == [float(i in ranked and (values[i] > 0 or count >= n)) for i in range(n)], "a store without words"


def test_whole_words_by_hand():
    """Words of 2, 3 and 1 tokens, a full stop between no words; the share is 3 of 7 tokens."""
    values, word = np.array([0.5, 0.5, 0.9, 0.9, 0.9, 0.2, 0.1]), np.array([0, 0, 1, 1, 1, 2, np.nan])
    assert token_weights(values, 7, Selection(keep=3 / 7), where="x", word=word).tolist() == [0, 0, 1, 1, 1, 0, 0]
    assert token_weights(values, 7, Selection(top=4), where="x", word=word).tolist() == [0, 0, 1, 1, 1, 0, 0], "the next would be cut"
    assert token_weights(values, 7, Selection(top=1), where="x", word=word).tolist() == [0, 0, 1, 1, 1, 0, 0], "the first is always taken"
    assert token_weights(values, 7, Selection(top=5), where="x", word=word).tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert token_weights(np.zeros(7), 7, Selection(), where="x", word=word).tolist() == [0] * 7, "nothing has importance"
    assert token_weights(np.zeros(7), 7, Selection(keep=1.0), where="x", word=word).tolist() == [1] * 7, "all were asked for"
    assert token_weights(np.zeros(7), 7, Selection(tokens="soft"), where="x", word=word).tolist() == [1] * 7


@settings(deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40), st.floats(0.05, 5))
def test_soft_weights_sum_to_the_targets(values, temperature):
    array, n = np.array(values), len(values)
    ratio = [math.exp(v / temperature) for v in values]
    found = token_weights(array, n, Selection(tokens="soft", temperature=temperature), where="x")
    assert np.allclose(found, [n * r / sum(ratio) for r in ratio], rtol=1e-4)
    linear = token_weights(array, n, Selection(tokens="soft", soft="linear"), where="x")
    assert np.allclose(linear, [n * v / sum(values) if sum(values) else 1 for v in values], rtol=1e-4)
    assert found.sum() == pytest.approx(n, rel=1e-4) == pytest.approx(linear.sum(), rel=1e-4)


def test_a_threshold_meets_the_importance_that_float32_stores():
    stored = np.array([0.7], dtype=np.float32).astype(np.float64)
    assert token_weights(stored, 1, Selection(threshold=0.7), where="x").tolist() == [1]
    assert token_weights(np.array([0.2, 0.1]), 2, Selection(threshold=0.7), where="x").tolist() == [0, 0]


def test_linear_weights_of_etw_under_norm_max_are_the_published_weights():
    columns, starts = random_columns(np.random.default_rng(0), [7])
    recipe = of_tokens(uncertainty="etw", norm="max", etw_entropy="entropy")
    found = token_weights(importance(columns, starts, recipe), 7, Selection(tokens="soft", soft="linear"), where="x")
    assert found == pytest.approx(7 * columns["entropy"] / columns["entropy"].sum(), rel=1e-5)


def test_weights_without_importance():
    assert token_weights(None, 3, Selection(tokens="all"), where="x").tolist() == [1, 1, 1]
    with pytest.raises(StoreError, match="x: the store holds no importance"):
        token_weights(None, 3, Selection(), where="x")


@pytest.mark.parametrize(("selection", "words"), [
    (Selection(), "hard tokens (keep 0.3, whole words)"), (Selection(top=4, whole_words=False), "hard tokens (top 4)"),
    (Selection(threshold=0.5), "hard tokens (threshold 0.5)"), (Selection(tokens="all"), "all tokens"),
    (Selection(tokens="soft"), "soft tokens (softmax, temperature 0.3)"), (Selection(tokens="soft", soft="linear"), "soft tokens (linear)"),
])  # fmt: skip
def test_a_selection_describes_itself_with_its_defaults(selection, words):
    assert selection.describe() == words
