"""Multiple-choice accuracy against a plain loop, and each kind of bad data as one line."""

import json
import math

import pandas
import pytest
import torch
from transformers import AutoModelForCausalLM

from shared.data import atlas
from shared.data.datasets import Row
from shared.data.examples import qa_example
from tests.tu_eval.test_commands import refused
from tu_eval.choices.run import Question, _place, accuracies, score_choices, tokenised


def questions(count=12):
    """Rows of an atlas with the right answer among wrong ones, in a place that turns."""
    out = []
    for number, row in enumerate(atlas.rows("forget", atlas.AtlasSize(people=5, facts_per_person=8, forget_people=2))[:count]):
        choices = row["perturbed_answer"][: 1 + number % 4]
        choices.insert(number % (len(choices) + 1), row["paraphrased_answer"])
        out.append({"question": row["question"], "choices": choices, "answer": choices.index(row["paraphrased_answer"])})
    return out


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("architecture", ["Llama", "GPT2"])
def test_choices_equal_a_plain_loop(architecture, run_cli, make_tiny, tiny_tokenizer, tmp_path):
    folder, rows = make_tiny(architecture, seed=0), questions()
    data, out = write(tmp_path / "own.jsonl", rows), tmp_path / "out"
    code, stdout, err = run_cli("tu-eval", "choices", "--model", folder, "--data", data, "--out", out, "--device", "cpu")
    assert code == 0, err
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    frame = pandas.read_parquet(out / "rows.parquet")
    right, right_norm = [], []
    for number, row in enumerate(rows):
        sums, norms = [], []
        for choice in row["choices"]:
            example = qa_example(Row("x", row["question"], choice), tiny_tokenizer)
            targets = [i for i in example.targets if example.input_ids[i] != tiny_tokenizer.eos_token_id]
            assert tiny_tokenizer.decode([example.input_ids[i] for i in targets]).strip() == choice
            with torch.no_grad():
                logp = model(torch.tensor([example.input_ids])).logits[0].double().log_softmax(-1)
            sums.append(sum(logp[i - 1, example.input_ids[i]].item() for i in targets))
            norms.append(sums[-1] / len(choice))
        got = frame.iloc[number]
        assert got["logprobs"].tolist() == pytest.approx(sums, rel=1e-5)
        assert (got["picked"], got["picked_norm"]) == (sums.index(max(sums)), norms.index(max(norms)))
        right.append(got["picked"] == row["answer"])
        right_norm.append(got["picked_norm"] == row["answer"])
    about = json.loads((out / "choices.json").read_text())
    assert about["metrics"]["accuracy"] == sum(right) / 12 and about["metrics"]["accuracy_norm"] == sum(right_norm) / 12
    spread = torch.tensor(right, dtype=torch.float64).std(correction=1).item() / math.sqrt(12)
    assert about["metrics"]["accuracy_stderr"] == pytest.approx(spread, rel=1e-9)
    assert about["chance"] == pytest.approx(sum(1 / len(r["choices"]) for r in rows) / 12)
    assert f"accuracy: {sum(right) / 12:.4f}" in stdout and "chance: " in stdout
    assert not any(row["question"] in err for row in rows)


def test_the_two_rules_differ_where_lengths_do():
    class Fixed:
        """Gives each choice the sum that its first token id stands for."""

        def score(self, requests, advance):
            sums = {1: -4.0, 2: -6.0}
            return [type("S", (), {"logprob": torch.tensor([sums[r.ids[0]]])}) for r in requests]

    class Example:
        def __init__(self, first):
            self.input_ids, self.targets = [first, 9], [1]

    class Tokenizer:
        all_special_ids, added_tokens_decoder = [], {}

    made = score_choices(Fixed(), [Question("q", "?", ["ab", "abcdefgh"], 1)], {"q": [Example(1), Example(2)]}, Tokenizer())  # type: ignore[arg-type, list-item]
    assert (made[0]["picked"], made[0]["picked_norm"]) == (0, 1)
    found = accuracies(made)
    assert (found["accuracy"], found["accuracy_norm"], found["accuracy_stderr"]) == (0.0, 1.0, None)


