"""The study's own pieces: the runs a file asks for, sources that need one store alone, what is stored of them, its
tables."""

import json
import math
import shutil
from dataclasses import replace
from itertools import pairwise, product
from statistics import harmonic_mean

import numpy as np
import pytest
import torch

from benchmarks.study import runs
from benchmarks.study.after import NUMBERS, attacked
from benchmarks.study.candidates import OTHERS, RECIPES, Context, _put, agreement, compared, write_stores
from benchmarks.study.gate import gate_values
from benchmarks.study.matched import UTILITY, at_level, rest_of_utility, retain_utility, weights_on_tofu
from benchmarks.study.plan import Job, World, read_study
from benchmarks.study.prepare import Made, beside, probes_of, spec_of, suite_of
from benchmarks.study.results import DEFAULT, TRIED, Study, paired
from benchmarks.study.tables import recovered
from shared.data.datasets import load_rows
from shared.data.examples import answer_span_tokens
from shared.data.words import vocabulary
from shared.errors import ConfigError
from shared.lm.models import load_tokenizer, locate
from shared.store.scored import scored_examples
from shared.store.scores import open_store
from tu_eval.suites.suites import find_suite
from tu_score.config import ScoreConfig
from tu_score.recipe import whole_targets
from tu_score.run import run_score

WORLD = "people=4,facts_per_person=3,forget_people=2,holdout_people=1"
FORGET, RETAIN = f"atlas:forget:{WORLD}", f"atlas:retain:{WORLD}"
ELSEWHERE = {"windows", "entities", "entities-copy-aware", "masking-of-base", "masking-of-base-phrase", "earlier-answer",
             "earlier-answer-phrase", "conflict", "gate", "gate-phrase"}  # fmt: skip
"""candidates that score or train again"""
OWN = [*RECIPES, *(name for name in OTHERS if name not in ELSEWHERE)]

STUDY = """
name = "w"
learn = "a:l"
retain = "a:r"
forget = "a:f"
[methods]
npo = ["--learning-rate", "1e-4"]
graddiff = []
[[runs]]
method = ["npo", "graddiff"]
source = ["all", "random", "given", "entropy"]
tokens = ["hard", "soft"]
keep = [0.2, 0.3]
temperature = [0.5]
seed = [0, 1]
[[runs]]
method = ["npo"]
source = ["entropy"]
keep = [0.2]
seed = [1, 2]
"""


def write(path, text):
    path.write_text(text)
    return path


def test_a_study_is_the_product_of_its_lists(tmp_path):
    world, methods, jobs = read_study(write(tmp_path / "s.toml", STUDY))
    assert world == World(name="w", learn="a:l", retain="a:r", forget="a:f")
    assert methods == {"npo": ["--learning-rate", "1e-4"], "graddiff": []}
    how = {("all", "all", None, None), ("given", "given", None, None), ("entropy", "soft", None, 0.5)}
    how |= {(s, t, keep, None) for s, t in (("random", "random"), ("entropy", "hard")) for keep in (0.2, 0.3)}
    expected = {(seed, method, *rest) for seed, method, rest in product((0, 1), ("npo", "graddiff"), how)} | {
        (2, "npo", "entropy", "hard", 0.2, None)
    }
    found = [(j.seed, j.method, j.source, j.tokens, j.keep, j.temperature) for j in jobs]
    assert set(found) == expected and len(found) == len(expected), "a run that two tables ask for is one run"
    assert len({job.key for job in jobs}) == len(jobs)
    assert all("/" not in job.key and " " not in job.key for job in jobs)
    one = next(j for j in jobs if (j.source, j.tokens, j.keep, j.seed, j.method) == ("entropy", "hard", 0.2, 2, "npo"))
    assert one.flags() == ["--tokens", "hard", "--seed", "2", "--keep", "0.2", "--set", "whole_words=false"]


