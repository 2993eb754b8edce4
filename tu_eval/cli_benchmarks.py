"""The commands that ask what others have defined: benchmarks through lm-eval, conversations graded by a judge."""

from __future__ import annotations

from typing import Annotated

import typer

from shared.cli import ConfigFile, Device, Dtype, Limit, Out, Sets, System, Template

Model = Annotated[str | None, typer.Option("--model", help="Local folder, org/name[@revision], or smollm2.", show_default=False)]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--tasks", help="wmdp, wmdp_bio, wmdp_cyber, wmdp_chem, mmlu, or any task of lm-eval; commas between.", show_default=False
    ),
]
Include = Annotated[str | None, typer.Option("--include", help="Folder with YAML files of tasks of your own.", show_default=False)]
Backend = Annotated[str | None, typer.Option("--backend", help="hf (transformers) or vllm.", show_default="hf")]
Chat = Annotated[
    bool | None, typer.Option("--chat-template/--no-chat-template", help="Ask in the model's chat template.", show_default="no")
]
Shots = Annotated[int | None, typer.Option("--shots", help="Solved examples before each question.", show_default="the task's own number")]
Cut = Annotated[str | None, typer.Option("--long", help="Prompts beyond the model's context: truncate, error.", show_default="error")]
Conversations = Annotated[
    str | None, typer.Option("--data", help="JSONL of {id, category, turns: [text, ...]}, with or without reference.", show_default=False)
]
JudgeModel = Annotated[str | None, typer.Option("--judge-model", help="The judge's name at its endpoint.", show_default="TU_JUDGE_MODEL")]
Store = Annotated[
    str | None, typer.Option("--store", help="Folder of answers and replies, kept by content.", show_default="OUT.unfinished")
]


def benchmarks(
    model: Model = None,
    tasks: Tasks = None,
    out: Out = None,
    include: Include = None,
    backend: Backend = None,
    chat_template: Chat = None,
    shots: Shots = None,
    config: ConfigFile = None,
    sets: Sets = None,
    limit: Limit = None,
    dtype: Dtype = None,
    device: Device = None,
    long: Cut = None,
    system: System = None,
) -> None:
    """WMDP, MMLU and every other task of lm-eval's, on transformers or vLLM."""
    from shared.config import resolve
    from tu_eval.harness.config import BenchmarksConfig
    from tu_eval.harness.run import print_benchmarks, run_benchmarks

    names = [name.strip() for given in tasks or () for name in given.split(",") if name.strip()]
    flags = {
        "model": model, "tasks": names or None, "out": out, "include": include, "backend": backend, "chat_template": chat_template,
        "shots": shots, "limit": limit, "dtype": dtype, "device": device, "long": long, "system": system,
    }  # fmt: skip
    print_benchmarks(run_benchmarks(resolve(BenchmarksConfig, config=config, sets=sets or (), flags=flags)))


def judge(
    model: Model = None,
    data: Conversations = None,
    out: Out = None,
    judge_model: JudgeModel = None,
    store: Store = None,
    config: ConfigFile = None,
    sets: Sets = None,
    limit: Limit = None,
    dtype: Dtype = None,
    device: Device = None,
    template: Template = None,
    system: System = None,
) -> None:
    """Answers graded 1 to 10 by a judge, as in MT-Bench. Sends questions and answers to the endpoint that TU_JUDGE_URL names."""
    from shared.config import resolve
    from tu_eval.judge.config import JudgeConfig
    from tu_eval.judge.run import print_judge, run_judge

    flags = {
        "model": model, "data": data, "out": out, "judge_model": judge_model, "store": store, "limit": limit,
        "dtype": dtype, "device": device, "template": template, "system": system,
    }  # fmt: skip
    print_judge(run_judge(resolve(JudgeConfig, config=config, sets=sets or (), flags=flags)))


def add_commands(app: typer.Typer) -> None:
    app.command()(benchmarks)
    app.command()(judge)
