"""tu-score inspect as text: which tokens it names, and the pass over a whole store behind `--top` and the
histograms."""

import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.store.scores import open_store
from tu_score import survey
from tu_score.shading import SIGNALS, held_signals, spread_rows
from tu_score.survey import BINS, Histogram, histograms, top_tokens

DATA = "atlas:forget:people=4,facts_per_person=3,forget_people=2,holdout_people=1"
STORED = [name for name in SIGNALS if name != "tempered_entropy"]


@pytest.fixture(scope="module")
def store(tmp_path_factory, tiny_model, tiny_base):
    return _score(tmp_path_factory.mktemp("inspect") / "store", model=str(tiny_model), base_model=str(tiny_base), spans="window")


@pytest.fixture(scope="module")
def bare(tmp_path_factory, tiny_model):
    """Without spans and base model, and with a recipe of spans: only entropy and logprob hold values."""
    return _score(tmp_path_factory.mktemp("inspect") / "bare", model=str(tiny_model), spans="none", alpha=1.0)


def _score(out, **options):
    from tu_score.config import ScoreConfig
    from tu_score.run import run_score

    return run_score(ScoreConfig(out=str(out), **{"data": DATA, "part_tokens": 200, **options}))


def every_target(folder, name):
    """(value, example, text) of every target token with a value, in the order of the store, read by pandas."""
    found = []
    for row in pd.read_parquet(folder).to_dict("records"):
        for i, target in enumerate(row["is_target"]):
            value = float(row["logprob"][i]) - float(row["base_logprob"][i]) if name == "gain" else float(row[name][i])
            if target and not np.isnan(value):
                found.append((value, row["example_id"], row["tokens"][i]))
    return found


def one_line(code, err):
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("name", STORED)
def test_top_lists_the_largest_tokens_of_the_whole_store(run_cli, store, name):
    assert len(open_store(store).manifest["parts"]) > 1
    code, out, _ = run_cli("tu-score", "inspect", store, "--top", 7, "--signal", name)
    size = abs if SIGNALS[name].signed else float
    expected = sorted(every_target(store, name), key=lambda found: -size(found[0]))[:7]
    lines = out.splitlines()
    assert code == 0 and len(lines) == 7 and "\x1b" not in out
    for line, (value, example, text) in zip(lines, expected, strict=True):
        assert line.split()[:2] == [f"{value:{'+' if SIGNALS[name].signed else ''}.4f}", example]
        assert f"[{text}]".replace("\n", "⏎") in line


def test_top_shows_what_stands_around_the_token(run_cli, store):
    line = run_cli("tu-score", "inspect", store, "--top", 1, "--signal", "entropy")[1]
    before, token, after = re.fullmatch(r"\S+ +\S+ +(.+?)\[(.*?)\](.*)\n", line).groups()
    _, example, _ = max(every_target(store, "entropy"))
    row = next(r for r in open_store(store).rows() if r["example_id"] == example)
    assert (before.lstrip("…") + token + after.rstrip("…")).replace("⏎", "\n") in "".join(row["tokens"])


def test_top_of_more_than_there_are_lists_them_all(store):
    assert len(top_tokens(open_store(store), "delta", 10**6)) == len(every_target(store, "delta"))


class Crafted:
    """In the place of a store: parts made by hand."""

    optional = ()

    def __init__(self, *parts):
        self.parts = parts

    def batches(self, columns):
        return (part.select(columns) for part in self.parts)


def test_equal_values_go_to_the_earlier_token():
    def table(rows, values):
        n = len(values[0])
        columns = {"example_id": rows, "tokens": [list("abcdefgh")[:n]] * len(rows), "is_target": [[True] * n] * len(rows), "delta": values}
        return pa.table(columns)

    store = Crafted(table(["p", "q"], [[1.0, None, -3.0], [3.0, 0.5, 3.0]]), table(["r"], [[-3.0, 4.0, 3.0]]))
    chosen = [(t.example, t.text, t.value) for t in top_tokens(store, "delta", 4)]
    assert chosen == [("r", "b", 4.0), ("p", "c", -3.0), ("q", "a", 3.0), ("q", "c", 3.0)]
    assert [t.value for t in top_tokens(store, "delta", 9)][-3:] == [3.0, 1.0, 0.5]


