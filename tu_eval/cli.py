"""tu-eval: measure a model on a suite, compare measurements. Heavy imports wait until a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.cli import ConfigFile, Device, Dtype, Limit, Long, Out, Seed, Sets, System, Template, new_app, run_app
from tu_eval import cli_benchmarks, cli_sign

app = new_app("Measure what a model still knows: evaluate it on a suite, compare evaluations on one page.")

Model = Annotated[str | None, typer.Option("--model", help="Local folder, org/name[@revision], or smollm2.", show_default=False)]
SuiteName = Annotated[
    str | None,
    typer.Option(
        "--suite",
        help="tofu:forget01, tofu:forget05, tofu:forget10, atlas[:people=..,seed=..], FILE.toml; run also muse:news, muse:books.",
        show_default=False,
    ),
]
Retain = Annotated[
    str | None,
    typer.Option(
        "--retain-results",
        help="Results folder (or TOFU_EVAL.json) of the retain model; forget quality and PrivLeak need it.",
        show_default=False,
    ),
]
Store = Annotated[
    str | None,
    typer.Option("--store", help="Folder of finished measurements, kept by content, that runs share.", show_default="OUT.unfinished"),
]
AsModel = Annotated[
    str | None,
    typer.Option(
        "--template", help="model (its chat template), plain (for a model without one), auto, or a template's name.", show_default="model"
    ),
]
EngineName = Annotated[str | None, typer.Option("--engine", help="auto, torch, vllm.", show_default="auto")]
Label = Annotated[str | None, typer.Option("--label", help="Name in tables and plots.", show_default="folder name of the model")]
Folders = Annotated[
    list[Path] | None,
    typer.Argument(metavar="DIR...", help="Results folders of tu-eval run, all on the same suite.", show_default=False),
]
Index = Annotated[
    Path | None,
    typer.Option(
        "--index",
        help="index.json of tu-train many: adds the results in each run's folder, RUN/results (tu-eval run --model RUN --out RUN/results).",
        show_default=False,
    ),
]
Agreements = Annotated[
    list[Path] | None,
    typer.Option(
        "--agreement", help="What tu-score agree --json wrote of a store that runs were trained with; may be repeated.", show_default=False
    ),
]
Markdown = Annotated[Path | None, typer.Option("--markdown", help="The table as a Markdown file, too.", show_default=False)]
Csv = Annotated[Path | None, typer.Option("--csv", help="Every run with all digits, too.", show_default=False)]
Png = Annotated[Path | None, typer.Option("--png", help="The plot as a picture, too.", show_default=False)]
Texts = Annotated[bool, typer.Option("--rows/--no-rows", help="Questions and answers on the page, row by row.")]
Before = Annotated[Path, typer.Option("--before", help="Results of the model before unlearning.")]
After = Annotated[Path, typer.Option("--after", help="Results of the model after unlearning.")]
RetainModel = Annotated[Path | None, typer.Option("--retain", help="Results of the retain model, to compare with.", show_default=False)]
Scores = Annotated[str | None, typer.Option("--store", help="Score store of what was to be forgotten.", show_default=False)]
EvidenceOut = Annotated[Path, typer.Option("--out", help="Folder for evidence.html and evidence.json; must be new or empty.")]
ShowText = Annotated[bool, typer.Option("--show-text", help="Texts of the forget set in the report, not their hashes alone.")]
AttackNames = Annotated[
    list[str] | None,
    typer.Option("--attack", help="paraphrase, sample, quantise or relearn; may be repeated.", show_default="all of them"),
]
ChoicesData = Annotated[
    str | None,
    typer.Option(
        "--data", help="Rows of {question, choices, answer}: .jsonl, .json, .parquet or hub:org/name:config:split.", show_default=False
    ),
]
BeforeModel = Annotated[
    str | None, typer.Option("--before", help="The model before unlearning, attacked in the same way.", show_default=False)
]
NeverSaw = Annotated[
    str | None, typer.Option("--retain", help="The model that never saw the forget set, attacked in the same way.", show_default=False)
]
Sign = Annotated[
    Path | None, typer.Option("--sign", help="Private key (PEM, ed25519) to sign the folder with, see tu-eval key.", show_default=False)
]
Report = Annotated[Path, typer.Option("--out", help="The page to write (HTML); an older one is replaced.")]


@app.command()
def run(
    model: Model = None,
    suite: SuiteName = None,
    out: Out = None,
    retain_results: Retain = None,
    store: Store = None,
    label: Label = None,
    engine: EngineName = None,
    config: ConfigFile = None,
    sets: Sets = None,
    seed: Seed = None,
    limit: Limit = None,
    dtype: Dtype = None,
    device: Device = None,
    long: Long = None,
    template: AsModel = None,
    system: System = None,
    sign: Sign = None,
) -> None:
    """Evaluate one model on one suite and keep the results."""
    from shared.config import resolve
    from tu_eval.measure.config import EvalConfig

    flags = {
        "model": model, "suite": suite, "out": out, "retain_results": retain_results, "store": store, "label": label,
        "engine": engine, "seed": seed, "limit": limit, "dtype": dtype, "device": device, "long": long, "template": template,
        "system": system,
    }  # fmt: skip
    resolved = resolve(EvalConfig, config=config, sets=sets or (), flags=flags)
    from tu_eval.compare.table import print_results
    from tu_eval.evidence.sign import private_key
    from tu_eval.evidence.sign import sign as sign_folder

    key = private_key(sign, "--sign") if sign is not None else None
    if resolved.suite.startswith("muse:"):
        from tu_eval.measure.muse import evaluate
    else:
        from tu_eval.measure.questions import evaluate
    results = evaluate(resolved)
    if key is not None:
        sign_folder(results.folder, key)
    print_results(results)


@app.command()
def compare(
    out: Report,
    folders: Folders = None,
    index: Index = None,
    agreement: Agreements = None,
    markdown: Markdown = None,
    csv: Csv = None,
    png: Png = None,
    rows: Texts = True,
) -> None:
    """Put several evaluations of one suite on one self-contained page."""
    from shared.errors import ConfigError
    from shared.files.outputs import claimed_files
    from tu_eval.compare.comparison import load_comparison
    from tu_eval.compare.export import check_png, write_exports
    from tu_eval.compare.report import write_report
    from tu_eval.compare.table import print_comparison

    if not folders and index is None:
        raise ConfigError("compare: no results given; name results folders of tu-eval run, or --index with the index.json of tu-train many")
    named = {"--out": out, "--markdown": markdown, "--csv": csv, "--png": png}
    files = {flag: path for flag, path in named.items() if path is not None}
    with claimed_files(files):
        comparison = load_comparison(folders or [], index, agreement or ())
        if png is not None:
            check_png(comparison)
        write_report(out, comparison, texts=rows)
        write_exports(comparison, to_markdown=markdown, to_csv=csv, to_png=png)
    print_comparison(comparison)
    for flag, path in files.items():
        typer.echo(f"{'page' if path is out else flag.removeprefix('--')}: {path}")


@app.command()
def evidence(
    before: Before,
    after: After,
    out: EvidenceOut,
    retain: RetainModel = None,
    store: Scores = None,
    show_text: ShowText = False,
    sign: Sign = None,
) -> None:
    """Report for a deletion request: what was asked, what was done, what was measured, and what cannot be claimed."""
    from tu_eval.evidence.report import write_evidence
    from tu_eval.evidence.sign import private_key
    from tu_eval.evidence.sign import sign as sign_folder

    key = private_key(sign, "--sign") if sign is not None else None
    folder = write_evidence(out, before=before, after=after, retain=retain, store=store, show_text=show_text)
    if key is not None:
        sign_folder(folder, key)
    typer.echo(f"report: {folder / 'evidence.html'}")
    typer.echo(f"data: {folder / 'evidence.json'}")


@app.command()
def attack(
    model: Model = None,
    suite: SuiteName = None,
    out: Out = None,
    before: BeforeModel = None,
    retain: NeverSaw = None,
    attacks: AttackNames = None,
    store: Store = None,
    config: ConfigFile = None,
    sets: Sets = None,
    seed: Seed = None,
    limit: Limit = None,
    dtype: Dtype = None,
    device: Device = None,
    long: Long = None,
    template: Template = None,
    system: System = None,
) -> None:
    """Try to get the forgotten out again: other prompts, many samples, rounded weights, a few steps of fine-tuning."""
    from shared.config import resolve
    from tu_eval.attacks.config import AttackConfig

    flags = {
        "model": model, "suite": suite, "out": out, "before": before, "retain": retain, "attacks": attacks or None, "store": store,
        "seed": seed, "limit": limit, "dtype": dtype, "device": device, "long": long,
        "template": template, "system": system,
    }  # fmt: skip
    resolved = resolve(AttackConfig, config=config, sets=sets or (), flags=flags)
    from tu_eval.attacks.run import attack as run_attacks
    from tu_eval.attacks.run import print_attacks

    print_attacks(run_attacks(resolved))


@app.command()
def choices(
    model: Model = None,
    data: ChoicesData = None,
    out: Out = None,
    config: ConfigFile = None,
    sets: Sets = None,
    limit: Limit = None,
    dtype: Dtype = None,
    device: Device = None,
    long: Long = None,
    template: Template = None,
    system: System = None,
) -> None:
    """Multiple-choice accuracy on rows of your own: plain, and with the choices' lengths taken out."""
    from shared.config import resolve
    from tu_eval.choices import ChoicesConfig, evaluate_choices

    flags = {"model": model, "data": data, "out": out, "limit": limit, "dtype": dtype, "device": device, "long": long}
    flags |= {"template": template, "system": system}
    about = evaluate_choices(resolve(ChoicesConfig, config=config, sets=sets or (), flags=flags))
    for name in ("accuracy", "accuracy_norm"):
        error = about["metrics"][f"{name}_stderr"]
        typer.echo(f"{name}: {about['metrics'][name]:.4f}" + (f" ± {error:.4f}" if error is not None else ""))
    typer.echo(f"chance: {about['chance']:.4f}, questions: {about['questions']}")


cli_benchmarks.add_commands(app)
cli_sign.add_commands(app)


def main() -> None:
    run_app(app)
