"""The pages about data, secrets and documents of one's own: every command in their blocks runs, word for word and in
order, on a tiny model in place of the embedded one."""

import json
import shlex
import shutil

import pytest
import torch

from benchmarks.readme import ROOT
from shared.data.datasets import load_rows
from tu_train.many import measure

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


def commands(page):
    """All lines of indented blocks that are commands; a line that ends in a backslash goes on in the next."""
    blocks = "".join(line[4:] if line.startswith("    ") else "\n" for line in page.splitlines(keepends=True))
    return [line for line in blocks.replace("\\\n", " ").splitlines() if line.startswith("tu-")]


@pytest.fixture(scope="module")
def small(make_tiny, tiny_tokenizer, tmp_path_factory):
    """A random model that ends its answers after a few tokens, for speed: the first number of every hidden state is
    large, and only the end of a turn reads it."""
    from transformers import AutoModelForCausalLM

    made = make_tiny("Llama", seed=0, hidden_size=32, num_hidden_layers=1, intermediate_size=48, max_position_embeddings=176)
    folder, model = tmp_path_factory.mktemp("small"), AutoModelForCausalLM.from_pretrained(made)
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] = 1.0
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[tiny_tokenizer.eos_token_id, 0] = 1.0
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def walk(run_cli, small, monkeypatch, tmp_path):
    """`walk(name)` runs the commands of docs/NAME in an empty folder; -> the words of each, and what it printed."""
    monkeypatch.setattr("shared.lm.locate.smollm2_folder", lambda: small)
    monkeypatch.setattr(measure, "run_shown", lambda command, arguments: run_cli(*command.split(" "), *arguments)[0])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "models").mkdir()
    shutil.copytree(small, tmp_path / "models" / "target")

    def run(name):
        out = {}
        for line in commands((ROOT / "docs" / name).read_text(encoding="utf-8")):
            code, said, err = run_cli(*shlex.split(line))
            assert code == 0, (line, err)
            out[line] = said
        return out

    return run


def test_own_data(walk, tmp_path):
    (tmp_path / "study.toml").write_text(STUDY)
    said = walk("own_data.md")
    assert [line.split()[1] for line in said] == [
        "finetune", "run", "run", "run", "run", "report", "prepare", "attack", "tamper", "report", "many"]  # fmt: skip
    assert all(row.extra["perturbed_answer"] for row in load_rows("prepared/forget.jsonl"))
    kept = [n for n in json.loads((tmp_path / "attacks" / "attack.json").read_text())["numbers"] if n["measure"].endswith("(retain)")]
    assert {n["attack"] for n in kept} == {"quantise", "nf4", "relearn"}
    verdict = (tmp_path / "verdict.html").read_text(encoding="utf-8")
    assert 'class="how">after training on other text<' in verdict
    assert 'class="how">retain set, after rounding the weights<' in verdict and (tmp_path / "study" / "page.html").is_file()


def test_secrets(walk, tmp_path):
    folder = tmp_path / "requests"
    folder.mkdir()
    rows, stay = (load_rows(str(ROOT / f"examples/people_{part}.jsonl"), limit=5) for part in ("forget", "retain"))
    for path, part in ((folder / "rows.jsonl", rows), (tmp_path / "retain.jsonl", stay)):
        path.write_text("".join(json.dumps({"question": r.question, "answer": f"{r.answer} +44 20"}) + "\n" for r in part))
    (folder / "secrets.txt").write_text("+44 20\nVardsund\nnowhere at all\n")
    (folder / "suite.toml").write_text(SUITE)
    said = walk("secrets.md")
    assert [line.split()[1] for line in said] == ["run", "run", "run", "attack", "evidence", "verify"]
    assert "computed again" in next(reversed(said.values())) or "evidence.json is whole" in next(reversed(said.values()))
    report = json.loads((tmp_path / "evidence" / "evidence.json").read_text())
    assert report["request"] == {"id": "DSR-2026-017", "operator": "Orla Venn"} and report["leaks"]["answers"].keys() == {"before", "after"}
    assert report["verdict"]["lines"] and report["attacks"][0]["leaks"]


def test_raw_text(walk, tmp_path):
    for name, split in (("docs", "documents-forget"), ("others", "documents-retain")):
        rows = load_rows(f"atlas:{split}:people=4,forget_people=2,facts_per_person=3")
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": row.answer}) + "\n" for row in rows))
    exam = {"question": "Wo wurde Änne geboren?", "choices": ["Riga", "Łódź"], "answer": "Riga"}
    (tmp_path / "exam.jsonl").write_text(json.dumps(exam) + "\n")
    said = walk("raw_text.md")
    assert [line.split()[1] for line in said] == ["finetune", "run", "run", "choices"]
    assert next(reversed(said.values())).endswith("chance: 0.5000, questions: 1\n")


def test_every_block_is_read():
    page = "text\n\n    tu-a one \\\n        two\n    TU_X=1 tu-b\n\ninline `tu-c`\n    tu-d\n"
    assert [shlex.split(line) for line in commands(page)] == [["tu-a", "one", "two"], ["tu-d"]]
