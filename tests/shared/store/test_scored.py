"""Tokens that a column of the data names, in answers and in raw text, in every piece of a text."""

import pytest

from shared.data.datasets import Row
from shared.data.examples import make_examples, place
from shared.store.scored import given_tokens

TEXTS = {
    "english": ("Ada was born in London, on 10 December. She wrote to Mr Babbage of Ely.", ["London", "Babbage of Ely"]),
    "russian": ("Жила-была Ада в городе Псков, а потом уехала в Ижевск к Žofie.", ["Псков", "Ижевск к Ž"]),
    "chinese": ("艾达出生在伦敦，后来她住在巴黎，写了很多信。", ["伦敦", "巴黎"]),
}


def row_of(name: str, question: str | None = None) -> Row:
    text, facts = TEXTS[name]
    return Row(f"set/split/{name}", question, text, {"facts": [[text.index(f), text.index(f) + len(f)] for f in facts]})


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("length", [4, 9, 512])
def test_spans_of_raw_text_name_the_same_tokens_in_pieces_and_in_the_whole(any_tokenizer, name, length):
    row = row_of(name)
    placed = place(row, any_tokenizer)
    expected = {i for i, (start, end) in enumerate(placed.offsets) for a, b in row.extra["facts"] if max(start, a) < min(end, b) and i > 0}
    pieces = make_examples([row], any_tokenizer, context=None, text_length=length)
    found = set()
    for example, tokens in given_tokens(pieces, any_tokenizer, "facts", flag="--set given_key"):
        assert all(example.is_target[i] for i in tokens)
        found |= {example.row_start + i - example.lead for i in tokens}
    firsts = {piece.row_start for piece in pieces if not piece.is_target[piece.lead]}  # which no token comes before
    assert found == expected - firsts
    assert found, "a fact lies in some piece"


@pytest.mark.parametrize("name", TEXTS)
def test_a_row_of_raw_text_beside_rows_with_questions_keeps_its_own_tokens(any_tokenizer, name):
    rows = [row_of(name), row_of(name, "Who was she?"), row_of("english")]
    examples = make_examples(rows, any_tokenizer, context=None, text_length=11)
    apart = [make_examples([row], any_tokenizer, context=None, text_length=11) for row in rows]
    together = [tokens for _, tokens in given_tokens(examples, any_tokenizer, "facts", flag="--set given_key")]
    assert together == [tokens for one in apart for _, tokens in given_tokens(one, any_tokenizer, "facts", flag="--set given_key")]
    text = any_tokenizer.decode([e.input_ids[i] for e, got in zip(examples, together, strict=True) if e.row is rows[1] for i in got])
    assert all(fact.replace(" ", "") in text.replace(" ", "") for fact in TEXTS[name][1])
