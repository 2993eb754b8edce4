"""Suites of questions: named sets of rows, and what is measured on each. A suite has one forget set; all its others
feed model utility.

Beside them stands a holdout: rows like those of the forget set that no model of the suite was trained on. Membership
inference needs them.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from shared.asides import ASIDE
from shared.data import atlas_questions
from shared.data.atlas import AtlasSize
from shared.data.datasets import atlas_world
from shared.errors import ConfigError, nearest
from shared.extensions import Kind, load, names
from tu_eval.suites.sets import EvalSet, Suite, lacks
from tu_eval.suites.suite_file import read_suite

TOFU_FORGET = ("forget01", "forget05", "forget10")
TOFU_AUTHOR = 20
"""rows about one author, in order"""
MUSE = ("news", "books")
QUESTIONS = ":questions"
"""behind a suite of TOFU: with the questions that nobody trained on; of the atlas it is questions=1"""
OURS = ("tofu", "muse", "atlas", "lume")
"""first parts of the names of suites that are here"""
KNOWN = (*(f"tofu:{split}" for split in TOFU_FORGET), *(f"muse:{corpus}" for corpus in MUSE), "lume", "atlas")
SUITE = Kind("token_unlearn.suites", "--suite", "a Suite (tu_eval.suites.sets)", lambda value: isinstance(value, Suite))


def find_suite(name: str) -> Suite:
    """One that is here, of a TOML file, or of another package (docs/extending.md). Raises ConfigError suggesting the
    nearest name, or naming the size that is wrong."""
    if name.endswith(".toml"):
        return read_suite(Path(name))
    kind, _, rest = name.partition(":")
    if kind == "tofu" and rest.removesuffix(QUESTIONS) in TOFU_FORGET:
        return _tofu(rest.removesuffix(QUESTIONS), asked=rest.endswith(QUESTIONS))
    if kind == "atlas":
        return _atlas(rest)
    if name == "lume" or (kind == "muse" and rest in MUSE):
        raise ConfigError(f"--suite {name}: is for tu-eval run only; here a suite of questions is needed, tofu:… or atlas")
    if kind in OURS or not (rest or name in names(SUITE)):
        raise ConfigError(f"--suite {name}: no such suite{nearest(name, [*KNOWN, *names(SUITE)])}")
    return _of_others(name)


def _of_others(name: str) -> Suite:
    """Raises ConfigError for a suite that could not be measured, or would be taken for one of ours."""
    suite = load(SUITE, name, KNOWN).object
    if wrong := lacks(suite.sets):
        raise ConfigError(f"--suite {name}: {wrong}")
    if suite.name.partition(":")[0] in OURS:
        raise ConfigError(f"--suite {name}: is called {suite.name}, which is the name of another suite; give it a name of its own")
    return suite


def _tofu(forget: str, *, asked: bool = False) -> Suite:
    def about_authors(name: str, split: str) -> EvalSet:
        return EvalSet(name=name, data=f"tofu:{split}_perturbed", options=False, paraphrase=True, facts=False, cluster_rows=TOFU_AUTHOR)

    def about_others(name: str) -> EvalSet:
        return EvalSet(name=name, data=f"tofu:{name}_perturbed", options=True, paraphrase=False, facts=False)

    sets = (about_authors("forget", forget), about_authors("retain", "retain"), about_others("real_authors"), about_others("world_facts"))
    if asked:
        splits = {
            "forget_alias": f"alias-{forget}", "retain_alias": "alias-retain", "forget_mixed": f"mixed-{forget}",
            "retain_mixed": f"mixed-retain-{forget}", "forget_french": f"french-{forget}", "retain_french": "french-retain",
        }  # fmt: skip
        sets = (*sets, *(about_authors(name, split) for name, split in splits.items()))
    return Suite(f"tofu:{forget}{QUESTIONS if asked else ''}", sets, holdout=f"tofu:{forget.replace('forget', 'holdout')}")


def _atlas(world: str) -> Suite:
    parts = world.split(",")
    asked = "questions=1" in parts
    size = _canonical(",".join(part for part in parts if part not in ("questions=0", "questions=1")))
    tail = f":{size}" if size else ""

    def about_people(name: str, split: str = "") -> EvalSet:
        return EvalSet(name=name, data=f"atlas:{split or name}{tail}", options=False, paraphrase=True, facts=True, cluster="person")

    world_set = EvalSet(name="world", data="atlas:world", options=True, paraphrase=False, facts=False)
    sets = (about_people("forget"), about_people("retain"), world_set)
    if asked:
        named = {f"{split.partition('-')[2]}_{split.partition('-')[0]}": split for split in atlas_questions.SPLITS}
        sets = (*sets, *(about_people(name, named[name]) for name in ASIDE))
    name = ":".join(["atlas", *([",".join(filter(None, [size, "questions=1" if asked else ""]))] if size or asked else [])])
    return Suite(name, sets, holdout=f"atlas:holdout{tail}")


def _canonical(world: str) -> str:
    """The sizes that differ from the defaults, in a fixed order, so that one world has one name."""
    try:
        size, seed = atlas_world(world)
    except ValueError as error:  # a size out of range; an unknown one is a DataError already
        raise ConfigError(f"--suite atlas:{world}: {error}") from None
    values = [(f.name, getattr(size, f.name)) for f in fields(AtlasSize) if getattr(size, f.name) != f.default]
    return ",".join(f"{k}={v}" for k, v in [*values, *([("seed", seed)] if seed else [])])
