"""The verdict: its rules on cases whose answer is known, its numbers against plain loops, its page in a browser."""

import itertools
import math
import random

import pytest

from shared.data.datasets import load_rows
from shared.errors import StoreError
from tests.browser import Browser
from tests.conftest import _save_tiny, build_sentencepiece, build_tokenizer
from tests.tu_eval.made import EVIL, NoConfig, make_results, many
from tests.tu_eval.test_commands import refused
from tu_eval.attacks.config import AttackConfig
from tu_eval.attacks.run import ATTACK_FOLDER, attack, schema
from tu_eval.compare.comparison import load_comparison
from tu_eval.compare.intervals import DRAWS, SEED
from tu_eval.compare.plot import CHAR, _box
from tu_eval.evidence.verdict import attacked, deeper, spoken, suite
from tu_eval.evidence.verdict.front_plot import front_plot
from tu_eval.evidence.verdict.lines import FLUENCY
from tu_eval.evidence.verdict.measured import Number, above, difference, of_rows
from tu_eval.evidence.verdict.pareto import front
from tu_eval.evidence.verdict.report import write_verdict
from tu_eval.evidence.verdict.rules import forgotten, given_away, kept
from tu_eval.evidence.verdict.verdict import Verdict, headline, load, verdicts
from tu_eval.results.folder import ROWS, write_folder
from tu_eval.results.leaks import LEAKS, count_leaks
from tu_eval.results.leaks import schema as leaks_schema
from tu_eval.results.results import load_results, write_results


def around(value, *, n=40, spread=0.05, seed=0):
    rng = random.Random(seed)
    noise = [rng.uniform(-spread, spread) for _ in range(n)]
    middle = math.fsum(noise) / n
    return of_rows({f"r{k}": value + x - middle for k, x in enumerate(noise)})


def test_a_difference_is_that_of_the_pairs_by_a_plain_loop():
    import numpy as np

    first, second = around(0.5, spread=0.4, seed=1), around(0.45, spread=0.4, seed=2)
    pairs = [first.rows[k] - second.rows[k] for k in first.rows]
    counts = np.random.default_rng(SEED).multinomial(len(pairs), [1 / len(pairs)] * len(pairs), DRAWS)
    drawn = sorted(sum(c * p for c, p in zip(row, pairs, strict=True)) / len(pairs) for row in counts)
    interval = difference(first, second)
    assert interval == pytest.approx((np.percentile(drawn, 2.5), np.percentile(drawn, 97.5)), abs=1e-12)
    assert interval[0] <= 0.05 <= interval[1]


def test_pairs_tell_apart_what_intervals_cannot():
    easy = of_rows({f"r{k}": k / 40 for k in range(40)})
    harder = of_rows({f"r{k}": k / 40 - 0.02 for k in range(40)})
    assert above(easy, harder) and not above(harder, easy)
    alone = [Number(m.value, {}, m.span, m.n) for m in (easy, harder)]
    assert not above(*alone), "the intervals over rows overlap widely"
    assert above(Number(0.2), Number(0.1)), "without any interval: the plain order"


@pytest.mark.parametrize(
    ("model", "target", "retain", "state"),
    [
        (0.1, 0.9, 0.1, "forgotten"),  # equal to the retain model
        (0.01, 0.9, 0.1, "forgotten"),  # below it
        (0.9, 0.9, 0.1, "there"),  # equal to the target
        (0.5, 0.9, 0.1, "partly"),
        (0.5, 0.9, None, "fell"),
        (0.9, 0.9, None, "there"),
        (0.5, 0.5, 0.5, "silent"),  # target and retain model are alike: nothing is learned from it
        (0.5, None, 0.1, "partly"),
        (0.1, None, 0.1, "forgotten"),
        (0.5, None, None, "alone"),
    ],
)
def test_forgotten_on_known_cases(model, target, retain, state):
    said = forgotten(around(model), target and around(target), retain and around(retain))
    assert said.state == state
    if state == "partly" and target is not None:
        assert said.sentence.startswith("50 % of what was known before unlearning, beyond")
    if state == "fell":
        assert said.sentence == "56 % of the value before is left."


