"""The public flags are frozen: what stands in flags.json still works, and a new flag is put there by hand."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from shared.commands import commands_of

LIST = Path(__file__).with_name("flags.json")
COMMANDS = ("tu-score", "tu-train", "tu-eval")


def kind_of(parameter: Any) -> str:
    """As in "int", "list of Path", "str, required"; a flag without a value is a bool."""
    annotation = parameter.type_descriptor.annotation
    text = getattr(annotation, "__name__", str(annotation))
    if getattr(parameter, "multiple", False) or parameter.nargs == -1:
        text = f"list of {annotation.__args__[0].__name__}"
    return f"{text}, required" if parameter.required else text


def public() -> dict[str, dict[str, str]]:
    """Command -> its arguments (by what stands for them) and flags -> what they take."""
    found: dict[str, dict[str, str]] = {}
    for program in COMMANDS:
        app = importlib.import_module(f"{program.replace('-', '_')}.cli").app
        for name, command in commands_of(app).items():
            options = [p for p in command.whole.params if p.param_type_name == "option"]
            arguments = [p for p in command.whole.params if p.param_type_name == "argument"]
            found[f"{program} {name}"] = {
                **{p.metavar or p.name: f"argument, {kind_of(p)}" for p in arguments},
                **{"/".join([*p.opts, *p.secondary_opts]): kind_of(p) for p in options},
            }
    return found


FROZEN = json.loads(LIST.read_text(encoding="utf-8"))


def test_no_command_is_lost_and_none_is_unlisted():
    assert sorted(FROZEN) == sorted(public())


@pytest.mark.parametrize("command", FROZEN)
def test_the_flags_of_a_command_are_those_of_the_list(command):
    assert public()[command] == FROZEN[command]
