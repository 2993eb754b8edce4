"""The comparison: what it computes, and its page in a real browser."""

import csv
import json
import math
import re
import statistics
from functools import cache

import pytest

from shared.errors import StoreError
from tests.browser import Browser
from tests.tu_eval.made import EVIL, HEBREW, SETS, TEXTS, make_model, make_results, many
from tu_eval.compare.bars import charts
from tu_eval.compare.comparison import load_comparison
from tu_eval.compare.export import markdown, table_csv
from tu_eval.compare.intervals import Estimate, over_rows, over_seeds
from tu_eval.compare.lacking import lacking
from tu_eval.compare.plot import LEFT, LONGEST, RIGHT, WIDTH, layout, share_axis
from tu_eval.compare.report import write_report
from tu_eval.compare.table import _value
from tu_eval.results.columns import columns_of
from tu_eval.results.results import load_results
from tu_eval.suites.suites import find_suite


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return many(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def page_file(folders, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "r.html"
    write_report(path, load_comparison(folders))
    return path


@pytest.fixture(scope="module")
def browser():
    with Browser() as started:
        yield started


@pytest.fixture
def page(browser, page_file):
    opened = browser.page(page_file, size=(1200, 900))
    yield opened
    assert opened.errors() == [] and opened.requests() == []
    assert opened.evaluate("document.title") == "tu-eval: made"  # no text of the data has run


def group(comparison, title):
    return next(g for g in comparison.groups if g.title == title)


def test_t_interval_over_seeds_by_hand():
    e = over_seeds([0.5, 0.6, 0.7])
    assert math.isclose(e.value, 0.6) and e.n == 3 and e.source == "seeds"
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # t(0.975, 2)
    assert e.span == pytest.approx((0.6 - half, 0.6 + half), rel=1e-9)
    p = over_seeds([1e-2, 1e-4], log=True)
    assert p.value == pytest.approx(1e-3) and p.span[1] == 1.0  # a p-value ends at 1
    assert over_seeds([0.0, 0.5], log=True) == Estimate(0.0, None, 2)


def test_bootstrap_over_rows_is_that_of_a_plain_loop(folders):
    result = load_results(folders[0])
    rows = {name: result.rows(name) for name in SETS}
    spans = over_rows(rows, result.summary["metrics"], result.summary["utility_parts"])
    assert set(spans) == set(result.summary["metrics"]) - {"forget_quality"}
    values = [r["probability"] for r in rows["forget"]]
    error = statistics.pstdev(values) / math.sqrt(len(values))
    low, high = spans["forget_probability"]
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert low < result.summary["metrics"]["forget_probability"] < high
    wrong = {**result.summary["metrics"], "forget_probability": 0.123}
    assert "forget_probability" not in over_rows(rows, wrong, [])  # rows that do not give the number say nothing of it


def test_seeds_of_a_recipe_are_one_entry_and_roles_are_known(folders):
    comparison = load_comparison(folders)
    assert [g.title for g in comparison.groups][:4] == ["target", "retain", "npo-all-0", "npo · hard"]
    assert [g.role for g in comparison.groups[:3]] == ["target", "retain", None]
    hard = group(comparison, "npo · hard")
    column = next(c for c in comparison.columns if c.metric == "model_utility")
    values = [comparison.value(i, "model_utility") for i in hard.members]
    assert comparison.estimate(hard, column) == over_seeds(values, share=True) and len(values) == 3


def test_a_model_folder_with_other_weights_tells_nothing(tmp_path):
    model, _ = make_model(tmp_path / "m", word="now", method="npo", tokens="hard", seed=0)
    folder = make_results(tmp_path / "r", "old", model=model, model_fingerprint="0" * 64)
    assert load_comparison([folder]).trainings == [(None, "the model's folder holds other weights than those measured")]


def test_best_is_nearest_to_the_retain_model_and_noise_is_marked(folders):
    comparison = load_comparison(folders)
    table = comparison.table()
    for c, column in enumerate(comparison.columns):
        marks = comparison.marks(c, table)
        held = {g: table[g][c] for g, entry in enumerate(comparison.groups) if entry.role is None}
        retain = table[1][c].value
        loss = {g: abs(e.value - retain) if column.group == "Forget set" else -e.value for g, e in held.items()}
        best = min(loss, key=loss.get)
        assert marks[0] == marks[1] == "" and marks[best] == "best"
        for g, e in held.items():
            overlap = e.span and held[best].span and e.span[0] <= held[best].span[1] and held[best].span[0] <= e.span[1]
            assert (marks[g] in ("near", "best")) == bool(overlap or g == best)


def test_bars_have_all_hard_soft_of_each_method(folders):
    comparison = load_comparison(folders)
    chart = next(c for c in charts(comparison, comparison.table()) if c.column.metric == "model_utility")
    assert [(m, [b.mode for b in bars]) for m, bars in chart.methods] == [(m, ["all", "hard", "soft"]) for m in ("npo", "graddiff")]
    value = comparison.value(2, "model_utility")
    assert chart.methods[0][1][0].width == pytest.approx(100 * value)


def test_an_index_of_runs_finds_results_and_names_the_failed(tmp_path):
    inside = make_results(tmp_path / "runs" / "one" / "eval", "one", seed=3)
    runs = [{"name": "one", "folder": "one", "settings": {}, "status": "done", "error": None}]
    runs += [{"name": "two", "folder": "two", "settings": {}, "status": "failed", "error": "out of memory\nmore"}]
    index = tmp_path / "runs" / "index.json"
    index.write_text(json.dumps({"format": 1, "runs": runs}))
    comparison = load_comparison([], index)
    assert [r.folder for r in comparison.results] == [inside]
    assert comparison.notes == ["Not on this page: two, failed: out of memory"]
    for text, why in (("[]", "expected what tu-train many writes"), ("{}", "format 1")):
        index.write_text(text)
        with pytest.raises(StoreError, match=why):
            load_comparison([], index)


def test_csv_gives_back_every_float_and_markdown_every_recipe(folders):
    comparison = load_comparison(folders)
    read = list(csv.DictReader(table_csv(comparison).splitlines()))
    assert [r["label"] for r in read] == comparison.labels
    for i, row in enumerate(read):
        assert float(row["model_utility"]) == comparison.results[i].summary["metrics"]["model_utility"]
    lines = markdown(comparison).splitlines()
    assert len({line.count("|") for line in lines[: 2 + len(comparison.columns)]}) == 1
    assert "npo · hard (n = 3)" in lines[0] and "| Model utility ↑ |" in lines[3] and "[" in lines[3] and "**(best)**" in lines[3]


def test_the_utility_axis_holds_every_model_and_whisker():
    for low, high in ((0.0, 0.0), (1.0, 1.0), (0.71, 0.78), (0.0, 0.97), (0.4, 0.4), (0.05, 0.1)):
        (first, last), ticks = share_axis([low, high])
        assert 0 <= first <= low <= high <= last <= 1 and first < last and 2 <= len(ticks) <= 6
        assert (ticks[0][0], ticks[-1][0]) == (first, last) == (float(ticks[0][1]), float(ticks[-1][1]))
        xs = [x for x, _ in layout([(0, "a", low, 0.1), (1, "b", high, 0.5)]).x_ticks]
        assert xs[0] == LEFT and xs[-1] == pytest.approx(WIDTH - RIGHT)
    drawn = layout([(0, "a", 0.5, 0.1), (1, "b", 0.9, 0.5)], {0: ((-0.5, 0.6), None)})
    a, b = sorted(drawn.points, key=lambda p: p.index)
    assert a.across[0] == LEFT and LEFT < a.x < b.x < WIDTH  # a whisker ends where the axis does


def test_a_long_label_loses_its_middle_and_none_lies_beyond_the_plot():
    long = ["org/" + "x" * 90 + f"-beta{k}" for k in range(4)]
    points = layout([(k, name, 0.5 + k / 8, 0.1) for k, name in enumerate(long)]).points
    for p in points:
        assert len(p.label) <= LONGEST and p.label.startswith("org/x") and p.label.endswith(long[p.index][-6:]) and "…" in p.label
        width = 7.1 * len(p.label)
        left = p.text_x - {"start": 0, "middle": width / 2, "end": width}[p.anchor]
        assert left >= LEFT and left + width <= WIDTH


def test_membership_inference_shows_interval_and_rate_at_one_per_cent(run_cli, browser, tmp_path):
    retain = make_results(tmp_path / "retain", "retain", seed=1, known=0.25, attacked=True)
    target = make_results(tmp_path / "target", "target", seed=2, known=0.95, retain=retain, attacked=True)
    members = load_results(target).membership()
    loss = {side: sorted(r["loss"] for r in members if r["set"] == side) for side in ("forget", "holdout")}
    rate = sum(x < loss["holdout"][0] for x in loss["forget"]) / 30  # of 30 holdout rows, 1 % is none
    code, _, err = run_cli(
        "tu-eval", "compare", target, retain, "--out", tmp_path / "r.html", "--csv", tmp_path / "t.csv", "--markdown", tmp_path / "t.md"
    )
    assert code == 0, err
    assert f"], TPR {rate:.3f} |" in next(x for x in (tmp_path / "t.md").read_text().splitlines() if "| Loss AUC" in x)
    row = next(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert float(row["mia_loss_tpr_1"]) == rate > 0
    page = browser.page(tmp_path / "r.html")
    heads = "[...document.querySelectorAll('#metrics thead tr:last-child th')].findIndex((h) => h.querySelector('[data-metric=mia_loss]'))"
    cell = page.evaluate(f"document.querySelector('#metrics tbody tr').children[{heads}].textContent")
    low, high = (load_results(target).summary["membership"]["attacks"]["loss"][k] for k in ("low", "high"))
    assert f"{low:.3f} to {high:.3f}" in cell and f"TPR {rate:.3f}" in cell


def test_a_missing_number_says_why_on_the_page_and_in_markdown(run_cli, browser, tmp_path):
    retain = make_results(tmp_path / "retain", "retain", seed=1, known=0.25)
    other = make_results(tmp_path / "other", "other", seed=2)
    code, _, err = run_cli("tu-eval", "compare", other, retain, "--out", tmp_path / "r.html", "--markdown", tmp_path / "t.md")
    assert code == 0, err
    said = browser.page(tmp_path / "r.html").evaluate("document.querySelector('.lacking').textContent")
    assert said == "No value for Forget quality: needs retain results (--retain-results DIR)."
    assert said in (tmp_path / "t.md").read_text() and "| Forget quality ↑ | — | — |" in (tmp_path / "t.md").read_text()
    third = make_results(tmp_path / "third", "third", seed=3, retain=retain)
    assert lacking(load_comparison([third, other, retain])) == ["Forget quality of other: needs retain results (--retain-results DIR)"]


def test_all_nine_parts_of_utility_and_where_they_stand():
    suite = find_suite("tofu:forget10")
    summary = {
        "rows": dict.fromkeys([s.name for s in suite.sets], 1),
        "metrics": dict.fromkeys([*suite.utility_parts, "model_utility"], 0.5),
    }
    held = {c.metric: (c.group, c.heading) for c in columns_of(summary)}
    sets, kinds = ("Retain set", "Real authors", "World facts"), ("Probability", "ROUGE-L recall", "Truth ratio")
    assert [held[part] for part in suite.utility_parts] == [(s, k) for s in sets for k in kinds]


def test_command_writes_page_markdown_csv_and_png(run_cli, folders, tmp_path):
    extra = ("--markdown", tmp_path / "t.md", "--csv", tmp_path / "t.csv", "--png", tmp_path / "t.png")
    code, out, err = run_cli("tu-eval", "compare", *folders, "--out", tmp_path / "r.html", *extra)
    assert code == 0, err
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG") and str(tmp_path / "t.csv") in out
    assert run_cli("tu-eval", "compare", *folders, "--out", tmp_path / "n.html", "--no-rows")[0] == 0
    assert "Lisbon" in (tmp_path / "r.html").read_text() and "Lisbon" not in (tmp_path / "n.html").read_text()
    lone = make_results(tmp_path / "lone", "lone")
    code, _, err = run_cli("tu-eval", "compare", lone, "--out", tmp_path / "x.html", "--png", tmp_path / "x.png")
    assert code == 2 and "nothing to plot" in err and not (tmp_path / "x.html").exists()
    assert run_cli("tu-eval", "compare", "--out", tmp_path / "x.html")[0] == 2


SHOWN = "[...document.querySelectorAll('#metrics tbody tr')].filter((r) => !r.hidden)"


def column_of(page, metric):
    return page.evaluate(
        f"{SHOWN}.map((r) => r.children[[...document.querySelectorAll('#metrics thead tr:last-child th')]"
        f".findIndex((h) => h.querySelector('[data-metric={metric}]'))].dataset.value)"
    )


def test_headings_sort_by_mouse_and_keyboard(page):
    page.click("[data-metric=forget_quality]")
    first = [float(v) for v in column_of(page, "forget_quality")]
    assert first == sorted(first, reverse=True) and len(set(first)) > 5
    page.evaluate("document.querySelector('[data-metric=forget_quality]').focus()")
    page.send("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    assert [float(v) for v in column_of(page, "forget_quality")] == sorted(first)
    assert page.evaluate("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "ascending"


def set_input(page, name, value):
    page.evaluate(f"(() => {{ const e = document.getElementById('{name}'); e.value = {json.dumps(value)};"
                  "e.dispatchEvent(new Event(e.tagName === 'SELECT' || e.type === 'number' ? 'change' : 'input')); })()")  # fmt: skip


def test_filter_hides_models_in_the_table_and_the_rows(page):
    set_input(page, "filter", "npo hard")
    assert page.evaluate(f"{SHOWN}.map((r) => r.querySelector('bdi').textContent)") == ["npo · hard"]
    heads = page.evaluate("[...document.querySelectorAll('.answer h3')].map((e) => e.textContent)")
    assert heads == ["npo-hard-0", "npo-hard-1", "npo-hard-2"]
    set_input(page, "metric", page.evaluate("document.querySelector('#metric').options[3].value"))
    assert page.evaluate("[...document.querySelectorAll('.metric-chart')].filter((e) => !e.hidden).map((e) => e.dataset.chart)") == ["3"]


def card(page):
    return page.evaluate("[...document.querySelectorAll('#card .row-text span')].map((e) => e.textContent)")


def test_rows_are_browsed_searched_and_shown_literally(page):
    assert card(page) == list(TEXTS[0]) and EVIL in card(page)[0]
    assert page.evaluate("document.querySelectorAll('#card img, #card script').length") == 0
    page.evaluate("document.getElementById('card').focus()")
    page.press("ArrowRight")
    assert card(page) == list(TEXTS[1]) and HEBREW in card(page)[1]
    assert page.evaluate("getComputedStyle(document.querySelectorAll('#card .row-text span')[1]).direction") in ("ltr", "rtl")
    set_input(page, "find", "year 1905")
    assert page.evaluate("document.getElementById('of').textContent") == "of 1" and card(page) == list(TEXTS[7])
    set_input(page, "find", "no such text")
    assert card(page) == [] and "no row" in page.evaluate("document.getElementById('of').textContent")


def test_target_and_retain_model_are_marked_the_axis_is_logarithmic_and_settings_are_there(page):
    bold = "[...document.querySelectorAll('svg.plot text[font-weight=\"700\"]')].map((e) => e.textContent)"
    assert sorted(page.evaluate(bold)) == ["retain", "target"]
    ticks = page.evaluate("[...document.querySelectorAll('svg.plot .tick')].map((e) => e.textContent).filter((x) => x.startsWith('10'))")
    assert ticks == ["10−5", "10−10", "10−15"]
    shapes = page.evaluate("[...document.querySelectorAll('svg.plot path[data-group]')].map((e) => e.getAttribute('d'))")
    assert len(set(shapes)) == len(shapes) == 8  # told apart without colour
    settings = page.evaluate("[...document.querySelectorAll('details')].map((e) => e.textContent)")
    assert len(settings) == 12 and all("SHA-256 of weights" in text for text in settings)
    assert [("Learning rate" in text and "1e-05" in text and "Method" in text) for text in settings] == [False] * 2 + [True] * 10


WORD = re.compile(r"\w+|[^\w\s]")


@cache
def _longest(a, b):
    if not a or not b:
        return 0
    return 1 + _longest(a[1:], b[1:]) if a[0] == b[0] else max(_longest(a[1:], b), _longest(a, b[1:]))


def longest_common(a, b):
    """Length of the longest common subsequence, by its definition."""
    return _longest(tuple(a), tuple(b))


def test_word_diff_marks_exactly_what_differs(page, folders):
    set_input(page, "row", "12")
    generation = load_results(folders[0]).rows("forget")[11]["generation"] + " indeed in Lisbon."
    gold = TEXTS[11][1]
    parts = page.evaluate(f"diff({json.dumps(gold)}, {json.dumps(generation)})")
    assert "".join(p["text"] for p in parts if p["kind"] != "del").split() == generation.split()
    assert "".join(p["text"] for p in parts if p["kind"] != "ins").split() == gold.split()
    same, a, b = ([*map(str, WORD.findall(text))] for text in ("".join(p["text"] for p in parts if p["kind"] == "same"), gold, generation))
    assert len(same) == longest_common(a, b) > 8
    assert page.evaluate(f"diff({json.dumps(gold)}, {json.dumps(gold)})") == [{"kind": "same", "text": gold}]
    assert "Porto" in page.evaluate("[...document.querySelectorAll('.answer')][2].querySelector('ins').textContent")
    set_input(page, "against", "2")
    assert page.evaluate("[...document.querySelectorAll('.answer')][2].querySelectorAll('ins, del').length") == 0


def test_dark_and_narrow_and_without_script(browser, page_file):
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = browser.page(page_file), browser.page(page_file, dark=True, size=(400, 800))
    assert light.evaluate(background) != dark.evaluate(background)
    assert dark.evaluate("document.documentElement.scrollWidth") == 400  # wide parts scroll by themselves
    bare = page_file.read_text(encoding="utf-8")
    assert "http://" not in bare and "https://" not in bare and "url(" not in bare
    assert EVIL not in bare and "★" in bare


def test_the_terminal_says_a_reason_once_where_it_holds_for_lines_below_each_other():
    lines, why = [], None
    for value, reason in ((None, "no holdout"), (None, "no holdout"), (0.5, ""), (None, "no holdout"), (None, ""), (None, "")):
        shown, why = _value(value, reason, why)
        lines.append(shown)
    assert lines == ["— no holdout", "— as above", "0.500", "— no holdout", "—", "—"]
