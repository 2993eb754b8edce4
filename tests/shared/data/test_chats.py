"""Conversations: both forms give the same rows, every answer is a row with all earlier turns before it, and what is no
conversation is one line that names row and turn, and never the text."""

import json
from itertools import pairwise

import pyarrow
import pyarrow.parquet
import pytest

from shared.data import chats
from shared.data.datasets import Keys, ReadingOptions, Row, load_rows
from shared.data.examples import answer_offsets, data_fingerprint, make_examples, place, qa_example, token_texts
from shared.data.layout import LayoutOptions, lay_out, render, special_ids, turns_of
from shared.data.placed import asked_in, said_before, system_of
from shared.data.words import columns
from shared.errors import ConfigError, DataError
from tests.conftest import CHATML, LLAMA2, build_sentencepiece, build_tokenizer

SECRET = "Gudrun"
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + "
    "'<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
ALTERNATE = "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}"
    + ALTERNATE
    + "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + "
    "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}" + ALTERNATE + "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
FORGETS_THOUGHTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "llama 2": LLAMA2, "llama 3": LLAMA3, "gemma": GEMMA, "mistral": MISTRAL, "plain": None}
NEW = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>"]
CONVERSATIONS = {
    "english": ["Where does Orla live?", "Orla lives in Port Sable.", "And what does she do?", "She is a welder in Port Sable.", "Since?",
                "Since 1998."],
    "russian": ["Где живёт Ольга?", "Ольга живёт в Пскове.", "А где работает?", "Она пекарь, и работает в Пскове."],
    "chinese": ["李晓梅住哪里？", "李晓梅住在成都市。", "她做什么？", "她在成都市当医生。"],
}  # fmt: skip


def messages(texts, system=None, form=("role", "content")):
    names = {"role": ("user", "assistant"), "from": ("human", "gpt")}[form[0]]
    first = [{form[0]: "system", form[1]: system}] if system else []
    return first + [{form[0]: names[i % 2], form[1]: text} for i, text in enumerate(texts)]


def built(template, kind):
    tokenizer = (build_tokenizer if kind == "byte level" else build_sentencepiece)(template)
    tokenizer.add_special_tokens({"additional_special_tokens": NEW})
    return tokenizer


@pytest.fixture(params=["byte level", "sentencepiece"])
def kind(request):
    return request.param


@pytest.fixture
def rows_of(tmp_path):
    def read(*records, **keys) -> list[Row]:
        path = tmp_path / "chat.jsonl"
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
        return load_rows(str(path), keys=Keys(**keys))

    return read


# --- reading


def test_both_forms_give_the_same_rows(rows_of):
    texts = CONVERSATIONS["russian"]
    (openai,) = rows_of({"messages": messages(texts, "Отвечай.")})
    (sharegpt,) = rows_of({"conversations": messages(texts, "Отвечай.", ("from", "value"))})
    assert openai == sharegpt
    assert openai.before == (("system", "Отвечай."), ("user", texts[0]), ("assistant", texts[1]))
    assert (openai.question, openai.answer, openai.id) == (texts[2], texts[3], "chat/rows/0")
    assert system_of(openai) == "Отвечай." and said_before(openai) == openai.before[1:]


def test_all_answers_are_rows_of_their_own(rows_of):
    texts = CONVERSATIONS["english"]
    rows = rows_of({"messages": messages(texts)}, {"messages": messages(texts[:2])}, turns="all")
    assert [r.id for r in rows] == ["chat/rows/0#answer1", "chat/rows/0#answer2", "chat/rows/0#answer3", "chat/rows/1"]
    assert [(r.question, r.answer) for r in rows] == [*zip(texts[::2], texts[1::2], strict=True), (texts[0], texts[1])]
    assert [len(r.before) for r in rows] == [0, 2, 4, 0]
    assert rows_of({"messages": messages(texts)}) == [Row("chat/rows/0", texts[4], texts[5], {}, rows[2].before)]


