"""The results file of OpenUnlearning: read as retain results, refused where it speaks of other rows, written for its
own tools."""

import json
import math

import pytest
from scipy.stats import ks_2samp

from shared.data.datasets import load_rows
from shared.errors import StoreError
from tu_eval.metrics.privleak import privleak
from tu_eval.metrics.truth_ratio import forget_truth_ratio
from tu_eval.results.open_unlearning import log_truth_ratios, min_k_auc, read_log
from tu_eval.results.results import load_results

KEYS = {  # as in the released file of a retain model, but for the paraphrased and wrong answers that they are computed from
    *("exact_memorization", "extraction_strength", "forget_Q_A_Prob", "forget_Q_A_ROUGE", "forget_quality", "forget_truth_ratio"),
    *("mia_loss", "mia_min_k", "mia_min_k_plus_plus", "mia_zlib", "model_utility", "privleak"),
    *("ra_Q_A_Prob_normalised", "ra_Q_A_ROUGE", "ra_Truth_Ratio", "retain_Q_A_Prob", "retain_Q_A_ROUGE", "retain_Truth_Ratio"),
    *("wf_Q_A_Prob_normalised", "wf_Q_A_ROUGE", "wf_Truth_Ratio"),
}


@pytest.fixture(scope="module")
def holdout(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "holdout.jsonl"
    path.write_text("".join(json.dumps({"question": f"Who is number {i}?", "answer": f"Nobody {i} knows."}) + "\n" for i in range(3)))
    return str(path)


@pytest.fixture(scope="module")
def tofu(tofu_dir, evaluate, make_tiny, holdout):
    """`tofu(seed, **fields)` -> results folder of a tiny model on three rows of each set."""

    def run(seed, **fields):
        model = make_tiny("Llama", seed=seed, max_position_embeddings=1024)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TU_TOFU_DIR", str(tofu_dir))
            return evaluate(model, suite="tofu:forget01", limit=3, max_new_tokens=4, **{"holdout": holdout, **fields})

    return run


@pytest.fixture(scope="module")
def log(tofu):
    return tofu(1) / "TOFU_EVAL.json"


def test_what_is_written_has_the_layout_and_our_numbers(log):
    values, result = json.loads(log.read_text()), load_results(log.parent)
    assert set(values) == KEYS
    metrics, rows = result.summary["metrics"], result.rows("forget")
    assert values["forget_truth_ratio"]["agg_value"] == metrics["forget_truth_ratio"]
    assert values["forget_truth_ratio"]["value_by_index"] == {str(i): {"score": r["truth_ratio"]} for i, r in enumerate(rows)}
    first = values["forget_Q_A_Prob"]["value_by_index"]["0"]
    assert first["prob"] == pytest.approx(math.exp(-first["avg_loss"]), rel=1e-12)
    assert values["forget_Q_A_ROUGE"]["value_by_index"]["2"]["ground_truth"] == rows[2]["answer"]
    assert values["mia_min_k"]["auc"] == values["mia_min_k"]["agg_value"] == metrics["mia_min_k"]
    assert len(values["mia_zlib"]["holdout"]["value_by_index"]) == 3
    assert values["privleak"] == {"agg_value": None}


def test_a_log_serves_as_the_folder_does(tofu, log):
    by_folder, by_log = (load_results(tofu(2, retain_results=str(place))) for place in (log.parent, log))
    assert by_folder.summary["metrics"] == by_log.summary["metrics"]
    assert by_log.summary["metrics"]["privleak"] is not None
    ours, theirs = ([r["truth_ratio"] for r in load_results(place).rows("forget")] for place in (by_log.folder, log.parent))
    assert by_log.summary["metrics"]["forget_quality"] == ks_2samp(ours, theirs).pvalue
    assert by_log.summary["retain_results"]["source"] == "OpenUnlearning"


def released(answers, scores, **more):
    """A file with what every released one has."""
    texts = {str(i): {"rougeL_recall": 0.5, "input": "user\n\n?assistant\n\n", "ground_truth": a} for i, a in enumerate(answers)}
    return {
        "forget_quality": {"agg_value": None},
        "forget_truth_ratio": {"agg_value": 0.5, "value_by_index": {str(i): {"score": s} for i, s in enumerate(scores)}},
        "forget_Q_A_ROUGE": {"agg_value": 0.5, "value_by_index": texts},
        **more,
    }


def test_scores_are_read_by_their_number_not_by_their_place(tmp_path):
    scores = [0.9023615096914765, 0.19873498572529252, 1.2991347094241128, 0.0, *[0.5] * 8]
    values = released(["x"] * 12, scores)["forget_truth_ratio"]["value_by_index"]
    log = {"forget_truth_ratio": {"value_by_index": dict(reversed(values.items()))}}
    got = log_truth_ratios(log, ["x"] * 12, tmp_path)
    assert got == [math.log(s) if s else -math.inf for s in scores]
    assert forget_truth_ratio(got) == pytest.approx(sum(min(s, 1 / s) if s else 0 for s in scores) / 12)


def test_min_k_of_a_log_needs_as_many_holdout_rows(tofu, tofu_dir, monkeypatch, tmp_path):
    monkeypatch.setenv("TU_TOFU_DIR", str(tofu_dir))
    answers = [row.answer for row in load_rows("tofu:forget01_perturbed", limit=3)]

    def run(count):
        side = {"agg_value": 4.0, "value_by_index": {str(i): {"score": 4.0} for i in range(count)}}
        entry = {"forget": side, "holdout": side, "auc": 0.47, "agg_value": 0.47}
        (tmp_path / "TOFU_EVAL.json").write_text(json.dumps(released(answers, [0.5, 0.6, 0.7], mia_min_k=entry)))
        assert min_k_auc(read_log(tmp_path / "TOFU_EVAL.json")) == (0.47, count)
        return load_results(tofu(2, retain_results=str(tmp_path / "TOFU_EVAL.json"), generate=False)).summary

    fits, other = run(3), run(40)
    assert fits["metrics"]["privleak"] == privleak(fits["metrics"]["mia_min_k"], 0.47)
    assert other["metrics"]["privleak"] is None and "40 holdout rows" in other["reasons"]["privleak"]
    assert other["metrics"]["forget_quality"] == fits["metrics"]["forget_quality"] is not None


def test_files_of_other_splits_and_other_kinds_are_refused(tofu, tofu_dir, monkeypatch, tmp_path):
    monkeypatch.setenv("TU_TOFU_DIR", str(tofu_dir))
    path = tmp_path / "TOFU_EVAL.json"
    mine, others = ([row.answer for row in load_rows(f"tofu:{s}_perturbed", limit=3)] for s in ("forget01", "forget10"))

    def refused(value):
        path.write_text(json.dumps(value))
        with pytest.raises(StoreError) as caught:
            tofu(2, retain_results=str(path), generate=False)
        return str(caught.value)

    assert "another split: 4 forget rows there, 3 here" in refused(released(mine, [0.5] * 4))
    assert "another split: its forget row 0 has another answer, and so have 2 more" in refused(released(others, [0.5] * 3))
    assert "no forget_truth_ratio" in refused({"model_utility": 0.5})
    broken = released(mine, [0.5] * 3)
    del broken["forget_truth_ratio"]["value_by_index"]["1"]
    broken["forget_truth_ratio"]["value_by_index"]["7"] = {"score": 0.5}
    assert "no score for each of its rows" in refused(broken)
    path.unlink()
    with pytest.raises(StoreError, match="no such file"):
        tofu(2, retain_results=str(path))


def test_a_suite_without_its_holdout_measures_the_rest_and_says_so(tofu):
    folder = tofu(1, holdout=None, generate=False)
    summary = load_results(folder).summary
    assert summary["metrics"]["forget_probability"] > 0 and summary["metrics"]["mia_loss"] is None
    for name in ("mia_loss", "privleak"):
        assert "holdout01.json does not exist" in summary["reasons"][name]
    assert not (folder / "membership.parquet").exists() and load_results(folder).membership() == []