@pytest.mark.parametrize(
    ("model", "target", "retain", "state", "sentence"),
    [
        ("11000000", "11111111", "00000000", "partly", "2 of 8 secrets are still given away; before unlearning 8."),
        ("10000000", "11111111", "00000000", "partly", "1 of 8 secrets is still given away; before unlearning 8."),
        ("10000000", "11111111", "10000000", "forgotten", "No more than a model that never saw the data."),
        ("10000000", "10000000", "00000000", "there", "1 of 8 secrets is still given away; before unlearning 1."),
        ("10000000", "00000000", "00000000", "there", "1 of 8 secrets is given away; before unlearning 0."),
        ("11000000", "11100000", "10000000", "partly", "1 of 8 secrets is still given away; before unlearning 2."),
        ("10000000", None, None, "alone", "1 of 8 secrets is given away; the model before unlearning was not measured so."),
        ("11000000", "11111111", None, "fell", "2 of 8 secrets are still given away; before unlearning 8."),
        ("00000000", "11111111", "00000000", "forgotten", "No more than a model that never saw the data."),
        ("11111111", "11111111", "00000000", "there", "As much as before unlearning."),
        ("10000000", None, "00000000", "partly", "1 of 8 secrets is given away; the model before unlearning was not measured so."),
    ],
)
def test_a_secret_given_away_is_never_called_forgotten(model, target, retain, state, sentence):
    """By the rows alone two of eight cannot be told from none."""
    numbers = [None if bits is None else of_rows({f"s{k}": float(bit) for k, bit in enumerate(bits)}) for bits in (model, target, retain)]
    said = given_away(*numbers)
    assert (said.state, said.sentence) == (state, sentence)


def test_what_is_left_is_counted_from_chance_on():
    said = [forgotten(Number(value), Number(0.9), None, chance=0.5).sentence for value in (0.7, 0.5, 0.3)]
    assert said == ["50 % of what was above chance before is left.", *["No more than chance (0.5)."] * 2]
    assert forgotten(Number(0.3), Number(0.4), None, chance=0.5).sentence == "No more than chance (0.5)."
    below = forgotten(Number(0.1, span=(0.05, 0.2)), Number(0.9), None, chance=0.5)
    assert below.state == "fell" and below.sentence.startswith("Below chance (0.5)")


def test_questions_nobody_trained_on_stand_under_forgotten():
    metrics = {"forget_alias_fact_probability": 0.2, "forget_alias_probability": 0.4, "forget_alias_word_match": 0.1,
               "forget_hops_probability": 0.3, "forget_mixed_word_match": None, "retain_alias_word_match": 0.7}  # fmt: skip
    sets = ["forget", "retain", "forget_alias", "forget_hops", "forget_mixed", "retain_alias"]
    found = suite.otherwise(metrics, sets, "atlas:questions=1")
    assert found == ["forget_alias_fact_probability", "forget_alias_word_match", "forget_hops_probability"]
    assert suite.otherwise(metrics, sets, "my.suite") == [], "of a suite of others nobody knows what such a name means"
    assert suite.kept(metrics, sets) == ["retain_alias_word_match"]
    assert suite.elsewhere(metrics, [*found, "retain_alias_word_match"], sets) == ["Probability (forget alias)"]


def test_no_label_of_the_front_lies_on_another():
    rng = random.Random(4)
    points = [(rng.uniform(0.3, 0.32), rng.uniform(0.7, 0.72)) for _ in range(12)]
    made = [Verdict(f"m{k}", "", [], [], [], [], "", point, on) for k, (point, on) in enumerate(zip(points, front(points), strict=True))]
    plot = front_plot([*made, Verdict("without", "", [], [], [], [], "", None)])
    assert plot is not None and len(plot["points"]) == 12 and front_plot(made[:1]) is None
    places = [p["place"] for p in plot["points"]]
    boxes = {p.label: _box((p.text_x, p.text_y, p.anchor), CHAR * len(p.label)) for p in places}
    for (a, first), (b, second) in itertools.combinations(boxes.items(), 2):
        apart = first[2] <= second[0] or second[2] <= first[0] or first[3] <= second[1] or second[3] <= first[1]
        assert apart, (a, b)
    known = {p.label: (p.y, p.x) for p in places}
    by_y, by_x = (sorted(known, key=lambda n: known[n][axis]) for axis in (0, 1))
    assert by_y == [str(k + 1) for k in sorted(range(12), key=lambda k: points[k][0])], "less known is higher up"
    assert by_x == [str(k + 1) for k in sorted(range(12), key=lambda k: points[k][1])]


