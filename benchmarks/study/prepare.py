"""What all runs of a world start from: data, target and retain model, score stores, the level of forgetting. Made once,
kept by content."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.study.commands import command, say, train
from benchmarks.study.facts import fact_spans
from benchmarks.study.plan import World
from benchmarks.study.scratch import scratch_model
from shared.data.datasets import Row, load_rows
from shared.data.layout import LayoutOptions, as_scored
from shared.files.fs import hash_json, write_json
from shared.lm.models import load_laid_out, locate, model_fingerprint
from shared.store.scores import Store, open_store


@dataclass(frozen=True)
class Made:
    """A world that is ready."""

    world: World
    folder: Path
    """stores, results and models of its runs"""
    learn: str
    retain: str
    forget: str
    target: str
    retain_model: str
    scores: Path
    level: float
    """NLL of the facts (else of the forget answers) under the retain model: matched forgetting is where a run comes to
    it"""
    suite: str | None
    probes: str | None = None
    """a suite whose forget set marks its facts, which attacks look for"""

    @property
    def rule(self) -> list[str]:
        name = "forget_nll" if self.world.facts is None else "forget_fact_nll"
        keys = {"eval_key": self.world.facts, "paraphrase_key": self.world.paraphrase}
        given = [word for key, column in keys.items() if column is not None for word in ("--set", f"{key}={column}")]
        return [*given, "--stop-when", f"{name}>{self.level:.4f}", "--set", "land=true"]


def prepare(world: World, work: Path) -> Made:
    folder, shelf = work / world.name, work / "made"
    folder.mkdir(parents=True, exist_ok=True)
    shelf.mkdir(exist_ok=True)
    learn, retain, forget = (spec_of(world, name, folder) for name in ("learn", "retain", "forget"))
    if world.base == "scratch":
        world = replace(world, base=str(scratch_model(shelf)))
    base = model_fingerprint(locate(world.base))

    def model(kind: str, own: str) -> Path:
        data = own if not world.known else beside(own, world.known, folder / f"{kind}-learns.jsonl")
        out = shelf / f"{kind}-{hash_json([base, content(data), world.learning])[:12]}"
        if not out.exists():
            say(f"{world.name}: {kind} model learns {data}")
        train(["tu-train", "finetune", "--model", world.base, "--data", data, *world.learning], out, folder / "prepare.log")
        return out

    target, retain_model = model("target", learn), model("retain", retain)
    scores = store(shelf, target, forget, ["--base-model", world.base, "--spans", "question", *world.scoring], folder)
    other = store(shelf, retain_model, forget, ["--spans", "none"], folder)
    level = nll(open_store(other), forget, world.facts, str(retain_model))
    suite = suite_of(world, folder, retain)
    made = Made(world, folder, learn, retain, forget, str(target), str(retain_model), scores, level, suite, probes_of(world, folder))
    start = nll(open_store(scores), forget, world.facts, str(target))
    facts = {"level_nll": level, "start_nll": start, "target": model_fingerprint(target), "retain": model_fingerprint(retain_model)}
    whole = {} if world.facts is None else {"answer_level_nll": nll(open_store(other), forget, None, str(retain_model))}
    write_json(folder / "world.json", {**facts, **whole, **paraphrased(made, shelf)})
    say(f"{world.name}: probability of the facts {math.exp(-start):.3f}, under the retain model {math.exp(-level):.3f}")
    return made


def paraphrased(made: Made, shelf: Path) -> dict[str, float]:
    """NLL of the answers in another wording under the retain model and at the start, for tables."""
    column = made.world.paraphrase
    if column is None:
        return {}
    path = made.folder / "paraphrased.jsonl"
    write_rows(path, [replace(row, answer=row.extra[column]) for row in load_rows(made.forget)])
    models = {"paraphrase_level_nll": made.retain_model, "paraphrase_start_nll": made.target}
    stores = {name: store(shelf, Path(model), str(path), ["--spans", "none"], made.folder) for name, model in models.items()}
    return {name: nll(open_store(stores[name]), str(path), None, model) for name, model in models.items()}


def content(spec: str) -> str:
    return hash_json([[r.question, r.answer] for r in load_rows(spec)])


def store(shelf: Path, model: Path, data: str, words: list[str], folder: Path) -> Path:
    """A score store, kept by content of model and data."""
    out = shelf / f"scores-{hash_json([model_fingerprint(locate(str(model))), content(data), words])[:12]}"
    if not (out / "_manifest.json").exists():
        command(["tu-score", "run", "--model", str(model), "--data", data, "--engine", "torch", *words, "--out", str(out)],
                folder / "prepare.log")  # fmt: skip
    return out


def spec_of(world: World, name: str, folder: Path) -> str:
    """A data spec of the world's; rows that are cut out of another one are written as JSONL."""
    given = getattr(world, name)
    if given is not None:
        return given
    start, end = world.cut[name]
    path = folder / f"{name}.jsonl"
    rows = load_rows(world.cut["data"])[start:end]
    if world.facts is not None:
        rows = [row if world.facts in row.extra else replace(row, extra={**row.extra, world.facts: fact_spans(row)}) for row in rows]
    write_rows(path, rows)
    return str(path)


