"""What a study makes before its runs: a target model, a retain model, a score store; each by the command that makes it,
in a process of its own."""

from __future__ import annotations

from pathlib import Path

from shared.process import check_measures, resolved, run_command
from shared.study import STEPS, Step, Study
from tu_train.saving.working_folder import unfinished


def check_study(study: Study) -> None:
    """Asks each command about the settings of its step or measurement, before any work. Raises ConfigError naming the
    file, the step and the field."""
    for step in study.steps:
        resolved(STEPS[step.command], step.settings, what=f"{study.path}: step {step.name}")
    check_measures(study)


def run_step(study: Study, step: Step) -> None:
    """A step that is finished says so and does nothing; one that was killed goes on. Raises UserError naming the file
    and the step, with the command's own line."""
    settings = dict(step.settings)
    if step.command == "tu-train finetune":  # a store goes on by itself
        out = Path(settings["out"])
        settings["resume"] = out.exists() or unfinished(out).exists()
    run_command(step.command, settings, what=f"{study.path}: step {step.name}")