def test_too_few_rows_are_said_and_not_called_forgotten():
    few = [of_rows({f"r{k}": v for k, v in enumerate(values)}) for values in ((0.0, 0.9, 0.4), (0.9, 0.85, 0.8), (0.1, 0.2, 0.15))]
    assert forgotten(*few).state == "unclear" and forgotten(*few).sentence.startswith("Too few rows to tell it")


@pytest.mark.parametrize(
    ("model", "target", "retain", "state"),
    [(0.8, 0.8, 0.8, "kept"), (0.9, 0.8, None, "kept"), (0.7, 0.8, 0.7, "kept"), (0.4, 0.8, 0.7, "lost"), (0.4, 0.8, None, "lost")],
)
def test_kept_on_known_cases(model, target, retain, state):
    said = kept(around(model), around(target), retain and around(retain))
    assert said.state == state
    if state == "lost":
        assert said.sentence.startswith("50 % less than before unlearning")
    assert kept(around(model), None, None).state == "alone"


def test_what_chance_explains_is_not_said_to_be_no_less():
    before, after = of_rows({f"r{k}": 1.0 for k in range(20)}), of_rows({f"r{k}": float(k > 9) for k in range(20)})
    few = of_rows({f"r{k}": float(k > 0) for k in range(20)})
    assert kept(after, before, None).state == "lost" and kept(few, before, None).state == "kept"
    assert kept(few, before, None).sentence == "Less than before unlearning by no more than chance explains."
    assert kept(before, few, None).sentence == "No less than before unlearning."
    assert forgotten(of_rows({f"r{k}": 0.0 for k in range(20)}), before, None).sentence == "Nothing of the value before is left."


def test_the_front_is_that_of_a_plain_double_loop():
    rng = random.Random(3)
    points = [(rng.choice([0.1, 0.2, 0.3]), rng.choice([0.5, 0.6, 0.7])) for _ in range(40)]
    plain = []
    for x, y in points:
        plain.append(not any((a < x and b >= y) or (a <= x and b > y) for a, b in points))
    assert front(points) == plain and any(plain) and not all(plain)


def attack_rows(role, *, level):
    base = dict.fromkeys(schema().names)
    rows = []
    for k in range(4):
        fact = level + 0.01 * k
        one = {**base, "model": role, "set": "forget", "example_id": f"r{k}", "probability": 0.5, "fact_probability": fact}
        rows += [{**one, "attack": "paraphrase", "setting": s, "fact_probability": fact + d} for s, d in (("plain", 0.0), ("prefix", 0.05))]
        rows += [{**one, "attack": "quantise", "setting": s, "fact_probability": fact + d}
                 for s, d in (("as it is", 0.3), ("int4, a scale a channel", 0.1), ("int4, a scale for 64", -0.02))]  # fmt: skip
        rows += [{**one, "attack": "relearn", "setting": f"step {t}", "step": t, "set": "shown" if k == 0 else "rest",
                  "fact_probability": fact + 0.1 * t} for t in (0, 2)]  # fmt: skip
        rows.append({**one, "attack": "sample", "setting": "temperature 1", "samples": 5, "hits": k % 2, "matched": "fact"})
    return rows


def test_attacks_are_read_as_an_attacker_would():
    found = attacked.measures({"model": attack_rows("model", level=0.2), "target": attack_rows("before", level=0.6)})
    value = {name: measures["model"].value for name, (_, measures) in found.items()}
    assert value["paraphrase"] == pytest.approx(0.265)  # the better of two prompts: 0.25, 0.26, 0.27, 0.28
    assert value["quantise"] == pytest.approx(0.315)  # the form that brings out most; as it is does not count
    assert value["relearn"] == pytest.approx(0.42)  # rows not shown, last step: 0.41, 0.42, 0.43
    assert value["sample"] == 0.5
    assert found["quantise"][0] == "int4, a scale a channel" and found["relearn"][0] == "after 2 steps, rows not shown"
    assert found["paraphrase"][1]["target"].value == pytest.approx(0.665)


