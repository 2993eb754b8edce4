"""Tables of the learned importance: what is compared with what, and what is left out."""

import csv
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.learning import found, shares
from benchmarks.study import learned, plots, results, tables
from benchmarks.study.candidates import thresholds
from benchmarks.study.results import DEFAULT, TRIED, Study
from benchmarks.study.runs import lacks


def run(source: str, tokens: str, seed: int, kept: float, **more) -> dict:
    given = {"method": "npo", "source": source, "tokens": tokens, "seed": seed, "keep": None, "auto": False, "steps": 10.0, "reached": True}
    return {**given, "retain_nll": -math.log(kept), **more}


RUNS = [
    run("all", "all", 0, 0.4), run("all", "all", 1, 0.6), run("given", "given", 0, 0.8), run("given", "given", 1, 0.8),
    run(DEFAULT, "hard", 0, 0.5, keep=TRIED), run("learned", "hard", 0, 0.7, auto=True), run("learned", "hard", 1, 0.8, auto=True),
    run("learned", "hard", 0, 0.1, keep=0.1), run("learned", "hard", 2, 0.2, auto=True, reached=False),
]  # fmt: skip


def rows_of(table: str) -> list[dict[str, str]]:
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_what_is_kept_and_how_much_of_the_way_that_is():
    (row,) = rows_of(learned.kept({"learned-atlas": Study(RUNS, {})}))
    assert row["World"] == "atlas" and row["all; steps"].startswith("0.500 [") and row["learned, auto; steps"].startswith("0.750 [")
    assert row["random 30 %; steps"] == row["learned, soft; steps"] == "" and row["learned − random 30 %"] == row["soft − auto"] == "—"
    assert row["learned − all"].startswith("0.250 [") and row["learned − before, 30 %"] == "0.200"
    assert row["recovered, learned, auto"] == f"{100 * (0.3 + 0.2) / (0.4 + 0.2):.0f} %" == "83 %"
    assert row["recovered, before, 30 %"] == f"{100 * 0.1 / 0.4:.0f} %" == "25 %"


def test_the_short_table_counts_the_seeds_that_came_to_the_level():
    random = [run("random", "random", seed, 0.3, keep=TRIED, reached=seed > 0) for seed in range(3)]
    other = [{**one, "method": "kl"} for one in RUNS if one["source"] != "all"]
    (row,) = rows_of(learned.in_short({"learned-atlas": Study([*RUNS, *random, *other], {})}))
    assert (row["World"], row["Method"]) == ("atlas", "npo"), "without all tokens there is nothing to compare with"
    assert [row[title] for title in ("all", "random", "learned", "given")] == [
        "0.500 (2)", "0.300 (2)", "0.750 (2)", "0.800 (2)"
    ]  # fmt: skip
    assert row["learned − all"].startswith("0.250 [") and row["recovered"] == "83 %"
    (row,) = rows_of(learned.in_short({"learned-tofu": Study([one for one in RUNS if one["source"] != "given"], {})}))
    assert row["learned"] == row["given"] == row["recovered"] == "—", "no model utility was measured"


def test_every_run_is_a_line_of_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    worlds = {
        "learned-lume": [{**one, "curve": [], "suite_x": None} for one in RUNS[:3]],
        "atlas": [{**RUNS[0], "curve": [1], "after": 0.5}],
    }
    for name, runs in worlds.items():
        pq.write_table(pa.Table.from_pylist([{**one, "world": name} for one in runs]), tmp_path / f"{name}.parquet")
    results.write_runs(tmp_path / "runs.csv")
    lines = list(csv.DictReader((tmp_path / "runs.csv").open(encoding="utf-8")))
    assert [(line["world"], line["source"], line["seed"], line["after"]) for line in lines] == [
        ("atlas", "all", "0", "0.5"), ("learned-lume", "all", "0", ""), ("learned-lume", "all", "1", ""), ("learned-lume", "given", "0", "")
    ]  # fmt: skip
    assert float(lines[1]["retain_nll"]) == RUNS[0]["retain_nll"] and "curve" not in lines[0] and lines[1]["suite_x"] == ""


