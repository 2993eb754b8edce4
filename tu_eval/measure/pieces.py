"""What only the model can tell, in pieces that are kept as each is finished: log-probabilities, greedy answers,
gradient norms.

Everything else is arithmetic on these pieces (tu_eval/measure/rows.py), so the model is loaded only when a piece is
missing. Cost: one forward pass over the forest of all variants of all rows, one greedy answer a row, one backward pass
a forget and holdout row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.console import number_of, progress, say
from shared.data.examples import Example, special_ids
from shared.engines.interface import Engine, Generator, Request, TokenScores
from shared.engines.open import choose_engine, open_engine, open_generator
from shared.errors import ModelError
from shared.lm.logprobs import HeadOptions, target_logprobs
from tu_eval.measure.config import EvalConfig
from tu_eval.measure.kept import KeptMeasurements
from tu_eval.measure.rounding import round_model
from tu_eval.results.folder import ResultRow
from tu_eval.suites.sets import EvalSet
from tu_eval.suites.variants import Variants

if TYPE_CHECKING:
    from shared.engines.torch import TorchEngine

Sides = Mapping[str, Sequence[Example]]
"""of membership inference: forget and holdout"""


@dataclass(frozen=True)
class TokenisedSuite:
    """A tokenised suite and what identifies it."""

    tokenizer: Any
    context: int | None
    sets: list[tuple[EvalSet, list[Variants]]]
    holdout: list[Example]
    """empty where there is none"""
    no_holdout: str | None
    """why"""
    identity: dict[str, Any]
    """the part of the summary that says what was measured: suite, limit and fingerprints, but for the model's"""

    @property
    def examples(self) -> list[Example]:
        """Everything that is scored."""
        return [e for _, variants in self.sets for v in variants for e in v.examples] + self.holdout

    @property
    def sides(self) -> dict[str, list[Example]]:
        """The answers that membership inference compares."""
        forget = [v.answer for eval_set, variants in self.sets if eval_set.name == "forget" for v in variants]
        return {"forget": forget, "holdout": self.holdout}


@dataclass(frozen=True)
class Decoding:
    """How answers are written."""

    tokenizer: Any
    context: int | None
    stop: list[int]
    """tokens that end an answer"""
    most: int
    """tokens an answer may take"""


@dataclass
class Subject:
    """One model under test. An engine is opened when a piece is missing that needs it, and the one before it is
    closed."""

    folder: Path
    config: EvalConfig
    measurements: KeptMeasurements
    opened: tuple[str, Engine | Generator] | None = field(default=None, init=False)
    """its name and an engine"""

    @property
    def engine(self) -> TorchEngine:
        """For gradients and attacks, whatever `config.engine` says."""
        return self._open("torch", Engine, open_engine)

    @property
    def scorer(self) -> Engine:
        return self._open(choose_engine(self.config.engine, self.config.device), Engine, open_engine)

    @property
    def generator(self) -> Generator:
        return self._open(choose_engine(self.config.engine, self.config.device), Generator, open_generator)

    def _open(self, name: str, kind: type, opener: Callable[..., Engine | Generator]) -> Any:
        """The engine that is open, where it is this one and does what `kind` says; else it is closed before another is
        opened."""
        if self.opened is None or self.opened[0] != name or not isinstance(self.opened[1], kind):
            self.close()
            c, head = self.config, HeadOptions(top_k=1, second=True)
            self.opened = name, opener(name, self.folder, dtype=c.dtype, device=c.device, batch_tokens=c.batch_tokens, head=head)
            if c.rounding is not None:
                round_model(self.opened[1].packed.model, c.rounding)  # type: ignore[union-attr] — the configuration wants torch
        return self.opened[1]

    def piece(self, name: str, make: Callable[[], list[ResultRow]]) -> tuple[list[ResultRow], dict[str, Any]]:
        """From the kept measurements, else made and kept with them; with the description of the engine that made it."""
        earlier = self.measurements.load(name)
        if earlier is not None:
            say(f"{name}: already measured, taken from the store")
            return earlier
        rows = make()
        assert self.opened is not None, "a piece is made with an engine"
        self.measurements.save(name, rows, self.opened[1].describe())
        saved = self.measurements.load(name)
        assert saved is not None, "what was saved a moment ago can be read"
        return saved

    def close(self) -> None:
        if self.opened is not None:
            self.opened[1].close()
            self.opened = None


def score(subject: Subject, examples: Sequence[Example], sides: Sides) -> tuple[dict[str, ResultRow], dict[str, Any]]:
    """-> by example id: `logprob` [targets]; for those of the two sides also `hits`, `entropy`, `second`, [targets]
    each. And the engine."""
    named = {e.id for group in sides.values() for e in group}
    rows, engine = subject.piece("scores", lambda: score_examples(subject.scorer, examples, named))
    return {row["id"]: row for row in rows}, engine


