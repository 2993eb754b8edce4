"""--keep auto through the real commands: the threshold is that of the store's own probabilities."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.store.auto_keep import settled
from shared.store.scores import open_store
from shared.weighting.selection import Selection
from shared.weighting.weights import expected_f1_threshold, token_weights
from tests.tu_score.test_recipe import DATA, made  # noqa: F401
from tu_train.data.batches import word_of

RETAIN = "atlas:retain:people=4,facts_per_person=3,forget_people=2,holdout_people=1"


@pytest.fixture
def learned(made, tmp_path, run_cli):  # noqa: F811
    out = shutil.copytree(made, tmp_path / "store")
    assert run_cli("tu-score", "recipe", out, "--recipe", "uncertainty=learned")[0] == 0
    return out


def importance_of(store) -> np.ndarray:
    rows = open_store(store).rows(("importance", "is_target"))
    return np.array([v for row in rows for v, t in zip(row["importance"], row["is_target"], strict=True) if t])


def losses(folder) -> list[float]:
    return [line["forget_loss"] for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if "forget_loss" in line]


def train(run_cli, model, store, out, *words):
    given = ("--model", model, "--scores", store, "--retain", RETAIN, "--method", "graddiff", "--epochs", 1, "--out", out)
    given += ("--set", "batch_size=2", "--set", "device=cpu")
    return run_cli("tu-train", "run", *given, *words)


def test_it_trains_as_with_the_threshold_it_finds(run_cli, learned, tiny_model, tmp_path):
    values = importance_of(learned)
    threshold = expected_f1_threshold(values)
    assert 0 < (values >= threshold).mean() < 1
    code, _, err = train(run_cli, tiny_model, learned, tmp_path / "auto", "--keep", "auto")
    assert code == 0 and f"importance {threshold:g} or more, {(values >= np.float32(threshold)).mean():.1%} of them" in err
    rows = [[v for v in row["importance"] if v is not None] for row in open_store(learned).rows(("importance",))]
    assert all(max(values) >= threshold for values in rows), "then no answer needs a word beside the threshold"
    assert train(run_cli, tiny_model, learned, tmp_path / "same", "--set", f"threshold={threshold}")[0] == 0
    assert losses(tmp_path / "auto") == losses(tmp_path / "same")
    assert json.loads((tmp_path / "auto" / "training.json").read_text())["threshold"] == threshold
    record = json.loads((tmp_path / "auto" / "training.json").read_text())
    assert "auto" in json.dumps(record) and 'keep = "auto"' in (tmp_path / "auto" / "_config.toml").read_text()


def test_every_answer_keeps_a_word(run_cli, learned, tiny_model, tmp_path):
    """The first answer's facts are made unlikely: by the threshold alone nothing of it would be pushed."""
    rows = list(open_store(learned).rows())
    values = [[v or 0.0 for v in row["importance"]] for row in rows]
    values[0] = [v / 100 for v in values[0]]
    pq.write_table(pa.table({"example_id": [r["example_id"] for r in rows], "importance": values}), tmp_path / "low.parquet")
    assert run_cli("tu-score", "recipe", learned, "--importance", tmp_path / "low.parquet")[0] == 0
    store = open_store(learned)
    found = settled(Selection(keep="auto"), store).selection
    row = next(iter(store.rows()))
    targets = [t for t, own in enumerate(row["is_target"]) if own]
    own, word = np.array([row["importance"][t] for t in targets]), word_of(row, targets)
    weights = token_weights(own, len(own), found, where="", word=word)
    assert own.max() < found.threshold and set(np.flatnonzero(weights)) <= set(np.flatnonzero(own == own.max()))
    assert weights.sum() >= 1 and len({word[t] for t in np.flatnonzero(weights)}) == 1
    code, _, err = train(run_cli, tiny_model, learned, tmp_path / "auto", "--keep", "auto")
    assert code == 0 and "left out" not in err
    code, _, err = train(run_cli, tiny_model, learned, tmp_path / "by-number", "--set", f"threshold={found.threshold}")
    assert code == 0 and f"1 of {len(rows)} forget rows have no token that important" in err


