"""All commands of docs/hub.md, run against a hub on loopback: those that put a store and a model there, and those that
read them again."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from docs.shown import shown
from shared.data import atlas
from shared.lm.models import model_fingerprint
from tests.hub import run
from tests.pages.conftest import SMALL, SPECIMEN, words, write_rows
from tests.shared.data.test_hub_sets import languages

PAGE = (Path(__file__).parents[1] / "docs/hub.md").read_text(encoding="utf-8")
ROWS = [{"question": "¿Dónde vive Orla?", "answer": "En Puerto Arena."}, {"question": "你叫什么名字？", "answer": "我叫小明。"}]
RETAIN = "atlas:retain:people=5,facts_per_person=3,forget_people=2,holdout_people=1"


def block(kind, beginning):
    """The code block of the page that begins like this."""
    return next(code for code in re.findall(rf"```{kind}\n(.*?)```", PAGE, re.S) if code.startswith(beginning))


def lines(*begin):
    return [line.split() for line in PAGE.splitlines() if line.startswith(begin)]


@pytest.fixture
def place(tmp_path, tiny_model, run_cli, monkeypatch):
    """`scores`, `models/unlearned` and rows, under the names that the page has for them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    done = run_cli("tu-score", "run", "--model", tiny_model, "--data", "rows.jsonl", "--out", "scores", "--device", "cpu")
    assert done[0] == 0, done[2]
    done = run_cli("tu-train", "run", "--model", tiny_model, "--scores", "scores", "--retain", RETAIN, "--method", "npo", "--epochs", "1",
                   "--out", "models/unlearned", "--device", "cpu")  # fmt: skip
    assert done[0] == 0, done[2]
    (tmp_path / "scores/README.md").write_text(block("yaml", "---\nconfigs"), encoding="utf-8")
    return tmp_path


def test_a_card_does_not_disturb_a_finished_store(place, run_cli):
    assert run_cli("tu-score", "verify", "scores")[:2] == (0, "ok: 2 rows, 145 tokens, 1 part\n")
    code, _, err = run_cli("tu-score", "recipe", "scores", "--set", "uncertainty=entropy")
    assert code == 0, err
    assert run_cli("tu-score", "verify", "scores")[0] == 0 and (place / "scores/README.md").exists()
    (place / "empty").mkdir()
    shutil.copy(place / "scores/README.md", place / "empty")
    code, _, err = run_cli("tu-score", "run", "--model", "x", "--data", "rows.jsonl", "--out", "empty")
    assert code == 2, err


def test_the_lines_of_the_page_put_a_store_and_a_model_on_the_hub_and_read_them_again(hub, place, tiny_model, tofu_dir):
    pushed, shown_lines = lines("hf upload"), [words(line)[0] for line in shown(PAGE)]
    assert len(pushed) == 2 and [line[1] for line in shown_lines] == ["run", "run", "verify", "run", "run"]
    commands = [[*line, *shlex.split(SMALL.get(" ".join(line[:2]), ""))] for line in shown_lines]
    hub.add("models/org/name", tiny_model, "main", "v1.2")
    hub.add("datasets/org/papers", languages(), "main", "v2")
    write_rows("retain.jsonl", atlas.rows("retain", SPECIMEN))
    python = block("python", "import datasets") + "import json\nprint(json.dumps([scores.num_rows, scores.column_names, len(part)]))"
    verify = ["tu-score", "verify", "hf://datasets/org/scores@v1"]
    answers = run(hub, place / "home", *pushed, HF_TOKEN="hf_owner")
    assert [answer.code for answer in answers] == [0, 0], answers
    for name, folder in (("datasets/org/scores", "scores"), ("models/org/unlearned", "models/unlearned")):
        repo = hub.repos[name]
        assert repo.private and {k: v for k, v in repo.commits[repo.refs["main"]].items() if k != ".gitattributes"} == {
            p.relative_to(place / folder).as_posix(): p.read_bytes() for p in (place / folder).rglob("*")
        }
    hub.repos["datasets/org/scores"].refs["v1"] = hub.repos["datasets/org/scores"].refs["main"]
    looked = ["tu-score", "run", "--model", "org/unlearned", "--data", "rows.jsonl", "--out", "after", "--device", "cpu"]
    both = {"HF_TOKEN": "hf_owner", "TU_TOFU_DIR": str(tofu_dir)}
    answers = run(hub, place / "home", *commands, verify, ["python", python], looked, **both)
    assert [answer.code for answer in answers] == [0] * 8, answers
    rows, columns, part = json.loads(answers[6].out)
    assert rows == part == 2 and {"example_id", "logprob", "importance"} <= set(columns), "the parts, not the manifest"
    recorded = json.loads((place / "after/_manifest.json").read_text())["fingerprints"]["model"]
    assert recorded == model_fingerprint(place / "models/unlearned")
    record = {name: json.loads((place / "models" / name / "training.json").read_text())["store"] for name in ("unlearned", "again")}
    assert record["unlearned"] == record["again"]


def test_a_pushed_model_with_a_file_of_another_is_refused(hub, place):
    files = {p.name: p.read_bytes() for p in (place / "models/unlearned").iterdir()}
    hub.add("models/org/unlearned", files | {"generation_config.json": files["generation_config.json"] + b"\n"})
    evaluation = ["tu-train", "finetune", "--model", "org/unlearned", "--data", "rows.jsonl", "--out", "more", "--device", "cpu"]
    line = run(hub, place / "home", evaluation)[0].refused()
    assert "generation_config.json is not the file that training wrote" in line and not (place / "more").exists()


def test_without_a_token_nothing_is_pushed(hub, place):
    (answer,) = run(hub, place / "home", lines("hf upload")[0])
    assert answer.code == 1 and "401" in answer.err and hub.repos == {}
