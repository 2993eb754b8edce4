"""Membership inference: each score against a plain transformers loop, each aggregate against brute force and
scikit-learn."""

import json
import math
import random
import shutil
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared.data.datasets import load_rows
from shared.data.examples import qa_example
from shared.errors import ConfigError, DataError, StoreError
from shared.files.fs import hash_json
from tests.conftest import build_tokenizer
from tests.tu_eval.conftest import SUITE
from tu_eval.metrics import separation as separations
from tu_eval.metrics.membership import min_k, min_k_plus, zlib_ratio
from tu_eval.metrics.privleak import privleak
from tu_eval.metrics.separation import auc, resampled, separation, true_positive_rate
from tu_eval.results.results import load_results

TOLERANCE = 1e-6
SCORES = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=12)


@given(SCORES, SCORES)
def test_auc_equals_all_pairs_and_scikit_learn(members, others):
    pairs = [(m < o) + (m == o) / 2 for m in members for o in others]
    assert auc(members, others) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    labels = [1] * len(members) + [0] * len(others)
    assert auc(members, others) == pytest.approx(roc_auc_score(labels, [-x for x in members + others]), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [7, 100, 250])
def test_true_positive_rate_equals_the_best_threshold_and_scikit_learn(seed, count):
    rng = random.Random(seed)
    members, others = [round(rng.gauss(-1, 1), 1) for _ in range(90)], [round(rng.gauss(1, 1), 1) for _ in range(count)]
    best = max(
        sum(m <= t for m in members) / len(members)
        for t in [-math.inf, *members, *others]
        if sum(o <= t for o in others) <= 0.01 * len(others)
    )
    assert true_positive_rate(members, others) == best
    false, true, _ = roc_curve([1] * 90 + [0] * count, [-x for x in members + others], drop_intermediate=False)
    assert true_positive_rate(members, others) == pytest.approx(true[false <= 0.01 + 1e-12].max(), abs=1e-12)


def test_the_interval_holds_the_auc_and_depends_on_the_seed_alone():
    rng = np.random.default_rng(0)
    members, others = rng.normal(-0.5, 1, 60).tolist(), rng.normal(0, 1, 50).tolist()
    one = separation(members, others, seed=3)
    assert one == separation(members, others, seed=3) != separation(members, others, seed=4)
    assert one.low < one.auc < one.high
    few = separation(members[:10], others[:10], seed=3)
    assert few.high - few.low > one.high - one.low
    # The spread of the bootstrap is that of the Mann–Whitney statistic (Hanley and McNeil 1982), within a fifth.
    m, o = np.array(members), np.array(others)
    wins = (m[:, None] < o[None]).astype(float)
    deviation = math.sqrt(wins.mean(1).var() / len(m) + wins.mean(0).var() / len(o))
    assert (one.high - one.low) / (2 * 1.96 * deviation) == pytest.approx(1, abs=0.2)
    assert separation([0.0], [1.0], seed=0).low == separation([0.0], [1.0], seed=0).high == 1.0


@pytest.mark.parametrize(("members", "others"), [(1, 1), (1, 5), (7, 4), (33, 33), (60, 17)])
@pytest.mark.parametrize("cells", [10**6, 1, 150])  # all at a time, one by one, three times a few
def test_resamples_are_those_drawn_one_by_one_to_the_last_bit(members, others, cells, monkeypatch):
    monkeypatch.setattr(separations, "CELLS", cells)
    rng = np.random.default_rng(members)
    m, o = rng.normal(-0.3, 1, members).round(1), np.append(rng.normal(0, 1, others - 1).round(1), np.inf)  # with ties
    draw = np.random.default_rng(5)
    assert resampled(m, o, 5, 50).tolist() == [auc(draw.choice(m, members), draw.choice(o, others)) for _ in range(50)]