@pytest.mark.parametrize(("before", "after", "expected"), [
    ("keep = [0.2, 0.3]", "keeps = [0.2]", "runs have no 'keeps'"),
    ('learn = "a:l"', 'lern = "a:l"', "unknown field 'lern' (did you mean 'learn'?)"),
    ("graddiff = []", "", "no flags for method graddiff"),
    ("name = ", "name ", "not valid TOML"),
])  # fmt: skip
def test_a_study_with_a_mistake_is_refused_by_name(before, after, expected, tmp_path):
    path = write(tmp_path / "s.toml", STUDY.replace(before, after, 1))
    with pytest.raises(ConfigError) as raised:
        read_study(path)
    assert str(path) in str(raised.value) and expected in str(raised.value)


@pytest.fixture(scope="module")
def made(tiny_model, tiny_base, tmp_path_factory) -> Made:
    """A world of tiny models: its store only, in several parts."""
    work = tmp_path_factory.mktemp("study")
    config = ScoreConfig(
        model=str(tiny_model), base_model=str(tiny_base), data=FORGET, out=str(work / "scores"), engine="torch", device="cpu",
        spans="question", part_tokens=200, entropy_temperature=2.0,
    )  # fmt: skip
    run_score(config)
    folder = work / "world"
    (folder / "stores").mkdir(parents=True)
    return Made(World(name="world"), folder, "", RETAIN, FORGET, str(tiny_model), "", work / "scores", 1.0, None)


def at_targets(folder, name: str) -> list[float | None]:
    return [v for row in open_store(folder).rows() for v, t in zip(row[name], row["is_target"], strict=True) if t]


def test_every_source_of_the_own_store_gives_each_target_token_a_number(made):
    assert set(OTHERS) >= ELSEWHERE and len(open_store(made.scores).manifest["parts"]) > 1
    write_stores(made, OWN)
    count, seen = len(at_targets(made.scores, "entropy")), set()
    for name in OWN:
        values = at_targets(made.folder / "stores" / name, "importance")
        assert len(values) == count and all(v is not None and 0 <= v <= 1 for v in values), name
        assert max(v for v in values if v is not None) > 0, name
        seen.add(tuple(values))
    assert len(seen) >= len(OWN) - 2, "the sources are hardly different"
    assert not [p for p in (made.folder / "stores").iterdir() if p.name.startswith(".")]


def test_the_default_that_of_before_and_the_papers_are_compared_with_the_facts_in_every_study(made, tmp_path):
    assert compared(made, ["all", "gain", "learned", "gain"]) == ["gain", "learned", "base-entropy", "paper"]
    unmasked = ScoreConfig(model=made.target, data=FORGET, out=str(tmp_path / "scores"), engine="torch", device="cpu", spans="none")
    run_score(unmasked)
    assert compared(replace(made, scores=tmp_path / "scores"), ["given"]) == ["learned", "base-entropy"], "no masked run, no paper's"
    assert compared(replace(made, world=replace(made.world, candidates=True)), []) == [*RECIPES, *OTHERS]
    found = agreement(replace(made, world=replace(made.world, facts="fact_spans")), ["learned", "paper"])
    assert found["learned"]["true"] == found["paper"]["true"] and 0 < found["learned"]["f1_keep_0.3"] < 1


def test_what_attacks_get_is_measured_on_the_facts_of_the_forget_set(made, tmp_path):
    world = replace(made.world, attacking=("--limit", "5"))
    asked = replace(made, world=world, folder=tmp_path, probes=f"atlas:{WORLD}")
    found = attacked(asked, str(made.target), "one", tmp_path / "log")
    assert set(found) == set(NUMBERS) and all(0 <= value <= 1 for value in found.values())
    store, tokenizer = open_store(made.scores), load_tokenizer(locate(str(made.target)))
    expected = []
    examples = scored_examples(store, tokenizer, str(made.target), FORGET)
    for example, row in list(zip(examples, store.rows(("logprob",)), strict=True))[:5]:
        at = answer_span_tokens(example, tokenizer, example.row.extra["fact_spans"])
        expected.append(math.exp(sum(row["logprob"][i] for i in at) / len(at)))
    assert found["facts"] == pytest.approx(sum(expected) / 5, rel=1e-4)
    assert found["relearned_shown"] > found["facts"], "twenty steps on these rows teach something"
    assert found == attacked(asked, str(made.target), "one", tmp_path / "log")
    assert [p.name for p in (tmp_path / "attacked").iterdir()] == ["one"]


