"""tu-eval: measure a model on a suite, compare measurements. Heavy imports wait until a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.cli import ConfigFile, Device, Dtype, Limit, Long, Out, Seed, Sets, new_app, run_app

app = new_app("Measure what a model still knows: evaluate it on a suite, compare evaluations on one page.")

Model = Annotated[str | None, typer.Option("--model", help="Local folder, org/name[@revision], or smollm2.", show_default=False)]
SuiteName = Annotated[
    str | None,
    typer.Option("--suite", help="tofu:forget01, tofu:forget05, tofu:forget10, or atlas[:people=..,seed=..].", show_default=False),
]
Retain = Annotated[
    str | None, typer.Option("--retain-results", help="Results of the retain model; forget quality needs them.", show_default=False)
]
Label = Annotated[str | None, typer.Option("--label", help="Name in tables and plots.", show_default="folder name of the model")]
Folders = Annotated[list[Path], typer.Argument(metavar="DIR...", help="Results folders of tu-eval run, all on the same suite.")]
Report = Annotated[Path, typer.Option("--out", help="The page to write (HTML); an older one is replaced.")]


@app.command()
def run(
    model: Model = None,
    suite: SuiteName = None,
    out: Out = None,
    retain_results: Retain = None,
    label: Label = None,
    config: ConfigFile = None,
    sets: Sets = None,
    seed: Seed = None,
    limit: Limit = None,
    dtype: Dtype = None,
    device: Device = None,
    long: Long = None,
) -> None:
    """Evaluate one model on one suite and keep the results."""
    from shared.config import resolve
    from tu_eval.config import EvalConfig

    flags = {
        "model": model, "suite": suite, "out": out, "retain_results": retain_results, "label": label,
        "seed": seed, "limit": limit, "dtype": dtype, "device": device, "long": long,
    }  # fmt: skip
    resolved = resolve(EvalConfig, config=config, sets=sets or (), flags=flags)
    from tu_eval.run import evaluate
    from tu_eval.table import print_results

    print_results(evaluate(resolved))


@app.command()
def compare(folders: Folders, out: Report) -> None:
    """Put several evaluations of one suite on one self-contained page."""
    from tu_eval.compare import load_comparison
    from tu_eval.report import write_report
    from tu_eval.table import print_comparison

    comparison = load_comparison(folders)
    write_report(out, comparison)
    print_comparison(comparison)
    typer.echo(f"page: {out}")


def main() -> None:
    run_app(app)
