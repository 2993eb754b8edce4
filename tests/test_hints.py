"""What the commands print as `next:` is a command that works as it stands: each of the chain is given to the next."""

import json
import re
import shlex

import pytest

from shared.data.kin import kin_of

WHO = ("Ждан", "Mira", "Ōe", "Søren")
QUICK = {"tu-train": ["--epochs", "1"], "tu-eval": ["--set", "max_new_tokens=2"]}


def hinted(out: str, program: str) -> list[str]:
    """The command of `program` among the hints."""
    (line,) = [line for line in re.findall(r"^(?:next:|     ) (tu-.*)$", out, re.M) if line.startswith(f"{program} run")]
    return shlex.split(line)


@pytest.mark.parametrize("keys", [(), ("frage", "antwort")])
def test_every_hint_of_the_chain_works_when_pasted(run_cli, tiny_model, tmp_path, monkeypatch, keys):
    folder = tmp_path / "my rows"
    folder.mkdir()
    monkeypatch.chdir(folder)
    question, answer = keys or ("question", "answer")
    rows = [json.dumps({question: f"Where does {name} live?", answer: f"{name} lives in Pskov {k}."}) + "\n" for k, name in enumerate(WHO)]
    for name, part in {"rows": rows, "rows_forget": rows[:2], "rows_retain": rows[2:]}.items():
        (folder / f"{name}.jsonl").write_text("".join(part))
    flags = ["--question-key", question, "--answer-key", answer] if keys else []
    first = ["tu-train", "finetune", "--model", tiny_model, "--data", "rows.jsonl", "--epochs", "1", "--out", "my target", *flags]
    code, out, err = run_cli(*first)
    assert code == 0, err
    score = hinted(out, "tu-score")
    assert score[score.index("--base-model") + 1] == str(tiny_model) and score[score.index("--data") + 1] == "rows_forget.jsonl"
    code, out, err = run_cli(*score)
    assert code == 0, err
    train = hinted(out, "tu-train")
    assert train[train.index("--retain") + 1] == "rows_retain.jsonl"
    code, out, err = run_cli(*train, *QUICK["tu-train"])
    assert code == 0, err
    if keys:
        (line,) = re.findall(r"^next: (tu-eval prepare .*)$", out, re.M)
        assert run_cli(*shlex.split(line))[0] == 0
    measure = hinted(out, "tu-eval")
    assert "--suite" not in measure and (folder / measure[measure.index("--forget") + 1]).is_file()
    code, out, err = run_cli(*measure, *QUICK["tu-eval"])
    assert code == 0, err


def test_data_that_go_together_are_found(tmp_path):
    for name in ("a.b.jsonl", "a_forget.b.jsonl", "my_retain.csv.gz", "my_forget.csv.gz"):
        (tmp_path / name).touch()
    found = {name: kin_of(str(tmp_path / name), *words) for name, *words in [
        ("a.b.jsonl", "", "forget"), ("a_forget.b.jsonl", "forget", "retain"), ("my_forget.csv.gz", "forget", "retain"),
        ("no.csv", "forget", "retain"),
    ]}  # fmt: skip
    assert found == {
        "a.b.jsonl": str(tmp_path / "a_forget.b.jsonl"), "a_forget.b.jsonl": None, "my_forget.csv.gz": str(tmp_path / "my_retain.csv.gz"),
        "no.csv": None,
    }  # fmt: skip
    assert kin_of("tofu:forget05", "forget", "retain") == "tofu:retain95" and kin_of("tofu:full", "", "forget") == "tofu:forget01"
    assert kin_of("tofu:retain99", "", "forget") is None and kin_of("lume:forget:task2", "forget", "retain") == "lume:retain:task2"
    assert kin_of("atlas:full", "", "forget") == "atlas:forget" and kin_of("hub:a/b:c:d", "forget", "retain") is None
