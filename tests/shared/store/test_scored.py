"""Tokens that a column of the data names, in answers and in raw text, in every piece of a text."""

import pytest

from shared.data.datasets import Row
from shared.data.examples import make_examples, place
from shared.errors import DataError
from shared.store.scored import blocked_tokens, given_tokens

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


# --- blocklists


def named(row: Row, tokenizer, column, **more) -> list[int]:
    examples = make_examples([Row(row.id, row.question, row.answer, {"names": column})], tokenizer, context=None, **more)
    return [i for _, tokens in given_tokens(examples, tokenizer, "names", flag="--set given_key") for i in tokens]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("question", [None, "Who was she?"])
def test_words_of_a_column_name_the_same_tokens_as_their_places(any_tokenizer, name, question, capsys):
    row = row_of(name, question)
    expected = named(row, any_tokenizer, row.extra["facts"])
    words = [row.answer[a:b] for a, b in row.extra["facts"]]
    words[1] = words[1].removesuffix(" Ž") if name == "russian" else words[1]  # half a word is none
    whole = named(row, any_tokenizer, [[row.answer.index(w), row.answer.index(w) + len(w)] for w in words])
    assert named(row, any_tokenizer, [w.upper() for w in words]) == whole and whole and set(whole) <= set(expected)
    assert capsys.readouterr().err == ""
    assert named(row, any_tokenizer, [*words, "Zanzibar"]) == whole
    assert "column names: 1 of 3 words and phrases occur in no answer that they are for" in capsys.readouterr().err
    assert named(row, any_tokenizer, words[0]) == named(row, any_tokenizer, [words[0]])
    assert named(row, any_tokenizer, "") == named(row, any_tokenizer, []) == []


def test_a_list_for_all_rows_is_looked_for_in_each(any_tokenizer, capsys):
    rows = [row_of(name) for name in TEXTS]
    examples = make_examples(rows, any_tokenizer, context=None)
    got = blocked_tokens(examples, any_tokenizer, ["london", "Псков", "伦敦", "Ely", "Zanzibar"], flag="--set blocklist")
    assert [e for e, _ in got] == examples
    texts = {name: "".join(any_tokenizer.decode([e.input_ids[i] for i in t]) for e, t in got if e.row.id.endswith(name)) for name in TEXTS}
    assert "London" in texts["english"] and "Ely" in texts["english"] and "Babbage" not in texts["english"]
    assert "Псков" in texts["russian"] and "伦敦" in texts["chinese"]
    assert "--set blocklist: 1 of 5 words and phrases occur in no answer" in capsys.readouterr().err


@pytest.mark.parametrize("column", [["Zanzibar"], "Zanzibar"])
def test_words_of_which_none_occurs_are_refused_and_not_shown(tiny_tokenizer, column):
    with pytest.raises(DataError, match=r"^column names: none of its 1 words and phrases occurs in an answer") as caught:
        named(row_of("english"), tiny_tokenizer, column)
    assert "Zanzibar" not in str(caught.value)
    with pytest.raises(DataError, match=r"^--set blocklist: none of its 1 words"):
        blocked_tokens(
            make_examples([row_of("english")], tiny_tokenizer, context=None), tiny_tokenizer, ["Zanzibar"], flag="--set blocklist"
        )


@pytest.mark.parametrize("column", [None, 5, ["London", [0, 3]], ["London", " "], {"a": 1}])
def test_a_column_of_neither_places_nor_words_is_refused(tiny_tokenizer, column):
    with pytest.raises(DataError, match=r"^set/split/english: its names .*expected \[\[start, end\], \.\.\.\] .*, or words of it$"):
        named(row_of("english"), tiny_tokenizer, column)
