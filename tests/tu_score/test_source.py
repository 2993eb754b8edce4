"""Rows are read anew each time and cut into parts by their texts; nothing depends on who tokenises them."""

import json
from dataclasses import replace

import pytest

from shared.data.datasets import load_rows
from shared.data.examples import data_fingerprint, make_examples
from shared.data.row_bytes import ROW_BYTES, TOKEN_BYTES, text_bytes
from shared.errors import DataError
from shared.lm.models import load_laid_out
from shared.store.scores import open_store
from tests.conftest import build_sentencepiece
from tu_score.config import ScoreConfig
from tu_score.count import count
from tu_score.run import run_score
from tu_score.source import Source

WORLD = "people=4,facts_per_person=3,forget_people=2,holdout_people=1"
DATA = {
    "English": f"atlas:full:{WORLD}", "Arabic": f"atlas:full:{WORLD},language=ar", "Chinese": f"atlas:full:{WORLD},language=zh",
    "documents": f"atlas:documents:{WORLD}",
}  # fmt: skip


@pytest.fixture
def source(tiny_model, request):
    def make(data: str, *, tokenizer: str = "byte level", **fields) -> Source:
        config = ScoreConfig(model=str(tiny_model), data=data, out="-", **{"part_tokens": 100, **fields})
        laid = load_laid_out(config.model, tiny_model, config) if tokenizer == "byte level" else build_sentencepiece()
        return Source(config, laid, 512)

    return make


@pytest.mark.parametrize("tokenizer", ["byte level", "sentencepiece"])
@pytest.mark.parametrize("data", DATA)
def test_parts_together_are_the_whole(data, tokenizer, source):
    own, whole = source(DATA[data], tokenizer=tokenizer), load_rows(DATA[data])
    cut = own.cut()
    assert len(cut.ranges) > 2 and cut.rows == len(whole)
    assert [start for start, _ in cut.ranges] == [0, *(end for _, end in cut.ranges[:-1])]
    budget, extra = own.config.part_tokens * TOKEN_BYTES, 0 if data == "documents" else ROW_BYTES
    for (start, end), size in zip(cut.ranges, cut.sizes, strict=True):
        assert size == sum(text_bytes(row) + extra for row in whole[start:end]) and (size <= budget or end - start == 1)
    read = dict(own.parts(cut, range(len(cut.ranges))))
    assert [row for index in read for row in read[index]] == whole
    made = [example for index in read for example in own.examples(read[index])]
    overlap = own.config.text_overlap or 0
    expected = make_examples(whole, own.tokenizer, context=512, text_overlap=overlap, text_length=own.config.text_length)
    assert made == expected
    found = count(own, cut, None)
    assert sum(found.examples) == len(expected) and sum(found.tokens) == sum(len(e.input_ids) for e in expected)
    assert found.examples == [len(own.examples(rows)) for rows in read.values()]


def test_some_parts_are_read_in_one_walk(source):
    own = source(DATA["English"])
    cut, whole = own.cut(), load_rows(DATA["English"])
    assert [(index, rows) for index, rows in own.parts(cut, [3, 1])] == [(k, whole[slice(*cut.ranges[k])]) for k in (1, 3)]
    assert list(own.parts(cut, [])) == []


