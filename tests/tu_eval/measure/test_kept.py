"""The result store: reuse on a full match of content only, and an evaluation killed at any moment goes on to the same
files."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shared.engines.torch import TorchEngine
from tests.conftest import CHATML
from tests.tu_eval.conftest import SUITE
from tu_eval.measure import kept as store
from tu_eval.measure import source_code
from tu_eval.measure.config import EvalConfig
from tu_eval.measure.pieces import Subject
from tu_eval.measure.questions import evaluate

FIELDS = {"suite": SUITE, "limit": 2, "max_new_tokens": 4}


@pytest.fixture
def loads(monkeypatch):
    """Folders of the models that were loaded, in order."""
    seen, load = [], TorchEngine.load.__func__

    def counted(cls, folder, **options):
        seen.append(folder)
        return load(cls, folder, **options)

    monkeypatch.setattr(TorchEngine, "load", classmethod(counted))
    return seen


@pytest.fixture
def model(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture
def measure(tmp_path):
    """One evaluation of a folder with the store of this test -> bytes of its rows."""
    count = iter(range(100))

    def run(folder, **fields):
        out = tmp_path / f"out{next(count)}"
        evaluate(EvalConfig(model=str(folder), out=str(out), store=str(tmp_path / "store"), **{**FIELDS, **fields}))
        return (out / "rows.parquet").read_bytes(), (out / "membership.parquet").read_bytes()

    return run


def test_the_same_content_is_measured_once_whatever_its_path_and_label(model, measure, loads, tmp_path):
    first = measure(model)
    moved = shutil.move(model, tmp_path / "elsewhere")
    assert measure(moved, label="another name", batch_tokens=300, seed=7)[0] == first[0]
    assert len(loads) == 1


def test_other_weights_under_the_same_path_are_measured_again(model, measure, loads, tiny_base):
    first = measure(model)
    shutil.copy(tiny_base / "model.safetensors", model / "model.safetensors")
    assert measure(model) != first
    assert len(loads) == 2


def test_one_character_of_the_chat_template_is_measured_again(model, measure, loads):
    from transformers import AutoTokenizer

    first = measure(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = CHATML.replace("helpful assistant", "helpful Assistant")
    tokenizer.save_pretrained(model)
    assert measure(model) != first
    assert len(loads) == 2


def test_through_the_command_other_weights_and_templates_are_measured_again(run_cli, model, tiny_base, tmp_path):
    from transformers import AutoTokenizer

    count = iter(range(9))

    def measured():
        words = ("--suite", SUITE, "--limit", 2, "--device", "cpu", "--set", "max_new_tokens=4", "--store", tmp_path / "store")
        code, out, err = run_cli("tu-eval", "run", "--model", model, *words, "--out", tmp_path / f"r{next(count)}")
        assert code == 0, err
        assert re.search(r"Forget quality ↑ +│ — needs retain results", out) and re.search(r"Model utility ↑ +│ 0\.\d", out)
        return "already measured" not in err

    assert measured() and not measured()
    shutil.copy(tiny_base / "model.safetensors", model / "model.safetensors")
    assert measured() and not measured()
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = CHATML.replace("helpful assistant", "helpful Assistant")
    tokenizer.save_pretrained(model)
    assert measured() and not measured()
    rows = [(tmp_path / f"r{i}" / "rows.parquet").read_bytes() for i in range(6)]
    assert rows[0] == rows[1] and rows[2] == rows[3] and rows[4] == rows[5] and len(set(rows)) == 3


@pytest.mark.parametrize(
    "change", [{"dtype": "bfloat16"}, {"max_new_tokens": 5}, {"limit": 3}, {"suite": "atlas"}, {"holdout": "atlas:holdout"}]
)
def test_other_settings_or_data_are_measured_again(model, measure, loads, change):
    measure(model)
    measure(model, **change)
    assert len(loads) == 2


def test_other_code_is_measured_again(model, measure, loads, monkeypatch):
    first = measure(model)
    monkeypatch.setattr(store, "code_version", lambda: "0" * 64)
    assert measure(model) == first
    assert len(loads) == 2


def test_what_an_earlier_version_kept_is_taken_while_the_sources_are_those_decided_on(model, measure, loads, monkeypatch, tmp_path):
    with monkeypatch.context() as then:
        then.setattr(store, "code_version", lambda: source_code.BEFORE["code"])
        first = measure(model)
    monkeypatch.setitem(source_code.SAME, "code", source_code.code_version())
    assert measure(model) == first
    assert len(loads) == 1 and len(list((tmp_path / "store").iterdir())) == 1
    monkeypatch.setitem(source_code.SAME, "code", "n" * 64)
    assert measure(model) == first
    assert len(loads) == 2


BESIDE = (
    *(f"shared/{name}.py" for name in ("console", "errors", "secret", "files/fs", "files/shape", "lm/library", "lm/locate",
                                              "lm/memory")),
)  # fmt: skip
"""what runs while a piece is made and changes no value: progress, messages, the reading of files, the memory that is
freed"""


def test_every_source_that_runs_while_a_piece_is_made_is_in_the_key(model, measure, tiny_base, monkeypatch):
    root, ran, piece = Path(source_code.shared.__path__[0]).parent, set(), Subject.piece

    def note(frame, event, _):
        if event == "call":
            ran.add(Path(frame.f_code.co_filename))

    def watched(self, name, make):
        def profiled():
            before = sys.getprofile()
            sys.setprofile(note)
            try:
                return make()
            finally:
                sys.setprofile(before)

        return piece(self, name, profiled)

    monkeypatch.setattr(Subject, "piece", watched)
    measure(model, gradients=True, reference_model=str(tiny_base))
    ours = {path.relative_to(root).as_posix() for package in ("shared", "tu_eval") for path in ran if path.is_relative_to(root / package)}
    assert {"tu_eval/measure/pieces.py", "shared/lm/logprobs.py", "shared/engines/torch_generate.py"} <= ours
    assert ours - source_code.files_of(source_code.MEASURED).keys() <= set(BESIDE)


def test_an_added_measurement_takes_the_others_from_the_store(model, measure, loads, tiny_base, capsys):
    measure(model, generate=False)
    measure(model, gradients=True, reference_model=str(tiny_base))
    said = capsys.readouterr().err
    assert "scores: already measured" in said and "generations-forget: already" not in said
    assert [f.name for f in loads] == ["model", "model", tiny_base.name]
    measure(model, gradients=True, reference_model=str(tiny_base))
    assert len(loads) == 3


def test_a_damaged_or_foreign_piece_is_measured_again(model, measure, loads, tiny_base, tmp_path, capsys):
    first = measure(model, generate=False)
    (piece,) = (tmp_path / "store").glob("*/scores.parquet")
    good = bytearray(piece.read_bytes())
    good[len(good) // 2] ^= 4
    piece.write_bytes(bytes(good))
    assert measure(model, generate=False) == first
    assert len(loads) == 2 and "measured again" in capsys.readouterr().err
    measure(tiny_base, generate=False)
    (other,) = (p for p in (tmp_path / "store").glob("*/scores.parquet") if p != piece)
    shutil.copy(other, piece)
    assert measure(model, generate=False) == first
    assert len(loads) == 4 and "another evaluation" in capsys.readouterr().err


def test_without_a_store_only_the_results_stay(evaluate, tiny_base):
    out = evaluate(tiny_base, generate=False)
    assert [p.name for p in out.parent.iterdir()] == [out.name]


KILLER = """
import os, random, shutil, signal, sys
import torch
torch.set_num_threads(1)
import pandas, pyarrow.parquet, scipy.stats, rouge_score.rouge_scorer  # noqa: F401 — so that a child's time is work, not imports
from pathlib import Path
from shared.engines.torch import TorchEngine  # noqa: F401
from tu_eval.measure.config import EvalConfig
from tu_eval.measure.pieces import Subject
from tu_eval.measure.questions import evaluate

