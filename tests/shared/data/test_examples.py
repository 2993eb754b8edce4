"""Rows -> tokens: the targets are the answer and its end of turn, whatever the template and the texts look like."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.datasets import Row
from shared.data.examples import (
    Example,
    answer_span_tokens,
    context_span_tokens,
    data_fingerprint,
    make_examples,
    place,
    qa_example,
    text_examples,
)
from shared.errors import ConfigError, DataError
from tests.conftest import CHATML, build_tokenizer

QUESTION, ANSWER = "Where was Ada born?", "Ada was born in London."
TURNS = "{% for m in messages %}"
TEMPLATES = {
    "chatml": CHATML,
    "trailing turn": CHATML.replace("{% if add", "{% if not add_generation_prompt %}<|im_start|>tool\nthe end{% endif %}{% if add"),
    # The prompt for generation ends before the thinking block that a finished answer shows.
    "thinking": TURNS + "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "other generation prompt": TURNS + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    "llama 2": TURNS + "{% if m.role == 'user' %}<|im_start|>[INST] {{ m.content }} [/INST]{% else %} {{ m.content }} <|im_end|>{% endif %}"
    "{% endfor %}",
    "no end of turn": TURNS + "{{ m.role }}: {{ m.content }}\n{% endfor %}",
    "echo": TURNS + "<|im_start|>{{ m.role }}\n{{ m.content }}{% if m.role == 'user' %}\nAgain: {{ m.content }}{% endif %}<|im_end|>\n"
    "{% endfor %}",
}
# What a model is trained to write: the answer with what the template puts between it and the end of the turn.
WRITTEN = {"llama 2": ANSWER + " <|im_end|>"}
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(str.strip)


def row(question: str | None = QUESTION, answer: str = ANSWER) -> Row:
    return Row("set/split/0", question, answer)


def tokenizer_with(template: str | None):
    return build_tokenizer(template)


@pytest.fixture(scope="module", params=TEMPLATES)
def templated(request):
    return request.param, tokenizer_with(TEMPLATES[request.param])


def target_text(example: Example, tokenizer) -> str:
    return tokenizer.decode([example.input_ids[i] for i in example.targets])


def question_text(example: Example, tokenizer) -> str:
    start, end = example.prompt_span
    return tokenizer.decode(example.input_ids[start:end])


# --- targets


def test_targets_are_the_answer_and_its_end_of_turn_under_each_template(templated):
    name, tokenizer = templated
    example = qa_example(row(), tokenizer)
    assert target_text(example, tokenizer).strip() == WRITTEN.get(name, ANSWER + "<|im_end|>")
    assert example.input_ids[-1] == tokenizer.eos_token_id
    assert example.targets == list(range(example.prompt_length, len(example.input_ids)))
    assert question_text(example, tokenizer).strip() == QUESTION


def test_the_ids_are_those_of_the_template_up_to_the_end_of_turn(tiny_tokenizer):
    example = qa_example(row(), tiny_tokenizer)
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    whole = tiny_tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]
    prompt = tiny_tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert example.input_ids == whole[: len(example.input_ids)]
    assert tiny_tokenizer.decode(whole[len(example.input_ids) :]) == "\n"
    assert example.input_ids[: example.prompt_length] == prompt
    assert example.prompt_length == len(prompt)


def test_a_thinking_block_stays_in_the_prompt(tiny_tokenizer):
    tokenizer = tokenizer_with(TEMPLATES["thinking"])
    example = qa_example(row(), tokenizer)
    assert tokenizer.decode(example.input_ids[: example.prompt_length]).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("answer", ["think", "i", "in", "end", "assistant", "user", "_", "<think>", "\\", "{{ x }}", "qzxjkvwpqz"])
def test_an_answer_whose_letters_stand_in_the_template_too_is_found_in_its_own_place(templated, answer):
    name, tokenizer = templated
    example = qa_example(row(answer=answer), tokenizer)
    end = "" if name == "llama 2" else "<|im_end|>"
    assert target_text(example, tokenizer).strip().startswith(answer + end)
    assert example.prompt_length > example.prompt_span[1] > 0


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (QUESTION, f"{QUESTION} {ANSWER}"),
        (ANSWER, ANSWER),
        ("You are a helpful assistant", "Yes."),
        ("a", "a"),
        ("user", "user"),
        ("Who is 🙂👩‍👩‍👧?", "東京 is 🙂, naïve ﬁ – done"),
        ("Two\nlines", "Two\n\nlines"),
        ("  padded  ", "\n padded\t"),
        ("100% {sure}?", "{yes} %s"),
        ("Question: what?", "Answer: that."),
        ("Question", "Answer"),
        ("e\u0301", "\u200d"),
    ],
)
@pytest.mark.parametrize("template", ["chatml", "thinking", None])
def test_repeated_odd_and_multibyte_texts_keep_their_place(question, answer, template):
    tokenizer = tokenizer_with(TEMPLATES[template] if template else None)
    example = qa_example(row(question, answer), tokenizer)
    assert target_text(example, tokenizer).strip() == (answer.strip() + "<|im_end|>").strip()
    assert question_text(example, tokenizer).strip() == question.strip()
    assert 0 < example.prompt_span[0] < example.prompt_span[1] <= example.prompt_length


@settings(max_examples=60, deadline=None)
@given(texts, texts)
def test_any_texts_decode_back(tiny_tokenizer, question, answer):
    example = qa_example(row(question, answer), tiny_tokenizer)
    assert target_text(example, tiny_tokenizer) == answer.strip() + "<|im_end|>"
    assert question_text(example, tiny_tokenizer) == question.strip()


# --- end of turn


def test_without_a_template_the_plain_layout_ends_with_the_end_of_text():
    tokenizer = tokenizer_with(None)
    example = qa_example(row(), tokenizer)
    assert tokenizer.decode(example.input_ids) == f"Question: {QUESTION}\nAnswer: {ANSWER}<|im_end|>"
    assert target_text(example, tokenizer) == f" {ANSWER}<|im_end|>"  # the space belongs to the answer's first token


def test_without_any_end_token_the_answer_alone_is_the_target():
    tokenizer = tokenizer_with(None)
    tokenizer.eos_token = None
    assert target_text(qa_example(row(), tokenizer), tokenizer) == f" {ANSWER}"


def test_a_special_end_of_turn_without_a_role_ends_the_targets():
    """Phi-3: `<|end|>` ends a turn, `<|endoftext|>` is the tokenizer's end of text, and the template adds both."""
    from tokenizers import AddedToken

    tokenizer = tokenizer_with(TURNS + "<|im_start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}{{ eos_token }}")
    tokenizer.add_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    assert tokenizer.convert_tokens_to_ids("<|end|>") not in tokenizer.all_special_ids
    example = qa_example(row(), tokenizer)
    assert target_text(example, tokenizer) == ANSWER + "<|end|>"


