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
from tests.tu_eval.harness.test_benchmarks import own_cache, task  # noqa: F401
from tests.tu_eval.judge.test_judge import Judge

LAYERS = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
CODE = """
open({witness!r}, "a").write(__name__)
from transformers import LlamaConfig as Config, LlamaForCausalLM as Model, PreTrainedTokenizerFast as Tokenizer
def generate(model, *arguments, **options): return open({witness!r}, "a")
"""


def hostile(source: Path, folder: Path, *, model: bool, tokenizer: bool) -> Path:
    """A copy of a model that names its own Python for everything that transformers lets a folder bring; every file
    writes `ran`. `model`, `tokenizer`: of these the folder has the only code, because transformers knows none of that
    name."""
    shutil.copytree(source, folder)
    code = CODE.format(witness=str(folder / "ran"))
    (folder / "evil.py").write_text(code)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": LAYERS} | ({"model_type": "evil"} if model else {})))
    words = json.loads((folder / "tokenizer_config.json").read_text())
    own = {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}} | (
        {"tokenizer_class": "EvilTokenizer"} if tokenizer else {}
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(words | own))
    return folder


@pytest.fixture(scope="module")
def material(tiny_model, tmp_path_factory):
    """A store and data for the commands."""
    from tu_score.config import ScoreConfig
    from tu_score.run import run_score

    folder = tmp_path_factory.mktemp("material")
    run_score(ScoreConfig(model=str(tiny_model), data="atlas:forget", out=str(folder / "scores"), limit=4))
    (folder / "choices.jsonl").write_text(json.dumps({"question": "Где Ольга?", "choices": ["В Пскове", "В Риге"], "answer": 0}) + "\n")
    (folder / "judge.jsonl").write_text(json.dumps({"id": "a", "category": "мир", "turns": ["Где Ольга?"]}) + "\n")
    return folder


COMMANDS = {
    "tu-score run": ("--data", "atlas:forget", "--limit", 2),
    "tu-score run, base": ("--data", "atlas:forget", "--limit", 2, "--base-model"),
    "tu-score run, vllm": ("--data", "atlas:forget", "--limit", 2, "--engine", "vllm"),
    "tu-score agree": (),
    "tu-train run": ("--retain", "atlas:retain", "--limit", 2, "--epochs", 1),
    "tu-train run, rmu": ("--retain", "atlas:retain", "--limit", 2, "--epochs", 1, "--method", "rmu", "--option", "layer=1"),
    "tu-train many": (),
    "tu-train finetune": ("--data", "atlas:forget", "--limit", 2, "--epochs", 1),
    "tu-train finetune, lora": ("--data", "atlas:forget", "--limit", 2, "--epochs", 1, "--lora", 2),
    "tu-train diagnose": ("--rows", 8),
    "tu-eval run": ("--suite", SUITE, "--limit", 2, "--set", "max_new_tokens=3"),
    "tu-eval run, vllm": ("--suite", SUITE, "--limit", 2, "--set", "max_new_tokens=3", "--engine", "vllm"),
    "tu-eval judge": ("--set", "max_new_tokens=3"),
    "tu-eval attack": ("--suite", SUITE, "--limit", 4, "--attack", "sample", "--set", "samples=2", "--set", "max_new_tokens=2"),
    "tu-eval choices": (),
    "tu-eval benchmarks": ("--backend", "hf"),
    "tu-eval benchmarks, vllm": ("--backend", "vllm"),
}


def arguments(name: str, folder: Path, tiny_model: Path, material: Path, tmp_path: Path) -> list:
    """What the command takes beside its own of COMMANDS."""
    command, verb = name.partition(",")[0].split()
    if verb == "many":
        study = ("allow_other_model = true", 'retain = "atlas:retain"', "limit = 2", "epochs = 1")
        paths = (f'model = "{folder}"', f'scores = "{material / "scores"}"')
        (tmp_path / "study.toml").write_text("\n".join([*paths, *study]))
        return [tmp_path / "study.toml"]
    if name.endswith("base"):
        return [folder, "--model", tiny_model]
    own: list = ["--model", folder]
    if verb in ("run", "diagnose") and command == "tu-train":
        own += ["--scores", material / "scores", *(["--allow-other-model"] if verb == "run" else [])]
    if verb == "agree":
        return [material / "scores", *own]
    if verb in ("choices", "judge"):
        own += ["--data", material / f"{verb}.jsonl"]
    if verb == "benchmarks":
        own += ["--tasks", "own", "--include", task(tmp_path / "tasks", "own"), "--limit", 2]
    return own


@pytest.fixture
def told(monkeypatch, tmp_path):
    """Standard input that says yes to everything, nobody to ask, and a judge; -> the input."""
    judge = Judge()
    for variable, value in {"TU_JUDGE_URL": judge.url, "TU_JUDGE_KEY": "-", "TU_JUDGE_MODEL": "m", "NO_PROXY": "127.0.0.1"}.items():
        monkeypatch.setenv(variable, value)
    answers = io.StringIO("y\n" * 9)
    monkeypatch.setattr(sys, "stdin", answers)
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("somebody is asked"))
    # A store is of one model: another one is refused before it is loaded, and it is the loading that is tried here.
    monkeypatch.setattr("tu_train.diagnose.run.check_fits", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    yield answers
    judge.server.shutdown()
    judge.server.server_close()


@pytest.mark.parametrize("unknown", ["nothing", "model", "model and tokenizer"])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_code_of_a_folder_is_run_and_nobody_is_asked(name, unknown, material, tiny_model, make_tiny, run_cli, tmp_path, told):
    own = make_tiny("Llama", num_attention_heads=2, num_key_value_heads=1) if name.endswith("vllm") else tiny_model  # vLLM: no heads of 16
    folder = hostile(own, tmp_path / "model", model=unknown != "nothing", tokenizer=unknown.endswith("tokenizer"))
    command, verb = name.partition(",")[0].split()
    given = [*COMMANDS[name], *arguments(name, folder, tiny_model, material, tmp_path)]
    code, _, err = run_cli(command, verb, *given, *([] if verb == "agree" else ["--out", tmp_path / "out"]))
    assert not (folder / "ran").exists() and told.tell() == 0
    if unknown == "nothing" or (verb == "agree" and unknown == "model"):  # agree reads the tokenizer alone
        assert code == 0, err
    elif verb == "many":
        assert code == 1 and f"failed: model {folder}: " in err, err
    else:
        assert code == 2 and err.strip().splitlines()[-1].startswith("error: ") and str(folder) in err.splitlines()[-1], err


def test_the_hostile_folder_would_run_its_code_if_it_were_let(tiny_model, tmp_path):
    folder = hostile(tiny_model, tmp_path / "model", model=True, tokenizer=True)
    load = "import sys, transformers; transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)"
    subprocess.run([sys.executable, "-c", load, folder], check=True, capture_output=True)  # in a process of its own, which it changes
    assert (folder / "ran").exists()
