"""Several forget corpora in one run: whose turn it is, what each has of its own, and that nothing else changes."""

import json
from dataclasses import replace

import pytest
import torch

from shared.errors import ConfigError
from shared.store.scores import open_store
from tests.tu_train.conftest import RETAIN, ROWS, WORLD, log_of, score, weights_of
from tu_train.config import FinetuneConfig, UnlearnConfig
from tu_train.data.streams import turns_of
from tu_train.gather import gather_finetuning, gather_unlearning, joined
from tu_train.loop import Objective
from tu_train.many.run import plan as plan_study
from tu_train.methods.table import METHODS
from tu_train.plan import plan_finetuning, plan_unlearning

OTHER = f"atlas:holdout:{WORLD}"
OTHER_ROWS = 3
STILL = 1e-12
"""a learning rate that moves nothing that a test could see"""


@pytest.fixture(scope="session")
def other_scores(target, tmp_path_factory):
    """Score store of a second forget corpus."""
    return score(target, tmp_path_factory.mktemp("other") / "store", data=OTHER)


@pytest.fixture
def both(scores, other_scores):
    return str(scores), str(other_scores)


def config_of(target, both, **fields):
    entries = {"model": str(target), "scores": both, "retain": RETAIN, "out": "-", "device": "cpu", "batch_size": 2, "epochs": 2, **fields}
    return UnlearnConfig(**entries).filled()


def plan_of(config):
    return plan_unlearning(config, gather_unlearning(config))


def names_of(passes):
    return [[(rows.corpus, i.name) for rows in step for i in rows.forget] for step in passes]


# --- turns


def test_a_corpus_that_is_used_up_is_passed_over():
    assert turns_of([4, 2]) == [0, 1, 0, 1, 0, 0] and turns_of([1, 3]) == [0, 1, 1, 1] and turns_of([3]) == [0, 0, 0]
    assert turns_of([2, 2, 1]) == [0, 1, 2, 0, 1]


def test_rows_of_a_step_are_of_one_corpus_and_each_row_comes_once_an_epoch(target, both):
    plan = plan_of(config_of(target, both))
    steps = names_of(plan.stream(0))
    assert [{corpus for corpus, _ in step} for step in steps] == [{0}, {1}, {0}, {1}, {0}] * 2
    assert len(steps) == plan.steps == 10 and plan.rows == {"forget_rows": ROWS + OTHER_ROWS, "retain_rows": 6}
    for epoch in (steps[:5], steps[5:]):
        rows = [row for step in epoch for row in step]
        assert len(rows) == len(set(rows)) == ROWS + OTHER_ROWS
    assert steps[:5] != steps[5:]


def test_a_stream_that_begins_later_is_the_rest_of_the_whole_one(target, both):
    plan = plan_of(config_of(target, both, max_steps=9))
    whole = list(plan.stream(0))
    assert len(whole) == plan.steps == 9
    for first in range(10):
        rest = list(plan.stream(first))
        assert names_of(rest) == names_of(whole[first:])
        assert [[i.name for p in step for i in p.retain] for step in rest] == [
            [i.name for p in step for i in p.retain] for step in whole[first:]
        ]


def test_each_corpus_goes_its_own_way_through_shared_retain_rows(target, both):
    def retained(plan):
        rows = [[], []]
        for step in plan.stream(0):
            rows[step[0].corpus] += [i.name for p in step for i in p.retain]
        return rows

    first, second = retained(plan_of(config_of(target, both)))
    assert first[: len(second)] != second
    first, second = retained(plan_of(config_of(target, both, order="file")))
    assert first[:OTHER_ROWS] == second[:OTHER_ROWS], "in the order of the file both begin with its first row"


def test_the_order_of_the_file(target, scores):
    plan = plan_of(config_of(target, str(scores), order="file", epochs=1))
    assert [name for step in names_of(plan.stream(0)) for _, name in step] == [
        r["example_id"] for r in open_store(scores).rows(["example_id"])
    ]
    config = FinetuneConfig(model=str(target), data=RETAIN, out="-", order="file", epochs=2, batch_size=4, max_steps=3)
    plan = plan_finetuning(config, gather_finetuning(config))
    names = [i.name for step in plan.stream(0) for p in step for i in p.retain]
    rows = [i.name for i, _ in zip(plan.learned.start(0), range(6), strict=False)]
    assert plan.steps == 3 and names == [*rows, *rows[:4]] == sorted(rows) + sorted(rows)[:4]


# --- what each has of its own