def test_rows_that_are_cut_out_keep_the_facts_that_they_mark(tmp_path):
    cut = {"data": FORGET, "learn": [0, 3], "retain": [1, 3], "forget": [0, 1]}
    world = World(name="w", facts="fact_spans", cut=cut)
    marked = [row.extra["fact_spans"] for row in load_rows(FORGET)]
    assert [row.extra["fact_spans"] for row in load_rows(spec_of(world, "retain", tmp_path))] == marked[1:3]
    spec_of(world, "forget", tmp_path)
    probes = find_suite(probes_of(world, tmp_path))
    assert [(s.name, s.facts, len(load_rows(s.data))) for s in probes.sets] == [("forget", True, 1), ("retain", False, 2)]
    assert suite_of(world, tmp_path, "") is None and probes_of(World(name="w", suite="atlas"), tmp_path) == "atlas"


def test_the_gate_is_read_as_it_stood_with_its_model(made):
    from transformers import AutoModelForCausalLM

    values = gate_values(made)
    out = made.folder / "models" / "gate"
    gate = torch.tensor(json.loads((out / "method.json").read_text())["gate"])
    model, expected = AutoModelForCausalLM.from_pretrained(out), []
    for row in open_store(made.scores).rows():
        hidden = model(torch.tensor([row["input_ids"]]), output_hidden_states=True).hidden_states[-1][0]
        own = [t for t, is_target in enumerate(row["is_target"]) if is_target]
        expected += [torch.sigmoid(gate[:-1] @ hidden[t - 1] + gate[-1]).item() for t in own]
    assert values == pytest.approx(np.array(expected), abs=1e-5) and np.ptp(values) > 1e-4


def test_rarity_is_the_share_of_retain_answers_that_hold_the_word(made):
    context, retain = Context(made), [vocabulary(row.answer) for row in load_rows(RETAIN)]
    expected = [-math.log((sum(w in words for words in retain) + 1) / (len(retain) + 1)) if w else 0.0 for w in context.texts]
    assert context.rarity == pytest.approx(expected) and len(set(expected)) > 2
    known = set().union(*(vocabulary(row.answer) for row in load_rows(FORGET)))
    assert {w for w in context.texts if w} == known
    between = np.isnan(context.own.columns["word"])
    assert [not w for w in context.texts] == between.tolist() and between.any()


def test_what_is_put_into_a_store_is_what_it_holds(made, tmp_path):
    folder = shutil.copytree(made.scores, tmp_path / "store")
    before, own = open_store(folder), whole_targets(open_store(folder), ["entropy"])
    assert own.columns["entropy"].tolist() == at_targets(folder, "entropy")
    rows = [sum(row["is_target"]) for row in before.rows()]
    assert [b - a for a, b in pairwise(own.starts)] == rows
    values = np.random.default_rng(0).random(own.starts[-1])
    old = list(before.batches())
    _put(before, values)
    after = open_store(folder)
    assert at_targets(folder, "importance") == values.astype(np.float32).astype(float).tolist()
    assert all(v is None for row in after.rows() for v, t in zip(row["importance"], row["is_target"], strict=True) if not t)
    for one, other in zip(old, after.batches(), strict=True):
        assert one.drop(["importance"]).equals(other.drop(["importance"]))
    assert after.manifest["recipe"] is None and json.loads((folder / "_manifest.json").read_text())["recipe"] is None


def run(source: str, tokens: str, seed: int, kept: float, *, reached: bool = True, steps: float = 10.0) -> dict:
    keep = TRIED if tokens in ("hard", "random") else None
    return {"method": "npo", "source": source, "tokens": tokens, "seed": seed, "keep": keep, "steps": steps, "retain_nll": -math.log(kept),
            "reached": reached}  # fmt: skip


