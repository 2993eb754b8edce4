"""The page in a real browser: what it shades, says and hides, and that it needs nothing but its own file."""

import json
import math
import re
import shutil
from itertools import cycle

import numpy as np
import pytest
import torch

from shared.store.scores import open_store
from shared.weighting.importance import Recipe
from tests.browser import Browser
from tu_score import open_scores
from tu_score.heatmap import write_heatmap
from tu_score.recipe import apply_recipe
from tu_score.shading import SIGNALS, take_rows, visible
from tu_score.survey import histograms

HEBREW = "שלום עולם"
ROWS = [
    {"question": "Where does Aldo live & work?", "answer": "</script><img src=x onerror=\"document.title='hit'\"> & 'quotes' \"too\""},
    {"question": f"What does {HEBREW} mean?", "answer": f"{HEBREW} is a greeting 👋🏽.\nA new line\tand a tab, and <!-- no comment"},
    {"question": "Who is <b>bold</b>?", "answer": "&lt;nobody&gt; {{ 7 * 7 }} \\u003c"},
]
HOSTILE = (
    "</script><img src=x onerror=\"document.title='hit'\">",
    "<b>bold</b>",
    "<!--",
    "&lt;",
    "\"'>",
    "{{ 7 * 7 }}",
    "\u202e",
    "<i>\n</i>",
)
STORED = [name for name in SIGNALS if name != "tempered_entropy"]
SHADES = "[...document.querySelectorAll('.t')].map((e) => e.style.getPropertyValue('--v'))"
TOPS = "[...document.querySelectorAll('.t')].map((e) => e.classList.contains('top'))"


@pytest.fixture(scope="module")
def browser():
    with Browser() as started:
        yield started


@pytest.fixture(scope="module")
def store(tmp_path_factory, tiny_model, tiny_base):
    from tu_score.config import ScoreConfig
    from tu_score.run import run_score

    folder = tmp_path_factory.mktemp("heatmap")
    data = folder / "odd.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    options = {"model": str(tiny_model), "base_model": str(tiny_base), "data": str(data), "out": str(folder / "store")}
    return run_score(ScoreConfig(**options, spans="window"))


@pytest.fixture(scope="module")
def path(store):
    page = store.parent / "page.html"
    write_heatmap(page, open_store(store), rows_of(store), "importance")
    return page


def rows_of(store):
    """The rows, with what a large vocabulary could hold: the tiny tokenizer cuts Hebrew, emoji and tags into bytes and
    pieces."""
    rows, whole = take_rows(open_store(store), example=None, count=5), cycle(["של", "ום", " ", "עולם", "👋🏽", " ש"])
    for row in rows:
        row["tokens"] = [next(whole) if text in ("", *HEBREW, "👋", "🏽") else text for text in row["tokens"]]
    at = targets_of(rows[0])
    for i, text in zip([*at[1:], 0], HOSTILE, strict=False):
        rows[0]["tokens"][i] = text
    rows[0]["example_id"] += f"#0-9 + %2F {HOSTILE[0]}"
    return rows


def targets_of(row):
    return [i for i, target in enumerate(row["is_target"]) if target]


def expected_shades(store, name):
    """By hand: shades in hundredths and top tokens of every target, over all rows, in order."""
    shades, tops = [], []
    for row in rows_of(store):
        values = [row["logprob"][i] - row["base_logprob"][i] if name == "gain" else row[name][i] for i in targets_of(row)]
        size = [abs(v) for v in values] if SIGNALS[name].signed else values
        low, high = (0, 1) if name == "importance" else (min(size), max(size))
        strength = [(v - low) / (high - low) for v in size]
        shades += [str(round(100 * s)) for s in strength]
        order = sorted(range(len(size)), key=lambda k: (-size[k], k))[: math.ceil(0.3 * len(size))]
        tops += [k in order and strength[k] > 0 for k in range(len(size))]
    if name == "importance":  # what training pushes where nobody says how many tokens
        tops = [bool(w[i]) for row, w in zip(rows_of(store), open_scores(store).weights(), strict=True) for i in targets_of(row)]
    return shades, tops


def tip_of(page):
    """Lines of the details, or None when they are hidden."""
    return page.evaluate("document.getElementById('tip').hidden ? null : document.getElementById('tip').innerText")


def token(row, position):
    return f"article:nth-of-type({row + 1}) [data-i='{position}']"