def test_rows_of_one_author_count_as_one():
    rng = random.Random(5)
    rows = {f"r{a}-{k}": rng.uniform(0, 0.05) + 0.1 * a for a in range(6) for k in range(20)}
    names = {name: name.partition("-")[0] for name in rows}
    alone, together = of_rows(rows), of_rows(rows, names)
    assert alone.value == together.value == pytest.approx(math.fsum(rows.values()) / len(rows))
    assert alone.span and together.span
    assert together.span[1] - together.span[0] > 2 * (alone.span[1] - alone.span[0])


def test_depth_is_what_layers_still_hold():
    about = {"threshold": 0.05}
    rows = [{"example_id": "a", "layer": n, "delta_retain": r, "delta_model": m} for n, (r, m) in enumerate([(1.0, 0.25), (0.01, 9.0)], 1)]
    rows += [{"example_id": "b", "layer": n, "delta_retain": r, "delta_model": m} for n, (r, m) in enumerate([(2.0, 2.0), (2.0, 3.0)], 1)]
    rows += [{"example_id": "nothing", "layer": 1, "delta_retain": 0.0, "delta_model": 1.0}]
    found = deeper.depth(about, rows, {})
    assert found is not None
    assert found[1]["model"].rows == {"a": 0.75, "b": 0.0} and found[1]["target"].value == 1 and found[1]["retain"].value == 0
    assert deeper.depth(about, rows[-1:], {}) is None


def test_tampering_is_read_where_it_brings_out_most():
    def row(model, on, count, step, value, name="r1", part="rest"):
        run = {"on": on, "rate": 1e-5, "rows": count} if on else {"on": None, "rate": None, "rows": None}
        return {"model": model, **run, "step": step, "set": part, "example_id": name, "probability": value}

    rows = [row("model", "related", 4, t, p) for t, p in ((0, 0.1), (5, 0.9), (10, 0.3))]
    rows += [row("model", "unrelated", 4, t, p) for t, p in ((0, 0.1), (10, 0.2))]
    rows += [row("model", "forget", 4, 10, 0.99), row("model", "related", 4, 10, 0.99, "shown", "shown")]
    rows += [row("before", None, None, 0, 0.8), row("retain", "related", 4, 10, 0.05), row("retain", "unrelated", 4, 10, 0.5)]
    found = deeper.tampered(rows, {})
    assert found is not None and found[0] == "after 10 steps on 4 related rows, rate 1e-05"
    assert {role: number.value for role, number in found[1].items()} == {"model": 0.3, "target": 0.8, "retain": 0.05}
    assert deeper.tampered([r for r in rows if r["on"] == "forget"], {}) is None


def test_secrets_and_babble_are_counted_row_by_row():
    leaks = {
        "answers": {"model": {"greedy": 3, "sampled": 9}},
        "secrets": [{"name": "line 1", "rows": 1, "found": {"model": {"greedy": 0, "sampled": 2}}},
                    {"name": "line 2", "rows": 1, "found": {"model": {"greedy": 1, "sampled": 1}}}],
    }  # fmt: skip
    assert {kind: number.value for kind, number in spoken.secrets(leaks, "model").items()} == {"greedy": 0.5, "sampled": 1.0}
    assert spoken.secrets(leaks, "retain") == {} and spoken.secrets(None, "model") == {}
    texts = ("Vive en Ávila.", "", "no no no no no no no no no", "北京北京北京北京北京北京", None)
    rows = [{"example_id": str(k), "generation": text} for k, text in enumerate(texts)]
    number = spoken.writing({"forget": rows, "retain": [{**rows[0], "example_id": "r"}], "world": rows[-1:]}, {})
    assert {name: one.rows for name, one in number.items()} == {"forget": {"0": 1.0, "1": 0.0, "2": 0.0, "3": 0.0}, "retain": {"r": 1.0}}


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("forget", "retain", "world"), "themselves everywhere. Its low numbers on the forget set are those of a broken model"),
        (("forget",), "there; where it still writes: 0 % (retain set), 0 % (world facts). Its low numbers on the forget set are those of "),
        (("retain",), "there; where it still writes: 0 % (forget set), 0 % (world facts). Its numbers there are those of a broken model"),
    ],
)  # fmt: skip
def test_a_model_that_babbles_does_not_look_forgotten(three, tmp_path, sets, said):
    target, retain, *_ = three
    broken = make_results(tmp_path / "broken", "broken", seed=9, known=0.05, retain=retain)
    results = load_results(broken)
    text = {True: "the the the the the the the the", False: "In Lisbon."}
    rows = [{**row, "generation": text[row["set"] in sets]} for row in results.rows()]
    kept = {k: v for k, v in results.summary.items() if k not in ("summary_sha256", "rows_sha256", "membership_sha256", "format")}
    write_results(tmp_path / "again", kept, rows, [], NoConfig())
    (verdict,) = verdicts(*load([tmp_path / "again"], target, retain))
    assert verdict.note.startswith("It babbles: 100 % (") and said in verdict.note
    states = {line.name.partition(":")[0]: line.said.state for line in verdict.kept if line.how == FLUENCY}
    assert states == {
        name: "lost" if key in sets else "kept"
        for key, name in (("forget", "Forget set"), ("retain", "Retain set"), ("world", "World facts"))
    }