def losses(subject: Subject, sides: Sides) -> dict[str, float]:
    """Mean negative log-probability of the answers of both sides under another model."""
    examples = [e for group in sides.values() for e in group]
    rows, _ = subject.piece("losses", lambda: score_examples(subject.scorer, examples, set()))
    return {row["id"]: -math.fsum(row["logprob"]) / len(row["logprob"]) for row in rows}


def score_examples(engine: Engine, examples: Sequence[Example], detailed: set[str]) -> list[ResultRow]:
    requests = [Request(e.input_ids, e.targets, extras=e.id in detailed) for e in examples]
    with progress("scoring answers", sum(len(e.input_ids) for e in examples), "tokens") as bar:
        scores = engine.score(requests, bar.advance)
    rows = [_scored(e, s) for e, s in zip(examples, scores, strict=True)]
    for row in rows:
        if any(math.isnan(x) for x in row["logprob"]):
            raise ModelError(f"the model gives no number for {row['id']} (NaN): its weights are damaged, or --dtype is too narrow")
    return rows


def _scored(example: Example, scores: TokenScores) -> ResultRow:
    row: ResultRow = {"id": example.id, "logprob": scores.logprob.tolist(), "hits": None, "entropy": None, "second": None}
    if scores.top_ids is None or scores.second is None:
        return row
    hits = [example.input_ids[at] == top for at, top in zip(example.targets, scores.top_ids[:, 0].tolist(), strict=True)]
    return {**row, "hits": hits, "entropy": scores.entropy.tolist(), "second": scores.second.tolist()}


def generate(subject: Subject, name: str, examples: Sequence[Example], decoding: Decoding) -> dict[str, str]:
    """Greedy answers to the prompts of a set by example id, with the spaces around them."""
    rows, _ = subject.piece(f"generations-{name}", lambda: _generate(subject.generator, name, examples, decoding))
    return {row["id"]: row["generation"] for row in rows}


def _generate(generator: Generator, name: str, examples: Sequence[Example], decoding: Decoding) -> list[ResultRow]:
    context, stop, most = decoding.context, decoding.stop, decoding.most
    prompts = [e.input_ids[: e.prompt_length] for e in examples]
    # A model with learned positions cannot write past its context: rows with less room left get what there is.
    room = [most if context is None else min(most, context - len(p)) for p in prompts]
    with progress(f"writing answers ({name})", len(prompts), "rows") as bar:
        answers = generator.generate(prompts, max_new_tokens=room, stop_ids=stop, advance=bar.advance)
    texts = [decoding.tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
    if short := sum(r < most for r in room):
        say(f"{number_of(short, 'answer')} held to fewer than {most} tokens by the model's context of {context}")
    return [{"id": e.id, "generation": text} for e, text in zip(examples, texts, strict=True)]


def stop_ids(tokenizer: Any, examples: Sequence[Example]) -> list[int]:
    """The tokens that end an answer: those that end the examples' targets, and the end of sequence. Raises ModelError
    if there are none."""
    special = special_ids(tokenizer)
    ends = {e.input_ids[-1] for e in examples if e.input_ids[-1] in special}  # a truncated example ends in a word
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    if not ends:
        raise ModelError("the tokenizer has no end-of-sequence token, so answers would never end; use --set generate=false")
    return sorted(ends)


def gradient_norms(subject: Subject, name: str, examples: Sequence[Example]) -> dict[str, float]:
    """By example id, for one side of membership inference: the L2 norm over all parameters of the gradient of the
    answer's mean loss."""
    rows, _ = subject.piece(f"gradients-{name}", lambda: _gradient_norms(subject.engine, name, examples))
    return {row["id"]: row["norm"] for row in rows}


def _gradient_norms(engine: TorchEngine, name: str, examples: Sequence[Example]) -> list[ResultRow]:
    import torch

    packed = engine.packed
    parameters, out = [p for p in packed.model.parameters() if p.requires_grad], []
    with progress(f"gradients ({name})", len(examples), "rows") as bar:
        for e in examples:
            hidden_LD, slots = packed.hidden([e.input_ids])
            at = torch.tensor([slots[0][i - 1] for i in e.targets], device=hidden_LD.device)
            target = torch.tensor([e.input_ids[i] for i in e.targets], device=hidden_LD.device)
            loss = -target_logprobs(hidden_LD[at], target, packed.head).mean()
            grads = torch.autograd.grad(loss, parameters, allow_unused=True)
            norm = math.sqrt(sum(g.double().square().sum().item() for g in grads if g is not None))
            if math.isnan(norm):
                raise ModelError(f"the gradient at {e.id} is not a number (NaN): --dtype is too narrow, or use --set gradients=false")
            out.append({"id": e.id, "norm": norm})
            bar.advance(1)
    return out
