"""`make demo`: the main job from end to end, on the embedded model and data. Each step is a real command, shown before
it runs.

A finished step is kept, so that a demo that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import shlex
import sys
import time
from pathlib import Path

SIZE = "people=5,facts_per_person=4,forget_people=2,holdout_people=1"
METHODS, TOKENS = ("graddiff", "npo"), ("all", "hard", "soft")
LEARN = ["--epochs", "5", "--learning-rate", "2e-4", "--set", "batch_size=4"]
UNLEARN = {"graddiff": ["--learning-rate", "6e-5"], "npo": ["--learning-rate", "1e-4"]}
NEXT = """
Three commands for a deletion request on your own model (docs/secrets.md): rows.jsonl holds what it must forget, secrets.txt a secret a line
  tu-train run --model MODEL --forget rows.jsonl --retain retain.jsonl --method simnpo --tokens given --secrets secrets.txt --out unlearned
  tu-eval attack --model unlearned --before MODEL --forget rows.jsonl --secrets secrets.txt --out attacks
  tu-eval ask unlearned "QUESTION" --beside MODEL"""


def command(line: list[str], out: Path, *, stdout: bool = False) -> None:
    """Runs a command in this process (one import of torch for all of them), unless its output is there.

    `stdout`: `out` is what it prints.
    """
    from tu_eval.cli import app as tu_eval
    from tu_score.cli import app as tu_score
    from tu_train.cli import app as tu_train

    print(f"\n$ {shlex.join(line)}" + (f" > {shlex.quote(str(out))}" if stdout else ""), flush=True)
    if out.exists() and (out.is_file() or out.name != "scores" or (out / "_manifest.json").exists()):
        print(f"  finished earlier, kept: {out}")
        return
    started = time.monotonic()
    app, said = {"tu-score": tu_score, "tu-train": tu_train, "tu-eval": tu_eval}[line[0]], io.StringIO()
    with contextlib.redirect_stdout(said if stdout else sys.stdout):
        app(line[1:], standalone_mode=False)
    if stdout:
        out.write_text(said.getvalue(), encoding="utf-8")
    gc.collect()
    print(f"  ({time.monotonic() - started:.0f} s)", flush=True)


def unlearn(out: Path) -> None:
    print("\n3. Unlearn: two methods, each on all tokens, on the important ones (hard), and in proportion (soft)")
    sources = ["--model", str(out / "models" / "target"), "--scores", str(out / "scores"), "--retain", f"atlas:retain:{SIZE}"]
    for method in METHODS:
        for tokens in TOKENS:
            model = out / "models" / f"{method}-{tokens}"
            how = ["--method", method, "--tokens", tokens, "--epochs", "3", "--set", "batch_size=4", *UNLEARN[method]]
            command(["tu-train", "run", *sources, *how, "--out", str(model)], model)


def reach_verdict(out: Path, names: list[str]) -> Path:
    """The page of the models' results, with attacks on one of them."""
    print("\n5. Ask what it forgot in other words, round its weights, and reach a verdict")
    attacks, verdict, results = out / "attacks", out / "verdict.html", out / "results"
    model, target, retain = (str(out / "models" / name) for name in ("npo-hard", "target", "retain"))
    line = ["tu-eval", "attack", "--model", model, "--before", target, "--retain", retain, "--suite", f"atlas:{SIZE}"]
    command([*line, "--limit", "8", "--attack", "paraphrase", "--attack", "quantise", "--out", str(attacks)], attacks)
    verdict.unlink(missing_ok=True)
    ends = ["--before", str(results / "target"), "--retain", str(results / "retain")]
    command(["tu-eval", "report", *(str(results / name) for name in names), str(attacks), *ends, "--out", str(verdict)], verdict)
    return verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out"))
    out: Path = parser.parse_args().out
    models, results = out / "models", out / "results"
    started = time.monotonic()

    def finetune(name: str, data: str) -> None:
        command(["tu-train", "finetune", "--model", "smollm2", "--data", data, *LEARN, "--out", str(models / name)], models / name)

    def evaluate(name: str, *more: str) -> None:
        line = ["tu-eval", "run", "--model", str(models / name), "--suite", f"atlas:{SIZE}", "--limit", "8", "--set", "max_new_tokens=16"]
        command([*line, *more, "--out", str(results / name)], results / name)

    print("1. A target model that knows 5 fictional people, and a retain model that never met the 2 to be forgotten")
    finetune("target", f"atlas:full:{SIZE}")
    finetune("retain", f"atlas:retain:{SIZE}")
    print("\n2. Score every token of the forget set once")
    score = ["tu-score", "run", "--model", str(models / "target"), "--data", f"atlas:forget:{SIZE}", "--base-model", "smollm2"]
    command([*score, "--out", str(out / "scores")], out / "scores")
    command(["tu-score", "inspect", str(out / "scores"), "--rows", "4", "--html", str(out / "heatmap.html")], out / "heatmap.html")
    agreement = out / "agreement.json"
    line = ["tu-score", "agree", str(out / "scores"), "--model", str(models / "target"), "--json"]
    command(line, agreement, stdout=True)
    unlearn(out)
    print("\n4. Evaluate all of them against the retain model")
    evaluate("retain", "--label", "retain")
    names = ["target", *(f"{m}-{t}" for m in METHODS for t in TOKENS)]
    for name in names:
        evaluate(name, "--retain-results", str(results / "retain"))
    page = out / "report.html"
    page.unlink(missing_ok=True)
    command(
        ["tu-eval", "compare", *(str(results / n) for n in ["retain", *names]), "--agreement", str(agreement), "--out", str(page)], page
    )
    verdict = reach_verdict(out, names[1:])
    print(f"\ndone in {(time.monotonic() - started) / 60:.1f} minutes")
    print(f"verdict:         {verdict.resolve()}\ncomparison page: {page.resolve()}\nheat map:        {(out / 'heatmap.html').resolve()}")
    print(f"disk: {sum(f.stat().st_size for f in out.rglob('*') if f.is_file()) / 1e9:.1f} GB in {out} (delete it when you have looked)")
    print(NEXT)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
