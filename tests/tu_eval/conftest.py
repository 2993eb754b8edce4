"""One evaluation of each tiny model, made once a session."""

import pytest

SUITE = "atlas:people=5,facts_per_person=2,forget_people=2,holdout_people=1"


@pytest.fixture(scope="session")
def evaluate(tmp_path_factory):
    """`evaluate(model, **fields)` -> results folder, through the library."""
    from tu_eval.config import EvalConfig
    from tu_eval.run import evaluate as run

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
    from tu_eval import compare

    monkeypatch.setattr(compare, "require_recomputable", lambda *_: set())