def kept(one: dict) -> float:
    return math.exp(-one["retain_nll"])


def test_what_a_model_knows_of_the_world_follows_its_own_rows(tmp_path):
    learned = load_rows(beside(FORGET, [RETAIN, FORGET], tmp_path / "learns.jsonl"))
    expected = [row for spec in (FORGET, RETAIN, FORGET) for row in load_rows(spec)]
    assert [(r.question, r.answer) for r in learned] == [(r.question, r.answer) for r in expected]


def test_differences_are_of_the_same_seeds_that_came_to_the_level():
    ours = [run("entropy", "hard", s, k) for s, k in ((2, 0.9), (0, 0.6), (1, 0.7))]
    theirs = [run("all", "all", 0, 0.5), run("all", "all", 1, 0.1, reached=False), run("all", "all", 3, 0.2)]
    assert paired(ours, theirs, kept) == pytest.approx([0.1])
    assert paired(ours, [*theirs, run("all", "all", 2, 0.4)], kept) == pytest.approx([0.5, 0.1])
    assert paired(ours, theirs, lambda r: None) == []


def test_the_share_recovered_is_of_the_way_from_all_tokens_to_the_true_ones():
    runs = [run("all", "all", 0, 0.4), run("all", "all", 1, 0.5, steps=13), run("given", "given", 0, 0.8), run("given", "given", 1, 0.7),
            run(DEFAULT, "hard", 0, 0.5), run(DEFAULT, "hard", 1, 0.65), run("random", "random", 0, 0.3),
            run(DEFAULT, "soft", 0, 0.99), run("all", "all", 2, 0.01, reached=False), run("given", "given", 2, 0.9),
            {**run(DEFAULT, "hard", 0, 0.1), "keep": 0.2}]  # fmt: skip
    runs += [{**one, "method": method, "reached": one["source"] != "all"} for one in runs for method in ("graddiff", "simnpo")]
    table = [[cell.strip() for cell in line.strip("| ").split("|")] for line in recovered(Study(runs, {})).splitlines()]
    npo = dict(zip(table[0], next(row for row in table if row[0] == "npo"), strict=True))
    assert npo["recovered"] == f"{100 * (0.1 + 0.15) / (0.4 + 0.2):.0f} %" == "42 %"
    assert npo["seeds"] == "2" and npo["all; steps"].startswith("0.450 [") and npo["all; steps"].endswith("; 12")
    assert npo["default − all"].startswith("0.125 [") and npo["given − all"].startswith("0.300 [")
    assert npo["given; steps"].startswith("0.750 [")  # of the two seeds that all three have
    assert all(row[1] == "0" and row[-1] == "—" for row in table if row[0] in ("graddiff", "simnpo"))
    assert [row[0] for row in table[2:]] == ["npo", "graddiff", "simnpo"], "never came to the level: shown; not run: not"


def test_what_holds_at_a_level_lies_on_the_line_between_two_evaluations():
    curve = [{"eval_forget_nll": p, "eval_retain_nll": r} for p, r in ((2.0, 0.2), (2.4, 0.3), (3.4, 0.7), (3.0, 0.1))]
    assert at_level({"curve": curve}, "forget", 2.9, "retain") == pytest.approx(math.exp(-0.5))  # the first time, not the second
    assert at_level({"curve": curve}, "forget", 2.4, "retain") == pytest.approx(math.exp(-0.3))
    assert at_level({"curve": curve}, "forget", 3.5, "retain") is None and at_level({"curve": curve[:1]}, "forget", 2.0, "retain") is None