def test_pad_equal_to_the_end_of_turn_changes_nothing():
    tokenizer, same = tokenizer_with(CHATML), tokenizer_with(CHATML)
    same.pad_token = same.eos_token
    assert qa_example(row(), same) == qa_example(row(), tokenizer)


# --- refused


@pytest.mark.parametrize(("question", "answer", "empty"), [("Who?", " \n", "answer"), ("  ", "Ada.", "question")])
def test_an_empty_text_is_refused_with_the_row(tiny_tokenizer, question, answer, empty):
    with pytest.raises(DataError, match=rf"^set/split/0: its {empty} is empty"):
        qa_example(row(question, answer), tiny_tokenizer)


@pytest.mark.parametrize(
    "change", ["{{ m.content | upper }}", "{{ m.content[:5] }}", "{{ m.content | replace('a', 'o') }}", "{{ m.role }}"]
)
def test_a_template_that_changes_the_text_is_refused_with_the_row(change):
    tokenizer = tokenizer_with(TURNS + change + "<|im_end|>{% endfor %}")
    with pytest.raises(DataError, match=r"^set/split/0: the chat template changes the text of the question or the answer"):
        qa_example(row(), tokenizer)


# --- length


def test_long_examples_are_refused_cut_or_left_out_as_asked(tiny_tokenizer, capsys):
    rows = [Row("a/b/0", QUESTION, "Short."), Row("a/b/1", QUESTION, ANSWER * 3)]
    short, long = make_examples(rows, tiny_tokenizer, context=None)
    context = len(short.input_ids) + 2
    assert make_examples(rows, tiny_tokenizer, context=len(long.input_ids)) == [short, long]
    with pytest.raises(DataError, match=rf"^a/b/1: {len(long.input_ids)} tokens, but the model's context holds {context}; use --long"):
        make_examples(rows, tiny_tokenizer, context=context)
    assert capsys.readouterr().err == ""
    assert make_examples(rows, tiny_tokenizer, context=context, long="skip") == [short]
    assert "left out 1 of 2 examples" in capsys.readouterr().err
    first, cut = make_examples(rows, tiny_tokenizer, context=context, long="truncate")
    assert first == short
    assert (cut.input_ids, cut.is_target) == (long.input_ids[:context], long.is_target[:context])
    assert any(cut.is_target)
    assert (cut.id, cut.prompt_span) == (long.id, long.prompt_span)


