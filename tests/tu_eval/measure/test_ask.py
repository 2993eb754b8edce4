"""One question put to models as a row of data is put, and their answers."""

import io

import pytest
import torch
from rich.console import Console

from shared.lm.models import load_laid_out
from tests.tu_eval.test_commands import refused
from tu_eval.measure.ask import ModelAnswers, print_answers
from tu_eval.measure.ask_config import AskConfig

QUESTION = "Où habite Zoë ﬁn 李晓梅?"
SMALL = ("--device", "cpu", "--max-new-tokens", 8)


def expected(folder, system=None):
    """The greedy answer by transformers' own loop, to the template's own rendering."""
    from transformers import AutoModelForCausalLM

    tokenizer = load_laid_out("m", folder, AskConfig())
    turns = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    new = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=0)
    return tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True).strip()


def lines(out):
    return [line.split("\t") for line in out.splitlines()]


def test_two_models_answer_side_by_side_as_the_template_puts_it(tiny_model, tiny_base, run_cli):
    more = ("--samples", 2, "--temperature", 0.5)
    code, out, err = run_cli("tu-eval", "ask", tiny_model, QUESTION, "--beside", tiny_base, *more, *SMALL)
    assert code == 0, err
    found = lines(out)
    assert [line[:2] for line in found] == [[m.name, way] for way in ("greedy", "drawn 1", "drawn 2") for m in (tiny_model, tiny_base)]
    from shared.errors import printable

    assert [line[2] for line in found[:2]] == [printable(expected(m)) for m in (tiny_model, tiny_base)]
    assert lines(run_cli("tu-eval", "ask", tiny_model, QUESTION, *more, *SMALL)[1]) == found[::2]
    drawn = lines(run_cli("tu-eval", "ask", tiny_model, QUESTION, *more, *SMALL, "--seed", 1)[1])
    assert drawn[0] == found[0] and drawn[1:] != found[2::2]
    with_system = lines(run_cli("tu-eval", "ask", tiny_model, QUESTION, "--system", "Réponds.", "--samples", 0, *SMALL)[1])
    assert with_system == [[tiny_model.name, "greedy", printable(expected(tiny_model, "Réponds."))]] != found[:1]


def test_a_terminal_gets_a_table(monkeypatch):
    text = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda: Console(file=text, force_terminal=True, width=80, color_system=None))
    print_answers([ModelAnswers("before [b]", ["one\ntwo", "drei \x1b[31m"]), ModelAnswers("after", ["None.", "לא"])])
    assert "before [b]" in text.getvalue() and "two" in text.getvalue() and "\x1b[31m" not in text.getvalue()
    assert max(map(len, text.getvalue().splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("MODEL", " "), "the question is empty"),
        (("no-such-model-here/x", "Q?"), "no-such-model-here/x"),
        (("MODEL", "Q?", "--beside", "no-such-model-here/y"), "no-such-model-here/y"),
        (("MODEL", "word " * 600), "context holds 512"),
        (("MODEL", "Q?", "--temperature", 0), "temperature"),
    ],
)
def test_what_cannot_be_asked_is_one_line(arguments, problem, tiny_model, run_cli):
    named = [tiny_model if a == "MODEL" else a for a in arguments]
    assert problem in refused(run_cli("tu-eval", "ask", *named, "--device", "cpu"))
