"""Depth of one model against the full and the retain model. Cost: for each of the two sources two passes, and half a
pass a layer through the full model (docs/depth.md); two models are in memory at once.

    depth.json      the mean depth, means by layer, and what they belong to
    rows.parquet    what each layer cost each fact, and the logit lens
    depth.png       both drawn
    _config.toml    the settings, as --config reads them back
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.console import number_of, say
from shared.data.examples import data_fingerprint
from shared.data.layout import say_layout
from shared.errors import ModelError
from shared.files.fs import atomic_file, hash_json
from shared.files.outputs import claims
from shared.files.shape import Count
from shared.lm import models
from tu_eval.attacks.depth.config import DepthConfig
from tu_eval.attacks.depth.facts import ROLES, Fact, read_facts, same_kind
from tu_eval.attacks.depth.plot import draw
from tu_eval.attacks.depth.score import COLUMNS, summarise
from tu_eval.measure.finish import default_label
from tu_eval.measure.model_folder import find_model
from tu_eval.results.folder import ROWS, FolderKind, ResultRow, write_folder

if TYPE_CHECKING:
    import pyarrow

    from tu_eval.attacks.depth.layers import Layers

PICTURE = "depth.png"


@claims("the depth of a model")
def measure_depth(config: DepthConfig) -> dict[str, Any]:
    """Writes the folder and returns what depth.json holds. Raises UserError before a model is loaded for everything
    that cannot fit."""
    folders = {role: find_model(getattr(config, field)) for role, field in ROLES.items()}
    models.choose_device(config.device)
    tokenizer = same_kind(config, folders)
    facts = read_facts(config, tokenizer, folders)
    say_layout(tokenizer, config.model)
    blocks = models.block_count(folders["full"])
    looked = f"{number_of(len(facts), 'fact')} in {number_of(blocks, 'layer')}"
    say(f"depth of {config.model}: {looked}, against {config.full} and {config.retain_model}")
    rows = all_rows(config, folders, facts)
    about = {
        "models": {
            role: {"label": default_label(getattr(config, field)), "model": getattr(config, field),
                   "model_fingerprint": models.model_fingerprint(folders[role])}
            for role, field in ROLES.items()
        },
        "suite": config.suite,
        "data": config.data,
        "tokenizer_fingerprint": models.tokenizer_fingerprint(tokenizer),
        "template_fingerprint": models.template_fingerprint(tokenizer),
        "data_fingerprint": data_fingerprint(f.example for f in facts),
        "fact_tokens": hash_json([f.tokens for f in facts]),
        "dtype": config.dtype,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        "threshold": config.threshold,
        "positions": config.positions,
        **summarise(rows, config.threshold),
    }  # fmt: skip
    if about["rows_with_depth"] < about["rows"]:
        say(
            f"{about['rows'] - about['rows_with_depth']} of {about['rows']} rows have no depth: at no layer does the full model know "
            "their fact better than the retain model"
        )
    full = write_folder(Path(config.out), DEPTH_FOLDER, about, {ROWS: (schema(), rows)}, config)
    with atomic_file(Path(config.out) / PICTURE) as temporary:
        draw(full, temporary)
    return full


def all_rows(config: DepthConfig, folders: Mapping[str, Path], facts: Sequence[Fact]) -> list[ResultRow]:
    """A row a fact and layer (from 1). Raises ModelError where a model gives no number."""
    from tu_eval.attacks.depth.patching import lens, patched

    full = _open(config, folders["full"])
    columns = {"lens_full": lens(full, facts, config.batch_tokens)} if config.lens else {}
    for role in ("retain", "model"):
        source = _open(config, folders[role])
        found, seen = patched(full, source, facts, config.batch_tokens, everywhere=config.positions == "all", with_lens=config.lens)
        columns[f"delta_{role}"] = found
        columns |= {f"lens_{role}": seen} if seen is not None else {}
        del source
    empty = [[None] * len(full)] * len(facts)
    rows = [
        {"example_id": fact.example.id, "layer": layer + 1, **{name: columns.get(name, empty)[i][layer] for name in COLUMNS}}
        for i, fact in enumerate(facts)
        for layer in range(len(full))
    ]
    for row in rows:
        if any(row[name] is not None and not math.isfinite(row[name]) for name in COLUMNS):
            raise ModelError(f"a model gives no number for {row['example_id']} at layer {row['layer']} (NaN); try --dtype float32")
    return rows


def _open(config: DepthConfig, folder: Path) -> Layers:
    from shared.lm.packed import PackedModel
    from tu_eval.attacks.depth.layers import Layers

    return Layers(
        PackedModel(models.load_model(folder, dtype=models.choose_dtype(config.dtype), device=models.choose_device(config.device)))
    )


def schema() -> pyarrow.Schema:
    """`layer` from 1; `delta_*` nats a token, what the source's layer in the place of the full model's costs;
    `lens_*` nats a token, log-probability by the model's own head right behind the layer, null without the lens."""
    import pyarrow as pa

    return pa.schema([("example_id", pa.string()), ("layer", pa.int32()), *((name, pa.float64()) for name in COLUMNS)])


FORM = {"depth": (float, None), "rows": Count(), "rows_with_depth": Count(), "threshold": float, "layers": [{"layer": int}]}
DEPTH_FOLDER = FolderKind("depth.json", "tu-eval depth", FORM, columns=schema, always_sealed=True)


def print_depth(about: Mapping[str, Any], out: str) -> None:
    """The depth and the means by layer on stdout."""
    for layer in about["layers"]:
        values = "  ".join(f"{name} {layer[name]:8.3f}" for name in COLUMNS if layer[name] is not None)
        print(f"layer {layer['layer']:3d}  {values}")
    error = about["depth_stderr"]
    depth = "none" if about["depth"] is None else f"{about['depth']:.4f}" + (f" ± {error:.4f}" if error is not None else "")
    print(f"depth: {depth} (1: gone, as in the retain model; 0: as before), {about['rows_with_depth']} of {about['rows']} rows")
    print(f"results: {out} ({DEPTH_FOLDER.summary}, {ROWS}, {PICTURE})")