def test_the_page_needs_nothing_else_and_text_of_the_data_stays_text(browser, path, store):
    page = browser.page(path)
    assert page.requests() == [] and page.errors() == []
    assert page.evaluate("document.title").startswith("Tokens shaded by importance") and page.evaluate("document.images.length") == 0
    assert (
        page.evaluate("document.scripts.length") == 2 and page.evaluate("document.querySelectorAll('article b, article img').length") == 0
    )
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"(?:href|src|action)\s*=\s*\"([^\"]*)\"|url\(|@import|https?:", text.split("</main>")[0].replace("src=x", ""))
    assert links and all(link.startswith("#example=") for link in links)
    assert page.evaluate("[...document.querySelectorAll('h3')].map((e) => e.textContent)") == [r["example_id"] for r in rows_of(store)]
    for k, row in enumerate(rows_of(store)):
        lines = [visible(t) + ("\n" if "\n" in t else "") for t in row["tokens"]]
        shown = page.evaluate(f"[...document.querySelectorAll('article')[{k}].querySelectorAll('p')].map((p) => p.textContent).join('')")
        assert shown == "".join(lines)
    assert "⇥" in text and "⏎" in text and "עולם" in text and "👋🏽" in text


def test_without_javascript_the_chosen_signal_is_shaded(browser, path, store):
    page = browser.page(path, scripts=False)
    # Chromium runs what DevTools evaluates even so; only the page's own scripts are off.
    shades, tops = expected_shades(store, "importance")
    assert page.evaluate(SHADES) == shades and page.evaluate(TOPS) == tops
    assert page.evaluate("getComputedStyle(document.querySelector('.chips')).display") == "none"
    assert "Without JavaScript" in page.evaluate("document.body.innerText")
    backgrounds = page.evaluate("[...document.querySelectorAll('.t')].map((e) => getComputedStyle(e).backgroundColor)")
    assert len(set(backgrounds)) == len(set(shades))


@pytest.mark.parametrize("name", STORED)
def test_each_signal_can_be_chosen_and_linked(browser, path, store, name):
    page = browser.page(path, fragment="signal=" + ("entropy" if name != "entropy" else "logprob"))
    page.click(f"label.histogram[data-signal={name}]")
    shades, tops = expected_shades(store, name)
    assert page.evaluate(SHADES) == shades and page.evaluate(TOPS) == tops
    assert page.evaluate("[...document.querySelectorAll('.histogram.selected b')].map((e) => e.textContent)") == [name]
    assert page.evaluate("document.querySelector('.meaning:not([hidden])').textContent").startswith(f"{name} ({SIGNALS[name].unit}): ")
    assert page.evaluate("location.hash") == f"#signal={name}"
    again = browser.page(path, fragment=f"signal={name}")
    assert again.evaluate(SHADES) == shades and again.evaluate("document.querySelector('input:checked').value") == name


def test_a_link_to_an_example_shows_it_and_nonsense_changes_nothing(browser, path, store):
    name = rows_of(store)[2]["example_id"]
    page = browser.page(path, fragment=f"signal=delta&example={name}", size=(1000, 500))
    top, bar = page.evaluate(
        "[document.querySelector('article.chosen').getBoundingClientRect().top, document.querySelector('.bar').offsetHeight]"
    )
    assert bar <= top < 500 and page.evaluate("document.querySelector('article.chosen h3').textContent") == name
    page.evaluate("document.querySelector('article h3 a').click()")
    page.evaluate("new Promise((done) => setTimeout(done, 50))")
    link, chosen = page.evaluate("[location.hash, document.querySelector('article.chosen h3').textContent]")
    assert chosen == rows_of(store)[0]["example_id"] and link.startswith("#signal=delta&example=")
    again = browser.page(path, fragment=link[1:])
    assert again.evaluate("[location.hash, document.querySelector('article.chosen h3').textContent]") == [link, chosen]
    odd = browser.page(path, fragment="signal=%3Cimg%3E&example=nothing&x")
    assert odd.errors() == [] and odd.evaluate("location.hash") == "#signal=importance" and odd.evaluate("document.images.length") == 0


def test_pointing_at_a_token_shows_its_values_and_the_span_that_mattered(browser, path, store):
    page = browser.page(path, size=(1000, 900))
    for k, row in enumerate(rows_of(store)):
        i = targets_of(row)[3 + k]
        page.hover(token(k, i))
        tip, span = tip_of(page), row["spans"][row["delta_span"][i]]
        assert f"“{visible(row['tokens'][i])}”" in tip and f"token {row['input_ids'][i]} at {i}" in tip
        values = page.evaluate("[...document.querySelectorAll('.tip dd:nth-of-type(odd)')].map((e) => e.textContent)")
        for name, shown in zip(STORED, values, strict=True):
            value = row["logprob"][i] - row["base_logprob"][i] if name == "gain" else row[name][i]
            assert float(shown.replace("−", "-")) == pytest.approx(value, rel=1e-3), name
            assert not SIGNALS[name].signed or shown[0] in "+−0"
        context = visible("".join(row["tokens"][span["start"] : span["end"]]))
        assert f"“{context}” (span {row['delta_span'][i] + 1} of {len(row['spans'])}" in tip
        assert page.evaluate("[...document.querySelectorAll('.on')].map((e) => e.textContent).join('')") == context
        assert page.evaluate("[...document.querySelectorAll('.on')].every((e) => e.closest('article').dataset.k == " + f"{k})")
    page.hover("h1")
    assert tip_of(page) is None and page.evaluate("document.querySelectorAll('.on, .here').length") == 0


