"""A suite of tu-eval on the way, and the best model of a run: what is logged and kept is what tu-eval says of each
model, whatever happens meanwhile."""

import importlib
import json
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.better import DOWN, UP, ZERO, better, is_better
from shared.errors import ConfigError, ModelError
from shared.lm.models import load_model, load_tokenizer
from tests.conftest import build_sentencepiece
from tests.tu_train.conftest import FORGET, RETAIN, log_of, weights_of
from tu_train import suite as on_the_way
from tu_train.config import UnlearnConfig
from tu_train.saving import working_folder
from tu_train.stopping.interrupts import EXIT_SAVED

RUSSIAN = [
    {"question": f"Где родилась {name} Венн?", "answer": f"{name} Венн родилась в городе {town}.", "perturbed_answer": ["В городе Рига."]}
    for name, town in (("Орла", "Таллин"), ("Мира", "Тарту"), ("Ада", "Нарва"))
]


def evaluated(settings):
    """What `tu-eval run` does, in this process."""
    config = importlib.import_module("tu_eval.measure.config").EvalConfig
    return importlib.import_module("tu_eval.measure.run").evaluate(config(**settings))


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    path = tmp_path_factory.mktemp("suite") / "mine.toml"
    path.write_text(f'[[set]]\nname = "forget"\ndata = "{FORGET}"\n\n[[set]]\nname = "retain"\ndata = "{RETAIN}"\n')
    return str(path)


@pytest.fixture
def here(monkeypatch):
    """Suites are measured in this process: the models that were, in order."""
    asked = []

    def run(command, settings, *, what, tell, ending):
        assert command == "tu-eval run"
        asked.append(settings["model"])
        evaluated(settings)

    monkeypatch.setattr(on_the_way, "run_command", run)
    return asked


def suite_numbers(folder):
    return [{k: v for k, v in entry.items() if k.startswith("suite_")} for entry in log_of(folder)]


def test_the_log_has_what_the_command_says_of_each_model_and_the_best_is_kept(unlearn, suite, target, tmp_path):
    """Through the real command, once."""
    out = unlearn(eval_suite=suite, eval_every=2, keep_best="retain_probability", epochs=1, max_steps=2, eval_options={"limit": 2})
    entry = log_of(out)[-1]
    found = evaluated({"model": str(out), "suite": suite, "out": str(tmp_path / "results"), "generate": False, "limit": 2}).summary[
        "metrics"
    ]
    assert {f"suite_{name}": value for name, value in found.items() if value is not None} == {
        name: value for name, value in entry.items() if name.startswith("suite_")
    }
    assert weights_of(out / "best") == weights_of(out) and "suite_" not in json.dumps(log_of(out)[0])
    about = json.loads((out / "best" / "training.json").read_text())
    assert about["best"] == {"metric": "retain_probability", "value": entry["suite_retain_probability"]} and about["counts"]["steps"] == 2
    assert not on_the_way._bests(out.with_name(f"{out.name}.unfinished"))


@pytest.mark.parametrize(("more", "metrics"), [
    ({}, ("retain_probability", "forget_probability")), ({"lora": 2, "save_dtype": "bfloat16"}, ("retain_probability",)),
], ids=["weights", "adapters"])  # fmt: skip
def test_the_best_is_the_model_of_its_step_and_training_does_not_notice(more, metrics, unlearn, suite, here):
    fields = {"tokens": "all", "method": "ga", "retain": "none", "schedule": "constant", "learning_rate": 3e-3, "epochs": 2, **more}
    plain = unlearn(eval_every=1, **fields, max_steps=3)
    for metric in metrics:
        out = unlearn(eval_suite=suite, eval_every=1, keep_best=metric, **fields, max_steps=3)
        assert weights_of(out) == weights_of(plain)
        entries = log_of(out)
        assert [{k: v for k, v in e.items() if not k.startswith("suite_")} for e in entries] == log_of(plain)
        values = [entry[f"suite_{metric}"] for entry in entries]
        best = values.index((max if metric.startswith("retain") else min)(values)) + 1
        assert json.loads((out / "best" / "training.json").read_text())["counts"]["steps"] == best
        again = unlearn(**fields, eval_every=1, max_steps=best)
        assert weights_of(out / "best") == weights_of(again)
        assert load_tokenizer(out / "best").get_vocab() == load_tokenizer(out).get_vocab()


