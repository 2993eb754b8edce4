"""Files of one's own instead of a suite: the same rows give a suite's numbers; what rows lack is said once and measured
without; raw text against a plain loop; bad input is one line."""

import json
import math

import pytest
import torch
from scipy.stats import hmean
from transformers import AutoModelForCausalLM

from shared.data.datasets import Keys, load_rows
from tests.tu_eval.conftest import SUITE
from tests.tu_eval.suites.test_suite_file import FORGET, HOLDOUT, RETAIN, write, write_rows
from tests.tu_eval.test_commands import refused
from tu_eval.compare.comparison import load_comparison
from tu_eval.measure.recompute import recomputed
from tu_eval.results.results import load_results
from tu_eval.suites.own_files import own_files
from tu_eval.suites.variants import load_halves

SMALL = ("--limit", 6, "--set", "max_new_tokens=12", "--device", "cpu")
SPANISH = [
    {"question": f"¿Dónde nació {name}?", "answer": f"{name} nació en {place}."}
    for name, place in (("Íñigo Peñalver", "Ñandubay"), ("Águeda Lumbreras", "Cigüeñal"), ("Óscar Muñiz", "Almorzadero"))
]


def lines(path, rows):
    return write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def plain_rows(path, spec):
    """Question and answer alone."""
    return lines(path, [{"question": r.question, "answer": r.answer} for r in load_rows(spec)])


@pytest.fixture
def files(tmp_path):
    return [write_rows(tmp_path / f"{name}.jsonl", spec) for name, spec in (("forget", FORGET), ("retain", RETAIN))]


def run(run_cli, model, forget, retain, out, *flags):
    return run_cli("tu-eval", "run", "--model", model, "--forget", forget, "--retain", retain, "--out", out, *SMALL, *flags)


def test_rows_with_every_column_give_a_suites_numbers(run_cli, tiny_base, retain_results, files, tmp_path):
    code, _, err = run(run_cli, tiny_base, *files, tmp_path / "out", "--holdout", HOLDOUT)
    assert code == 0, err
    found, expected = load_results(tmp_path / "out"), load_results(retain_results)
    same = [name for name in expected.summary["metrics"] if not name.startswith("world") and name != "model_utility"]
    for name in same:
        mine, theirs = found.summary["metrics"][name], expected.summary["metrics"][name]
        assert (mine is None and theirs is None) or mine == pytest.approx(theirs, rel=1e-6), name
    assert found.summary["metrics"]["forget_fact_probability"] is not None and found.summary["metrics"]["mia_min_k"] is not None
    assert found.summary["suite"] == "own" and found.summary["rows"] == {"forget": 4, "retain": 6} and " have " not in err


def test_what_rows_lack_is_said_once_and_the_rest_is_measured(run_cli, tiny_base, retain_results, tmp_path):
    """The numbers that need no more than question and answer are those of the whole rows; the others say why they are
    not there; the page compares them all."""
    forget, retain = plain_rows(tmp_path / "f.jsonl", FORGET), plain_rows(tmp_path / "r.jsonl", RETAIN)
    code, out, err = run(run_cli, tiny_base, forget, retain, tmp_path / "one")
    assert code == 0, err
    assert err.count("perturbed_answer") == 1 and "0 of 4 rows of forget and 0 of 6 rows of retain have perturbed_answer" in err
    assert "tu-eval prepare" in err and "--holdout" in out
    one, whole = load_results(tmp_path / "one"), load_results(retain_results)
    metrics, reasons = one.summary["metrics"], one.summary["reasons"]
    for kind in ("forget_probability", "forget_rouge", "forget_exact_memorization", "forget_extraction_strength", "retain_rouge"):
        assert metrics[kind] == pytest.approx(whole.summary["metrics"][kind], rel=1e-6)
    assert metrics["forget_truth_ratio"] is None and "perturbed_answer" in reasons["forget_truth_ratio"]
    assert metrics["forget_quality"] is None and "perturbed_answer" in reasons["forget_quality"]
    assert metrics["model_utility"] == pytest.approx(hmean([metrics["retain_probability"], metrics["retain_rouge"]]))
    assert one.summary["utility_parts"] == ["retain_probability", "retain_rouge"] and "forget_fact_probability" not in metrics
    assert recomputed(one)["forget_truth_ratio"] is None
    code, _, err = run(run_cli, tiny_base, forget, retain, tmp_path / "two", "--retain-results", tmp_path / "one")
    assert code == 0, err
    comparison = load_comparison([tmp_path / "one", tmp_path / "two"])
    at = [column.metric for column in comparison.columns].index("forget_probability")
    assert comparison.table()[0][at].span is not None  # an interval over rows


def test_columns_that_some_rows_lack_are_counted_and_left_out(tmp_path):
    rows = [{**row, "fact_spans": [[0, 4]], "perturbed_answer": ["No."]} for row in SPANISH]
    rows[1].pop("fact_spans")
    found = own_files({"forget": str(lines(tmp_path / "f.jsonl", rows))}, limit=None, text=None, holdout=None)
    assert not found.suite.forget.facts and found.suite.forget.wrong and not found.suite.forget.paraphrase
    assert "2 of 3 rows of forget have fact_spans" in (found.missing or "") and "have perturbed_answer" not in (found.missing or "")


def test_another_language_is_measured(run_cli, tiny_model, tmp_path):
    file = lines(tmp_path / "es.jsonl", SPANISH)
    code, _, err = run(run_cli, tiny_model, file, file, tmp_path / "out")
    assert code == 0, err
    found = load_results(tmp_path / "out")
    assert found.summary["metrics"]["forget_probability"] == found.summary["metrics"]["retain_probability"]
    assert [row["answer"] for row in found.rows("forget")] == [row["answer"] for row in SPANISH]


