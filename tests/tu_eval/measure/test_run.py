"""A whole evaluation against a plain transformers loop, row by row and number by number."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import hmean, ks_2samp
from transformers import AutoModelForCausalLM

from shared.data.datasets import load_rows
from shared.data.examples import qa_example
from shared.errors import ModelError
from shared.lm.forest import pack
from tests.conftest import build_tokenizer
from tests.tu_eval.conftest import SUITE
from tu_eval.measure.pieces import stop_ids
from tu_eval.results.results import load_results
from tu_eval.suites.suites import find_suite
from tu_eval.suites.variants import load_variants

TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def plain(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


def token_logprobs(model, tokenizer, row, answer):
    """(token id, log p) of each target token, one sequence alone through the model's own logits."""
    example = qa_example(type(row)(row.id, row.question, answer), tokenizer)
    with torch.no_grad():
        logits = model(torch.tensor([example.input_ids])).logits[0].double().log_softmax(-1)
    return [(example.input_ids[i], logits[i - 1, example.input_ids[i]].item()) for i in example.targets]


def per_token(model, tokenizer, row, answer):
    pairs = token_logprobs(model, tokenizer, row, answer)
    return math.exp(sum(x for _, x in pairs) / len(pairs))


def plain_answer(model, tokenizer, row, length):
    """Greedy decoding with no cache, one token at a time."""
    example = qa_example(row, tokenizer)
    ids = example.input_ids[: example.prompt_length]
    start = len(ids)
    for _ in range(length):
        with torch.no_grad():
            token = model(torch.tensor([ids])).logits[0, -1].argmax().item()
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    return tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


def test_every_row_value_equals_a_plain_loop(target_results, plain, tiny_tokenizer):
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    rows = load_results(target_results).rows()
    sources = {"world": "atlas:world", **{s: f"atlas:{s}{SUITE.removeprefix('atlas')}" for s in ("forget", "retain")}}
    wanted = [(name, row) for name in ("forget", "retain", "world") for row in load_rows(sources[name], limit=6)]
    assert [(r["set"], r["example_id"]) for r in rows] == [(name, row.id) for name, row in wanted]
    for got, (name, row) in zip(rows, wanted, strict=True):
        pairs = token_logprobs(plain, tiny_tokenizer, row, row.answer)
        assert got["target_tokens"] == len(pairs)
        assert got["nll_sum"] == pytest.approx(-sum(x for _, x in pairs), rel=TOLERANCE)
        gold = per_token(plain, tiny_tokenizer, row, row.answer)
        assert got["probability"] == pytest.approx(gold, abs=TOLERANCE)
        wrong = [per_token(plain, tiny_tokenizer, row, w) for w in row.extra["perturbed_answer"]]
        right = gold if name == "world" else per_token(plain, tiny_tokenizer, row, row.extra["paraphrased_answer"])
        ratio = math.exp(sum(math.log(w) for w in wrong) / len(wrong)) / right
        assert got["truth_ratio"] == pytest.approx(ratio, rel=TOLERANCE)
        assert math.exp(got["log_truth_ratio"]) == pytest.approx(got["truth_ratio"], rel=1e-12)
        if name == "world":
            assert got["probability_options"] == pytest.approx(gold / (gold + sum(wrong)), abs=TOLERANCE)
            assert got["fact_probability"] is None
        else:
            assert got["probability_options"] is None
            assert got["fact_probability"] == pytest.approx(fact_probability(plain, tiny_tokenizer, row), abs=TOLERANCE)
        assert got["generation"] == plain_answer(plain, tiny_tokenizer, row, 12)
        assert got["rouge_l_recall"] == scorer.score(row.answer, got["generation"])["rougeL"].recall


