"""One evaluation of each tiny model, made once a session."""

import pytest

from tests.tu_eval.made import make_model, make_results

SUITE = "atlas:people=5,facts_per_person=2,forget_people=2,holdout_people=1"


@pytest.fixture(scope="session")
def evaluate(tmp_path_factory):
    """`evaluate(model, **fields)` -> results folder, through the library."""
    from tu_eval.measure.config import EvalConfig
    from tu_eval.measure.questions import evaluate as run

    def make(model, suite=SUITE, limit=6, max_new_tokens=12, **fields):
        out = tmp_path_factory.mktemp("results") / "run"
        run(EvalConfig(model=str(model), suite=suite, out=str(out), limit=limit, max_new_tokens=max_new_tokens, **fields))
        return out

    return make


@pytest.fixture(scope="session")
def retain_results(evaluate, tiny_base):
    return evaluate(tiny_base, label="retain")


@pytest.fixture(scope="session")
def target_results(evaluate, tiny_model, retain_results):
    return evaluate(tiny_model, label="target", retain_results=str(retain_results))


@pytest.fixture
def made_up(monkeypatch):
    """Results whose metrics a test chose are compared as they are: they do not follow from their rows."""
    from tu_eval.compare import comparison as compare

    monkeypatch.setattr(compare, "require_recomputable", lambda *_: set())


@pytest.fixture
def made(tmp_path):
    """Results before and after unlearning, and of the retain model, with its training recorded beside the second."""
    retain = make_results(tmp_path / "retain", "retain", seed=1, known=0.25, attacked=True)
    before = make_results(tmp_path / "before", "target", seed=2, known=0.95, retain=retain, model_fingerprint="0" * 64, attacked=True)
    model, weights = make_model(tmp_path / "model", word="w", method="npo", tokens="hard", seed=4)
    after = make_results(tmp_path / "after", "npo", seed=3, known=0.3, retain=retain, model=model, model_fingerprint=weights, attacked=True)
    return before, after, retain
