"""The evidence says what the verdict says: the same sentences, numbers and intervals, from the same folders."""

import json

import pytest

from shared.files.fs import hash_json
from tests.browser import Browser
from tests.tu_eval.evidence.test_evidence import report
from tests.tu_eval.evidence.test_tasks import made as made_benchmark
from tests.tu_eval.evidence.test_verdict import made_attack
from tests.tu_eval.made import NoConfig
from tests.tu_eval.test_commands import refused
from tu_eval.attacks.run import ATTACK_FOLDER, numbers_again, schema
from tu_eval.evidence.report import page as as_page
from tu_eval.evidence.verdict.report import write_verdict
from tu_eval.evidence.verdict.verdict import headline
from tu_eval.results.folder import ROWS, read_folder, write_folder


def sound_attack(folder, after, before):
    """`made_attack`, whose numbers are those of its rows."""
    scratch = read_folder(made_attack(folder.with_name("scratch"), after, level=0.2, before=before), ATTACK_FOLDER)
    about = {"models": scratch.summary["models"], "suite": "made", "numbers": [{"attack": name} for name in ("paraphrase", "quantise")]}
    rows = [row for row in scratch.rows() if row["attack"] in ("paraphrase", "quantise")]
    about["numbers"] = numbers_again(about, rows)
    write_folder(folder, ATTACK_FOLDER, about, {ROWS: (schema(), rows)}, NoConfig())
    return folder


@pytest.mark.parametrize("retain_too", [True, False])
def test_lines_are_those_of_the_verdict(run_cli, made, tmp_path, retain_too):
    before, after, retain = made
    attack = sound_attack(tmp_path / "attack", after, before)
    asked = made_benchmark(tmp_path / "asked", after, {"mmlu": {"acc": 0.4, "acc_stderr": 0.01}})
    more = ("--retain", retain) if retain_too else ()
    data, html = report(
        run_cli, tmp_path / "out", "--before", before, "--after", after, *more, "--attacks", attack, "--attacks", asked
    )  # fmt: skip
    (verdict,) = write_verdict(tmp_path / "v.html", [after, attack, asked], before, retain if retain_too else None)
    said = data["verdict"]
    assert said["headline"] == headline(verdict) and said["headline"] in html
    assert [tuple(m.values()) for m in said["missing"]] == verdict.missing
    lines = [*verdict.forgotten, *verdict.kept]
    assert len(said["lines"]) == len(lines) > 8 and {line["question"] for line in said["lines"]} == {"forgotten", "kept"}
    for mine, line in zip(said["lines"], lines, strict=True):
        assert (mine["how"], mine["name"], mine["state"], mine["sentence"]) == (line.how, line.name, line.said.state, line.said.sentence)
        for role, number in (("after", line.model), ("before", line.target), ("retain", line.retain)):
            held = mine[role]
            assert (held is None) == (number is None)
            if number is not None:
                span = None if held["span"] is None else tuple(held["span"])
                assert (held["value"], span, held["rows"]) == (number.value, number.span, number.n)
        assert line.said.sentence.replace("'", "&#39;") in html
    assert {line["how"] for line in said["lines"]} >= {"in other words", "after rounding the weights", "benchmark of lm-eval"}
    assert [one["command"] for one in said["beside"]] == ["tu-eval benchmarks"] and len(data["attacks"]) == 1
    code, out, err = run_cli("tu-eval", "verify", tmp_path / "out")
    assert code == 0 and "page: says what" in out, err
    assert said["missing"][0]["question"] == "forgotten" and "Not measured, what is still there by asking often (" in html
    earlier = {**data, "verdict": {**said, "missing": [{"what": "in depth", "command": "x"}, {"what": "in benchmarks", "command": "y"}]}}
    assert "Not measured, what is still there in depth (<code>x</code>); in benchmarks (<code>y</code>).</p>" in as_page(earlier)
    with Browser() as browser:
        page = browser.page(tmp_path / "out" / "evidence.html", size=(400, 900), dark=True)
        assert page.errors() == [] and page.evaluate("document.documentElement.scrollWidth") == 400


def test_a_folder_of_another_model_and_an_edited_line_are_refused(run_cli, made, tmp_path):
    before, after, retain = made
    stranger = made_benchmark(tmp_path / "stranger", retain, {"mmlu": {"acc": 0.4, "acc_stderr": 0.01}})
    base = ("tu-eval", "evidence", "--before", before, "--after", after, "--out", tmp_path / "out")
    assert "none of the models whose results were given" in refused(run_cli(*base, "--attacks", stranger))
    assert "holds no attack.json" in refused(run_cli(*base, "--attacks", retain))
    data, _ = report(run_cli, tmp_path / "out", "--before", before, "--after", after)
    data["verdict"]["lines"][0]["after"]["value"] = 2.0
    data = {k: v for k, v in data.items() if k != "evidence_sha256"}
    (tmp_path / "out" / "evidence.json").write_text(json.dumps({**data, "evidence_sha256": hash_json(data)}))
    assert "lies outside of its interval" in refused(run_cli("tu-eval", "verify", tmp_path / "out"))
