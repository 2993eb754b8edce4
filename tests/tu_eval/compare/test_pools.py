"""tu-eval metrics: pools of made-up results against a loop over pairs, and pools that lack something."""

import itertools
import json
import math
import shutil

import pytest

from tests.tu_eval.made import make_results
from tu_eval.compare.pools import load_pool, scores, values_of
from tu_eval.results.results import load_results


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    place = tmp_path_factory.mktemp("pools") / "pool"
    for k in range(3):
        make_results(place / "with" / str(k), f"with {k}", seed=k, known=0.3 + 0.3 * k, attacked=True)
        make_results(place / "without" / str(k), f"without {k}", seed=10 + k, known=0.2 + 0.1 * k, attacked=True)
    make_results(place / "without" / "0" / "relearned", "again", seed=20, known=0.4, attacked=True)
    for k in range(2):
        make_results(place / "unlearned" / str(k), f"unlearned {k}", seed=30 + k, known=0.25, attacked=True)
        make_results(place / "unlearned" / str(k) / "relearned", "again", seed=40 + k, known=0.5 + 0.3 * k, attacked=True)
    make_results(place / "unlearned" / "0" / "quantised", "rounded", seed=50, known=0.6, attacked=True)
    return place


def value(folder, metric):
    results = load_results(folder)
    if metric == "forget_truth_ratio_share":
        ratios = [math.exp(r["log_truth_ratio"]) for r in results.rows("forget")]
        return sum(1 / (1 + r) for r in ratios) / len(ratios)
    found = results.summary["metrics"][metric]
    return 1 - found if metric == "forget_truth_ratio" else found


def test_every_number_equals_a_loop_over_the_folders(pool):
    found = scores(load_pool([pool]))
    assert {s.metric for s in found} >= {"forget_probability", "forget_truth_ratio", "forget_truth_ratio_share", "mia_loss"}
    assert not {s.metric for s in found} & {"forget_quality", "model_utility", "retain_probability"}
    for s in found:
        known, unknown = ([value(pool / kind / str(k), s.metric) for k in range(3)] for kind in ("with", "without"))
        pairs = [(a > b) + (a == b) / 2 for a, b in itertools.product(known, unknown)]
        assert s.faithfulness == pytest.approx(sum(pairs) / 9, abs=1e-6)
        retain = value(pool / "without/0/relearned", s.metric) - value(pool / "without/0", s.metric)
        ours = [value(pool / f"unlearned/{k}/relearned", s.metric) - value(pool / f"unlearned/{k}", s.metric) for k in range(2)]
        r = sum(1.0 if gain <= 1e-12 else min(max(retain, 0) / gain, 1) for gain in ours) / 2
        before, after = value(pool / "unlearned/0", s.metric), value(pool / "unlearned/0/quantised", s.metric)
        q = min(before / after, 1)
        assert (s.relearning, s.quantisation) == pytest.approx((r, q), abs=1e-6)
        robust = 2 / (1 / r + 1 / q) if r > 0 and q > 0 else 0
        assert s.robustness == pytest.approx(robust, abs=1e-6)
        overall = 2 / (1 / robust + 1 / s.faithfulness) if robust and s.faithfulness else 0
        assert s.overall == pytest.approx(overall, abs=1e-6)
    assert [s.overall for s in found] == sorted((s.overall for s in found), reverse=True)


def test_the_retain_model_scores_1_and_the_target_that_only_hides_0(tmp_path):
    make_results(tmp_path / "with/a", "a", seed=1, known=0.95)
    retain = make_results(tmp_path / "without/a", "b", seed=2, known=0.2)
    make_results(tmp_path / "without/a/relearned", "b", seed=3, known=0.3)
    for name in ("", "relearned"):
        shutil.copytree(retain / name, tmp_path / "unlearned/a" / name, dirs_exist_ok=True)
    shutil.copytree(retain, tmp_path / "unlearned/a/quantised", ignore=lambda *_: ["relearned"])
    (s,) = scores(load_pool([tmp_path]), ["forget_probability"])
    assert (s.faithfulness, s.relearning, s.quantisation, s.overall) == (1, 1, 1, 1)
    shutil.rmtree(tmp_path / "without/a/relearned")
    shutil.copytree(retain, tmp_path / "without/a/relearned")  # it learns nothing
    (s,) = scores(load_pool([tmp_path]), ["forget_probability"])
    assert (s.relearning, s.overall) == (0, 0)  # everything that comes back was there


def test_the_command_prints_the_table_and_writes_it(run_cli, pool, tmp_path):
    code, out, err = run_cli("tu-eval", "metrics", "--pool", pool, "--metric", "forget_probability", "--markdown", tmp_path / "t.md")
    assert code == 0, err
    head, line = out.splitlines()
    assert head.startswith("Metric\tFaithfulness\tR relearning\tQ quantisation") and line.startswith("forget_probability\t0.778\t")
    assert "| forget_probability | 0.778 |" in (tmp_path / "t.md").read_text()


def test_two_pools_are_one_and_what_is_missing_is_null(pool, tmp_path):
    for kind, name in (("with", "2"), ("without", "1")):
        place = tmp_path / kind / kind
        place.mkdir(parents=True)
        shutil.copytree(pool / kind / name, place / name)
    (s,) = scores(load_pool([tmp_path / "with", tmp_path / "without"]), ["mia_loss"])
    assert (s.faithfulness, s.relearning, s.quantisation, s.robustness, s.overall) == (1, None, None, None, None)


@pytest.mark.parametrize("kind, what", [("with", "have the knowledge"), ("without", "never had it")])
def test_a_pool_without_models_of_one_kind_is_refused(run_cli, pool, tmp_path, kind, what):
    shutil.copytree(pool, tmp_path / "pool")
    shutil.rmtree(tmp_path / "pool" / kind)
    code, _, err = run_cli("tu-eval", "metrics", "--pool", tmp_path / "pool")
    assert code == 2 and err.count("\n") == 1 and f"no results of models that {what}; put folders of tu-eval run into" in err


def test_unknown_metrics_and_folders_are_refused_by_name(run_cli, pool, tmp_path):
    code, _, err = run_cli("tu-eval", "metrics", "--pool", pool, "--metric", "forget_probabilty")
    assert (
        code == 2 and "--metric forget_probabilty: no metric that every result of the pool has (did you mean 'forget_probability'?)" in err
    )
    code, _, err = run_cli("tu-eval", "metrics", "--pool", tmp_path / "nowhere")
    assert code == 2 and "no such folder" in err


def test_results_of_another_suite_and_edited_ones_are_refused(run_cli, tmp_path):
    make_results(tmp_path / "with/a", "a", seed=1, known=0.9)
    make_results(tmp_path / "without/a", "b", seed=2, known=0.2, data_fingerprint="e" * 64)
    code, _, err = run_cli("tu-eval", "metrics", "--pool", tmp_path)
    assert code == 2 and "another data fingerprint" in err
    path = tmp_path / "with/a/summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "label": "c"}))
    code, _, err = run_cli("tu-eval", "metrics", "--pool", tmp_path)
    assert code == 2 and "does not match its own hash" in err


def test_a_truth_ratio_is_turned_so_that_more_means_more_knowledge(pool):
    values = values_of(load_results(pool / "with/2"))
    assert values["forget_truth_ratio"] == pytest.approx(1 - load_results(pool / "with/2").summary["metrics"]["forget_truth_ratio"])