def test_f1_at_the_threshold_of_largest_expected_f1_and_at_fixed_shares():
    values, true = np.array([0.05, 0.2, 0.35, 0.4, 0.9, 0.95], dtype=np.float32), np.array([0, 0, 1, 0, 1, 1], dtype=bool)
    best = max(values, key=lambda t: 2 * values[values >= t].sum() / ((values >= t).sum() + values.sum()))
    own = shares.by_share(values, true, np.array([0, 4, 6]), np.arange(6.0))
    assert own["auto"] == (values >= best).mean() == 3 / 6 and own["true"] == 0.5 and own["f1_auto"] == pytest.approx(2 * 2 / (3 + 3))
    # of two answers of 4 and 2 tokens a tenth is one token of each, 0.4 and 0.95; a half is 0.4 and 0.35, and 0.95
    assert own["f1_keep_0.1"] == pytest.approx(2 * 1 / (2 + 3)) and own["f1_keep_0.5"] == pytest.approx(2 * 2 / (3 + 3))
    found = thresholds(values, true)
    assert found["share_0.5"] == 2 / 6 and found["f1_0.5"] == pytest.approx(2 * 2 / (2 + 3))


def test_a_fixed_share_takes_whole_words_of_each_answer():
    values = np.array([0.9, 0.9, 0.8, 0.1, 0.2, 0.7, 0.6], dtype=np.float32)
    word, starts = np.array([0, 0, 1, np.nan, 2, 0, 1]), np.array([0, 5, 7])
    taken = {share: shares.taken(values, starts, word, share).astype(int).tolist() for share in (0.2, 0.4, 0.6)}
    assert taken == {
        0.2: [1, 1, 0, 0, 0, 1, 0],  # the first word is taken though it has two tokens and one is asked for
        0.4: [1, 1, 0, 0, 0, 1, 0],
        0.6: [1, 1, 1, 0, 0, 1, 1],
    }


def test_shares_stand_in_one_table_with_the_largest_f1_in_bold(tmp_path):
    figures = {"true": 0.25, "auto": 0.2, **dict.fromkeys(shares.F1, 0.5), "f1_auto": 0.75}
    shares.write({"prose": figures}, tmp_path / "shares.csv")
    studies = {"learned-atlas": Study([], {"agreement": {"learned": {**figures, "f1_keep_0.7": 0.8}}}), "learned-lume": Study([], {})}
    first, second, mean = rows_of(shares.table(shares.read(tmp_path / "shares.csv") | learned.importance_by_share(studies)))
    assert list(first.values()) == ["prose", "0.25", "0.20", "**0.75**", *["0.50"] * len(shares.FIXED)]
    assert second["world"] == "atlas" and (second["F1 of auto"], second["70 %"]) == ("0.75", "**0.80**")
    assert (mean["world"], mean["F1 of auto"], mean["10 %"], mean["70 %"]) == ("mean", "**0.75**", "0.50", "0.65")


def test_levels_and_how_well_facts_are_found_stand_by_world():
    learned_one = {"per_answer_auc": 0.9, "true": 0.25, "auto": 0.2}
    agreement = {"learned": learned_one, DEFAULT: {"per_answer_auc": 0.8}, "paper": {"per_answer_auc": 0.4}}
    about = {"world": {"start_nll": -math.log(0.75), "level_nll": -math.log(0.0123)}, "agreement": agreement}
    worlds = {
        "learned-tofu": Study(RUNS, {**about, "ends": {"target": {"model_utility": 0.7}}}),
        "learned-lume": Study([], {"world": about["world"]}),
    }
    first, second = rows_of(learned.levels(worlds))
    assert list(first.values()) == ["tofu", "0.75", "0.012", "0.700", "0.900", "0.800", "0.400", "0.25", "0.20", str(len(RUNS))]
    assert list(second.values()) == ["lume", "0.75", "0.012", *["—"] * 6, "0"]


