"""Pages are followed in an empty folder: `walk(page)` runs all commands of a page, in order, by the shell's rules for
words, each in this process."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.readme import ROOT
from docs.shown import shown
from shared import process
from shared.data import atlas
from tu_eval.compare import many
from tu_train import suite
from tu_train.many import measure, steps

SMALL = {
    "tu-score run": "--limit 3",
    "tu-train finetune": "--limit 3 --epochs 1",
    "tu-train run": "--limit 3 --epochs 1",
    "tu-train diagnose": "--rows 3",
    "tu-eval run": "--limit 3",
    "tu-eval attack": "--limit 3 --set samples=2 --set relearn_steps=1 --set relearn_rows=1",
    "tu-eval depth": "--limit 2",
    "tu-eval tamper": "--limit 6 --set steps=1 --set rates=[1e-5] --set rows=[1]",
}
"""what a command takes behind its words on a page, to be over soon; keys are beginnings of commands"""
STEPS = """ --set 'tokens=["hard"]' --set steps.target.epochs=1 --set steps.retain.epochs=1"""
SHORT = {
    "tu-train many recipes/tofu_forget01.toml --out runs/small": STEPS,
    "tu-train many recipes/tofu_forget01.toml --out runs/tofu01": """--set seed=[0] --set 'method=["npo"]' --set epochs=1""" + STEPS,
    "tu-train many recipes/tofu_forget10.toml --out runs/tofu10": """--set seed=[0] --set 'method=["npo"]' --set epochs=1""" + STEPS,
}
"""what makes a recipe on TOFU short"""
SHELL = "".join(f'{name}() {{ printf "%s\\037" {name} "$@"; echo; }}\n' for name in ("tu-score", "tu-train", "tu-eval"))
NAMED = {"org/my-model": "target", "org/before-it-learned": "retain", "meta-llama/Llama-3.2-1B-Instruct": "retain"}
"""models that pages and recipes name -> what stands in for them"""
SPECIMEN = atlas.AtlasSize(people=6, facts_per_person=4, forget_people=2, holdout_people=1)


def words(line: str) -> list[list[str]]:
    """The words of each command in a line, as the shell reads it: quotes, variables, *, loops, comments."""
    done = subprocess.run(["bash", "-uc", SHELL + line], capture_output=True, text=True, check=True)
    return [command.split("\037")[:-1] for command in done.stdout.splitlines()]


def sets(given: list[str], setting: str) -> bool:
    """Whether a command says that setting already: `--set` of the page holds, flags of SMALL come last and win."""
    return any(word.startswith(f"{setting.partition('=')[0]}=") for word in given)


def write_rows(path: str, rows: list[dict]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="session")
def models(make_tiny, tiny_tokenizer, tmp_path_factory) -> Path:
    """A folder with target, retain and unlearned: random models that end their answers after a few tokens, for speed.
    The first number of every hidden state is large, and only the end of a turn reads it."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("models")
    size = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    for seed, name in enumerate(("target", "retain", "unlearned")):
        model: Any = AutoModelForCausalLM.from_pretrained(make_tiny("Llama", seed=seed, **size))
        with torch.no_grad():
            model.get_input_embeddings().weight[:, 0] = 1.0
            model.lm_head.weight[:, 0] = 0.0
            model.lm_head.weight[tiny_tokenizer.eos_token_id, 0] = 1.0
        model.save_pretrained(folder / name)
        tiny_tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def little_tofu(tofu_dir, tmp_path_factory) -> Path:
    """TOFU in small: four rows of each file; those of the full set are two that stay and two that are forgotten."""
    folder = tmp_path_factory.mktemp("tofu")
    for path in tofu_dir.glob("*.json"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        kept = [*rows[:2], *rows[-2:]] if path.stem == "full" else rows[-4:] if path.stem.startswith("forget") else rows[:4]
        write_rows(str(folder / path.name), kept)
    shutil.copy(tofu_dir / "idontknow.jsonl", folder)
    return folder


@pytest.fixture
def place(models, little_tofu, monkeypatch, tmp_path) -> Path:
    """The current folder: `models/`, those of NAMED, and rows in forget.jsonl and retain.jsonl; the embedded model is
    one of the small ones."""
    monkeypatch.setattr("shared.lm.locate.smollm2_folder", lambda: models / "retain")
    monkeypatch.setenv("TU_TOFU_DIR", str(little_tofu))
    monkeypatch.chdir(tmp_path)
    for name in ("examples", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(models, "models")
    for name, of in NAMED.items():
        shutil.copytree(models / of, name)
    for name in ("forget", "retain"):
        rows = [{**row, "secret_spans": row["fact_spans"]} for row in atlas.rows(name, SPECIMEN)]
        write_rows(f"{name}.jsonl", rows)
    return tmp_path


@pytest.fixture
def walk(run_cli, place, monkeypatch) -> Callable[..., dict[str, str]]:
    """`walk("docs/NAME.md")` runs the commands of the page, all or those behind a heading; -> what each printed.
    `more` is added to SMALL; `first` has what is done before a command, by its beginning. Folders of `models/` that the
    page makes are not there before."""

    def inside(command: str, settings: Mapping, *, what: str, tell: object = None, ending: object = None) -> None:
        with process._written(settings) as file:
            code, _, err = run_cli(*command.split(" "), "--config", file)
            assert code == 0, (what, err)

    # Commands that start others start them in this process.
    for module in (many, steps, suite):
        monkeypatch.setattr(module, "run_command", inside)
    monkeypatch.setattr(measure, "run_shown", lambda command, arguments: run_cli(*command.split(" "), *arguments)[0])
    monkeypatch.setattr("gc.collect", lambda *_: None)  # thirty trainings, each of which looks through all that pytest holds

    def one(given: list[str], more: Mapping[str, str]) -> str:
        added = [text for start, text in more.items() if " ".join(given).startswith(start)]
        more_words = words(f"tu-eval {' '.join(added)}")[0][1:]
        pairs = zip(more_words[::2], more_words[1::2], strict=True)
        extra = [word for flag, value in pairs if not (flag == "--set" and sets(given, value)) for word in (flag, value)]
        code, said, err = run_cli(*given, *extra)
        assert code == 0, f"{shlex.join(given)} {shlex.join(extra)}\n{err}"
        return said

    def run(page: str, *, behind: str = "", more: Mapping = {}, first: Mapping = {}) -> dict[str, str]:
        text, out, first = (ROOT / page).read_text(encoding="utf-8"), {}, dict(first)
        lines = shown(text.split(behind, 1)[1] if behind else text)
        for made in re.findall(r"--out (models/\w+)", "\n".join(lines)):
            shutil.rmtree(made, ignore_errors=True)
        for line in lines:
            command, _, file = line.partition(" > ")
            for start in [start for start in first if line.startswith(start)]:
                first.pop(start)()
            out[line] = "".join(one(given, {**SMALL, **more}) for given in words(command))
            if file:
                Path(file).write_text(out[line], encoding="utf-8")
        assert out and not first, f"{page}: no command, or none of {list(first)}"
        return out

    return run


@pytest.fixture
def give(run_cli) -> Callable[[str], None]:
    """`give("tu-score run ...")`: a command of no page, which makes what a page begins with."""

    def run(line: str) -> None:
        code, _, err = run_cli(*words(line)[0])
        assert code == 0, err

    return run