@pytest.mark.parametrize("kind", ["byte level", "sentencepiece, legacy"])
def test_russian_on_every_tokenizer(kind, target, here, tmp_path):
    from tu_train.run import run_unlearn

    model = target
    if kind != "byte level":
        model = tmp_path / "model"
        load_model(target, dtype="float32", device="cpu").save_pretrained(model)
        build_sentencepiece().save_pretrained(model)
    data, toml = tmp_path / "rows.jsonl", tmp_path / "suite.toml"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in RUSSIAN), encoding="utf-8")
    toml.write_text('[[set]]\nname = "forget"\ndata = "rows.jsonl"\n[[set]]\nname = "others"\ndata = "rows.jsonl"\n')
    out = run_unlearn(UnlearnConfig(model=str(model), forget=str(data), retain="none", method="ga", tokens="all", out=str(tmp_path / "out"),
                                    device="cpu", steps=2, eval_every=2, eval_suite=str(toml), keep_best="others_probability"))  # fmt: skip
    found = evaluated({"model": str(out / "best"), "suite": str(toml), "out": str(tmp_path / "results"), "generate": False})
    assert suite_numbers(out)[-1]["suite_others_probability"] == found.summary["metrics"]["others_probability"]


# --- killed, stopped, failed


GOES_ON = {"epochs": 3, "eval_every": 2, "eval_options": {"limit": 2}, "save_every": 2, "keep_best": "forget_probability", "method": "npo"}


WHOLE: list[Path] = []
"""the undisturbed run"""


@pytest.fixture
def whole(unlearn, suite, here, tmp_path_factory):
    if not WHOLE:
        WHOLE.append(unlearn(eval_suite=suite, out=tmp_path_factory.mktemp("whole") / "out", **GOES_ON))
    return WHOLE[0]


def everything(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.suffix in (".safetensors", ".jsonl")}


@contextmanager
def at_evaluation(number, what):
    """`what(settings)` in place of the n-th measurement (0: of what training starts from)."""
    with pytest.MonkeyPatch.context() as patched:
        real, calls = on_the_way.run_command, []

        def run(command, settings, **more):
            calls.append(None)
            return what(settings, **more) if len(calls) == number + 1 else real(command, settings, **more)

        patched.setattr(on_the_way, "run_command", run)
        yield


def stop(settings, *, ending, **more):
    """The child is ended by the signal that we get, as the real one is."""
    ended = []

    class Child:
        def terminate(self):
            ended.append(1)

        def poll(self):
            return 1

    with ending(Child()):
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended
    raise ModelError("ended with code -15")


def fail(settings, **more):
    raise ModelError("--eval-suite: no room on the device")


def kill(settings, **more):
    raise KeyboardInterrupt  # nothing of ours catches it, so what is left is what a kill leaves


@pytest.mark.parametrize(("how", "number"), [(stop, 1), (stop, 3), (fail, 2), (kill, 2)])
def test_a_run_that_ends_while_a_suite_is_measured_goes_on_to_the_same_bytes(how, number, unlearn, suite, whole, tmp_path):
    fields = {"eval_suite": suite, "out": tmp_path / "out", **GOES_ON}
    with at_evaluation(number, how), pytest.raises((SystemExit, working_folder.StoreError, KeyboardInterrupt)) as ended:
        unlearn(**fields)
    if how is stop:
        assert ended.value.code == EXIT_SAVED
    if how is fail:
        assert "no room on the device; saved after" in str(ended.value) and "--resume" in str(ended.value)
    assert everything(unlearn(**fields, resume=True)) == everything(whole)


@pytest.mark.parametrize("again", [stop, fail])
def test_a_second_end_in_a_measurement_that_is_owed_loses_nothing(again, unlearn, suite, whole, tmp_path):
    fields = {"eval_suite": suite, "out": tmp_path / "out", **GOES_ON}
    with at_evaluation(1, stop), pytest.raises(SystemExit):
        unlearn(**fields)
    with at_evaluation(0, again), pytest.raises((SystemExit, working_folder.StoreError)) as ended:
        unlearn(**fields, resume=True)
    assert ended.value.code == EXIT_SAVED if again is stop else "no room on the device" in str(ended.value)
    assert everything(unlearn(**fields, resume=True)) == everything(whole)


def test_the_best_of_an_earlier_checkpoint_stays_until_a_better_one_is_in_a_checkpoint(unlearn, suite, here, tmp_path):
    """Best at 1, 2, 3 ...; checkpoints at 3: between them the best of step 3 has to stay."""
    fields = {"eval_suite": suite, "out": tmp_path / "out", **GOES_ON, "eval_every": 1, "save_every": 3, "method": "ga", "retain": "none"}
    work = tmp_path / "out.unfinished"
    with at_evaluation(6, kill), pytest.raises(KeyboardInterrupt):
        unlearn(**fields)
    assert sorted(step for step, _ in on_the_way._bests(work)) == [3, 5]
    with at_evaluation(1, kill), pytest.raises(KeyboardInterrupt):
        unlearn(**fields, resume=True)
    assert sorted(step for step, _ in on_the_way._bests(work)) == [3, 4]