def test_scores_of_a_row_equal_their_formulas():
    logprob = [-0.1, -5.0, -0.7, -2.0, -0.3, -9.0, -1.0]
    assert min_k(logprob) == (9 + 5) / 2  # int(0.4 · 7) = 2
    assert min_k([-3.0]) == 3.0
    assert zlib_ratio(logprob, "Žofie") == pytest.approx(18.1 / 7 / len(zlib.compress("Žofie".encode())))
    p = np.array([0.7, 0.2, 0.1])
    mean, deviation = (p * np.log(p)).sum(), math.sqrt((p * np.log(p) ** 2).sum() - (p * np.log(p)).sum() ** 2)
    entropy, second = -mean, (p * np.log(p) ** 2).sum()
    got = min_k_plus([math.log(0.1), math.log(0.7)], [entropy] * 2, [second] * 2)
    assert got == pytest.approx(-(math.log(0.1) - mean) / deviation, rel=1e-12)
    assert min_k_plus([-1.0], [0.0], [0.0]) == pytest.approx(1000.0)  # a certain position divides by the least deviation, 1e-3


def test_privleak_equals_its_formula_and_knows_where_it_is_undefined():
    assert privleak(0.3826, 0.5) == pytest.approx(100 * ((1 - 0.3826) - 0.5) / 0.5)
    assert privleak(1.0, 0.5) == -100.0
    assert privleak(0.5, 1.0) is None


