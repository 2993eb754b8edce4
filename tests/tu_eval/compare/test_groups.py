"""What is best among recipes, and what tells two of them apart."""

import json

import pytest

from shared.records import without_effect
from tests.browser import Browser
from tests.tu_eval.made import make_model, make_results
from tu_eval.compare.bars import charts
from tu_eval.compare.comparison import load_comparison
from tu_eval.compare.export import markdown
from tu_eval.compare.report import write_report
from tu_eval.results.columns import said


def marks(place, metric, values, **references):
    """Marks of models with these values of one metric, in order; `references`: values of the target and the retain
    model."""
    every = {**{f"m{k}": value for k, value in enumerate(values)}, **references}
    results = [
        make_results(place / label, label, seed=k, metrics={metric: value}, reasons={}, utility_parts=[])
        for k, (label, value) in enumerate(every.items())
    ]
    comparison = load_comparison(results)
    return comparison.marks(0, comparison.table())[: len(values)]


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("metric", ["model_utility", "forget_quality", "mia_loss", "privleak"])
def test_nothing_is_best_where_all_are_equal(made_up, tmp_path, metric, value):
    assert marks(tmp_path, metric, [value] * 3) == ["", "", ""]


def test_page_and_markdown_of_equal_models_have_no_star_and_of_others_one(tmp_path):
    for name, values, stars in (("same", (0.5, 0.5), 0), ("other", (0.5, 0.4), 1)):
        places = [tmp_path / name / str(k) for k in range(2)]
        made = [make_results(p, p.name, seed=k, metrics={"mia_loss": values[k]}, reasons={}) for k, p in enumerate(places)]
        comparison = load_comparison(made)
        write_report(tmp_path / "r.html", comparison)
        cells = (tmp_path / "r.html").read_text(encoding="utf-8").split("<tbody>")[1].split("</tbody>")[0]
        assert cells.count("★") == markdown(comparison).count("**(best)**") == stars


def test_equal_models_share_the_best_when_another_is_worse(made_up, tmp_path):
    assert marks(tmp_path / "a", "forget_quality", [0.5, 0.5, 0.4]) == ["best", "best", ""]
    assert marks(tmp_path / "b", "model_utility", [0.1 + 0.2, 0.3, 0.29]) == ["best", "best", ""]  # 0.30000000000000004
    assert marks(tmp_path / "c", "mia_loss", [0.7, 0.8, 0.7]) == ["best", "", "best"]
    assert marks(tmp_path / "d", "privleak", [-3.0, 3.0, 4.0]) == ["best", "best", ""]
    assert marks(tmp_path / "e", "model_utility", [0.5, None, 0.5]) == ["", "", ""]  # of those that have a value


def test_equally_far_from_the_retain_model_is_equal(made_up, tmp_path):
    assert marks(tmp_path / "a", "forget_probability", [0.4, 0.2], target=0.9, retain=0.3) == ["", ""]
    assert marks(tmp_path / "b", "forget_probability", [0.4, 0.2, 0.1], target=0.9, retain=0.3) == ["best", "best", ""]


def test_small_differences_that_are_real_are_no_ties(made_up, tmp_path):
    assert marks(tmp_path / "a", "forget_quality", [1e-30, 1e-20, 0.0]) == ["", "best", ""]
    assert marks(tmp_path / "b", "model_utility", [0.5, 0.5 + 1e-9]) == ["", "best"]


def run(place, name, *, about=None, seed=0, tokens="hard", evaluation=None, **settings):
    """Results of a model that NPO unlearned with these settings; `about`: changes of training.json, `evaluation`: of
    its settings."""
    model, print_ = make_model(place / "models" / name, word=name, method="npo", tokens=tokens, seed=seed, **settings)
    if about:
        path = model / "training.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **about}))
    held = {"dtype": "float32", "seed": 0, "long": "error", "generate": True, "max_new_tokens": 40, **(evaluation or {})}
    return make_results(place / name, name, seed=len(name), model=model, model_fingerprint=print_, settings=held)


def bars(folders):
    """(mode, what tells it apart) of every bar."""
    comparison = load_comparison(folders)
    return [(bar.mode, bar.apart) for _, held in charts(comparison, comparison.table())[0].methods for bar in held]


def test_bars_of_one_method_and_mode_name_the_settings_that_differ(tmp_path):
    few = run(tmp_path, "a", keep=0.1, retain="data/keep.jsonl", options={"beta": 0.1, "x": 2}, train_only=[])
    many = run(tmp_path, "bb", keep=0.3, retain="data/keep.jsonl", options={"beta": 0.05, "x": 2}, train_only=["*.mlp.*"])
    every = run(tmp_path, "all", tokens="all", retain="data/keep.jsonl")
    told = ["keep 0.1 · train only none · beta 0.1", "keep 0.3 · train only *.mlp.* · beta 0.05"]
    assert bars([few, many, every]) == [("all", ""), ("hard", told[0]), ("hard", told[1])]
    assert bars([few, every]) == [("all", ""), ("hard", "")]  # alone of its kind


