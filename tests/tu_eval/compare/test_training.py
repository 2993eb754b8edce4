"""An index of many runs: where results are looked for, and what is said when there are none."""

import json
import shutil

import pytest

from tests.tu_eval.made import make_results
from tu_eval.compare.comparison import load_comparison
from tu_eval.compare.training import read_index


def index_of(study, *names):
    runs = [{"name": name, "folder": name, "settings": {}, "status": "finished", "error": None} for name in names]
    study.mkdir(exist_ok=True)
    (study / "index.json").write_text(json.dumps({"format": 1, "runs": runs}, ensure_ascii=False), encoding="utf-8")
    return study / "index.json"


def test_only_what_is_named_is_compared_where_nothing_is_searched(tmp_path):
    """tu-eval many names what it measured; what it refused lies in the folders of the runs too."""
    index = index_of(tmp_path, "measured", "refused")
    measured, refused = (make_results(tmp_path / name / "results", name, seed=k) for k, name in enumerate(("measured", "refused")))
    assert load_comparison([measured], index, search=False).labels == ["measured"]
    assert load_comparison([measured], index).labels == ["measured", "refused"] and refused.is_dir()


def test_results_lie_in_a_runs_folder_or_in_a_folder_in_it(tmp_path):
    index = index_of(tmp_path, "ניסוי-1", "b", "c", "d")
    places = [make_results(tmp_path / place, label, seed=k) for k, (place, label) in enumerate((("ניסוי-1/results", "x"), ("b", "y")))]
    make_results(tmp_path / "c" / "deep" / "results", "z")  # deeper is not looked
    killed = make_results(tmp_path / "d" / "results", "killed")
    killed.rename(killed.with_name(".tmp-results"))
    assert [place for run in read_index(index) for place in run.results] == places
    comparison = load_comparison([], index)
    assert [r.folder for r in comparison.results] == places
    said = f"Not on this page: c (finished), of which there are no results, neither as DIR nor in {tmp_path / 'c'}/results."
    assert said in comparison.notes and len(comparison.notes) == 2


def test_no_results_is_one_line_that_says_where_they_belong(run_cli, tmp_path):
    index = index_of(tmp_path / "study", "one", "two")
    for given, parts in (
        (index, ["none of its 2 runs has results", "summary.json", "tu-eval run --model RUN --out RUN/results"]),
        (index.parent, ["is a folder", str(index)]),
        (tmp_path / "gone.json", ["no such file", "index.json that tu-train many writes"]),
    ):
        code, _, err = run_cli("tu-eval", "compare", "--index", given, "--out", tmp_path / "r.html")
        assert code == 2 and len(err.strip().splitlines()) == 1 and all(part in err for part in [f"--index {given}", *parts])


@pytest.mark.parametrize(("command", "parts"), [(("tu-eval", "compare"), ["--index", "RUN/results"]), (("tu-train", "many"), ["--index"])])
def test_help_says_where_results_belong(run_cli, command, parts):
    code, out, _ = run_cli(*command, "--help")
    assert code == 0 and all(part in " ".join(out.split()) for part in parts)


def test_an_evaluation_into_the_runs_own_folder_is_found(run_cli, tiny_model, tmp_path):
    model = tmp_path / "run"
    shutil.copytree(tiny_model, model)
    atlas = ("--suite", "atlas:people=12,seed=1", "--limit", 2, "--device", "cpu", "--set", "generate=false")
    code, _, err = run_cli("tu-eval", "run", "--model", model, *atlas, "--out", model / "results")
    assert code == 0, err
    code, out, err = run_cli("tu-eval", "compare", "--index", index_of(tmp_path, "run"), "--out", tmp_path / "r.html")
    assert code == 0 and "1 model" in out and "Not on this page" not in out, err