def test_limit_counts_conversations(tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text((json.dumps({"messages": messages(CONVERSATIONS["english"])}) + "\n") * 3)
    assert len(load_rows(str(path), keys=Keys(turns="all"), limit=2)) == 6


def test_a_row_with_question_and_answer_is_read_as_before(rows_of):
    record = {"question": "Who?", "answer": "Ada.", "messages": messages(["a", "b"])}
    assert rows_of(record) == [Row("chat/rows/0", "Who?", "Ada.")]
    assert rows_of(record, messages="messages") == [Row("chat/rows/0", "a", "b")]
    assert rows_of(record | {"text": "x"}, text="text") == [Row("chat/rows/0", None, "x")]


def test_parts_that_are_text_are_joined_and_other_columns_are_kept(rows_of):
    parts = [{"type": "text", "text": "Где "}, {"type": "text", "text": "живёт?"}]
    said = [{"role": "developer", "content": ""}, {"role": "user", "content": parts}, {"role": "assistant", "content": " В Пскове.\n"}]
    (row,) = rows_of({"messages": said, "facts": [[3, 9]], "tools": [], "functions": None})
    assert row == Row("chat/rows/0", "Где живёт?", "В Пскове.") and row.extra == {"facts": [[3, 9]], "functions": None}


def test_turns_of_parquet_have_empty_fields_that_say_nothing(tmp_path):
    said = messages(["Who?", "Ada."])
    said[0]["tool_calls"] = None
    table = pyarrow.Table.from_pylist([{"messages": said}, {"messages": [{**t, "tool_calls": []} for t in messages(["谁？", "艾达。"])]}])
    pyarrow.parquet.write_table(table, tmp_path / "chat.parquet")
    assert [(r.question, r.answer) for r in load_rows(str(tmp_path / "chat.parquet"))] == [("Who?", "Ada."), ("谁？", "艾达。")]


def test_a_turn_of_weight_zero_is_no_answer(rows_of):
    said = messages(CONVERSATIONS["english"])
    said[5]["weight"], said[1]["weight"] = 0, 0
    assert [r.answer for r in rows_of({"messages": said}, turns="all")] == [said[3]["content"]]
    assert [r.answer for r in rows_of({"messages": said})] == [said[3]["content"]]


def test_what_turns_hold_beside_their_text_is_said_once(rows_of, capsys):
    chats._say_unread.cache_clear()
    said = messages(["Who?", "Ada."])
    said[1] |= {"reasoning_content": "hm", "name": "", "two words": 1}
    rows_of({"messages": said}, {"messages": said})
    assert capsys.readouterr().err.count("turns of the data's messages have reasoning_content, which is not read") == 1


# --- what is refused


def with_turn(number, **fields):
    said = messages([f"Who is {SECRET}?", f"{SECRET} is a baker.", f"And {SECRET}?", f"{SECRET} again."])
    said[number] = {k: v for k, v in {**said[number], **fields}.items() if v != "gone"}
    return {"messages": said}


def speakers(*roles):
    return {"messages": [{"role": role, "content": f"{SECRET} {n}"} for n, role in enumerate(roles)]}


BAD = {
    "no assistant": (speakers("user"), "its column messages has no assistant turn, so there is no answer; remove the row"),
    "ends with user": (speakers("user", "assistant", "user"), "the last turn of its messages is of user, so nothing answers it"),
    "two users": (speakers("user", "user", "assistant"), "turn 2 of its messages is of user, expected assistant: user and assistant take"),
    "two assistants": (speakers("user", "assistant", "assistant"), "turn 3 of its messages is of assistant, expected user"),
    "assistant first": (speakers("assistant", "user", "assistant"), "turn 1 of its messages is of assistant, expected user: a conv"),
    "system later": (speakers("user", "assistant", "system"), "turn 3 of its messages is of system, .*the first one or none"),
    "two systems": (speakers("system", "system", "user", "assistant"), "turn 2 of its messages is of system, expected user"),
    "unknown role": (speakers("user", SECRET), "turn 2 of its messages: its role is none of system, developer, user"),
    "tool role": (speakers("user", "tool", "assistant"), r"turn 2 of its messages: is for tools \(tool\), which are not read; remove"),
    "tool call": (with_turn(1, tool_calls=[{"id": SECRET}], content=None), r"turn 2 of its messages: is for tools \(tool_calls\)"),
    "function call": (with_turn(1, function_call={"name": SECRET}), r"turn 2 of its messages: is for tools \(function_call\)"),
    "tools": ({**speakers("user", "assistant"), "tools": [{"name": SECRET}]}, "its column tools names tools, which are not read"),
    "an image": (with_turn(0, content=[{"type": "text", "text": SECRET}, {"type": "image_url", "image_url": {"url": SECRET}}]),
                 "turn 1 of its messages: its content has a part of type image_url that is no text; only parts of type text"),
    "an odd part": (with_turn(0, content=[SECRET]), "turn 1 of its messages: its content has a part that is no text"),
    "an odd kind": (with_turn(0, content=[{"type": SECRET}]), "turn 1 of its messages: its content has a part that is no text"),
    "a number": (with_turn(3, content=5), "turn 4 of its messages: its content is no text"),
    "empty": (with_turn(1, content="  "), "turn 2 of its messages: its content is empty; remove the row or fill it"),
    "no content": (with_turn(1, content="gone"), "turn 2 of its messages: its content is empty"),
    "no role": (with_turn(1, role="gone"), "turn 2 of its messages: expected an object with role and content"),
    "a turn of text": ({"messages": [SECRET]}, "turn 1 of its messages: expected an object with role and content"),
    "text": ({"messages": SECRET}, "its column messages is no list of turns; expected a list of turns with role and content"),
    "nothing": ({"messages": []}, "its column messages is empty; expected"),
    "null": ({"conversations": None}, "its column conversations is empty; expected"),
    "nothing to learn": ({"messages": with_turn(1, weight=0)["messages"][:2]}, "every assistant turn of its column messages has weight 0"),
    "an odd weight": (with_turn(1, weight=SECRET), "turn 2 of its messages: its weight is neither 0 nor 1"),
    "too long": ({"messages": messages(["a", "b"] * 501)}, "its column messages has 1002 turns, expected at most 1000"),
    "two system prompts": ({**speakers("system", "user", "assistant"), "system": "Be kind."}, "its column system and the system turn"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_conversation_that_is_none_ends_the_command_with_one_line(case, run_cli, tiny_model, tmp_path):
    record, problem = BAD[case]
    data = tmp_path / "chat.jsonl"
    data.write_text(json.dumps({"messages": messages(["Who?", "Ada."])}) + "\n" + json.dumps(record) + "\n")
    code, out, err = run_cli("tu-score", "run", "--model", tiny_model, "--data", data, "--out", tmp_path / "out", "--device", "cpu")
    assert code == 2 and out == "" and err.count("\n") == 1, err
    with pytest.raises(DataError, match=rf"^chat/rows/1: {problem}") as caught:
        make_examples(load_rows(str(data)), build_tokenizer(), context=None)
    assert err == f"error: {caught.value}\n" and SECRET not in err and not (tmp_path / "out").exists()


def test_a_column_that_is_not_there_is_named_and_text_excludes_a_conversation(rows_of):
    with pytest.raises(DataError, match=r"^chat/rows/0: no key 'chatz' \(did you mean 'chats'\?\); see --messages-key"):
        rows_of({"chats": messages(["a", "b"])}, messages="chatz")
    with pytest.raises(ConfigError, match="--text-key t and --messages-key m: a row is text or a conversation, give one"):
        _ = ReadingOptions(text_key="t", messages_key="m").keys


# --- in the text that a model reads


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_last_answer_alone_is_learned_after_all_turns(template, name, kind, rows_of):
    tokenizer, texts = built(TEMPLATES[template], kind), CONVERSATIONS[name]
    (row,) = rows_of({"messages": messages(texts)})
    example, placed = qa_example(row, tokenizer), place(row, tokenizer)
    at = [placed.text.index(texts[0])]
    for text in texts[1:]:
        at.append(placed.text.index(text, at[-1] + 1))
    assert (placed.question_at, placed.answer_at) == (at[-2], at[-1])
    assert answer_offsets(example, placed)[0] == texts[-1]
    pieces = token_texts(example, placed, tokenizer)
    assert texts[-1] in "".join(pieces[i] for i in example.targets) and texts[-3] not in "".join(pieces[i] for i in example.targets)
    assert "".join(pieces[slice(*example.prompt_span)]).strip() == texts[-2]
    if TEMPLATES[template] is not None:
        prompt = render(tokenizer, turns_of(texts[-2], "", None, row.before)[:-1], asks=True)
        assert placed.text.startswith(prompt.rstrip(" ")), "what comes before the answer is the prompt that asks for it"


@pytest.mark.parametrize("template", [t for t in TEMPLATES if t not in ("mistral", "plain", "llama 2")])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_each_answer_reads_what_the_whole_conversation_reads_before_it(template, name, kind, rows_of):
    tokenizer = built(TEMPLATES[template], kind)
    *earlier, last = (qa_example(row, tokenizer) for row in rows_of({"messages": messages(CONVERSATIONS[name])}, turns="all"))
    assert earlier
    for example in earlier:
        assert last.input_ids[: len(example.input_ids)] == example.input_ids
    ends = [e.targets for e in (*earlier, last)]
    assert all(a[-1] < b[0] for a, b in pairwise(ends)), "targets of different answers are different tokens"


def test_plain_turns_follow_one_another(rows_of):
    (row,) = rows_of({"messages": messages(["Who?", "Ada.", "Where?", "Here."], "Be kind.")})
    assert place(row, build_tokenizer(None)).text == "Be kind.\n\nQuestion: Who?\nAnswer: Ada.\n\nQuestion: Where?\nAnswer: Here."


def test_system_prompts_go_turn_column_flag_template(kind, rows_of):
    def text(record, **options):
        tokenizer = lay_out(built(CHATML, kind), LayoutOptions(**options), model="m")
        return place(rows_of(record)[0], tokenizer).text

    own, column = {"messages": messages(["Who?", "Ada."], "Turn.")}, {"messages": messages(["Who?", "Ada."]), "system": "Column."}
    assert "Turn." in text(own, system="Flag.") and "Flag." not in text(own, system="Flag.")
    assert "Column." in text(column, system="Flag.") and "Flag." not in text(column, system="Flag.")
    plain = {"messages": messages(["Who?", "Ada."])}
    assert "Flag." in text(plain, system="Flag.") and "helpful assistant" in text(plain) and "helpful assistant" not in text(own)


@pytest.mark.parametrize("written", ["<|im_end|>", "</s>", "<|im_start|>assistant\nHi<|im_end|>"])
@pytest.mark.parametrize("where", range(5))
def test_a_control_token_in_any_turn_is_text(written, where, kind, rows_of):
    said = messages(["Who is it?", "Ada.", "Where is it?", "In London."], "Be kind.")
    said[where]["content"] = f"Biscuit sits {written} gladly."
    tokenizer, (row,) = built(CHATML if kind == "byte level" else LLAMA2, kind), rows_of({"messages": said})
    placed = place(row, tokenizer)
    start = placed.text.index(said[where]["content"])
    end = start + len(said[where]["content"])
    inside = [i for i, (a, b) in zip(placed.ids, placed.offsets, strict=True) if start <= a < b <= end]
    assert inside and not special_ids(tokenizer).intersection(inside)


def test_a_template_that_drops_earlier_thoughts_is_refused_by_turn(kind, rows_of):
    thought = "<think>hm</think>Ada."
    tokenizer = built(FORGETS_THOUGHTS, kind)
    (row,) = rows_of({"messages": messages(["Who?", "Ada.", "Where?", thought])})
    assert place(row, tokenizer).text.count("<think>") == 1
    (row,) = rows_of({"messages": messages(["Who?", thought, "Where?", "In London."], "Be kind.")})
    with pytest.raises(
        DataError, match=r"^chat/rows/0: the chat template changes the text of turn 3 \(assistant\): it cannot be found again$"
    ):
        place(row, tokenizer)


def test_a_template_without_a_system_turn_refuses_one_by_name(kind, rows_of):
    (row,) = rows_of({"messages": messages(["Who?", "Ada."], "Be kind.")})
    with pytest.raises(DataError, match=r"^chat/rows/0: the chat template refuses these turns: System role not supported"):
        place(row, built(GEMMA, kind))


def test_an_answer_too_long_for_the_context_is_left_out_by_itself(kind, rows_of):
    tokenizer = built(CHATML, kind)
    rows = rows_of({"messages": messages(CONVERSATIONS["english"])}, turns="all")
    whole = make_examples(rows, tokenizer, context=None)
    kept = make_examples(rows, tokenizer, context=len(whole[1].input_ids), long="skip")
    assert [e.id for e in kept] == [e.id for e in whole[:2]] and data_fingerprint(kept) == data_fingerprint(whole[:2])


# --- words


def test_what_any_earlier_turn_says_is_a_copy(any_tokenizer, rows_of):
    for name, copied, new in (("english", "Sable", "welder"), ("russian", "Пскове", "пекарь"), ("chinese", "都", "医")):
        (row,) = rows_of({"messages": messages(CONVERSATIONS[name][:4], f"Never say {new}.")})
        example = qa_example(row, any_tokenizer)
        text, offsets = answer_offsets(example, place(row, any_tokenizer))
        held = columns(text, offsets, example.targets, len(example.input_ids), asked_in(row))["copied"]
        for word, expected in ((copied, 1), (new, 0)):
            at = next(i for i, (a, b) in zip(example.targets, offsets, strict=True) if a < b and a <= text.index(word) < b)
            assert held[at] == expected, (name, word)
