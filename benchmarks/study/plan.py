"""A study file -> the world it plays in, and its runs.

name = "atlas-dev"
base = "smollm2"                      # the model before it learned anything; scratch: a small GPT-NeoX of our own
facts = "fact_spans"                  # column of the true spans, which [cut] makes; absent: the whole answer is the
                                      fact
paraphrase = "paraphrased_answer"     # also log the NLL of the answers in this column along each run
suite = "atlas:people=24,seed=1"      # for truth ratio and model utility, where a run says evaluate = true
learn = "atlas:full:people=24,seed=1" # the target learns these rows, the retain model `retain`
retain = "atlas:retain:people=24,seed=1"
forget = "atlas:forget:people=24,seed=1"
known = ["tofu:real_authors"]         # target and retain model learn these rows too; unlearning never sees them
learning = ["--epochs", "4"]          # of tu-train finetune
unlearning = ["--epochs", "10"]       # of tu-train run
evaluating = ["--limit", "20"]        # of tu-eval run
attacking = ["--limit", "20"]         # of tu-eval attack
scoring = ["--set", "entropy_temperature=2"]
candidates = true                     # compare every candidate with the facts, not only the sources that runs name

[cut]                                 # instead of learn, retain and forget: row ranges of one data spec
data = "tofu:forget10_perturbed"
learn = [240, 400]

[methods]
npo = ["--learning-rate", "1e-4"]     # what each method is run with

[[runs]]                              # every combination of its lists
method = ["npo"]
source = ["all", "random", "given", "entropy"]
tokens = ["hard"]                     # of sources that are scores: hard or soft
keep = [0.3]                          # hard, random
temperature = [0.3]                   # soft
seed = [0, 1, 2]
auto = true                           # hard tokens of sources that are scores: --keep auto, in place of a share
evaluate = true                       # also tu-eval run, at the point of matched forgetting
attack = true                         # also tu-eval attack, there: relearning, rounding, sampling
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from shared.config import checked, read_toml
from shared.errors import ConfigError

WITHOUT_SCORES = ("all", "random", "given")


@dataclass(frozen=True, kw_only=True)
class World:
    name: str
    base: str = "smollm2"
    facts: str | None = None
    paraphrase: str | None = None
    suite: str | None = None
    learn: str | None = None
    retain: str | None = None
    forget: str | None = None
    known: tuple[str, ...] = ()
    learning: tuple[str, ...] = ()
    unlearning: tuple[str, ...] = ()
    scoring: tuple[str, ...] = ()
    evaluating: tuple[str, ...] = ()
    attacking: tuple[str, ...] = ()
    candidates: bool = False
    cut: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Job:
    world: str
    method: str
    source: str
    tokens: str
    """all, random, given, hard, soft"""
    seed: int
    keep: float | None = None
    threshold: float | None = None
    temperature: float | None = None
    evaluate: bool = False
    attack: bool = False
    auto: bool = False
    """hard: --keep auto, in place of a share"""
    soft: str | None = None
    """how weights follow from importance"""

    @property
    def key(self) -> str:
        values = {"keep": self.keep, "from": self.threshold, "t": self.temperature}
        numbers = [f"{name}{value:g}" for name, value in values.items() if value is not None]
        parts = [self.method, self.source, self.tokens if self.tokens != self.source else "", "auto" if self.auto else "", self.soft or "",
                 *numbers, f"seed{self.seed}"]  # fmt: skip
        return "-".join(str(p) for p in parts if p)

    def flags(self) -> list[str]:
        """What tu-train run is told of the tokens: one by one, the rule of the version that docs/attribution.md was
        measured with."""
        out = ["--tokens", self.tokens, "--seed", str(self.seed)]
        out += ["--keep", str(self.keep)] if self.keep is not None else []
        out += ["--set", "whole_words=false"] if self.tokens == "hard" and self.keep is not None else []
        out += ["--keep", "auto"] if self.auto else []
        out += ["--set", f"soft={self.soft}"] if self.soft is not None else []
        out += ["--set", f"threshold={self.threshold}"] if self.threshold is not None else []
        return out + (["--set", f"temperature={self.temperature}"] if self.temperature is not None else [])


def read_study(path: Path) -> tuple[World, dict[str, list[str]], list[Job]]:
    """-> the world, the flags of each method, the runs in order. Raises ConfigError naming the file."""
    given = read_toml(path, "study ")
    methods, runs = given.pop("methods", {}), given.pop("runs", [])
    cut = given.pop("cut", {})
    world = World(**checked(World, given, f"study {path}"), cut=cut)
    named: dict[str, Job] = {}
    for job in (job for table in runs for job in _jobs(world, table, path)):
        earlier = named.setdefault(job.key, job)
        named[job.key] = replace(earlier, evaluate=earlier.evaluate or job.evaluate, attack=earlier.attack or job.attack)
    jobs = list(named.values())
    if lacking := sorted({job.method for job in jobs} - set(methods)):
        raise ConfigError(f"study {path}: no flags for method {lacking[0]}; add it to [methods]")
    return world, methods, jobs


def _jobs(world: World, table: Mapping[str, Any], path: Path) -> Iterator[Job]:
    known = {"method", "source", "tokens", "keep", "threshold", "temperature", "seed", "evaluate", "attack", "auto", "soft"}
    if unknown := sorted(set(table) - known):
        raise ConfigError(f"study {path}: runs have no {unknown[0]!r}, expected {', '.join(sorted(known))}")
    if lacking := [name for name in ("method", "source") if name not in table]:
        raise ConfigError(f"study {path}: [[runs]] without {lacking[0]}")
    lists = [table.get("seed", [0]), table["method"], table["source"], table.get("tokens", ["hard"])]
    for seed, method, source, mode in product(*lists):
        tokens = source if source in WITHOUT_SCORES else mode
        keeps = table.get("keep", [None]) if tokens in ("hard", "random") else [None]
        temperatures = table.get("temperature", [None]) if tokens == "soft" else [None]
        thresholds = table.get("threshold", [None]) if tokens == "hard" else [None]
        for keep, threshold, temperature in product(keeps, thresholds, temperatures):
            yield Job(world=world.name, method=method, source=source, tokens=tokens, seed=seed, keep=keep, threshold=threshold,
                      temperature=temperature, evaluate=table.get("evaluate", False), attack=table.get("attack", False),
                      auto=table.get("auto", False) and tokens == "hard",
                      soft=table.get("soft") if tokens == "soft" else None)  # fmt: skip