def test_keyboard_and_tap(browser, path, store):
    page, row = browser.page(path, size=(1000, 900)), rows_of(store)[0]
    at = targets_of(row)
    page.click("h1")
    seen = []
    while len(seen) < 4:  # the checked radio, the link of the example, one token, the next example's link
        page.press("Tab")
        seen.append(page.evaluate("document.activeElement.tagName + ' ' + (document.activeElement.dataset.i || '')"))
    assert seen == ["INPUT ", "A ", f"SPAN {at[0]}", "A "]
    page.evaluate("document.querySelector('article .t').focus()")
    assert f"at {at[0]}" in tip_of(page)
    for key, position in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("ArrowLeft", 0),
        ("ArrowLeft", 0),
        ("End", -1),
        ("Home", 0),
    ):
        page.press(key)
        assert re.search(rf"token \d+ at {at[position]}\n", tip_of(page)), key
    assert page.evaluate("document.querySelectorAll('article:nth-of-type(1) .t[tabindex=\"0\"]').length") == 1
    page.press("Escape")
    assert tip_of(page) is None
    page.click(token(0, at[5]))
    page.hover("h1")
    assert f"at {at[5]}" in tip_of(page), "a tapped token keeps its details when the pointer has left"
    page.click("h1")
    assert tip_of(page) is None


def test_histograms_show_counts_axis_numbers_and_nulls(browser, path, store):
    page = browser.page(path)
    for name, histogram in histograms(open_store(store)).items():
        counts, edges = histogram.bars()
        card = f"document.querySelector('.histogram[data-signal={name}]')"
        drawn = page.evaluate(f"{card}.querySelector('path').getAttribute('d')")
        heights = [float(h) for h in re.findall(r"v-([\d.]+)", drawn)]
        wanted = [max(1, 48 * c / counts.max()) for c in counts if c]
        assert heights == pytest.approx(wanted, abs=0.01)
        lines = page.evaluate(f"{card}.innerText").split("\n")
        assert lines[:3] == [name, f"{edges[0]:g}", f"{edges[-1]:g}"]
        assert f"tallest {counts.max()}" in lines and f"{histogram.nulls} null" in lines


def test_the_page_says_what_was_scored_and_which_signals_are_missing(browser, path, store):
    manifest = open_store(store).manifest
    page = browser.page(path)
    text = page.evaluate("document.body.innerText")
    pairs = "[...document.querySelectorAll('.facts div')].map((d) => [d.children[0].textContent, d.children[1].textContent])"
    check = manifest["self_check"]
    assert dict(page.evaluate(pairs)) == {
        "data": manifest["options"]["data"],
        "model": manifest["fingerprints"]["model"][:12],
        "spans": "window, length 4, stride 4",
        "replacement": "<|unk|> (token 3)",
        "engine": f"torch {torch.__version__}",
        "dtype": "float32",
        "recipe": "1 · learned_base",
        "rows": "3",
        "tokens": str(sum(len(row["tokens"]) for row in rows_of(store))),
        "self-check": f"ok: 3 rows scored again differ by at most {check['largest_nats']:.2g} nats (bound 0.0002)",
    }
    assert "not in this store; it comes with --set entropy_temperature" in text
    for name, signal in SIGNALS.items():
        assert name in text and signal.meaning in text


def _rgb(text):
    """`rgb(…)` or `color(srgb …)` of a computed style -> red, green, blue, alpha in 0..1."""
    values = [float(v) for v in re.findall(r"[\d.]+", text.replace("color(srgb", ""))]
    scale = 255 if text.startswith("rgb") else 1
    return np.array(values[:3]) / scale, values[3] if len(values) > 3 else 1.0


def _contrast(a, b):
    def light(c):
        return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_light_and_dark_can_both_be_read(browser, path):
    found = {}
    for dark in (False, True):
        page = browser.page(path, dark=dark)
        page.evaluate("document.querySelector('.t').style.setProperty('--v', 100)")
        card = _rgb(page.evaluate("getComputedStyle(document.querySelector('article')).backgroundColor"))[0]
        heat, alpha = _rgb(page.evaluate("getComputedStyle(document.querySelector('.t')).backgroundColor"))
        ink = _rgb(page.evaluate("getComputedStyle(document.querySelector('.t')).color"))[0]
        soft = _rgb(page.evaluate("getComputedStyle(document.querySelector('.prompt')).color"))[0]
        assert 0.8 < alpha < 0.9 and _contrast(ink, heat * alpha + card * (1 - alpha)) > 4.5
        assert _contrast(ink, card) > 7 and _contrast(soft, card) > 4.5
        found[dark] = card.mean()
    assert found[False] > 0.9 and found[True] < 0.2