def written(path, rows):
    path.write_text("".join(json.dumps({"question": r.question, "answer": r.answer, **r.extra}) + "\n" for r in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("change", ["another answer", "a row less", "a row more", "another order"])
def test_data_that_changed_after_they_were_cut_are_refused(change, source, tmp_path):
    rows = load_rows(DATA["Arabic"])
    own = source(written(tmp_path / "rows.jsonl", rows), part_tokens=400)
    cut = own.cut()
    start, end = cut.ranges[1]
    before, own_rows, after = rows[:start], rows[start:end], rows[end:]
    changed = {
        "another answer": [*before, *own_rows[:-1], replace(own_rows[-1], answer="غيره"), *after],
        "a row less": [*before, *own_rows[:-1]],
        "a row more": [*before, rows[0], *own_rows, *after],
        "another order": [*before, *own_rows[::-1], *after],
    }
    written(tmp_path / "rows.jsonl", changed[change])
    with pytest.raises(DataError) as raised:
        list(own.parts(cut, [0, 1]))
    assert "rows.jsonl: changed while it was scored" in str(raised.value) and "(part 1)" in str(raised.value)


def test_columns_that_nobody_reads_may_change(source, tmp_path):
    rows = load_rows(DATA["English"])
    plain = source(written(tmp_path / "rows.jsonl", rows)).cut()
    more = [replace(row, extra={**row.extra, "note": "seen"}) for row in rows]
    assert source(written(tmp_path / "rows.jsonl", more)).cut() == plain
    told = [replace(row, extra={**row.extra, "system": "Be brief."}) for row in rows]
    assert source(written(tmp_path / "rows.jsonl", told)).cut().sha256 != plain.sha256


@pytest.mark.parametrize("data", ["English", "documents"])
def test_how_data_is_cut_changes_no_row_of_a_store(data, tiny_model, tmp_path):
    rows, stores = [], []
    for name, size in (("many", 60), ("one", 65_536)):
        out = tmp_path / name
        run_score(
            ScoreConfig(model=str(tiny_model), data=DATA[data], out=str(out), part_tokens=size, limit=9, engine="torch", device="cpu")
        )
        stores.append(open_store(out))
        rows.append(list(stores[-1].rows()))
    assert len(stores[0].manifest["parts"]) > len(stores[1].manifest["parts"]) == 1
    assert [r["example_id"] for r in rows[0]] == [r["example_id"] for r in rows[1]]
    for one, other in zip(*rows, strict=True):
        assert {k: v for k, v in one.items() if k not in NUMBERS} == {k: v for k, v in other.items() if k not in NUMBERS}
        for name in NUMBERS:
            assert [v is None for v in one[name]] == [v is None for v in other[name]]
            assert [v for v in one[name] if v is not None] == pytest.approx([v for v in other[name] if v is not None], abs=2e-5)
    assert stores[0].fingerprints["data"] == stores[1].fingerprints["data"]
    made = make_examples(load_rows(DATA[data], limit=9), load_laid_out(str(tiny_model), tiny_model, ScoreConfig(model="", data="", out="")),
                         context=512, text_overlap=stores[0].manifest["options"].get("text_overlap") or 0)  # fmt: skip
    assert stores[0].fingerprints["data"] == data_fingerprint(made)


NUMBERS = ("logprob", "entropy", "importance", "tempered_entropy")


@pytest.mark.parametrize("fields", [{}, {"spans": "window", "keep_spans": True, "topk": 2}], ids=["plain", "spans"])
def test_a_part_whose_rows_are_all_left_out(fields, tiny_model, tiny_base, tmp_path, run_cli):
    rows = load_rows(DATA["Chinese"])[:4]
    rows.insert(2, replace(rows[0], answer=rows[0].answer * 400))  # a part of its own, beyond the context
    config = ScoreConfig(model=str(tiny_model), base_model=str(tiny_base), data=written(tmp_path / "rows.jsonl", rows), part_tokens=100,
                         long="skip", engine="torch", device="cpu", out=str(tmp_path / "store"), **fields)  # fmt: skip
    run_score(config)
    store = open_store(tmp_path / "store")
    assert 0 in [part["rows"] for part in store.manifest["parts"]] and len(store) == len(list(store.rows())) == 4
    assert all(v is not None for row in store.rows() for v, t in zip(row["importance"], row["is_target"], strict=True) if t)
    assert run_cli("tu-score", "verify", tmp_path / "store")[0] == 0
    for name in ("inspect", "recipe", "explain"):
        code, _, err = run_cli("tu-score", name, tmp_path / "store")
        assert code == 0, err
    code, out, err = run_cli("tu-score", "run", "--model", tiny_model, "--data", config.data, "--long", "skip", "--dry-run")
    assert code == 0 and "rows             4" in out, err
