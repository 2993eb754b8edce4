"""`tu-train diagnose` on a tiny model: its gradients are the model's own, its report says what the numbers say, bad
input is one line."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from shared.data.datasets import load_rows
from shared.data.examples import make_examples
from shared.errors import ConfigError, DataError, ModelError, StoreError
from shared.lm.models import load_tokenizer
from shared.store.scores import open_store
from tests.tu_train.conftest import FORGET, RETAIN, ROWS, WORLD, score
from tu_train.diagnose.config import DiagnoseConfig
from tu_train.diagnose.gradients import all_gradients
from tu_train.diagnose.plot import show
from tu_train.diagnose.run import given_weights, run_diagnose, sampled_rows, targets_of, weightings
from tu_train.diagnose.snr import WeightingPair, jackknife, row_sums, snr
from tu_train.diagnose.token_classes import CLASSES, classes_of

LAYER = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def config(target, scores, tmp_path):
    """`config(**fields)`: a small run that is exact to about 1 %, in a new folder."""

    def make(**fields) -> DiagnoseConfig:
        usual = {"model": str(target), "scores": str(scores), "out": str(tmp_path / "out"), "device": "cpu", "rows": 4, "sketch": 8192}
        return DiagnoseConfig(**{**usual, **fields})

    return make


def plain_gradients(folder, sequences, parameter: str | None = None) -> np.ndarray:
    """[N, P] of the NLL of one (token ids, target positions) after the other, by plain transformers, one forward
    each."""
    model, out = AutoModelForCausalLM.from_pretrained(folder), []
    parameters = [p for name, p in model.named_parameters() if parameter in (None, name)]
    for ids, positions in sequences:
        logp = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        nll = -torch.stack([logp[i - 1, ids[i]] for i in positions]).sum()
        out.append(torch.cat([g.flatten() for g in torch.autograd.grad(nll, parameters)]).numpy().astype(np.float64))
    return np.stack(out)


@pytest.fixture(scope="module")
def read(scores):
    """Four rows of the store as (token ids, target positions)."""
    rows = sampled_rows(open_store(scores), DiagnoseConfig(model="", scores=str(scores), rows=4))
    return [(row["input_ids"], targets_of(row)) for row in rows]


def of_tokens(read):
    return [(ids, [i]) for ids, positions in read for i in positions]


class TestGradients:
    NUMBERS = 4096

    def test_sketched_inner_products_are_those_of_the_exact_gradients(self, target, read):
        """All parameters; the root of the mean square error over all pairs of tokens stays within the sketch's
        bound."""
        model = AutoModelForCausalLM.from_pretrained(target)
        found = all_gradients(model, read, [], train_only=(), numbers=self.NUMBERS, seed=0)
        exact = plain_gradients(target, of_tokens(read))
        assert found.about["parameters"] == exact.shape[1] > 10 * self.NUMBERS
        lengths = np.linalg.norm(exact, axis=1)
        error = (found.gradient_NK @ found.gradient_NK.T - exact @ exact.T) / np.outer(lengths, lengths)
        assert np.sqrt(np.square(error).mean()) < np.sqrt(2 / (self.NUMBERS - 1))

    def test_snr_from_sketches_is_that_from_the_exact_gradients(self, target, read):
        model = AutoModelForCausalLM.from_pretrained(target)
        found = all_gradients(model, read, [], train_only=(LAYER,), numbers=self.NUMBERS, seed=0)
        exact = plain_gradients(target, of_tokens(read), LAYER)
        assert found.about["parameters"] == exact.shape[1] == 64 * 128
        values = []
        for gradient in (found.gradient_NK, exact):
            sums = row_sums(gradient, np.ones(len(exact)), found.row_N, 4)
            values.append(jackknife(lambda kept, sums=sums: snr(WeightingPair.of(sums, sums), kept), 4)[0])
        assert values[0] == pytest.approx(values[1], rel=0.2, abs=0.02)

    def test_each_token_belongs_to_its_row(self, target, read):
        found = all_gradients(AutoModelForCausalLM.from_pretrained(target), read, [], train_only=(LAYER,), numbers=31, seed=0)
        assert found.row_N.tolist() == [r for r, (_, positions) in enumerate(read) for _ in positions]
        assert found.retain is None and found.rows == 4

    def test_a_retain_row_is_the_gradient_of_its_sum(self, target, read):
        retain = [(e.input_ids, e.targets) for e in make_examples(load_rows(RETAIN), load_tokenizer(target), context=512)[:3]]
        model = AutoModelForCausalLM.from_pretrained(target)
        found = all_gradients(model, read[:1], retain, train_only=(LAYER,), numbers=self.NUMBERS, seed=0).retain
        exact = plain_gradients(target, retain, LAYER)
        assert found is not None and found.weight_R.tolist() == [len(targets) for _, targets in retain]
        scale = np.linalg.norm(exact, axis=1)
        error = (found.sums_RK @ found.sums_RK.T - exact @ exact.T) / np.outer(scale, scale)
        assert np.abs(error).max() < 5 * np.sqrt(2 / (self.NUMBERS - 1))

    def test_broken_weights_are_refused(self, target, read):
        model = AutoModelForCausalLM.from_pretrained(target)
        model.get_parameter(LAYER).register_hook(lambda gradient: gradient * float("nan"))
        with pytest.raises(ModelError, match="not finite"):
            all_gradients(model, read[:1], [], train_only=(LAYER,), numbers=31, seed=0)


class TestReport:
    @pytest.fixture(scope="class")
    def report(self, target, scores, tmp_path_factory):
        out = tmp_path_factory.mktemp("diagnose") / "out"
        fields = {"rows": ROWS, "retain": RETAIN, "retain_rows": 5, "given_key": "fact_spans", "sketch": 1024, "device": "cpu"}
        assert run_diagnose(DiagnoseConfig(model=str(target), scores=str(scores), out=str(out), **fields)) == out
        return out, json.loads((out / "diagnose.json").read_text())

    def test_it_names_what_was_measured(self, report, scores):
        out, result = report
        assert {p.name for p in out.iterdir()} == {"diagnose.json", "_config.toml", "snr.png"}
        assert (out / "snr.png").read_bytes()[:4] == b"\x89PNG"
        assert result["store"] == open_store(scores).sha256
        assert (result["rows"], result["retain_rows"], result["sketch"]) == (ROWS, 5, 1021)
        assert result["tokens"] == sum(sum(row["is_target"]) for row in open_store(scores).rows())

    def test_every_weighting_and_class_has_every_measure(self, report):
        _, result = report
        assert list(result["weightings"]) == ["all", "hard", "soft", "random", "given"]
        measures = {"tokens", "snr", "gain", "aimed_gain", "ideal_gain", "conflict_share", "cosine"}
        for entry in result["weightings"].values():
            assert set(entry) == measures | {"classes"}
            assert sum(entry["classes"].values()) == pytest.approx(1)
        for entry in result["classes"].values():
            assert set(entry) == measures | {"weight"}
        assert set(result["classes"]) <= set(CLASSES) and "end" in result["classes"]
        assert sum(entry["weight"] for entry in result["classes"].values()) == pytest.approx(1)

    def test_uniform_weights_gain_nothing_and_random_ones_weigh_as_many_tokens_as_hard(self, report):
        weightings = report[1]["weightings"]
        assert weightings["all"]["gain"] == [1.0, 0.0]
        assert weightings["random"]["tokens"] == weightings["hard"]["tokens"] < weightings["all"]["tokens"]

    def test_it_repeats_to_the_bit(self, report, target, scores, tmp_path):
        _, result = report
        settings = {**result["settings"], "out": str(tmp_path / "again")}
        again = json.loads((run_diagnose(DiagnoseConfig(**settings)) / "diagnose.json").read_text())
        assert {k: v for k, v in again.items() if k != "settings"} == {k: v for k, v in result.items() if k != "settings"}

    def test_without_retain_data_conflict_is_left_out(self, config, capsys):
        result = json.loads((run_diagnose(config(rows=3, train_only=(LAYER,), sketch=64)) / "diagnose.json").read_text())
        assert set(result["weightings"]["hard"]) == {"tokens", "snr", "gain", "classes"}
        assert "conflict" not in capsys.readouterr().out

    def test_rows_that_are_in_both_sets_are_left_out_of_retain(self, config, capsys):
        with pytest.raises(DataError, match="0 rows that are no forget rows"):
            run_diagnose(config(rows=ROWS, retain=FORGET))
        assert "are forget rows too; they are left out" in capsys.readouterr().err


class TestWeightings:
    def test_they_are_those_of_training(self, scores, target):
        fields = DiagnoseConfig(model=str(target), scores=str(scores), rows=ROWS, keep=0.5)
        rows = sampled_rows(open_store(scores), fields)
        assert [row["example_id"] for row in rows] == [row["example_id"] for row in open_store(scores).rows()]
        found = weightings(rows, fields, fields.selections)
        at = 0
        for row in rows:
            here = slice(at, at := at + len(targets_of(row)))
            values = np.array([row["importance"][i] for i in targets_of(row)])
            kept = np.flatnonzero(found["hard"][here])
            word = np.array([np.nan if row["word"][i] is None else row["word"][i] for i in targets_of(row)])
            assert 0 < len(kept) <= -(-len(values) // 2) and len(kept) == found["random"][here].sum()
            assert values[kept].min() >= np.delete(values, kept).max()
            assert set(word[kept]).isdisjoint(set(np.delete(word, kept)) - {np.nan}), "no word is cut"
            assert found["soft"][here].sum() == pytest.approx(len(values), rel=1e-5)

    def test_given_ones_are_on_the_tokens_of_the_true_spans(self, config, target):
        settings = config(rows=ROWS, given_key="fact_spans")
        store, tokenizer = open_store(settings.scores), load_tokenizer(target)
        rows = sampled_rows(store, settings)
        found = iter(given_weights(store, rows, tokenizer, settings))
        truth = {e.id: e.row for e in make_examples(load_rows(FORGET), tokenizer, context=512)}
        for row in rows:
            marked = "".join(row["tokens"][i] for i in targets_of(row) if next(found)).strip()
            facts = [truth[row["example_id"]].answer[start:end] for start, end in truth[row["example_id"]].extra["fact_spans"]]
            assert marked.startswith(facts[0]) and len(marked) <= sum(map(len, facts)) + 4

    def test_another_seed_draws_other_rows(self, scores):
        store = open_store(scores)
        drawn = {
            tuple(row["example_id"] for row in sampled_rows(store, DiagnoseConfig(model="", scores="", rows=3, seed=seed)))
            for seed in range(6)
        }
        assert len(drawn) > 1 and all(len(set(names)) == 3 for names in drawn)


class TestBadInput:
    """One line, before any gradient, nothing written."""

    @pytest.fixture(autouse=True)
    def no_gradients(self, monkeypatch, tmp_path):
        monkeypatch.setattr("tu_train.diagnose.run.all_gradients", lambda *_, **__: pytest.fail("went on to the gradients"))
        yield
        assert not (tmp_path / "out").exists()

    def test_the_store_of_another_model(self, config, tiny_base):
        with pytest.raises(StoreError, match=r"another model than .* score this model"):
            run_diagnose(config(model=str(tiny_base)))

    def test_no_retain_rows(self, config, tmp_path):
        empty = tmp_path / "empty.jsonl"
        empty.write_text("")
        with pytest.raises(DataError, match=r"empty\.jsonl"):
            run_diagnose(config(retain=str(empty)))

    def test_too_few_retain_rows(self, config, tmp_path):
        two = tmp_path / "two.jsonl"
        two.write_text("".join(json.dumps({"question": f"Who is {name}?", "answer": "A friend."}) + "\n" for name in ("Ann", "Ben")))
        with pytest.raises(DataError, match="2 rows that are no forget rows, expected at least 3"):
            run_diagnose(config(retain=str(two)))

    def test_a_column_that_is_not_there(self, config):
        with pytest.raises(DataError, match=r"no column 'spans' .*--given-key"):
            run_diagnose(config(given_key="spans"))

    def test_true_spans_of_other_data(self, config):
        with pytest.raises(StoreError, match=r"--set forget_data"):
            run_diagnose(config(given_key="fact_spans", forget_data=RETAIN))

    def test_a_threshold_that_no_token_reaches(self, config):
        rows = [{"is_target": [False, True], "importance": [None, 0.2], "example_id": "a"}]
        with pytest.raises(ConfigError, match=r"--set threshold=0.5: no token of the 1 rows"):
            weightings(rows, c := config(threshold=0.5), c.selections)

    def test_a_store_without_importance(self, target, tmp_path):
        folder = score(target, tmp_path / "plain", spans="none", alpha=1.0)
        with pytest.raises(StoreError, match="holds no importance"):
            run_diagnose(DiagnoseConfig(model=str(target), scores=str(folder), out=str(tmp_path / "out"), device="cpu"))

    def test_a_store_of_two_rows(self, target, tmp_path):
        folder = score(target, tmp_path / "short", limit=2)
        with pytest.raises(StoreError, match="holds 2 rows, diagnose needs at least 3"):
            run_diagnose(DiagnoseConfig(model=str(target), scores=str(folder), out=str(tmp_path / "out"), device="cpu"))

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"rows": 2}, "rows is 2, expected at least 3"),
            ({"retain_rows": 1}, "retain_rows is 1"),
            ({"sketch": 8}, "sketch is 8, expected at least 16"),
            ({"keep": 0.3, "top": 2}, "--keep and --set top"),
            ({"forget_data": "x"}, "no --given-key"),
        ],
    )
    def test_options(self, config, fields, message):
        with pytest.raises(ConfigError, match=message):
            config(**fields)


def test_parameters_that_do_not_exist_are_refused(config):
    with pytest.raises(ConfigError, match=r"--set train_only: 'model.layers.9.*' matches no parameter; near names: "):
        run_diagnose(config(train_only=("model.layers.9.*",)))


def test_rows_of_several_stores_come_one_after_another(config, scores, target, tmp_path):
    other = score(target, tmp_path / "other", data=f"atlas:holdout:{WORLD}")
    out = tmp_path / "both"
    run_diagnose(config(scores=(str(scores), str(other)), rows=3, given_key="fact_spans", out=str(out)))
    both = json.loads((out / "diagnose.json").read_text())
    alone = [json.loads((run_diagnose(config(scores=str(s), rows=3, given_key="fact_spans", out=str(tmp_path / s.parent.name)))
                         / "diagnose.json").read_text()) for s in (scores, other)]  # fmt: skip
    assert both["rows"] == 6 and both["tokens"] == sum(one["tokens"] for one in alone)
    assert both["store"] not in {one["store"] for one in alone} and len(both["store"]) == 64
    with pytest.raises(ConfigError, match="forget_data: got 3 values for 2 stores"):
        config(scores=("a", "b"), forget_data=("x", "y", "z"), given_key="fact_spans")


def test_the_command(run_cli, target, scores, tmp_path):
    common = ("--model", target, "--scores", scores, "--device", "cpu", "--rows", 3, "--set", f"train_only={LAYER}", "--set", "sketch=64")
    out = tmp_path / "out"
    code, stdout, _ = run_cli("tu-train", "diagnose", *common, "--retain", RETAIN, "--given-key", "fact_spans", "--out", out)
    assert code == 0 and f"diagnosis: {out}" in stdout
    assert {"all", "hard", "soft", "random", "given", "end"} <= {line.split()[0] for line in stdout.splitlines() if line.strip()}
    code, _, err = run_cli("tu-train", "diagnose", *common, "--out", out)
    assert code == 2 and err.splitlines()[-1].startswith("error: ") and "already holds files" in err


class TestClasses:
    def test_of_each_kind(self):
        pieces = ["The", " book", " of", " Ma", "rie", " O", "'", "Neil", ",", " 19", "84", "th", ".", "<|im_end|>"]
        kinds = classes_of(pieces, [False] * 13 + [True])
        name = ["name"] * 5
        assert kinds == ["function", "other", "function", *name, "punctuation", "number", "number", "number", "punctuation", "end"]

    def test_a_token_over_two_words_counts_to_the_first(self):
        assert classes_of(["is Ma", "rie"], [False, False]) == ["function", "name"]

    def test_a_special_tokens_text_is_no_word(self):
        assert classes_of(["a", "<|end|>", "b"], [False, True, False]) == ["other", "end", "other"]


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "—"), ([1.2345, 0.0321], "1.23 ± 0.032"), ([1.5, None], "1.5 ± ?"), (2.5, "2.5"), (3, "3")]
)
def test_numbers_in_the_table(value, shown):
    assert show(value) == shown
