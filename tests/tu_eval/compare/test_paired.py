"""Clustered and paired intervals: against loops, known truths, and what a reader is told."""

import math

import numpy as np
import pytest
from scipy.stats import t

from benchmarks.intervals import coverage
from shared.errors import ConfigError
from tests.tu_eval.made import TEXTS, NoConfig, make_results, make_rows
from tu_eval.compare.comparison import load_comparison
from tu_eval.compare.intervals import DRAWS, SEED, clusters_of, over_rows, redrawn, stretch
from tu_eval.compare.notes import cluster_notes
from tu_eval.compare.paired import differences, holm
from tu_eval.results.results import load_results, write_results


def rows_of(values, clusters=None):
    return {"forget": [{"probability": v, **({"cluster": c} if clusters else {})} for v, c in zip(values, clusters or values, strict=True)]}


def test_clusters_are_numbered_and_a_row_without_one_is_by_itself():
    assert clusters_of([{"cluster": c} for c in ("a", "b", "a", None, None)]).tolist() == [0, 1, 0, 2, 3]
    for alone in (["a", "b", "c"], ["a", "a"], [None, None]):
        assert clusters_of([{"cluster": c} for c in alone]) is None
    assert clusters_of([{}, {}]) is None


def test_the_clustered_interval_is_that_of_a_plain_loop_over_whole_clusters():
    import zlib

    values, clusters = [0.1, 0.2, 0.3, 0.7, 0.8, 0.5], ["x", "x", "x", "y", "y", "z"]
    rows = rows_of(values, clusters)
    metrics = {"forget_probability": sum(values) / 6}
    counts = np.random.default_rng([SEED, zlib.crc32(b"forget")]).multinomial(3, [1 / 3] * 3, DRAWS)
    members = {0: values[:3], 1: values[3:5], 2: values[5:]}
    means = []
    for draw in counts:
        drawn = [v for k, times in enumerate(draw) for _ in range(times) for v in members[k]]
        means.append(sum(drawn) / len(drawn))
    assert redrawn(rows, metrics, [])["forget_probability"].values.tolist() == pytest.approx(means, abs=1e-6)
    low, high = np.percentile(means, (2.5, 97.5))
    factor = t.ppf(0.975, 2) / 1.959963984540054 * math.sqrt(3 / 2)
    value = metrics["forget_probability"]
    expected = max(0.0, value + factor * (low - value)), min(1.0, value + factor * (high - value))
    assert over_rows(rows, metrics, [])["forget_probability"] == pytest.approx(expected, abs=1e-6)
    assert stretch(3) == pytest.approx(factor, rel=1e-9)


@pytest.mark.parametrize("clusters", [list("abcdef"), list("aaaaaa")])
def test_clusters_that_tell_nothing_give_the_interval_over_rows_and_a_note(clusters):
    values = [0.1, 0.2, 0.3, 0.7, 0.8, 0.5]
    metrics = {"forget_probability": sum(values) / 6}
    assert over_rows(rows_of(values, clusters), metrics, []) == over_rows(rows_of(values), metrics, [])
    (note,) = cluster_notes(rows_of(values, clusters))
    assert "intervals are over rows" in note and ("one row only" in note) == (clusters[0] != clusters[1])
    assert cluster_notes(rows_of(values, list("aabbcc"))) == cluster_notes(rows_of(values)) == []


def test_clustered_intervals_hold_the_truth_as_often_as_they_say_and_plain_ones_do_not():
    clustered, plain = coverage(worlds=400, authors=20, rows=4, within=0.5, seed=0)
    assert 0.93 <= clustered <= 0.97
    assert plain < 0.85


def with_clusters(folder, label, *, seed, known, of=3):
    """A folder of made-up results whose rows name a cluster, every `of` rows."""
    base = load_results(make_results(folder.with_name(f"{folder.name}-base"), label, seed=seed, known=known))
    rows = [{**row, "cluster": f"p{i % len(TEXTS) // of}"} for i, row in enumerate(make_rows(seed, known))]
    write_results(folder, {**base.summary, "more_columns": ["cluster"]}, rows, [], NoConfig())
    return folder


