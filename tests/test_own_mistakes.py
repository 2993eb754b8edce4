"""Code of one's own that fails while it runs, or gives what cannot be used, is one line that names it; and it cannot
change the numbers of others."""

import sys

import numpy as np
import pytest
import torch

from shared import extensions
from shared.errors import ConfigError
from shared.weighting.importance import Recipe, signal
from tu_eval.measure.own import add_own, own_metrics
from tu_train.methods.table import find_method
from tu_train.methods.tokens import Tokens

MODULE = "own_mistakes"
TEXT = """
import sys
import numpy as np
import torch
from shared.weighting.importance import Signal
from tu_train.methods.table import Method

def raising(row):
    return 1 / 0
def ending(row):
    sys.exit(0)
def large(row):
    return 1e305
def larger(row):
    return 10**400
def counted(row):
    return len(row.generation)
def sorting(row):
    row.logprobs.sort()
    return row.logprobs[0]
def first(row):
    return row.logprobs[0]
def b(row):
    return 1.0
def a_b(row):
    return 2.0

broken = Signal(("logprob",), lambda columns, starts, recipe: columns["entropy"])
complex_ = Signal(("logprob",), lambda columns, starts, recipe: columns["logprob"] * 1j)
text = Signal(("logprob",), lambda columns, starts, recipe: np.array(["x"] * int(starts[-1])))

def method(loss):
    return Method(loss, per="token", paper="own", formula="own", options={})
raises = method(lambda forget, *_: forget.nothing)
vector = method(lambda forget, *_: forget.logp_N)
number = method(lambda forget, *_: 1.0)
detached = method(lambda forget, *_: forget.logp_N.detach().sum())
good = method(lambda forget, *_: forget.logp_N.sum())
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(extensions, "_imported", {})
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    (tmp_path / f"{MODULE}.py").write_text(TEXT)
    return tmp_path


class Part:
    """Stands in for an example of a suite."""

    def __init__(self, name):
        self.id = name


class Held:
    """A row with one wrong answer."""

    answer, wrong = Part("x"), [Part("y")]


def measure(*names):
    row = {"question": "q", "answer": "a", "generation": None, "example_id": "x"}
    scores = {"x": {"logprob": [-1.0, -3.0]}, "y": {"logprob": [-2.0]}}
    add_own(own_metrics([f"{MODULE}:{name}" for name in names]), [row], [Held()], scores)
    return row, scores


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raising", rf"--metric {MODULE}:raising: raised ZeroDivisionError: division by zero \(.*{MODULE}.py, line 9\)"),
        ("ending", rf"--metric {MODULE}:ending: raised SystemExit: 0"),
        ("counted", r"raised TypeError: object of type 'NoneType' has no len\(\)"),
        ("large", r"gave 1e\+305 for x, expected a finite number or None"),
        ("larger", r"gave 10000000.* for x, expected a finite number or None"),
    ],
)
def test_a_metric_that_fails_is_one_line(name, said):
    with pytest.raises(ConfigError, match=said) as error:
        measure(name)
    assert len(str(error.value)) < 500


def test_a_metric_changes_nothing_for_the_others():
    row, scores = measure("sorting", "first")
    assert (row["sorting"], row["first"]) == (-3.0, -1.0)
    assert scores == {"x": {"logprob": [-1.0, -3.0]}, "y": {"logprob": [-2.0]}}


def test_two_means_of_one_name_are_refused_before_any_work():
    names = [f"{MODULE}:b", f"{MODULE}:a_b"]
    assert len(own_metrics(names, ["forget", "retain"])) == 2
    with pytest.raises(ConfigError, match="two sets and metrics would both be called forget_a_b"):
        own_metrics(names, ["forget", "forget_a"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", "raised KeyError: 'entropy'"),
        ("complex_", "gave values of type complex128, expected a finite number for each of 2 target tokens"),
        ("text", "gave values of type <U1, expected a finite number for each of 2 target tokens"),
    ],
)
def test_a_signal_that_fails_is_one_line(name, said):
    extensions.load(extensions.Kind("token_unlearn.signals", "signal", "a Signal", lambda _: True), f"{MODULE}:{name}")
    with pytest.raises(ConfigError, match=said):
        signal(f"{MODULE}:{name}", {"logprob": np.array([-1.0, -2.0])}, np.array([0, 2]), Recipe())


def tokens():
    index = torch.arange(2)
    return Tokens(torch.tensor([-1.0, -2.0], requires_grad=True), torch.ones(2), index * 0, index, index, 1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raises", "raised AttributeError: 'Tokens' object has no attribute 'nothing'"),
        ("vector", r"its loss is a torch.float32 of shape \(2,\), expected a tensor that holds one number"),
        ("number", "its loss is of type float, expected a tensor that holds one number"),
        ("detached", "its loss has no gradient, so nothing would be learned"),
    ],
)
def test_a_method_that_fails_is_one_line(name, said):
    with pytest.raises(ConfigError, match=f"--method {MODULE}:{name}: {said}"):
        find_method(f"{MODULE}:{name}").loss(tokens(), None, {}, {})


def test_a_good_method_is_left_as_it_is():
    forget = tokens()
    find_method(f"{MODULE}:good").loss(forget, None, {}, {}).backward()
    assert forget.logp_N.grad.tolist() == [1.0, 1.0]
    with torch.no_grad():
        assert find_method(f"{MODULE}:detached").loss(tokens_without_gradient(), None, {}, {}).item() == -3.0


def tokens_without_gradient():
    index = torch.arange(2)
    return Tokens(torch.tensor([-1.0, -2.0]), torch.ones(2), index * 0, index, index, 1)


@pytest.mark.parametrize("options", ['{"floor": None}', '{"floor": "a"}', '{"floor": float("nan")}', '["floor"]'])
def test_options_of_a_method_are_numbers(place, options):
    (place / f"{MODULE}.py").write_text(TEXT.replace("options={})", f"options={options})"))
    with pytest.raises(ConfigError, match=r"cannot be imported: ValueError: (its option floor has the default|options are no mapping)"):
        find_method(f"{MODULE}:good")


def test_an_unknown_name_says_how_ones_own_is_named():
    with pytest.raises(ConfigError, match=r"one of your own is named package\.module:NAME"):
        find_method("own_mistakes.good")