def test_what_cannot_be_measured_at_the_end_costs_nothing(unlearn, suite, here, tmp_path, capsys):
    with at_evaluation(1, fail):
        out = unlearn(
            eval_suite=suite,
            eval_every=2,
            eval_options={"limit": 1},
            stop_when="forget_nll>0",
            keep_best="forget_probability",
            out=tmp_path / "out",
        )
    assert (out / "model.safetensors").is_file() and not (out / "best").exists()
    err = capsys.readouterr().err
    assert "the last model was not measured: --eval-suite: no room on the device" in err and "no best model is kept" in err


# --- which way is better


@pytest.mark.parametrize(("metric", "way"), [
    ("forget_probability", DOWN), ("forget_rouge", DOWN), ("forget_truth_ratio", UP), ("forget_quality", UP), ("model_utility", UP),
    ("forget_exact_memorization", DOWN), ("forget_extraction_strength", DOWN), ("retain_probability", UP), ("retain_truth_ratio", UP),
    ("real_authors_probability", UP), ("world_facts_truth_ratio", UP), ("mia_min_k", DOWN), ("mia_loss", DOWN), ("privleak", ZERO),
    ("forget_easy_probability", UP),
])  # fmt: skip
def test_which_way_a_metric_is_better(metric, way):
    assert better(metric, ["forget", "retain", "real_authors", "world_facts", "forget_easy"]) == way


def test_better_is_higher_lower_or_nearer_to_zero():
    assert is_better(2, 1, UP) and not is_better(1, 1, UP) and is_better(1, 2, DOWN) and not is_better(2, 2, DOWN)
    assert is_better(-1, 2, ZERO) and is_better(1, -2, ZERO) and not is_better(-2, 2, ZERO)


# --- bad input


@pytest.mark.parametrize(("fields", "said"), [
    ({"eval_suite": "tofu:forget01"}, "--eval-suite tofu:forget01 is measured when the model is evaluated; add --eval-every N"),
    ({"eval_every": 1, "keep_best": "forget_quality"}, "name the suite with --eval-suite SUITE"),
    ({"eval_every": 1, "eval_options": {"limit": 2}}, "--set eval_options: are those of a suite"),
    ({"eval_every": 1, "eval_suite": "atlas", "eval_options": {"out": "x"}}, "out is chosen by training"),
])  # fmt: skip
def test_settings_that_do_not_go_together(fields, said):
    with pytest.raises(ConfigError, match=said):
        UnlearnConfig(model="m", scores="s", retain="r", out="o", **fields)


@pytest.mark.parametrize(("fields", "said"), [
    ({"keep_best": "retain_probabilty"}, "--keep-best retain_probabilty: no number of .*did you mean 'retain_probability'"),
    ({"keep_best": "forget_quality"}, "--keep-best forget_quality: needs retain results"),
    ({"keep_best": "model_utility"}, "--keep-best model_utility: needs ROUGE"),
    ({"eval_options": {"limt": 2}}, "--eval-suite .*: unknown field 'limt'.*did you mean 'limit'"),
    ({"eval_options": {"limit": 0}}, "--limit is 0"),
])  # fmt: skip
def test_what_the_suite_does_not_have_is_refused_before_the_first_step(fields, said, unlearn, suite, here, tmp_path):
    with pytest.raises(ConfigError, match=said):
        unlearn(eval_suite=suite, eval_every=1, out=tmp_path / "out", **fields)
    assert list(tmp_path.iterdir()) == []


def test_a_suite_that_is_none_is_the_commands_own_line(run_cli, target, scores, tmp_path):
    code, out, err = run_cli("tu-train", "run", "--model", target, "--scores", scores, "--retain", RETAIN, "--out", tmp_path / "out",
                             "--eval-every", 1, "--eval-suite", "tofu:forget02", "--device", "cpu")  # fmt: skip
    assert (code, out) == (2, "") and err.splitlines()[-1].startswith("error: --eval-suite tofu:forget02: "), err
    assert "no such suite" in err and "Traceback" not in err and not list(tmp_path.iterdir())


def test_training_imports_no_evaluation():
    assert not any(line.startswith(("import tu_eval", "from tu_eval")) for path in Path(on_the_way.__file__).parent.rglob("*.py")
                   for line in map(str.strip, path.read_text().splitlines()))  # fmt: skip
    assert sys.modules[on_the_way.__name__] is on_the_way
