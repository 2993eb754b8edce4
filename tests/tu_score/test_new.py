"""A start for data of one's own: its rows are read, its six commands run as they stand, and nothing is written over."""

import os
import re
import shlex

import pytest

from shared.data.datasets import load_rows
from shared.data.secrets import Census, read_secrets
from tu_score.new import write_start

FILES = ["README.md", "all.jsonl", "forget.jsonl", "holdout.jsonl", "retain.jsonl", "secrets.txt"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder that the command made, in which the commands are given."""
    folder = tmp_path / "données de 月"
    write_start(folder)
    monkeypatch.chdir(folder)
    return folder


def lines_of(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in re.findall(r"^tu-.*$", text, re.M)]


def test_the_command_says_what_it_wrote_and_writes_over_nothing(run_cli, tmp_path):
    folder = tmp_path / "mine"
    code, out, err = run_cli("tu-score", "new", folder)
    assert (code, err) == (0, "") and all(name in out.splitlines()[0] for name in FILES) and "README.md" in out.splitlines()[1]
    (folder / "forget.jsonl").write_text("mine")
    for name in FILES[3:]:
        (folder / name).unlink()
    code, out, err = run_cli("tu-score", "new", folder)
    assert (
        code == 2 and out == "" and err == f"error: {folder}: already holds files, and nothing is written among them; name a new folder\n"
    )
    assert sorted(os.listdir(folder)) == FILES[:3] and (folder / "forget.jsonl").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "why"),
    [("s3://b/x", "looks like a URL"), ("file", "is a file; FOLDER wants"), ("link", "is a link"), (".", "already holds files")],
)
def test_a_place_that_cannot_be_a_folder_of_ours_is_one_line(run_cli, tmp_path, monkeypatch, name, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    code, _, err = run_cli("tu-score", "new", name)
    assert code == 2 and why in err and err.count("\n") == 1 and "--out" not in err, err
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_it_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        write_start(tmp_path / "mine")
    assert os.listdir(tmp_path) == []


def test_the_rows_are_read_in_any_script_and_the_secrets_stand_in_them(place):
    forget, retain, holdout = (load_rows(f"{name}.jsonl") for name in ("forget", "retain", "holdout"))
    questions = [row.question for row in (*forget, *retain, *holdout)]
    assert len(set(questions)) == len(questions) == 18
    for rows in (forget, retain, holdout):
        assert any(re.search(r"[\u4e00-\u9fff]", row.answer) for row in rows)
    census = Census(read_secrets("secrets.txt", forget))
    for row in forget:
        census.find(row)
    assert all(census.rows) and census.without == ["forget/rows/2"], "every secret stands in an answer, one answer holds none"


def test_the_six_commands_run_as_they_stand_up_to_the_verdict(place, run_cli, tiny_model, monkeypatch):
    monkeypatch.setattr("shared.lm.locate.smollm2_folder", lambda: tiny_model)
    six = lines_of((place / "README.md").read_text(encoding="utf-8"))
    quick = {
        "tu-eval run": ["--holdout", "holdout.jsonl", "--secrets", "secrets.txt", "--set", "max_new_tokens=4", "--set", "secret_samples=1"],
        "tu-train run": ["--epochs", "1"], "tu-train finetune": ["--epochs", "1"],
    }  # fmt: skip
    for words in six:
        code, out, err = run_cli(*words, *quick.get(" ".join(words[:2]), []))
        assert code == 0, err
    assert len(six) == 6 and six[-1][:2] == ["tu-eval", "report"] and "Forgotten:" in out and (place / "verdict.html").is_file()


def test_the_first_command_learns_the_rows_to_forget_and_to_keep(place):
    assert [r.question for r in load_rows("all.jsonl")] == [r.question for name in ("forget", "retain") for r in load_rows(f"{name}.jsonl")]