def test_settings_that_never_came_to_the_level_are_shown():
    def soft(temperature: float, *, reached: bool) -> dict:
        return {**run(DEFAULT, "soft", 0, 0.6, reached=reached), "temperature": temperature}

    runs = [{"threshold": None, "temperature": None, **one} for one in (
        run(DEFAULT, "hard", 0, 0.7), soft(0.3, reached=True), soft(0.1, reached=False), run("all", "all", 0, 0.4),
        run("given", "given", 0, 0.8),
        {**run(DEFAULT, "hard", 0, 0.5), "keep": None, "threshold": 0.6})]  # fmt: skip
    table = [[cell.strip() for cell in line.strip("| ").split("|")] for line in weights_on_tofu(Study(runs, {}), "npo").splitlines()]
    assert [(row[0], row[-1]) for row in table[2:]] == [("hard, keep 0.3", "0.700"), ("hard, importance from 0.6", "0.500"),
        ("soft, temperature 0.1", "—"), ("soft, temperature 0.3", "0.600"), ("all", "0.400"), ("given", "0.800")]  # fmt: skip


def test_utility_over_the_retain_set_is_the_harmonic_mean_of_its_three_parts():
    parts = {"suite_retain_probability": 0.5, "suite_retain_rouge": 0.3, "suite_retain_truth_ratio": 0.9, "suite_world_probability": 0.1}
    assert retain_utility(parts) == pytest.approx(harmonic_mean([0.5, 0.3, 0.9])) and retain_utility({"suite_retain_rouge": 0.3}) is None


def test_utility_without_real_authors_rouge_is_the_harmonic_mean_of_the_other_eight():
    parts = {f"suite_{about}_{part}": 0.1 * (i + 1) for i, (about, part) in enumerate(UTILITY)}
    eight = [v for name, v in parts.items() if name != "suite_real_authors_rouge"]
    assert len(parts) == 9 and rest_of_utility(parts) == pytest.approx(harmonic_mean(eight)) != pytest.approx(harmonic_mean(parts.values()))
    assert rest_of_utility({**parts, "suite_real_authors_rouge": 0.0}) == rest_of_utility(parts)
    assert rest_of_utility({**parts, "suite_retain_rouge": 0.0}) == pytest.approx(0, abs=1e-9) and rest_of_utility({}) is None


def test_a_table_is_written_on_the_one_page_that_has_its_place(tmp_path):
    from benchmarks.study.tables import write

    (tmp_path / "attribution").mkdir()
    (tmp_path / "attribution_results.md").write_text("# One\n<!-- a -->\nold\n<!-- /a -->\nbehind\n")
    (tmp_path / "attribution" / "tofu.md").write_text("<!-- b -->\n<!-- /b -->\n")
    (tmp_path / "other.md").write_text("<!-- a -->\n<!-- /a -->\n")
    write(tmp_path, {"a": r"new \1", "b": "more"})
    assert (tmp_path / "attribution_results.md").read_text() == "# One\n<!-- a -->\nnew \\1\n<!-- /a -->\nbehind\n"
    assert (tmp_path / "attribution" / "tofu.md").read_text() == "<!-- b -->\nmore\n<!-- /b -->\n"
    assert (tmp_path / "other.md").read_text() == "<!-- a -->\n<!-- /a -->\n"
    for lost in ({"c": "x"}, {"a": "x"}):
        (tmp_path / "attribution" / "found.md").write_text("<!-- a -->\n<!-- /a -->\n")
        with pytest.raises(SystemExit, match="expected one page with the line"):
            write(tmp_path, lost)


def test_what_was_measured_of_the_ends_for_other_runs_stays(tmp_path, monkeypatch):
    world = Made(World(name="world"), tmp_path, "", "", "", "target", "retain", tmp_path, 1.0, None)
    monkeypatch.setattr(runs, "attacked", lambda made, model, name, log: {"facts": len(model)})
    monkeypatch.setattr(runs, "evaluate", lambda made, model, name, reference, log: {"utility": len(name)})
    job = Job(world="world", method="npo", source="all", tokens="all", seed=0)
    runs.ends(world, [replace(job, attack=True)])
    assert runs.ends(world, [replace(job, evaluate=True)]) == str(tmp_path / "results" / "retain")
    assert runs.ends(world, [job]) is None
    assert json.loads((tmp_path / "ends.json").read_text()) == {name: {"after_facts": 6, "utility": 6} for name in ("retain", "target")}
