"""Tampering with one model, and with the retain model in the same way. Cost, for each kind of data, rate and amount
that is trained on: `steps` training steps, and a forward pass over the forget rows each time it is measured; three
copies of the weights beside the model. Finished runs are kept in OUT.unfinished until the folder is written, so that a
command started again goes on.

    tamper.json     the curves, the least data that brings half back, and what they belong to
    rows.parquet    the curves row by row
    tamper.png      the curves drawn
    _config.toml    the settings, as --config reads them back
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.config import as_dict
from shared.console import number_of, say
from shared.data.datasets import Keys, load_rows
from shared.data.examples import Example, answer_span_tokens, data_fingerprint, make_examples
from shared.data.layout import say_layout
from shared.engines.torch import TorchEngine
from shared.errors import ConfigError, DataError
from shared.files.fs import atomic_file, hash_json
from shared.files.outputs import claims
from shared.lm import models
from shared.secret import without_secrets_in
from shared.settings import harmless
from tu_eval.attacks.probing import Probe
from tu_eval.attacks.relearn import choose
from tu_eval.attacks.tamper import curves
from tu_eval.attacks.tamper.config import TamperConfig
from tu_eval.attacks.tamper.plot import draw
from tu_eval.measure.config import flag_of, rows_kept
from tu_eval.measure.finish import default_label
from tu_eval.measure.kept import KeptMeasurements, remove_measurements
from tu_eval.measure.model_folder import find_model
from tu_eval.measure.source_code import attack_version
from tu_eval.results.folder import ROWS, FolderKind, ResultRow, write_folder
from tu_eval.suites.own_files import suite_of
from tu_eval.suites.sets import Suite
from tu_eval.suites.variants import fact_spans

if TYPE_CHECKING:
    import pyarrow

NO_NUMBERS = ("model", "before", "retain", "retain_model", "on", "rates", "rows", "every_amount")
ROLES = ("before", "model", "retain")
"""in this order: what the first knows says which amounts the second is trained on, and the third is trained on those
at least"""
PICTURE = "tamper.png"


@claims("the numbers of tampering")
def tamper(config: TamperConfig) -> dict[str, Any]:
    """Writes the folder and returns what tamper.json holds. Raises UserError before a model is loaded for everything
    that cannot fit."""
    suite, out = suite_of(config, ["forget"] if rows_kept(config) is None else ["forget", "retain"]).suite, Path(config.out)
    folders = {role: find_model(name) for role, name in config.models.items()}
    models.choose_device(config.device)
    tokenizer, context = _tokenizer(config, folders)
    probes = _probes(config, suite, tokenizer, context)
    texts = {on: _texts(config, suite, on, probes, tokenizer, context) for on in config.kinds}
    read = [*(p.example for p in probes), *(e for made in texts.values() for e in made)]
    for role, folder in folders.items():
        models.require_rows(f"{flag_of(config, role)} {folder}", folder, [(e.id, e.input_ids) for e in read])
    say_layout(tokenizer, config.model)
    settings = {k: v for k, v in as_dict(config).items() if k not in {*NO_NUMBERS, *harmless(config)}}
    content = {
        "data_fingerprint": data_fingerprint(p.example for p in probes),
        "fact_tokens": hash_json([p.facts for p in probes]),
        "trained_fingerprints": {on: data_fingerprint(made) for on, made in texts.items()},
        "tokenizer_fingerprint": models.tokenizer_fingerprint(tokenizer),
        "template_fingerprint": models.template_fingerprint(tokenizer),
        "settings": without_secrets_in(settings),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        "attack_code": attack_version(),
    }
    root, own, made = Path(f"{config.out}.unfinished"), {}, {}
    for role in sorted(folders, key=ROLES.index):
        own[role] = models.model_fingerprint(folders[role])
        kept = KeptMeasurements(root, {**content, "model_fingerprint": own[role]})
        level = None if role == "before" or config.every_amount else curves.half(made["before"])
        like = {(row["on"], row["rate"], row["rows"]) for row in made["model"]} if role == "retain" else set()
        made[role] = list(_runs(config, folders[role], kept, probes, texts if role != "before" else {}, level, like))
    rows = [{"model": role, **row} for role in folders for row in made[role]]
    about = {role: {"label": default_label(name), "model": name, "model_fingerprint": own[role]} for role, name in config.models.items()}
    found = {
        "models": about,
        "suite": suite.name,
        **content,
        "forget_rows": len(probes),
        "amounts": sorted(config.rows),
        "every_amount": config.every_amount,
        **curves.summarise(rows),
    }
    full = write_folder(out, TAMPER_FOLDER, found, {ROWS: (schema(), rows)}, config)
    with atomic_file(out / PICTURE) as temporary:
        draw(full, temporary)
    remove_measurements(root)
    return full


def _tokenizer(config: TamperConfig, folders: Mapping[str, Path]) -> tuple[Any, int | None]:
    """-> the tokenizer of all models and their shortest context. Raises ConfigError where one has another."""
    tokenizer = models.load_laid_out(config.model, folders["model"], config)
    own = [models.vocabulary_fingerprint(tokenizer), models.template_fingerprint(tokenizer)]
    for role, folder in folders.items():
        other = models.load_laid_out(role, folder, config)
        if [models.vocabulary_fingerprint(other), models.template_fingerprint(other)] != own:
            raise ConfigError(f"--{role} {folder}: has another tokenizer or chat template than the model, so the numbers would not compare")
    return tokenizer, min((c for c in map(models.context_length, folders.values()) if c is not None), default=None)


def _probes(config: TamperConfig, suite: Suite, tokenizer: Any, context: int | None) -> list[Probe]:
    part = next(s for s in suite.sets if s.name == "forget")
    made = make_examples(load_rows(part.data, limit=config.limit), tokenizer, context=context, long=config.long)
    return [Probe(e, answer_span_tokens(e, tokenizer, fact_spans(e.row)) if part.facts else []) for e in made]


def _texts(config: TamperConfig, suite: Suite, on: str, probes: Sequence[Probe], tokenizer: Any, context: int | None) -> list[Example]:
    """The largest amount of data of one kind, in the order in which smaller ones are parts of it."""
    most, keys = max(config.rows), Keys()
    if on == "forget":
        every = [p.example for p in probes]
        if most >= len(every):
            raise ConfigError(
                f"rows {most}: there are {len(every)} forget rows, and none would be left to look at; use fewer with --set rows=[N,N]"
            )
    else:
        others = [s for s in suite.sets if s.name != "forget"]
        spec = getattr(config, on) or next(
            (s.data for s in others if on == "related" and s.name == "retain"), others[0 if on == "related" else -1].data
        )
        keys = Keys(text=config.unrelated_text_key if on == "unrelated" else None)
        try:
            every = make_examples(load_rows(spec, keys=keys), tokenizer, context=context, long="skip")
        except DataError as error:
            raise DataError(f"{on}: {str(error).split('; see --')[0]}; raw text needs --set unrelated_text_key=COLUMN") from None
        if most > len(every):
            raise ConfigError(
                f"rows {most}: {on} has {len(every)} examples; use fewer with --set rows=[N,N], or other data with --set {on}=DATA"
            )
    by_id = {e.id: e for e in every}
    order: list[str] = []
    for count in sorted(config.rows):  # what `choose` draws of a smaller count is a part of what it draws of a larger one
        order += sorted(choose(list(by_id), count, config.seed) - set(order))
    return [by_id[name] for name in order]


def _runs(
    config: TamperConfig, folder: Path, kept: KeptMeasurements, probes: Sequence[Probe], texts: Mapping[str, list[Example]],
    level: float | None, like: set[tuple[Any, ...]],
) -> Iterator[ResultRow]:  # fmt: skip
    """Rows of one model: before any step, and of every run. With a `level`, a smaller amount is only trained on where
    the larger one brought that much back, or where `like` names it as (on, rate, rows)."""
    any_run = {e.id for e in texts.get("forget", [])} or choose([p.example.id for p in probes], _held_back(config), config.seed)
    opened: list[TorchEngine] = []

    def engine() -> TorchEngine:
        if not opened:
            opened.append(TorchEngine.load(folder, dtype=config.dtype, device=config.device, batch_tokens=config.batch_tokens))
        return opened[0]

    def piece(name: str, make: Any) -> list[ResultRow]:
        earlier = kept.load(name)
        if earlier is not None:
            say(f"{name}: already measured, taken from the store")
            return earlier[0]
        rows = make()
        kept.save(name, rows, engine().describe())
        return rows

    first = piece("start", lambda: curves.start(engine(), probes))
    if not texts:
        yield from ({**row, "on": None, "rate": None, "rows": None} for row in curves.labelled(first, set(), any_run))
    for on, rate in product(texts, config.rates):
        enough = False
        for count in sorted(config.rows, reverse=True):
            if enough and (on, rate, count) not in like:
                continue
            say(f"tampering with {folder.name}: {number_of(count, 'row')} of {on}, rate {rate:g}")
            asked = {"steps": config.steps, "every": config.every, "batch": config.batch, "rate": rate, "seed": config.seed}
            made = texts[on][:count]
            shown = {e.id for e in made} if on == "forget" else set()
            seen = [p for p in probes if p.example.id in shown or p.example.id not in any_run]
            # What is kept belongs to the largest amount too (trained_fingerprints), so to what is seen.
            rows = piece(f"{on}-{rate!r}-{count}", lambda made=made, seen=seen, asked=asked: curves.run(engine(), seen, made, **asked))
            found = list(curves.labelled([*first, *rows], shown, any_run))
            yield from ({**row, "on": on, "rate": rate, "rows": count} for row in found)
            enough = enough or (level is not None and not curves.comes_back(found, level))
    for one in opened:
        one.close()


def _held_back(config: TamperConfig) -> int:
    """Forget rows that some run shows: the same rest for every model, also for the one that is only looked at."""
    return max(config.rows) if "forget" in config.kinds else 0


def schema() -> pyarrow.Schema:
    """Probabilities 0 to 1; `on`, `rate` and `rows` say what was trained on, null for the model before unlearning."""
    import pyarrow as pa

    text, number, count = pa.string(), pa.float64(), pa.int32()
    columns = [("model", text), ("on", text), ("rate", number), ("rows", count), ("step", count), ("set", text), ("example_id", text)]
    return pa.schema([*columns, ("probability", number), ("fact_probability", number)])


TAMPER_FOLDER = FolderKind(
    "tamper.json", "tu-eval tamper", {"curves": [{"model": str, "step": int}], "least": [{"model": str, "on": str}]}, columns=schema,
    always_sealed=True,
)  # fmt: skip


def print_tamper(about: Mapping[str, Any], out: str) -> None:
    """On stdout, for each kind of data and model: the least that brings half of the knowledge back."""
    for one in about["least"]:
        rate = "at any rate" if one["rate"] is None else f"rate {one['rate']:g}"
        same = [
            c["rows"] for c in about["curves"] if (c["model"], c["on"]) == (one["model"], one["on"]) and one["rate"] in (c["rate"], None)
        ]
        tried = f"not brought back, {' and '.join(str(n) for n in sorted(set(same)))} tried"
        back = tried if one["rows"] is None else f"{number_of(one['rows'], 'row')}, step {one['step']}"
        print(f"{one['model']:7s} {one['on']} ({one['domain']}), {rate}: half back: {back}")
    print(f"results: {out} ({TAMPER_FOLDER.summary}, {ROWS}, {PICTURE})")