@pytest.fixture(scope="module")
def trained(tiny_model, tiny_tokenizer, tmp_path_factory):
    """The tiny model after a few passes over two forget rows: it has some of them by heart."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows = [qa_example(row, tiny_tokenizer) for row in load_rows(f"atlas:forget{SUITE.removeprefix('atlas')}", limit=2)]
    for _ in range(25):
        for e in rows:
            ids = torch.tensor([e.input_ids])
            labels = torch.where(torch.tensor([e.is_target]), ids, -100)
            optimizer.zero_grad()
            model(ids, labels=labels).loss.backward()
            optimizer.step()
    folder = tmp_path_factory.mktemp("trained")
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def attacked(evaluate, trained, tiny_base, retain_results):
    return evaluate(trained, retain_results=str(retain_results), reference_model=str(tiny_base), gradients=True, generate=False, seed=5)


def plain_scores(model, tokenizer, row):
    """From one forward pass of one sequence alone, in float64 after the logits, and one backward pass."""
    e = qa_example(row, tokenizer)
    model.zero_grad()
    logits = model(torch.tensor([e.input_ids])).logits[0]
    rows = torch.stack([logits[i - 1].double().log_softmax(-1) for i in e.targets])
    logp = rows.gather(1, torch.tensor([[e.input_ids[i]] for i in e.targets]))[:, 0]
    (-logp.mean()).backward()
    norm = math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters()))
    rows, logp, n = rows.detach(), logp.detach(), len(logp) - 1
    mean = (rows.exp() * rows).sum(-1)
    deviation = ((rows.exp() * rows.square()).sum(-1) - mean.square()).clamp_min(1e-6).sqrt()
    z = ((logp - mean) / deviation)[:n].sort().values
    few = max(1, int(0.4 * n))
    hits = (rows.argmax(-1) == torch.tensor([e.input_ids[i] for i in e.targets]))[:n].tolist()
    return {
        "loss": -logp.mean().item(),
        "zlib": -logp.mean().item() / len(zlib.compress(row.answer.encode())),
        "min_k": -logp[:n].sort().values[:few].mean().item(),
        "min_k_plus": -z[:few].mean().item(),
        "gradient_norm": norm,
        "exact_memorization": sum(hits) / n,
        "extraction_strength": 1 - next(k for k in range(n + 1) if all(hits[k:])) / n,
    }


def test_every_score_equals_a_plain_loop(attacked, trained, tiny_base):
    tokenizer, seen = AutoTokenizer.from_pretrained(trained), set()
    model, reference = AutoModelForCausalLM.from_pretrained(trained), AutoModelForCausalLM.from_pretrained(tiny_base)
    result = load_results(attacked)
    by_id = {r["example_id"]: r for r in result.rows("forget")}
    for side in ("forget", "holdout"):
        got = [r for r in result.membership() if r["set"] == side]
        rows = load_rows(f"atlas:{side}{SUITE.removeprefix('atlas')}", limit=6)
        assert [r["example_id"] for r in got] == [row.id for row in rows]
        for r, row in zip(got, rows, strict=True):
            expected = plain_scores(model, tokenizer, row)
            memory = {name: expected.pop(name) for name in ("exact_memorization", "extraction_strength")}
            expected["reference"] = expected["loss"] - plain_scores(reference, tokenizer, row)["loss"]
            assert {name: r[name] for name in expected} == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)
            if side == "forget":
                assert {name: by_id[row.id][name] for name in memory} == pytest.approx(memory, abs=1e-12)
                seen.add(memory["exact_memorization"] > 0)
    assert True in seen, "the fixture memorised nothing, so this test would prove nothing"


def test_the_summary_holds_the_separations_of_the_rows(attacked, retain_results):
    result, rows = load_results(attacked), load_results(attacked).membership()
    metrics, about = result.summary["metrics"], result.summary["membership"]
    for name, found in about["attacks"].items():
        members, others = ([r[name] for r in rows if r["set"] == side] for side in ("forget", "holdout"))
        expected = roc_auc_score([1] * len(members) + [0] * len(others), [-x for x in members + others])
        assert found["auc"] == metrics[f"mia_{name}"] == pytest.approx(expected, abs=1e-12)
        assert found["low"] <= found["auc"] <= found["high"]
    assert set(about["attacks"]) == {"loss", "zlib", "min_k", "min_k_plus", "reference", "gradient_norm"}
    theirs = load_results(retain_results).summary["metrics"]["mia_min_k"]
    assert metrics["privleak"] == privleak(metrics["mia_min_k"], theirs)


def test_what_was_not_measured_says_why(retain_results):
    summary = load_results(retain_results).summary
    for name, words in {"mia_reference": "reference_model", "mia_gradient_norm": "gradients=true", "privleak": "--retain-results"}.items():
        assert summary["metrics"][name] is None and words in summary["reasons"][name]


def test_damaged_membership_scores_are_named(attacked, tmp_path):
    copy = shutil.copytree(attacked, tmp_path / "copy")
    data = bytearray((copy / "membership.parquet").read_bytes())
    data[len(data) // 2] ^= 4
    (copy / "membership.parquet").write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"membership\.parquet: does not match the hash"):
        load_results(copy)


def test_results_of_before_membership_inference_still_serve(evaluate, tiny_model, target_results, retain_results, tmp_path):
    old = shutil.copytree(retain_results, tmp_path / "old")
    summary = json.loads((old / "summary.json").read_text())
    for name in ("membership", "membership_sha256", "holdout_fingerprint", "summary_sha256"):
        del summary[name]
    (old / "membership.parquet").unlink()
    (old / "summary.json").write_text(json.dumps({**summary, "summary_sha256": hash_json(summary)}))
    assert load_results(old).membership() == []
    again = load_results(evaluate(tiny_model, retain_results=str(old))).summary
    expected = load_results(target_results).summary["metrics"]
    assert again["metrics"] == {**expected, "privleak": None} and expected["privleak"] is not None
    assert "no membership inference" in again["reasons"]["privleak"]


def test_a_reference_with_another_tokenizer_and_a_missing_holdout_are_refused(evaluate, tiny_base, tmp_path):
    AutoModelForCausalLM.from_pretrained(tiny_base).save_pretrained(tmp_path)
    other = build_tokenizer()
    other.add_tokens(["@@"])
    other.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="another tokenizer"):
        evaluate(tiny_base, reference_model=str(tmp_path))
    with pytest.raises(DataError, match="no such file"):
        evaluate(tiny_base, holdout=str(tmp_path / "x.jsonl"))
