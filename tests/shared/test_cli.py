"""What the commands share: how an error ends, and the lines that a person sees."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from shared import console
from shared.cli import INTERRUPTED, new_app, run_app
from shared.console import number_of, progress, say
from shared.errors import ConfigError, DataError, ModelError, StoreError, UserError

ROOT = Path(__file__).parents[2]


def run(monkeypatch, capsys, action, *arguments: str) -> tuple[object, str, str]:
    """Exit code, stdout and stderr of an app whose only command calls `action`."""
    app = new_app("A command.")
    app.command("one")(action)
    monkeypatch.setattr(sys, "argv", ["tu-test", "one", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_app(app)
    out, err = capsys.readouterr()
    return stop.value.code, out, err


@pytest.mark.parametrize("kind", [UserError, ConfigError, DataError, ModelError, StoreError])
def test_a_user_error_is_one_line_on_stderr_and_exit_code_2(monkeypatch, capsys, kind):
    def action() -> None:
        raise kind("row 3:\n  its answer   is empty\n")

    assert run(monkeypatch, capsys, action) == (2, "", "error: row 3: its answer is empty\n")


def test_another_error_is_not_dressed_up_as_the_users(monkeypatch, capsys):
    def action() -> None:
        raise ZeroDivisionError

    app = new_app("A command.")
    app.command("one")(action)
    monkeypatch.setattr(sys, "argv", ["tu-test", "one"])
    with pytest.raises(ZeroDivisionError):
        run_app(app)


def test_success_and_wrong_flags_end_as_they_should(monkeypatch, capsys):
    def action(rows: int = 1) -> None:
        typer.echo(f"{rows} rows")

    assert run(monkeypatch, capsys, action, "--rows", "4") == (0, "4 rows\n", "")
    code, out, err = run(monkeypatch, capsys, action, "--row", "4")
    assert (code, out) == (2, "")
    assert "--row" in err


def test_an_interrupt_says_that_the_work_is_kept(monkeypatch, capsys):
    def action() -> None:
        raise KeyboardInterrupt

    code, out, err = run(monkeypatch, capsys, action)
    assert (code, out) == (INTERRUPTED, "")
    assert err.strip() == "interrupted; nothing half-written is left, what is finished is kept, and the same command goes on from there"


def test_the_shared_parts_of_a_command_line_do_not_wait_for_torch():
    program = "import sys, shared.cli, shared.config, shared.console, shared.data.datasets, shared.lm.models; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env={**os.environ}, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_progress_without_a_terminal_is_a_line_now_and_then_and_the_last(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with progress("scoring", 40, "tokens") as bar:
        for _ in range(4):
            clock[0] += 4.0
            bar.advance(10, "loss 1.5")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "scoring: 30/40 tokens, 2.50 tokens/s, 4 s left, loss 1.5",
        "scoring: 40/40 tokens, 2.50 tokens/s, loss 1.5",
    ]


def test_one_of_a_thing_has_no_plural():
    assert [number_of(count, "masked variant") for count in (0, 1, 2, 2000)] == [
        "0 masked variants", "1 masked variant", "2 masked variants", "2,000 masked variants"
    ]  # fmt: skip


def test_progress_on_a_terminal_draws_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with progress("scoring", 4000, "tokens") as bar:
        bar.advance(4000, "loss 1.5")
    out, err = capsys.readouterr()
    assert out == ""
    text = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", err)
    assert "scoring" in text
    assert "4000/4000" in text
    assert bar.done == 4000


def test_lines_for_a_person_go_to_stderr(capsys):
    say("hello")
    assert capsys.readouterr() == ("", "hello\n")


def test_a_mistyped_flag_gets_one_suggestion(run_cli):
    code, _, err = run_cli("tu-train", "run", "--methd", "npo")
    assert code == 2 and "--method" in err and "--seed" not in err and "--set" not in err


USAGE = {
    ("tu-train", "run", "--methd", "npo"): "--methd: tu-train run has no such flag (nearest: --method); tu-train run -h lists them",
    ("tu-score", "--versio"): "--versio: tu-score has no such flag (nearest: --version); tu-score -h lists them",
    ("tu-train", "finetun"): "finetun: tu-train has no such command (did you mean 'finetune'?); tu-train -h lists them",
    ("tu-train", "run", "--epochs", "viele"): "--epochs: got viele, expected a whole number",
    ("tu-train", "run", "--epochs"): "--epochs: needs a value behind it",
    ("tu-score", "run", "--dry-run=true"): "--dry-run: is a switch, which takes no value",
    ("tu-score", "inspect"): "tu-score inspect: missing argument 'DIR'; tu-score inspect -h says what it takes",
    ("tu-eval", "run", "zwölf"): "tu-eval run: got unexpected extra argument(s) (zwölf); tu-eval run -h says what it takes",
}


@pytest.mark.parametrize("words", USAGE, ids=" ".join)
def test_a_command_line_that_cannot_be_read_is_one_line(run_cli, words):
    assert run_cli(*words) == (2, "", f"error: {USAGE[words]}\n")


@pytest.mark.parametrize("program", ["tu-score", "tu-train", "tu-eval"])
def test_no_command_is_told_of_in_a_sentence_that_80_columns_cut(run_cli, monkeypatch, program):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run_cli(program, "--help")
    lines = out.partition("Commands:\n")[2].splitlines()
    assert code == 0 and len(lines) >= 5
    for line in lines:
        assert re.fullmatch(r"  [a-z]+ +[A-Z][^.]*[.?]", line) and len(line) <= 80, line


def test_an_unknown_field_of_many_gets_the_three_nearest(run_cli):
    code, _, err = run_cli("tu-score", "run", "--set", "zzz=1")
    assert code == 2 and "unknown field 'zzz' (nearest of" in err and len(err) < 300


def test_the_last_line_of_plain_progress_is_said_when_the_work_is_done(capsys):
    with progress("scoring", 4, "tokens") as bar:
        bar.advance(4)
        assert capsys.readouterr().err == "", "what was made may not be written yet"
        bar.note = "(4 rows, 9 kB written)"
    assert capsys.readouterr().err.endswith("(4 rows, 9 kB written)\n")
    with pytest.raises(ValueError, match="stop"), progress("scoring", 4, "tokens") as bar:
        bar.advance(2)
        raise ValueError("stop")
    assert capsys.readouterr().err == "", "work that failed is not said to be done"


def test_a_long_work_says_a_line_a_minute_to_a_log(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with progress("training", 1000, "steps") as bar:
        for _ in range(1000):
            clock[0] += 0.5
            bar.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert [int(line.split("/")[0].split(": ")[1].replace(",", "")) for line in lines] == [20, 140, 260, 380, 500, 620, 740, 860, 980, 1000]
    assert "2.00 steps/s, 4 min 10 s left" in lines[4]


def test_quiet_leaves_errors_and_results(monkeypatch, capsys):
    monkeypatch.setattr(console, "_hushed", False)

    def action(fail: bool = False) -> None:
        say("opening the model")
        with progress("scoring", 1, "rows") as bar:
            bar.advance(1)
        print("rows: 1")
        if fail:
            raise DataError("rows.jsonl: is empty")

    app = new_app("A command.")
    app.command("one")(action)
    for words, result in ((["one"], (0, "")), (["one", "--fail"], (2, "error: rows.jsonl: is empty\n"))):
        monkeypatch.setattr(sys, "argv", ["tu-test", "--quiet", *words])
        with pytest.raises(SystemExit) as stop:
            run_app(app)
        out, err = capsys.readouterr()
        assert (out, stop.value.code, err) == ("rows: 1\n", *result)
