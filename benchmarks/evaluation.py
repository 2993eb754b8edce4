"""The study of docs/evaluation.md, by the real commands: does a model that unlearned rows look like one that never saw
them?

    TU_TOFU_DIR=... python -m benchmarks.evaluation --out FOLDER [--doc docs/evaluation.md --picture
    docs/comparison.png]

SmolLM2-135M learns the last 160 rows of TOFU's full set (target); the same from the first 120 of those is the retain
model, which never saw forget01, the last 40. The target unlearns forget01 by NPO, with all tokens and with the 30 %
that the model before fine-tuning found hardest to guess. All four are measured on tofu:forget01, the first --limit rows
of each set, membership inference against the 40 rows before those 160. A finished step is kept, an unfinished one goes
on: after a kill, give the same command again.

--doc writes the tables between the lines `<!-- study -->` and `<!-- /study -->`, --picture the comparison page as
Chromium shows it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

FORGET, SUITE, BASE = "tofu:forget01", "tofu:forget01", "smollm2"
LEARN = ["--set", "batch_size=4", "--learning-rate", "2e-4", "--set", "save_every=25"]
UNLEARN = ["--set", "batch_size=4", "--method", "npo", "--learning-rate", "5e-5", "--set", "save_every=25"]
TOKENS = {"npo-all": ["--tokens", "all"], "npo-hard": ["--tokens", "hard", "--keep", "0.3"]}
RECIPE = ["--base-model", BASE, "--set", "uncertainty=base_entropy", "--set", "unit=token", "--set", "copies=keep"]
NAMES = ("target", "retain", *TOKENS)
FIRST, RETAINED, LAST = 3840, 3960, 4000
"""rows of tofu:full: the target learns FIRST to LAST, the retain model FIRST to RETAINED"""
MARKS = ("<!-- study -->", "<!-- /study -->")
WINDOW = "1400,1700"
CAPTION = "The comparison page of the study: the sortable table of metrics, forget quality against model utility, the bars by method"


def step(out: Path, words: list[str], *, done: Path | None = None) -> None:
    """One command, unless what it makes is there. `done`: the file that is written last, where `out` appears before
    it."""
    print(f"$ {shlex.join(words)}", flush=True)
    if (done or out).exists():
        print(f"  finished earlier, kept: {out}", flush=True)
        return
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", words[0].replace("-", "_"), *words[1:]], check=True)
    print(f"  ({time.monotonic() - started:.0f} s)", flush=True)


def train(words: list[str], out: Path) -> None:
    checkpoints = out.with_name(f"{out.name}.unfinished").exists()
    step(out, [*words, "--out", str(out), *(["--resume"] if checkpoints else [])])


def score(model: str, data: str, out: Path, *more: str) -> None:
    words = ["tu-score", "run", "--model", model, "--data", data, *more, "--out", str(out)]
    step(out, words, done=out / "_manifest.json")


def write_data(work: Path, rows: int) -> None:
    """learned, retained and holdout as JSONL; a smaller study takes the beginning of each part."""
    from shared.data.datasets import load_rows

    full, quarter = load_rows("tofu:full"), rows // 4
    retained, forgotten = full[FIRST:RETAINED][: 3 * quarter], full[RETAINED:LAST][:quarter]
    parts = {"learned": [*retained, *forgotten], "retained": retained, "holdout": full[FIRST - 40 : FIRST][:quarter]}
    for name, part in parts.items():
        path = work / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"question": r.question, "answer": r.answer}) + "\n" for r in part), encoding="utf-8")


def study(work: Path, settings: argparse.Namespace) -> None:
    models, epochs, quarter = work / "models", ["--epochs", str(settings.epochs)], settings.rows // 4
    work.mkdir(parents=True, exist_ok=True)
    write_data(work, settings.rows)
    for name, data in (("target", "learned"), ("retain", "retained")):
        train(["tu-train", "finetune", "--model", BASE, "--data", str(work / f"{data}.jsonl"), *epochs, *LEARN], models / name)
    target, retained = str(models / "target"), str(work / "retained.jsonl")
    score(target, FORGET, work / "scores", "--limit", str(quarter), *RECIPE)
    for name, tokens in TOKENS.items():
        words = ["tu-train", "run", "--model", target, "--scores", str(work / "scores"), "--retain", retained]
        train([*words, *UNLEARN, *tokens, *epochs], models / name)
    common = ["--suite", SUITE, "--limit", str(settings.limit), "--store", str(work / "measured")]
    common += ["--set", f"max_new_tokens={settings.max_new_tokens}", "--set", f"holdout={work / 'holdout.jsonl'}"]
    common += ["--set", f"reference_model={BASE}", "--set", "gradients=true"]
    for name in ("retain", *(n for n in NAMES if n != "retain")):
        against = [] if name == "retain" else ["--retain-results", str(work / "results" / "retain")]
        out = work / "results" / name
        step(out, ["tu-eval", "run", "--model", str(models / name), *common, *against, "--label", name, "--out", str(out)])
        score(str(models / name), retained, work / "retained" / name, "--spans", "none", "--engine", "torch")


def compare(work: Path) -> None:
    """Written anew each time: it takes seconds."""
    files = {"out": "comparison.html", "markdown": "table.md", "csv": "table.csv", "png": "plot.png"}
    words = ["tu-eval", "compare", *(str(work / "results" / name) for name in NAMES)]
    for flag, name in files.items():
        words += [f"--{flag}", str(work / name)]
    step(work / "never", words)


def probability(store: Path) -> float:
    """Geometric mean over all target tokens of the store."""
    from shared.store.scores import open_store

    rows = open_store(store).rows(("is_target", "logprob"))
    values = [p for row in rows for p, target in zip(row["logprob"], row["is_target"], strict=True) if target]
    return math.exp(math.fsum(values) / len(values))


def tables(work: Path, settings: argparse.Namespace) -> str:
    """The Markdown of the study: what was run, the comparison's table, and the rows that the suite does not ask for."""
    kept = {name: f"{probability(work / 'retained' / name):.3f}" for name in NAMES}
    quarter = settings.rows // 4
    lines = [
        f"{settings.rows} rows learned, {quarter} of them to be forgotten; {settings.epochs} epochs each; the suite's first "
        f"{settings.limit} rows of each set, answers of up to {settings.max_new_tokens} tokens; seed 0; "
        f"{os.cpu_count()} cores of a CPU, float32.",
        "",
        (work / "table.md").read_text(encoding="utf-8").strip(),
        "",
        f"Probability of an answer token (geometric mean) on the {3 * quarter} rows that were learned and had to stay:",
        "",
        "| " + " | ".join(kept) + " |",
        "|" + " --- |" * len(kept),
        "| " + " | ".join(kept.values()) + " |",
    ]
    return "\n".join(lines)


