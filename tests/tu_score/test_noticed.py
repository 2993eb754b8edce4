"""What a run leaves out or cuts is said once, also where rows were not counted before, and by whoever scores them."""

import json

import pytest

from shared.console import overheard, pass_on, say
from shared.store.scores import open_store
from tests.tu_score.test_resume import contents
from tu_score import count, workers
from tu_score.shards import merge

LONG = "El faro de la isla pertenece a Yusuf Marrero, que escribe novelas. " * 60
ROWS = [
    {"question": "¿Quién?", "answer": "Yusuf Marrero."},
    {"question": "¿De quién es el faro de la isla, y quién escribe allí novelas?", "answer": LONG},
    {"question": "¿Dónde vive Orla Venn, la de los barcos, desde hace años?", "answer": "En Puerto Sable, junto al mar."},
    {"question": "¿Y?", "answer": LONG, "history": []},
]


@pytest.fixture
def command(run_cli, tiny_model, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")

    def run(out, *arguments):
        words = ("--model", tiny_model, "--data", data, "--device", "cpu", "--spans", "window", "--set", "max_spans=5", "--long", "skip")
        code, _, err = run_cli("tu-score", "run", *words, "--set", "part_tokens=100", "--out", tmp_path / out, *arguments)
        assert code == 0, err
        return [line for line in err.splitlines() if line.startswith(("--long", "--spans"))]

    return run


EXPECTED = [
    "--long skip: 2 rows left out, longer than the model's context of 512 tokens",
    "--spans window: 1 of 2 examples have more than 5 spans; that many were drawn in each (seed 0; --set max_spans=0 masks all)",
]


def bare(folder):
    files, rest = contents(folder)
    del files["_config.toml"]
    return files, rest


def test_it_is_the_same_before_and_after_and_with_shards(command, tmp_path, monkeypatch, capsys, run_cli):
    assert command("small") == EXPECTED
    monkeypatch.setattr(count, "CHECKED", 0)
    assert command("large") == EXPECTED
    told = [entry.get("noticed") for entry in open_store(tmp_path / "large").manifest["parts"]]
    assert None in told and sum((entry or {}).get("rows_left_out", 0) for entry in told) == 2
    assert bare(tmp_path / "small") == bare(tmp_path / "large")
    lines = [line for number in (1, 2) for line in command("shards", "--shard", f"{number}/2")]
    assert sum(int(line.split()[2]) for line in lines if line.startswith("--long")) == 2
    capsys.readouterr()
    merge(str(tmp_path / "shards"))
    said = capsys.readouterr().err.splitlines()
    assert [line.replace(" of 512 tokens", "") for line in EXPECTED] == [line for line in said if line.startswith("--")]
    assert bare(tmp_path / "shards") == bare(tmp_path / "small")
    assert run_cli("tu-score", "recipe", tmp_path / "large", "--recipe", "uncertainty=entropy")[0] == 0
    assert [entry.get("noticed") for entry in open_store(tmp_path / "large").manifest["parts"]] == told


def test_examples_that_fill_the_context_and_have_no_spans(command, monkeypatch):
    small = command("small", "--long", "truncate", "--spans", "entity")
    assert any(line.startswith("--long truncate: 2 examples fill the model's context of 512 tokens") for line in small), small
    monkeypatch.setattr(count, "CHECKED", 0)
    assert command("large", "--long", "truncate", "--spans", "entity") == small


def test_workers_say_it_to_the_driver_once(command, run_cli, tmp_path, tiny_model, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(count, "CHECKED", 0)
    assert command("two", "--workers", "2") == EXPECTED
    words = ("--model", tiny_model, "--data", tmp_path / "rows.jsonl", "--long", "truncate", "--set", "part_tokens=100")
    code, _, err = run_cli("tu-score", "run", *words, "--out", tmp_path / "told", "--workers", "2")
    assert code == 0 and err.count("look like turns of a conversation and are not read") == 1, err


def test_lines_of_an_actor_come_with_its_part(tmp_path):
    actor = workers.Scorer.__new__(workers.Scorer)
    actor.engine = None
    actor.scorer = lambda rows, base, engine, advance: say("a warning") or say("a warning") or advance(7) or ("table", {})
    assert actor.part([], None) == ((("table", {}), 7), ["a warning"])


def test_a_line_is_passed_on_once(capsys):
    with overheard():
        say("known")
        pass_on(["known", "new"])
        pass_on(["new", "known"])
    assert capsys.readouterr().err.splitlines() == ["known", "new"]
