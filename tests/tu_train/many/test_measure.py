"""`tu-train many --suite`: what was trained is measured, and one page ends it; what cannot be measured is refused
before any training."""

import json

import pytest

from tests.tu_train.many.test_run import study, trained  # noqa: F401 — fixtures
from tu_eval.results.results import load_results
from tu_train.many import measure

ROWS = [{"question": f"¿Quién es {name}?", "answer": f"{name} es panadera."} for name in ("Ana", "Begoña", "Íñiga")]
QUICK = ("--set", "eval.generate=false", "--set", "eval.device=cpu")
METHODS = 'method = ["npo", "simnpo"]\ntokens = "hard"\n'


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture
def inside(monkeypatch, run_cli):
    """`tu-eval many` in this process, for speed; tests/shared/test_process.py has the other."""
    monkeypatch.setattr(measure, "run_shown", lambda command, arguments: run_cli(*command.split(" "), *arguments)[0])


def test_every_run_is_measured_and_one_page_ends_it(study, trained, inside, file, tmp_path, run_cli):  # noqa: F811
    """Two runs on files of one's own; started again, nothing is done twice."""
    out = tmp_path / "out"
    flags = ("--suite", "own", "--set", f"eval.forget={file}", "--set", f"eval.retain={file}", *QUICK)
    command = ("tu-train", "many", study(METHODS), "--out", out, *flags)
    code, stdout, err = run_cli(*command)
    assert code == 0, err
    assert len(trained) == 2 and "2 of 2 runs finished" in stdout
    folders = [out / run["folder"] / "results" for run in json.loads((out / "index.json").read_text())["runs"]]
    found = [load_results(folder).summary for folder in folders]
    assert [f["label"] for f in found] == ["npo-hard", "simnpo-hard"] and all(f["rows"] == {"forget": 3, "retain": 3} for f in found)
    page = (out / "page.html").read_text(encoding="utf-8")
    assert "npo-hard" in page and "simnpo-hard" in page
    before = [(folder / "summary.json").stat().st_mtime_ns for folder in folders]
    assert run_cli(*command)[0] == 0 and len(trained) == 2
    assert [(folder / "summary.json").stat().st_mtime_ns for folder in folders] == before


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--suite", "tofu:forget02"), "no such suite"),
        (("--suite", "own"), "--suite own: names no files"),
        (("--suite", "own", "--set", "eval.forget=gone.jsonl", "--set", "eval.retain=gone.jsonl"), "eval: --forget gone.jsonl"),
        (("--suite", "own", "--set", "eval.forget=gone.jsonl"), "give --retain too"),
        (("--suite", "atlas", "--set", "eval.limt=3"), "did you mean 'limit'"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(study, trained, tmp_path, run_cli, flags, expected):  # noqa: F811
    code, _, err = run_cli("tu-train", "many", study(METHODS), "--out", tmp_path / "out", *flags)
    assert code == 2 and expected in err.splitlines()[-1] and len(err.splitlines()) == 1, err
    assert not trained and not (tmp_path / "out").exists()
