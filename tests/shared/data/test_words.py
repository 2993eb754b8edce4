"""Words and phrases, against loops over single characters and single tokens."""

import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.words import NONE, gather, holds, plain, terms, vocabulary, words_of
from shared.data.words import columns as columns_at

LETTERS = "aZé7_\ufffd"
PIECES = st.lists(st.text(alphabet="aZé7\ufffd '’-.,", max_size=4), max_size=12)


def slow_words(text: str) -> list[tuple[int, int]]:
    """[start, end) of each word, told one character at a time."""

    def letter(i: int) -> bool:
        return 0 <= i < len(text) and text[i] in LETTERS

    def inside(i: int) -> bool:
        return letter(i) or (0 <= i < len(text) and text[i] in "'’-" and letter(i - 1) and letter(i + 1))

    starts = [i for i in range(len(text)) if inside(i) and not inside(i - 1)]
    return [(i, next(j for j in range(i, len(text) + 1) if not inside(j))) for i in starts]


def slow_index(pieces: list[str]) -> tuple[list[int], list[str]]:
    """Each token counts to the first word that it holds a character of; words that no token counts to are left out."""
    text, at, owner = "".join(pieces), 0, []
    found = slow_words(text)
    for piece in pieces:
        held = [k for k, (a, b) in enumerate(found) if any(a <= i < b for i in range(at, at + len(piece)))]
        owner.append(held[0] if held else None)
        at += len(piece)
    kept = sorted({k for k in owner if k is not None})
    return [NONE if k is None else kept.index(k) for k in owner], [text[slice(*found[k])] for k in kept]


@settings(deadline=None)
@given(PIECES)
def test_each_token_counts_to_the_first_word_it_holds_a_character_of(pieces):
    index, words = words_of(pieces)
    assert (index.tolist(), words) == slow_index(pieces)


def test_words_by_hand():
    assert words_of([" Ann", "-M", "arie", "'s", " dog", ",", " 19", "50", ".", ""])[0].tolist() == [0, 0, 0, 0, 1, NONE, 2, 2, NONE, NONE]
    assert words_of(["a b", "c", " ", "d"])[1] == ["a", "bc", "d"]
    assert words_of(["a b", "c", " ", "d"])[0].tolist() == [0, 1, NONE, 2], "a token over two words counts to the first"
    assert words_of(["a b", " c"])[1] == ["a", "c"], "b has no token of its own"
    assert words_of(["he", "", "re"])[0].tolist() == [0, NONE, 0], "a special token is in no word, and parts none"
    assert words_of(["-a-", "'b'"])[1] == ["a", "b"]
    assert words_of([])[0].tolist() == [] and words_of([" ", "."])[1] == []


def test_case_and_a_possessive_do_not_count():
    assert plain("ANN'S") == plain("Ann’s") == plain("ann") == "ann"
    assert plain("sis") == "sis" and plain("it's-me") == "it's-me"
    assert vocabulary("Is Ann's dog JUNE-born?") == {"is", "ann", "dog", "june-born"}


def columns(pieces, targets, special, question):
    """Of an answer told by the texts of its tokens."""
    texts = ["" if special(i) else pieces[i] for i in targets]
    ends = np.cumsum([len(t) for t in texts]).tolist()
    return columns_at("".join(texts), [(e - len(t), e) for t, e in zip(texts, ends, strict=True)], targets, len(pieces), question)


def test_columns_say_which_words_the_question_holds():
    pieces = ["<user>", "q", "<end>", "Ann", "'s", " Dog", ",", " a", " cat", "'s", ".", "<end>"]
    targets = list(range(3, 12))
    found = columns(pieces, targets, lambda i: i in (0, 2, 11), "Where is ANN with the dog’s cat?")
    assert np.isnan(found["word"][:3]).all() and np.isnan(found["copied"][:3]).all()
    assert [None if v != v else v for v in found["word"][3:]] == [0, 0, 1, None, 2, 3, 3, None, None]
    assert found["copied"][3:].tolist() == [1, 1, 1, 0, 0, 1, 1, 0, 0]
    other = columns(pieces, targets, lambda i: i in (0, 2, 11), "Who?")
    assert other["copied"][3:].tolist() == [0] * 9 and np.array_equal(other["word"], found["word"], equal_nan=True)
    raw = columns(pieces, targets, lambda i: False, None)
    assert raw["copied"][3:].tolist() == [0] * 9, "raw text has no question"
    assert raw["word"][11] == 4, "and what is not special is text"


def slow_gather(values: list[float], word: list[float | None], copied: list[float], phrase: bool) -> list[float]:
    """One example, token by token."""
    total: dict[float, float] = {}
    for value, own in zip(values, word, strict=True):
        if own is not None:
            total[own] = total.get(own, 0.0) + value
    for own, held in zip(word, copied, strict=True):
        if own is not None:
            total[own] = 0.0 if held else max(0.0, total[own])
    order = list(total)
    if phrase:
        total = {w: sum(total[order[j]] for j in (k - 1, k, k + 1) if 0 <= j < len(order)) / 3 for k, w in enumerate(order)}
    out = []
    for i, own in enumerate(word):
        before = [w for w in word[:i] if w is not None]
        after = [w for w in word[i:] if w is not None]
        between = min(total[before[-1]], total[after[0]]) if before and after else 0.0
        out.append(total[own] if own is not None else between)
    return out


