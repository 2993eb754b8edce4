"""Every field of every configuration is told to people: in --fields, in docs/configuration/, in --help or as
advanced."""

import math
import re

import pytest

from docs.make_configuration import FOLDER, commands, common, pages, section
from shared.errors import ConfigError
from shared.settings import settings_of

COMMANDS = dict(commands())
CONFIGURED = [name for name, command in COMMANDS.items() if command.config]
WITHOUT_UNIT = {
    "alpha", "clip", "entropy_temperature", "gamma", "learning_rate", "lora_alpha", "rates", "satimp_beta1", "satimp_beta2",
    "secret_temperature", "seed", "temperature", "wga_beta", "weight_decay",
}  # fmt: skip
"""numbers that count nothing and measure nothing"""


def test_the_pages_are_what_their_script_makes():
    made = pages()
    assert set(FOLDER.glob("*.md")) <= set(made), "run python -m docs.make_configuration"
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, "run python -m docs.make_configuration"


def test_fourteen_commands_have_a_configuration_and_recipe_too():
    assert len(CONFIGURED) == 14 and "tu-score recipe" in CONFIGURED


@pytest.mark.parametrize("name", CONFIGURED)
def test_every_field_is_shown_and_has_a_flag_or_is_advanced(name, run_cli):
    command = COMMANDS[name]
    code, fields, err = run_cli(*name.split(), "--fields")
    assert (code, err) == (0, "")
    table = section(name, command)
    linked = set(re.findall(r"\(common\.md#([^)]+)\)", table))
    table += "".join(part for part in common().split("\n## ") if part.partition("\n")[0].lower().replace(" ", "-") in linked)
    flags = {flag for p in command.whole.params for flag in (*p.opts, *p.secondary_opts)}
    for setting in settings_of(command.config):
        lines = [line for line in fields.splitlines() if line.startswith(f"{setting.name} = ")]
        assert len(lines) == 1 and lines[0].endswith(f": {setting.meaning}")
        (row,) = (line for line in table.splitlines() if line.startswith(f"| `{setting.name}` "))
        if setting.flag is None:
            assert "advanced)" in lines[0] and row.endswith("| advanced |")
        else:
            assert setting.flag in lines[0] and row.endswith(f"| `{setting.flag}` |") and flags.issuperset(setting.flag.split("/"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_field_says_what_it_means_and_every_number_its_unit(name):
    command = COMMANDS[name]
    for kind in (command.config, command.arguments):
        for setting in settings_of(kind) if kind else ():
            assert setting.meaning, setting.name
            number = int in (setting.kind, setting.item) or float in (setting.kind, setting.item)
            if number and kind is command.config:
                assert bool(setting.about.unit) == (setting.name not in WITHOUT_UNIT) or setting.name == "alpha", setting.name


NUMBERS = [
    (name, setting)
    for name in CONFIGURED
    for setting in settings_of(COMMANDS[name].config)
    if setting.item in (int, float) and setting.name not in ("seul_k", "su_k")
]


@pytest.mark.parametrize(("name", "setting"), NUMBERS, ids=[f"{name} {setting.name}" for name, setting in NUMBERS])
def test_every_number_has_a_range_and_the_same_error_in_every_package_outside_of_the_command_line(name, setting):
    kind, about = COMMANDS[name].config, setting.about
    given = {s.name: ("m",) if s.kind is tuple else "m" for s in settings_of(kind) if s.required}
    least = about.above if about.above is not None else about.least - 1  # fails where there is neither
    for bad in [least, *([math.nan, math.inf] if setting.item is float else []), *([about.most * 2] if about.most is not None else [])]:
        with pytest.raises(ConfigError, match=rf"^{setting.flag or setting.name} is .*, expected ") as caught:
            kind(**{**given, setting.name: (bad,) if setting.kind is tuple else bad})
        assert isinstance(caught.value, ValueError), "which callers of earlier versions caught"
