"""`--template plain`: questions in plain text, for models that have no chat template; results with another layout are
never mixed up."""

import json
import shutil

import pytest
from transformers import AutoModelForCausalLM

from shared.data.datasets import load_rows
from shared.engines.torch import TorchEngine
from tests.conftest import build_tokenizer
from tests.tu_eval.conftest import SUITE
from tests.tu_eval.measure.test_run import plain_answer
from tests.tu_eval.test_commands import SMALL, refused


@pytest.fixture
def bare(tiny_model, tmp_path):
    """The tiny model with a tokenizer that has no chat template."""
    folder = tmp_path / "bare"
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(folder)
    build_tokenizer(None).save_pretrained(folder)
    return folder


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize("suite", [SUITE, "tofu:forget01"])
def test_a_model_without_a_chat_template_is_refused_and_told_of_plain(suite, run_cli, bare, tmp_path):
    message = refused(run_cli("tu-eval", "run", "--model", bare, "--suite", suite, "--limit", 2, "--out", tmp_path / "out"))
    assert "no chat template" in message and "--template plain" in message
    assert [p.name for p in tmp_path.iterdir()] == ["bare"]


def test_plain_asks_in_plain_text_whatever_the_tokenizer_has(run_cli, bare, tiny_model, tmp_path):
    found = []
    for name, model in (("bare", bare), ("chat", tiny_model)):
        out = tmp_path / f"{name}-out"
        code, _, err = run_cli("tu-eval", "run", "--model", model, *SMALL, "--template", "plain", "--out", out)
        assert code == 0, err
        found.append(out)
    assert summary(found[0])["settings"]["template"] == "plain"
    assert (found[0] / "rows.parquet").read_bytes() == (found[1] / "rows.parquet").read_bytes()
    assert 'template = "plain"' in (found[0] / "_config.toml").read_text()

    import pandas

    row, model = load_rows(f"atlas:forget{SUITE.removeprefix('atlas')}", limit=1)[0], AutoModelForCausalLM.from_pretrained(bare)
    assert pandas.read_parquet(found[0] / "rows.parquet")["generation"][0] == plain_answer(model, build_tokenizer(None), row, 12)
    chat = tmp_path / "template-out"
    assert run_cli("tu-eval", "run", "--model", tiny_model, *SMALL, "--out", chat)[0] == 0
    assert (chat / "rows.parquet").read_bytes() != (found[1] / "rows.parquet").read_bytes()
    message = refused(run_cli("tu-eval", "compare", chat, found[1], "--out", tmp_path / "page.html"))
    assert "another template fingerprint" in message
    message = refused(run_cli("tu-eval", "run", "--model", tiny_model, *SMALL, "--retain-results", found[1], "--out", tmp_path / "x"))
    assert "another template fingerprint" in message


def test_another_template_setting_is_measured_again(run_cli, tiny_model, tmp_path, monkeypatch):
    loads, load = [], TorchEngine.load.__func__

    def counted(cls, folder, **options):
        loads.append(folder)
        return load(cls, folder, **options)

    monkeypatch.setattr(TorchEngine, "load", classmethod(counted))
    model = shutil.copytree(tiny_model, tmp_path / "model")
    for number, template in enumerate(("model", "plain", "plain", "model")):
        done = run_cli(
            "tu-eval", "run", "--model", model, *SMALL, "--limit", 1, "--set", "generate=false",
            "--template", template, "--store", tmp_path / "store", "--out", tmp_path / f"out{number}",
        )  # fmt: skip
        assert done[0] == 0, done[2]
    assert len(loads) == 2


def test_an_unknown_template_is_refused(run_cli, tiny_model, tmp_path):
    assert "has no chat template 'chat'; choose with --template NAME, of: default, plain" in refused(
        run_cli("tu-eval", "run", "--model", tiny_model, *SMALL, "--template", "chat", "--out", tmp_path / "o")
    )
