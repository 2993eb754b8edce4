"""Scores from Python: what training would use, what a recipe would write, what the store holds."""

import numpy as np
import pytest

import tu_score
from shared.errors import ConfigError, StoreError
from shared.store.scores import open_store
from shared.weighting.importance import Recipe
from shared.weighting.selection import Selection
from tests.conftest import build_sentencepiece
from tu_score import ScoreConfig, Scores, open_scores, score
from tu_train.data.batches import columns_to_read, item_of_row

SPANISH = "atlas:forget:language=es"
SMALL = {"limit": 8, "device": "cpu", "part_tokens": 150}


@pytest.fixture(scope="module", params=["byte level", "sentencepiece", "Spanish"])
def scores(request, tiny_model, make_tiny, tmp_path_factory) -> Scores:
    """A store in several parts."""
    folder, model = tmp_path_factory.mktemp("interface") / "scores", tiny_model
    if request.param == "sentencepiece":
        import shutil

        model = shutil.copytree(tiny_model, folder.parent / "model")
        build_sentencepiece().save_pretrained(model)
    data = SPANISH if request.param == "Spanish" else "atlas:forget"
    made = score(model=model, data=data, out=folder, **SMALL)
    assert len(made.store.manifest["parts"]) > 1
    return made


CHOICES = [
    {"tokens": "all"}, {"tokens": "hard"}, {"tokens": "hard", "keep": 0.3}, {"tokens": "hard", "keep": "auto"},
    {"tokens": "hard", "top": 2},
    {"tokens": "hard", "threshold": 0.4}, {"tokens": "hard", "keep": 0.4, "whole_words": False}, {"tokens": "soft"},
    {"tokens": "soft", "soft": "linear"}, {"tokens": "soft", "temperature": 0.1}, {"tokens": "random", "keep": 0.5, "seed": 3},
]  # fmt: skip


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_weights_are_those_that_training_uses(scores, choice):
    from shared.store.auto_keep import settled

    found = scores.weights(**choice)
    selection = settled(Selection(**choice), scores.store).selection
    rows = list(scores.store.rows(columns_to_read(scores.store)))
    assert len(found) == len(rows) == len(scores)
    for weights, row in zip(found, rows, strict=True):
        item, expected = item_of_row(row, selection=selection, where=""), np.zeros(len(row["input_ids"]), dtype=np.float32)
        expected[item.positions] = item.weights
        assert weights.dtype == np.float32 and np.array_equal(weights, expected)
    assert sum(map(np.sum, found)) > 0


def test_given_tokens_get_weight_one(scores):
    first = {row["example_id"]: row["is_target"].index(True) for row in scores.rows(["example_id", "is_target"])}
    found = scores.weights("given", given={name: [at] for name, at in first.items()})
    assert [np.flatnonzero(w).tolist() for w in found] == [[at] for at in first.values()]
    with pytest.raises(ConfigError, match="go together"):
        scores.weights("given")
    with pytest.raises(StoreError, match="none of the examples in `given`"):
        scores.weights("given", given={"another": [1]})


def test_the_stored_importance_comes_as_it_is(scores):
    for values, row in zip(scores.importance(), scores.rows(["importance"]), strict=True):
        assert values.dtype == np.float32
        assert np.array_equal(values, np.array([np.nan if v is None else v for v in row["importance"]], np.float32), equal_nan=True)


@pytest.mark.parametrize("recipe", ["uncertainty=entropy,norm=rank", "uncertainty=learned", "uncertainty=wga,scope=store"])
def test_importance_by_a_recipe_is_what_rewriting_gives_and_the_store_stays(scores, recipe, tmp_path, run_cli):
    import shutil

    before = scores.store.sha256
    copy = shutil.copytree(scores.folder, tmp_path / "copy")
    assert run_cli("tu-score", "recipe", copy, "--recipe", recipe)[0] == 0
    expected = open_scores(copy).importance()
    settings = dict(setting.split("=") for setting in recipe.split(","))
    for asked in (recipe, settings, Recipe(**settings)):
        for found, other in zip(scores.importance(asked), expected, strict=True):
            assert np.array_equal(found, other, equal_nan=True)
    assert open_store(scores.folder).sha256 == before