def test_lists_have_a_value_for_each_corpus_and_one_value_is_for_all():
    config = UnlearnConfig(model="m", scores=("a", "b"), retain=("x", "none"), out="o", method="rmu", alpha=(1.0, 2.0), gamma=3.0,
                           options={"steering": (4.0, 5.0), "layer": 6.0}).filled()  # fmt: skip
    first, second = config.corpora
    assert [(c.scores, c.retain, c.alpha, c.gamma, c.term) for c in (first, second)] == [
        ("a", "x", 1, 3, "layer"),
        ("b", "none", 2, 3, "none"),
    ]
    assert [c.options for c in (first, second)] == [{"layer": 6, "steering": s, "seed": k} for k, s in enumerate((4, 5))]
    assert replace(config, options={**config.options, "seed": (7.0, 7.0)}).corpora[1].options["seed"] == 7
    single = replace(config, scores="a", retain="x", alpha=1.0, options={})
    assert single.corpora == (single,)
    listed = replace(config, scores="a", retain=("x",), alpha=(1.0,), options={"steering": (4.0,)})
    assert listed.corpora == (replace(single, options={"steering": 4.0}),)


def test_a_step_has_the_numbers_of_its_corpus(unlearn, both):
    fields = {"method": "npo", "tokens": "hard", "learning_rate": STILL, "batch_size": 6, "epochs": 1}
    alone = [unlearn(scores=s, alpha=a, options={"beta": b}, **fields) for s, a, b in zip(both, (2.0, 0.5), (0.1, 0.4), strict=True)]
    out = unlearn(scores=both, alpha=(2.0, 0.5), options={"beta": (0.1, 0.4)}, **fields)
    log = log_of(out)
    assert [line["corpus"] for line in log] == [0, 1]
    for line, one in zip(log, alone, strict=True):
        (expected,) = log_of(one)
        assert line["forget_loss"] == pytest.approx(expected["forget_loss"], rel=1e-6)
        assert line["forget_nll"] == pytest.approx(expected["forget_nll"], rel=1e-6)
    for line, alpha in zip(log, (2.0, 0.5), strict=True):
        assert line["loss"] == pytest.approx(line["forget_loss"] + alpha * line["retain_loss"], rel=1e-6)


def test_a_direction_for_each_corpus(unlearn, both):
    out = unlearn(scores=both, method="rmu", options={"layer": 1, "steering": (2.0, 5.0)}, tokens="hard", epochs=1)
    state = {name: torch.tensor(value) for name, value in json.loads((out / "method.json").read_text()).items()}
    start = METHODS["rmu"].start
    assert start is not None and state.keys() == {"0/direction", "1/direction"}
    for corpus in (0, 1):
        assert torch.allclose(state[f"{corpus}/direction"], start(64, {"seed": float(corpus)})["direction"])


def test_what_a_method_carries_from_step_to_step_is_each_corpus_own(unlearn, both):
    out = unlearn(scores=both, method="pdu", options={"step": (0.5, 0.0)}, tokens="all", epochs=1)
    state = json.loads((out / "method.json").read_text())
    assert state["0/dual"][0] > 1 and state["1/dual"] == [1.0]


def test_a_tensor_that_a_method_replaces_is_kept():
    objective = Objective(None, corpora=(Objective(None), Objective(None)))
    state = {"0/x": torch.zeros(1), "1/x": torch.zeros(1)}
    own = objective.state_of(1, state)
    own["x"] = torch.ones(1)
    objective.put_back(1, own, state)
    assert (state["0/x"].item(), state["1/x"].item()) == (0, 1)


def test_refusals_stand_beside_the_rows_of_every_corpus(unlearn, both):
    log = log_of(unlearn(scores=both, method="idknll", tokens="all", epochs=1))
    assert {line["corpus"] for line in log} == {0, 1} and all(line["forget_loss"] > 0 for line in log)


# --- evaluation, records, studies


def test_evaluations_are_over_all_corpora(unlearn, both):
    fields = {"method": "npo", "tokens": "all", "learning_rate": STILL, "epochs": 1, "batch_size": 6, "eval_every": 1, "eval_rows": 3}
    whole = log_of(unlearn(scores=both, **fields))[-1]
    first, second = (log_of(unlearn(scores=one, **fields))[-1] for one in both)
    assert whole["eval_forget_probability"] == pytest.approx((first["eval_forget_probability"] + second["eval_forget_probability"]) / 2)
    assert whole["eval_retain_nll"] == pytest.approx(first["eval_retain_nll"]), "shared retain rows count once"


def test_a_run_says_what_it_was_made_from_and_repeats_from_its_configuration(unlearn, run_cli, both, tmp_path):
    out = unlearn(scores=both, alpha=(2.0, 1.0), method="npo", tokens="all")
    about, hashes = json.loads((out / "training.json").read_text()), [open_store(s).sha256 for s in both]
    assert about["stores"] == hashes and about["store"] not in hashes and len(about["store"]) == 64
    assert about["settings"]["scores"] == list(both) and about["settings"]["alpha"] == [2.0, 1.0]
    code, _, err = run_cli("tu-train", "run", "--config", out / "_config.toml", "--out", tmp_path / "again")
    assert code == 0, err
    assert weights_of(tmp_path / "again") == weights_of(out)