VALUE = st.floats(-9, 9, width=16)
WORD = st.tuples(st.lists(VALUE, min_size=1, max_size=3), st.booleans(), st.lists(VALUE, max_size=2))
"""values of its tokens, whether the question holds it, values of the tokens between it and the next"""
EXAMPLE = st.tuples(st.lists(VALUE, max_size=2), st.lists(WORD, max_size=5))


def spread_out(example) -> tuple[list[float], list[float | None], list[float]]:
    before, words = example
    tokens: list[tuple[float, float | None, float]] = [(v, None, 0.0) for v in before]
    for k, (inner, held, behind) in enumerate(words):
        tokens += [(v, float(k), float(held)) for v in inner] + [(v, None, 0.0) for v in behind]
    return [v for v, _, _ in tokens], [w for _, w, _ in tokens], [c for _, _, c in tokens]


def flat(examples) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    values, word, copied = ([x for e in examples for x in e[k]] for k in range(3))
    numbers = [np.nan if w is None else w for w in word]
    return np.array(values, float), np.array(numbers, float), np.array(copied, float), np.cumsum([0, *(len(e[0]) for e in examples)])


@settings(deadline=None)
@given(st.lists(EXAMPLE, min_size=1, max_size=4), st.booleans())
def test_gather_is_a_loop_over_the_tokens_of_each_example(examples, phrase):
    spread = [spread_out(e) for e in examples]
    expected = [v for e in spread for v in slow_gather(*e, phrase)]
    assert gather(*flat(spread), phrase=phrase) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("phrase", "expected"), [
    (False, [0, 3, 3, 3, 4, 0, 4, 0]),
    (True, [1, 7 / 3, 7 / 3, 7 / 3, 7 / 3, 0, 4 / 3, 0]),
])  # fmt: skip
def test_gather_by_hand(phrase, expected):
    """Words: -1 alone (0), 2 + 1 (3), 4, then of the next example 4, whose first token stands before it and whose last
    behind it."""
    values = np.array([-1.0, 2, 1, 9, 4, 9, 4, 9])
    word = np.array([0, 1, 1, np.nan, 2, np.nan, 0, np.nan])
    assert gather(values, word, np.zeros(8), np.array([0, 5, 8]), phrase=phrase) == pytest.approx(expected)


@pytest.mark.parametrize("phrase", [False, True])
def test_no_example_leaks_into_the_next(phrase):
    """Word 0 of an example is not word 0 of the one before, its neighbour is not the word before, and no gap reaches
    over the border."""
    one = spread_out(([5.0], [([1.0], False, [2.0]), ([7.0, 1.0], False, [3.0])]))
    rest = spread_out(([4.0], [([100.0], False, [])]))
    single = spread_out(([], [([50.0], False, [])]))
    alone = [gather(*flat([e]), phrase=phrase) for e in (one, single, rest)]
    assert np.concatenate(alone).tolist() == gather(*flat([one, single, ([], [], []), rest]), phrase=phrase).tolist()


def test_without_words_or_tokens_there_is_nothing():
    assert gather(np.ones(3), np.full(3, np.nan), np.zeros(3), np.array([0, 1, 3]), phrase=True).tolist() == [0, 0, 0]
    assert gather(np.zeros(0), np.zeros(0), np.zeros(0), np.array([0, 0]), phrase=False).tolist() == []


@pytest.mark.parametrize(("text", "expected"), [
    ("Ольга живёт в Пскове.", ["ольга", "живёт", "в", "пскове"]),
    ("It's 3,5 well-known_x", ["it", "s", "3", "5", "well", "known", "x"]),
    ("मीरा पुणे में", ["मीरा", "पुणे", "में"]),
    ("李晓梅住在成都。", list("李晓梅住在成都")),
    ("東京タワー", list("東京タワー")),
    ("ที่นี่", ["ที่", "นี่"]),
    ("서울에 산다", ["서울에", "산다"]),
    ("می‌خواهم", ["می‌خواهم"]),
    ("Straße Ⅻ ﬁne", ["strasse", "xii", "fine"]),
    ("Nguyễn Thị Hạnh", ["nguyễn", "thị", "hạnh"]),
    ("… — !", []),
])  # fmt: skip
def test_terms_of_every_script(text, expected):
    assert terms(text) == expected
    assert terms(unicodedata.normalize("NFD", text)) == expected, "an accent may be a character of its own"


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_terms_of_ascii_are_runs_of_letters_and_digits(text):
    assert terms(text) == re.findall("[a-z0-9]+", text.lower())


def test_words_of_other_scripts():
    assert words_of(["मीरा", " पुणे"])[1] == ["मीरा", "पुणे"]
    assert words_of(["李晓", "梅", "住在"])[0].tolist() == [0, 1, 2] and words_of(["李", "晓", "。"])[1] == ["李", "晓"]


def test_a_phrase_is_held_as_whole_words_in_a_row():
    assert holds(terms("He lives in Port Sable."), terms("port sable"))
    assert not holds(terms("He lives in Ports, Able."), terms("Port Sable"))
    assert not holds(terms("Port of Sable"), terms("Port Sable")) and not holds(terms("anything"), terms("…"))
    assert holds(terms("他住在成都市。"), terms("成都"))


def test_a_character_without_blanks_is_a_copy_only_beside_the_same_neighbour():
    """The 成 of 王成 is not that of 成都; the name is copied, the address is not."""
    pieces = list("王成住在成都。")
    assert columns(pieces, range(7), lambda i: False, "王成住哪里？")["copied"].tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert columns(list("住, x"), range(4), lambda i: False, "他住哪里？")["copied"].tolist() == [1, 0, 0, 0], (
        "without a neighbour: anywhere"
    )