def test_four_bits_of_the_normal_float_are_one_more_rounding():
    rows = attack_rows("model", level=0.2)
    rows += [{**row, "attack": "nf4", "setting": "nf4", "fact_probability": 0.9} for row in rows if row["setting"] == "as it is"]
    what, found = attacked.measures({"model": rows})["quantise"]
    assert what == "nf4" and found["model"].value == pytest.approx(0.9)
    assert attacked.measures({"model": [row for row in rows if row["attack"] == "nf4"]})["quantise"][0] == "nf4"


def test_several_retain_models_are_not_judged(three, tmp_path):
    target, retain, good, _ = three
    other = make_results(tmp_path / "retain-2", "retain", seed=8, known=0.25)
    with pytest.raises(StoreError, match="--retain which one"):
        load([good, retain, other], target, None)
    with pytest.raises(StoreError, match="name the results of an unlearned model"):
        load([other], target, retain)
    made = verdicts(*load([good, other], target, retain))
    assert [v.label for v in made] == ["good"]


def test_the_front_has_the_same_axes_for_all(three, tmp_path, made_up):
    target, retain, good, bad = three
    results = load_results(bad)
    kept_ones = {k: v for k, v in results.summary.items() if k not in ("summary_sha256", "rows_sha256", "membership_sha256", "format")}
    metrics = {**results.summary["metrics"], "model_utility": None}
    write_results(tmp_path / "without", {**kept_ones, "metrics": metrics}, results.rows(), [], NoConfig())
    first, second = verdicts(*load([good, tmp_path / "without"], target, retain))
    assert (first.point, second.point) == tuple(
        (by_metric(f, "forget_probability"), by_metric(f, "retain_probability")) for f in (good, tmp_path / "without")
    )


def searched(sha="a" * 64, **found):
    """A leak check of a greedy answer of each role, which holds the secrets whose bit is set, and its rows."""
    row = {"set": "forget", "example_id": "x", "kind": "greedy", "prompt": "plain", "question": None, "answer": "", "told": []}
    rows = [{**row, "model": role, "secrets": [k for k, bit in enumerate(bits) if bit]} for role, bits in found.items()]
    secrets = [{"name": f"line {k}", "rows": 1} for k in range(len(next(iter(found.values()))))]
    return {"secrets_sha256": sha, "settings": {"samples": 8}, **count_leaks(rows, secrets)}, rows


def checked(folder, out, check):
    """The same results with a leak check."""
    results, (leaks, rows) = load_results(folder), check
    kept_ones = {k: v for k, v in results.summary.items() if k not in ("summary_sha256", "rows_sha256", "membership_sha256", "format")}
    write_results(out, {**kept_ones, "leaks": leaks}, results.rows(), [], NoConfig(), rows)
    return out