def test_one_corpus_is_recorded_as_it_always_was(unlearn, scores):
    for given in (scores, (str(scores),)):
        out = unlearn(scores=given, method="npo", tokens="all", epochs=1)
        about = json.loads((out / "training.json").read_text())
        assert about["store"] == open_store(scores).sha256 and "stores" not in about and "max_steps" not in about["settings"]
        assert "corpus" not in log_of(out)[0]


def test_joined_fingerprints():
    one = {"store": "a", "retain_data": "r", "retain_outside_top_tokens": 0.25}
    assert joined([one]) == one
    two = joined([one, {"store": "b", "retain_data": "r", "retain_outside_top_tokens": 0.75}])
    assert two["stores"] == ("a", "b") and two["retain_data"] == "r" and two["retain_outside_top_tokens"] == 0.5
    assert len(two["store"]) == 64 and joined([one, {"store": "b"}])["retain_data"] != "r"


def test_in_a_study_a_list_in_a_list_has_a_value_for_each_corpus(target, both, tmp_path):
    study = tmp_path / "study.toml"
    study.write_text(
        f'model = "{target}"\nscores = [{json.dumps(both)}, "{both[0]}"]\nretain = "{RETAIN}"\nmethod = "rmu"\ntokens = "all"\n'
        "alpha = [[1200, 600], 3]\n[options]\nlayer = 1\nsteering = [[6.5, 7.5]]\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match=r"alpha: got 2 values for 1 forget corpora"):
        plan_study(study, tmp_path / "out")
    study.write_text(study.read_text().replace(f', "{both[0]}"]', "]"), encoding="utf-8")
    one, other = (run.config for run in plan_study(study, tmp_path / "out"))
    assert one.scores == other.scores == both and (one.alpha, other.alpha) == ((1200, 600), 3) and one.options["steering"] == (6.5, 7.5)
    assert len({run.content for run in plan_study(study, tmp_path / "out")}) == 2


# --- bad input


@pytest.mark.parametrize(("more", "said"), [
    (("--set", "alpha=[1, 2, 3]"), "alpha: got 3 values for 2 forget corpora (--scores); give one value for all of them, or one for each"),
    (("--retain", RETAIN), "retain: got 3 values for 2 forget corpora"),
    (("--method", "rmu", "--option", "steering=[1, 2, 3]"), "--option steering: got 3 values for 2 forget corpora"),
    (("--method", "rmu", "--option", "layer=[0, 1]"), "--option layer: got 2 values, expected one"),
    (("--set", "alpha=[1, -2]"), "alpha is -2.0, expected 0 or more"),
    (("--method", "rmu", "--option", "steering=[1, -2]"), "--option steering=-2: --method rmu expects 0 or more"),
    (("--set", "alpha=[]"), "alpha: got an empty list, expected at least one value"),
    (("--set", "max_steps=0"), "max_steps is 0, expected at least 1"),
])  # fmt: skip
def test_lists_that_do_not_fit_are_one_line(run_cli, target, both, tmp_path, more, said):
    named = ("--scores", both[0], "--scores", both[1], "--retain", RETAIN, "--retain", RETAIN)
    code, out, err = run_cli("tu-train", "run", "--model", target, *named, "--out", tmp_path / "out", "--device", "cpu", *more)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and said in err, err


def test_scores_may_be_repeated_or_a_list(run_cli, target, both, tmp_path):
    short = ("--retain", RETAIN, "--device", "cpu", "--epochs", 1, "--tokens", "all", "--learning-rate", 1e-3)
    flags = [(("--scores", both[0], "--scores", both[1])), ("--set", f"scores={json.dumps(both)}")]
    outs = [tmp_path / f"out-{n}" for n in range(2)]
    for out, given in zip(outs, flags, strict=True):
        code, _, err = run_cli("tu-train", "run", "--model", target, *given, *short, "--out", out)
        assert code == 0 and "9 forget rows of 2 corpora that take turns" in err, err
    assert weights_of(outs[0]) == weights_of(outs[1])


@pytest.mark.parametrize("text", ['""', '"  \\n"', "null"])
def test_a_corpus_with_no_text_in_a_row_is_one_line(run_cli, target, tmp_path, text):
    data = tmp_path / "corpus.jsonl"
    data.write_text(f'{{"text": "Орла Венн родилась в Таллине."}}\n{{"text": {text}}}\n', encoding="utf-8")
    code, out, err = run_cli("tu-score", "run", "--model", target, "--data", data, "--text-key", "text", "--out", tmp_path / "scores")
    assert (code, out) == (2, "") and err == (
        f"error: corpus/rows/1: its text is empty or not text; remove the row or fill it ({data}:2)\n"
    )


def test_forget_rows_of_any_corpus_are_no_retain_rows(target, both, capsys):
    plan = plan_of(config_of(target, both, retain=f"atlas:full:{WORLD}"))
    assert plan.rows["retain_rows"] == 6 and "left out 6 retain rows that are forget rows too" in capsys.readouterr().err
