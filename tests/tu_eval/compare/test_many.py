"""tu-eval many: what it measures of a study, what it refuses, and that a failure stops nothing else."""

import json
import re
import shutil

import pytest

WORLD = "people=4,facts_per_person=3,forget_people=2,holdout_people=1"
TEXT = """
model = "m"
scores = "s"

[models]
target = "{target}"
retain = "{retain}"

[choices]
data = "{choices}"
device = "cpu"
"""
SUITE = f"""
[eval]
suite = "atlas:{WORLD}"
max_new_tokens = 4
generate = false
device = "cpu"
"""


@pytest.fixture
def study(tiny_model, tiny_base, tmp_path):
    questions = [{"question": "Столица?", "choices": ["Псков", "Москва"], "answer": 1}]
    (tmp_path / "q.jsonl").write_text(json.dumps(questions[0], ensure_ascii=False) + "\n", encoding="utf-8")

    def make(more="", target=tiny_model):
        path = tmp_path / "study.toml"
        path.write_text(TEXT.format(target=target, retain=tiny_base, choices=tmp_path / "q.jsonl") + more, encoding="utf-8")
        return path

    return make


def refused(result, pattern):
    code, _, err = result
    assert code == 2 and re.search(pattern, err.splitlines()[-1]), err


def test_choices_become_a_table(study, tmp_path, run_cli):
    """Without a suite there is no page."""
    code, stdout, err = run_cli("tu-eval", "many", study(), "--out", tmp_path / "o")
    assert code == 0, err
    table = (tmp_path / "o" / "benchmarks.md").read_text()
    assert table.splitlines()[0] == "| model | choices accuracy | choices accuracy_norm |"
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == ["retain", "target"]
    assert "page:" not in stdout and not (tmp_path / "o" / "page.html").exists()


def test_a_model_that_fails_is_noted_and_the_others_are_measured(study, tmp_path, run_cli):
    path = study(SUITE, target=tmp_path / "nowhere")
    code, stdout, err = run_cli("tu-eval", "many", path, "--out", tmp_path / "o", "--set", "choices=none")
    assert code == 1, err
    assert re.search(r"^failed: target: .*nowhere", stdout, re.MULTILINE) and "next: mend" in stdout
    assert (tmp_path / "o" / "results" / "retain" / "summary.json").exists() and (tmp_path / "o" / "page.html").exists()


def test_numbers_of_other_weights_are_not_taken_for_these(study, tmp_path, run_cli, tiny_base, tiny_model):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    path = study(SUITE, target=model)
    ran = ("tu-eval", "many", path, "--out", tmp_path / "o", "--set", "choices=none")
    assert run_cli(*ran)[0] == 0
    shutil.rmtree(model)
    shutil.copytree(tiny_base, model)
    code, stdout, _ = run_cli(*ran)
    assert code == 1 and re.search(r"failed: target: .*differs in the model; delete it to measure again", stdout)


def test_numbers_of_other_questions_are_not_taken_for_these(study, tmp_path, run_cli, tiny_model):
    """The same file, edited; of both kinds of data."""
    rows = {"id": "1", "question": "Где живёт Аня?", "answer": "В Пскове.", "perturbed_answer": ["В Туле."]}
    sets = [f'[[set]]\nname = "{name}"\ndata = "{name}.jsonl"\ngenerate = false\n' for name in ("forget", "retain")]
    (tmp_path / "s.toml").write_text("\n".join(sets), encoding="utf-8")
    for name in ("forget", "retain"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(rows) + "\n", encoding="utf-8")
    path = study(SUITE.replace(f"atlas:{WORLD}", str(tmp_path / "s.toml")))
    ran = ("tu-eval", "many", path, "--out", tmp_path / "o")
    for _ in range(2):
        code, _, err = run_cli(*ran)
        assert code == 0, err
    questions = (tmp_path / "q.jsonl").read_text(encoding="utf-8")
    (tmp_path / "q.jsonl").write_text(questions.replace("Псков", "Тула"), encoding="utf-8")
    refused(run_cli(*ran), r"choices/retain: its numbers are of another run, which differs in the data; delete it to measure again")
    (tmp_path / "q.jsonl").write_text(questions, encoding="utf-8")
    (tmp_path / "forget.jsonl").write_text(json.dumps({**rows, "answer": "В Пскове, у реки."}) + "\n", encoding="utf-8")
    refused(run_cli(*ran), r"results/retain: its numbers are of another run, which differs in the data; delete it to measure again")


@pytest.mark.parametrize(
    ("old", "new", "pattern"),
    [
        ("[choices]", "[choises]", r"unknown table 'choises' .did you mean 'choices'"),
        ("[choices]", "[options]", r"measures nothing; add a table \[eval\], \[benchmarks\] or \[choices\]"),
        ("device", "devise", r"choices: unknown field 'devise' .did you mean 'device'"),
        ('device = "cpu"', 'model = "m"', r"choices: model is another for each model"),
    ],
)
def test_what_is_none_is_named(study, tmp_path, run_cli, old, new, pattern):
    path = study()
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    refused(run_cli("tu-eval", "many", path, "--out", tmp_path / "o"), pattern)


def test_nothing_to_measure(study, tmp_path, run_cli):
    refused(run_cli("tu-eval", "many", study(), "--out", tmp_path / "o", "--set", "models=none"), r"no \[models\], and no finished run")
    refused(run_cli("tu-eval", "many", tmp_path / "no.toml", "--out", tmp_path / "o"), r"no\.toml: no such file")
