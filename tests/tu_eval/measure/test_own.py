"""Metrics, attacks and suites of one's own: what cannot be used is one line, what was edited is noticed, and other code
is not taken for the same."""

import json
import sys

import pytest

from shared import extensions
from shared.errors import ConfigError, StoreError
from shared.files.fs import hash_json
from tests.tu_eval.conftest import SUITE
from tu_eval.compare.comparison import load_comparison
from tu_eval.measure.own import own_metrics
from tu_eval.measure.recompute import require_recomputable
from tu_eval.results.results import load_results

MODULE = "own_things"
METRICS = """
from tu_eval.measure.own import Answered
def length(row: Answered): return len(row.logprobs)
def of_some(row: Answered): return len(row.wrong) if row.question.count(" ") % 2 else None
def never(row: Answered): return None
def probability(row: Answered): return 0.5
def text(row: Answered): return "high"
def endless(row: Answered): return float("inf")
def written(row: Answered): return None if row.generation is None else len(row.generation)
class Metric: pass
"""
ATTACKS = """
from tu_eval.attacks.probing import measure
def plain(engine, probes, seed): return measure(engine, probes, f"seed {seed}")
def nothing(engine, probes, seed): return None
def short(engine, probes, seed): return [{"setting": "a", "set": "forget", "example_id": "x", "probability": 0.5}]
"""
SUITES = """
from tu_eval.suites.sets import EvalSet, Suite
forget, world = EvalSet(name="forget", data="atlas:forget"), EvalSet(name="world", data="atlas:world", options=True)
lone = Suite("mine", (forget,), None)
tofu = Suite("tofu:mine", (forget, world), None)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    write(monkeypatch, tmp_path, METRICS + ATTACKS + SUITES)
    return tmp_path


def write(monkeypatch, place, text):
    """As a new process finds it."""
    (place / f"{MODULE}.py").write_text(text)
    monkeypatch.setattr(extensions, "_imported", {})
    monkeypatch.delitem(sys.modules, MODULE, raising=False)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("length", "length"), "a metric length is given already"),
        (("probability",), "'probability' cannot be the name of a column, or is that of another one"),
        (("Metric",), "is of type type, expected a function"),
        (("lengths",), "has no lengths (did you mean 'length'?)"),
    ],
)
def test_a_metric_that_cannot_be_one_is_refused_before_any_work(place, names, said):
    with pytest.raises(ConfigError) as error:
        own_metrics([f"{MODULE}:{name}" for name in names])
    assert said in str(error.value)


@pytest.mark.parametrize(("name", "shown"), [("text", "'high'"), ("endless", "inf")])
def test_what_is_no_number_names_the_row(place, evaluate, tiny_model, name, shown):
    with pytest.raises(ConfigError, match=rf"^--metric {MODULE}:{name}: gave {shown} for \S+, expected a finite number or None$"):
        evaluate(tiny_model, limit=1, generate=False, metrics=(f"{MODULE}:{name}",))


def test_numbers_of_rows_means_and_reasons(place, evaluate, tiny_model):
    names = ("length", "of_some", "never", "written")
    results = load_results(evaluate(tiny_model, limit=4, metrics=tuple(f"{MODULE}:{name}" for name in names)))
    forget, metrics = results.rows("forget"), results.summary["metrics"]
    assert [row["length"] for row in forget] == [row["target_tokens"] for row in forget]
    some = [row["of_some"] for row in forget if row["of_some"] is not None]
    assert 0 < len(some) < len(forget) and metrics["forget_of_some"] == sum(some) / len(some)
    assert metrics["forget_never"] is None and "gives no number" in results.summary["reasons"]["forget_never"]
    assert all(row["written"] is not None for row in forget)
    assert {f"forget_{name}" for name in names} <= require_recomputable(results)


def test_a_mean_that_its_rows_do_not_give_is_noticed(place, evaluate, tiny_model):
    folder = evaluate(tiny_model, limit=2, generate=False, metrics=(f"{MODULE}:length",))
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    summary["metrics"]["forget_length"] += 1
    summary["summary_sha256"] = hash_json({k: v for k, v in summary.items() if k != "summary_sha256"})
    path.write_text(json.dumps(summary))
    with pytest.raises(StoreError, match="says forget_length is"):
        require_recomputable(load_results(folder))


def test_results_by_other_code_of_one_metric_are_not_compared(place, evaluate, tiny_model, tiny_base, monkeypatch):
    metric = {"limit": 2, "generate": False, "metrics": (f"{MODULE}:length",)}
    first, same, without = evaluate(tiny_model, **metric), evaluate(tiny_base, **metric), evaluate(tiny_base, limit=2, generate=False)
    write(monkeypatch, place, METRICS + "# another line\n")
    other = evaluate(tiny_base, **metric)
    columns = [column.metric for column in load_comparison([first, same, without]).columns]
    assert "forget_length" in columns
    with pytest.raises(StoreError, match="length is by other code: own_things:length sha256:"):
        load_comparison([first, other])


def test_muse_has_no_metrics_of_ones_own(run_cli, place):
    code, _, err = run_cli("tu-eval", "run", "--model", "m", "--suite", "muse:news", "--metric", f"{MODULE}:length", "--out", "o")
    assert code == 2 and err == "error: metrics: --suite muse:news makes no use of it; leave it out\n"


def attack(run_cli, model, name, out, *more):
    small = ("--limit", 2, "--device", "cpu", *more)
    return run_cli("tu-eval", "attack", "--model", model, "--suite", SUITE, "--attack", f"{MODULE}:{name}", "--out", out, *small)


@pytest.mark.parametrize(("name", "said"), [("nothing", "it is null, expected a list"), ("short", "0.fact_probability is missing")])
def test_an_attack_that_gives_no_rows_is_one_line(place, run_cli, tiny_model, name, said):
    code, _, err = attack(run_cli, tiny_model, name, "out")
    assert code == 2 and f"error: --attack {MODULE}:{name}: {said} in what it gives" in err


def test_what_an_attack_found_is_kept_by_its_code(place, run_cli, tiny_model, monkeypatch):
    kept = ("--store", "kept")
    assert attack(run_cli, tiny_model, "plain", "first", *kept)[0] == 0
    code, _, err = attack(run_cli, tiny_model, "plain", "second", *kept)
    assert code == 0 and "already measured, taken from the store" in err
    write(monkeypatch, place, METRICS + ATTACKS + "# another line\n")
    code, _, err = attack(run_cli, tiny_model, "plain", "third", *kept)
    assert code == 0 and "already measured" not in err
    first, second, third = (json.loads((place / name / "attack.json").read_text()) for name in ("first", "second", "third"))
    assert first["numbers"] == second["numbers"] == third["numbers"]
    assert first["own_attacks"] == second["own_attacks"] != third["own_attacks"]
    assert run_cli("tu-eval", "verify", "third")[0] == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lone", "forget is its only set"),
        ("tofu", "is called tofu:mine, which is the name of another suite"),
        ("forget", "is of type EvalSet, expected a Suite"),
    ],
)
def test_a_suite_that_cannot_be_one_is_refused(place, run_cli, tiny_model, name, said):
    code, _, err = run_cli("tu-eval", "run", "--model", tiny_model, "--suite", f"{MODULE}:{name}", "--out", "out")
    assert code == 2 and said in err and len(err.splitlines()) == 1


def test_a_mistyped_suite_still_gets_the_nearest(run_cli, place, tiny_model):
    code, _, err = run_cli("tu-eval", "run", "--model", tiny_model, "--suite", "tofo:forget01", "--out", "out")
    assert code == 2 and "there is no module tofo" in err and "did you mean 'tofu:forget01'?" in err
