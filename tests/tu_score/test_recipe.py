"""tu-score recipe: importance again from a finished store, through the real command."""

import shutil

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import rankdata

import tu_score.run
from shared.data.datasets import load_rows
from shared.errors import StoreError
from shared.store.parts import encode, schema
from shared.store.rewrite import rewrite
from shared.store.scores import Store, open_store
from shared.weighting.importance import Recipe, importance
from tu_score.config import ScoreConfig
from tu_score.recipe import Seen, apply_recipe, targets_of, with_importance
from tu_score.run import run_score

DATA = "atlas:forget:people=4,facts_per_person=3,forget_people=2,holdout_people=1"
PUBLISHED = Recipe(alpha=0.5, uncertainty="entropy", unit="token", copies="keep")
RECIPES = [
    "alpha=0,uncertainty=base_entropy",
    "knowledge=positive,alpha=0.7,norm=rank",
    "knowledge=gain,uncertainty=masked_entropy,norm=zscore,scope=store",
    "norm=rank,scope=store,knowledge=mean_absolute",
    "alpha=1,knowledge=su,su_k=0.5,norm=max",
    "uncertainty=etw,norm=max,scope=store",
    "alpha=0.5,unit=token,copies=drop,norm=rank,scope=store",
    "unit=word,copies=keep,norm=max",
    "uncertainty=learned_base",
    "alpha=0.3,knowledge=gain,uncertainty=learned_text,norm=rank,scope=store",
]


def make(out, model, base, **fields):
    entries = {"data": DATA, "part_tokens": 200, "engine": "torch", "device": "cpu", "entropy_temperature": 2.0, **fields}
    return run_score(ScoreConfig(model=str(model), base_model=str(base), out=str(out), **{"spans": "question", **entries}))


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model, tiny_base):
    return make(tmp_path_factory.mktemp("made") / "store", tiny_model, tiny_base)


@pytest.fixture
def store(made, tmp_path):
    return shutil.copytree(made, tmp_path / "store")


@pytest.fixture(scope="module")
def bare(tmp_path_factory, tiny_model):
    """A store without spans, base model or tempered entropy."""
    out = tmp_path_factory.mktemp("bare") / "store"
    return run_score(
        ScoreConfig(
            model=str(tiny_model), data=DATA, out=str(out), spans="none", limit=3, engine="torch", device="cpu", uncertainty="entropy"
        )
    )


def files(folder) -> dict:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def fields_of(text: str) -> dict:
    pairs = (item.split("=") for item in text.split(","))
    return {k: int(v) if v.isdigit() else float(v) if v.replace(".", "").isdigit() else v for k, v in pairs}


def one_line(result) -> str:
    code, out, err = result
    assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1, (code, out, err)
    return err


@pytest.mark.parametrize("text", RECIPES)
def test_a_recipe_applied_later_gives_the_bytes_of_a_run_with_it(text, run_cli, store, tmp_path, tiny_model, tiny_base):
    code, out, _ = run_cli("tu-score", "recipe", store, "--recipe", text)
    assert code == 0 and "6 rows" in out
    other = make(tmp_path / "other", tiny_model, tiny_base, **fields_of(text))
    parts = {p.name: p.read_bytes() for p in other.glob("part-*")}
    assert len(parts) > 1 and parts == {p.name: p.read_bytes() for p in store.glob("part-*")}
    assert open_store(store).manifest["recipe"] == open_store(other).manifest["recipe"]
    assert open_store(store).manifest["recipe"].items() >= fields_of(text).items()
    assert run_cli("tu-score", "verify", store)[0] == 0


def test_only_importance_changes_and_it_comes_back_to_the_bit(run_cli, made, store):
    assert run_cli("tu-score", "recipe", store, "--recipe", RECIPES[1], "--set", "scope=store")[0] == 0
    before, after = open_store(made), open_store(store)
    for old, new in zip(before.batches(), after.batches(), strict=True):
        assert old.drop(["importance"]).equals(new.drop(["importance"])) and not old["importance"].equals(new["importance"])
        for name in old.column_names:
            if name != "importance":
                one = pa.schema([old.schema.field(name)])
                assert encode(old, one) == encode(new, one)
    kept = {k: v for k, v in before.manifest.items() if k not in ("parts", "recipe", "manifest_sha256")}
    assert after.manifest.items() >= kept.items()
    assert run_cli("tu-score", "recipe", store)[0] == 0  # nothing named: the default recipe, which the store was made with
    assert files(store) == files(made)


def test_importance_over_the_store_by_scipy(run_cli, store):
    assert run_cli("tu-score", "recipe", store, "--recipe", "uncertainty=entropy,unit=token,copies=keep,norm=rank,scope=store")[0] == 0
    rows = list(open_store(store).rows())
    at = [[i for i, t in enumerate(r["is_target"]) if t] for r in rows]
    ranks = rankdata([r["entropy"][i] for r, positions in zip(rows, at, strict=True) for i in positions])
    found = [r["importance"][i] for r, positions in zip(rows, at, strict=True) for i in positions]
    assert found == pytest.approx((ranks - ranks.min()) / np.ptp(ranks), abs=1e-7)
    assert all(v is None for r in rows for v, t in zip(r["importance"], r["is_target"], strict=True) if not t)


