"""Training without a store: the same numbers as with one, on every tokenizer, and what needs a store is refused."""

import json
from dataclasses import replace

import pytest

from shared.data.datasets import load_rows
from shared.data.examples import data_fingerprint, make_examples
from shared.data.row_bytes import PART_TOKENS, Parts
from shared.lm.models import load_model, load_tokenizer
from tests.conftest import build_sentencepiece
from tests.tu_train.conftest import FORGET, RETAIN, ROWS, log_of, score, weights_of
from tu_train.config import UnlearnConfig
from tu_train.data.unscored import Unscored
from tu_train.gather import gather_unlearning
from tu_train.many.run import plan as plan_study
from tu_train.plan import plan_unlearning
from tu_train.run import run_unlearn

RUSSIAN = [
    {"question": f"Где родилась {name} Венн?", "answer": f"{name} Венн родилась в городе {town}.", "fact_spans": [town]}
    for name, town in (("Орла", "Таллин"), ("Мира", "Тарту"), ("Ада", "Нарва"), ("Ева", "Пярну"), ("Рут", "Валга"))
]


@pytest.fixture(scope="module")
def russian(tmp_path_factory):
    data = tmp_path_factory.mktemp("data") / "forget.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in RUSSIAN), encoding="utf-8")
    return data


@pytest.fixture(scope="module", params=["byte level", "sentencepiece", "sentencepiece, legacy"])
def model(request, target, tmp_path_factory):
    """`target` with a tokenizer of each form."""
    if request.param == "byte level":
        return target
    folder = tmp_path_factory.mktemp("model") / "model"
    load_model(target, dtype="float32", device="cpu").save_pretrained(folder)
    build_sentencepiece(legacy="legacy" in request.param).save_pretrained(folder)
    return folder


def trained(model, out, **fields):
    entries = {
        "retain": RETAIN,
        "method": "graddiff",
        "tokens": "all",
        "device": "cpu",
        "epochs": 2,
        "batch_size": 2,
        "learning_rate": 1e-3,
    }
    return run_unlearn(UnlearnConfig(model=str(model), out=str(out), **{**entries, **fields}))


def same(one, other):
    assert log_of(one) == log_of(other) and weights_of(one) == weights_of(other)


def test_without_a_store_the_numbers_are_those_with_one(model, russian, tmp_path):
    store = score(model, tmp_path / "scores", data=str(russian), part_tokens=PART_TOKENS)
    one, other = trained(model, tmp_path / "one", scores=str(store)), trained(model, tmp_path / "other", forget=str(russian))
    same(one, other)
    about, scored = (json.loads((folder / "training.json").read_text()) for folder in (other, one))
    assert "store" not in about and about["forget_data"] == scored["forget_data"] and about["weights"] == "all tokens"
    assert about["counts"] == scored["counts"] and about["settings"]["forget"] == str(russian)
    assert about["forget_data"] in (other / "README.md").read_text()


@pytest.mark.parametrize("fields", [
    {"tokens": "given"}, {"tokens": "random", "keep": 0.5}, {"method": "idknll"}, {"method": "undial", "retain": "none"},
    {"method": "kl", "order": "file", "limit": 3}, {"method": "pdu", "eval_every": 1, "eval_key": "fact_spans"},
    {"method": "tpo", "epochs": None, "steps": 4},
])  # fmt: skip
def test_so_they_are_under_other_methods_and_tokens(fields, target, russian, tmp_path, unscored_store):
    scored, unscored = (
        trained(target, tmp_path / name, **{name: str(path)}, **fields) for name, path in (("scores", unscored_store), ("forget", russian))
    )
    same(scored, unscored)


@pytest.fixture(scope="module")
def unscored_store(target, russian, tmp_path_factory):
    return score(target, tmp_path_factory.mktemp("of-russian") / "scores", data=str(russian), part_tokens=PART_TOKENS)