def beside(own: str, known: Sequence[str], path: Path) -> str:
    """The rows of `own`, then those of `known`."""
    write_rows(path, [row for spec in (own, *known) for row in load_rows(spec)])
    return str(path)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    lines = [json.dumps({"question": r.question, "answer": r.answer, **r.extra}) for r in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def suite_of(world: World, folder: Path, retain: str) -> str | None:
    """The suite of a world that is cut out of TOFU: its own forget and retain rows, and the first rows about the
    world."""
    if "suite_rows" not in world.cut:
        return world.suite
    sets = []
    tables = {"forget": (str(folder / "forget.jsonl"), "paraphrase = true\ngenerate = false"), "retain": (retain, "paraphrase = true"),
              "real_authors": ("tofu:real_authors_perturbed", "options = true"),
              "world_facts": ("tofu:world_facts_perturbed", "options = true")}  # fmt: skip
    for name, (data, flags) in tables.items():
        path, rows = folder / f"suite-{name}.jsonl", load_rows(data)
        step = len(rows) / min(len(rows), world.cut["suite_rows"][name])  # spread over all authors
        chosen = [rows[int(k * step)] for k in range(int(len(rows) / step + 1e-9))]
        write_rows(path, chosen)
        sets.append((name, str(path), flags))
    suite = folder / f"{world.name}.toml"
    suite.write_text("".join(f'[[set]]\nname = "{n}"\ndata = "{d}"\n{flags}\n\n' for n, d, flags in sets), encoding="utf-8")
    return str(suite)


def probes_of(world: World, folder: Path) -> str | None:
    """The suite that attacks read: of a world that is cut out, all its forget rows with their facts."""
    if not world.cut:
        return world.suite
    path, marked = folder / "probes.toml", {"forget": "true", "retain": "false"}
    tables = [f'[[set]]\nname = "{name}"\ndata = "{name}.jsonl"\nfacts = {flag}\n' for name, flag in marked.items()]
    path.write_text("\n".join(tables), encoding="utf-8")
    return str(path)


def nll(scores: Store, data: str, facts: str | None, model: str) -> float:
    """Nats a token over the tokens of the facts, or over all target tokens."""
    from shared.data.examples import answer_span_tokens
    from shared.store.scored import answer_spans, scored_examples

    values = []
    if facts is None:
        rows = scores.rows(("is_target", "logprob"))
        values = [p for row in rows for p, t in zip(row["logprob"], row["is_target"], strict=True) if t]
    else:
        tokenizer = tokenizer_of(scores, model)
        examples = scored_examples(scores, tokenizer, model, data)
        for example, row in zip(examples, scores.rows(("logprob",)), strict=True):
            at = answer_span_tokens(example, tokenizer, answer_spans(example.row, facts, flag="facts"))
            values += [row["logprob"][i] for i in at]
    return -math.fsum(values) / len(values)


def tokenizer_of(scores: Store, model: str) -> Any:
    """The model's, which lays rows out as they were scored."""
    return load_laid_out(model, locate(model), as_scored(LayoutOptions(), scores.manifest["options"]))