def test_differences_are_paired_and_corrected(tmp_path):
    places = [with_clusters(tmp_path / n, n, seed=s, known=k) for n, s, k in (("a", 1, 0.9), ("b", 1, 0.5), ("c", 2, 0.9))]
    comparison = load_comparison(places)
    found = {(d.label, d.metric): d for d in differences(comparison, "a")}
    rows = [load_results(p).rows("forget") for p in places]
    for label, at in (("b", 1), ("c", 2)):
        d = found[label, "forget_probability"]
        gaps = [x["probability"] - y["probability"] for x, y in zip(rows[at], rows[0], strict=True)]
        assert d.value == pytest.approx(sum(gaps) / len(gaps), abs=1e-9) and d.clustered and d.units == 10
        # The standard error of a mean over clusters of one size is that of the clusters' means.
        means = [sum(gaps[i : i + 3]) / 3 for i in range(0, 30, 3)]
        error = np.std(means, ddof=1) / math.sqrt(10)
        assert d.span[1] - d.value == pytest.approx(t.ppf(0.975, 9) * error, rel=0.1)
        assert d.smallest == pytest.approx((t.ppf(0.975, 9) + t.ppf(0.8, 9)) * error, rel=0.1)
    assert found["b", "forget_probability"].verdict == "differs"
    fine = found["c", "forget_probability"]
    assert fine.verdict.startswith("too fine to claim: 10 clusters show differences from 0.")
    raw = list(found.values())
    assert [d.corrected for d in raw] == holm([d.p for d in raw])
    assert not {m for _, m in found} & {"forget_quality", "mia_loss"}


def test_the_same_weights_differ_in_nothing(tmp_path):
    folders = [make_results(tmp_path / n, n, seed=1, known=0.5) for n in ("a", "b")]
    assert {(d.value, d.p, d.corrected) for d in differences(load_comparison(folders), "a")} == {(0.0, 1.0, 1.0)}


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_a_label_that_is_none_suggests_the_nearest(run_cli, tmp_path):
    folders = [make_results(tmp_path / n, n, seed=1, known=0.5) for n in ("target", "npo")]
    code, _, err = run_cli("tu-eval", "compare", *folders, "--against", "taget", "--out", tmp_path / "page.html")
    assert code == 2 and "--against taget: no result has that label (did you mean 'target'?)" in err
    with pytest.raises(ConfigError):
        differences(load_comparison(folders), "nobody")


def test_the_commands_print_the_differences_everywhere(run_cli, tmp_path):
    places = [with_clusters(tmp_path / n, n, seed=s, known=k) for n, s, k in (("a", 1, 0.9), ("b", 1, 0.5))]
    page, table = tmp_path / "page.html", tmp_path / "page.md"
    code, out, err = run_cli("tu-eval", "compare", *places, "--against", "a", "--out", page, "--markdown", table)
    assert code == 0, err
    for text in (out, page.read_text(), table.read_text().replace("\\_", "_")):
        assert all(word in text for word in ("Difference", "p (Holm)", "differs", "forget_probability"))
    assert "Do they still write?" in page.read_text()


def babbled(folder, label, *, known, text):
    """Results of a model that writes the same everywhere."""
    base = load_results(make_results(folder.with_name(f"{folder.name}-base"), label, seed=3, known=known))
    rows = [{**row, "generation": text, "rouge_l_recall": 0.0} for row in base.rows()]
    metrics = {m: 0.0 if m.endswith("rouge") else 0.0 if m == "model_utility" else v for m, v in base.summary["metrics"].items()}
    write_results(folder, {**base.summary, "metrics": metrics}, rows, [], NoConfig())
    return folder


@pytest.mark.parametrize("text", ["no no no no no no no no", "", "是是是是是是是是是"])
def test_a_model_that_babbles_does_not_look_forgotten(tmp_path, text):
    target = make_results(tmp_path / "target", "target", seed=2, known=0.95)
    broken = babbled(tmp_path / "broken", "broken", known=0.05, text=text)
    others = [make_results(tmp_path / n, n, seed=s, known=0.4 + s / 50) for n, s in (("fine", 4), ("well", 5))]
    comparison = load_comparison([target, broken, *others])
    assert any(n.startswith("broken babbles: 100 % (forget set)") and "themselves everywhere." in n for n in comparison.notes)
    table = comparison.table()
    for c, column in enumerate(comparison.columns):
        if column.forgets and table[1][c].value is not None:
            assert comparison.marks(c, table)[1] == "" and "best" in comparison.marks(c, table)[2:]
    comparison.__dict__["babbling"] = {}  # the negative control: without the rule it is best
    best = [column.metric for c, column in enumerate(comparison.columns) if comparison.marks(c, table)[1] == "best"]
    assert "forget_probability" in best
