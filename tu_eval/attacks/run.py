"""Attacks on a model, on the one before unlearning and on the retain model: the same for each, and their numbers side
by side.

Everything that can be refused is refused before a model is loaded. What is measured on a model by an attack is kept in
a folder by content (tu_eval/measure/kept.py), so a run that was interrupted, started again, goes on at the attack it
was at. The folder appears whole or not at all:

    attack.json     what was attacked with which settings; one number an attack, setting and measure, for each model
    rows.parquet    the same row by row; set `retain`: rows that must stay
    _config.toml    the settings, as --config reads them back
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.config import as_dict
from shared.console import say
from shared.data.layout import say_layout
from shared.errors import ConfigError
from shared.extensions import asked, identity, running
from shared.files.fs import hash_json
from shared.files.outputs import claims
from shared.files.shape import Maybe, Named, misfit
from shared.lm import models
from shared.secret import without_secrets_in
from shared.settings import harmless
from tu_eval.attacks import kept, paraphrase, quantise, relearn, sample
from tu_eval.attacks.config import ATTACK as OWN
from tu_eval.attacks.config import AttackConfig
from tu_eval.attacks.material import Material, load
from tu_eval.attacks.probing import Numbers, means
from tu_eval.measure.config import EvalConfig, rows_kept
from tu_eval.measure.finish import default_label
from tu_eval.measure.kept import KeptMeasurements, remove_measurements
from tu_eval.measure.leaks import answers_to, search
from tu_eval.measure.model_folder import find_model
from tu_eval.measure.pieces import Subject, stop_ids
from tu_eval.measure.source_code import attack_version
from tu_eval.results.folder import CONFIG, ROWS, FolderKind, ResultRow, read_folder, write_folder
from tu_eval.results.leaks import FORM, LEAKS, print_leaks
from tu_eval.results.leaks import schema as leaks_schema
from tu_eval.suites.own_files import suite_of
from tu_eval.suites.suites import SUITE

if TYPE_CHECKING:
    import pyarrow

NO_NUMBERS = ("model", "before", "retain", "retain_model", "attacks", "secrets")
"""fields that say nothing of what an attack on one model does, beside those that change no result"""


@claims("the numbers of attacks")
def attack(config: AttackConfig) -> Path:
    """Runs the attacks and writes the folder. Raises UserError before any work for everything that cannot fit."""
    spec, out = rows_kept(config), Path(config.out)
    suite = suite_of(config, ["forget"] if spec is None else ["forget", "retain"]).suite
    if suite.forget.text is not None:
        raise ConfigError(f"--suite {config.suite}: its forget set is raw text, which no attack asks for; give questions and answers")
    folders = {role: find_model(name) for role, name in config.models.items()}
    device = models.choose_device(config.device).type
    material = load(config, suite.forget, folders)
    stay = kept.load_kept(config, spec, suite, material, folders) if spec is not None else None
    root = Path(config.store) if config.store else out.with_name(f"{out.name}.unfinished")
    settings = without_secrets_in({k: v for k, v in as_dict(config).items() if k not in {*NO_NUMBERS, *harmless(config)}})
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    content = {**material.identity, "settings": settings, "device": device, "versions": versions, "attack_code": attack_version()}
    about, rows, leaked = {}, {}, []
    say_layout(material.tokenizer, config.model)
    for role, folder in folders.items():
        fingerprint = models.model_fingerprint(folder)
        name = config.models[role]
        say(f"attacking {name} ({role}) on {suite.name}: {', '.join(config.attacks)}; {len(material.plain)} forget rows")
        open_as = EvalConfig(
            model=name, suite=suite.name, out=config.out, dtype=config.dtype, device=config.device, batch_tokens=config.batch_tokens
        )
        subject = Subject(folder, open_as, KeptMeasurements(root, {**content, "model_fingerprint": fingerprint}))
        about[role] = {"label": default_label(name), "model": name, "model_fingerprint": fingerprint}
        rows[role] = _run(config, subject, material)
        if stay is not None:
            rows[role] = {name: [*made, *kept.look(name, config, subject, material, stay)] for name, made in rows[role].items()}
        if material.leaks is not None:
            drawn = {row["example_id"]: row["drawn"] for row in rows[role].get("sample", [])} or None
            leaked += search(material.leaks, role, answers_to(material.leaks, subject, drawn=drawn))
        subject.close()
    numbers = summarise(config.attacks, rows)
    flat = [{"model": role, "attack": name, **row} for role, made in rows.items() for name in config.attacks for row in made[name]]
    codes = {name: code for name in config.attacks if (code := identity(OWN, name))}
    code = identity(SUITE, config.suite) if config.suite else None
    more: dict[str, Any] = {"kept_fingerprint": stay.fingerprint} if stay is not None else {}
    more |= {**({"own_attacks": codes} if codes else {}), **({"suite_code": code} if code else {})}
    if material.leaks is not None:
        more["leaks"] = material.leaks.describe(leaked)
    found = {"models": about, "suite": suite.name, **content, **more, "numbers": numbers}
    write_folder(out, ATTACK_FOLDER, found, {ROWS: (schema(), flat), **({LEAKS: (leaks_schema(), leaked)} if leaked else {})}, config)
    if not config.store:
        remove_measurements(root)
    return out


def _run(config: AttackConfig, subject: Subject, material: Material) -> dict[str, list[ResultRow]]:
    """The rows of each attack, from the store where it is finished."""
    c, plain, facts = config, material.plain, material.part.facts

    def drawn() -> list[ResultRow]:
        stop = stop_ids(material.tokenizer, [p.example for p in plain])
        return sample.sample(
            subject.engine, plain, material.tokenizer, stop, count=c.samples, temperature=c.temperature, seed=c.seed,
            max_new_tokens=c.max_new_tokens, context=material.context, threshold=c.rouge_threshold, facts=facts,
        )  # fmt: skip

    def relearned() -> list[ResultRow]:
        return relearn.relearn(
            subject.engine, plain, material.texts, steps=c.relearn_steps, every=c.relearn_every, batch=c.relearn_batch,
            rate=c.learning_rate, seed=c.seed,
        )  # fmt: skip

    made = {
        "paraphrase": lambda: paraphrase.paraphrase(subject.engine, material.asked),
        "sample": drawn,
        "quantise": lambda: quantise.quantise(subject.engine, plain, bits=c.bits, group=c.group),
        "nf4": lambda: quantise.nf4(subject.engine, plain),
        "relearn": relearned,
    }

    def made_by_others(name: str) -> list[ResultRow]:
        found = asked(OWN, name)
        assert found is not None, "the configuration has loaded it"
        with running(OWN, name):
            rows = found.object(subject.engine, plain, c.seed)
        if wrong := misfit(rows, OWN_ROWS):
            raise ConfigError(
                f"--attack {name}: {wrong} in what it gives; expected rows as `measure` of tu_eval.attacks.probing makes them"
            )
        return rows

    out = {}
    for name in c.attacks:
        code = identity(OWN, name)
        made_now = made[name] if code is None else partial(made_by_others, name)
        out[name] = subject.piece(name if code is None else f"own-{hash_json(code)[:32]}", made_now)[0]
    return out


OWN_ROWS = [{"setting": str, "set": str, "example_id": str, "probability": float, "fact_probability": (float, None)}]
"""what the rows of an attack of others hold at least"""


def summarise(attacks: Sequence[str], rows: dict[str, dict[str, list[ResultRow]]]) -> list[dict[str, Any]]:
    """-> attack, setting, measure, and the number of each model that was attacked; those of the first model give the
    order."""
    level = None
    if "relearn" in attacks and "before" in rows:
        start = means(row for row in rows["before"]["relearn"] if row["step"] == 0)
        level = start.get(("step 0", f"probability ({relearn.REST})"))  # none where all forget rows are shown
        level = level and 0.5 * level

    def numbers(name: str, made: list[ResultRow]) -> Numbers:
        if name == "relearn":
            return relearn.summarise(made, level)
        return {"paraphrase": paraphrase.summarise, "sample": sample.summarise}.get(name, means)(made)

    out = []
    for name in attacks:
        found = {role: numbers(name, made[name]) for role, made in rows.items()}
        for setting, measure in found["model"]:
            values = {role: found[role].get((setting, measure)) for role in found}
            out.append({"attack": name, "setting": setting, "measure": measure, **values})
    return out


def numbers_again(about: Mapping[str, Any], rows: Sequence[ResultRow]) -> list[dict[str, Any]]:
    """What `summarise` makes of a finished folder's attack.json and rows. Raises KeyError or TypeError for rows that no
    attack wrote."""
    roles, attacks = list(about["models"]), list(dict.fromkeys(number["attack"] for number in about["numbers"]))
    made = {role: {name: [r for r in rows if r["model"] == role and r["attack"] == name] for name in attacks} for role in roles}
    return summarise(attacks, made)


def schema() -> pyarrow.Schema:
    """Probabilities 0 to 1; `step` of relearning; `samples` drawn, among them `hits` and unfinished ones (`cut`), all
    of them in `drawn`; null where it does not apply."""
    import pyarrow as pa

    text, number, count = pa.string(), pa.float64(), pa.int32()
    columns = [("model", text), ("attack", text), ("setting", text), ("set", text), ("example_id", text), ("step", count)]
    columns += [("probability", number), ("fact_probability", number), ("samples", count), ("hits", count), ("cut", count), ("found", text)]
    columns += [("matched", text), ("recall", number), ("drawn", pa.list_(text))]
    return pa.schema(columns)


ATTACK_FOLDER = FolderKind(
    "attack.json", "tu-eval attack",
    {"models": Named({}), "numbers": [{"attack": str, "setting": str, "measure": str}], "leaks": Maybe(FORM)},
    columns=schema, more=(LEAKS,),
)  # fmt: skip


def print_attacks(folder: Path) -> None:
    """The numbers as a table on stdout; of relearning the first, the last and the summary."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from shared.errors import printable
    from tu_eval.results.columns import show

    about, console = read_folder(folder, ATTACK_FOLDER).summary, Console()
    roles = list(about["models"])
    table = Table("attack", "setting", "measure", *roles)
    steps = [n["setting"] for n in about["numbers"] if n["attack"] == "relearn" and n["setting"].startswith("step ")]
    hidden = set(steps) - {*steps[:1], *steps[-1:]}
    last = None
    for number in about["numbers"]:
        if number["attack"] == "relearn" and number["setting"] in hidden:
            continue
        if last not in (None, number["attack"]):
            table.add_section()
        name = number["attack"] if number["attack"] != last else ""
        shown = [str(v) if isinstance(v, int) else show(v) for v in (number[role] for role in roles)]
        setting, measure = printable(number["setting"]), printable(number["measure"].replace("_", " "))
        table.add_row(name, Text(setting), Text(measure), *shown)
        last = number["attack"]
    console.print(table)
    if found := about.get("leaks"):
        print_leaks(found, folder)
    console.print(f"attacks: {folder} ({ATTACK_FOLDER.summary}, {ROWS}, {CONFIG})", soft_wrap=True, markup=False, highlight=False)
