"""How words are written, and in how many answers they stand: against loops over single words."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.data import written as module
from shared.data.datasets import Row
from shared.data.examples import answer_offsets, place, qa_example, token_texts
from shared.data.words import WORD, plain
from shared.data.written import COMMAS, ENDS, PRIOR, PRIOR_SHARE, QUOTES, SMALLEST, WRITTEN, Documents, written

ANSWERS = [
    'Orla Venn wrote "The Last Tide" in 1987, and Venn, her father, read it. She said: no.',
    "La señora Peña nació en Ávila. ¿Dónde? «El Mar» es suyo, de 1990.",
    "ولدت ليلى في 1990، وكتبت «البحر». أين؟",
    "李梅于1990年出生。她写了《海》，在哈尔滨。",
    "Ǆemal lives here. 4th of May",
    "",
    "...",
]


def by_words(text: str) -> dict[str, list[float]]:
    """Each word of a text by the rules of the module, one after another."""
    out: dict[str, list[float]] = {name: [] for name in WRITTEN}
    earlier, end = [], 0
    for match in WORD.finditer(text):
        word, gap = match.group(), text[end : match.start()]
        bare = word.lstrip("_")
        first = bare[0] if bare else ""
        out["capital"].append(float(first.isupper() or first.istitle()))
        out["begins"].append(float(end == 0 or any(ENDS.fullmatch(c) for c in gap)))
        out["digit"].append(float(any(c.isdigit() for c in bare)))
        out["quoted"].append(float(any(QUOTES.fullmatch(c) for c in gap) or word.startswith("_")))
        out["comma"].append(float(any(COMMAS.fullmatch(c) for c in gap)))
        out["repeated"].append(float(plain(bare) in earlier))
        earlier.append(plain(bare))
        end = match.end()
    return out


def rarity(documents: Documents, text: str) -> np.ndarray:
    return written(characters(text), documents)["rarity"]


def characters(text: str) -> list[str]:
    return list(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_each_character_has_what_is_told_of_its_word(text):
    expected, found = by_words(text), written(characters(text))
    for name in WRITTEN:
        values = np.zeros(len(text))
        for match, value in zip(WORD.finditer(text), expected[name], strict=True):
            values[match.start() : match.end()] = value
        assert found[name].tolist() == values.tolist(), name


@given(st.text(alphabet="aBé1 ,.«\"_'-梅。\n", max_size=30))
def test_of_any_text(text):
    found = written(characters(text))
    assert {len(values) for values in found.values()} == {len(text)}
    for name, values in by_words(text).items():
        assert [found[name][m.start()] for m in WORD.finditer(text)] == values


@pytest.mark.parametrize("text", ANSWERS[:5])
def test_any_tokenizer_tells_the_same(any_tokenizer, text):
    row = Row("r", "What?", text, {})
    example, placed = qa_example(row, any_tokenizer), place(row, any_tokenizer)
    pieces = token_texts(example, placed, any_tokenizer)
    found = written([pieces[i] for i in example.targets])
    whole, offsets = answer_offsets(example, placed)
    expected, begun = by_words(whole), [k for k, m in enumerate(WORD.finditer(whole))]
    for k, match in zip(begun, WORD.finditer(whole), strict=True):
        own = [t for t, (a, b) in enumerate(offsets) if a < b and a < match.end() and b > match.start() and pieces[example.targets[t]]]
        inside = [t for t in own if offsets[t][1] <= match.end() or offsets[t][0] >= match.start()]
        for name in WRITTEN:
            assert max(found[name][t] for t in inside) >= expected[name][k], (match.group(), name)


def test_rarity_is_the_share_of_the_other_answers():
    texts = ["the cat", "the dog the", "a cat", "the sun"]
    documents = Documents()
    for text in texts:
        documents.add(characters(text))
    others = {"the": 2, "cat": 1, "dog": 0, "a": 0, "sun": 0}
    for text in texts:
        found = rarity(documents, text)
        for match in WORD.finditer(text):
            share = (others[match.group()] + PRIOR * PRIOR_SHARE) / (len(texts) - 1 + PRIOR)
            assert found[match.start()] == pytest.approx(-math.log(max(share, SMALLEST)))
        assert all(found[i] == 0 for i, c in enumerate(text) if c == " ")


def test_words_that_stand_everywhere_are_not_rare_in_any_language():
    for common, rare in (("the", "Venn"), ("de", "Peña"), ("在", "梅")):
        documents, texts = Documents(), [f"{common} {rare if k == 3 else k}" for k in range(60)]
        for text in texts:
            documents.add(characters(text))
        found = rarity(documents, texts[3])
        assert found[0] < 0.3 and found[-1] == pytest.approx(-math.log(SMALLEST))


def test_few_answers_say_little():
    documents = Documents()
    documents.add(characters("only one"))
    assert rarity(documents, "only one")[0] == pytest.approx(-math.log(SMALLEST))


def test_words_that_are_forgotten_for_want_of_room_were_rare(monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 50)
    documents, kept = Documents(room=50), Documents()
    texts = [f"the w{k}" for k in range(600)]
    for text in texts:
        documents.add(characters(text))
        kept.add(characters(text))
    assert len(documents.held) < 200 and len(kept.held) == 601
    for text in texts:
        assert rarity(documents, text).tolist() == rarity(kept, text).tolist()