def fact_probability(model, tokenizer, row):
    """By the characters that each token adds to the decoded answer (the facts here are ASCII)."""
    pairs, at, kept = token_logprobs(model, tokenizer, row, row.answer), 0, []
    for token, logp in pairs:
        end = at + (0 if token == tokenizer.eos_token_id else len(tokenizer.decode([token])))
        if any(at < b and end > a for a, b in row.extra["fact_spans"]):
            kept.append(logp)
        at = end
    assert at == len(row.answer)
    return math.exp(sum(kept) / len(kept))


def test_summary_equals_aggregates_of_the_rows(target_results, retain_results):
    result = load_results(target_results)
    rows, metrics = {name: result.rows(name) for name in ("forget", "retain", "world")}, result.summary["metrics"]

    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    expected = {
        "forget_probability": mean(r["probability"] for r in rows["forget"]),
        "forget_fact_probability": mean(r["fact_probability"] for r in rows["forget"]),
        "forget_rouge": mean(r["rouge_l_recall"] for r in rows["forget"]),
        "forget_truth_ratio": mean(min(r["truth_ratio"], 1 / r["truth_ratio"]) for r in rows["forget"]),
        "retain_probability": mean(r["probability"] for r in rows["retain"]),
        "retain_fact_probability": mean(r["fact_probability"] for r in rows["retain"]),
        "retain_rouge": mean(r["rouge_l_recall"] for r in rows["retain"]),
        "retain_truth_ratio": mean(max(0, 1 - r["truth_ratio"]) for r in rows["retain"]),
        "world_probability": mean(r["probability_options"] for r in rows["world"]),
        "world_rouge": mean(r["rouge_l_recall"] for r in rows["world"]),
        **{f"{name}_word_match": mean(r["word_match"] for r in kept) for name, kept in rows.items()},
        "world_truth_ratio": mean(max(0, 1 - r["truth_ratio"]) for r in rows["world"]),
    }
    parts = [expected[f"{s}_{p}"] for s in ("retain", "world") for p in ("probability", "rouge", "truth_ratio")]
    expected["model_utility"] = 0.0 if 0 in parts else hmean(parts)
    theirs = [r["truth_ratio"] for r in load_results(retain_results).rows("forget")]
    expected["forget_quality"] = ks_2samp([r["truth_ratio"] for r in rows["forget"]], theirs).pvalue
    for name in ("exact_memorization", "extraction_strength"):
        expected[f"forget_{name}"] = mean(r[name] for r in rows["forget"])
    attacks = {name: value for name, value in metrics.items() if name.startswith("mia_") or name == "privleak"}  # test_membership.py
    assert {k: v for k, v in metrics.items() if k not in attacks} == pytest.approx(expected, rel=1e-9)
    assert len(result.summary["utility_parts"]) == 6
    assert result.summary["retain_results"]["label"] == "retain"


def test_a_retain_model_against_itself_has_forget_quality_one(evaluate, tiny_base, retain_results):
    again = load_results(evaluate(tiny_base, retain_results=str(retain_results), batch_tokens=200))
    assert again.summary["metrics"]["forget_quality"] == 1.0
    before = load_results(retain_results).summary
    assert before["metrics"]["forget_quality"] is None and "retain results" in before["reasons"]["forget_quality"]


def test_without_generation_utility_is_null_and_says_why(evaluate, tiny_base, target_results):
    summary = load_results(evaluate(tiny_base, generate=False)).summary
    assert summary["metrics"]["model_utility"] is None and summary["metrics"]["forget_rouge"] is None
    assert "generate=false" in summary["reasons"]["model_utility"]
    assert summary["metrics"]["forget_probability"] > 0
    assert list(summary["metrics"]) == list(load_results(target_results).summary["metrics"])
    json.dumps(summary, allow_nan=False)


def test_learned_positions_are_not_overrun(evaluate, make_tiny):
    """A GPT-2 whose context ends soon after the longest prompt answers in the room that is left."""
    folder = make_tiny("GPT2", n_positions=100)
    rows = load_results(evaluate(folder, max_new_tokens=90, long="skip")).rows()
    assert rows and all(r["generation"] is not None for r in rows)


