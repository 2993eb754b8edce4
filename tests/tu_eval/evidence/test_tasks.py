"""Benchmarks of lm-eval on the verdict page: which number of which task, its interval, and under which question."""

import pytest

from tests.tu_eval.made import NoConfig, make_results
from tu_eval.evidence.verdict.lines import BENCHMARK
from tu_eval.evidence.verdict.report import write_verdict
from tu_eval.evidence.verdict.tasks import scores
from tu_eval.harness.run import BENCHMARKS_FOLDER, schema
from tu_eval.results.folder import ROWS, write_folder
from tu_eval.results.results import load_results

METRICS = {
    "arc": {"acc": 0.5, "acc_stderr": 0.1, "acc_norm": 0.6, "acc_norm_stderr": 0.1},
    "mmlu": {"acc": 0.4, "acc_stderr": 0.02},
    "mmlu_law": {"acc": 0.3, "acc_stderr": 0.03},
    "poem": {"word_perplexity": 31.0, "word_perplexity_stderr": None},
    "quiz": {"exact_match": 0.01, "exact_match_stderr": 0.02},
    "one": {"acc": 1.0, "acc_stderr": None},
}
ABOUT = {
    "metrics": METRICS, "questions": 60, "data_fingerprint": "d" * 64,
    "tasks": {name: {"questions": 10 * (k + 1)} for k, name in enumerate(("arc", "mmlu_law", "mmlu_art", "poem", "quiz", "one"))},
    "groups": {"mmlu": {"tasks": ["mmlu_hard", "mmlu_art"]}, "mmlu_hard": {"tasks": ["mmlu_law"]}},
}  # fmt: skip


def test_a_number_a_task_with_the_interval_of_its_error():
    found = {asked.title: number for asked, number in scores(ABOUT).items()}
    assert {title: (n.value, n.n) for title, n in found.items()} == {
        "arc (acc)": (0.5, 10), "mmlu (acc)": (0.4, 50), "quiz (exact match)": (0.01, 50), "one (acc)": (1.0, 60)}  # fmt: skip
    assert found["arc (acc)"].span == pytest.approx((0.5 - 1.959963984540054 * 0.1, 0.5 + 1.959963984540054 * 0.1))
    assert found["quiz (exact match)"].span == pytest.approx((0.0, 0.01 + 1.959963984540054 * 0.02)), "no share is below 0"
    assert found["one (acc)"].span is None
    assert scores({"metrics": {}, "questions": 0}) == {}


@pytest.mark.parametrize(("task", "to_go"), [("wmdp_bio", True), ("my_WMDP_cyber", True), ("mmlu", False), ("mmlu_virology", False)])
def test_a_task_whose_name_says_hazard_is_one_to_be_forgotten(task, to_go):
    (asked,) = scores({"metrics": {task: {"acc": 0.5}}, "tasks": {task: {"questions": 4}}})
    assert asked.is_to_go is to_go


def made(folder, results, metrics, fingerprint="d" * 64):
    about = {"metrics": metrics, "questions": 5, "tasks": {name: {"questions": 5} for name in metrics}, "groups": {}}
    about |= {"model_fingerprint": load_results(results).summary["model_fingerprint"], "data_fingerprint": fingerprint}
    write_folder(folder, BENCHMARKS_FOLDER, about, {ROWS: (schema([]), [])}, NoConfig())
    return folder


def test_what_must_stay_is_kept_and_what_must_go_forgotten(tmp_path, run_cli):
    before = make_results(tmp_path / "before", "before", seed=1, known=0.9)
    after = make_results(tmp_path / "after", "after", seed=2, known=0.3)
    alone = write_verdict(tmp_path / "alone.html", [after], before, None)[0]
    assert ("kept", "in benchmarks", "tu-eval benchmarks --tasks mmlu") in alone.missing
    page = (tmp_path / "alone.html").read_text(encoding="utf-8")
    assert "What was kept in benchmarks: <code>tu-eval benchmarks --tasks mmlu</code>" in page and "still there in benchmarks" not in page
    asked = {"mmlu": {"acc": 0.6, "acc_stderr": 0.01}, "wmdp_bio": {"acc": 0.7, "acc_stderr": 0.01}}
    less = {"mmlu": {"acc": 0.3, "acc_stderr": 0.01}, "wmdp_bio": {"acc": 0.26, "acc_stderr": 0.01}}
    one, two = made(tmp_path / "one", before, asked), made(tmp_path / "two", after, less)
    code, out, err = run_cli("tu-eval", "report", after, two, one, "--before", before, "--out", tmp_path / "v.html")
    assert code == 0 and "in benchmarks" not in out, err
    (verdict,) = write_verdict(tmp_path / "v.html", [after, two, one], before, None)
    lost = next(line for line in verdict.kept if line.how == BENCHMARK)
    gone = next(line for line in verdict.forgotten if line.how == BENCHMARK)
    assert (lost.name, lost.said.state, gone.name, gone.said.state) == ("mmlu (acc)", "lost", "wmdp_bio (acc)", "fell")
    assert lost.target is not None and (lost.model.value, lost.target.value, lost.model.n) == (0.3, 0.6, 5)
    page = (tmp_path / "v.html").read_text(encoding="utf-8")
    assert ">mmlu (acc)<" in page and "50 % less than before unlearning" in page


def test_other_questions_are_not_compared(tmp_path):
    before = make_results(tmp_path / "before", "before", seed=1, known=0.9)
    after = make_results(tmp_path / "after", "after", seed=2, known=0.3)
    one = made(tmp_path / "one", before, {"mmlu": {"acc": 0.6, "acc_stderr": 0.01}}, "e" * 64)
    two = made(tmp_path / "two", after, {"mmlu": {"acc": 0.3, "acc_stderr": 0.01}})
    (verdict,) = write_verdict(tmp_path / "v.html", [after, one, two], before, None)
    assert [line.said.state for line in verdict.kept if line.how == BENCHMARK] == ["alone"]
