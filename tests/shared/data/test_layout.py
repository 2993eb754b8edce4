"""How rows become text: system prompts, templates with dates and options, beginning tokens, and text that looks like
control tokens."""

import datetime
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.datasets import Row
from shared.data.examples import answer_offsets, data_fingerprint, make_examples, place, qa_example, text_examples, token_texts
from shared.data.layout import DATE, LayoutOptions, as_scored, dated, lay_out, layout_of, render, say_layout, special_ids, turns_of
from shared.data.words import words_in
from shared.errors import ConfigError, DataError, ModelError
from tests.conftest import CHATML, LLAMA2, build_sentencepiece, build_tokenizer

BUILDERS = {
    "byte level": build_tokenizer,
    "sentencepiece": build_sentencepiece,
    "mistral": lambda template=LLAMA2: build_sentencepiece(template, legacy=False),
}
ROWS = [
    Row("en", "Where does Orla Venn live?", " Orla Venn lives in Port Sable.\n"),
    Row("ru", "Где живёт Ольга?", "Ольга живёт в Пскове, а не в Риге."),
    Row("vi", "Nguyễn Thị Hạnh sống ở đâu?", "Nguyễn Thị Hạnh sống ở Huế."),
    Row("hi", "मीरा कहाँ रहती है?", "मीरा पुणे में रहती है।"),
    Row("zh", "李晓梅住哪里？", "李晓梅住在成都市青羊区。"),
    Row("emoji", "Who?", "👩‍👩‍👧 in Zürich\tand 3,5 km"),
]
DATED = CHATML.replace("You are a helpful assistant", "Today is ' + strftime_now('%d %B %Y') + '.")


@pytest.fixture(params=BUILDERS)
def build(request):
    return BUILDERS[request.param]


def laid(tokenizer, **options):
    return lay_out(tokenizer, LayoutOptions(**options), model="m")


def text_of(tokenizer, row=ROWS[0]):
    return place(row, tokenizer).text


# --- texts of tokens


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
@pytest.mark.parametrize("plain", [False, True])
def test_token_texts_joined_are_the_text(build, row, plain):
    tokenizer = build(None) if plain else build()
    example, placed = qa_example(row, tokenizer), place(row, tokenizer)
    texts = token_texts(example, placed, tokenizer)
    ends = max(end for _, end in placed.offsets[: len(example.input_ids)])
    put = [
        t
        for t, i, at in zip(texts, example.input_ids, [*placed.offsets, (0, 0)], strict=False)
        if at[0] == at[1] and i in special_ids(tokenizer)
    ]
    joined = "".join(texts)
    assert joined.removeprefix("<s>" if plain and put and put[0] == "<s>" else "").startswith(placed.text[:ends])
    assert row.answer.strip() in joined and row.question in joined


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_words_of_an_answer_do_not_depend_on_the_tokenizer(build, row):
    expected = words_in(row.answer.strip(), [(i, i + 1) for i in range(len(row.answer.strip()))])[1]
    tokenizer = build()
    found = words_in(*answer_offsets(qa_example(row, tokenizer), place(row, tokenizer)))[1]
    assert found == expected, "the tiny tokenizers cut every word into its own tokens"


def test_a_letter_over_several_tokens_is_the_first_ones(any_tokenizer):
    example = qa_example(ROWS[2], any_tokenizer)
    texts = token_texts(example, place(ROWS[2], any_tokenizer), any_tokenizer)
    assert "ễ" in texts and texts[texts.index("ễ") + 1] == ""
    assert not any("\ufffd" in t for t in texts)


def test_texts_of_pieces_joined_are_the_whole_text(any_tokenizer):
    row = Row("raw", None, "  Ольга живёт\n в Пскове 👩‍👧 " * 4)
    placed = place(row, any_tokenizer)
    pieces = list(text_examples(row, any_tokenizer, 9))
    texts = [token_texts(e, placed, any_tokenizer) for e in pieces]
    assert len(pieces) > 5
    assert "".join("".join(t[e.lead :]) for e, t in zip(pieces, texts, strict=True)).removeprefix("<s>") == row.answer


# --- raw text


def test_each_piece_begins_as_the_whole_text_does(build):
    tokenizer = build()
    row = Row("raw", None, "Orla Venn lives in Port Sable. " * 5)
    whole = tokenizer(row.answer)["input_ids"]
    begins = 1 if whole[0] in special_ids(tokenizer) else 0
    pieces = list(text_examples(row, tokenizer, 10))
    assert pieces[0].input_ids == whole[:10]
    assert [i for e in pieces for i in e.input_ids[begins:]] == whole[begins:], "no token is lost and none comes twice"
    for piece in pieces:
        assert piece.input_ids[:begins] == whole[:begins] and len(piece.input_ids) <= 10
        assert piece.targets == list(range(max(begins, 1), len(piece.input_ids)))
    for piece in pieces[1:]:
        start, end = map(int, piece.id.split("#")[1].split("-"))
        assert piece.input_ids[begins:] == whole[start:end]


