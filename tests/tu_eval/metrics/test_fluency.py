"""Fluency, against loops and counts by hand, in more than one script."""

import pytest

from tu_eval.metrics.fluency import babbles, distinct, fluency, refuses, repetition, word_match


def repeated_by_loop(words, n):
    seen, again = [], 0
    for i in range(len(words) - n + 1):
        again += words[i : i + n] in seen
        seen.append(words[i : i + n])
    return again / len(seen) if seen else 0.0


@pytest.mark.parametrize("text", ["a b a b a b a b a b", "one two three", "", "x " * 40, "the cat sat on the mat, the cat sat on it"])
def test_repetition_is_the_share_of_runs_that_were_there_before(text):
    words = text.split()
    for n in (1, 2, 4):
        assert repetition(words, n) == pytest.approx(repeated_by_loop(words, n), abs=1e-12)


def test_distinct_n_by_hand():
    assert distinct([["a", "b", "a"], ["a", "b"]], 1) == 2 / 5
    assert distinct([["a", "b", "a"], ["a", "b"]], 2) == 2 / 3
    assert distinct([["a"], []], 2) is None


@pytest.mark.parametrize(
    "text", ["", " \n", "?! …", "no no no no no no no no no", "我我我我我我我我我我", "и и и и и и и и", "ไทยไทยไทยไทยไทยไทยไทยไทย"]
)
def test_babble_in_any_script(text):
    assert babbles(text)


@pytest.mark.parametrize("text", ["He was born in Lisbon in 1947.", "Она родилась в Москве.", "她出生在北京的村庄里。", "وُلدت في القاهرة"])
def test_an_answer_in_any_script_is_none(text):
    assert not babbles(text) and not refuses(text)


@pytest.mark.parametrize("text", ["I’m sorry, but no.", "  \"I don't know that person", "JE NE SAIS PAS.", "我不知道这个人", "не знаю"])
def test_refusals_are_known_by_their_beginning(text):
    assert refuses(text) and not refuses(f"She said: and then {text}")


def test_all_numbers_of_a_set():
    found = fluency(["a b c d e", "", "go go go go go go", "I cannot say"])
    words = [["a", "b", "c", "d", "e"], [], ["go"] * 6, ["i", "cannot", "say"]]
    assert found.texts == 4 and found.empty == 0.25 and found.refusing == 0.25 and found.babbling == 0.5
    assert found.repetition == pytest.approx((0 + repeated_by_loop(words[2], 4) + 0) / 3, abs=1e-12)
    assert (found.distinct_1, found.distinct_2) == (9 / 14, (4 + 1 + 2) / (4 + 5 + 2))
    nothing = fluency(["", " "])
    assert (nothing.repetition, nothing.distinct_1, nothing.empty, nothing.babbling) == (None, None, 1, 1)


def test_a_word_is_found_as_a_whole_word_in_any_script():
    assert word_match("Born in LISBON, Portugal", ["Lisbon"]) and not word_match("Born in Lisbonne", ["Lisbon"])
    assert word_match("他出生在北京市", ["北京"]) and not word_match("他出生在京北市", ["北京"])
    assert word_match("ﬁne Ｃａｆｅ", ["fine cafe"]) and word_match("В МОСКВЕ", ["москве"])
    assert not word_match("anything", []) and not word_match("anything", ["…"])
    assert not word_match("Ana and Bo", ["Ana", "Cy"])