@pytest.mark.parametrize(("text", "option"), [
    ("alpha=1", "reads delta, which this store does not hold; score again with --spans question, window or entity, or"),
    ("uncertainty=masked_entropy,alpha=0", "--spans question, window or entity"),
    ("knowledge=mean_positive,alpha=1,scope=store", "reads delta_mean"),
    ("alpha=0,uncertainty=base_entropy", "--base-model"),
    ("knowledge=su,alpha=1,scope=store,norm=rank", "--base-model"),
    ("alpha=0,uncertainty=tempered_entropy", "--set entropy_temperature=2"),
    ("alpha=0,uncertainty=etw", "--set entropy_temperature=2"),
    ("knowledge=gain,alpha=0.5,uncertainty=etw", "--base-model and --set entropy_temperature=2"),
])  # fmt: skip
def test_a_column_the_store_lacks_names_the_option_and_changes_nothing(text, option, run_cli, bare):
    before = files(bare)
    line = one_line(run_cli("tu-score", "recipe", bare, "--recipe", text))
    assert str(bare) in line and option in line and files(bare) == before


@pytest.mark.parametrize(("arguments", "expected"), [
    (("--recipe", "knowlege=positive"), "did you mean 'knowledge'"),
    (("--recipe", "knowledge=positve"), "did you mean 'positive'"),
    (("--recipe", "norm=minimax"), "did you mean 'minmax'"),
    (("--recipe", "alpha"), "expected field=value"),
    (("--recipe", "alpha=2"), "alpha is 2.0"),
    (("--recipe", "alpha=0.1", "--set", "alpha=0.2"), "given twice"),
    (("--set", "satimp_beta1=-1"), "satimp_beta1 is -1.0"),
])  # fmt: skip
def test_recipes_that_do_not_fit(arguments, expected, run_cli, store):
    before = files(store)
    assert expected in one_line(run_cli("tu-score", "recipe", store, *arguments)) and files(store) == before


def test_a_run_refuses_a_recipe_it_gives_no_columns_to(run_cli, tiny_model, tmp_path):
    line = ("tu-score", "run", "--model", tiny_model, "--data", DATA, "--out", tmp_path / "out", "--spans", "question", "--set", "alpha=0")
    assert "--base-model" in one_line(run_cli(*line, "--set", "uncertainty=su"))
    assert "--set entropy_temperature" in one_line(run_cli(*line, "--set", "uncertainty=etw"))
    assert not (tmp_path / "out").exists()


def test_a_store_of_before_there_were_words_is_refused_and_taken_token_by_token(run_cli, made, store):
    """Its parts have neither column, which is what earlier versions wrote."""
    kept = [name for name in open_store(store).optional if name not in ("word", "copied")]
    rewrite(open_store(store), lambda table: table.drop_columns(["word", "copied"]), optional=kept)
    before = files(store)
    for text in ("norm=minmax", "unit=word,copies=keep", "unit=token"):
        line = one_line(run_cli("tu-score", "recipe", store, "--recipe", text))
        assert "reads word, copied, which this store does not hold" in line and "or choose another recipe" in line
    assert files(store) == before
    whole = shutil.copytree(made, store.parent / "whole")
    for folder in (store, whole):
        assert run_cli("tu-score", "recipe", folder, "--recipe", "unit=token,copies=keep")[0] == 0
        assert run_cli("tu-score", "verify", folder)[0] == 0
    found, expected = ([row["importance"] for row in open_store(folder).rows()] for folder in (store, whole))
    assert found == expected != [row["importance"] for row in open_store(made).rows()]


def test_the_words_of_a_store_are_those_of_its_answers(made):
    """Spelled from the stored tokens of each word; copied are those that the question holds."""
    seen = set()
    for row, source in zip(open_store(made).rows(), load_rows(DATA), strict=True):
        spelled: dict[int, str] = {}
        for text, target, word, copied in zip(row["tokens"], row["is_target"], row["word"], row["copied"], strict=True):
            assert (copied is None) == (not target) and (word is None or target)
            if word is not None:
                spelled[word] = spelled.get(word, "") + text
        letters = ["".join(c for c in text if c.isalnum()) for text in (*spelled.values(), source.answer)]
        assert all(letters) and "".join(letters[:-1]) == letters[-1]
        assert sorted(spelled) == list(range(len(spelled)))
        assert not any(" " in text.strip() for text in spelled.values())
        asked = {w.strip('?,."').casefold().removesuffix("'s") for w in str(source.question).split()}
        for word, copied in {(w, c) for w, c in zip(row["word"], row["copied"], strict=True) if w is not None}:
            assert copied == (spelled[word].strip().casefold().removesuffix("'s") in asked), spelled[word]
            seen.add(copied)
    assert seen == {True, False}


