"""The files of settings and the commands of which tests/golden is made; tests/test_golden.py gives them again."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.hostile import world

CPU = world.CPU
SUITE = """holdout = "holdout.jsonl"

[[set]]
name = "forget"
data = "forget.jsonl"
paraphrase = true

[[set]]
name = "retain"
data = "retain.jsonl"
generate = false
"""
STUDY = """model = "model"
scores = "scores"
retain = "retain.jsonl"
epochs = 1
device = "cpu"
method = ["npo", "graddiff"]
tokens = "hard"
"""
TASK = """task: own
dataset_path: json
dataset_kwargs:
  data_files:
    test: "choices.jsonl"
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: answer
doc_to_choice: choices
metadata:
  version: 1
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
SCORE = ("tu-score", "run", "--model", "model", "--base-model", "start", "--data", "forget.jsonl", "--engine", "torch", "--topk", "2",
         "--set", "part_tokens=200", *CPU)  # fmt: skip
SAVING = ("--set", "batch_size=3", "--learning-rate", "1e-3", "--save-every", "1", "--set", "keep_checkpoints=1", *CPU)
TUNED = ("tu-train", "finetune", "--model", "start", "--data", "retain.jsonl", "--epochs", "2", *SAVING)
HALF = ("tu-train", "run", *world.TRAIN, "--epochs", "3", *SAVING)
LANDED = (*HALF, "--epochs", "9", "--learning-rate", "1e-2", "--set", "method=atwu", "--set", "eval_every=1", "--set", "land=true", "--set",
          "stop_when=forget_probability<0.0656")  # fmt: skip
KEPT = ("--store", "kept")
EVAL = ("tu-eval", "run", "--suite", "suite.toml", "--set", "max_new_tokens=4", *KEPT, *CPU)
RETAIN = ("--retain-results", "results-retain")
PAGES = ("--out", "page.html", "--csv", "compare.csv", "--markdown", "compare.md")
FOLDERS = ("results-retain", "results", "results-after")
COMPARE = ("tu-eval", "compare", *FOLDERS, "--index", "many/index.json", "--agreement", "agreement.json", *PAGES)
MADE: dict[str, Sequence[str]] = {
    "model": ("tu-train", "finetune", "--model", "start", "--data", world.FULL, "--epochs", "30", "--learning-rate", "1e-2", *CPU),
    "scores": SCORE,
    "after": ("tu-train", "run", *world.TRAIN, "--set", "method=npo", "--set", "eval_every=1", "--learning-rate", "1e-3", *CPU),
    "results-retain": (*EVAL, "--model", "start", "--label", "retain"),
    "results": (*EVAL, "--model", "model", *RETAIN),
    "results-after": (*EVAL, "--model", "after", *RETAIN),
    "results-muse": ("tu-eval", "run", "--model", "model", "--suite", "muse:news", "--set", "verbmem_tokens=8", "--set",
                     "knowmem_tokens=4", *CPU),
    "attacks": ("tu-eval", "attack", "--model", "after", "--before", "model", "--suite", "suite.toml", "--set", "relearn_steps=2",
                "--set", "samples=2", "--set", "max_new_tokens=4", *KEPT, *CPU),
    "choices": ("tu-eval", "choices", "--model", "model", "--data", "choices.jsonl", *CPU),
    "benchmarks": ("tu-eval", "benchmarks", "--model", "model", "--tasks", "own", "--include", "tasks", *CPU),
    "judged": ("tu-eval", "judge", "--model", "model", "--data", "judged.jsonl", "--judge-model", "stub", "--set", "max_new_tokens=4",
               *KEPT, *CPU),
    "diagnosed": ("tu-train", "diagnose", "--model", "model", "--scores", "scores", "--retain", "retain.jsonl", "--rows", "4", "--set",
                  "sketch=64", *CPU),
    "evidence": ("tu-eval", "evidence", "--before", "results", "--after", "results-after", "--retain", "results-retain", "--store",
                 "scores"),
}  # fmt: skip
"""folder -> the command that makes it, but for --out"""
RESUMED: dict[str, Sequence[str]] = {
    "scores.half": SCORE, "tuned.half": TUNED, "after.half": (*HALF, "--set", "method=npo"), "landed.half": LANDED,
    "many": ("tu-train", "many", "study.toml"),
}  # fmt: skip
"""folder -> the command that was killed while it made it, but for --out"""
RESUME: dict[str, Sequence[str]] = dict.fromkeys(("tuned.half", "after.half", "landed.half"), ("--resume",))
"""what the command needs when it is given again; the others go on by themselves"""