def test_a_skipped_variant_leaves_its_whole_row_out(evaluate, make_tiny, target_results):
    longest = sorted(r["target_tokens"] for r in load_results(target_results).rows("forget"))
    skipped = load_results(evaluate(make_tiny("Llama", max_position_embeddings=100), long="skip", generate=False))
    assert 0 < skipped.summary["rows"]["forget"] < len(longest)
    assert skipped.summary["data_fingerprint"] != load_results(target_results).summary["data_fingerprint"]


def test_weights_that_give_nan_are_named(make_tiny, evaluate, tmp_path, tiny_tokenizer):
    model = AutoModelForCausalLM.from_pretrained(make_tiny("Llama"))
    model.model.embed_tokens.weight.data[tiny_tokenizer.eos_token_id] = math.nan
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError):
        evaluate(tmp_path, generate=False)


def test_answers_end_at_the_turn_and_at_the_end_of_text(tiny_tokenizer):
    tokenizer = build_tokenizer()
    end = tokenizer.eos_token_id
    tokenizer.eos_token = tokenizer.pad_token
    example = qa_example(load_rows("atlas:world", limit=1)[0], tokenizer)
    assert stop_ids(tokenizer, [example]) == sorted([end, tokenizer.eos_token_id])
    nothing = SimpleNamespace(all_special_ids=[], added_tokens_decoder={}, eos_token_id=None)
    with pytest.raises(ModelError, match="generate=false"):
        stop_ids(nothing, [example])


def test_tofu_has_nine_utility_parts_and_atlas_one_name_a_world():
    assert len(find_suite("tofu:forget05").utility_parts) == 9
    assert [find_suite(f"tofu:forget{n}").holdout for n in ("01", "05", "10")] == ["tofu:holdout01", "tofu:holdout05", "tofu:holdout10"]
    assert find_suite("atlas:seed=0,people=60").name == "atlas"
    assert find_suite("atlas:seed=2,people=9").name == find_suite("atlas:people=9,seed=2").name == "atlas:people=9,seed=2"


@pytest.mark.parametrize("split", ["forget01", "forget05", "forget10"])
def test_tofu_runs_on_the_real_files(split, tofu_dir, evaluate, make_tiny, monkeypatch):
    monkeypatch.setenv("TU_TOFU_DIR", str(tofu_dir))
    result = load_results(evaluate(make_tiny("Llama", max_position_embeddings=1024), suite=f"tofu:{split}", limit=2))
    assert result.summary["rows"] == {"forget": 2, "retain": 2, "real_authors": 2, "world_facts": 2}
    rows = result.rows()
    assert rows[0]["example_id"] == f"tofu/{split}_perturbed/0"
    assert result.summary["engine"]["batching"] == "forest"
    assert [r["probability_options"] is not None for r in rows] == [False] * 4 + [True] * 4
    metrics = result.summary["metrics"]
    parts = [metrics[name] for name in result.summary["utility_parts"]]
    assert metrics["model_utility"] == (0.0 if 0 in parts else pytest.approx(hmean(parts)))
    assert not any("fact_prob" in name for name in metrics)


def test_the_seven_variants_of_a_question_are_one_tree(tofu_dir, tiny_tokenizer, monkeypatch):
    monkeypatch.setenv("TU_TOFU_DIR", str(tofu_dir))
    kept, _ = load_variants(find_suite("tofu:forget01").sets[0], tiny_tokenizer, context=None, long="error", limit=3)
    for variants in kept:
        sequences = [e.input_ids for e in variants.examples]
        assert len(sequences) == 7
        apart, prompt = sum(map(len, sequences)), variants.answer.prompt_length
        assert {tuple(s[:prompt]) for s in sequences} == {tuple(sequences[0][:prompt])}
        assert pack(sequences).ids_L.numel() <= apart - 6 * prompt  # the question once, not seven times
