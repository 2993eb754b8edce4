"""Rows that must stay under attack: against a transformers loop by hand, in both kinds of tokenizer; the numbers of the
forget rows stay as they are; `--retain` names rows or a model."""

import json
import math

import pandas
import pytest
import torch

from shared.data.datasets import load_rows
from shared.data.examples import make_examples
from shared.lm import models
from tests.conftest import _save_tiny, build_sentencepiece, build_tokenizer
from tests.tu_eval.measure.test_own_files import SPANISH, lines
from tests.tu_eval.test_commands import refused
from tu_eval.attacks.relearn import choose
from tu_eval.evidence.verdict import attacked
from tu_eval.measure.rounding import round_model

KEPT = [{"question": f"¿Quién es {name}?", "answer": f"{name} es panadera."} for name in ("Ana", "Íñiga")]
SMALL = ("--device", "cpu", "--set", "relearn_steps=3", "--set", "relearn_rows=2", "--set", "relearn_batch=2",
         "--set", "learning_rate=1e-3", "--set", "bits=[4]")  # fmt: skip
WEIGHTS = ("--attack", "quantise", "--attack", "nf4", "--attack", "relearn")


@pytest.fixture
def files(tmp_path):
    return lines(tmp_path / "forget.jsonl", SPANISH), lines(tmp_path / "retain.jsonl", KEPT)


def attack(run_cli, model, *flags):
    code, out, err = run_cli("tu-eval", "attack", "--model", model, *SMALL, *flags)
    assert code == 0, err
    return out, err


def numbers(folder):
    about = json.loads((folder / "attack.json").read_text())
    return {(n["attack"], n["setting"], n["measure"]): n["model"] for n in about["numbers"]}


def probability(model, examples):
    out = []
    for e in examples:
        with torch.no_grad():
            logp = model(torch.tensor([e.input_ids])).logits[0].double().log_softmax(-1)
        out.append(math.exp(sum(logp[i - 1, e.input_ids[i]].item() for i in e.targets) / len(e.targets)))
    return sum(out) / len(out)


