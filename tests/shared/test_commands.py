"""Flags from fields: what the command line looks like, what a command is called with, and that nothing is imported
early."""

import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import pytest

from shared.cli import new_app, run_app
from shared.commands import Asked, command, commands_of
from shared.settings import About

HERE = f"{__name__}:Config"


@dataclass(frozen=True, kw_only=True)
class Config:
    """All kinds of fields."""

    rate: Annotated[float, About(flag=True, above=0)] = 0.5
    """of learning"""
    model: Annotated[str, About(flag=True)]
    """a folder"""
    mode: Annotated[Literal["a", "b"], About(flag=True)] = "a"
    """a or b"""
    names: Annotated[tuple[str, ...], About(flag="--name")] = ()
    """may be repeated"""
    tasks: Annotated[tuple[str, ...], About(flag=True, commas=True)] = ()
    """with commas"""
    options: Annotated[dict[str, float], About(flag="--option", metavar="NAME=VALUE")] = field(default_factory=dict)
    """of the method"""
    resume: Annotated[bool, About(flag=True)] = False
    """go on"""
    chat: Annotated[bool, About(flag="--chat/--no-chat")] = False
    """ask in a chat"""
    hidden: Annotated[int, About(unit="tokens")] = 3
    """for --set"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    folder: Annotated[str, About(positional=True, metavar="DIR")]
    """where"""
    out: Annotated[Path, About(flag=True)]
    """what to write"""
    rows: Annotated[int, About(flag=True)] = 5
    """how many"""
    text: Annotated[bool, About(flag="--text/--no-text")] = True
    """with it"""


def ask(monkeypatch, capsys, line, **kinds):
    """(exit code, stdout, stderr, what the command was called with)"""
    app, called = new_app("A program."), []

    def act(*given) -> None:
        """Does it."""
        called.extend(given)

    command(app, **kinds)(act)
    command(app)(other)
    monkeypatch.setattr(sys, "argv", ["tu-test", "act", *line])
    with pytest.raises(SystemExit) as stop:
        run_app(app)
    return stop.value.code, *capsys.readouterr(), called


def other() -> None:
    """Does nothing."""


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ((), {}),
        (("--rate", "2", "--mode", "b"), {"rate": 2.0, "mode": "b"}),
        (("--name", "x", "--name", "y"), {"names": ("x", "y")}),
        (("--tasks", "x, y,", "--tasks", "z"), {"tasks": ("x", "y", "z")}),
        (("--option", "beta=0.1", "--option", "layer=7"), {"options": {"beta": 0.1, "layer": 7.0}}),
        (("--resume", "--chat"), {"resume": True, "chat": True}),
        (("--no-chat", "--set", "hidden=4"), {"hidden": 4}),
    ],
)
def test_flags_fill_the_configuration(line, fields, monkeypatch, capsys):
    code, _, err, called = ask(monkeypatch, capsys, ("--model", "m", *line), config=HERE)
    assert (code, err) == (0, "")
    assert called == [Config(model="m", **fields)]


def test_flags_win_over_a_file_and_no_chat_over_its_true(monkeypatch, capsys, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('model = "file"\nrate = 7\nchat = true\n')
    called = ask(monkeypatch, capsys, ("--config", file.as_posix(), "--rate", "8", "--no-chat"), config=HERE)[3]
    assert called == [Config(model="file", rate=8.0)]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ((), "error: --model is missing (or set model in --config FILE.toml)\n"),
        (("--model", "m", "--mode", "c"), "error: command line: mode: got 'c' (known: a, b)\n"),
        (("--model", "m", "--option", "beta"), "error: --option beta: expected name=value\n"),
        (("--model", "m", "--set", "model=n"), "error: --set model: the field is given twice on this command line\n"),
    ],
)
def test_what_does_not_fit_is_one_line(line, error, monkeypatch, capsys):
    assert ask(monkeypatch, capsys, line, config=HERE) == (2, "", error, [])


def test_arguments_have_their_own_defaults(monkeypatch, capsys):
    called = ask(monkeypatch, capsys, ("here", "--out", "there", "--no-text"), arguments=Arguments)[3]
    assert called == [Arguments(folder="here", out=Path("there"), rows=5, text=False)]


@pytest.mark.parametrize(("line", "missing"), [(("--out", "there"), "DIR"), (("here",), "--out")])
def test_a_missing_argument_is_named(line, missing, monkeypatch, capsys):
    code, _, err, called = ask(monkeypatch, capsys, line, arguments=Arguments)
    assert code == 2 and missing in err and called == []


def test_a_command_with_both_is_asked_before_the_configuration_is_resolved(monkeypatch, capsys):
    asked, given = ask(monkeypatch, capsys, ("here", "--out", "there", "--rate", "2"), config=HERE, arguments=Arguments)[3]
    assert given == Arguments(folder="here", out=Path("there"))
    assert asked == Asked(Config, {"rate": 2.0})
    assert asked.resolved(model="m") == Config(model="m", rate=2.0)
    assert replace(asked, sets=["model=n"]).resolved() == Config(model="n", rate=2.0)


def test_help_shows_meaning_default_and_choices_with_what_must_be_given_first(monkeypatch, capsys):
    code, out, _, _ = ask(monkeypatch, capsys, ("--help",), config=HERE)
    words = " ".join(out.split())
    assert code == 0 and "Does it." in words
    assert words.index("--model") < words.index("--rate")
    assert "of learning [default: (0.5)]" in words and "--mode a|b a or b [default: (a)]" in words
    assert "--option NAME=VALUE of the method" in words and "--chat" in words and "--no-chat" in words
    assert "hidden" not in words


def test_fields_are_lines_elsewhere_and_a_table_on_a_terminal(monkeypatch, capsys):
    code, out, _, called = ask(monkeypatch, capsys, ("--fields",), config=HERE)
    assert code == 0 and called == [] and out.splitlines()[0] == "# All kinds of fields"
    assert "rate = 0.5 (--rate): of learning" in out and "hidden = 3 (tokens, advanced): for --set" in out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    _, out, _, _ = ask(monkeypatch, capsys, ("--fields",), config=HERE)
    assert "━" in out and "advanced" in out and "for --set" in out


def test_a_program_says_its_commands_without_importing_a_configuration():
    app = new_app("A program.")
    for function in (other, run_app):
        command(app, config="no.such.module:Config")(function)
    assert list(commands_of(app)) == ["other", "run_app"]
    with pytest.raises(ModuleNotFoundError):
        _ = commands_of(app)["other"].whole


@pytest.mark.parametrize("program", ["tu_score", "tu_train", "tu_eval"])
def test_the_help_of_a_program_imports_neither_its_configurations_nor_numpy(program):
    code = f"import sys, {program}.cli; print([m for m in sys.modules if m.startswith(('numpy', '{program}.config', '{program}.measure'))])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