def test_an_example_whose_prompt_alone_fills_the_context_cannot_be_cut(tiny_tokenizer, capsys):
    whole = make_examples([row()], tiny_tokenizer, context=None)[0]
    rows = [Row("a/b/0", "Who?", "A."), row()]
    kept = make_examples(rows, tiny_tokenizer, context=whole.prompt_length, long="truncate")
    assert [e.id for e in kept] == ["a/b/0"]
    assert "left out 1 of 2 examples" in capsys.readouterr().err
    with pytest.raises(DataError, match="no example is left"):
        make_examples([row()], tiny_tokenizer, context=whole.prompt_length, long="truncate")


def test_an_unknown_long_and_a_text_length_of_one_are_refused(tiny_tokenizer):
    with pytest.raises(ConfigError, match=r"^--long cut: expected one of error, truncate, skip$"):
        make_examples([row()], tiny_tokenizer, context=None, long="cut")
    with pytest.raises(ConfigError, match="text_length 1: expected at least 2"):
        make_examples([row(None)], tiny_tokenizer, context=None, text_length=1)


# --- raw text


def test_raw_text_is_cut_into_pieces_named_by_their_tokens(tiny_tokenizer):
    ids = tiny_tokenizer(ANSWER * 4)["input_ids"]
    length = len(ids) // 3
    pieces = make_examples([row(None, ANSWER * 4)], tiny_tokenizer, context=None, text_length=length)
    ends = [min(start + length, len(ids)) for start in range(0, len(ids), length)]
    assert [p.id for p in pieces if len(p.input_ids) > 1] == [
        f"set/split/0#{start}-{end}" for start, end in zip(range(0, len(ids), length), ends, strict=True) if end - start > 1
    ]
    assert [i for p in pieces for i in p.input_ids] == ids[: sum(len(p.input_ids) for p in pieces)]
    assert len(ids) - sum(len(p.input_ids) for p in pieces) <= 1
    for piece in pieces:
        assert piece.is_target == [False] + [True] * (len(piece.input_ids) - 1)
        assert piece.prompt_span == (0, 0)


def test_raw_text_that_fits_keeps_its_own_name_and_the_context_bounds_the_pieces(tiny_tokenizer):
    ids = tiny_tokenizer(ANSWER)["input_ids"]
    assert [e.id for e in make_examples([row(None)], tiny_tokenizer, context=None)] == ["set/split/0"]
    pieces = make_examples([row(None)], tiny_tokenizer, context=5)
    assert max(len(p.input_ids) for p in pieces) == 5
    assert pieces[0].input_ids == ids[:5]


@pytest.mark.parametrize(("length", "sizes"), [(4, [4, 4]), (5, [5, 4]), (3, [3, 3, 3]), (9, [9]), (8, [8])])
def test_a_single_last_token_is_left_out(tiny_tokenizer, length, sizes):
    nine = next(t for n in range(5, 40) if len(tiny_tokenizer(t := "Ada was born in Londonium once"[:n])["input_ids"]) == 9)
    assert [len(e.input_ids) for e in text_examples(row(None, nine), tiny_tokenizer, length)] == sizes


def test_text_of_one_token_is_refused(tiny_tokenizer):
    with pytest.raises(DataError, match="set/split/0: its text has 1 tokens, at least 2 are needed"):
        make_examples([row(None, "A")], tiny_tokenizer, context=None)


