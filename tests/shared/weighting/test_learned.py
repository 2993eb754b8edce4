"""The learned importance against a loop over single words that follows its formula, and its threshold against trying
every one."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.data.words import word_runs
from shared.data.written import RARITY, WRITTEN
from shared.errors import ConfigError
from shared.weighting.importance import SIGNALS, Recipe, importance, is_probability
from shared.weighting.learned import (
    LONGEST,
    MODEL_COLUMNS,
    NEIGHBOURS,
    TEXT_COLUMNS,
    contributions,
    numbers,
    probabilities,
    word_probabilities,
)
from shared.weighting.weights import BINS, Expected, Selection, expected_f1_threshold, token_weights

NAMES = tuple(MODEL_COLUMNS)


def drawn(seed: int, lengths: list[int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns of examples of so many tokens: words of one to three tokens, some tokens between words."""
    rng = np.random.default_rng(seed)
    word, starts = [], np.cumsum([0, *lengths])
    for length in lengths:
        own, k = [], 0
        while len(own) < length:
            own += [np.nan] if rng.random() < 0.2 else [k] * int(rng.integers(1, 4))
            k += 1
        word += own[:length]
    count = int(starts[-1])
    columns = {"word": np.array(word, dtype=np.float64).reshape(count)}
    same = np.random.default_rng([seed, 1])
    for name in ("copied", *WRITTEN):
        by_word = same.integers(0, 2, size=(len(lengths), 1000)).astype(float)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        columns[name] = np.array([0.0 if math.isnan(w) else by_word[o, int(w)] for o, w in zip(owner, word, strict=True)])
    columns[RARITY] = rng.random(count)
    for name in ("base_entropy", "tempered_entropy", "entropy"):
        columns[name] = rng.random(count) * 5
    columns["base_logprob"] = -rng.random(count) * 8
    return columns, starts


def one_by_one(name: str, columns: dict[str, np.ndarray], starts: np.ndarray) -> list[float]:
    """The formula, word by word."""
    model, out = numbers(name), []
    for a, b in pairwise(starts):
        groups: list[list[int]] = []
        for i in range(a, b):
            w = columns["word"][i]
            if math.isnan(w):
                continue
            if groups and columns["word"][groups[-1][0]] == w:
                groups[-1].append(i)
            else:
                groups.append([i])
        words = []
        for k, own in enumerate(groups):
            top = {c: max(columns[c][i] for i in own) for c in ("copied", *WRITTEN, RARITY)}
            x = {
                **{c: top[c] for c in ("copied", "digit", "quoted", "comma", "repeated", RARITY)},
                "capital": top["capital"] * (1 - top["begins"]), "initial": top["capital"] * top["begins"],
                "pieces": math.log(len(own)), "place": math.log1p(min(k, LONGEST)), "length": math.log(min(len(groups), LONGEST)),
            }  # fmt: skip
            if name == "learned_base":
                x["uncertain"] = math.log1p(sum(columns["base_entropy"][i] for i in own))
                x["surprising"] = math.log1p(sum(-columns["base_logprob"][i] for i in own))
            if name == "learned_alone":
                x["uncertain"] = math.log1p(sum(columns["tempered_entropy"][i] for i in own))
                x["surprising"] = math.log1p(sum(columns["entropy"][i] for i in own))
            words.append(x)
        p = []
        for k in range(len(words)):
            logit = model.bias
            for step, pairs in {0: model.own, **model.beside}.items():
                for feature, (c, m) in pairs.items():
                    logit += c * ((words[k + step][feature] if 0 <= k + step < len(words) else 0.0) - m)
            p.append(1 / (1 + math.exp(-logit)))
        of = {i: k for k, own in enumerate(groups) for i in own}
        for i in range(a, b):
            before = [of[j] for j in range(a, i) if j in of]
            after = [of[j] for j in range(i, b) if j in of]
            out.append(p[of[i]] if i in of else min(p[before[-1]], p[after[0]]) if before and after else 0.0)
    return out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lengths", [[1], [7, 1, 30], [0, 5, 0], [200], []])