def test_halves_of_raw_text_join_to_the_text(any_tokenizer, tmp_path):
    texts = [" ".join(f"{row['question']} {row['answer']}" for row in SPANISH) * 3, "米拉出生在海边的小镇，她喜欢修理旧风琴。" * 4]
    spec = str(lines(tmp_path / "t.jsonl", [{"text": text} for text in texts]))
    halves = load_halves(spec, "text", any_tokenizer, context=None, limit=None)
    for number, text in enumerate(texts):
        own = [e for e in halves if e.id.split("#")[0].endswith(f"/{number}")]
        for e in own:
            assert (e.row.question or "") + e.row.answer in text and 0 <= e.is_target.index(True) - len(e.input_ids) // 2 < 4
            assert abs(sum(e.is_target) - len(e.input_ids) / 2) < 5
        assert sum(len((e.row.question or "") + e.row.answer) for e in own) > 0.8 * len(text)


def test_raw_text_against_a_plain_loop(run_cli, tiny_model, tiny_tokenizer, tmp_path):
    texts = [r.answer for r in load_rows(f"atlas:documents-forget:{SUITE.removeprefix('atlas:')}", keys=Keys(text="text"))][:3]
    file = lines(tmp_path / "t.jsonl", [{"body": text} for text in texts])
    code, _, err = run(run_cli, tiny_model, file, file, tmp_path / "out", "--text-key", "body", "--holdout", file)
    assert code == 0, err
    found = load_results(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    examples = {e.id: e for e in load_halves(str(file), "body", tiny_tokenizer, context=512, limit=None)}
    for row in found.rows("forget"):
        e = examples[row["example_id"]]
        with torch.no_grad():
            logp = model(torch.tensor([e.input_ids])).logits[0].double().log_softmax(-1)
        own = [logp[i - 1, e.input_ids[i]].item() for i in e.targets]
        assert row["probability"] == pytest.approx(math.exp(sum(own) / len(own)), rel=1e-6)
        assert row["target_tokens"] == len(own) and row["rouge_l_recall"] is not None
    metrics = found.summary["metrics"]
    assert metrics["mia_loss"] == 0.5 and metrics["forget_truth_ratio"] is None  # the same texts on both sides


def test_a_suite_file_takes_raw_text_and_rows_without_wrong_answers(evaluate, tiny_model, tmp_path):
    lines(tmp_path / "t.jsonl", [{"body": row["question"] + " " + row["answer"] * 4} for row in SPANISH])
    lines(tmp_path / "r.jsonl", SPANISH)
    suite = '[[set]]\nname = "forget"\ndata = "t.jsonl"\ntext = "body"\n[[set]]\nname = "retain"\ndata = "r.jsonl"\nwrong = false\n'
    found = load_results(evaluate(tiny_model, suite=str(write(tmp_path / "s.toml", suite))))
    assert found.summary["metrics"]["forget_rouge"] is not None and found.summary["metrics"]["retain_truth_ratio"] is None


@pytest.mark.parametrize(
    ("row", "flags", "expected"),
    [
        ({"name": "Mira", "town": "Vardsund"}, (), "no key 'question'"),
        ({"name": "Mira", "town": "Vardsund"}, (), "tu-eval prepare"),
        ({"question": "Who?"}, (), "no key 'answer'"),
        ({"answer": "Mira."}, (), "no key 'question'"),
        ({"question": "Who?", "answer": " "}, (), "answer is empty"),
        ({"question": "Who?", "answer": "I.", "perturbed_answer": "You."}, (), "not a list of wrong answers"),
        ({"question": "Who?", "answer": "I."}, ("--text-key", "txt"), "no key 'txt'"),
        ({"question": "Who?", "answer": "I."}, ("--suite", "atlas"), "--suite atlas and --forget"),
    ],
)
def test_bad_rows_are_one_line(run_cli, tiny_model, tmp_path, row, flags, expected):
    file = lines(tmp_path / "bad.jsonl", [row])
    good = lines(tmp_path / "good.jsonl", SPANISH)
    said = refused(run(run_cli, tiny_model, file, good, tmp_path / "out", *flags))
    assert expected in said and "Vardsund" not in said and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--forget", "f.jsonl"), "give --retain too"),
        (("--retain", "r.jsonl"), "give --forget too"),
        ((), "--suite is missing; name a suite, or files"),
        (("--forget", "gone.jsonl", "--retain", "r.jsonl"), "--forget gone.jsonl"),
        (("--suite", "atlas", "--text-key", "text"), "--text-key text"),
    ],
)
def test_half_of_what_is_asked_is_one_line(run_cli, tiny_model, tmp_path, flags, expected):
    assert expected in refused(run_cli("tu-eval", "run", "--model", tiny_model, "--out", tmp_path / "out", *flags))


def test_attacks_take_both_files(run_cli, tiny_model, files, tmp_path):
    base = ("tu-eval", "attack", "--model", tiny_model, "--forget", files[0], "--out", tmp_path / "out", "--limit", 3, "--device", "cpu")
    code, out, err = run_cli(*base, "--attack", "paraphrase")
    assert code == 0, err
    about = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert about["suite"] == "own" and "paraphrased question" in out
    code, out, err = run_cli(*base[:-6], "--out", tmp_path / "both", "--retain", files[1], "--attack", "nf4", "--device", "cpu")
    assert code == 0 and "probability (retain)" in out, err
    text = lines(tmp_path / "t.jsonl", [{"text": "Only text."}])
    assert "no key 'question'" in refused(run_cli(*base[:4], "--forget", text, "--out", tmp_path / "no"))