@pytest.mark.parametrize("form", ["place", "letter", "text"])
def test_an_answer_may_be_a_place_a_letter_or_the_text(form, run_cli, tiny_model, tmp_path):
    rows = questions(5)
    for row in rows:
        row["answer"] = {"place": row["answer"], "letter": "abcdef"[row["answer"]], "text": row["choices"][row["answer"]]}[form]
    renamed = [{"stem": r["question"], "options": r["choices"], "label": r["answer"]} for r in rows]
    data, out = write(tmp_path / "own.jsonl", renamed), tmp_path / "out"
    keys = ("--set", "question_key=stem", "--set", "choices_key=options", "--set", "answer_key=label")
    code, _, err = run_cli("tu-eval", "choices", "--model", tiny_model, "--data", data, "--out", out, *keys)
    assert code == 0, err
    assert pandas.read_parquet(out / "rows.parquet")["answer"].tolist() == [r["answer"] for r in questions(5)]


def test_a_letter_that_is_itself_a_choice_is_read_as_the_choice(run_cli, tiny_model, tmp_path):
    data = write(tmp_path / "own.jsonl", [{"question": "Which vitamin?", "choices": ["B", "A"], "answer": "A"}])
    assert run_cli("tu-eval", "choices", "--model", tiny_model, "--data", data, "--out", tmp_path / "out")[0] == 0
    assert pandas.read_parquet(tmp_path / "out" / "rows.parquet")["answer"].tolist() == [1]


@pytest.mark.parametrize(("answer", "expected"), [("E\u0301cole", 1), ("\u00c9cole", 1), ("Ｂ", 1), ("ｃ", 2), ("학교", 2)])
def test_forms_of_the_same_letters_are_the_same_answer(answer, expected):
    choices = ["Псков", "\u00c9cole", "\u1112\u1161\u11a8\u1100\u116d"]  # the last: 학교 as single letters
    assert _place("r", answer, choices) == expected


GOOD = {"question": "Where?", "choices": ["Here", "There"], "answer": 0}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"answer": 2}, "own/rows/1: its answer is none of its 2 choices"),
        ({"answer": True}, "its answer is none"),
        ({"answer": "C"}, "its answer is none"),
        ({"answer": -1}, "its answer is none"),
        ({"choices": ["Here"]}, "not a list of at least two"),
        ({"choices": "Here"}, "not a list of at least two"),
        ({"choices": ["Here", " "]}, "choice 1 is empty"),
        ({"choices": ["Here", 3]}, "choice 1 is empty or not text"),
        ({"choices": ["Here", "Here "]}, "two of its choices are the same"),
        ({"question": ""}, "its question is empty"),
        ({"question": "word " * 600}, "the model's context holds 512"),
    ],
)
def test_bad_rows_are_one_line(run_cli, tiny_model, tmp_path, change, expected):
    data = write(tmp_path / "own.jsonl", [GOOD, {**GOOD, **change}])
    line = refused(run_cli("tu-eval", "choices", "--model", tiny_model, "--data", data, "--out", tmp_path / "out"))
    assert expected in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("missing", "expected"), [("question", "question_key"), ("choices", "choices_key"), ("answer", "answer_key")])
def test_a_missing_column_names_the_setting(run_cli, tiny_model, tmp_path, missing, expected):
    data = write(tmp_path / "own.jsonl", [{k: v for k, v in GOOD.items() if k != missing}])
    line = refused(run_cli("tu-eval", "choices", "--model", tiny_model, "--data", data, "--out", tmp_path / "out"))
    assert f"no key {missing!r}" in line and expected in line


def test_a_question_of_which_one_choice_is_too_long_is_left_out_whole(run_cli, tiny_model, tiny_tokenizer, tmp_path):
    data = write(tmp_path / "own.jsonl", [GOOD, {**GOOD, "choices": ["Here", "there " * 600]}])
    code, _, err = run_cli("tu-eval", "choices", "--model", tiny_model, "--data", data, "--out", tmp_path / "out", "--long", "skip")
    assert code == 0 and "1 question left out" in err
    about = json.loads((tmp_path / "out" / "choices.json").read_text())
    assert (about["questions"], about["skipped"]) == (1, 1)
    kept = tokenised([Question("q", "Where?", ["Here", "There"], 0)], tiny_tokenizer, 512, "skip")
    assert list(kept) == ["q"] and len(kept["q"]) == 2


@pytest.mark.parametrize(("flags", "expected"), [((), "--data is missing"), (("--data", "nowhere.jsonl"), "no such file")])
def test_bad_flags_are_one_line(run_cli, tiny_model, tmp_path, flags, expected):
    assert expected in refused(run_cli("tu-eval", "choices", "--model", tiny_model, "--out", tmp_path / "out", *flags))
