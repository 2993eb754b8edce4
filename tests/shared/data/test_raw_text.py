"""Cutting a text into pieces, and what an earlier sentence of it says already, against slow ways to the same end."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.data.datasets import Row
from shared.data.examples import answer_offsets, answer_place, context_span_tokens, make_examples, place, text_examples, token_texts
from shared.data.layout import special_ids
from shared.data.raw_text import EarlierWords, cut
from shared.data.words import columns, words_of_text
from shared.errors import ConfigError

ENGLISH = 'Orla Venn was born in Port Sable. She paints! "Orla," they say, "was seen in Port Elm."\nPort Sable is small.'
RUSSIAN = "Ольга живёт в Пскове. В Пскове шумно… А Ольга спит."
CHINESE = "王成住在成都。他叫王成，不在北京！成都很大。"
TEXTS = {"english": ENGLISH * 3, "russian": RUSSIAN * 3, "chinese": CHINESE * 3}


@given(st.integers(2, 200), st.integers(0, 2), st.integers(3, 40), st.integers(0, 40))
def test_each_token_is_a_target_once_and_pieces_read_what_came_before(count, begins, length, overlap):
    pieces = list(cut(count, begins, length, overlap))
    known = min(overlap, (length - begins) // 2)
    targets = [i for p in pieces for i in range(p.start, p.end)]
    assert targets == list(range(len(targets))) and len(targets) in (count, count - 1)
    assert len(targets) == count or not (begins or known), "only a single token that nothing comes before is left out"
    for before, piece in pairwise(pieces):
        assert piece.start == before.end and piece.lead == begins
        assert piece.context == max(piece.start - known, begins)
        assert piece.lead + piece.end - piece.context <= length
    assert all(p.lead + p.end - p.context == length for p in pieces[:-1] if p.context > begins), "only the last is shorter"


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("overlap", [0, 1, 5, 6])
def test_pieces_of_a_text_hold_its_tokens_behind_their_own_beginning(any_tokenizer, name, overlap):
    row = Row("raw", None, TEXTS[name])
    whole, placed = any_tokenizer(row.answer)["input_ids"], place(row, any_tokenizer)
    begins = 1 if whole[0] in special_ids(any_tokenizer) else 0
    pieces = list(text_examples(row, any_tokenizer, 13, overlap))
    known = min(overlap, (13 - begins) // 2)
    assert len(pieces) > 3
    own = [whole[: max(begins, 1)], *([e.input_ids[i] for i in e.targets] for e in pieces)]
    if begins or known:
        assert [i for ids in own for i in ids] in (whole, whole[:-1])
    else:  # nothing comes before the first token of a piece
        firsts = [int(piece.id.split("#")[1].split("-")[0]) for piece in pieces]
        assert [i for ids in own for i in ids] == [i for place, i in enumerate(whole) if place == 0 or place not in firsts][
            : sum(map(len, own))
        ]
    for piece in pieces[1:]:
        start, end = map(int, piece.id.split("#")[1].split("-"))
        read = whole[:begins] + whole[max(start - known, begins) : end]
        assert piece.input_ids == read and len(piece.input_ids) <= 13
        if begins or known:
            assert [piece.input_ids[i] for i in piece.targets] == whole[start:end]
        texts = token_texts(piece, placed, any_tokenizer)
        low, high = answer_place(piece, placed)
        own = row.answer[low:high].strip()
        assert own == answer_offsets(piece, placed)[0].strip()
        assert own.endswith("".join(texts[piece.targets[0] :]).strip()), "a letter that a cut goes through is the first token's"


def test_without_an_overlap_pieces_are_as_they_were(any_tokenizer):
    row = Row("raw", None, ENGLISH)
    for old, new in zip(
        text_examples(row, any_tokenizer, 9), make_examples([row], any_tokenizer, context=None, text_length=9), strict=True
    ):
        assert old == new


def test_an_overlap_of_more_than_half_a_piece_is_refused_and_a_small_context_shortens_it(tiny_tokenizer):
    row = Row("raw", None, ENGLISH)
    with pytest.raises(ConfigError, match=r"^text_overlap 6: expected at most 5 tokens, half of text_length$"):
        make_examples([row], tiny_tokenizer, context=None, text_length=10, text_overlap=6)
    assert max(len(e.input_ids) for e in make_examples([row], tiny_tokenizer, context=8, text_length=64, text_overlap=32)) == 8


def test_a_span_in_the_overlap_is_context_there_and_target_in_the_piece_before(any_tokenizer):
    row = Row("raw", None, ENGLISH)
    placed, at = place(row, any_tokenizer), ENGLISH.index("Port Elm")
    found = [(e, span) for e in text_examples(row, any_tokenizer, 16, 6) for span in context_span_tokens(e, placed, [[at, at + 8]]) if span]
    told = [any_tokenizer.decode(e.input_ids[span[0] : span[1]]) for e, span in found]
    assert all(text.strip() and text.strip() in "Port Elm" for text in told), "what a piece holds of the span"
    owned = sum(e.is_target[i] for e, span in found for i in range(*span))
    whole = context_span_tokens(next(text_examples(row, any_tokenizer, 512)), placed, [[at, at + 8]])[0]
    assert whole is not None and owned == whole[1] - whole[0], "each token of it is a target once"
    assert sum(span[1] - span[0] for _, span in found) >= owned


def slow_copies(text: str, sentences: list[str]) -> list[bool]:
    """Of each word of a text, given its sentences: is it in one of those before? Plain words only."""
    out = []
    for number, sentence in enumerate(sentences):
        before = {w.group().casefold().removesuffix("'s") for one in sentences[:number] for w in words_of_text(one)}
        out += [w.group().casefold().removesuffix("'s") in before for w in words_of_text(sentence)]
    assert len(out) == len(words_of_text(text))
    return out


@pytest.mark.parametrize(
    "sentences",
    [
        ["Orla's town was small. ", "It was Orla who left!\n", "Who left town?  ", '"Small?" ', "so they said. ", "Orla"],
        ["Ольга живёт в Пскове. ", "В Пскове шумно… ", "А Ольга спит."],
        ["\n", "One line\n", "one line more\n", "3.14 is no end, line 3.14"],
    ],
)
def test_words_of_an_earlier_sentence_are_copies(sentences):
    text = "".join(sentences)
    assert EarlierWords(text).before(words_of_text(text), 0) == slow_copies(text, sentences)


@given(st.lists(st.lists(st.sampled_from(["ab", "Ab", "cd", "ef", "gh's", "ij"]), min_size=1, max_size=5), min_size=1, max_size=6))
def test_copies_equal_a_slow_count(sentences):
    made = [" ".join(words) + ". " for words in sentences]
    assert EarlierWords("".join(made)).before(words_of_text("".join(made)), 0) == slow_copies("".join(made), made)


def test_a_character_without_blanks_is_a_copy_beside_the_same_neighbour():
    said = dict(
        zip([(m.start(), m.group()) for m in words_of_text(CHINESE)], EarlierWords(CHINESE).before(words_of_text(CHINESE), 0), strict=True)
    )
    second = CHINESE.index("他")
    assert not any(held for (at, _), held in said.items() if at < second), "nothing comes before the first sentence"
    assert said[CHINESE.rindex("王"), "王"] and said[CHINESE.rindex("成都"), "成"] and not said[CHINESE.index("北"), "北"]


@pytest.mark.parametrize("name", TEXTS)
def test_pieces_have_the_copies_of_the_whole_text(any_tokenizer, name):
    """Token by token, wherever the text is cut."""
    row = Row("raw", None, TEXTS[name])
    placed, said = place(row, any_tokenizer), EarlierWords(row.answer)

    def copied(examples):
        out = {}
        for e in examples:
            text, offsets = answer_offsets(e, placed)
            at = answer_place(e, placed)[0]
            made = columns(text, offsets, e.targets, len(e.input_ids), None, lambda words, at=at: said.before(words, at))
            assert np.isnan(made["copied"]).tolist() == [not t for t in e.is_target]
            out |= {e.row_start + i - e.lead: made["copied"][i] for i in e.targets}
        return out

    whole = copied(text_examples(row, any_tokenizer, 10_000))
    cuts = copied(text_examples(row, any_tokenizer, 24, 8))
    assert whole == cuts
    assert 0 < sum(whole.values()) < len(whole)
