"""Tampering: curves against a loop by hand, the least amounts of a case worked out, and each bad input as one line,
exit code 2."""

import json

import pandas
import pytest
import torch

from tests.tu_eval.conftest import SUITE
from tests.tu_eval.measure.test_own_files import SPANISH, lines
from tests.tu_eval.test_commands import refused
from tu_eval.attacks.relearn import REST, SHOWN, choose
from tu_eval.attacks.tamper.config import TamperConfig
from tu_eval.attacks.tamper.curves import comes_back, summarise
from tu_eval.attacks.tamper.run import tamper

SMALL = {"suite": SUITE, "limit": 4, "device": "cpu", "rates": (1e-3, 1e-2), "rows": (1, 2), "steps": 3, "every": 2, "batch": 2}


@pytest.fixture(scope="module")
def tampered(tiny_model, tiny_base, make_tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("tamper") / "run"
    about = tamper(
        TamperConfig(model=str(tiny_model), before=str(make_tiny("Llama", seed=2)), retain=str(tiny_base), out=str(out), **SMALL)
    )
    return about, out


def test_a_curve_is_that_of_a_loop_by_hand(tampered, tiny_model):
    """Two rows of the forget set, at the higher rate: AdamW written out, every row by itself."""
    from shared.data.datasets import load_rows
    from shared.data.examples import make_examples
    from shared.lm import models

    _, out = tampered
    frame = pandas.read_parquet(out / "rows.parquet")
    model = models.load_model(tiny_model, dtype=torch.float32, device=torch.device("cpu"))
    rows = load_rows(f"atlas:forget:{SUITE.partition(':')[2]}", limit=4)
    examples = {e.id: e for e in make_examples(rows, models.load_tokenizer(tiny_model), context=None)}
    shown = choose(list(examples), 2, 0)

    def logprobs(example):
        logits = model(input_ids=torch.tensor([example.input_ids])).logits[0].log_softmax(-1)
        return torch.stack([logits[i - 1, example.input_ids[i]] for i in example.targets])

    parameters = list(model.parameters())
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    for step in range(1, 4):
        loss = -torch.cat([logprobs(examples[name]) for name in shown]).mean()
        grads = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for p, g, m, v in zip(parameters, grads, first, second, strict=True):
                m.mul_(0.9).add_(g, alpha=0.1)
                v.mul_(0.999).addcmul_(g, g, value=0.001)
                p -= 1e-2 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    own = frame.query("model == 'model' and `on` == 'forget' and rate == 0.01 and rows == 2 and step == 3").set_index("example_id")
    assert set(own.index) == set(examples)
    for name, example in examples.items():
        assert own.loc[name, "set"] == (SHOWN if name in shown else REST)
        with torch.no_grad():
            assert own.loc[name, "probability"] == pytest.approx(logprobs(example).mean().exp().item(), rel=2e-3)


def test_what_is_written(tampered, run_cli):
    about, out = tampered
    assert sorted(p.name for p in out.iterdir()) == ["_config.toml", "rows.parquet", "tamper.json", "tamper.png"]
    assert not out.with_name("run.unfinished").exists()
    assert {(c["on"], c["domain"]) for c in about["curves"]} == {
        (None, None), ("forget", "in-domain"), ("related", "out-of-domain"), ("unrelated", "out-of-domain"),
    }  # fmt: skip
    frame = pandas.read_parquet(out / "rows.parquet")
    rest = {
        frozenset(own["example_id"])
        for _, own in frame.query("set == 'rest'").groupby(["model", "on", "rate", "rows", "step"], dropna=False)
    }
    assert len(rest) == 1  # the same rows everywhere, whatever is shown
    assert sorted(frame.query("model == 'model'")["step"].unique()) == [0, 2, 3]
    starts = frame.query("model == 'model' and step == 0 and set == 'rest'")
    assert (starts.groupby("example_id")["probability"].nunique() == 1).all()
    code, _, err = run_cli("tu-eval", "verify", out)
    assert code == 0, err
    edited = json.loads((out / "tamper.json").read_text())
    edited["least"][0]["rows"] = 99
    (out / "tamper.json").write_text(json.dumps(edited))
    refused(run_cli("tu-eval", "verify", out))


def test_the_least_amount_of_a_case_worked_out():
    def row(model, on, rate, rows, step, probability):
        return {"model": model, "on": on, "rate": rate, "rows": rows, "step": step, "set": REST, "example_id": "a",
                "probability": probability, "fact_probability": None}  # fmt: skip

    before = row("before", None, None, None, 0, 0.8)
    runs = [
        *(row("model", "forget", 1e-4, 1, step, p) for step, p in ((0, 0.1), (5, 0.2), (10, 0.39))),
        *(row("model", "forget", 1e-4, 4, step, p) for step, p in ((0, 0.1), (5, 0.4), (10, 0.7))),
        *(row("model", "forget", 1e-3, 1, step, p) for step, p in ((0, 0.1), (5, 0.3), (10, 0.5))),
        *(row("model", "related", 1e-4, 4, step, p) for step, p in ((0, 0.1), (10, 0.1))),
        *(row("retain", "forget", 1e-4, 4, step, p) for step, p in ((0, 0.45), (10, 0.6))),
    ]
    found = {(one["model"], one["on"], one["rate"]): (one["rows"], one["step"]) for one in summarise([before, *runs])["least"]}
    assert found == {
        ("model", "forget", 1e-4): (4, 5), ("model", "forget", 1e-3): (1, 10), ("model", "forget", None): (1, 10),
        ("model", "related", 1e-4): (None, None), ("model", "related", None): (None, None),
        ("retain", "forget", 1e-4): (0, 0), ("retain", "forget", None): (0, 0),
    }  # fmt: skip


def test_a_smaller_amount_is_tried_where_the_larger_brought_half_back_and_nowhere_else(tiny_model, tiny_base, tmp_path, monkeypatch):
    """The runs are those of every amount that the rule, written out, leaves; the retain model's are those and its
    own."""
    asked = {**SMALL, "rates": (1e-3, 1e-2), "rows": (1, 2, 3), "limit": 6, "on": ("forget", "related")}
    asked |= {"model": str(tiny_model), "before": str(tiny_base), "retain": str(tiny_base)}
    every = tamper(TamperConfig(**asked, out=str(tmp_path / "every"), every_amount=True))
    rest = [c for c in every["curves"] if c["set"] == REST and c["model"] == "model"]
    best = {}
    for c in rest:
        key = c["on"], c["rate"], c["rows"]
        best[key] = max(best.get(key, 0), c["probability"])
    start = next(c["probability"] for c in rest if c["step"] == 0)
    level = sorted(value for value in best.values() if value > start)[-3]

    def left(best, start):
        for on, rate in {key[:2] for key in best}:
            for count in (3, 2, 1):
                yield on, rate, count
                if not start < level <= best[on, rate, count]:
                    break

    expected = set(left(best, start))
    assert len({(on, rate) for on, rate, _ in expected}) == 4 < len(expected) < len(best) == 12
    known = next(c["probability"] for c in every["curves"] if c["model"] == "before" and c["set"] == REST)
    monkeypatch.setattr("tu_eval.attacks.tamper.curves.HALF", level / known)
    about = tamper(TamperConfig(**asked, out=str(tmp_path / "some")))
    first, theirs = {}, [c for c in every["curves"] if c["set"] == REST and c["model"] == "retain"]
    for c in theirs:
        key = c["on"], c["rate"], c["rows"]
        first[key] = max(first.get(key, 0), c["probability"])
    own = set(left(first, next(c["probability"] for c in theirs if c["step"] == 0)))
    for role, runs in (("model", expected), ("retain", expected | own)):
        assert {(c["on"], c["rate"], c["rows"]) for c in about["curves"] if c["model"] == role} == runs
    assert (about["amounts"], about["every_amount"], every["every_amount"]) == ([1, 2, 3], False, True)
    assert all(c in every["curves"] for c in about["curves"])
    assert all(
        (one["rows"] is None) == (best[one["on"], one["rate"], 3] < level)
        for one in about["least"]
        if one["model"] == "model" and one["rate"]
    )


def test_a_run_that_comes_back_begins_below_the_level():
    def rows(*values):
        return [
            {"step": step, "set": name, "probability": p}
            for step, p in enumerate(values)
            for name in (REST, SHOWN)
            if name == REST or p < 1
        ]

    assert comes_back(rows(0.1, 0.5, 0.2), 0.5) and not comes_back(rows(0.1, 0.49), 0.5)
    assert not comes_back(rows(0.5, 0.9), 0.5)  # it never went


def test_what_cannot_be_done_is_one_line(run_cli, tiny_model, make_tiny, tmp_path):
    asked = (
        "tu-eval",
        "tamper",
        "--model",
        tiny_model,
        "--before",
        tiny_model,
        "--suite",
        SUITE,
        "--out",
        tmp_path / "o",
        "--device",
        "cpu",
    )
    assert "none would be left" in refused(run_cli(*asked, "--limit", 4, "--set", "rows=[1,4]"))
    assert "unrelated has" in refused(run_cli(*asked, "--set", "rows=[5000]", "--set", 'on=["unrelated"]'))
    assert "expected some of forget" in refused(run_cli(*asked, "--set", 'on=["forgot"]'))
    assert "each once" in refused(run_cli(*asked, "--set", "rows=[1,1]"))
    assert "before" in refused(run_cli(*asked[:4], *asked[6:]))
    assert not (tmp_path / "o").exists()


def test_started_again_with_other_amounts_it_keeps_nothing_that_looked_at_other_rows(tiny_model, tiny_base, tmp_path, monkeypatch):
    def measured(out, rows):
        names = {**SMALL, "rates": (1e-2,), "on": ("forget", "related"), "rows": rows, "out": str(tmp_path / out)}
        return tamper(TamperConfig(model=str(tiny_model), before=str(tiny_base), **names))

    with monkeypatch.context() as broken:
        broken.setattr("tu_eval.attacks.tamper.run.write_folder", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            measured("one", (1, 2))
    assert measured("one", (1,))["curves"] == measured("other", (1,))["curves"]


def test_files_of_ones_own_give_the_curves_of_a_suite_of_the_same_rows(run_cli, tiny_model, tiny_base, tmp_path):
    """Related rows are those of --retain; unrelated ones there are none, and nothing is trained on them."""
    forget = lines(tmp_path / "forget.jsonl", [*SPANISH, {"question": "¿Quién es Ana?", "answer": "Ana es panadera."}])
    retain = lines(
        tmp_path / "retain.jsonl", [{"question": f"¿Quién es {name}?", "answer": f"{name} es juez."} for name in ("Bo", "Íñiga")]
    )
    sets = (("forget", "forget.jsonl"), ("retain", "retain.jsonl"))
    suite = "".join(f'[[set]]\nname = "{name}"\ndata = "{file}"\nwrong = false\n' for name, file in sets)
    (tmp_path / "suite.toml").write_text(suite)
    words = ("tu-eval", "tamper", "--model", tiny_model, "--before", tiny_base, "--retain-model", tiny_base, "--device", "cpu", "--set",
             "rows=[1,2]", "--set", "rates=[0.001]", "--set", "steps=2", "--set", "every=2")  # fmt: skip
    own = (*words, "--forget", forget, "--retain", retain)
    code, out, err = run_cli(*own, "--out", tmp_path / "own")
    assert code == 0 and "unrelated" not in out, err
    code, _, err = run_cli(*words, "--suite", tmp_path / "suite.toml", "--set", 'on=["forget","related"]', "--out", tmp_path / "suite")
    assert code == 0, err
    mine, theirs = (json.loads((tmp_path / name / "tamper.json").read_text()) for name in ("own", "suite"))
    assert mine["curves"] == theirs["curves"] and mine["least"] == theirs["least"] and {c["on"] for c in mine["curves"]} == {
        None, "forget", "related"}  # fmt: skip
    assert "names related rows, and related names others" in refused(run_cli(*own, "--set", "related=x.jsonl", "--out", tmp_path / "no"))
    alone = (*words, "--forget", forget, "--set", 'on=["related"]', "--out", tmp_path / "no")
    assert "name related rows with --retain FILE" in refused(run_cli(*alone))
    assert "the suite has its own" in refused(run_cli(*words, "--suite", SUITE, "--retain", retain, "--out", tmp_path / "no"))
    assert "--suite is missing" in refused(run_cli(*words, "--out", tmp_path / "no")) and not (tmp_path / "no").exists()