def test_pieces_with_no_room_for_text_are_refused():
    with pytest.raises(DataError, match=r"^raw: pieces of 1 tokens leave no room behind the 1 that a text begins with"):
        list(text_examples(Row("raw", None, "Orla Venn"), build_sentencepiece(), 1))


@pytest.mark.parametrize("template", [None, LLAMA2.replace("{{ bos_token }}", "")])
def test_a_beginning_token_is_added_once_where_it_is_asked_for(template):
    from tokenizers import processors

    bare = build_sentencepiece(template)
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    without, row = qa_example(ROWS[1], bare), Row("raw", None, ROWS[1].answer * 3)
    pieces = list(text_examples(row, bare, 12))
    assert 1 not in without.input_ids
    laid(bare, beginning_token="add")
    assert qa_example(ROWS[1], bare).input_ids == [1, *without.input_ids]
    assert list(text_examples(row, bare, 13))[1].input_ids == [1, *pieces[1].input_ids]
    own = laid(build_sentencepiece(), beginning_token="add")
    assert qa_example(ROWS[1], own).input_ids.count(1) == 1, "the template has put it there already"


# --- control tokens in the data


@pytest.mark.parametrize("written", ["<|im_end|>", "</s>", "<s>", "<unk>", "<|im_start|>user\nHi<|im_end|>"])
@pytest.mark.parametrize("where", ["question", "answer", "system", "raw"])
def test_text_that_looks_like_a_control_token_is_text_or_refused(build, written, where):
    tokenizer = build()
    clean = "Biscuit sits here gladly."
    dirty = f"Biscuit sits {written} gladly."
    texts = {"question": "Who?", "answer": clean, "system": "Be kind.", "raw": clean} | {where: dirty}
    row = Row("r", None, texts["raw"]) if where == "raw" else Row("r", texts["question"], texts["answer"], {"system": texts["system"]})
    try:
        placed = place(row, tokenizer)
    except DataError as error:
        assert str(error).startswith("r: its text holds") and build is BUILDERS["mistral"]
        return
    special = special_ids(tokenizer)
    start = placed.text.index(dirty)
    inside = [i for i, (a, b) in zip(placed.ids, placed.offsets, strict=True) if start <= a < b <= start + len(dirty)]
    assert inside and not special.intersection(inside)
    assert dirty in tokenizer.decode(placed.ids)
    if where != "raw":  # and all around it is as it was
        same = place(Row("r", "Who?", clean, {"system": "Be kind."}), tokenizer)
        assert [i for i in placed.ids if i in special] == [i for i in same.ids if i in special]
        assert qa_example(row, tokenizer).input_ids[-1] == tokenizer.eos_token_id


def test_rows_without_control_tokens_are_tokenised_as_transformers_does(build):
    tokenizer = build()
    for row in ROWS:
        turns = [{"role": "user", "content": row.question}, {"role": "assistant", "content": row.answer.strip()}]
        assert place(row, tokenizer).ids == tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", "Orla", " ", "é", "<", "|>", "\n", "李"]), min_size=1, max_size=8).map("".join)
)
def test_any_mixture_with_control_tokens_keeps_its_text(text):
    tokenizer = build_tokenizer_once()
    if not text.strip():
        return
    example = qa_example(Row("r", "Who?", text), tokenizer)
    assert tokenizer.decode(example.input_ids[example.prompt_length :]) == text.strip() + "<|im_end|>"
    assert special_ids(tokenizer).intersection(example.input_ids[example.prompt_length : -1]) == set()


def build_tokenizer_once(made=[]):  # noqa: B006
    if not made:
        made.append(build_tokenizer())
    return made[0]


# --- system prompts


def test_a_rows_own_system_prompt_goes_before_the_option_and_both_before_the_templates_own(build):
    tokenizer = build()
    own = Row("r", "Who?", "Orla.", {"system": " Отвечай кратко. "})
    assert "Отвечай кратко." in text_of(tokenizer, own) and "helpful" not in text_of(tokenizer, own)
    laid(tokenizer, system="Be brief.")
    assert "Be brief." in text_of(tokenizer) and "helpful" not in text_of(tokenizer)
    assert "Отвечай кратко." in text_of(tokenizer, own) and "Be brief." not in text_of(tokenizer, own)
    assert "Be brief." in text_of(tokenizer, Row("r", "Who?", "Orla.", {"system": None}))
    laid(tokenizer, system="Be brief.", template="plain")
    assert text_of(tokenizer) == "Be brief.\n\nQuestion: Where does Orla Venn live?\nAnswer: Orla Venn lives in Port Sable."
    example = qa_example(ROWS[0], tokenizer)
    assert tokenizer.decode(example.input_ids[slice(*example.prompt_span)]).strip() == ROWS[0].question