def test_one_command_makes_the_pages_and_the_file_of_runs_from_the_committed_results(tmp_path, monkeypatch):
    docs = Path(__file__).parents[2] / "docs"
    pages = [*docs.glob("attribution*.md"), *docs.glob("attribution/*.md")]
    for page in pages:
        (tmp_path / page.relative_to(docs)).parent.mkdir(exist_ok=True)
        emptied = re.sub(r"(?s)(<!-- ([a-z][\w-]*) -->).*?(<!-- /\2 -->)", r"\1\n\3", page.read_text(encoding="utf-8"))
        (tmp_path / page.relative_to(docs)).write_text(emptied, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["tables", "--docs", str(tmp_path), "--runs", str(tmp_path / "runs.csv")])
    tables.main()
    for page in pages:
        assert (tmp_path / page.relative_to(docs)).read_text(encoding="utf-8") == page.read_text(encoding="utf-8"), page.name
    assert (tmp_path / "runs.csv").read_bytes() == (results.RESULTS / "runs.csv").read_bytes()
    assert {path.name for path in tmp_path.glob("*.png")} == {path.name for path in docs.glob("attribution-*.png")}


def test_what_came_back_stands_beside_the_models_that_no_run_changed():
    after = {f"after_{name}": 0.1 * k for k, name in enumerate(learned.BACK)}
    runs = [{**one, **after} if one["source"] == "learned" else one for one in RUNS]
    ends = {"target": {f"after_{name}": 0.9 for name in learned.BACK}, "retain": {}}
    first, second = rows_of(learned.came_back({"learned-tofu": Study(runs, {"ends": ends})}))
    assert first["tokens"] == "target model" and first["facts, untouched"] == "0.900"
    assert second["tokens"] == "learned, auto" and [second[title] for title in learned.BACK.values()] == [
        f"{0.1 * k:.3f}" for k in range(6)
    ]
    assert learned.came_back({"learned-tofu": Study(RUNS, {})}) == "Not run yet."


def test_plans_say_what_is_left_and_how_long_it_takes():
    known = {"temperature": None, "world": "learned-atlas", "seconds": 1800.0}
    done = [{**known, **one} for one in RUNS]
    done[0] |= {"suite_model_utility": 0.5, "after_facts": None}
    asked = [{**done[0], "evaluate": True}, {**done[1], "attack": True}, {**done[0], "seed": 7}, {**done[1], "method": "graddiff"}]
    jobs = [learned.as_job(one) for one in asked]
    first, second = rows_of(learned.plans({"learned-atlas": jobs, "learned-lume": jobs}, {"learned-atlas": Study(done, {})}))
    assert list(first.values()) == ["atlas", "4", "2", "1", "4.5", "1.5"]
    assert list(second.values()) == ["lume", "4", "0", "0", "0.0", "not known"]
    assert lacks({**done[0], "reached": True}, replace(jobs[0], attack=True)) and not lacks(done[0], jobs[0])
    assert not lacks({"reached": False}, replace(jobs[0], attack=True)), "what never came to the level is not attacked"
    planned = learned.planned()
    assert set(planned) == set(learned.WORLDS) and all(planned.values())


def test_the_picture_has_a_panel_a_world(tmp_path):
    found = learned.points({"learned-atlas": Study(RUNS, {})})
    assert found == {"atlas": {"npo": {
        "all": pytest.approx([0.4, 0.6]), "before, 30 %": pytest.approx([0.5]), "learned, auto": pytest.approx([0.7, 0.8]),
        "given (the facts)": pytest.approx([0.8, 0.8])}}}  # fmt: skip
    assert set(learned.CHOICES) == set(plots.TOKENS)
    plots.kept(found, tmp_path / "kept.png")
    assert (tmp_path / "kept.png").stat().st_size > 5000


def test_what_was_found_is_read_as_it_was_written(tmp_path):
    figures = dict(zip(found.COLUMNS, (40, 0.5, 0.25, 0.125, 0.5, 0.75, 0.0625), strict=True))
    found.write({"learned_base": {"LUME, forget": figures}}, tmp_path / "found.csv")
    assert found.read(tmp_path / "found.csv") == {"learned_base": {"LUME, forget": {**figures, "true": 0.12, "off": 0.06}}}
    (row,) = rows_of(found.table("learned_base", {"LUME, forget": figures}))
    assert row["learned_base"] == "LUME, forget" and row["ROC-AUC"] == "0.500" and row["answers"] == "40"
    assert found.read().keys() == {"learned_base", "learned_alone", "learned_text"}
