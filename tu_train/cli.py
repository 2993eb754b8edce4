"""Command line of tu-train. Heavy imports happen inside the commands, so that --help answers at once.

Flags and their help stand in config.py, diagnose/config.py and arguments.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shared.cli import new_app, run_app
from shared.commands import Asked, command
from shared.errors import ConfigError
from tu_train import arguments

if TYPE_CHECKING:
    from tu_train.config import FinetuneConfig, UnlearnConfig
    from tu_train.diagnose.config import DiagnoseConfig

app = new_app("Train at token level: unlearn a scored forget set, or fine-tune a model.")


def main() -> None:
    run_app(app)


@command(app, config="tu_train.config:UnlearnConfig", arguments=arguments.Run)
def run(asked: Asked[UnlearnConfig], given: arguments.Run) -> None:
    """Make a model forget the rows that were scored.

    The scores say how much each token counts. No reference model is loaded."""
    if given.ranks is not None and not given.dry_run:
        raise ConfigError(f"--ranks {given.ranks}: says for how many ranks --dry-run speaks; add --dry-run, or start ranks that train with "
                          f"torchrun --nproc-per-node {given.ranks} -m tu_train run")  # fmt: skip
    settings = asked.resolved(**({"out": "-"} if given.dry_run and asked.file is None else {}))  # a dry run needs none
    if given.dry_run:
        from tu_train.estimate import estimate
        from tu_train.ranks import started

        number, count = started(given.ranks)
        if not number:  # one of them says it for all
            print("\n".join(estimate(settings, count).lines()))
        return
    from tu_train.interface import unlearn

    folder = unlearn(settings)
    if settings.lora:
        from tu_train.model.lora import WARNING

        print(f"{folder / 'adapter'}: {WARNING}")
    from tu_train.hint import evaluation

    print("\n".join([f"unlearned model: {folder}", *evaluation(settings, folder)]))


@command(app)
def methods() -> None:
    """List the methods, with options, papers and formulas."""
    from tu_train.methods.listing import print_methods

    print_methods()


@command(app, config="tu_train.config:FinetuneConfig")
def finetune(settings: FinetuneConfig) -> None:
    """Make a model learn a data set (fine-tuning).

    Makes a target model, or the retain model that forget quality compares with."""
    from tu_train.interface import finetune as train

    folder = train(settings)
    from shared.data.kin import kin_of, pasted, same_again

    forget = kin_of(settings.data, "", "forget")
    score = ["tu-score", "run", "--model", folder, "--base-model", settings.model, "--data", forget or settings.data, *same_again(settings)]
    print(f"fine-tuned model: {folder}\nnext: {pasted(*score, '--out', 'scores')}")
    if forget is None:
        print("      with the rows that it should forget in place of all that it learned")


@command(app, config="tu_train.diagnose.config:DiagnoseConfig")
def diagnose(settings: DiagnoseConfig) -> None:
    """Measure on gradients what the choice of tokens brings.

    The signal-to-noise ratio of token weightings, and their conflict with what must stay."""
    from tu_train.diagnose.run import run_diagnose
    from tu_train.ranks import refuse
    from tu_train.saving.working_folder import check_name

    refuse("tu-train diagnose")
    check_name(settings.out)
    folder = run_diagnose(settings)
    print(f"diagnosis: {folder} (diagnose.json, snr.png)")


@command(app, arguments=arguments.Many)
def many(given: arguments.Many) -> None:
    """Train every combination that one file describes.

    One run after another: finished ones are skipped, unfinished ones resumed, failed ones noted.

    What a combination has no use for (keep with tokens = "all", an option of another method) is left out of it, and
    equal combinations are one run. The first field of the file is the outermost loop. Exit code 1 if a run failed."""
    from shared.files.fs import refuse_url
    from shared.files.storage import open_place
    from tu_train.many.measure import measure, with_suite
    from tu_train.many.run import run_many
    from tu_train.ranks import refuse
    from tu_train.saving.working_folder import check_name

    refuse("tu-train many")
    check_name(given.out)
    folder = Path(given.out)
    refuse_url(folder, what="the runs of a study")
    open_place(given.out)  # refuses an empty name, which as a path would be the working directory
    sets = with_suite(given.study, folder, given.sets, given.suite)
    runs = run_many(given.study, folder, sets)
    failed = [run for run in runs if run.status == "failed"]
    print(f"{len(runs) - len(failed)} of {len(runs)} runs finished: {folder / 'index.json'}")
    for run in failed:
        print(f"failed: {run.name}: {run.error}")
    code = measure(given.study, folder, sets) if given.suite is not None else 0
    if failed:
        print("next: mend what they say and start the same command again; it does only what is not finished")
        raise SystemExit(1)
    if code:
        raise SystemExit(code)
