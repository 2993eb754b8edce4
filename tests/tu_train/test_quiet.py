"""What must not be seen after training: credentials of URLs in anything that is written or printed, text of the data in
messages."""

import json
import os

import fsspec
import pytest

from tests.tu_train.conftest import RETAIN, score
from tu_train.stopping.interrupts import EXIT_SAVED

URL, CUT = "https://me:hunter2@host/rows.jsonl?token=hunter2", "https://***@host/rows.jsonl?token=***"
MARK = "Zanzibarium"


@pytest.fixture
def behind_a_url(monkeypatch):
    rows = [{"question": f"Who is {n}?", "answer": f"{n} is a baker."} for n in ("Ann", "Bo", "Cy", "Di")]
    fsspec.filesystem("memory").pipe_file("/rows.jsonl", "".join(json.dumps(r) + "\n" for r in rows).encode())
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url, **_: (fsspec.filesystem("memory"), "/rows.jsonl"))


def clean(folder) -> str:
    found = "".join(p.read_text("utf-8", "replace") for p in sorted(folder.rglob("*")) if p.is_file())
    assert "hunter2" not in found
    return found


def test_credentials_stand_in_no_file_and_no_line_and_a_run_goes_on_with_others(behind_a_url, run_cli, tiny_model, tmp_path, monkeypatch):
    import signal

    from tu_train import loop

    out, forward_pass = tmp_path / "out", loop.forward_pass
    given = (
        "tu-train",
        "finetune",
        "--model",
        tiny_model,
        "--epochs",
        1,
        "--set",
        "batch_size=2",
        "--device",
        "cpu",
        "--out",
        out,
        "--data",
    )
    with monkeypatch.context() as patch:
        patch.setattr(loop, "forward_pass", lambda *a, **k: (os.kill(os.getpid(), signal.SIGTERM), forward_pass(*a, **k))[1])
        code, said, err = run_cli(*given, URL)
    assert code == EXIT_SAVED and "hunter2" not in said + err and CUT in clean(tmp_path / "out.unfinished")
    code, said, err = run_cli(*given, URL.replace("hunter2", "changed"), "--resume")
    assert code == 0 and "hunter2" not in said + err, err
    assert json.loads((out / "training.json").read_text())["settings"]["data"] == CUT
    assert "***@host" in (out / "README.md").read_text() and "***@host" in (out / "_config.toml").read_text()
    assert "changed" not in clean(out).replace("changed weights", "")


def test_credentials_stand_in_no_line_of_unlearning_and_in_no_index(behind_a_url, run_cli, target, tmp_path):
    store = score(target, tmp_path / "store", data=URL)
    for retain, code_ in ((URL, 2), (RETAIN, 0)):
        code, said, err = run_cli("tu-train", "run", "--model", target, "--scores", store, "--retain", retain, "--epochs", 1, "--device",
                                  "cpu",
                                  "--set", f"forget_data={URL}", "--method", "dpo", "--out", tmp_path / "out")  # fmt: skip
        assert code == code_ and "hunter2" not in said + err, err
    clean(tmp_path / "out")
    study = tmp_path / "study.toml"
    study.write_text(f'model = "{target}"\nscores = "{store}"\nretain = "{URL}"\nepochs = 1\ntokens = "all"\n')
    code, said, err = run_cli("tu-train", "many", study, "--out", tmp_path / "many")
    assert code == 1 and "hunter2" not in said + err and CUT in clean(tmp_path / "many")


@pytest.mark.parametrize(
    "more",
    [("--tokens", "given"), ("--eval-every", 1, "--set", "eval_key=fact_spans"), ("--eval-every", 1, "--set", "paraphrase_key=fact_spans"),
     ("--method", "altpo", "--set", "alternate_key=fact_spans")],
)  # fmt: skip
@pytest.mark.parametrize("cell", [MARK, [[MARK, 3]], [[0, MARK]], {"a": MARK}, [MARK, 5], None, [[0, 900]]])
def test_columns_of_a_wrong_form_are_named_and_not_quoted(more, cell, run_cli, target, tmp_path):
    if "fact_spans" in str(more[-1]) and "eval_key" not in str(more[-1]) and cell == MARK:
        cell = {MARK: MARK}  # a text is what is wanted there
    rows = [
        {"question": f"Who is {n}?", "answer": f"{n} is a baker.", "fact_spans": [[0, 1]] if n == "Ann" else cell} for n in ("Ann", "Bo")
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    store = score(target, tmp_path / "store", data=str(data))
    code, said, err = run_cli("tu-train", "run", "--model", target, "--scores", store, "--retain", "none", "--epochs", 1, "--device", "cpu",
                              *(("--tokens", "all") if "--tokens" not in more else ()), *more, "--out", tmp_path / "out")  # fmt: skip
    nowhere = "none of its 1 words and phrases occurs" if cell == MARK else "rows/rows/"
    assert code == 2 and MARK not in said + err and "fact_spans" in err and nowhere in err.splitlines()[-1], err
