"""Every file of recipes/ is a study whose settings its commands know; a name that they do not is refused with the
nearest."""

import importlib
import re
from pathlib import Path

import pytest

from shared.config import read_toml, resolve
from shared.errors import ConfigError
from shared.study import MEASURES, STEPS, load_study
from tu_train.many.study import read_study

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))
OUT = Path("runs")


def resolved(kind: str, settings: dict):
    module, _, name = kind.partition(":")
    return resolve(getattr(importlib.import_module(module), name), flags=settings)


def test_the_papers_are_there():
    wanted = {"tofu_forget01", "tofu_forget05", "tofu_forget10", "muse_news", "muse_books", "lume"}
    assert wanted <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_is_known_to_its_commands(path):
    study = load_study(path, OUT)
    for step in study.steps:
        resolved(STEPS[step.command], step.settings)
    for name, settings in study.measures.items():
        resolved(MEASURES[name][1], {**settings, "model": "-", "out": "-"})
    runs = list(read_study(path, study.runs))
    assert runs and len({name for name, _ in runs}) == len(runs)


NUMBERS = ("one", "two", "three", "four", "five")


@pytest.mark.parametrize("path", [p for p in RECIPES if p.stem != "wmdp"], ids=lambda p: p.stem)
def test_a_recipe_says_which_numbers_are_whose(path):
    """Each file is whole: models to measure, a suite, seeds; the commands at its head are those that take it."""
    study, text = load_study(path, OUT), path.read_text(encoding="utf-8")
    assert {"target", "retain"} <= set(study.models) and "eval" in study.measures and len(study.runs["seed"]) >= 3
    for command in ("tu-train many", "tu-eval many"):
        assert re.search(rf"^# +{command} recipes/{path.name} --out \S+ ", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 120
    for name in ("epochs", "learning_rate", "keep"):
        said, covered = "", 0
        for line in text.splitlines():  # a comment beside the number, or one above that speaks of the next so many
            said, covered = (line, 0) if "#" in line else (said, covered + 1)
            if line.startswith(f"{name} = "):
                many = next((number for number, word in enumerate(NUMBERS, 1) if f"as are the next {word}" in said), 0)
                assert "#" in line or covered <= many, f"{name}: whose number is it?"
                break
        else:
            raise AssertionError(f"{name} is not in the file")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_an_unknown_name_is_refused_with_the_nearest(path, tmp_path):
    copy = tmp_path / path.name
    copy.write_text(path.read_text(encoding="utf-8").replace("weight_decay", "wieght_decay").replace("schedule", "shedule"))
    with pytest.raises(ConfigError, match=r"unknown field '(wieght_decay|shedule)' \(did you mean '(weight_decay|schedule)'"):
        study = load_study(copy, OUT)
        list(read_study(copy, study.runs))


def test_a_small_model_and_a_local_copy_take_the_place(tofu_dir):
    """What docs/reproduce.md says to try."""
    path = next(p for p in RECIPES if p.stem == "tofu_forget01")
    study = load_study(path, OUT, ["base=smollm2", "seed=[0]", 'method=["npo"]', "steps.target.limit=8", "eval.limit=2"])
    assert [s.settings["model"] for s in study.steps] == ["smollm2", "smollm2", "runs/target"]
    assert len(list(read_study(path, study.runs))) == 3 and read_toml(path)["seed"] == [0, 1, 2]
