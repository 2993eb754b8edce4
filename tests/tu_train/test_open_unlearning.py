"""What OpenUnlearning's data handlers read of an export: as `datasets` loads it, by the arguments of the written
configuration."""

import json
import shutil

import datasets
import pytest
import yaml

from shared.data.datasets import load_rows
from shared.errors import ConfigError, DataError, StoreError
from shared.store.scores import open_store
from tests.tu_train.conftest import FORGET, RETAIN, score
from tu_train import WeightedDataset, export_open_unlearning

SPANISH = "atlas:forget:language=es"


def read(folder, name, cache):
    """The rows, loaded as QADataset and PretrainingDataset do (`load_dataset(**hf_args)`), and the rest of the
    handler's arguments."""
    config = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    assert list(config) == [name] and set(config[name]) == {"handler", "args"}
    arguments = config[name]["args"]
    rows = datasets.load_dataset(**arguments.pop("hf_args"), cache_dir=str(cache))
    return config[name]["handler"], arguments, rows


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.mark.parametrize("data", [FORGET, SPANISH], ids=["English", "Spanish"])
def test_questions_and_answers_are_read_as_they_are(data, tmp_path, cache):
    out = export_open_unlearning(tmp_path / "out", forget=data, retain=RETAIN, max_length=256)
    for name, spec in (("forget", data), ("retain", RETAIN)):
        handler, arguments, rows = read(out, name, cache)
        assert handler == "QADataset" and arguments == {"question_key": "question", "answer_key": "answer", "max_length": 256}
        wanted = [(row.question, row.answer) for row in load_rows(spec)]
        assert [(row[arguments["question_key"]], row[arguments["answer_key"]]) for row in rows] == wanted
        assert "index" not in rows.column_names  # the handlers add a column of that name
    assert sorted(path.name for path in out.iterdir()) == ["forget.jsonl", "forget.yaml", "retain.jsonl", "retain.yaml"]


def test_texts_are_read_as_they_are(tmp_path, cache):
    spec = "atlas:documents-forget"
    handler, arguments, rows = read(export_open_unlearning(tmp_path / "out", forget=spec, limit=3), "forget", cache)
    assert handler == "PretrainingDataset" and arguments == {"text_key": "text", "max_length": 512}
    assert rows["text"][:] == [row.answer for row in load_rows(spec, limit=3)]


def test_columns_of_the_data_come_along(tmp_path, cache):
    path = tmp_path / "data.jsonl"
    lines = [{"frage": f"Was ist {n}?", "antwort": f"Größe {n} “ß”\u2028", "alternate": f"keine {n}"} for n in range(3)]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    keys = {"question_key": "frage", "answer_key": "antwort"}
    _, _, rows = read(export_open_unlearning(tmp_path / "out", forget=str(path), columns=["alternate"], **keys), "forget", cache)
    assert [row["alternate"] for row in rows] == ["keine 0", "keine 1", "keine 2"]
    assert [(row["question"], row["answer"]) for row in rows] == [(line["frage"], line["antwort"]) for line in lines]
    with pytest.raises(DataError, match="has no column 'alternat'"):
        export_open_unlearning(tmp_path / "other", forget=str(path), columns=["alternat"], **keys)
    assert not (tmp_path / "other").exists()


def test_weights_of_a_store_stand_beside_the_rows(scores, tmp_path, cache):
    weighted = WeightedDataset(scores, keep=0.3)
    out = export_open_unlearning(tmp_path / "out", scores=weighted)
    _, _, rows = read(out, "forget", cache)
    found, wanted = {row["example_id"]: row for row in rows}, {row.id: row for row in load_rows(FORGET)}
    assert list(found) == list(wanted)
    for index in range(len(weighted)):
        own, row = weighted[index], found[weighted.name(index)]
        at = own["loss_weights"] > 0
        assert row["target_ids"] == own["input_ids"][at].tolist() and row["loss_weights"] == own["loss_weights"][at].tolist()
        assert row["reference_logps"] == pytest.approx(own["reference_logps"][at].tolist())
        assert row["question"] == wanted[row["example_id"]].question
    assert read(export_open_unlearning(tmp_path / "again", scores=scores), "forget", cache)[2].num_rows == len(WeightedDataset(scores))


def test_rows_without_a_weight_are_left_out(scores, tmp_path, cache):
    rows = list(open_store(scores).rows(["example_id", "is_target"]))
    names = [row["example_id"] for row in rows]
    given = {name: [rows[2]["is_target"].index(True)] if name == names[2] else [] for name in names}
    weighted = WeightedDataset(scores, tokens="given", given=given)
    assert read(export_open_unlearning(tmp_path / "out", scores=weighted), "forget", cache)[2]["example_id"][:] == [names[2]]


def test_mistakes_get_one_line_and_leave_nothing(scores, target, tmp_path):
    def refused(kind, said, **given):
        with pytest.raises(kind, match=said) as caught:
            export_open_unlearning(tmp_path / "out", **given)
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()

    refused(ConfigError, "forget is missing")
    refused(ConfigError, "unknown field 'limits'", forget=FORGET, limits=2)
    refused(DataError, "no.jsonl", forget="no.jsonl")
    refused(DataError, "which the store holds; name the data that was scored", forget=RETAIN, scores=scores)
    chat = tmp_path / "chat.jsonl"
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    chat.write_text(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}))
    refused(DataError, "earlier turns", forget=str(chat))
    texts = score(target, tmp_path / "texts", data="atlas:documents-forget", limit=2)
    refused(ConfigError, "weights of pieces, not of rows", scores=texts)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(StoreError, match="already holds files"):
        export_open_unlearning(tmp_path / "full", forget=FORGET)
    shutil.rmtree(tmp_path / "full")