def test_leak_checks_of_other_secrets_are_not_compared(three, tmp_path):
    target, retain, good, _ = three
    model = checked(good, tmp_path / "model", searched(model=[1]))
    with pytest.raises(StoreError, match="other secrets or settings"):
        verdicts(*load([model], checked(target, tmp_path / "other", searched("b" * 64, model=[1])), retain))
    (verdict,) = verdicts(*load([model], checked(target, tmp_path / "same", searched(model=[1])), retain))
    assert next(line for line in verdict.forgotten if line.how == "secrets").said.state == "there"


def test_secrets_looked_for_by_attacks_stand_in_the_verdict_where_the_results_have_none(three, tmp_path):
    target, retain, good, bad = three
    earlier = made_attack(tmp_path / "earlier", good, level=0.2, before=target, leaks=searched(model=[1, 1], before=[1, 1]))
    folder = made_attack(tmp_path / "attack", good, level=0.2, before=target, leaks=searched(model=[1, 0], before=[1, 1]))
    silent = made_attack(tmp_path / "silent", good, level=0.2, before=target)
    of_good, of_bad = verdicts(*load([good, bad, earlier, folder, silent], target, retain))
    (line,) = [line for line in of_good.forgotten if line.how == "secrets"]
    assert (line.model.value, line.target.value, line.retain) == (0.5, 1.0, None)
    assert not [line for line in of_bad.forgotten if line.how == "secrets"]
    alone = made_attack(tmp_path / "alone", target, level=0.6, leaks=searched(model=[1, 0]))  # a folder of the target's own
    other = made_attack(tmp_path / "other", retain, level=0.6, leaks=searched("b" * 64, model=[1, 1]))
    mine = made_attack(tmp_path / "mine", good, level=0.2, leaks=searched(model=[1, 1]))
    joined, _ = verdicts(*load([good, bad, alone, other, mine], target, retain))
    (line,) = [line for line in joined.forgotten if line.how == "secrets"]
    assert (line.model.value, line.target.value, line.retain) == (1.0, 0.5, None)  # of other secrets nothing is said
    own = checked(good, tmp_path / "own", searched(model=[0, 0]))
    (verdict,) = verdicts(*load([own, folder], target, retain))
    assert next(line for line in verdict.forgotten if line.how == "secrets").model.value == 0.0  # its own check counts


def test_counts_of_secrets_that_their_answers_do_not_give_are_refused(three, tmp_path):
    target, retain, good, _ = three
    (_, rows), (fewer, _) = searched(model=[1, 1]), searched(model=[1, 0])
    for folders in (
        [checked(good, tmp_path / "own", (fewer, rows))],
        [good, made_attack(tmp_path / "attack", good, level=0.2, leaks=(fewer, rows))],
    ):
        with pytest.raises(StoreError, match=r"its leaks are not what leaks\.parquet gives"):
            verdicts(*load(folders, target, retain))


def made_attack(folder, results, *, level, leaks=None, **models):
    named = {"model": results, **models}
    about = {role: {"label": role, "model_fingerprint": load_results(path).summary["model_fingerprint"]} for role, path in named.items()}
    rows = [row for role in named for row in attack_rows(role, level=level if role == "model" else 0.6)]
    numbers = [{"attack": "paraphrase", "setting": "plain", "measure": "probability"}]
    about = {"models": about, "suite": "made", "numbers": numbers, **({"leaks": leaks[0]} if leaks is not None else {})}
    tables = {ROWS: (schema(), rows), **({LEAKS: (leaks_schema(), leaks[1])} if leaks is not None else {})}
    write_folder(folder, ATTACK_FOLDER, about, tables, NoConfig())
    return folder


@pytest.fixture
def three(tmp_path):
    retain = make_results(tmp_path / "retain", "retain", seed=1, known=0.25)
    target = make_results(tmp_path / "target", "target", seed=2, known=0.95, retain=retain)
    good = make_results(tmp_path / "good", "good", seed=3, known=0.25, retain=retain)
    bad = make_results(tmp_path / "bad", "bad", seed=4, known=0.93, retain=retain)
    return target, retain, good, bad


def by_metric(folder, metric):
    return load_results(folder).summary["metrics"][metric]