def test_runs_on_other_stores_or_measured_otherwise_are_told_apart(tmp_path):
    first = run(tmp_path, "a", scores="/data/scores/ניקוד", device="cpu")
    second = run(tmp_path, "bb", scores="/data/scores/得点/", device="cuda", about={"store": "2" * 64})
    assert [apart for _, apart in bars([first, second])] == ["scores ניקוד", "scores 得点"]
    third = run(tmp_path, "ccc", scores="elsewhere/ניקוד", about={"store": "3" * 64})  # of one name: the label has to do
    assert [apart for _, apart in bars([first, third])] == ["a", "ccc"]
    short = run(tmp_path, "dddd", scores="/data/scores/ניקוד", evaluation={"max_new_tokens": 10, "generate": False})
    assert [apart for _, apart in bars([first, short])] == ["generate true · max new tokens 40", "generate false · max new tokens 10"]
    missing = run(tmp_path, "eeeee", scores="/data/scores/ניקוד", keep=0.2)
    assert [apart for _, apart in bars([first, missing])] == ["keep not set", "keep 0.2"]


def test_recipes_of_several_seeds_have_titles_that_tell_them_apart(tmp_path):
    folders = [run(tmp_path, f"m{keep}-{seed}", keep=keep, seed=seed, trackers=["wandb"] * seed) for keep in (0.1, 0.3) for seed in (0, 1)]
    comparison = load_comparison(folders)
    assert [(g.title, len(g.members)) for g in comparison.groups] == [("npo · hard · keep 0.1", 2), ("npo · hard · keep 0.3", 2)]
    assert [apart for _, apart in bars(folders)] == ["keep 0.1", "keep 0.3"]


@pytest.mark.parametrize(
    ("settings", "others", "together"),
    [
        ({}, {"trackers": ["wandb"], "checkpointing": False, "batch_tokens": 9, "device": "cuda", "save_every": 3}, True),
        ({"eval_every": 1}, {"eval_every": 2}, True),
        ({"eval_every": 1, "stop_when": "forget_nll>1"}, {"eval_every": 2, "stop_when": "forget_nll>1"}, False),
        ({"clip": 1.0}, {"clip": 2.0}, False),
    ],
)
@pytest.mark.parametrize("says", [False, True])
def test_seeds_are_grouped_whatever_differs_that_changes_no_result(settings, others, together, says, tmp_path):
    """`says`: records that name these settings themselves, beside those of earlier versions."""

    def record(settings):
        return {"changes_nothing": sorted(without_effect(settings))} if says else None

    folders = [run(tmp_path, f"s{k}", seed=k, about=record(s) if k else None, **s) for k, s in enumerate((settings, others))]
    assert len(load_comparison(folders).groups) == (1 if together else 2)


def test_the_page_shows_what_tells_bars_apart(tmp_path):
    folders = [run(tmp_path, "a", scores="ניקוד <b>"), run(tmp_path, "bb", scores="得点", about={"store": "2" * 64})]
    write_report(tmp_path / "r.html", load_comparison(folders))
    with Browser() as browser:
        page = browser.page(tmp_path / "r.html", size=(400, 800))
        shown = "[...document.querySelector('.metric-chart:not([hidden])').querySelectorAll('.barline')]"
        assert page.evaluate(f"{shown}.map((b) => b.querySelector('.apart').textContent)") == ["scores ניקוד <b>", "scores 得点"]
        boxes = page.evaluate(f"{shown}.map((b) => b.getBoundingClientRect()).map((r) => [r.top, r.bottom])")
        inside = page.evaluate(f"{shown}.map((b) => b.querySelector('.apart').getBoundingClientRect()).map((r) => [r.top, r.bottom])")
        assert all(a <= c < d <= b for (a, b), (c, d) in zip(boxes, inside, strict=True)) and boxes[0][1] <= boxes[1][0]
        assert page.evaluate("document.documentElement.scrollWidth") == 400 and page.errors() == []


def test_settings_are_said_in_words():
    assert said({"beta": 0.1, "top_k": None}) == "beta 0.1, top k not set"
    assert [said(v) for v in (True, [], ["*.mlp.*", "ä"], {}, 1e-05, "")] == ["true", "none", "*.mlp.*, ä", "none", "1e-05", ""]