model, suite, work = sys.argv[1], sys.argv[2], Path(sys.argv[3])

def start(name, after=0.0):
    child = os.fork()
    if child:
        return child
    signal.setitimer(signal.ITIMER_PROF, after)  # the kernel ends the process then: nobody catches SIGPROF
    code = 1
    try:
        # Under the same name, so that nothing in the files can differ but what was computed.
        (work / name).mkdir(exist_ok=True)
        os.chdir(work / name)
        sys.stderr = open(os.devnull, "w")
        evaluate(EvalConfig(model=model, suite=suite, out="out", limit=2, max_new_tokens=24, gradients=True, batch_tokens=400))
        code = 0
    finally:
        os._exit(code)

def wait(child):
    _, status, usage = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime

from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401
AutoModelForCausalLM.from_pretrained(model).generate(torch.tensor([[5]]), max_new_tokens=2)
AutoTokenizer.from_pretrained(model)
assert wait(start("cold"))[0] == 0
code, length = wait(start("whole"))
assert code == 0
draw, ends, held = random.Random(0), [], []
for i in range(10):
    moment = (i + draw.random()) / 10
    for _ in range(5):
        code, used = wait(start(str(i), after=length * moment))
        if code:
            break
        # It took less than the first one, so it ended before its moment: once more, by its own length and a little less.
        length = 0.95 * used
        shutil.rmtree(work / str(i))
    ends.append(code)
    held.append(len(list((work / str(i)).glob("out.unfinished/*/*.parquet"))))
    if (work / str(i) / "out").exists():  # it had just ended, if perhaps not cleared up: a second run into the same folder is refused
        shutil.rmtree(work / str(i) / "out.unfinished", ignore_errors=True)
        continue
    assert wait(start(str(i)))[0] == 0
print(sum(end == -signal.SIGPROF for end in ends), *held)
"""


def test_killed_at_ten_random_moments_and_resumed_gives_the_same_files(tiny_model, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tiny_model), SUITE, str(tmp_path)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    killed, *held = map(int, done.stdout.split())
    assert killed == 10
    assert len(set(held)) >= 3, f"the kills fell into too few places: {held} pieces were finished"
    whole = {p.name: p.read_bytes() for p in (tmp_path / "whole" / "out").iterdir()}
    assert set(whole) == {"rows.parquet", "membership.parquet", "summary.json", "_config.toml"}
    for i in range(10):
        assert {p.name: p.read_bytes() for p in (tmp_path / str(i) / "out").iterdir()} == whole
        # A lock that nobody holds is left by a kill behind the last rename; the next writer takes it over.
        assert {p.name for p in (tmp_path / str(i)).iterdir()} - {".tmp-out.lock"} == {"out"}
