"""Command line of tu-train. Heavy imports happen inside the commands, so that --help answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.cli import ConfigFile, Device, Dtype, Limit, Long, Out, Seed, Sets, System, Template, new_app, run_app

app = new_app("Train at token level: unlearn a scored forget set, or fine-tune a model.")

Model = Annotated[str | None, typer.Option("--model", help="Local folder, org/name[@revision], or smollm2.", show_default=False)]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Passes over the data.", show_default="5")]
LearningRate = Annotated[float | None, typer.Option("--learning-rate", help="Peak learning rate.", show_default="method's; finetune 5e-5")]
QuestionKey = Annotated[str | None, typer.Option("--question-key", help="Column of the question.", show_default="question")]
AnswerKey = Annotated[str | None, typer.Option("--answer-key", help="Column of the answer.", show_default="answer")]
Lora = Annotated[int | None, typer.Option("--lora", metavar="RANK", help="Train LoRA adapters; merged at the end.", show_default=False)]
SaveEvery = Annotated[int | None, typer.Option("--save-every", help="Steps between checkpoints.", show_default=False)]
Resume = Annotated[bool | None, typer.Option("--resume", help="Go on with an unfinished run.", show_default=False)]
TextKey = Annotated[str | None, typer.Option("--text-key", help="Column of raw text.", show_default=False)]


def main() -> None:
    run_app(app)


@app.command()
def run(
    model: Model = None,
    scores: Annotated[
        str | None, typer.Option("--scores", help="Score store of the forget set (tu-score run).", show_default=False)
    ] = None,
    retain: Annotated[str | None, typer.Option("--retain", help="Data spec of what must stay, or none.", show_default=False)] = None,
    method: Annotated[str | None, typer.Option("--method", help="Name of a method (tu-train methods).", show_default="npo")] = None,
    tokens: Annotated[str | None, typer.Option("--tokens", help="all, hard, soft, given or random.", show_default="hard")] = None,
    keep: Annotated[float | None, typer.Option("--keep", help="hard, random: share of tokens kept.", show_default="0.3")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="NAME=VALUE", help="An option of the method.", show_default=False)
    ] = None,
    eval_every: Annotated[int | None, typer.Option("--eval-every", help="Steps between evaluations.", show_default=False)] = None,
    stop_when: Annotated[
        str | None, typer.Option("--stop-when", help="End early, such as forget_probability<0.05.", show_default=False)
    ] = None,
    allow_other_model: Annotated[
        bool | None, typer.Option("--allow-other-model", help="Train another model than was scored.", show_default=False)
    ] = None,
    epochs: Epochs = None,
    learning_rate: LearningRate = None,
    lora: Lora = None,
    save_every: SaveEvery = None,
    resume: Resume = None,
    out: Out = None,
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
    config: ConfigFile = None,
    sets: Sets = None,
) -> None:
    """Unlearn the forget set of a score store with token weights. No reference model is loaded."""
    flags = {k: v for k, v in locals().items() if k not in ("config", "sets", "option")}
    from shared.config import pairs, resolve
    from tu_train.config import UnlearnConfig

    flags["options"] = pairs(option, "--option") if option else None

    settings = resolve(UnlearnConfig, config=config, sets=sets or (), flags=flags)
    from tu_train.run import run_unlearn

    folder = run_unlearn(settings)
    if settings.lora:
        from tu_train.model.lora import WARNING

        print(f"{folder / 'adapter'}: {WARNING}")
    print(f"unlearned model: {folder}\nnext: tu-eval run --model {folder} --suite SUITE --out results/{folder.name}")


@app.command()
def methods() -> None:
    """The methods, with their options, papers and formulas."""
    from tu_train.methods.listing import print_methods

    print_methods()


@app.command()
def finetune(
    model: Model = None,
    data: Annotated[str | None, typer.Option("--data", help="Data spec to learn.", show_default=False)] = None,
    epochs: Epochs = None,
    learning_rate: LearningRate = None,
    lora: Lora = None,
    save_every: SaveEvery = None,
    resume: Resume = None,
    out: Out = None,
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
    config: ConfigFile = None,
    sets: Sets = None,
) -> None:
    """Fine-tune on a data set: makes a target model, or the retain model that forget quality compares with."""
    flags = {k: v for k, v in locals().items() if k not in ("config", "sets")}
    from shared.config import resolve
    from tu_train.config import FinetuneConfig

    settings = resolve(FinetuneConfig, config=config, sets=sets or (), flags=flags)
    from tu_train.run import run_finetune

    folder = run_finetune(settings)
    print(f"fine-tuned model: {folder}\nnext: tu-score run --model {folder} --data FORGET --out scores")


@app.command()
def diagnose(
    model: Model = None,
    scores: Annotated[
        str | None, typer.Option("--scores", help="Score store of the forget set (tu-score run).", show_default=False)
    ] = None,
    retain: Annotated[str | None, typer.Option("--retain", help="Data spec of what must stay.", show_default=False)] = None,
    keep: Annotated[float | None, typer.Option("--keep", help="hard: share of tokens kept.", show_default="0.3")] = None,
    rows: Annotated[int | None, typer.Option("--rows", help="Forget rows that are measured.", show_default="40")] = None,
    given_key: Annotated[
        str | None, typer.Option("--given-key", help="Column of the scored data with true spans.", show_default=False)
    ] = None,
    question_key: QuestionKey = None,
    answer_key: AnswerKey = None,
    text_key: TextKey = None,
    template: Template = None,
    system: System = None,
    long: Long = None,
    seed: Seed = None,
    device: Device = None,
    out: Out = None,
    config: ConfigFile = None,
    sets: Sets = None,
) -> None:
    """Measure the signal-to-noise ratio of token weightings on real gradients, and their conflict with what must stay."""
    flags = {k: v for k, v in locals().items() if k not in ("config", "sets")}
    from shared.config import resolve
    from tu_train.diagnose.config import DiagnoseConfig

    settings = resolve(DiagnoseConfig, config=config, sets=sets or (), flags=flags)
    from tu_train.diagnose.run import run_diagnose
    from tu_train.saving.working_folder import check_name

    check_name(settings.out)
    folder = run_diagnose(settings)
    print(f"diagnosis: {folder} (diagnose.json, snr.png)")


@app.command()
def many(
    study: Annotated[Path, typer.Argument(help="TOML file with the fields of `tu-train run`; a list takes each of its values in turn.")],
    out: Annotated[str, typer.Option("--out", help="Folder of all runs and index.json (tu-eval compare --index); an earlier one goes on.")],
) -> None:
    """Every combination of a study, one run after another; finished ones are skipped, unfinished ones resumed, failed ones noted.

    What a combination has no use for (keep with tokens = "all", an option of another method) is left out of it, and equal combinations are
    one run. The first field of the file is the outermost loop. Exit code 1 if a run failed.
    """
    from shared.files.fs import refuse_url
    from shared.files.storage import open_place
    from tu_train.many.run import run_many
    from tu_train.saving.working_folder import check_name

    check_name(out)
    folder = Path(out)
    refuse_url(folder, what="the runs of a study")
    open_place(out)  # refuses an empty name, which as a path would be the working directory
    runs = run_many(study, folder)
    failed = [run for run in runs if run.status == "failed"]
    print(f"{len(runs) - len(failed)} of {len(runs)} runs finished: {folder / 'index.json'}")
    for run in failed:
        print(f"failed: {run.name}: {run.error}")
    if failed:
        print("next: mend what they say and start the same command again; it does only what is not finished")
        raise typer.Exit(1)