def test_probabilities_are_those_of_the_formula(name, lengths):
    for seed in range(3):
        columns, starts = drawn(seed, lengths)
        assert probabilities(name, columns, starts) == pytest.approx(one_by_one(name, columns, starts), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_reasons_add_up_to_the_logit(name):
    columns, starts = drawn(4, [25, 12])
    runs = word_runs(columns["word"], starts)
    total = sum(contributions(name, columns, runs).values())
    assert word_probabilities(name, columns, runs) == pytest.approx(1 / (1 + np.exp(-total)))


@pytest.mark.parametrize("name", NAMES)
def test_the_file_has_numbers_for_what_is_told_and_nothing_else(name):
    from shared.weighting.learned import features

    columns, starts = drawn(5, [9])
    told = set(features(name, columns, word_runs(columns["word"], starts)))
    model = numbers(name)
    assert set(model.own) == told and set(model.beside) == set(NEIGHBOURS)
    assert all(set(pairs) <= told for pairs in model.beside.values())
    assert all(math.isfinite(v) for pairs in (model.own, *model.beside.values()) for pair in pairs.values() for v in pair)
    assert SIGNALS[name].ready and set(SIGNALS[name].columns) == {*TEXT_COLUMNS, *MODEL_COLUMNS[name]}


def test_an_answer_does_not_depend_on_its_neighbours():
    columns, starts = drawn(6, [11, 17, 8])
    whole = probabilities("learned_base", columns, starts)
    for a, b in pairwise(starts):
        alone = probabilities("learned_base", {k: v[a:b] for k, v in columns.items()}, np.array([0, b - a]))
        assert alone.tolist() == whole[a:b].tolist()


def test_learned_is_the_best_set_that_a_store_has_the_columns_of():
    recipe = Recipe(uncertainty="learned")
    assert recipe.resolved(["entropy", "base_entropy", "base_logprob", "tempered_entropy"]).uncertainty == "learned_base"
    assert recipe.resolved(["entropy", "base_entropy", "tempered_entropy"]).uncertainty == "learned_alone"
    assert recipe.resolved(["entropy"]).uncertainty == "learned_text"
    assert recipe.resolved(["entropy"]).waits and not Recipe(uncertainty="entropy").waits


def test_it_is_importance_as_it_is_whatever_the_norm():
    columns, starts = drawn(7, [20, 9])
    plain = probabilities("learned_text", columns, starts)
    for norm in ("minmax", "rank"):
        for unit in ("token", "phrase"):
            recipe = Recipe(uncertainty="learned_text", norm=norm, unit=unit)
            assert importance(columns, starts, recipe).tolist() == plain.tolist()
    mixed = Recipe(alpha=0.25, knowledge="entropy", uncertainty="learned_text", unit="token", copies="keep", norm="max")
    entropy = np.concatenate([columns["entropy"][a:b] / columns["entropy"][a:b].max() for a, b in ((0, 20), (20, 29))])
    assert importance(columns, starts, mixed) == pytest.approx(0.25 * entropy + 0.75 * plain)
    assert mixed.describe() == "0.25 · max(entropy) + 0.75 · learned_text"
    assert Recipe(uncertainty="learned_text").describe() == "1 · learned_text"


def test_which_importance_is_a_probability():
    assert is_probability(Recipe(uncertainty="learned_base").written())
    assert not is_probability(Recipe(uncertainty="entropy").written())
    assert not is_probability(Recipe(alpha=0.5, knowledge="gain", uncertainty="learned_base").written())
    assert is_probability({"importance_file": "0" * 64, "importance_column": "p"})
    assert not is_probability({"importance_file": "0" * 64, "importance_column": "p", "importance_norm": "rank"})


def expected_f1(values: list[float], threshold: float) -> float:
    taken = [p for p in values if p >= threshold]
    return 2 * sum(taken) / (len(taken) + sum(values))


@given(st.lists(st.integers(0, BINS).map(lambda k: k / BINS), min_size=1, max_size=40).filter(any))
@example([2 / BINS, 2 / BINS, 3 / BINS])
def test_the_threshold_has_the_largest_expected_f1(values):
    found = expected_f1_threshold(np.array(values))
    best = max(expected_f1(values, p) for p in values if p > 0)
    assert 0 < found <= 1 and expected_f1(values, found) == pytest.approx(best, abs=1e-9)


def test_parts_come_to_the_same_and_the_share_is_what_is_taken():
    values = np.random.default_rng(0).beta(0.4, 2, 5000).astype(np.float32)
    parts = Expected()
    for part in np.array_split(values, 7):
        parts.add(part)
    assert parts.threshold() == expected_f1_threshold(values)
    assert parts.share() == pytest.approx((values >= np.float32(parts.threshold())).mean(), abs=1e-3)
    assert 0.05 < parts.share() < 0.5


def test_nothing_is_taken_where_nothing_is_probable():
    assert expected_f1_threshold(np.zeros(5)) == 1.0 and expected_f1_threshold(np.ones(5)) == 1.0


def test_plain_soft_weights_are_importance_itself():
    values = np.array([0.0, 0.2, 0.9])
    found = token_weights(values, 3, Selection(tokens="soft", soft="plain"), where="s")
    assert found.tolist() == np.float32(values).tolist()
    assert Selection(tokens="soft", soft="plain").describe() == "soft tokens (plain)"


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"tokens": "random", "keep": "auto"}, "--keep auto is for --tokens hard"),
        ({"tokens": "soft", "keep": "auto"}, "--keep is for --tokens hard"),
        ({"keep": "auto", "top": 3}, "--keep and --set top"),
        ({"keep": "auto", "whole_words": False}, "whole_words is for --tokens hard with a share"),
        ({"tokens": "soft", "soft": "plain", "temperature": 0.5}, "plain weights have none"),
    ],
)
def test_options_that_do_not_go_together(fields, said):
    with pytest.raises(ConfigError, match=said):
        Selection(**fields)
    assert Selection(keep="auto").describe() == "hard tokens (keep auto)"
