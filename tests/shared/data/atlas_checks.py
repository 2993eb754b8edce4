"""What must hold of the atlas in every language and in prose."""

from shared.data import atlas
from shared.data.atlas_words import Book
from shared.data.examples import answer_span_tokens, make_examples, place


def check_that_every_kind_can_name_enough(words: Book) -> None:
    """Twice as many values as people are allowed."""
    person = {"role": 3 * len(words.fields), "birth_year": len(atlas.BIRTH_YEARS), "debut_year": len(atlas.DEBUT_AGES)}

    def count(recipe: str) -> int:
        made = 1
        for slot in atlas.SLOT.findall(recipe):
            made *= person.get(slot) or sum(count(entry) for entry in words.words[slot])
        return made

    few = {kind: [count(recipe) for recipe in recipes] for kind, recipes in words.recipes.items()}
    assert {kind: counts for kind, counts in few.items() if min(counts) < 2 * atlas.MAX_PEOPLE} == {}


def check_span_tokens(rows, tokenizer, *, some_apart: bool = False) -> None:
    """The tokens of the facts, and of what lies around them, are those of the answer. `some_apart`: each answer has
    tokens of no fact."""
    for example in make_examples(rows, tokenizer, context=None):
        answer, spans = example.row.answer, example.row.extra["fact_spans"]
        placed = place(example.row, tokenizer)
        tokens = answer_span_tokens(example, tokenizer, spans, placed)
        # What lies before, in and after the facts: every target token of the answer is in one of them.
        edges = [0, *(edge for span in spans for edge in span), len(answer)]
        around = answer_span_tokens(example, tokenizer, list(zip(edges[::2], edges[1::2], strict=True)), placed)
        whole = answer_span_tokens(example, tokenizer, [[0, len(answer)]], placed)
        assert tokens and sorted({*tokens, *around}) == sorted(whole)
        assert not some_apart or len(tokens) < len(whole)
        assert len({*tokens} & {*around}) <= 2 * len(spans)  # a token across an edge counts on both sides
