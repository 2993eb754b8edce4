"""What a run measures where it is asked to: each number against a plain transformers loop."""

import json
import math
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from shared.data.datasets import Row, load_rows
from shared.data.examples import make_examples, qa_example
from shared.errors import ConfigError, DataError
from tests.tu_eval.conftest import SUITE
from tu_eval.compare.intervals import clusters_of
from tu_eval.measure.config import EvalConfig
from tu_eval.measure.more import OPENING, opened_example
from tu_eval.measure.rounding import round_model
from tu_eval.metrics.rouge import rouge_l_recall
from tu_eval.results.folder import seal_of
from tu_eval.results.results import load_results

FORGET = f"atlas:forget{SUITE.removeprefix('atlas')}"


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logprobs(model, example):
    with torch.no_grad():
        logp = model(torch.tensor([example.input_ids])).logits[0].double().log_softmax(-1)
    return [logp[i - 1, example.input_ids[i]].item() for i in example.targets]


@pytest.fixture(scope="module")
def run(evaluate, tiny_model, tiny_base):
    return load_results(evaluate(tiny_model, limit=3, more_metrics=True, fluency_model=str(tiny_base)))


def test_the_probability_of_the_paraphrase(run, tiny_model, tiny_tokenizer):
    model = load(tiny_model)
    for row, source in zip(run.rows("forget"), load_rows(FORGET, limit=3), strict=True):
        values = logprobs(model, qa_example(Row("x", source.question, source.extra["paraphrased_answer"]), tiny_tokenizer))
        assert row["paraphrase_probability"] == pytest.approx(math.exp(sum(values) / len(values)), abs=1e-6)
    metrics = run.summary["metrics"]
    assert metrics["forget_paraphrase_probability"] == pytest.approx(sum(r["paraphrase_probability"] for r in run.rows("forget")) / 3)
    assert "world_paraphrase_probability" not in metrics


def test_the_answer_after_an_opening(run, tiny_model, tiny_tokenizer):
    model = load(tiny_model)
    for row, source in zip(run.rows("forget"), load_rows(FORGET, limit=3), strict=True):
        asked = [{"role": "user", "content": source.question}]
        prompt = tiny_tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) + OPENING
        ids = tiny_tokenizer(prompt, add_special_tokens=False)["input_ids"]
        begun = len(ids)
        for _ in range(12):
            with torch.no_grad():
                best = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if best == tiny_tokenizer.eos_token_id:
                break
            ids.append(best)
        text = tiny_tokenizer.decode(ids[begun:], skip_special_tokens=True).strip()
        assert row["jailbreak"] == text
        assert row["jailbreak_rouge"] == pytest.approx(rouge_l_recall([source.answer], [text])[0], abs=1e-6)


@pytest.mark.parametrize("answer", ["Lisbon, in 1947.", " 他出生在北京市。", "وُلدت في القاهرة"])
def test_an_opening_is_read_and_no_target_with_any_tokenizer(any_tokenizer, answer):
    (example,) = make_examples([Row("r", "Where? 哪里？", answer)], any_tokenizer, context=None)
    opened = opened_example(example, any_tokenizer)
    read, wanted = opened.input_ids[: opened.prompt_length], [opened.input_ids[i] for i in opened.targets]
    assert any_tokenizer.decode(read).rstrip().endswith(OPENING)
    assert any_tokenizer.decode(wanted, skip_special_tokens=True).strip() == answer.strip()
    assert opened.id == example.id


def test_the_surprise_of_the_answers_is_that_of_the_model_that_reads_them(run, tiny_base, tiny_tokenizer):
    model = load(tiny_base)
    rows = [row for row in run.rows() if row["generation"]]
    assert rows
    for row in rows:
        values = logprobs(model, qa_example(Row("x", row["question"], row["generation"].strip()), tiny_tokenizer))
        assert row["answer_nll"] == pytest.approx(-sum(values) / len(values), abs=1e-5)
    held = [r["answer_nll"] for r in run.rows("forget") if r["answer_nll"] is not None]
    assert run.summary["metrics"]["forget_answer_nll"] == pytest.approx(sum(held) / len(held), abs=1e-9)


def test_rows_of_a_person_are_a_cluster_unless_rows_are_asked_for(run, evaluate, tiny_model):
    people = [row.extra["person"] for row in load_rows(FORGET, limit=3)]
    assert [row["cluster"] for row in run.rows("forget")] == people
    assert clusters_of(run.rows("forget")).tolist() == [0, 0, 1] and clusters_of(run.rows("world")) is None
    plain = load_results(evaluate(tiny_model, limit=2, cluster="rows", generate=False))
    assert plain.more == [] and "cluster" not in plain.rows()[0]
    own = load_results(evaluate(tiny_model, limit=2, cluster="kind", generate=False))
    assert {row["cluster"] for row in own.rows("world")} == {"world"}


def test_rounded_weights_are_measured(evaluate, tiny_model, tiny_tokenizer):
    found = load_results(evaluate(tiny_model, limit=2, rounding="nf4", engine="torch", generate=False))
    model = load(tiny_model)
    before = logprobs(model, qa_example(load_rows(FORGET, limit=1)[0], tiny_tokenizer))
    round_model(model, "nf4")
    for row, source in zip(found.rows("forget"), load_rows(FORGET, limit=2), strict=True):
        values = logprobs(model, qa_example(source, tiny_tokenizer))
        assert row["nll_sum"] == pytest.approx(-sum(values), abs=1e-3)
    assert found.rows("forget")[0]["nll_sum"] != pytest.approx(-sum(before), abs=1e-2)
    assert found.summary["settings"]["rounding"] == "nf4"


def test_a_summary_that_was_edited_is_noticed(run, run_cli, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "edited")
    assert run_cli("tu-eval", "verify", folder)[0] == 0
    summary = json.loads((folder / "summary.json").read_text())
    summary["metrics"]["forget_jailbreak_rouge"] = 0.987
    summary["summary_sha256"] = seal_of(summary)
    (folder / "summary.json").write_text(json.dumps(summary))
    code, _, err = run_cli("tu-eval", "verify", folder)
    assert code == 2 and "forget_jailbreak_rouge" in err


def test_what_cannot_be_asked_for_is_refused(evaluate, tiny_model):
    with pytest.raises(DataError, match=r"--cluster athor: no set of the suite has that column; there are .*person"):
        evaluate(tiny_model, limit=1, cluster="athor", generate=False)
    for wrong, match in (
        ({"rounding": "nf4"}, "--rounding nf4: is torch's alone; add --engine torch"),
        ({"more_metrics": True, "generate": False}, "more_metrics: reads answers, and generate is false"),
        ({"fluency_model": "x", "suite": "lume"}, "fluency_model: --suite lume makes no use of it"),
    ):
        with pytest.raises(ConfigError, match=match):
            EvalConfig(**{"model": "m", "suite": "atlas", "out": "o", **wrong})
