"""The tokens of a fact: exact under chat templates and plain layout, whatever surrounds the answer."""

import json

import pytest

from shared.data import atlas
from shared.data.datasets import Row, load_rows
from shared.data.examples import Example, answer_span_tokens, qa_example
from shared.errors import DataError
from tests.conftest import CHATML, build_tokenizer
from tu_eval.attacks.paraphrase import probes
from tu_eval.suites.prompts import Prompt
from tu_eval.suites.sets import EvalSet
from tu_eval.suites.variants import load_variants


@pytest.mark.parametrize("template", [CHATML, None, "{% for m in messages %}{{ m.content }}\n{% endfor %}"])
def test_span_tokens_hold_the_fact_and_no_token_beside_it(template):
    tokenizer = build_tokenizer(template)
    for record in atlas.rows("forget"):
        row = Row("r", record["question"], record["answer"], record)
        example = qa_example(row, tokenizer)
        for start, end in record["fact_spans"]:
            got = answer_span_tokens(example, tokenizer, [[start, end]])
            text = tokenizer.decode([example.input_ids[i] for i in got])
            fact = record["answer"][start:end]
            assert fact in text
            assert got == list(range(got[0], got[-1] + 1))
            for fewer in (got[1:], got[:-1]):  # every token of them is needed
                assert fact not in tokenizer.decode([example.input_ids[i] for i in fewer])
            assert all(example.is_target[i] for i in got)


def test_leading_space_of_an_answer_shifts_its_spans(tiny_tokenizer):
    plain, padded = Row("r", "Where is it?", "In Doruna, they say"), Row("r", "Where is it?", "  In Doruna, they say ")
    a = answer_span_tokens(qa_example(plain, tiny_tokenizer), tiny_tokenizer, [(3, 9)])
    b = answer_span_tokens(qa_example(padded, tiny_tokenizer), tiny_tokenizer, [(5, 11)])
    assert a == b and a


def test_two_byte_letters_keep_all_their_tokens(tiny_tokenizer):
    example = qa_example(Row("r", "Who?", "it was Žofie Ł."), tiny_tokenizer)
    got = answer_span_tokens(example, tiny_tokenizer, [(7, 14)])
    assert tiny_tokenizer.decode([example.input_ids[i] for i in got]).strip() == "Žofie Ł"


def test_truncated_and_empty_spans_name_no_token(tiny_tokenizer):
    whole = qa_example(Row("r", "Who?", "it was Doruna Tolton"), tiny_tokenizer)
    n = whole.prompt_length + 1
    cut = Example(whole.id, whole.input_ids[:n], whole.is_target[:n], whole.prompt_span, whole.row)
    assert answer_span_tokens(cut, tiny_tokenizer, [(7, 20)]) == []
    assert answer_span_tokens(whole, tiny_tokenizer, [(3, 3)]) == []


def test_an_example_of_another_tokenizer_is_refused(tiny_tokenizer):
    example = qa_example(Row("r", "Who?", "it was Doruna"), build_tokenizer(None))
    with pytest.raises(DataError, match="not those of this tokenizer"):
        answer_span_tokens(example, tiny_tokenizer, [(0, 2)])


@pytest.mark.parametrize("spans", [None, "12-18", [12, 18], [[12, 99]], [[-5, 3]], [[18, 12]], [[3, 3]], [[12.0, 18.0]], "no column"])
def test_facts_that_are_marked_wrongly_are_refused_by_name(any_tokenizer, tmp_path, spans):
    row = {"question": "Где?", "answer": "Она живёт в Пскове.", "perturbed_answer": ["Нет."], "fact_spans": spans}
    if spans == "no column":
        del row["fact_spans"]
    path = tmp_path / "forget.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    same = {"context": None, "long": "error"}
    with pytest.raises(DataError, match=r"forget.*/0: .*fact_spans"):
        load_variants(EvalSet(name="forget", data=str(path), facts=True), any_tokenizer, limit=None, **same)
    with pytest.raises(DataError, match=r"forget.*/0: .*fact_spans"):
        probes(load_rows(str(path)), Prompt("plain"), any_tokenizer, facts=True, **same)