def test_hard_tokens_of_a_learned_importance_are_auto_where_nobody_says_how_many(run_cli, made, tiny_model, tmp_path):  # noqa: F811
    code, _, err = train(run_cli, tiny_model, made, tmp_path / "open")
    assert code == 0 and "--keep auto: tokens of" in err and "hard tokens (keep auto)" in err
    assert train(run_cli, tiny_model, made, tmp_path / "auto", "--keep", "auto")[0] == 0
    assert losses(tmp_path / "open") == losses(tmp_path / "auto")
    assert json.loads((tmp_path / "open" / "training.json").read_text())["weights"] == "hard tokens (keep auto)"
    out = shutil.copytree(made, tmp_path / "store")
    assert run_cli("tu-score", "recipe", out, "--recipe", "uncertainty=base_entropy")[0] == 0
    code, _, err = train(run_cli, tiny_model, out, tmp_path / "share")
    assert code == 0 and "--keep auto" not in err and "hard tokens (keep 0.3, whole words)" in err


def test_a_store_whose_importance_is_no_probability(run_cli, made, tiny_model, tmp_path):  # noqa: F811
    made = shutil.copytree(made, tmp_path / "made")
    assert run_cli("tu-score", "recipe", made, "--recipe", "uncertainty=base_entropy")[0] == 0
    code, _, err = train(run_cli, tiny_model, made, tmp_path / "out", "--keep", "auto")
    last = err.splitlines()[-1]
    assert code == 2 and last.startswith("error: --keep auto: needs an importance that is a probability, that of ")
    assert "1 · minmax(phrase base_entropy)" in last and "--recipe uncertainty=learned" in last
    assert not (tmp_path / "out").exists()


def test_another_word(run_cli, learned, tiny_model, tmp_path):
    code, _, err = train(run_cli, tiny_model, learned, tmp_path / "out", "--keep", "otto")
    assert code == 2 and "keep: got 'otto', expected a number or auto" in err


def test_a_share_is_still_a_share(run_cli, learned, tiny_model, tmp_path):
    assert train(run_cli, tiny_model, learned, tmp_path / "a", "--keep", "0.5")[0] == 0
    assert train(run_cli, tiny_model, learned, tmp_path / "b", "--set", "keep=0.5")[0] == 0
    assert losses(tmp_path / "a") == losses(tmp_path / "b") and "keep = 0.5\n" in (tmp_path / "a" / "_config.toml").read_text()


def test_plain_soft_weights_train(run_cli, learned, tiny_model, tmp_path):
    assert train(run_cli, tiny_model, learned, tmp_path / "a", "--tokens", "soft", "--set", "soft=plain")[0] == 0
    assert train(run_cli, tiny_model, learned, tmp_path / "b", "--tokens", "soft", "--set", "soft=linear")[0] == 0
    assert losses(tmp_path / "a") != losses(tmp_path / "b")


def test_diagnose_takes_it(run_cli, learned, tiny_model, tmp_path):
    words = ("--model", tiny_model, "--scores", learned, "--rows", 3, "--out", tmp_path / "d", "--set", "keep=auto", "--set", "sketch=64")
    code, out, err = run_cli("tu-train", "diagnose", *words)
    assert code == 0 and "--keep auto: tokens of" in err and "hard" in out


def test_a_store_without_any_importance(run_cli, learned, tiny_model, tmp_path):
    rows = list(open_store(learned).rows())
    table = {"example_id": [r["example_id"] for r in rows], "importance": [[0.0] * len(r["input_ids"]) for r in rows]}
    pq.write_table(pa.table(table), tmp_path / "none.parquet")
    assert run_cli("tu-score", "recipe", learned, "--importance", tmp_path / "none.parquet")[0] == 0
    code, _, err = train(run_cli, tiny_model, learned, tmp_path / "out", "--keep", "auto")
    assert code == 2 and err.splitlines()[-1].startswith("error: --keep auto: no token of")


def test_a_sweep_gives_random_tokens_no_auto(tmp_path):
    from tu_train.many.study import _combinations

    axes = {"tokens": ["hard", "random"], "keep": [0.1, "auto"]}
    assert [tuple(v.values()) for v in _combinations(axes, tmp_path)] == [("hard", 0.1), ("hard", "auto"), ("random", 0.1)]