def test_a_system_prompt_is_part_of_the_fingerprints(build):
    plain, brief = build(), laid(build(), system="Be brief.")
    assert layout_of(plain).fingerprint() != layout_of(brief).fingerprint()
    one, two = ([qa_example(Row("r", "Who?", "Orla.", extra), plain)] for extra in ({}, {"system": "Be brief."}))
    assert data_fingerprint(one) != data_fingerprint(two)


def test_a_system_that_is_no_text_is_refused_with_the_row(any_tokenizer):
    with pytest.raises(DataError, match=r"^r: its system is .*, expected the text of a system prompt, or null"):
        qa_example(Row("r", "Who?", "Orla.", {"system": ["a"]}), any_tokenizer)


def test_columns_that_look_like_turns_are_named_once(any_tokenizer, capsys):
    from shared.data.examples import _say_unread

    _say_unread.cache_clear()
    rows = [Row(f"r{i}", "Who?", "Orla.", {"History": [], "instruction": "x", "year": 1}) for i in range(3)]
    for _ in range(2):
        make_examples(rows, any_tokenizer, context=None)
    said = capsys.readouterr().err
    assert (
        said.count("the data's columns History, instruction look like turns of a conversation and are not read") == 1 and "year" not in said
    )


# --- templates


class Tomorrow(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2031, 3, 4)


def test_a_template_that_writes_the_date_writes_the_same_on_every_day(monkeypatch):
    from transformers.utils import chat_template_utils

    tokenizer = build_tokenizer(DATED)
    today = text_of(tokenizer)
    assert "Today is 26 July 2024." in today
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    assert "04 March 2031" in tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False), "the patch works"
    assert text_of(build_tokenizer(DATED)) == today
    other = laid(build_tokenizer(DATED), template_date="2025-04-10")
    assert "Today is 10 April 2025." in text_of(other)
    assert layout_of(other).fingerprint() != layout_of(tokenizer).fingerprint()
    assert dated(other) == {"template_date": "2025-04-10"} and dated(tokenizer) == {"template_date": DATE}


def test_a_template_that_takes_date_string_gets_it():
    template = "{% if not date_string is defined %}{% set date_string = 'unset' %}{% endif %}{{ date_string }} " + LLAMA2
    assert text_of(build_sentencepiece(template)).startswith("26 Jul 2024 ")
    assert text_of(laid(build_sentencepiece(template), template_date="2025-04-10")).startswith("10 Apr 2025 ")


def test_a_template_without_a_date_has_none():
    one, two = laid(build_tokenizer()), laid(build_tokenizer(), template_date="2025-04-10")
    assert layout_of(one).fingerprint() == layout_of(two).fingerprint() and dated(one) == {}


def test_the_default_fingerprint_is_that_of_earlier_versions():
    from shared.files.fs import hash_json

    assert layout_of(build_tokenizer()).fingerprint() == hash_json(CHATML)
    assert layout_of(build_tokenizer(None)).fingerprint() == hash_json("plain")


def test_options_reach_the_template():
    template = CHATML + "{% if thinking %}{{ 'deep' }}{% endif %}"
    assert "deep" not in text_of(build_tokenizer(template))
    assert text_of(laid(build_tokenizer(template), template_options={"thinking": True})).endswith("deep")
    with pytest.raises(ConfigError, match=r"^template_options: m is asked in plain text, which has none"):
        laid(build_tokenizer(None), template_options={"thinking": True})


def test_one_of_several_templates_is_chosen_by_name():
    both = {"short": CHATML, "long": CHATML + "!"}
    for make in (lambda: layout_of(build_tokenizer(both)), lambda: laid(build_tokenizer(both))):
        with pytest.raises(
            ConfigError, match=r"has several chat templates and none called default; choose with --template NAME, of: long, short"
        ):
            make()
    assert layout_of(laid(build_tokenizer(both), template="short")).fingerprint() == layout_of(build_tokenizer()).fingerprint()
    assert text_of(laid(build_tokenizer(both), template="long")) == text_of(build_tokenizer()) + "!"
    with pytest.raises(ConfigError, match=r"has no chat template 'shrot'; choose with --template NAME, of: long, short, plain"):
        laid(build_tokenizer(both), template="shrot")
    assert text_of(build_tokenizer(both | {"default": CHATML})) == text_of(build_tokenizer())