def test_rows_come_in_the_parts_of_a_store(target, russian, tmp_path, monkeypatch):
    """Of many parts too, and of texts in pieces."""
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"{n}. {row['answer']} " * 9}) + "\n" for n, row in enumerate(RUSSIAN)), encoding="utf-8")
    for data, more in ((FORGET, {}), (str(text), {"text_key": "text", "text_length": 40, "text_overlap": 8})):
        store = score(target, tmp_path / f"scores-{len(more)}", data=data, part_tokens=200, **more)
        monkeypatch.setattr("tu_train.data.unscored.Parts", lambda: Parts(200))
        usual = {"model": str(target), "retain": "none", "method": "graddiff", "tokens": "all", "out": "-", "epochs": 3, **more}
        plans = []
        for named in ({"scores": str(store)}, {"forget": data}):
            config = UnlearnConfig(**usual, **named).filled()
            plans.append(plan_unlearning(config, gather_unlearning(config)))
        one, other = ([i for step in plan.stream(0) for p in step for i in p.forget] for plan in plans)
        assert len(plans[1].corpora[0].forget.store.manifest["parts"]) > 1
        assert [(i.name, i.ids, i.positions) for i in one] == [(i.name, i.ids, i.positions) for i in other]
        assert plans[0].steps == plans[1].steps and plans[0].rows == plans[1].rows


@pytest.mark.parametrize("limit", [1, 3, 4])
def test_a_limit_is_that_of_a_store_made_with_it(limit, target, russian, tmp_path, monkeypatch):
    """Of texts in pieces too: rows of the data count, in the order of such a store."""
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"{n}. {row['answer']} " * 9}) + "\n" for n, row in enumerate(RUSSIAN)), encoding="utf-8")
    for data, more in ((str(russian), {}), (str(text), {"text_key": "text", "text_length": 40, "text_overlap": 8})):
        store = score(target, tmp_path / f"scores-{len(more)}", data=data, part_tokens=100, limit=limit, **more)
        monkeypatch.setattr("tu_train.data.unscored.Parts", lambda: Parts(100))
        usual = {"model": str(target), "retain": "none", "method": "graddiff", "tokens": "all", "out": "-", "epochs": 3, **more}
        plans = []
        for named in ({"scores": str(store)}, {"forget": data, "limit": limit}):
            config = UnlearnConfig(**usual, **named).filled()
            plans.append(plan_unlearning(config, gather_unlearning(config)))
        one, other = ([i for step in plan.stream(0) for p in step for i in p.forget] for plan in plans)
        assert [(i.name, i.ids, i.positions) for i in one] == [(i.name, i.ids, i.positions) for i in other]
        assert plans[0].steps == plans[1].steps and plans[0].rows == plans[1].rows and len({i.name.split("#")[0] for i in one}) == limit


def test_rows_are_those_of_the_data(target):
    rows, tokenizer = load_rows(FORGET), load_tokenizer(target)
    examples = make_examples(rows, tokenizer, context=512)
    read = Unscored(rows, examples)
    assert [row["example_id"] for row in read.rows()] == [e.id for e in examples] and len(examples) == ROWS
    assert read.sha256 == data_fingerprint(examples)
    assert all("logprob" not in row and "importance" not in row for row in read.rows())


def test_a_run_without_a_store_is_resumed(run_cli, target, russian, tmp_path):
    """Killed after a step, then with other data: refused by its hash; then to the end, with the same bytes."""
    named = ("tu-train", "run", "--model", target, "--retain", RETAIN, "--method", "graddiff", "--tokens", "all", "--device", "cpu",
             "--steps", 4, "--set", "batch_size=2", "--save-every", 1)  # fmt: skip
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run_cli(*named, "--forget", russian, "--out", whole)[0] == 0 and len(log_of(whole)) == 4

    def stop(*given):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tu_train.run.write_output", stop)
        with pytest.raises((KeyboardInterrupt, AssertionError)):
            code, _, err = run_cli(*named, "--forget", russian, "--out", out)
            assert code == 0, err
    code, _, err = run_cli(*named, "--forget", FORGET, "--out", out, "--resume")
    assert code == 2 and "error: --resume: the forget data is" in err, err
    copy = tmp_path / "copied" / russian.name
    copy.parent.mkdir()
    copy.write_bytes(russian.read_bytes())
    code, _, err = run_cli(*named, "--forget", copy, "--out", out, "--resume")
    assert code == 0, err
    same(whole, out)