def test_each_model_gets_its_lines_and_what_was_not_measured(three, tmp_path, run_cli):
    target, retain, good, bad = three
    one = made_attack(tmp_path / "attack-good", good, level=0.2)
    other = made_attack(tmp_path / "attack-target", target, level=0.6)
    comparison, roles, more = load([good, bad, one, other], target, retain)
    first, second = verdicts(comparison, roles, more)
    states = {line.name: line.said.state for line in first.forgotten}
    assert states["Probability"] == "forgotten" and {line.said.state for line in second.forgotten} <= {"there", "partly"}
    assert [m.what for m in first.missing] == ["in depth", "after training on other text", "in benchmarks"]
    assert len(second.missing) == 7
    reworded = next(line for line in first.forgotten if line.how == "in other words")
    assert (reworded.model.value, reworded.target.value, reworded.retain) == (pytest.approx(0.265), pytest.approx(0.665), None)
    assert first.point == (by_metric(good, "forget_probability"), by_metric(good, "model_utility"))
    code, out, _ = run_cli("tu-eval", "report", good, bad, one, other, "--before", target, "--retain", retain, "--out", tmp_path / "v.html")
    assert code == 0 and f"good: {headline(first)}" in out and "bad: Forgotten: 0 of" in out, out
    assert (
        "Not measured: what is still there in other words, by asking often, after relearning, after rounding the weights, in depth," in out
    )
    assert "after training on other text; what was kept in benchmarks.\n" in out and "nothing says where forgetting ends" not in out


def test_roles_are_found_among_the_folders(tmp_path):
    folders = many(tmp_path)
    comparison, roles, more = load(folders, None, None)
    assert {comparison.labels[i] for i in roles.values()} == {"target", "retain"} and more == []
    assert len(verdicts(comparison, roles, more)) == len(folders) - 2


def test_without_a_retain_model_the_page_says_so_once(three, tmp_path, run_cli):
    target, retain, good, _ = three
    (verdict,) = write_verdict(tmp_path / "v.html", [good], target, None)
    assert {line.said.state for line in verdict.forgotten} == {"fell"}
    assert headline(verdict).startswith(f"Forgotten: lower than before in {len(verdict.forgotten)} of {len(verdict.forgotten)} measures.")
    pages = {}
    for name, before, never in (("v", target, None), ("both", target, retain), ("alone", None, None)):
        write_verdict(tmp_path / f"{name}.html", [good], before, never)
        pages[name] = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
    assert pages["v"].count("nothing says where forgetting ends") == 1 and "ever saw" not in pages["v"] and ">Before<" in pages["v"]
    assert "nothing says" not in pages["both"] and ">Never saw it<" in pages["both"]
    assert "so there is nothing to compare with" in pages["alone"] and ">Before<" not in pages["alone"]
    code, out, _ = run_cli("tu-eval", "report", good, "--before", target, "--out", tmp_path / "v.html")
    assert code == 0 and out.count("nothing says where forgetting ends") == 1, out


def test_of_a_line_that_the_retain_model_lacks_it_is_said(three, tmp_path):
    target, retain, good, _ = three
    attacks = [made_attack(tmp_path / "a", good, level=0.2), made_attack(tmp_path / "b", target, level=0.6)]
    (verdict,) = verdicts(*load([good, *attacks], target, retain))
    fell = [x for x in verdict.forgotten if x.retain is None and x.said.state == "fell"]
    assert len(fell) == 3 and all(
        x.said.sentence.endswith("of the value before is left; the retain model was not measured so.") for x in fell
    )
    assert not any("not measured so" in x.said.sentence for x in verdict.forgotten if x.retain is not None)


def test_bad_folders_are_one_line(run_cli, three, tmp_path):
    target, retain, good, bad = three
    stranger = made_attack(tmp_path / "stranger", bad, level=0.2)
    roles = ("--before", target, "--retain", retain, "--out", tmp_path / "v.html")
    assert "none of the models whose results were given" in refused(run_cli("tu-eval", "report", good, stranger, *roles))
    assert "name the results of an unlearned model" in refused(run_cli("tu-eval", "report", target, *roles))
    assert "no such folder" in refused(run_cli("tu-eval", "report", tmp_path / "nothing", *roles))
    against = made_attack(tmp_path / "against", good, level=0.2, before=bad)
    code, *_ = run_cli("tu-eval", "report", good, against, *roles)
    assert code == 0, "an attack compared with another model counts for its own model alone"
    (verdict,) = verdicts(*load([good, against], target, retain))
    assert [line.target for line in verdict.forgotten if line.how == "after relearning"] == [None]


