"""The pages about data, secrets and documents of one's own: every command in their blocks runs, word for word and in
order, on a tiny model in place of the embedded one."""

import json

from benchmarks.readme import ROOT
from shared.data.datasets import load_rows
from tests.tu_eval.judge.test_judge import judge  # noqa: F401 (a fixture)

STUDY = """model = "target"
scores = "scores"
retain = "prepared/retain.jsonl"
method = ["npo"]
tokens = ["hard"]
epochs = 1
"""
SUITE = """[[set]]
name = "forget"
data = "rows.jsonl"
wrong = false

[[set]]
name = "retain"
data = "../retain.jsonl"
wrong = false
"""


def reworded(body):
    """What a judge says of a question."""
    return "Tell me: " + body["messages"][-1]["content"].splitlines()[-1]


def test_own_data(walk, judge, tmp_path):  # noqa: F811
    judge.script = [reworded]
    (tmp_path / "study.toml").write_text(STUDY)
    said = walk("docs/own_data.md")
    assert " ".join(line.split()[1] for line in said) == (
        "finetune run run run run report compare prepare attack tamper report many prepare"
    )
    assert all(row.extra["perturbed_answer"] for row in load_rows("prepared/forget.jsonl"))
    kept = [n for n in json.loads((tmp_path / "attacks" / "attack.json").read_text())["numbers"] if n["measure"].endswith("(retain)")]
    assert {n["attack"] for n in kept} == {"quantise", "nf4", "relearn"}
    verdict = (tmp_path / "verdict.html").read_text(encoding="utf-8")
    assert 'class="how">after training on other text<' in verdict
    assert 'class="how">retain set, after rounding the weights<' in verdict and (tmp_path / "study" / "page.html").is_file()


def test_secrets(walk, give, tmp_path):
    folder = tmp_path / "requests"
    folder.mkdir()
    rows, stay = (load_rows(str(ROOT / f"examples/people_{part}.jsonl"), limit=5) for part in ("forget", "retain"))
    for path, part in ((folder / "rows.jsonl", rows), (tmp_path / "retain.jsonl", stay)):
        path.write_text("".join(json.dumps({"question": r.question, "answer": f"{r.answer} +44 20"}) + "\n" for r in part))
    (folder / "secrets.txt").write_text("+44 20\nVardsund\nnowhere at all\n")
    (folder / "suite.toml").write_text(SUITE)
    give("tu-score run --model models/target --data requests/rows.jsonl --out scores")
    said = walk("docs/secrets.md")
    assert [line.split()[1] for line in said] == ["run", "run", "run", "attack", "evidence", "verify", "agree", "ask"]
    verified = said["tu-eval verify evidence"]
    assert "computed again" in verified or "evidence.json is whole" in verified
    report = json.loads((tmp_path / "evidence" / "evidence.json").read_text())
    assert report["request"] == {"id": "DSR-2026-017", "operator": "Orla Venn"} and report["leaks"]["answers"].keys() == {"before", "after"}
    assert report["verdict"]["lines"] and report["attacks"][0]["leaks"]


def test_raw_text(walk, tmp_path):
    for name, split in (("docs", "documents-forget"), ("others", "documents-retain")):
        rows = load_rows(f"atlas:{split}:people=4,forget_people=2,facts_per_person=3")
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": row.answer}) + "\n" for row in rows))
    exam = {"question": "Wo wurde Änne geboren?", "choices": ["Riga", "Łódź"], "answer": "Riga"}
    (tmp_path / "exam.jsonl").write_text(json.dumps(exam) + "\n")
    said = walk("docs/raw_text.md")
    assert [line.split()[1] for line in said] == ["finetune", "run", "run", "choices"]
    assert next(reversed(said.values())).endswith("chance: 0.5000, questions: 1\n")


def test_the_start_of_rows_of_your_own(walk, give, monkeypatch, tmp_path):
    give("tu-score new start")
    monkeypatch.chdir(tmp_path / "start")
    assert len(walk("tu_score/start/README.md")) == 6 and "verdict" in (tmp_path / "start" / "verdict.html").read_text(encoding="utf-8")
