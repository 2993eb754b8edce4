"""What the commands print as `next:` is a command that works as it stands: each of the chain is given to the next."""

import json
import re
import shlex

import pytest

from shared.data.kin import kin_of, same_again
from tu_score.config import ScoreConfig
from tu_score.run import run_score
from tu_train.config import UnlearnConfig
from tu_train.hint import evaluation

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


def test_the_next_command_reads_conversations_in_the_same_way():
    options = {"model": "m", "data": "talks.jsonl", "out": "o", "messages_key": "turns"}
    assert same_again(ScoreConfig(**options, turns="all")) == ["--messages-key", "turns", "--set", "turns=all"]
    assert same_again(ScoreConfig(**options, turns="last")) == ["--messages-key", "turns"]


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


@pytest.fixture(scope="module")
def stored(tiny_model, tmp_path_factory):
    """A store scored from a column of its own, in a folder with the rows that must stay."""
    folder = tmp_path_factory.mktemp("stored")
    for name, who in (("forget", WHO[:2]), ("retain", WHO[2:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"prosa": f"{one} lives in Pskov."}) + "\n" for one in who))
    config = ScoreConfig(model=str(tiny_model), data=str(folder / "forget.jsonl"), text_key="prosa", out=str(folder / "s"), device="cpu")
    run_score(config)
    return folder


def told(folder, **given):
    config = UnlearnConfig(**{"model": "m", "scores": str(folder / "s"), "retain": "none", "method": "graddiff", "out": "o", **given})
    return evaluation(config, folder / "model")


def test_the_forget_set_is_read_as_the_store_read_it(stored):
    """Though training needs no columns where it reads no rows."""
    (line,) = told(stored)
    words = shlex.split(line.removeprefix("next: "))
    named = dict(zip(words[2::2], words[3::2], strict=True))
    assert named["--text-key"] == "prosa"
    assert (named["--forget"], named["--retain"]) == (str(stored / "forget.jsonl"), str(stored / "retain.jsonl"))
    first, note = told(stored, forget_data="moved.jsonl")
    assert "--forget moved.jsonl --retain RETAIN" in first and "rows that the model must keep for RETAIN" in note


def test_a_hint_that_cannot_be_given_fails_no_training(stored, tmp_path):
    assert told(tmp_path) == []  # the store is gone
    rows = {"scores": None, "forget": "talks.jsonl", "retain": "others.jsonl", "tokens": "all"}
    (line,) = told(stored, **rows, messages_key="turns")
    assert line.startswith("next: tu-eval run, with a file of questions and answers")
    (line,) = told(stored, **{**rows, "forget": "tofu:forget05", "retain": "tofu:retain95"})
    assert "--suite tofu:forget05" in line
    first, *_ = told(stored, scores=(str(stored / "s"), "other"), retain=("a.jsonl", "b.jsonl"), text_key="prosa")
    assert "--retain a.jsonl" in first
