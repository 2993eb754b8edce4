"""Landing on a rule: the saved model stands at the bound, measured anew by plain transformers; the fact's numbers;
resumed runs."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared.data.datasets import load_rows
from shared.data.examples import qa_example
from shared.errors import ConfigError, DataError
from tests.tu_train.conftest import FORGET, log_of, score, weights_of
from tests.tu_train.test_values import rewrite
from tu_train.config import UnlearnConfig
from tu_train.saving.working_folder import Checkpoints
from tu_train.stopping import evaluating
from tu_train.stopping.interrupts import EXIT_SAVED
from tu_train.stopping.landing import TOLERANCE, land, remember

EVERY = 2
CURVES: dict[str, Callable[[float], float]] = {
    "line": lambda t: 1 + 9 * t,
    "falling": lambda t: 0.9 - 0.8 * t,
    "root": lambda t: 1 + 9 * math.sqrt(t),
    "square": lambda t: 1 + 9 * t * t,
    "fourth power": lambda t: 1 + 9 * t**4,
    "growth": lambda t: math.exp(5 * t),
    "decay": lambda t: 0.9 * math.exp(-4 * t),
}


class Toy(torch.nn.Module):
    """Two parameters that train, one that does not."""

    def __init__(self):
        super().__init__()
        self.moves = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.also = torch.nn.Parameter(torch.tensor([5.0], dtype=torch.float64))
        self.frozen = torch.nn.Parameter(torch.tensor([3.0]), requires_grad=False)

    def put(self, t: float) -> None:
        with torch.no_grad():
            self.moves.copy_(torch.tensor([t, -2 * t]))
            self.also.fill_(5 + t)


def landed(curve: Callable[[float], float], bound: float) -> tuple[Toy, float, list[float]]:
    """The toy after landing, what `land` gave back, and the places that were measured."""
    toy, landing, seen = Toy(), {}, []

    def measure() -> float:
        seen.append(toy.moves[0].item())
        return curve(seen[-1])

    remember(toy, landing, curve(0.0))
    toy.put(1.0)
    return toy, land(toy, landing, curve(1.0), bound, measure), seen


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("name", CURVES)
def test_a_curve_is_landed_on_within_the_tolerance_and_never_short_of_the_bound(name, share):
    curve = CURVES[name]
    bound = curve(0) + share * (curve(1) - curve(0))
    toy, t, _ = landed(curve, bound)
    assert toy.moves.tolist() == pytest.approx([t, -2 * t], abs=1e-12) and toy.also.item() == pytest.approx(5 + t)
    assert toy.frozen.item() == 3
    beyond = (curve(t) - bound) * math.copysign(1, curve(1) - curve(0))
    assert -1e-9 <= beyond <= TOLERANCE * bound * (1 + 1e-9)


def test_what_is_measured_last_is_what_stays():
    toy, t, seen = landed(CURVES["square"], 3.0)
    assert seen[-1] == pytest.approx(t) and toy.moves[0].item() == seen[-1] and len(seen) > 1


@pytest.mark.parametrize("bound", [0.5, 11.0])
def test_a_bound_that_is_not_between_moves_nothing(bound):
    toy, t, seen = landed(CURVES["line"], bound)
    assert (t, seen, toy.moves.tolist()) == (1.0, [], [1.0, -2.0])


class Plain:
    """Numbers of a saved model on the forget rows, one row at a time through the model's own logits; of another
    wording, with `column`."""

    def __init__(self, folder: Path, column: str | None = None):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(folder)
        self.all: list[list[float]] = []
        self.facts: list[list[float]] = []
        for row in load_rows(FORGET):
            row = row if column is None else replace(row, answer=row.extra[column])
            example = qa_example(row, tokenizer)
            with torch.no_grad():
                logp = model(torch.tensor([example.input_ids])).logits[0].double().log_softmax(-1)
            own, fact, at = [], [], 0
            for i in example.targets:  # a token's characters are those that it adds to the answer
                token = example.input_ids[i]
                end = at + (0 if token == tokenizer.eos_token_id else len(tokenizer.decode([token])))
                own.append(logp[i - 1, token].item())
                if column is None and any(at < b and end > a for a, b in row.extra["fact_spans"]):
                    fact.append(own[-1])
                at = end
            assert at == len(row.answer)
            self.all.append(own)
            self.facts.append(fact)

    def number(self, name: str) -> float:
        rows = [row for row in (self.facts if "fact" in name else self.all) if row]
        if name.endswith("probability"):
            return sum(math.exp(sum(row) / len(row)) for row in rows) / len(rows)
        return -sum(v for row in rows for v in row) / sum(map(len, rows))


@pytest.fixture
def train(unlearn):
    """`train(**fields)`: four steps whose learning rate does not change, with an evaluation after each second one."""

    def make(**fields) -> Path:
        entries = {"eval_every": EVERY, "schedule": "constant", "warmup": 0.0, "eval_key": "fact_spans", **fields}
        return unlearn(**entries)

    return make


def test_the_numbers_of_the_fact_are_those_of_its_tokens(train):
    out = train()
    last, plain = log_of(out)[-1], Plain(out)
    names = ("forget_nll", "forget_probability", "forget_fact_nll", "forget_fact_probability")
    assert {n: last[f"eval_{n}"] for n in names} == pytest.approx({n: plain.number(n) for n in names}, rel=1e-5)
    assert last["eval_forget_fact_nll"] != pytest.approx(last["eval_forget_nll"], rel=1e-3), "the fact is not the whole answer"
    assert 0 < sum(map(len, plain.facts)) < sum(map(len, plain.all))


def test_no_row_runs_once_more_for_its_facts(train, monkeypatch):
    ran = []
    forward = evaluating.forward_pass
    monkeypatch.setattr(
        evaluating, "forward_pass", lambda packed, rows, *rest: ran.append(len(rows.forget)) or forward(packed, rows, *rest)
    )
    train(eval_key=None)
    without = ran[:]
    ran.clear()
    train()
    assert ran == without and sum(ran) > 0


def test_the_numbers_of_the_paraphrase_are_those_of_its_answer(train):
    out = train(paraphrase_key="paraphrased_answer")
    last, plain = log_of(out)[-1], Plain(out, "paraphrased_answer")
    found = {n: last[f"eval_forget_paraphrase_{n}"] for n in ("nll", "probability")}
    assert found == pytest.approx({n: plain.number(n) for n in found}, rel=1e-5)
    assert found["nll"] != pytest.approx(last["eval_forget_nll"], rel=1e-3), "another wording than the row's own"
    assert weights_of(out) == weights_of(train()), "what is measured changes no bit"


def test_only_evaluated_rows_are_reworded_and_of_a_list_the_first_counts(train, target, tmp_path):
    rows = [{"question": r.question, "answer": r.answer, "one": r.extra["paraphrased_answer"]} for r in load_rows(FORGET)[:2]]
    rows[0]["some"] = [rows[0]["one"], "no"]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = partial(train, scores=score(target, tmp_path / "store", data=str(data), spans="none"), eval_key=None)
    one, first = (log_of(again(paraphrase_key=column, eval_rows=1))[-1]["eval_forget_paraphrase_nll"] for column in ("one", "some"))
    assert one == first > 0
    with pytest.raises(DataError, match=r"no other answer in column 'some'.*--set paraphrase_key"):
        again(paraphrase_key="some", eval_rows=2)


@pytest.mark.parametrize("between", [0, 1])
@pytest.mark.parametrize("number", ["forget_nll", "forget_fact_nll", "forget_paraphrase_nll"])
def test_the_saved_model_stands_at_the_bound_and_without_landing_beyond_it(number, between, train, target):
    column = "paraphrased_answer" if "paraphrase" in number else None
    train = partial(train, paraphrase_key=column)
    free = [Plain(target, column).number(number), *(line[f"eval_{number}"] for line in log_of(train()) if f"eval_{number}" in line)]
    low, high = free[between], free[between + 1]
    assert high > low * (1 + 10 * TOLERANCE), "too little was forgotten for a test"
    bound = round((low + high) / 2, 4)
    rule = f"{number}>{bound}"
    over, exact = train(stop_when=rule), train(stop_when=rule, land=True)
    assert Plain(over, column).number(number) > bound * (1 + 2 * TOLERANCE)
    found, lines = Plain(exact, column).number(number), log_of(exact)
    assert bound * (1 - 1e-5) <= found <= bound * (1 + TOLERANCE + 1e-5)
    assert lines[-1][f"eval_{number}"] == pytest.approx(found, rel=1e-5) and 0 < lines[-1]["eval_landed"] < 1
    assert len(lines) == len(log_of(over)) == EVERY * (between + 1)
    assert json.loads((exact / "training.json").read_text())["stopped_early"] == rule
    before = load_file(target / "model.safetensors")
    if between:  # the model of the evaluation before: the same run, stopped there
        before = load_file(train(stop_when=f"{number}>{(free[0] + free[1]) / 2:.4f}") / "model.safetensors")
    after, t = load_file(over / "model.safetensors"), lines[-1]["eval_landed"]
    for name, value in load_file(exact / "model.safetensors").items():
        assert torch.allclose(value, torch.lerp(before[name], after[name], t), atol=1e-6), name


def test_a_rule_that_held_before_training_ends_it_at_the_first_evaluation_and_moves_nothing(train):
    landed, plain = train(stop_when="forget_nll>0", land=True), train(stop_when="forget_nll>0")
    lines = log_of(landed)
    assert len(lines) == EVERY and lines[-1]["eval_landed"] == 1
    assert weights_of(landed) == weights_of(plain)


def test_a_rule_that_never_holds_changes_no_bit(train):
    landed, plain = train(stop_when="forget_nll>900", land=True), train()
    assert weights_of(landed) == weights_of(plain) and not any("eval_landed" in line for line in log_of(landed))


def as_earlier(checkpoint: Path) -> None:
    """As versions wrote it that kept what landing needs in the method's state."""

    def renamed(name: str) -> str:
        return name.replace("landing/value", "state/before").replace("landing/weights/", "state/before/")

    before = load_file(checkpoint / "state.safetensors")
    rewrite(checkpoint, tensors=lambda held: {renamed(name): value for name, value in held.items()})
    after = load_file(checkpoint / "state.safetensors")
    assert len(after) == len(before) and sum(name.startswith("state/before/") for name in after) > 3


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(("done", "method", "kept"), [(1, "npo", None), (3, "npo", None), (3, "pdu", {"dual"})])
def test_a_run_stopped_between_evaluations_and_resumed_lands_on_the_same_bytes(
    done, method, kept, earlier, train, tmp_path, monkeypatch
):  # fmt: skip
    """After step 1 it needs the weights before training, after step 3 those of the evaluation after step 2. `kept`: the
    method's state."""
    train = partial(train, method=method)
    numbers = [line["eval_forget_nll"] for line in log_of(train()) if "eval_forget_nll" in line]
    fields: dict[str, Any] = {"stop_when": f"forget_nll>{sum(numbers[:2]) / 2:.4f}", "land": True}
    whole, out = train(**fields), tmp_path / "stopped"
    real = Checkpoints.after

    def stopped(self, step, *more):
        self.stop.asked = step == done
        real(self, step, *more)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(Checkpoints, "after", stopped)
        train(out=out, **fields)
    assert ended.value.code == EXIT_SAVED and not out.exists()
    if earlier:
        as_earlier(next(out.with_name("stopped.unfinished").glob("checkpoint-*")))
    train(out=out, resume=True, **fields)
    assert weights_of(out) == weights_of(whole)
    assert (out / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()
    assert 0 < log_of(out)[-1]["eval_landed"] < 1
    if kept:
        assert (out / "method.json").read_bytes() == (whole / "method.json").read_bytes()
        assert json.loads((out / "method.json").read_text()).keys() == kept


@pytest.mark.parametrize(("fields", "expected"), [
    ({"land": True}, "give a rule"),
    ({"land": True, "eval_every": 1}, "give a rule"),
    ({"stop_when": "forget_fact_nll>1", "eval_every": 1}, "eval_key"),
    ({"stop_when": "forget_paraphrase_nll>1", "eval_every": 1}, "paraphrase_key"),
    ({"stop_when": "retain_nll>1", "eval_every": 1, "land": True, "retain": "none"}, "--retain"),
    ({"stop_when": "forget_nll>1", "land": True}, "--eval-every"),
])  # fmt: skip
def test_what_landing_lacks_is_one_line(fields, expected):
    entries: dict[str, Any] = {"model": "m", "scores": "s", "out": "o", "retain": "r", **fields}
    with pytest.raises(ConfigError) as raised:
        UnlearnConfig(**entries)
    assert expected in str(raised.value) and "\n" not in str(raised.value)


def test_a_column_without_facts_or_that_is_not_there(train, target, tmp_path):
    with pytest.raises(DataError, match=r"no column 'facts' .*eval_key"):
        train(eval_key="facts")
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"question": r.question, "answer": r.answer, "where": []}) + "\n" for r in load_rows(FORGET)[:2]))
    store = score(target, tmp_path / "store", data=str(data), spans="none")
    with pytest.raises(ConfigError, match="eval_key=where: no token of the 2 evaluated rows lies there"):
        train(scores=store, eval_key="where")
