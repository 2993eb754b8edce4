"""Command line of tu-train. Heavy imports happen inside the commands, so that --help answers at once."""

from __future__ import annotations

from typing import Annotated

import typer

from shared.cli import ConfigFile, Device, Dtype, Limit, Long, Out, Seed, Sets, new_app, run_app

app = new_app("Train at token level: unlearn a scored forget set, or fine-tune a model.")

Model = Annotated[str | None, typer.Option("--model", help="Local folder, org/name[@revision], or smollm2.", show_default=False)]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Passes over the data.", show_default="5")]
LearningRate = Annotated[float | None, typer.Option("--learning-rate", help="Peak learning rate.", show_default=False)]
QuestionKey = Annotated[str | None, typer.Option("--question-key", help="Column of the question.", show_default="question")]
AnswerKey = Annotated[str | None, typer.Option("--answer-key", help="Column of the answer.", show_default="answer")]
TextKey = Annotated[str | None, typer.Option("--text-key", help="Column of raw text.", show_default=False)]


def main() -> None:
    run_app(app)


@app.command()
def run(
    model: Model = None,
    scores: Annotated[
        str | None, typer.Option("--scores", help="Score store of the forget set (tu-score run).", show_default=False)
    ] = None,
    retain: Annotated[str | None, typer.Option("--retain", help="Data spec of what must stay.", show_default=False)] = None,
    method: Annotated[str | None, typer.Option("--method", help="graddiff or npo.", show_default="npo")] = None,
    tokens: Annotated[str | None, typer.Option("--tokens", help="all, hard or soft.", show_default="hard")] = None,
    keep: Annotated[float | None, typer.Option("--keep", help="hard: share of tokens kept.", show_default="0.3")] = None,
    epochs: Epochs = None,
    learning_rate: LearningRate = None,
    out: Out = None,
    question_key: QuestionKey = None,
    answer_key: AnswerKey = None,
    text_key: TextKey = None,
    long: Long = None,
    limit: Limit = None,
    seed: Seed = None,
    dtype: Dtype = None,
    device: Device = None,
    config: ConfigFile = None,
    sets: Sets = None,
) -> None:
    """Unlearn the forget set of a score store with token weights. No reference model is loaded."""
    flags = {k: v for k, v in locals().items() if k not in ("config", "sets")}
    from shared.config import resolve
    from tu_train.config import UnlearnConfig

    settings = resolve(UnlearnConfig, config=config, sets=sets or (), flags=flags)
    from tu_train.run import run_unlearn

    folder = run_unlearn(settings)
    print(f"unlearned model: {folder}\nnext: tu-eval run --model {folder} --suite SUITE --out results/{folder.name}")


@app.command()
def finetune(
    model: Model = None,
    data: Annotated[str | None, typer.Option("--data", help="Data spec to learn.", show_default=False)] = None,
    epochs: Epochs = None,
    learning_rate: LearningRate = None,
    out: Out = None,
    question_key: QuestionKey = None,
    answer_key: AnswerKey = None,
    text_key: TextKey = None,
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