def test_one_example_with_its_strongest_tokens_in_brackets(run_cli, store):
    row = list(open_store(store).rows())[3]
    code, out, _ = run_cli("tu-score", "inspect", store, "--example", row["example_id"], "--signal", "delta")
    at = [i for i, target in enumerate(row["is_target"]) if target]
    order = sorted(at, key=lambda i: (-abs(row["delta"][i]), i))[: int(np.ceil(0.3 * len(at)))]
    shown = [f"[{t}]" if i in order else t for i, t in enumerate(row["tokens"])]
    assert code == 0 and "".join(shown).replace("\n", "⏎\n") in out
    assert out.startswith(row["example_id"]) and "\x1b" not in out and "delta" in out.splitlines()[-1]


def test_rows_says_how_many(run_cli, store):
    ids = [r["example_id"] for r in open_store(store).rows()]
    out = run_cli("tu-score", "inspect", store, "--rows", 2)[1]
    assert [i for i in ids if re.search(rf"^{re.escape(i)} +answer", out, re.M)] == ids[:2]


@pytest.mark.parametrize(
    ("signal", "option"),
    [
        ("delta", "--spans"),
        ("importance", "--spans"),
        ("gain", "--base-model"),
        ("base_entropy", "--base-model"),
        ("tempered_entropy", "--set entropy_temperature=2"),
    ],
)
@pytest.mark.parametrize("how", [(), ("--top", "3"), ("--html", "page.html")])
def test_a_signal_that_the_store_lacks_names_the_option_that_adds_it(run_cli, bare, tmp_path, monkeypatch, signal, option, how):
    monkeypatch.chdir(tmp_path)
    line = one_line(*run_cli("tu-score", "inspect", bare, "--signal", signal, *how)[::2])
    assert f"no {signal}" in line and option in line and not list(tmp_path.iterdir())


def test_flags_that_do_not_fit_are_refused_in_one_line(run_cli, store, tmp_path):
    def line(*arguments):
        return one_line(*run_cli("tu-score", "inspect", store, *arguments)[::2])

    assert "did you mean 'entropy'" in line("--signal", "entropi")
    assert "no example 'x'" in line("--example", "x")
    assert "--rows is 0" in line("--rows", 0)
    assert "--top is 0" in line("--top", 0)
    for other in (("--example", "x"), ("--html", tmp_path / "p.html")):
        assert "leave out --example and --html" in line("--top", 3, *other)
    for path in (tmp_path / "no" / "p.html", tmp_path, "/proc/p.html"):
        assert f"--html {path}" in line("--html", path)
    assert not list(tmp_path.iterdir())