def test_a_narrow_screen_scrolls_down_only_and_the_details_fit(browser, path, store):
    page = browser.page(path, size=(420, 800), fragment="signal=base_entropy")
    assert page.evaluate("document.documentElement.scrollWidth") == 420
    box = "((r) => [r.left, r.right])(document.querySelector('input:checked + label').getBoundingClientRect())"
    assert 0 < page.evaluate(box)[0] < page.evaluate(box)[1] < 420, "the name of the chosen signal is in sight"
    page.click(token(1, targets_of(rows_of(store)[1])[4]))
    left, right, bottom = page.evaluate("((r) => [r.left, r.right, r.bottom])(document.getElementById('tip').getBoundingClientRect())")
    assert left >= 0 and right <= 420 and bottom <= 800


def test_on_paper_it_is_light_and_has_no_controls(browser, path):
    page = browser.page(path, dark=True)
    page.emulate(dark=True, media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('.chips')).display") == "none"
    assert _rgb(page.evaluate("getComputedStyle(document.querySelector('.answer')).color"))[0].mean() < 0.2


def test_a_row_without_the_signal_is_left_unshaded(browser, store, tmp_path):
    rows = rows_of(store)
    for name in ("delta", "delta_span", "importance"):
        rows[1][name] = [None] * len(rows[1]["tokens"])
    write_heatmap(tmp_path / "page.html", open_store(store), rows, "delta")
    page = browser.page(tmp_path / "page.html")
    assert (
        page.evaluate("[...document.querySelectorAll('article:nth-of-type(2) .t')].some((e) => e.style.getPropertyValue('--v'))") is False
    )
    page.hover(token(1, targets_of(rows[1])[2]))
    assert "No masked span counts" in tip_of(page) and "null" in tip_of(page) and page.errors() == []
    page.evaluate("document.querySelector('#signal-entropy').click()")
    assert page.evaluate("document.querySelectorAll('article:nth-of-type(2) .t[style*=\"--v\"]').length") == len(targets_of(rows[1]))


def test_every_span_and_the_likeliest_tokens_where_the_store_holds_them(browser, store, tmp_path):
    rows = rows_of(store)
    row, i = rows[2], targets_of(rows[2])[2]
    row["span_deltas"] = [[None if s == 1 else 0.5 - s for _ in row["tokens"]] for s in range(len(row["spans"]))]
    row["top_ids"] = [[row["input_ids"][i], 10**6]] * len(row["tokens"])
    row["top_logprobs"] = [[math.log(0.75), math.log(0.125)]] * len(row["tokens"])
    write_heatmap(tmp_path / "page.html", open_store(store), rows, "delta")
    page = browser.page(tmp_path / "page.html")
    page.hover(token(2, i))
    assert f"Likeliest here: “{visible(row['tokens'][i])}” 0.750, token 1000000 0.125" in tip_of(page)
    texts = [visible("".join(row["tokens"][s["start"] : s["end"]])) for s in row["spans"]]
    order = sorted((s for s in range(len(texts)) if s != 1), key=lambda s: -abs(0.5 - s))
    wanted = ", ".join(f"“{texts[s]}” {0.5 - s:+g}".replace("-", "−") for s in order[:6])
    assert wanted in page.evaluate("document.querySelector('.tip .each').textContent").replace("-", "−")


def test_a_page_grows_by_a_few_hundred_bytes_a_target_token(path, store, tmp_path):
    write_heatmap(tmp_path / "many.html", open_store(store), rows_of(store) * 20, "importance")
    targets = 19 * sum(len(targets_of(row)) for row in rows_of(store))
    assert ((tmp_path / "many.html").stat().st_size - path.stat().st_size) / targets < 300


@pytest.mark.parametrize(("recipe", "said"), [
    ("", r"what training pushes by default, importance 0\.\d+ or more, and of each answer at least one word"),
    ("alpha=1", r"what training pushes by default, the highest 30% of an answer"),
])  # fmt: skip
def test_the_legend_says_what_is_underlined(store, tmp_path, recipe, said):
    copy = shutil.copytree(store, tmp_path / "store")
    if recipe:
        apply_recipe(open_store(copy), Recipe(alpha=1.0).imported())
    write_heatmap(page := tmp_path / "page.html", open_store(copy), rows_of(copy), "importance")
    text = page.read_text(encoding="utf-8")
    assert re.search(rf'data-signal="importance">{said}</span>', text)
    assert 'data-signal="entropy" hidden>the highest 30% of an answer</span>' in text
