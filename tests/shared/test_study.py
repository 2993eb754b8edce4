"""A study file: what stands where, what --set puts in its place, and what is refused by name."""

import re
from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.study import load_study

TEXT = """
base = "org/Ünïcode-1B"
model = "step:target"
scores = ["step:scores", "elsewhere"]
seed = [0, 1]

[options]
beta = [0.1, 0.2]

[[steps]]
command = "tu-train finetune"
out = "target"
data = "tofu:full"
epochs = 5

[[steps]]
command = "tu-score run"
out = "scores"
model = "step:target"
base_model = "step:base"
data = "data/Псков.jsonl"

[models]
target = "step:target"

[eval]
suite = "tofu:forget01"
"""
OUT = Path("runs/x")


@pytest.fixture
def load(tmp_path):
    def made(text=TEXT, *sets):
        path = tmp_path / "s.toml"
        path.write_text(text, encoding="utf-8")
        return load_study(path, OUT, sets)

    return made


def refused(load, pattern, text=TEXT, *sets):
    with pytest.raises(ConfigError) as caught:
        load(text, *sets)
    assert re.search(pattern, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_steps_lie_in_the_folder_and_are_named_by_their_out(load):
    study = load()
    assert study.runs == {
        "model": "runs/x/target", "scores": ["runs/x/scores", "elsewhere"], "seed": [0, 1], "options": {"beta": [0.1, 0.2]},
    }  # fmt: skip
    target, scores = study.steps
    assert (target.name, target.command) == ("target", "tu-train finetune")
    assert target.settings == {"data": "tofu:full", "epochs": 5, "out": "runs/x/target", "model": "org/Ünïcode-1B"}
    assert scores.settings == {
        "model": "runs/x/target", "base_model": "org/Ünïcode-1B", "data": "data/Псков.jsonl", "out": "runs/x/scores",
    }  # fmt: skip
    assert study.models == {"target": "runs/x/target"} and study.measures == {"eval": {"suite": "tofu:forget01"}}


def test_a_study_of_runs_alone_is_what_it_was(load):
    study = load('model = "m"\nscores = "s"\n[options]\nbeta = 1\n[template_options]\nthink = false\n')
    assert study.runs == {"model": "m", "scores": "s", "options": {"beta": 1}, "template_options": {"think": False}}
    assert not study.steps and not study.models and not study.measures


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("seed=[7]", lambda s: s.runs["seed"] == [7]),
        ("model=smollm2", lambda s: s.runs["model"] == "smollm2"),
        ("options.beta=0.3", lambda s: s.runs["options"] == {"beta": 0.3}),
        ("base=smollm2", lambda s: s.steps[0].settings["model"] == s.steps[1].settings["base_model"] == "smollm2"),
        ("steps.data=x.jsonl", lambda s: [step.settings["data"] for step in s.steps] == ["x.jsonl", "x.jsonl"]),
        ("steps.epochs=1", lambda s: s.steps[0].settings["epochs"] == 1 and "epochs" not in s.steps[1].settings),
        ("steps.scores.limit=3", lambda s: s.steps[1].settings["limit"] == 3 and "limit" not in s.steps[0].settings),
        ("eval.limit=2", lambda s: s.measures["eval"]["limit"] == 2),
        ("models.other=smollm2", lambda s: s.models["other"] == "smollm2"),
        ("eval=none", lambda s: s.measures == {}),
    ],
)
def test_what_set_puts_in_its_place(load, given, seen):
    assert seen(load(TEXT, given))


@pytest.mark.parametrize(
    ("old", "new", "pattern"),
    [
        ("tu-train finetune", "tu-train finetun", r"step 1: command is 'tu-train finetun' .did you mean 'tu-train finetune'"),
        ("tu-score run", "tu-eval run", r"step 2: command is 'tu-eval run'"),
        ('out = "scores"', 'out = "target"', r"two steps have the out 'target'"),
        ('out = "scores"', 'out = "../x"', r"step 2: out is '\.\./x'; expected a plain name"),
        ('out = "scores"', 'out = "base"', r"step 2: out is 'base'"),
        ('out = "scores"', "", r"step 2: out is None"),
        ('scores = ["step:scores"', 'scores = ["step:score"', r"step:score: no earlier step has that out .did you mean 'scores'"),
        ('"step:base"', '"step:scores"', r"step scores: step:scores: no earlier step"),
        ("[eval]", "[evl]", r"unknown table 'evl' .did you mean 'eval'"),
        ("[models]", "[model]", r"s\.toml: not valid TOML"),
        ("[eval]\n", '[eval]\nout = "x"\n', r"eval: out is another for each model"),
        ('target = "step:target"', 'target = "step:traget"', r"models: step:traget: no earlier step .*did you mean 'target'"),
        ('target = "step:target"', '"a/b" = "m"', r"models: 'a/b': expected a plain name"),
        ("[[steps]]", "[[step]]", r"unknown table 'step' .did you mean 'steps'"),
        ('base = "org/Ünïcode-1B"', "base = 7", r"base is 7; expected the model"),
        ("[models]", "models = 5\n[modls]", r"unknown table 'modls'|not valid"),
    ],
)
def test_what_is_none_is_named(load, old, new, pattern):
    assert old in TEXT
    refused(load, pattern, TEXT.replace(old, new))


@pytest.mark.parametrize(
    ("given", "pattern"),
    [
        ("steps.scorse.limit=3", r"--set steps\.scorse\.limit: no step 'scorse' .did you mean 'scores'"),
        ("steps.epoch=1", r"--set steps\.epoch: none of its steps has 'epoch'; name one: steps\.NAME\.epoch"),
        ("choices.limit=1", r"--set choices\.limit: the file has no table 'choices'"),
        ("evl.limit=1", r"the file has no table 'evl' .did you mean 'eval'"),
        ("seed", r"--set seed: expected name=value"),
    ],
)
def test_a_set_that_fits_nothing_is_named(load, given, pattern):
    refused(load, pattern, TEXT, given)