@pytest.mark.parametrize("tokenizer", [build_tokenizer, build_sentencepiece])
def test_their_numbers_are_those_of_a_loop_by_hand(run_cli, tokenizer, files, tmp_path):
    folder, (forget, retain) = tmp_path / "model", files
    folder.mkdir()
    _save_tiny(folder, tokenizer(), "Llama", 0, {})
    stdout, _ = attack(run_cli, folder, "--forget", forget, "--retain", retain, *WEIGHTS, "--out", tmp_path / "out")
    found, what = numbers(tmp_path / "out"), "probability (retain)"
    assert "probability (retain)" in stdout and found["quantise", "as it is", what] == found["relearn", "step 0", what]

    def opened():
        return models.load_model(folder, dtype=torch.float32, device=torch.device("cpu"))

    own = models.load_tokenizer(folder)
    stay, shown = (make_examples(load_rows(str(path)), own, context=None) for path in (retain, forget))
    assert found["nf4", "as it is", what] == pytest.approx(probability(opened(), stay), abs=1e-6)
    for setting, how in (("nf4, a scale for 64", "nf4"), ("int4, a scale a channel", "int4")):
        model = opened()
        round_model(model, how)
        assert found["nf4" if how == "nf4" else "quantise", setting, what] == pytest.approx(probability(model, stay), abs=1e-6)
    model, chosen = opened(), choose([e.id for e in shown], 2, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(3):
        lost = []
        for e in (e for e in shown if e.id in chosen):
            logp = model(torch.tensor([e.input_ids])).logits[0].log_softmax(-1)
            lost += [-logp[i - 1, e.input_ids[i]] for i in e.targets]
        torch.stack(lost).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert found["relearn", "step 3", what] == pytest.approx(probability(model, stay), abs=1e-5)
    assert ("relearn", "step 2", what) not in found and found["relearn", "step 3", what] != found["relearn", "step 0", what]
    assert run_cli("tu-eval", "verify", tmp_path / "out")[0] == 0


def test_the_numbers_of_the_forget_rows_are_those_of_an_attack_without_them(run_cli, tiny_model, files, tmp_path):
    """Bit for bit; what is kept of either attack serves the other."""
    forget, retain = files
    same = ("--forget", forget, *WEIGHTS, "--store", tmp_path / "store")
    attack(run_cli, tiny_model, *same, "--out", tmp_path / "alone")
    _, err = attack(run_cli, tiny_model, *same, "--retain", retain, "--out", tmp_path / "both")
    assert "quantise: already measured" in err and "kept-quantise" not in err
    alone, both = (pandas.read_parquet(tmp_path / name / "rows.parquet") for name in ("alone", "both"))
    assert both[both["set"] != "retain"].reset_index(drop=True).equals(alone)
    kept = both[both["set"] == "retain"]
    assert len(kept) == 2 * (3 + 2 + 2)  # quantise in three forms, NF4 in two, relearning before and after
    assert set(numbers(tmp_path / "alone").items()) <= set(numbers(tmp_path / "both").items())
    _, err = attack(run_cli, tiny_model, *same, "--retain", retain, "--out", tmp_path / "again")
    assert (
        "kept-quantise" in err and (tmp_path / "again" / "rows.parquet").read_bytes() == (tmp_path / "both" / "rows.parquet").read_bytes()
    )


def test_retain_names_rows_or_a_model(run_cli, tiny_model, tiny_base, files, tmp_path):
    forget, retain = files
    one = ("--forget", forget, "--attack", "nf4")
    attack(run_cli, tiny_model, *one, "--retain", tiny_base, "--out", tmp_path / "old")
    attack(run_cli, tiny_model, *one, "--retain-model", tiny_base, "--out", tmp_path / "new")
    assert (tmp_path / "old" / "rows.parquet").read_bytes() == (tmp_path / "new" / "rows.parquet").read_bytes()
    attack(run_cli, tiny_model, *one, "--retain-model", tiny_base, "--retain", retain, "--out", tmp_path / "both")
    about = json.loads((tmp_path / "both" / "attack.json").read_text())
    assert list(about["models"]) == ["model", "retain"] and all(n["retain"] is not None for n in about["numbers"])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--retain", "one", "--retain-model", "two"), "--retain one and --retain-model two: both name the model"),
        (("--retain", "gone.jsonl"), "--retain gone.jsonl"),
        (("--retain", "text.jsonl"), "no key 'question'"),
        (("--retain", "tofu:retan"), "tofu:retan"),
    ],
)
def test_what_cannot_be_kept_is_one_line(run_cli, tiny_model, files, tmp_path, monkeypatch, flags, expected):
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "text.jsonl", [{"text": "Only text."}])
    said = refused(run_cli("tu-eval", "attack", "--model", tiny_model, "--forget", files[0], *SMALL, *flags, "--out", "out"))
    assert expected in said and not (tmp_path / "out").exists()


def test_the_verdict_reads_them_as_kept_and_never_as_forgotten():
    forms = (("as it is", 0.1), ("int4, a scale a channel", 0.0), ("int8, a scale a channel", 0.05))

    def rows(level):
        base, levels = {"attack": "quantise", "fact_probability": None}, {"forget": 0.2, "retain": level}
        return [
            {**base, "setting": form, "set": part, "example_id": f"{part}{k}", "probability": levels[part] + more}
            for form, more in forms
            for part in levels
            for k in range(2)
        ]

    by_role = {"model": rows(0.6), "target": rows(0.8)}
    found = attacked.rounded(by_role)
    assert found is not None and found[0] == "int4, a scale a channel"
    assert {role: number.value for role, number in found[1].items()} == pytest.approx({"model": 0.6, "target": 0.8})
    what, gone = attacked.measures(by_role)["quantise"]
    assert (what, gone["model"].value) == ("int8, a scale a channel", pytest.approx(0.25))
    assert attacked.rounded({"model": [row for row in rows(0.6) if row["set"] == "forget"]}) is None