def test_a_missing_store_is_one_line(run_cli, tmp_path):
    assert "no score store here" in one_line(run_cli("tu-score", "recipe", tmp_path))


def test_a_run_killed_before_its_store_wide_recipe_applies_it_when_given_again(monkeypatch, tiny_model, tiny_base, tmp_path):
    fields = {"scope": "store", "norm": "zscore"}
    whole = make(tmp_path / "whole", tiny_model, tiny_base, **fields)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def killed(*arguments):
            raise KeyboardInterrupt

        patch.setattr(tu_score.run, "apply_recipe", killed)
        make(tmp_path / "killed", tiny_model, tiny_base, **fields)
    half = open_store(tmp_path / "killed")
    assert half.manifest["recipe"] is None and all(v is None for row in half.rows() for v in row["importance"])
    again = make(tmp_path / "killed", tiny_model, tiny_base, **fields)
    parts = {p.name: p.read_bytes() for p in whole.glob("part-*")}
    assert parts == {p.name: p.read_bytes() for p in again.glob("part-*")} and open_store(again).manifest["recipe"]["scope"] == "store"
    apply_recipe(open_store(again), Recipe())
    make(again, tiny_model, tiny_base, **fields)
    assert open_store(again).manifest["recipe"]["scope"] == "example"  # given once more, it leaves a later recipe alone


def test_a_run_over_the_store_without_its_columns_finishes_without_importance(tiny_model, tiny_base, tmp_path, capsys):
    out = make(tmp_path / "out", tiny_model, tiny_base, scope="store", spans="none", limit=2, alpha=0.5)
    assert open_store(out).manifest["recipe"] is None and "no importance was written: the recipe reads delta" in capsys.readouterr().err


def test_a_finished_run_given_again_leaves_a_later_recipe_alone(run_cli, store, tiny_model, tiny_base):
    assert run_cli("tu-score", "recipe", store, "--recipe", RECIPES[2])[0] == 0
    before = files(store)
    make(store, tiny_model, tiny_base)
    assert files(store) == before


def hand(rows: list[dict]) -> pa.Table:
    names = schema().names
    empty = [{name: [None] * len(r["is_target"]) for name in names if name not in ("example_id", "spans")} for r in rows]
    filled = [{**e, "spans": [], "example_id": str(k), **r} for k, (e, r) in enumerate(zip(empty, rows, strict=True))]
    return pa.Table.from_pylist(filled, schema=schema())


def test_a_row_that_no_span_touched_counts_as_no_effect():
    """Entity spans: a question without a name. Its knowledge is 0, its importance is not null."""
    rows = [{"is_target": [False, True, True], "delta": [None, 1.0, 3.0], "entropy": [None, 2.0, 1.0]},
            {"is_target": [False, True, True], "delta": [None, None, None], "entropy": [None, 2.0, 1.0]}]  # fmt: skip
    store = Store("x", {"optional": [], "parts": []})
    found = with_importance(hand(rows), PUBLISHED, Seen(), store)["importance"].to_pylist()
    assert found == [[None, 0.5, 0.5], [None, 0.5, 0.0]]
    sliced = with_importance(hand(rows).slice(1), PUBLISHED, Seen(), store)["importance"].to_pylist()
    assert sliced == found[1:]


def test_a_part_with_torn_columns_is_refused():
    store = Store("x", {"optional": [], "parts": []})
    uneven = hand([{"is_target": [False, True], "delta": [None, 1.0, 2.0], "entropy": [None, 1.0]}])
    with pytest.raises(StoreError, match="unequal length"):
        with_importance(uneven, PUBLISHED, Seen(), store)
    gap = hand([{"is_target": [False, True, True], "delta": [None, 1.0, 2.0], "entropy": [None, 1.0, None]}])
    with pytest.raises(StoreError, match="null at some targets"):
        with_importance(gap, PUBLISHED, Seen(), store)


def test_targets_lie_flat_in_the_order_of_the_store(made):
    table = open_store(made).table(0)
    found = targets_of(table, ["entropy", "absent"])
    rows = table.to_pylist()
    expected = [[v for v, t in zip(r["entropy"], r["is_target"], strict=True) if t] for r in rows]
    assert found.columns["entropy"].tolist() == [v for e in expected for v in e]
    assert found.starts.tolist() == np.cumsum([0, *map(len, expected)]).tolist()
    assert np.isnan(found.columns["absent"]).all() and len(found.columns["absent"]) == found.starts[-1]
    recipe = Recipe(uncertainty="entropy", unit="token", copies="keep")
    alone = importance({"entropy": np.array(expected[1])}, np.array([0, len(expected[1])]), recipe)
    whole = importance(found.columns, found.starts, recipe)
    assert whole[found.starts[1] : found.starts[2]].tolist() == alone.tolist()
