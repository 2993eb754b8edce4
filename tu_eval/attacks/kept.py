"""Rows that must stay, looked at while a model is attacked: does rounding or relearning take them along?

Those attacks are made once more and measured on these rows alone, so that the numbers of the forget rows are, bit for
bit, those of an attack without them. Cost: the rounding and the training steps a second time, and a forward pass over
these rows for each form of rounding, before the first step of relearning and after the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.data.examples import data_fingerprint
from shared.files.fs import hash_json
from shared.lm import models
from tu_eval.attacks.config import AttackConfig
from tu_eval.attacks.material import Material
from tu_eval.attacks.paraphrase import probes
from tu_eval.attacks.probing import Probe
from tu_eval.attacks.quantise import nf4, quantise
from tu_eval.attacks.relearn import relearn
from tu_eval.measure.config import flag_of
from tu_eval.measure.pieces import Subject
from tu_eval.results.folder import ResultRow
from tu_eval.suites.own_files import read_rows
from tu_eval.suites.prompts import Prompt
from tu_eval.suites.sets import Suite

SET = "retain"
"""`set` of these rows in rows.parquet"""


@dataclass(frozen=True)
class Kept:
    """The rows that must stay, as all models read them."""

    probes: list[Probe]
    fingerprint: str
    """of their tokens and facts"""


def load_kept(config: AttackConfig, spec: str, suite: Suite, material: Material, folders: Mapping[str, Path]) -> Kept:
    """Raises DataError naming --retain and the row that cannot be asked. Facts are those that rows of one's own mark;
    beside a suite whole answers are looked at."""
    facts = config.forget is not None and any(part.name == SET and part.facts for part in suite.sets)
    rows = read_rows(spec, f"--{SET}", limit=config.limit)
    made = probes(rows, Prompt("plain"), material.tokenizer, context=material.context, long=config.long, facts=facts)
    for role, folder in folders.items():
        models.require_rows(f"{flag_of(config, role)} {folder}", folder, [(p.example.id, p.example.input_ids) for p in made])
    return Kept(made, hash_json([data_fingerprint(p.example for p in made), [p.facts for p in made]]))


def look(name: str, config: AttackConfig, subject: Subject, material: Material, kept: Kept) -> list[ResultRow]:
    """Rows of these rows under the attack, from the store where they are; none of an attack that leaves the weights as
    they are, or of one's own."""
    shown = {tuple(text.input_ids) for text in material.texts}  # what it is trained on says nothing of what it kept
    unseen = [p for p in kept.probes if tuple(p.example.input_ids) not in shown]
    made = {
        "quantise": lambda: quantise(subject.engine, kept.probes, bits=config.bits, group=config.group),
        "nf4": lambda: nf4(subject.engine, kept.probes),
        "relearn": lambda: relearn(
            subject.engine, unseen, material.texts, steps=config.relearn_steps, every=config.relearn_steps,
            batch=config.relearn_batch, rate=config.learning_rate, seed=config.seed,
        ),
    }  # fmt: skip
    if name not in made or (name == "relearn" and not unseen):
        return []
    rows, _ = subject.piece(f"kept-{name}-{kept.fingerprint[:32]}", made[name])
    return [{**row, "set": SET} for row in rows]
