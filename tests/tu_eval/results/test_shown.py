"""What others called their models and sets has no power over a terminal, a spreadsheet or a log, and no URL keeps its
password."""

import csv
import io
import json

import pytest

from tests.tu_eval.conftest import SUITE
from tests.tu_eval.made import make_model, make_results
from tests.tu_eval.test_commands import refused, rewrite

ESCAPES = "\x1b]0;title\x07\x1b[2Jgone\r\u202etxt.exe\x9b31m"
POWER = ("\x1b", "\x07", "\r", "\u202e", "\x9b")


@pytest.fixture
def hostile(tmp_path):
    retain = make_results(tmp_path / "retain", "retain", seed=1, known=0.25)
    model, weights = make_model(tmp_path / "model", word="w", method=f"npo{ESCAPES}", tokens="hard", seed=4)
    label = f"=HYPERLINK(1){ESCAPES}"
    after = make_results(tmp_path / "after", label, seed=3, known=0.3, retain=retain, model=model, model_fingerprint=weights)
    metrics = json.loads((after / "summary.json").read_text())["metrics"]
    rewrite(after, metrics={**metrics, f"@odd{ESCAPES}": -0.5, "forget_quality": metrics["forget_quality"]}, model=f"+{ESCAPES}")
    return after, retain


@pytest.mark.parametrize("command", ["compare", "evidence", "verify"])
def test_no_output_has_power_over_the_terminal(run_cli, hostile, tmp_path, command):
    after, retain = hostile
    arguments = {
        "compare": ("compare", after, retain, "--out", tmp_path / "r.html", "--markdown", tmp_path / "r.md", "--csv", tmp_path / "r.csv"),
        "evidence": ("evidence", "--before", retain, "--after", after, "--out", tmp_path / "e"),
        "verify": ("verify", after),
    }[command]
    code, out, err = run_cli("tu-eval", *arguments)
    assert code == 0, err
    assert not any(sign in out + err for sign in POWER), (out, err)
    for file in (tmp_path / "r.md", tmp_path / "r.csv"):
        assert not file.exists() or not any(sign in file.read_bytes().decode() for sign in POWER)


def test_no_cell_is_a_formula_and_numbers_stay_numbers(run_cli, hostile, tmp_path):
    after, retain = hostile
    for prefix in "=+-@\t":
        rewrite(retain, label=f"{prefix}cmd|' /C calc'!A0")
        assert run_cli("tu-eval", "compare", after, retain, "--out", tmp_path / "r.html", "--csv", tmp_path / "r.csv")[0] == 0
        table = list(csv.reader(io.StringIO((tmp_path / "r.csv").read_bytes().decode())))
        for row in table:
            for cell in row:
                if cell.startswith(("=", "+", "-", "@", "\t")):
                    float(cell)
        odd = next(k for k, name in enumerate(table[0]) if "odd" in name)
        assert table[1][odd] == "-0.5" and table[2][0].startswith("'")


def test_errors_about_hostile_names_are_one_plain_line(run_cli, hostile, tmp_path):
    after, retain = hostile
    rewrite(retain, suite=f"x{ESCAPES}")
    message = refused(run_cli("tu-eval", "compare", after, retain, "--out", tmp_path / "r.html"))
    assert not any(sign in message for sign in POWER)


def test_passwords_of_urls_are_in_no_file(run_cli, tiny_model, tmp_path):
    """Of a suite, of choices, of related text."""
    import pandas

    rows = [{"question": f"Who is {k}?", "answer": "A.", "choices": ["A", "B"], "perturbed_answer": ["B."]} for k in range(3)]
    pandas.DataFrame([{**r, "answer": 0} for r in rows]).to_parquet(tmp_path / "choices.parquet")
    from fsspec.implementations.memory import MemoryFileSystem

    with MemoryFileSystem().open("/secret/choices.jsonl", "w") as handle:
        handle.write("\n".join(json.dumps({**r, "answer": 0}) for r in rows) + "\n")
    with MemoryFileSystem().open("/secret/text.jsonl", "w") as handle:
        handle.write("\n".join(json.dumps(r) for r in rows) + "\n")
    url = "memory://secret/choices.jsonl?token=SESAME"
    for name, arguments in {
        "choices": ("choices", "--model", tiny_model, "--data", url),
        "attack": ("attack", "--model", tiny_model, "--suite", SUITE, "--limit", 4, "--attack", "relearn", "--set",
                   "relearn_on=memory://secret/text.jsonl?token=SESAME", "--set", "relearn_steps=1", "--store", tmp_path / "kept"),
    }.items():  # fmt: skip
        code, out, err = run_cli("tu-eval", *arguments, "--out", tmp_path / name)
        assert "SESAME" not in out + err, (code, out, err)
        held = [p for p in tmp_path.rglob("*") if p.is_file() and b"SESAME" in p.read_bytes()]
        assert not held, held


def test_a_recorded_password_is_not_shown_again(run_cli, tmp_path):
    before = make_results(tmp_path / "before", "target", seed=2, known=0.95)
    model, weights = make_model(tmp_path / "model", word="w", method="npo", retain="https://me:SESAME@host/x.jsonl?token=SESAME")
    after = make_results(tmp_path / "after", "npo", seed=3, known=0.3, model=model, model_fingerprint=weights)
    out = tmp_path / "pages"
    code, _, err = run_cli("tu-eval", "evidence", "--before", before, "--after", after, "--out", out)
    assert code == 0, err
    assert run_cli("tu-eval", "compare", before, after, "--out", out / "r.html", "--csv", out / "r.csv", "--markdown", out / "r.md")[0] == 0
    for file in out.iterdir():
        assert "SESAME" not in file.read_text(), file
    assert "https://***@host/x.jsonl?token=***" in (out / "evidence.json").read_text()