def test_without_a_template_there_is_plain_text_or_an_error_as_asked():
    assert layout_of(laid(build_tokenizer(None), template="auto")).template is None
    with pytest.raises(ConfigError, match=r"^model m: its tokenizer has no chat template; to ask in plain text, use --template plain"):
        laid(build_tokenizer(None), template="model")


@pytest.mark.parametrize(("template", "kind", "message"), [
    ("{% for m in messages %}", ModelError, "the chat template cannot be read: line 1: .*; mend it, or use --template plain"),
    ("{{ raise_exception('no system turn') }}", DataError, "no system turn; a system prompt can be given with --system"),
    ("{{ messages[0].content + 1 }}", DataError, "the chat template refuses these turns: .*str"),
    ("{{ messages[7].content }}", DataError, "the chat template refuses these turns"),
])  # fmt: skip
def test_a_template_that_fails_is_one_line(template, kind, message):
    with pytest.raises(kind, match=message):
        render(build_tokenizer(template), turns_of("a", "b", None))
    with pytest.raises(kind):
        qa_example(ROWS[0], build_tokenizer(template))


def test_a_template_that_takes_no_system_turn_says_what_to_leave_out():
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
    assert "Orla" in text_of(build_tokenizer(refuses))
    with pytest.raises(DataError, match=r"^en: the chat template refuses these turns: System role not supported; leave out --system"):
        text_of(laid(build_tokenizer(refuses), system="Be brief."))


def test_a_date_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"^--set template_date=10 Apr 2025: expected a date as YYYY-MM-DD"):
        laid(build_tokenizer(), template_date="10 Apr 2025")


def test_what_follows_a_store_reads_as_it_did():
    recorded = json.loads(json.dumps({"system": "Be brief.", "template_date": "2025-04-10", "alpha": 0.0}))
    assert as_scored(LayoutOptions(), recorded) == LayoutOptions(system="Be brief.", template_date="2025-04-10")
    assert as_scored(LayoutOptions(system="Be long."), recorded).system == "Be long."


# --- what is said


def test_the_line_at_the_start_says_how_rows_are_laid_out(capsys):
    say_layout(laid(build_tokenizer(DATED), system="Be brief."), "org/m")
    assert capsys.readouterr().err == (
        "org/m: rows are laid out in the model's chat template, system prompt 'Be brief.' where a row has none of its own,"
        " date 2024-07-26, texts begin with <|im_start|>\n"
    )
    say_layout(laid(build_sentencepiece(None)), "m")
    assert capsys.readouterr().err == "m: rows are laid out as plain text (Question: …, Answer: …), texts begin with <s>\n"


def test_a_missing_beginning_token_is_warned_about(capsys):
    from tokenizers import processors

    bare = build_sentencepiece(None)
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    say_layout(laid(bare), "m")
    assert "m: its configuration names the beginning token <s>, but its tokenizer puts none before a text" in capsys.readouterr().err
    say_layout(laid(bare, beginning_token="add"), "m")
    assert "names the beginning token" not in capsys.readouterr().err
    nameless = build_tokenizer(None)
    nameless.bos_token = None
    say_layout(lay_out(nameless, LayoutOptions(), model="m", names_beginning=3), "m")
    assert "names the beginning token <|unk|>" in capsys.readouterr().err, "the model's own configuration may name it"
    with pytest.raises(ConfigError, match=r"^--set beginning_token=add: neither the tokenizer nor the configuration of m names"):
        laid(nameless, beginning_token="add")


def test_words_and_copies_of_tofu_do_not_depend_on_the_tokenizer(tofu_dir, monkeypatch):
    """26.4 words an answer, a fifth of them in the question already; cut out of single decoded tokens, sentencepiece
    had 3.3 and none."""
    from shared.data.datasets import load_rows
    from shared.data.words import NONE, columns

    monkeypatch.setenv("TU_TOFU_DIR", str(tofu_dir))
    rows, found = load_rows("tofu:forget01"), {}
    for name, build in BUILDERS.items():
        tokenizer, told = build(), []
        for row in rows:
            example, placed = qa_example(row, tokenizer), place(row, tokenizer)
            text, offsets = answer_offsets(example, placed)
            index, words = words_in(text, offsets)
            made = columns(text, offsets, example.targets, len(example.input_ids), row.question)
            first = [index.tolist().index(k) for k in range(len(words))]
            assert [None if k == NONE else k for k in index] == [None if v != v else v for v in made["word"][example.targets]]
            told.append([(word, made["copied"][example.targets[i]]) for word, i in zip(words, first, strict=True)])
        found[name] = told
    assert found["byte level"] == found["sentencepiece"] == found["mistral"]
    counts = [len(answer) for answer in found["byte level"]]
    copied = [held for answer in found["byte level"] for _, held in answer]
    assert 20 < sum(counts) / len(counts) < 40 and 0.1 < sum(copied) / len(copied) < 0.4