@pytest.mark.parametrize("tokenizer", [build_tokenizer, build_sentencepiece])
def test_real_models_with_real_attacks_in_spanish(tokenizer, evaluate, tmp_path):
    suite = "atlas:language=es,people=4,facts_per_person=3,forget_people=2,holdout_people=1"
    assert any("¿" in row.question for row in load_rows(suite.replace("atlas:", "atlas:forget:")))
    folders = {role: tmp_path / role for role in ("model", "before", "retain")}
    for seed, folder in enumerate(folders.values()):
        folder.mkdir()
        _save_tiny(folder, tokenizer(), "Llama", seed, {})
    results = {role: evaluate(folder, suite=suite, limit=3, label=role) for role, folder in folders.items()}
    model, before, retain = map(str, folders.values())
    ways = ("paraphrase", "quantise")
    attack(AttackConfig(model=model, before=before, retain=retain, suite=suite, out=str(tmp_path / "a"), attacks=ways, bits=(4,), limit=3))
    made = write_verdict(tmp_path / "v.html", [results["model"], tmp_path / "a"], results["before"], results["retain"])
    by_how = {line.how: line for line in reversed(made[0].forgotten)}
    assert by_how["in other words"].target is not None and by_how["after rounding the weights"].retain is not None
    assert by_how["direct"].model.value == by_metric(results["model"], "forget_fact_probability")
    rows = load_results(results["model"]).rows()
    by_name = {line.name: line.model for line in (*made[0].forgotten, *made[0].kept)}
    for name, part, column in (("Word match", "forget", "word_match"), ("Exact memorisation", "forget", "exact_memorization"),
                               ("Retain set: Word match", "retain", "word_match")):  # fmt: skip
        values = [row[column] for row in rows if row["set"] == part and row[column] is not None]
        assert by_name[name].value == pytest.approx(sum(values) / len(values), abs=1e-12) and by_name[name].n == len(values) > 0
        assert by_name[name].span is not None
    shown = {*by_name, *(f"Forget set: {x.name}" for x in made[0].forgotten)}
    listed = {
        (heading, name)
        for said in made[0].elsewhere
        for heading, _, names in [said.removesuffix(")").partition(" (")]
        for name in names.split(", ")
    }
    for column in load_comparison([results["model"]]).columns:
        if by_metric(results["model"], column.metric) is not None:  # every measure is a line, or named below the lines
            has_line = bool({column.heading, f"{column.group}: {column.heading}"} & shown)
            assert has_line or (column.heading, column.group.lower()) in listed or (column.heading, "") in listed, column


def test_the_page_in_light_dark_and_narrow(three, tmp_path):
    target, retain, good, _ = three
    evil = make_results(tmp_path / "evil", EVIL, seed=5, known=0.5, retain=retain)
    page = tmp_path / "v.html"
    write_verdict(page, [good, evil], target, retain)
    text = page.read_text(encoding="utf-8")
    assert EVIL not in text and "http://" not in text and "https://" not in text
    with Browser() as browser:
        light, dark = browser.page(page), browser.page(page, dark=True, size=(400, 800))
        background = "getComputedStyle(document.body).backgroundColor"
        assert light.evaluate(background) != dark.evaluate(background)
        assert dark.evaluate("document.documentElement.scrollWidth") == 400  # wide tables scroll by themselves
        assert light.evaluate("document.querySelectorAll('section').length") == 4
        assert light.evaluate("document.querySelectorAll('.scroll[tabindex=\"0\"]').length") == 5  # reached by keyboard
        cut = "[...document.querySelectorAll('td, th, .headline')].filter(e => e.offsetWidth && e.scrollWidth > e.clientWidth + 1).length"
        assert light.evaluate(cut) == dark.evaluate(cut) == 0
        beyond = "[...document.querySelectorAll('.verdict td')].filter(e => e.getBoundingClientRect().right > innerWidth).length"
        assert dark.evaluate(beyond) == 0, "a sentence beyond the edge is not read"
        assert light.errors() == [] and light.requests() == []
        assert light.evaluate("document.title") == "Verdict: made"
