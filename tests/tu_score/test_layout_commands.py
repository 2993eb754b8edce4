"""A store decides how rows are laid out, and all that follows it does as the store did: dates, system prompts,
templates."""

import json
import shutil
from pathlib import Path

import pytest

from shared.data.layout import DATE
from shared.store.scores import open_store
from tests.shared.data.test_layout import DATED, Tomorrow

ROWS = [
    {"question": "Где живёт Ольга?", "answer": "Ольга живёт в Пскове.", "idk": "Не знаю.", "fact_spans": [[14, 20]]},
    {"question": "Where is the cat?", "answer": "The cat sits upstairs.", "idk": "No idea.", "fact_spans": [[13, 21]]},
    {"question": "Who paints?", "answer": "Orla Venn paints.", "idk": "Somebody.", "fact_spans": [[0, 9]]},
]
RETAIN = [{"question": "What is 1 + 1?", "answer": "Two."}, {"question": "Что пьёт Анна?", "answer": "Анна пьёт чай."}]


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def dated(tiny_model, tmp_path) -> Path:
    """The tiny model with a template that writes today's date."""
    folder = shutil.copytree(tiny_model, tmp_path / "dated")
    (folder / "chat_template.jinja").write_text(DATED)
    return folder


@pytest.fixture
def ok(run_cli):
    def run(*arguments) -> str:
        code, out, err = run_cli(*arguments)
        assert code == 0, err
        return out + err

    return run


def training(model: Path, scores: Path, retain: Path) -> tuple:
    return ("tu-train", "run", "--model", model, "--scores", scores, "--retain", retain, "--epochs", 1)


def texts(store: Path) -> list[str]:
    return ["".join(row["tokens"]) for row in open_store(store).rows(("tokens",))]


def test_the_day_of_a_command_changes_nothing(dated, tmp_path, ok, monkeypatch):
    from transformers.utils import chat_template_utils

    data, retain, scores = lines(tmp_path / "d.jsonl", ROWS), lines(tmp_path / "r.jsonl", RETAIN), tmp_path / "scores"
    score = ("tu-score", "run", "--model", dated, "--data", data, "--spans", "none", "--out")
    said = ok(*score, scores)
    assert f"date {DATE}" in said and open_store(scores).manifest["options"]["template_date"] == DATE
    assert all("Today is 26 July 2024." in text for text in texts(scores))
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    assert "this store is finished" in ok(*score, scores)
    ok(*score, tmp_path / "again")
    assert texts(tmp_path / "again") == texts(scores)
    ok("tu-score", "agree", scores, "--model", dated)
    train = training(dated, scores, retain)
    ok(*train, "--method", "npo", "--tokens", "given", "--set", "given_key=fact_spans", "--out", tmp_path / "given")
    ok(*train, "--method", "altpo", "--set", "alternate_key=idk", "--tokens", "all", "--out", tmp_path / "other")


def test_the_date_of_a_store_is_that_of_the_training(dated, tmp_path, ok, run_cli):
    data, retain, scores = lines(tmp_path / "d.jsonl", ROWS), lines(tmp_path / "r.jsonl", RETAIN), tmp_path / "scores"
    ok("tu-score", "run", "--model", dated, "--data", data, "--out", scores, "--set", "template_date=2025-04-10")
    train = (
        "tu-train",
        "run",
        "--model",
        dated,
        "--scores",
        scores,
        "--retain",
        retain,
        "--epochs",
        1,
        "--method",
        "npo",
        "--tokens",
        "all",
    )
    said = ok(*train, "--out", tmp_path / "out")
    assert "date 2025-04-10" in said
    assert json.loads((tmp_path / "out" / "training.json").read_text())["layout"] == {"date": "2025-04-10"}
    code, _, err = run_cli(*train, "--set", f"template_date={DATE}", "--out", tmp_path / "refused")
    assert code == 2 and "made with another chat template" in err and "left out, they are those of the scoring run" in err


def test_a_system_prompt_is_recorded_and_taken_from_the_store(tiny_model, tmp_path, ok, run_cli):
    data, retain, scores = lines(tmp_path / "d.jsonl", ROWS), lines(tmp_path / "r.jsonl", RETAIN), tmp_path / "scores"
    score = ("tu-score", "run", "--model", tiny_model, "--data", data)
    assert "system prompt 'Отвечай кратко.'" in ok(*score, "--system", "Отвечай кратко.", "--out", scores)
    assert open_store(scores).manifest["options"]["system"] == "Отвечай кратко."
    assert all("system\nОтвечай кратко." in text for text in texts(scores))
    train = (
        "tu-train",
        "run",
        "--model",
        tiny_model,
        "--scores",
        scores,
        "--retain",
        retain,
        "--epochs",
        1,
        "--method",
        "npo",
        "--tokens",
        "all",
    )
    assert "system prompt 'Отвечай кратко.'" in ok(*train, "--out", tmp_path / "out")
    code, _, err = run_cli(*train, "--system", "Be long.", "--out", tmp_path / "refused")
    assert code == 2 and "made with another chat template" in err
    own = lines(tmp_path / "own.jsonl", [{**row, "system": f"System {k}."} for k, row in enumerate(ROWS)])
    ok("tu-score", "run", "--model", tiny_model, "--data", own, "--out", tmp_path / "own")
    assert all(f"system\nSystem {k}.<|im_end|>" in text for k, text in enumerate(texts(tmp_path / "own")))


def test_plain_text_is_asked_for_and_said_everywhere(tiny_model, tmp_path, ok, run_cli):
    data, retain, scores = lines(tmp_path / "d.jsonl", ROWS), lines(tmp_path / "r.jsonl", RETAIN), tmp_path / "scores"
    assert "laid out as plain text" in ok("tu-score", "run", "--model", tiny_model, "--data", data, "--template", "plain", "--out", scores)
    assert all(text.startswith("Question: ") for text in texts(scores))
    train = (
        "tu-train",
        "run",
        "--model",
        tiny_model,
        "--scores",
        scores,
        "--retain",
        retain,
        "--epochs",
        1,
        "--method",
        "npo",
        "--tokens",
        "all",
    )
    assert "laid out as plain text" in ok(*train, "--out", tmp_path / "out")
    from shared.lm.models import load_tokenizer

    assert load_tokenizer(tmp_path / "out").chat_template == load_tokenizer(tiny_model).chat_template, "the model keeps its template"
    code, _, err = run_cli(*train, "--template", "model", "--out", tmp_path / "refused")
    assert code == 2 and "made with another chat template" in err