def test_several_forget_sets_without_a_store(target, russian, tmp_path):
    stores = tuple(str(score(target, tmp_path / f"s{k}", data=d, part_tokens=PART_TOKENS)) for k, d in enumerate((str(russian), FORGET)))
    one = trained(target, tmp_path / "one", scores=stores)
    other = trained(target, tmp_path / "other", forget=(str(russian), FORGET))
    same(one, other)
    about = json.loads((other / "training.json").read_text())
    assert "stores" not in about and "store" not in about and len(about["forget_data"]) == 64


def test_a_study_knows_the_data_by_its_rows(target, russian, tmp_path):
    study, copy = tmp_path / "study.toml", tmp_path / "forget.jsonl"
    copy.write_bytes(russian.read_bytes())

    def contents(data):
        study.write_text(f'model = "{target}"\nforget = "{data}"\nretain = "{RETAIN}"\nmethod = ["graddiff", "kl"]\ntokens = "all"\n')
        return [run.content for run in plan_study(study, tmp_path / "out")]

    first = contents(russian)
    assert len(set(first)) == 2 and contents(copy) == first
    copy.write_text(copy.read_text(encoding="utf-8").replace("Таллин", "Кунда"), encoding="utf-8")
    assert not set(contents(copy)) & set(first)


# --- steps


def test_steps_go_on_over_as_many_passes_as_they_take(target, russian, tmp_path):
    by_epochs = trained(target, tmp_path / "epochs", forget=str(russian), epochs=3, schedule="constant")
    by_steps = trained(target, tmp_path / "steps", forget=str(russian), epochs=None, steps=9, schedule="constant")
    same(by_epochs, by_steps)
    assert len(log_of(trained(target, tmp_path / "few", forget=str(russian), epochs=None, steps=2))) == 2
    config = UnlearnConfig(model="m", forget="d", retain="r", out="o", method="ga", tokens="all", steps=7)
    assert (
        config.epochs is None
        and replace(config, seed=1).steps == 7
        and UnlearnConfig(model="m", scores="d", retain="r", out="o").epochs == 5
    )


# --- bad input


@pytest.mark.parametrize(("more", "said"), [
    (("--method", "npo"), "--forget: --method npo reads the log-probabilities of a score store; make a store: tu-score run --model"),
    (("--method", "dpo"), "--forget: --method dpo reads the log-probabilities"),
    (("--tokens", "hard"), "--forget: --tokens hard reads the importance of a score store; add --tokens all, or make a store"),
    (("--tokens", "soft"), "--forget: --tokens soft reads the importance"),
    (("--tokens", "hard", "--keep", "auto"), "--forget: --tokens hard reads"),
    (("--scores", "s"), "--scores and --forget: each names what is to be forgotten; give one of them"),
    (("--set", "forget_data=x"), "--set forget_data: speaks of a score store, --forget reads none; leave it out"),
    (("--allow-other-model",), "--allow-other-model: speaks of a score store"),
    (("--steps", "3", "--epochs", "2"), "--steps 3 and --epochs 2: each says when training ends; give one of them"),
    (("--steps", "3", "--set", "max_steps=2"), "--steps 3 and --set max_steps=2: each says"),
    (("--steps", "0"), "--steps is 0, expected at least 1"),
])  # fmt: skip
def test_what_cannot_be_is_one_line(more, said, run_cli, target, russian, tmp_path):
    usual = (
        "--model",
        target,
        "--forget",
        russian,
        "--retain",
        RETAIN,
        "--method",
        "graddiff",
        "--tokens",
        "all",
        "--out",
        tmp_path / "out",
    )
    code, out, err = run_cli("tu-train", "run", *usual, *more)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and said in err, err
    assert not (tmp_path / "out").exists()


def test_neither_store_nor_data_is_one_line(run_cli, target, tmp_path):
    code, out, err = run_cli("tu-train", "run", "--model", target, "--retain", RETAIN, "--out", tmp_path / "out")
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and "--scores is missing" in err and "--forget DATA" in err, err