@settings(deadline=None, max_examples=60)
@given(
    parts=st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from([1e-7, 1e-3, 1.0, 50.0]), st.sampled_from([-1.0, 0.0, 3.0]), st.integers(0, 3)),
        min_size=1, max_size=6,
    ),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_histogram_counts_are_those_of_numpy_over_all_parts(parts, seed):
    generator, whole, histogram = np.random.default_rng(seed), [], Histogram()
    for number, scale, shift, nulls in parts:
        values = generator.normal(shift, scale, number).astype(np.float32).astype(np.float64)
        values = np.concatenate([values, np.round(values[: number // 2]), np.full(nulls, np.nan)])
        histogram.add(values)
        whole.append(values)
    values = np.concatenate(whole)
    there = values[~np.isnan(values)]
    assert (histogram.nulls, histogram.number) == (len(values) - len(there), len(there))
    if not len(there):
        return
    counts, edges = histogram.bars()
    assert len(counts) <= BINS and counts.tolist() == np.histogram(there, edges)[0].tolist() and counts.sum() == len(there)
    assert np.log2(np.diff(edges)).tolist() == [np.log2(histogram.width)] * len(counts) and np.log2(histogram.width) % 1 == 0
    assert histogram.mean == pytest.approx(there.mean()) and (histogram.low, histogram.high) == (there.min(), there.max())
    assert histogram.width <= 2.0**-20 or len(counts) > BINS / 2 - 2, "no coarser than it must be"


def test_histograms_of_a_store_are_of_its_target_tokens(store, bare):
    found = histograms(open_store(store))
    assert list(found) == STORED == held_signals(list(next(open_store(store).rows())))
    for name, histogram in found.items():
        values = [v for v, _, _ in every_target(store, name)]
        counts, edges = histogram.bars()
        assert counts.tolist() == np.histogram(values, edges)[0].tolist() and histogram.number == len(values)
    targets = sum(sum(r["is_target"]) for r in open_store(bare).rows())
    empty = histograms(open_store(bare))["delta"]
    assert (empty.number, empty.nulls) == (0, targets)


@pytest.mark.parametrize("flag", ["--rows", "--top"])
@pytest.mark.parametrize("number", ["0", "99999999999999999999999999"])
def test_numbers_of_rows_and_tokens_out_of_range_are_one_line(run_cli, store, flag, number):
    code, _, err = run_cli("tu-score", "inspect", store, flag, number)
    assert code == 2 and f"{flag} is " in err and len(err.strip().splitlines()) == 1


# --- large stores


def facts_of(page) -> dict[str, str]:
    return dict(re.findall(r"<div><dt>(.*?)</dt> ?<dd>(.*?)</dd></div>", page.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def large(tmp_path_factory, tiny_model):
    """Of 24 Chinese rows in more than 10 parts; large where LARGE says so."""
    data = "atlas:full:people=8,facts_per_person=3,forget_people=2,language=zh"
    return _score(tmp_path_factory.mktemp("large") / "store", model=str(tiny_model), data=data, part_tokens=150)


def test_the_page_of_a_large_store_shows_a_stated_sample_and_the_same_each_time(run_cli, large, tmp_path, monkeypatch):
    store = open_store(large)
    parts, tokens = store.manifest["parts"], store.manifest["tokens"]
    assert len(parts) > 10
    whole, page, again = tmp_path / "whole.html", tmp_path / "page.html", tmp_path / "again.html"
    assert run_cli("tu-score", "inspect", large, "--html", whole, "--rows", 4, "--signal", "entropy")[0] == 0
    assert {"histograms", "shown"}.isdisjoint(facts_of(whole))
    monkeypatch.setattr(survey, "LARGE", tokens // 3)
    chosen = survey.drawn_parts(store)
    assert chosen[0] == 0 and chosen[-1] == len(parts) - 1 and len(parts) // 3 - 1 <= len(chosen) <= len(parts) // 3 + 1
    for path in (page, again):
        assert run_cli("tu-score", "inspect", large, "--html", path, "--rows", 4, "--signal", "entropy")[0] == 0
    assert page.read_bytes() == again.read_bytes()
    counted = sum(parts[index]["rows"] for index in chosen)
    assert facts_of(page)["histograms"] == f"{counted} of 24 rows, drawn evenly" and facts_of(page)["shown"] == "4 of 24 rows, drawn evenly"
    ids = [row["example_id"] for row in store.rows()]
    text = page.read_text(encoding="utf-8")
    assert f"<h2>Target tokens of {counted} of 24 rows, drawn evenly: how" in text and "Target tokens of the whole" in whole.read_text()
    assert re.findall(r"<h3.*?>([^<]*)</a>", text) == [ids[i] for i in (0, 7, 15, 23)]
    values = [v for index in chosen for row in store.part(index) for v, t in zip(row["entropy"], row["is_target"], strict=True) if t]
    found = histograms(store, chosen)["entropy"]
    assert (found.number, found.high) == (len(values), max(values)) and f"{len(values):,}" in text
    code, _, _ = run_cli("tu-score", "inspect", large, "--html", page, "--example", ids[5], "--signal", "entropy")
    assert code == 0 and "shown" not in facts_of(page) and "histograms" in facts_of(page)


def test_rows_drawn_evenly_are_those_of_a_list(large):
    store = open_store(large)
    ids = [row["example_id"] for row in store.rows()]
    for count in (1, 2, 7, 23, 24, 100):
        wanted = sorted({int(i) for i in np.linspace(0, 23, count)})
        assert [row["example_id"] for row in spread_rows(store, count)] == [ids[i] for i in wanted]


def test_an_example_that_is_not_there_is_looked_for_part_by_part(run_cli, large):
    ids = [row["example_id"] for row in open_store(large).rows()]
    assert f"did you mean '{ids[7]}'?" in one_line(*run_cli("tu-score", "inspect", large, "--example", ids[7] + "~")[::2])
    assert f"(ids run from {ids[0]} to {ids[-1]})" in one_line(*run_cli("tu-score", "inspect", large, "--example", "~~")[::2])
