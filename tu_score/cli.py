"""tu-score: score every token of a data set once, look at the result, check it. Heavy imports wait until a command runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from shared.cli import ConfigFile, Device, Dtype, Limit, Long, Out, Seed, Sets, System, Template, new_app, run_app

app = new_app("Score every token of a data set under a model: which of them carry the knowledge?")


def _text(flag: str, text: str, default: str | bool = False):
    return typer.Option(flag, help=text, show_default=default)


Model = Annotated[str | None, _text("--model", "The model to be unlearned: local folder, org/name[@revision], or smollm2.")]
Data = Annotated[
    str | None, _text("--data", "tofu:forget01, atlas:forget, hub:org/name:config:split, or a .jsonl, .json, .csv, .tsv or .parquet file.")
]
Base = Annotated[
    str | None,
    _text("--base-model", "A model that never saw the data, such as the one before fine-tuning; it judges best which tokens matter."),
]
EngineName = Annotated[str | None, _text("--engine", "auto, torch, vllm.", "auto")]
Spans = Annotated[
    str | None, _text("--spans", "Which context is masked: auto (what the recipe reads), none, question, window, entity, given.", "auto")
]
SpanKey = Annotated[str | None, _text("--span-key", "For --spans given: column of [start, end) character offsets in the question or text.")]
KeepSpans = Annotated[bool | None, _text("--keep-spans", "Also store what each span's masking takes from each token.")]
TopK = Annotated[int | None, _text("--topk", "Also store the N likeliest tokens at each target.")]
QuestionKey = Annotated[str | None, _text("--question-key", "Column of the question, for files and hub sets.", "question")]
AnswerKey = Annotated[str | None, _text("--answer-key", "Column of the answer.", "answer")]
TextKey = Annotated[str | None, _text("--text-key", "Column of raw text, instead of question and answer.")]

Workers = Annotated[
    int | None, typer.Option("--workers", help="Processes that score, each with a model of its own and on CUDA a device.", show_default="1")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what the run would hold and take; write nothing.", show_default=False)]

Folder = Annotated[str, typer.Argument(metavar="DIR", help="A store: the --out of tu-score run, a folder or a URL (s3://, gs://, hf://).")]
ExampleId = Annotated[str | None, _text("--example", "Only the example with this id.")]
RowCount = Annotated[int, typer.Option("--rows", help="How many examples, from the first on.")]
TopCount = Annotated[
    int | None, typer.Option("--top", help="Instead, list the N target tokens of the whole store with the largest signal, one a line.")
]
Html = Annotated[Path | None, _text("--html", "Write the examples as a self-contained page instead; an older one is replaced.")]
Signal = Annotated[
    str,
    typer.Option(
        "--signal",
        help="What shades the tokens: importance, delta, delta_mean, gain, entropy, masked_entropy, tempered_entropy, logprob, "
        "base_logprob, base_entropy. The page can switch.",
    ),
]

RecipeText = Annotated[
    str | None, _text("--recipe", "Fields by commas, as in knowledge=positive,alpha=0.7,norm=rank; the others take their defaults.")
]
Scored = Annotated[str | None, _text("--model", "The model that was scored; only its tokenizer is read.")]
DataNow = Annotated[str | None, _text("--data", "The data that was scored, if it is no longer where the run found it.")]
Truth = Annotated[str, typer.Option("--truth", help="What the truth is: spans (character offsets in the answer).")]
TruthKey = Annotated[str, typer.Option("--truth-key", help="Column of the data that holds the spans.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.", show_default=False)]


@app.command()
def run(
    model: Model = None,
    data: Data = None,
    out: Out = None,
    base_model: Base = None,
    engine: EngineName = None,
    spans: Spans = None,
    span_key: SpanKey = None,
    keep_spans: KeepSpans = None,
    topk: TopK = None,
    question_key: QuestionKey = None,
    answer_key: AnswerKey = None,
    text_key: TextKey = None,
    template: Template = None,
    system: System = None,
    long: Long = None,
    limit: Limit = None,
    seed: Seed = None,
    dtype: Dtype = None,
    device: Device = None,
    workers: Workers = None,
    dry_run: DryRun = False,
    config: ConfigFile = None,
    sets: Sets = None,
) -> None:
    """Score a data set and write the store; a killed run goes on when the same command is given again."""
    from shared.config import resolve
    from shared.errors import ConfigError
    from tu_score.config import ScoreConfig

    flags = {
        "model": model, "data": data, "out": out, "base_model": base_model, "engine": engine,
        "spans": spans, "span_key": span_key, "keep_spans": keep_spans, "topk": topk,
        "question_key": question_key, "answer_key": answer_key, "text_key": text_key, "template": template, "system": system,
        "long": long, "limit": limit, "seed": seed, "dtype": dtype, "device": device, "workers": workers,
    }  # fmt: skip
    if dry_run and config is None:
        flags["out"] = out or "-"  # a dry run needs none
    resolved = resolve(ScoreConfig, config=config, sets=sets or (), flags=flags)
    if resolved.out.startswith("memory:"):
        raise ConfigError(f"--out {resolved.out}: is a place that is gone when the command ends; name a folder, or a URL such as s3://")
    if dry_run:
        from tu_score.estimate import estimate

        typer.echo("\n".join(estimate(resolved, check_out=out is not None).lines()))
        return
    from shared.store.scores import open_store
    from tu_score.run import run_score

    store = open_store(run_score(resolved))
    from shared.secret import without_secrets

    check, where = store.manifest["self_check"], without_secrets(str(store.folder))
    gap = f"{len(check['rows'])} rows scored again alone differ by at most {check['largest_nats']:.2g} nats"
    typer.echo(f"scores: {where}  ({len(store):,} rows, {store.manifest['tokens']:,} tokens, {len(store.manifest['parts'])} parts)")
    typer.echo(f"self-check: ok, {gap} (bound {check['bound_nats']:g})")
    typer.echo(f"next: tu-score inspect {where} --html heatmap.html")
    typer.echo(f"      tu-train run --model {resolved.model} --scores {where} --retain DATA --method npo --tokens hard --out FOLDER")


@app.command()
def inspect(
    folder: Folder,
    example: ExampleId = None,
    rows: RowCount = 5,
    top: TopCount = None,
    html: Html = None,
    signal: Signal = "importance",
) -> None:
    """Show examples with their target tokens shaded by importance (or another signal), or the tokens where it is largest."""
    from shared.store.scores import open_store
    from tu_score.inspect import inspect_store

    inspect_store(open_store(folder), example=example, rows=rows, top=top, html=html, signal=signal)


@app.command()
def verify(folder: Folder) -> None:
    """Check a store from manifest to last token, and say what is wrong."""
    from shared.errors import StoreError
    from shared.secret import without_secrets
    from shared.store.scores import open_store
    from tu_score.verify import problems_of, unchecked

    store = open_store(folder)
    problems = problems_of(store)
    for problem in problems:
        typer.echo(without_secrets(problem))
    if (not_told := unchecked(store)) is not None:
        typer.echo(not_told)
    if problems:
        found = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} found"
        raise StoreError(f"{without_secrets(folder)}: {found}; copy the folder again or score again")
    typer.echo(f"ok: {len(store):,} rows, {store.manifest['tokens']:,} tokens, {len(store.manifest['parts'])} parts")


@app.command()
def recipe(folder: Folder, recipe: RecipeText = None, config: ConfigFile = None, sets: Sets = None) -> None:
    """Compute importance again from the columns of a finished store, by another recipe (docs/recipes.md); no model is loaded."""
    from shared.config import resolve
    from shared.weighting.importance import Recipe

    resolved = resolve(Recipe, config=config, sets=[*(recipe.split(",") if recipe else ()), *(sets or ())])
    from shared.secret import without_secrets
    from shared.store.scores import open_store
    from tu_score.recipe import apply_recipe

    store = apply_recipe(open_store(folder), resolved)
    now, where = Recipe.recorded(store.manifest["recipe"]).describe(), without_secrets(str(store.folder))
    typer.echo(f"{where}: importance of {len(store):,} rows ({store.manifest['tokens']:,} tokens) is now {now}")


@app.command()
def agree(
    folder: Folder,
    model: Scored = None,
    truth: Truth = "spans",
    truth_key: TruthKey = "fact_spans",
    data: DataNow = None,
    as_json: AsJson = False,
) -> None:
    """Compare importance and every signal with ground truth: which tokens are the secret? ROC-AUC, average precision, precision."""
    from shared.errors import ConfigError
    from shared.store.scores import open_store

    if model is None:
        raise ConfigError("--model is missing: the model that was scored; its tokenizer tells which tokens the true spans are")
    store = open_store(folder)
    from tu_score.agree import agreement, as_text

    result = agreement(store, truth=truth, key=truth_key, model=model, data=data)
    typer.echo(json.dumps(result, indent=2) if as_json else as_text(result))


def main() -> None:
    run_app(app)
