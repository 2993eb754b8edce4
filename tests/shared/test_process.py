"""Commands in processes of their own: settings come through, errors are one line, nothing is left behind."""

import tempfile

import pytest

from shared.errors import ConfigError, UserError
from shared.process import resolved, run_command, run_shown

FINETUNE = "tu_train.config:FinetuneConfig"
SETTINGS = {"model": "モデル", "data": "Псков.jsonl", "out": "x", "template_options": {"think": False}}


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert list(tmp_path.glob("*.toml")) == []


def test_settings_come_to_what_the_command_makes_of_them():
    found = resolved(FINETUNE, SETTINGS, what="f")
    assert (found["model"], found["data"], found["template_options"]) == ("モデル", "Псков.jsonl", {"think": False})
    assert found["epochs"] == 5 and "out" not in found, "the default, and without what changes no result"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"epoch": 1}, "f: step a: unknown field 'epoch' (did you mean 'epochs'?)"),
        ({"epochs": "many"}, "f: step a: epochs: got 'many', expected int"),
        ({"epochs": 0}, "f: step a: "),
        ({"lora": 4, "train_only": ["*"]}, "f: step a: --lora and train_only"),
    ],
)
def test_what_the_command_refuses_is_refused_in_its_words(more, said):
    with pytest.raises(ConfigError) as caught:
        resolved(FINETUNE, {**SETTINGS, **more}, what="f: step a")
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_a_command_that_fails_ends_with_its_line(tmp_path, capsys):
    with pytest.raises(UserError, match=r"^s\.toml: step a: model .* has no config\.json; [^\n]*$"):
        run_command("tu-score run", {"model": str(tmp_path), "data": "nowhere.jsonl", "out": str(tmp_path / "o")}, what="s.toml: step a")
    assert "error:" not in capsys.readouterr().err


def test_the_child_is_the_same_code(monkeypatch, tmp_path):
    """A folder `shared` where the command is started is not taken for ours."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "__init__.py").write_text("raise SystemExit('another')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(UserError, match=r"^x: --model is missing"):
        run_command("tu-score run", {"data": "d", "out": "o"}, what="x")


def test_a_shown_command_has_our_streams_and_its_code_comes_back(capfd, tmp_path):
    assert run_shown("tu-score verify", [str(tmp_path / "gone")]) == 2
    assert "gone" in capfd.readouterr().err
