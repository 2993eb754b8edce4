"""No command runs code out of a model's folder, whatever its files and standard input say."""

import builtins
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tu_eval.conftest import SUITE

LAYERS = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
CODE = """
open({witness!r}, "a").write(__name__)
from transformers import LlamaConfig as Config, LlamaForCausalLM as Model, PreTrainedTokenizerFast as Tokenizer
def generate(model, *arguments, **options): return open({witness!r}, "a")
"""


def hostile(model: Path, folder: Path, model_type: str | None) -> Path:
    """A copy of the model that names its own Python for everything that transformers lets a folder bring; every file writes `ran`."""
    shutil.copytree(model, folder)
    code = CODE.format(witness=str(folder / "ran"))
    (folder / "evil.py").write_text(code)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": LAYERS} | ({"model_type": model_type} if model_type else {})))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    own = {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}} | (
        {"tokenizer_class": "EvilTokenizer"} if model_type else {}
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | own))
    return folder


@pytest.fixture(scope="module")
def material(tiny_model, tmp_path_factory):
    """A store and data for the commands."""
    from tu_score.config import ScoreConfig
    from tu_score.run import run_score

    folder = tmp_path_factory.mktemp("material")
    run_score(ScoreConfig(model=str(tiny_model), data="atlas:forget", out=str(folder / "scores"), limit=4))
    (folder / "choices.jsonl").write_text(json.dumps({"question": "Где Ольга?", "choices": ["В Пскове", "В Риге"], "answer": 0}) + "\n")
    return folder


COMMANDS = {
    "tu-score run": ("--data", "atlas:forget", "--limit", 2),
    "tu-score run, base": ("--data", "atlas:forget", "--limit", 2, "--base-model"),
    "tu-score run, vllm": ("--data", "atlas:forget", "--limit", 2, "--engine", "vllm"),
    "tu-score agree": (),
    "tu-train run": ("--retain", "atlas:retain", "--limit", 2, "--epochs", 1),
    "tu-train run, rmu": ("--retain", "atlas:retain", "--limit", 2, "--epochs", 1, "--method", "rmu", "--option", "layer=1"),
    "tu-train finetune": ("--data", "atlas:forget", "--limit", 2, "--epochs", 1),
    "tu-train diagnose": ("--rows", 4),
    "tu-eval run": ("--suite", SUITE, "--limit", 2, "--set", "max_new_tokens=3"),
    "tu-eval attack": ("--suite", SUITE, "--limit", 4, "--attack", "sample", "--set", "samples=2", "--set", "max_new_tokens=2"),
    "tu-eval choices": (),
    "tu-eval benchmarks": ("--backend", "hf"),
    "tu-eval benchmarks, vllm": ("--backend", "vllm"),
}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_code_of_a_folder_is_run_and_nobody_is_asked(name, known, material, tiny_model, make_tiny, run_cli, tmp_path, monkeypatch):
    own = make_tiny("Llama", num_attention_heads=2, num_key_value_heads=1) if name.endswith("vllm") else tiny_model  # vLLM: no heads of 16
    folder = hostile(own, tmp_path / "model", None if known else "evil")
    command, verb = name.partition(",")[0].split()
    more: list = list(COMMANDS[name])
    model = ["--model", folder]
    if name.endswith("base"):
        more, model = [*more, folder], ["--model", tiny_model]
    if verb in ("run", "diagnose") and command == "tu-train":
        more += ["--scores", material / "scores", *(["--allow-other-model"] if verb == "run" else [])]
    if verb == "agree":
        more = [material / "scores", *more]
    if verb == "choices":
        more = ["--data", material / "choices.jsonl"]
    if verb == "benchmarks":
        from tests.tu_eval.test_benchmarks import task

        more += ["--tasks", "own", "--include", task(tmp_path / "tasks", "own"), "--limit", 2]
    answers = io.StringIO("y\n" * 9)
    monkeypatch.setattr(sys, "stdin", answers)
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("somebody is asked"))
    monkeypatch.chdir(tmp_path)
    code, _, err = run_cli(command, verb, *more, *model, *([] if verb == "agree" else ["--out", tmp_path / "out"]))
    assert not (folder / "ran").exists() and answers.tell() == 0
    if known and verb != "diagnose":
        assert code == 0, err
    elif not known:
        assert code == 2 and err.strip().splitlines()[-1].startswith("error: ") and str(folder) in err, err


def test_the_hostile_folder_would_run_its_code_if_it_were_let(tiny_model, tmp_path):
    folder = hostile(tiny_model, tmp_path / "model", "evil")
    load = "import sys, transformers; transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)"
    subprocess.run([sys.executable, "-c", load, folder], check=True, capture_output=True)  # in a process of its own, which it changes
    assert (folder / "ran").exists()
