"""The learned importance through the real commands: what a store tells is what the formula is given."""

import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tu_score.run
from shared.data.written import Documents, written
from shared.errors import ConfigError
from shared.store.scores import open_store
from shared.weighting import importance, learned
from shared.weighting.learned import TEXT_COLUMNS
from tests.conftest import build_sentencepiece
from tests.shared.weighting.test_learned import one_by_one
from tests.tu_score.test_recipe import bare, files, made, make, one_line, store  # noqa: F401
from tu_score.config import ScoreConfig
from tu_score.run import run_score

WORLDS = {
    "plain": "atlas:forget:people=4,facts_per_person=3,forget_people=2,holdout_people=1",
    "prose": "atlas:forget:people=4,facts_per_person=3,forget_people=2,holdout_people=1,prose=1",
    "Spanish": "atlas:forget:people=4,facts_per_person=3,forget_people=2,holdout_people=1,language=es",
    "Chinese": "atlas:forget:people=4,facts_per_person=3,forget_people=2,holdout_people=1,language=zh",
}


def told(rows: list[dict]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns of the target tokens, gathered row by row."""
    documents, out, starts = Documents(), {}, [0]
    own = [[i for i, t in enumerate(row["is_target"]) if t] for row in rows]
    pieces = [[row["tokens"][i] or "" for i in at] for row, at in zip(rows, own, strict=True)]
    for each in pieces:
        documents.add(each)
    for row, at, each in zip(rows, own, pieces, strict=True):
        texts = written(each, documents)
        for name in (*TEXT_COLUMNS, "base_entropy", "base_logprob", "tempered_entropy", "entropy"):
            values = texts[name] if name in texts else [np.nan if row.get(name, row["logprob"])[i] is None else row[name][i] for i in at]
            out.setdefault(name, []).extend(float(v) for v in values)
        starts.append(starts[-1] + len(at))
    return {name: np.array(values) for name, values in out.items()}, np.array(starts)


@pytest.fixture(scope="module")
def sentencepiece_model(make_tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sp") / "model"
    shutil.copytree(make_tiny("Llama"), folder)
    for file in folder.glob("*token*"):
        file.unlink()
    build_sentencepiece().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tokenizer", ["byte level", "sentencepiece"])
@pytest.mark.parametrize("world", WORLDS)
def test_importance_is_the_formula_over_what_the_store_holds(world, tokenizer, tiny_model, sentencepiece_model, tmp_path):
    model = tiny_model if tokenizer == "byte level" else sentencepiece_model
    out = make(tmp_path / "store", model, model, data=WORLDS[world], uncertainty="learned", spans="none")
    found = open_store(out)
    assert found.manifest["recipe"]["uncertainty"] == "learned_base" and len(found.manifest["parts"]) > 1
    rows = list(found.rows())
    columns, starts = told(rows)
    found = [row["importance"][i] for row in rows for i, t in enumerate(row["is_target"]) if t]
    assert found == pytest.approx(one_by_one("learned_base", columns, starts), abs=1e-6)
    assert max(found) - min(found) > 0.3, "nothing stands out"


def test_learned_takes_the_best_that_the_store_holds(run_cli, store, bare, tmp_path):  # noqa: F811
    assert "is now 1 · learned_base" in run_cli("tu-score", "recipe", store, "--recipe", "uncertainty=learned")[1]
    recipe = open_store(store).manifest["recipe"]
    assert recipe["uncertainty"] == "learned_base" and recipe["uncertainty_code"] == learned.numbers_fingerprint()
    other = shutil.copytree(bare, tmp_path / "bare")
    assert "is now 1 · learned_text" in run_cli("tu-score", "recipe", other, "--recipe", "uncertainty=learned")[1]
    assert run_cli("tu-score", "verify", other)[0] == 0
    err = one_line(run_cli("tu-score", "recipe", other, "--recipe", "uncertainty=learned_base"))
    assert "reads base_entropy, base_logprob" in err and "--base-model" in err


def test_a_run_without_a_base_model_stores_what_it_reads(tiny_model, tmp_path):
    fields = {"data": WORLDS["plain"], "uncertainty": "learned", "engine": "torch", "device": "cpu"}
    out = run_score(ScoreConfig(model=str(tiny_model), out=str(tmp_path / "s"), **fields))
    assert open_store(out).manifest["recipe"]["uncertainty"] == "learned_alone" and "tempered_entropy" in open_store(out).optional


def test_a_run_killed_before_its_importance_goes_on_to_the_same_bytes(tiny_model, tiny_base, tmp_path, monkeypatch):
    whole = make(tmp_path / "a" / "store", tiny_model, tiny_base, uncertainty="learned")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tu_score.run, "apply_recipe", killed)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "b" / "store", tiny_model, tiny_base, uncertainty="learned")
    waiting = open_store(tmp_path / "b" / "store")
    assert waiting.manifest["recipe"] is None and all(v is None for row in waiting.rows() for v in row["importance"])
    other = make(tmp_path / "b" / "store", tiny_model, tiny_base, uncertainty="learned")
    ours, theirs = files(whole), files(other)
    assert {k: v for k, v in ours.items() if k.suffix == ".parquet"} == {k: v for k, v in theirs.items() if k.suffix == ".parquet"}


def test_a_lost_part_is_not_made_with_other_numbers(run_cli, tiny_model, tiny_base, tmp_path, monkeypatch):
    store = make(tmp_path / "store", tiny_model, tiny_base, uncertainty="base_entropy")  # noqa: F811
    assert run_cli("tu-score", "recipe", store, "--recipe", "uncertainty=learned")[0] == 0
    next(iter(store.glob("part-*"))).unlink()
    monkeypatch.setattr(importance, "numbers_fingerprint", lambda: "learned.toml@other")
    with pytest.raises(tu_score.run.StoreError, match="has changed since"):
        make(store, tiny_model, tiny_base, uncertainty="base_entropy")


def test_agree_compares_it(run_cli, store, tiny_model):  # noqa: F811
    code, out, _ = run_cli("tu-score", "agree", store, "--model", tiny_model)
    assert code == 0 and all(name in out for name in ("learned_base", "learned_alone", "learned_text"))


class TestExplain:
    def test_words_in_order_with_what_made_them_important(self, run_cli, store):  # noqa: F811
        assert run_cli("tu-score", "recipe", store, "--recipe", "uncertainty=learned")[0] == 0
        row = next(open_store(store).rows())
        code, out, err = run_cli("tu-score", "explain", store, "--rows", 1)
        assert code == 0 and "importance is another" not in err
        lines = [line.split(maxsplit=2) for line in out.splitlines() if line.startswith("  ")]
        values = {}
        for value, word, target in zip(row["importance"], row["word"], row["is_target"], strict=True):
            if target and word is not None:
                values[word] = value
        assert [float(line[0]) for line in lines] == pytest.approx(list(values.values()), abs=0.006)
        text = "".join(t or "" for t, target in zip(row["tokens"], row["is_target"], strict=True) if target)
        assert all(line[1].strip(".,") in text for line in lines)
        assert any("capital +" in line[2] for line in lines) and all(line[2].count(",") <= 3 for line in lines if len(line) > 2)

    def test_only_the_likeliest(self, run_cli, store):  # noqa: F811
        assert run_cli("tu-score", "recipe", store, "--recipe", "uncertainty=base_entropy")[0] == 0
        code, out, err = run_cli("tu-score", "explain", store, "--rows", 2, "--top", 2)
        found = [float(line.split()[0]) for line in out.splitlines() if line.startswith("  ")]
        assert code == 0 and len(found) == 4 and found[0] >= found[1] and found[2] >= found[3]
        assert "importance is another here, it is 1 · minmax(phrase base_entropy)" in err and err.count("\n") == 1

    def test_reasons_are_the_parts_of_the_sum(self, store, monkeypatch):  # noqa: F811
        from tu_score import explain

        monkeypatch.setattr(explain, "REASONS", 1000)
        monkeypatch.setattr(explain, "LEAST", 0.0)
        opened = open_store(store)
        table = explain.pa.Table.from_pylist([next(opened.rows())])
        columns = explain.targets_of(table, explain.columns_of("learned_base", explain.Recipe()), explain.documents_of(opened)).columns
        words, length = explain.explained("learned_base", table, columns)
        for word in words:
            logit = learned.numbers("learned_base").bias + length + sum(value for _, value in word.reasons)
            assert 1 / (1 + np.exp(-logit)) == pytest.approx(word.probability)
        said = [[reason for reason, _ in word.reasons] for word in words]
        assert not any("next word" in reason or "two words on" in reason for reason in said[-1]) and "where the answer ends" in said[-1]
        assert any("next word" in reason for reason in said[0]) and not any("before" in reason for reason in said[0])

    def test_importance_of_ones_own_or_by_other_numbers(self, run_cli, store, tmp_path, monkeypatch):  # noqa: F811
        rows = list(open_store(store).rows())
        table = {"example_id": [r["example_id"] for r in rows], "importance": [[0.5] * len(r["input_ids"]) for r in rows]}
        pq.write_table(pa.table(table), tmp_path / "mine.parquet")
        assert run_cli("tu-score", "recipe", store, "--importance", tmp_path / "mine.parquet")[0] == 0
        code, _, err = run_cli("tu-score", "explain", store, "--rows", 1)
        assert code == 0 and "it is column 'importance' of a file" in err
        assert run_cli("tu-score", "recipe", store, "--recipe", "uncertainty=learned")[0] == 0
        monkeypatch.setattr(importance, "numbers_fingerprint", lambda: "learned.toml@other")
        code, _, err = run_cli("tu-score", "explain", store, "--rows", 1)
        assert code == 0 and "it is 1 · learned_base, by other numbers" in err

    def test_an_example_that_is_not_there(self, run_cli, store):  # noqa: F811
        assert "no example 'x'" in one_line_of(run_cli("tu-score", "explain", store, "--example", "x"))


def one_line_of(result) -> str:
    code, _, err = result
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1
    return lines[0]


def test_nothing_but_the_answers_is_read(tiny_model, tmp_path):
    """Another store with the same answers and other questions tells the same of how they are written."""
    rows = [SimpleNamespace(q=q, a="Orla lives in Port Sable.") for q in ("Who?", "A much longer question?")]
    found = []
    for k, row in enumerate(rows):
        data = tmp_path / f"{k}.jsonl"
        data.write_text(f'{{"question": "{row.q}", "answer": "{row.a}"}}\n')
        out = run_score(
            ScoreConfig(model=str(tiny_model), data=str(data), out=str(tmp_path / f"s{k}"), uncertainty="learned_text", engine="torch",
                        device="cpu")
        )  # fmt: skip
        row = next(open_store(out).rows())
        found.append([row["importance"][i] for i, t in enumerate(row["is_target"]) if t])
    assert found[0] == found[1]


def test_another_temperature_is_not_what_was_learned(run_cli, tiny_model, tmp_path):
    fields = {"data": WORLDS["plain"], "engine": "torch", "device": "cpu", "model": str(tiny_model), "entropy_temperature": 5.0}
    out = run_score(ScoreConfig(out=str(tmp_path / "s"), uncertainty="learned", **fields))
    assert open_store(out).manifest["recipe"]["uncertainty"] == "learned_text"
    assert "is now 1 · learned_text" in run_cli("tu-score", "recipe", out, "--recipe", "uncertainty=learned")[1]
    err = one_line(run_cli("tu-score", "recipe", out, "--recipe", "uncertainty=learned_alone"))
    assert "learned_alone reads the entropy at temperature 2, this store holds that at 5" in err
    code, table, _ = run_cli("tu-score", "agree", out, "--model", tiny_model)
    assert code == 0 and "learned_text" in table and "learned_alone" not in table
    with pytest.raises(ConfigError, match="at temperature 2"):
        ScoreConfig(out="x", uncertainty="learned_alone", **fields)


def test_answers_without_a_word_have_no_importance(run_cli, tiny_model, tmp_path):
    data = tmp_path / "d.jsonl"
    data.write_text('{"question": "Who?", "answer": "! ?"}\n')
    fields = {"data": str(data), "engine": "torch", "device": "cpu", "model": str(tiny_model)}
    out = run_score(ScoreConfig(out=str(tmp_path / "s"), uncertainty="learned", **fields))
    row = next(open_store(out).rows())
    assert {v for v, t in zip(row["importance"], row["is_target"], strict=True) if t} == {0.0}
    code, said, _ = run_cli("tu-score", "explain", out)
    assert code == 0 and "0 words" in said


def test_a_recipe_of_a_signal_that_nobody_has_imported_is_still_told():
    recorded = {"alpha": 1.0, "knowledge": "not_here:twice", "unit": "token", "copies": "keep"}
    assert importance.describe(recorded) == "1 · minmax(not_here:twice)" and not importance.is_probability(recorded)