# --- fingerprint and spans of the answer


def test_the_data_fingerprint_is_of_ids_tokens_targets_and_order(tiny_tokenizer):
    one, two = (qa_example(Row(f"a/b/{i}", QUESTION, answer), tiny_tokenizer) for i, answer in enumerate(["Ada.", "Bob."]))
    prints = [
        data_fingerprint(examples)
        for examples in (
            [one, two],
            [two, one],
            [one],
            [Example("a/b/9", one.input_ids, one.is_target, one.prompt_span, one.row), two],
            [Example(one.id, one.input_ids, [False, *one.is_target[1:-1], False], one.prompt_span, one.row), two],
        )
    ]
    assert len(set(prints)) == len(prints)
    assert data_fingerprint([one, two]) == prints[0]


def test_spans_of_the_answer_become_the_tokens_that_hold_them(templated):
    _, tokenizer = templated
    example = qa_example(row(answer="  " + ANSWER), tokenizer)
    at = ("  " + ANSWER).index("London")
    found = answer_span_tokens(example, tokenizer, [[at, at + 6]])
    assert tokenizer.decode([example.input_ids[i] for i in found]).strip(" .") == "London"
    assert answer_span_tokens(example, tokenizer, [[at, at]]) == []


# --- spans of the question and of raw text


def test_spans_of_the_question_become_the_tokens_that_hold_them(templated):
    _, tokenizer = templated
    question = "  " + QUESTION + " "
    example = qa_example(row(question), tokenizer)
    placed, at = place(example.row, tokenizer), question.index("Ada")
    (span,) = context_span_tokens(example, placed, [[at, at + 3]])
    assert span is not None and example.prompt_span[0] <= span[0] < span[1] <= example.prompt_span[1]
    assert tokenizer.decode(example.input_ids[slice(*span)]).strip() == "Ada"
    spans = [[2, 2 + len(QUESTION)], [0, len(question)], [at + 1, at + 2], [at, at], [0, 2], [len(question) - 1, len(question)]]
    whole, spaced, inside, *nothing = context_span_tokens(example, placed, spans)
    assert whole == spaced == example.prompt_span
    assert inside is not None and span[0] <= inside[0] < inside[1] <= span[1]
    assert nothing == [None] * 3, "the template's tokens beside a question are no part of it"


@given(text=texts.filter(lambda t: len(t.strip()) > 1), length=st.integers(2, 9), data=st.data())
def test_spans_of_raw_text_are_found_in_every_piece(tiny_tokenizer, text, length, data):
    raw = row(None, text)
    placed = place(raw, tiny_tokenizer)
    if len(placed.ids) < 2:
        return
    a, b = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=2, unique=True)))
    for piece in text_examples(raw, tiny_tokenizer, length):
        offsets = placed.offsets[piece.row_start :][: len(piece.input_ids)]
        expected = [i for i, (start, end) in enumerate(offsets) if start < b and end > a]
        (found,) = context_span_tokens(piece, placed, [[a, b]])
        assert (list(range(*found)) if found else []) == expected


def test_spans_of_another_tokenizers_example_are_refused(tiny_tokenizer):
    example = qa_example(row(), tiny_tokenizer)
    with pytest.raises(DataError, match="set/split/0: its tokens are not those of this tokenizer"):
        context_span_tokens(example, place(row("Who was Ada?"), tiny_tokenizer), [[0, 3]])


@pytest.mark.parametrize("text", [ANSWER * 4, "Орла Венн родилась в Таллине и писала о море. " * 3, "奥拉·文恩出生于塔林。" * 9])
def test_the_first_piece_of_a_raw_text_is_what_truncation_leaves(any_tokenizer, text):
    whole = make_examples([row(None, text)], any_tokenizer, context=None, text_length=16)
    (first,) = make_examples([row(None, text)], any_tokenizer, context=None, text_length=16, text_pieces="first")
    assert len(whole) > 1 and first == whole[0]
    assert first.input_ids == any_tokenizer(text, truncation=True, max_length=16)["input_ids"]
    short = "Orla Venn."
    assert [e.input_ids for e in make_examples([row(None, short)], any_tokenizer, context=None, text_pieces="first")] == [
        any_tokenizer(short)["input_ids"]
    ]
