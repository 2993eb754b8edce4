"""Every number of the three configurations and of every method has a range, and the commands refuse what lies outside
in one line."""

import dataclasses
import math
import os
import typing

import pytest

from shared.errors import ConfigError
from tu_train.config import FinetuneConfig, UnlearnConfig
from tu_train.diagnose.config import DiagnoseConfig
from tu_train.methods.table import METHODS

USUAL = {
    FinetuneConfig: {"model": "m", "data": "d", "out": "o"},
    UnlearnConfig: {"model": "m", "scores": "s", "retain": "r", "out": "o", "method": "npo"},
    DiagnoseConfig: {"model": "m", "scores": "s", "out": "o"},
}
BESIDE = {"lora_alpha": {"lora": 2}, "temperature": {"tokens": "soft"}, "eval_every": {}}
"""what a field needs to be looked at"""


def numbers(kind) -> list[tuple[type, str, type]]:
    """(configuration, field, int or float)"""
    hints = typing.get_type_hints(kind)
    types = {name: [t for t in (*typing.get_args(hint), hint) if t in (int, float)] for name, hint in hints.items()}
    return [(kind, f.name, types[f.name][0]) for f in dataclasses.fields(kind) if types[f.name] and f.name != "options"]


FIELDS = [entry for kind in USUAL for entry in numbers(kind)]


@pytest.mark.parametrize(("kind", "name", "of"), FIELDS, ids=[f"{k.__name__}-{n}" for k, n, _ in FIELDS])
def test_every_number_has_a_range(kind, name, of):
    bad = [-1, 2**63, 10**400] if of is int else [-1.0, math.nan, math.inf, -math.inf]
    beside = BESIDE.get(name, {}) if kind is not DiagnoseConfig else {}
    for value in bad:
        with pytest.raises(ConfigError, match=f"(?s){name.replace('_', '[_-]')}.*expected") as caught:
            kind(**{**USUAL[kind], **beside, name: value})
        assert "\n" not in str(caught.value)


OPTIONS = [(name, option) for name, method in METHODS.items() for option in method.options]


@pytest.mark.parametrize(("method", "option"), OPTIONS)
def test_every_option_has_a_range(method, option):
    usual = {**USUAL[UnlearnConfig], "method": method}
    for value in (-1e-9, math.nan, math.inf, -math.inf):
        with pytest.raises(ConfigError, match=f"--option {option}="):
            UnlearnConfig(**usual, options={option: value})
    if option in ("layer", "seed", "first", "top", "every"):
        for value in (1.5, 1e300):
            with pytest.raises(ConfigError, match=f"--option {option}="):
                UnlearnConfig(**usual, options={option: value})
    UnlearnConfig(**usual, options={option: METHODS[method].options[option]})


BAD = [
    ("--learning-rate", "inf"), ("--learning-rate", "nan"), ("--learning-rate", "-1"), ("--seed", str(2**64)), ("--seed", "-1"),
    ("--limit", str(2**63)), ("--set", "clip=inf"), ("--set", "weight_decay=nan"), ("--set", "gamma=-1"), ("--set", "alpha=-0.5"),
    ("--tokens", "soft", "--set", "temperature=inf"), ("--option", "beta=inf"), ("--option", "beta=-1"), ("--epochs", "9" * 5000),
    ("--set", f"batch_size={2**62}"), ("--set", "warmup=nan"), ("--set", "template_options={a=nan}"), ("--set", "text_length=0"),
    ("--eval-every", "1", "--stop-when", "forget_probability<1e999"), ("--lora", str(2**40)),
]  # fmt: skip


@pytest.mark.parametrize("more", BAD, ids=[" ".join(b)[:40] for b in BAD])
def test_the_command_refuses_it_before_any_work(more, run_cli, tmp_path):
    paths = ("--model", tmp_path / "none", "--scores", tmp_path / "none", "--retain", "none", "--out", tmp_path / "new" / "out")
    code, out, err = run_cli("tu-train", "run", *paths, *more)
    assert code == 2 and out == "" and "Traceback" not in err, err
    assert "no such" not in err and (err.startswith("error: ") or "Invalid value" in err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", [os.fsdecode(b"o\xff"), "x" * 245, "x" * 300], ids=["not utf-8", "245 bytes", "300 bytes"])
@pytest.mark.parametrize("verb", ["run", "finetune", "diagnose", "many"])
def test_a_name_that_nothing_can_be_written_under_is_refused(verb, out, run_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = tmp_path / "study.toml"
    study.write_text('model = "none"\nscores = "none"\nretain = "none"\n')
    sources = {"run": ("--scores", "none", "--retain", "none"), "finetune": ("--data", "none"), "diagnose": ("--scores", "none")}
    given = (study,) if verb == "many" else ("--model", tmp_path / "none", *sources[verb])
    code, _, err = run_cli("tu-train", verb, *given, "--out", out)
    if verb in ("diagnose", "many") and len(out) == 245:
        return  # neither needs a longer name beside it
    assert code == 2 and err.count("\n") == 1 and "Traceback" not in err, err
    assert "not UTF-8" in err or "bytes long" in err, err
    assert [p.name for p in tmp_path.iterdir()] == ["study.toml"]