def test_tables_have_a_row_an_example_or_a_token(scores):
    examples, tokens = scores.to_pandas(), scores.to_pandas("token")
    rows = list(scores.rows())
    assert examples.columns.tolist() == scores.columns and len(examples) == len(scores)
    assert examples.tokens.map(list).tolist() == [row["tokens"] for row in rows]
    expected = [
        (row["example_id"], i, row["input_ids"][i], row["tokens"][i], row["importance"][i])
        for row in rows
        for i in range(len(row["tokens"]))
    ]
    found = tokens[["example_id", "position", "input_ids", "tokens", "importance"]].itertuples(index=False)
    for got, wanted in zip(found, expected, strict=True):
        assert tuple(got)[:4] == wanted[:4] and (np.isnan(got[4]) if wanted[4] is None else got[4] == np.float32(wanted[4]))
    assert "spans" in examples and "spans" not in tokens
    few = scores.to_pandas("token", ["importance"])
    assert few.columns.tolist() == ["example_id", "position", "importance"]
    assert scores.to_pandas(columns=["importance", "example_id"]).columns.tolist() == ["importance", "example_id"]


def test_the_command_is_the_function(tiny_model, tmp_path, run_cli):
    asked = {"model": tiny_model, "data": "atlas:forget", "limit": 2, "device": "cpu"}
    by_name = score(**asked, out=tmp_path / "by_name")
    by_config = score(
        ScoreConfig(model=str(tiny_model), data="atlas:forget", out="elsewhere", limit=2, device="cpu"), out=tmp_path / "config"
    )
    words = [word for name, value in asked.items() for word in (f"--{name}", value)]
    assert run_cli("tu-score", "run", *words, "--out", tmp_path / "command")[0] == 0
    parts = [[part["sha256"] for part in each.store.manifest["parts"]] for each in (by_name, by_config, open_scores(tmp_path / "command"))]
    assert parts[0] == parts[1] == parts[2]
    assert repr(by_name).endswith(f"2 examples, {by_name.store.manifest['tokens']} tokens)") and len(by_name) == 2


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda s: score(modle="m", data="d", out="o"), "score: unknown field 'modle' (did you mean 'model'?)"),
        (lambda s: score(model="m", out="o"), "score: data is missing (the forget set: tofu:forget01"),
        (lambda s: score(model="m", data="d", out="o", limit="many"), "score: limit: got 'many', expected int"),
        (lambda s: score("m"), "score: its first argument is a str, expected a ScoreConfig, or settings by name"),
        (lambda s: score(model="m", data="d", out="o", shard="1/2"), "score: shard=1/2 makes no store by itself"),
        (lambda s: s.weights("hrd"), "Scores.weights: tokens: got 'hrd' (did you mean 'hard'?)"),
        (lambda s: s.weights("all", keep=0.3), "--keep is for --tokens hard"),
        (lambda s: s.weights(keep=3.0), "keep"),
        (lambda s: s.to_pandas("tokens"), "per is 'tokens' (did you mean 'token'?)"),
        (lambda s: s.to_pandas(columns=["logprobs"]), "has no column 'logprobs' (did you mean 'logprob'?)"),
        (lambda s: s.importance("uncertainty=entropi"), "entropi"),
        (lambda s: s.importance({"norms": "rank"}), "Scores.importance: unknown field 'norms' (did you mean 'norm'?)"),
        (lambda s: open_scores("nowhere"), "nowhere: no score store here"),
    ],
)
def test_mistakes_get_one_line(scores, call, said):
    with pytest.raises((ConfigError, StoreError)) as caught:
        call(scores)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_damage_is_found_when_a_part_is_read(scores, tmp_path):
    import shutil

    copy = open_scores(shutil.copytree(scores.folder, tmp_path / "copy"))
    part = copy.folder / copy.store.manifest["parts"][-1]["file"]
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    for read in (copy.weights, copy.importance, copy.to_pandas, lambda: list(copy.rows())):
        with pytest.raises(StoreError, match=part.name):
            read()


def test_the_names_are_there_and_no_others():
    assert {"score", "open_scores", "Scores", "ScoreConfig"} <= set(dir(tu_score))
    with pytest.raises(AttributeError, match="no attribute 'scoer'"):
        tu_score.scoer  # noqa: B018