def write_doc(doc: Path, text: str) -> None:
    before, rest = doc.read_text(encoding="utf-8").split(MARKS[0])
    doc.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{rest.split(MARKS[1])[1]}", encoding="utf-8")


def take_picture(page: Path, picture: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("--picture: no Chromium on PATH; apt-get install chromium")
    words = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WINDOW}", f"--screenshot={picture.resolve()}"]
    subprocess.run([chromium, *words, page.resolve().as_uri()], check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="working folder, about 5 GB; finished steps in it are kept")
    parser.add_argument("--rows", type=int, default=160, help="rows learned, a quarter of them to be forgotten")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--limit", type=int, default=40, help="rows of each set of the suite")
    parser.add_argument("--max-new-tokens", type=int, default=100)
    parser.add_argument("--doc", type=Path, help="Markdown file whose study is replaced")
    parser.add_argument("--picture", type=Path, help="PNG of the comparison page")
    settings = parser.parse_args()
    started = time.monotonic()
    study(settings.out, settings)
    compare(settings.out)
    if settings.picture:
        take_picture(settings.out / "comparison.html", settings.picture)
    if settings.doc:
        text = tables(settings.out, settings)
        if settings.picture:
            text += f"\n\n![{CAPTION}]({os.path.relpath(settings.picture, settings.doc.parent)})"
        write_doc(settings.doc, text)
    print(f"done in {(time.monotonic() - started) / 60:.1f} minutes: {settings.out / 'comparison.html'}")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
