"""Suites from TOML files: the same rows give the same numbers as a built-in suite; what a set leaves out; refusals in
one line."""

import json

import pytest
from scipy.stats import hmean

from shared.data.datasets import load_rows
from shared.errors import ConfigError
from tests.tu_eval.conftest import SUITE
from tu_eval.results.results import load_results
from tu_eval.suites.sets import EvalSet
from tu_eval.suites.suites import find_suite

WORLD = SUITE.removeprefix("atlas:")
FORGET, RETAIN, HOLDOUT = (f"atlas:{split}:{WORLD}" for split in ("forget", "retain", "holdout"))
ATLAS = f"""
holdout = "{HOLDOUT}"
[[set]]
name = "forget"
data = "forget.jsonl"
paraphrase = true
facts = true
[[set]]
name = "retain"
data = "{RETAIN}"
paraphrase = true
facts = true
[[set]]
name = "world"
data = "atlas:world"
options = true
"""


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def write_rows(path, spec):
    return write(path, "".join(json.dumps({"question": r.question, "answer": r.answer, **r.extra}) + "\n" for r in load_rows(spec)))


def test_the_sets_of_a_built_in_suite_give_its_metrics(evaluate, tiny_base, retain_results, tmp_path, monkeypatch):
    """Its forget rows lie in a file beside the TOML file, which is found from another folder."""
    (tmp_path / "there").mkdir()
    write_rows(tmp_path / "there" / "forget.jsonl", FORGET)
    path = write(tmp_path / "there" / "mine.toml", ATLAS)
    monkeypatch.chdir(tmp_path)
    found, expected = (load_results(folder).summary for folder in (evaluate(tiny_base, suite="there/mine.toml"), retain_results))
    assert found["metrics"] == expected["metrics"] and found["reasons"] == expected["reasons"]
    assert found["metrics"]["model_utility"] is not None and found["metrics"]["mia_loss"] is not None
    assert found["rows"] == expected["rows"] and found["utility_parts"] == expected["utility_parts"]
    assert found["suite"] == "mine" and expected["suite"] == SUITE
    assert find_suite(str(path)).sets[0].data == str(tmp_path / "there" / "forget.jsonl")


def test_flags_left_out_are_false_but_for_answers(tmp_path):
    suite = find_suite(
        str(write(tmp_path / "s.toml", '[[set]]\nname = "forget"\ndata = "x:y"\n[[set]]\nname = "more"\ndata = "atlas:world"'))
    )
    assert suite.sets == (EvalSet(name="forget", data="x:y"), EvalSet(name="more", data="atlas:world")) and suite.holdout is None
    assert not any(s.options or s.paraphrase or s.facts for s in suite.sets) and all(s.generate for s in suite.sets)
    assert suite.utility_parts == ["more_probability", "more_rouge", "more_truth_ratio"]


def test_a_set_without_answers_has_no_rouge_and_utility_goes_without_it(evaluate, tiny_model, tmp_path):
    text = ATLAS.replace("facts = true", "generate = false").replace("forget.jsonl", FORGET).replace(f'holdout = "{HOLDOUT}"', "")
    result = load_results(evaluate(tiny_model, suite=str(write(tmp_path / "s.toml", text)), limit=2))
    metrics, reasons = result.summary["metrics"], result.summary["reasons"]
    for name in ("forget", "retain"):
        assert metrics[f"{name}_rouge"] is None and "no answers written for this set" in reasons[f"{name}_rouge"]
        assert all(row["generation"] is None for row in result.rows(name)) and metrics[f"{name}_probability"] > 0
    assert all(row["generation"] is not None for row in result.rows("world"))
    assert metrics["world_rouge"] is not None and "world_rouge" not in reasons
    parts = ["retain_probability", "retain_truth_ratio", "world_probability", "world_rouge", "world_truth_ratio"]
    assert result.summary["utility_parts"] == parts
    values = [metrics[part] for part in parts]
    assert metrics["model_utility"] == (0.0 if 0 in values else pytest.approx(hmean(values)))
    assert metrics["mia_loss"] is None and "the suite names none" in reasons["mia_loss"]


ONE = '[[set]]\nname = "forget"\ndata = "atlas:forget"\n'


@pytest.mark.parametrize(("text", "expected"), [
    ("", "no [[set]]"),
    ("set = []", "no [[set]]"),
    ("set = 3", "no [[set]]"),
    ('[set]\nname = "forget"\ndata = "atlas:forget"', "no [[set]]"),
    ("set = [1]", "without name or data"),
    ('[[set]]\nname = "forget"', "without name or data"),
    ('[[set]]\ndata = "atlas:forget"', "without name or data"),
    (f"title = 1\n{ONE}", "unknown field 'title'"),
    (f"holdout = 3\n{ONE}", "holdout is 3, expected a data spec"),
    (f"{ONE}optoins = true", "unknown field 'optoins' (did you mean 'options'?)"),
    (f'{ONE}options = "yes"', "options: got 'yes', expected bool"),
    (f"{ONE}data = 3", "not valid TOML"),
    (f"{ONE}{ONE}", "expected different names"),
    (ONE.replace("forget", "retain"), "one of them forget"),
    (f"{ONE}paraphrase = ", "not valid TOML"),
    (None, "no such file"),
])  # fmt: skip
def test_a_file_that_is_no_suite_is_refused_in_one_line(text, expected, tmp_path):
    path = tmp_path / "suite.toml"
    if text is not None:
        write(path, text)
    with pytest.raises(ConfigError) as raised:
        find_suite(str(path))
    line = str(raised.value)
    assert line.startswith(f"--suite {path}") and expected in line and "\n" not in line
