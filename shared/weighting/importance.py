"""Signals of the store -> importance of every target token, 0 to 1.

importance_i = alpha · norm(knowledge_i) + (1 − alpha) · norm(uncertainty_i), as TokenUnlearn (arXiv 2605.00364)
combines its two signals; either may be any entry of SIGNALS. Everything is computed from columns that the store holds,
for many examples at once: columns lie flat, [N] float64 at the target tokens of E examples, NaN where null; `starts` [E
+ 1] says where each example begins. Linear in N (rank: N log N); docs/recipes.md has the formulas side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

import numpy as np

from shared.config import as_dict, checked
from shared.data.words import gather
from shared.data.written import RARITY, WRITTEN
from shared.errors import ConfigError, StoreError, nearest
from shared.extensions import Kind, asked, find, identity, running
from shared.settings import NONE_OR_MORE, About, check_ranges
from shared.weighting.learned import MODEL_COLUMNS, TEXT_COLUMNS, numbers_fingerprint, probabilities
from shared.weighting.norms import NormName, Summary, moments, normalise, per_example

Columns = Mapping[str, np.ndarray]
CODE = "_code"
"""ends the name of what a manifest says of a signal's source, behind the name of the recipe's field"""
FILE, COLUMN, NORM = "importance_file", "importance_column", "importance_norm"
"""what a manifest has in place of a recipe where importance came from a file: its sha256, the column, and how it was
brought to 0–1, if it was"""
LEARNED = "learned"
"""stands for the first of MODEL_COLUMNS whose columns a store holds"""
AUTO: tuple[Literal["base_entropy", "tempered_entropy", "entropy"], ...] = ("base_entropy", "tempered_entropy", "entropy")
SHAPING = ("unit", "copies", "norm", "scope")
"""fields that say how a signal becomes 0 to 1; one that was learned is that already"""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The recipe of importance."""

    alpha: Annotated[float, About(unit="share", least=0, most=1, expected="0 to 1")] = 0.0
    """share of the knowledge signal in importance; the rest is the uncertainty signal"""
    knowledge: str = "absolute"
    """the first signal: absolute (|delta|), positive, mean_absolute, mean_positive, gain, any other of docs/recipes.md,
    or your own, package.module:NAME (docs/extending.md)"""
    uncertainty: str = "auto"
    """the second signal: learned (the probability that a word carries a fact), entropy, masked_entropy,
    tempered_entropy, base_entropy, any other of docs/recipes.md, your own, or auto: learned, but where alpha, unit,
    copies, norm or scope is set base_entropy with a base model, else tempered_entropy"""
    unit: Literal["token", "word", "phrase"] = "phrase"
    """what a signal speaks of: each token by itself, its word (the sum over the word's tokens), or the mean of the
    three words around it"""
    copies: Literal["keep", "drop"] = "drop"
    """drop: words that the question holds (of raw text, an earlier sentence) count nothing"""
    norm: NormName = "minmax"
    """how a signal is brought to 0–1: minmax, rank, zscore, max"""
    scope: Literal["example", "store"] = "example"
    """what a signal is normalised over: each example by itself, or the whole store"""
    etw_entropy: Literal["tempered_entropy", "entropy"] = "tempered_entropy"
    """etw: the column it shares out"""
    seul_k: Annotated[float, About(unit="standard deviations")] = 0.0
    """seul: a token is selected below mean + k · std of the example's log-probabilities"""
    seul_gap: Annotated[int, About(unit="tokens", **NONE_OR_MORE)] = 2
    """seul: gaps of at most this many tokens between selected ones are filled"""
    su_k: Annotated[float, About(unit="standard deviations")] = 1.0
    """su: a token is selected above mean + k · std of the example's differences"""
    su_widen: Annotated[int, About(unit="tokens", **NONE_OR_MORE)] = 2
    """su: tokens on each side of a selected one that are selected too"""
    satimp_beta1: Annotated[float, About(least=0)] = 5.0
    """satimp: exponent of p"""
    satimp_beta2: Annotated[float, About(least=0)] = 1.0
    """satimp: exponent of 1 − p"""
    wga_beta: Annotated[float, About(least=0)] = 1.0
    """wga: exponent of p"""

    def __post_init__(self) -> None:
        check_ranges(self)

    @classmethod
    def recorded(cls, values: Mapping[str, Any]) -> Recipe:
        """Of a manifest; earlier versions knew neither unit nor copies. Signals that it names are not imported."""
        own = {name: value for name, value in values.items() if not name.endswith(CODE)}
        return cls(**checked(cls, {"unit": "token", "copies": "keep", **own}, "the store's recipe"))

    def written(self) -> dict[str, Any]:
        """For a manifest."""
        return {**as_dict(self), **self.codes()}

    def codes(self) -> dict[str, str]:
        """By field, where signals of others that count come from, and by which numbers one counts that was learned."""
        named = {"knowledge": self.knowledge, "uncertainty": self.uncertainty}
        found = {
            field: numbers_fingerprint() if name in MODEL_COLUMNS else identity(SIGNAL, name)
            for field, name in named.items()
            if name in self.shares()
        }
        return {f"{field}{CODE}": code for field, code in found.items() if code is not None}

    def imported(self) -> Recipe:
        """Itself, once the signals that it names are there: for a recipe that the user names, never for that of a
        store. Raises ConfigError."""
        for name in (self.knowledge, self.uncertainty):
            if name not in ("auto", LEARNED):
                find(SIGNAL, name, SIGNALS)
        if self.uncertainty != "auto" and all(name == LEARNED or is_ready(name) for name in self.shares()):
            for name in self._shaped():
                signals = " and ".join(self.shares())
                raise ConfigError(f"{name}={getattr(self, name)}: {signals} has no {name}; leave it out, or choose another signal")
        return self

    def _shaped(self) -> list[str]:
        return [f.name for f in fields(self) if f.name in SHAPING and getattr(self, f.name) != f.default]

    def resolved(self, held: Container[str], *, as_learned: bool = True) -> Recipe:
        """With a signal in place of `learned` (the first of MODEL_COLUMNS whose columns are `held`) and of `auto`: the
        same, but the first of AUTO that is held where only the text would be left, or the recipe says how a signal is
        shaped or mixed. `as_learned`: is tempered entropy held at the temperature that the numbers were learned at?"""
        if self.uncertainty not in ("auto", LEARNED):
            return self
        fit = [name for name, columns in MODEL_COLUMNS.items()
               if all(c in held for c in columns) and (as_learned or "tempered_entropy" not in columns)]  # fmt: skip
        if self.uncertainty == "auto" and (not MODEL_COLUMNS[fit[0]] or self.alpha or self._shaped()):
            return replace(self, uncertainty=next(name for name in AUTO if name in held or name == "entropy"))
        return replace(self, uncertainty=fit[0])

    @property
    def waits(self) -> bool:
        """Does importance need all parts of a store before that of the first one is known?"""
        return self.scope == "store" or RARITY in self.columns()

    def shares(self) -> dict[str, float]:
        """The signals that count, and how much."""
        out: dict[str, float] = {}
        for name, share in ((self.knowledge, self.alpha), (self.uncertainty, 1 - self.alpha)):
            if share > 0:
                out[name] = out.get(name, 0.0) + share
        return out

    def describe(self) -> str:
        """As in `0.5 · minmax(absolute) + 0.5 · minmax(entropy)`."""
        over = "" if self.scope == "example" else ", over the store"
        unit = "" if self.unit == "token" else f"{self.unit} "
        copies = "" if self.copies == "keep" else ", without the question's words"
        shares = self.shares()
        said = [f"{share:g} · {name if is_ready(name) else f'{self.norm}({unit}{name})'}" for name, share in shares.items()]
        return " + ".join(said) + ("" if all(is_ready(name) for name in shares) else copies + over)

    def columns(self) -> list[str]:
        """Store columns the recipe reads."""
        plain = (self.unit == "token" and self.copies == "keep") or all(is_ready(name) for name in self.shares())
        words = [] if plain else ["word", "copied"]
        return list(dict.fromkeys([*(column for name in self.shares() for column in columns_of(name, self)), *words]))


def describe(recorded: Mapping[str, Any]) -> str:
    """What a manifest records as the recipe, in words."""
    if FILE not in recorded:
        return Recipe.recorded(recorded).describe()
    norm = f"{recorded[NORM]} of " if NORM in recorded else ""
    return f"{norm}column {str(recorded.get(COLUMN))!r} of a file (sha256 {str(recorded[FILE])[:12]})"


def learned_of(recorded: Mapping[str, Any] | None) -> str | None:
    """The set of numbers that made the importance of a manifest: an entry of MODEL_COLUMNS, alone and as this package
    has it; else None."""
    if recorded is None or not was_learned(recorded):
        return None
    recipe = Recipe.recorded(recorded)
    return next(iter(recipe.shares())) if recipe.codes().items() <= recorded.items() else None


def was_learned(recorded: Mapping[str, Any] | None) -> bool:
    """Is the importance of a manifest that of an entry of MODEL_COLUMNS alone, by whatever numbers?"""
    if recorded is None or FILE in recorded:
        return False
    return all(name in MODEL_COLUMNS for name in Recipe.recorded(recorded).shares())


def is_probability(recorded: Mapping[str, Any]) -> bool:
    """Is importance by this recipe of a manifest the probability that a token carries a fact? Values of your own file
    are taken as such, unless they were normalised."""
    if FILE in recorded:
        return NORM not in recorded
    return all(is_ready(name) for name in Recipe.recorded(recorded).shares())


def _absolute(c: Columns, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """|delta|: what masking the span that matters most to the token takes away, or adds (TokenUnlearn). No span before
    it: 0."""
    return np.abs(np.nan_to_num(c["delta"]))


def _positive(c: Columns, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """max(0, delta): only what masking takes away."""
    return np.maximum(np.nan_to_num(c["delta"]), 0)


def _mean_absolute(c: Columns, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """|delta_mean|: the mean over spans in place of the span that matters most."""
    return np.abs(np.nan_to_num(c["delta_mean"]))


def _mean_positive(c: Columns, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """max(0, delta_mean)."""
    return np.maximum(np.nan_to_num(c["delta_mean"]), 0)


def _entropy(c: Columns, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """H_i = −Σ_v p(v) log p(v), nats (TokenUnlearn)."""
    return c["entropy"]


def _masked_entropy(c: Columns, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """H_i when the span that matters most is masked; a token that no span comes before keeps its plain H_i."""
    return np.where(np.isnan(c["masked_entropy"]), c["entropy"], c["masked_entropy"])


def _tempered_entropy(c: Columns, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """H_i of softmax(logits / temperature), the temperature of the scoring run."""
    return c["tempered_entropy"]


def _base_entropy(c: Columns, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """H_i under the base model, which never saw the data."""
    return c["base_entropy"]


def _gain(c: Columns, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """What the model has gained over the base model, nats: log p − log p_base."""
    return c["logprob"] - c["base_logprob"]


def _etw(c: Columns, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """ETW (arXiv 2604.17785): n · H_i / Σ_j H_j over the n targets of the example; an example without entropy gives
    zeros."""
    entropy = np.maximum(c[recipe.etw_entropy], 0)
    total = per_example(np.add, entropy, starts)
    count = np.repeat(np.diff(starts), np.diff(starts))
    return np.divide(count * entropy, total, out=np.zeros(len(entropy)), where=total > 0)


def _seul(c: Columns, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """1 where log p < mean + k · std of the example, gaps of at most `seul_gap` tokens filled (SEUL, arXiv 2402.05813);
    else 0."""
    mean, std = moments(c["logprob"], starts)
    chosen = np.flatnonzero(c["logprob"] < mean + recipe.seul_k * std)
    left, right = chosen[:-1], chosen[1:]
    near = (right - left <= recipe.seul_gap + 1) & (_example_of(left, starts) == _example_of(right, starts))
    return _cover(np.append(chosen, left[near]), np.append(chosen + 1, right[near]), len(mean))


def _su(c: Columns, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """1 where |p − p_base| > mean + k · std of the example, and `su_widen` tokens to each side (SU, arXiv 2506.00876);
    else 0."""
    difference = np.abs(np.exp(c["logprob"]) - np.exp(c["base_logprob"]))
    mean, std = moments(difference, starts)
    chosen = np.flatnonzero(difference > mean + recipe.su_k * std)
    owner = _example_of(chosen, starts)
    first, last = np.maximum(chosen - recipe.su_widen, starts[owner]), np.minimum(chosen + recipe.su_widen + 1, starts[owner + 1])
    return _cover(first, last, len(mean))


def _satimp(c: Columns, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """p^β1 · (1 − p)^β2 (SatImp, arXiv 2505.11953; 5 and 1 are its defaults)."""
    logprob = np.minimum(c["logprob"], 0)  # a certain token may come out a rounding above 0
    return np.exp(recipe.satimp_beta1 * logprob) * (-np.expm1(logprob)) ** recipe.satimp_beta2


def _wga(c: Columns, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """p^β (WGA, arXiv 2502.19301; 1 is its default)."""
    return np.exp(recipe.wga_beta * np.minimum(c["logprob"], 0))


def _learned_base(c: Columns, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Probability that the word carries a fact, learned: from the base model and the text (docs/recipes.md)."""
    return probabilities("learned_base", c, starts)


def _learned_alone(c: Columns, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """The same from the scored model alone and the text."""
    return probabilities("learned_alone", c, starts)


def _learned_text(c: Columns, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """The same from the text, without any model."""
    return probabilities("learned_text", c, starts)


def _example_of(positions: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return np.searchsorted(starts, positions, side="right") - 1


def _cover(first: np.ndarray, last: np.ndarray, count: int) -> np.ndarray:
    """[count] with 1 in every range first..last (end exclusive), 0 elsewhere."""
    change = np.bincount(first, minlength=count + 1) - np.bincount(last, minlength=count + 1)
    return (np.cumsum(change)[:count] > 0).astype(np.float64)


Formula = Callable[[Columns, np.ndarray, Recipe], np.ndarray]
"""(columns, starts, recipe) -> [N]"""
READABLE = (
    "logprob", "entropy", "delta", "delta_mean", "masked_entropy", "base_logprob", "base_entropy", "tempered_entropy", "word", "copied",
    *WRITTEN, RARITY,
)  # fmt: skip
"""columns of numbers at the target tokens: those that a store can hold, and what its texts tell
(shared/data/written.py)"""


@dataclass(frozen=True)
class Signal:
    """What one number a target token is made of, and how (docs/extending.md)."""

    columns: tuple[str, ...]
    """of the store that it reads"""
    formula: Formula
    ready: bool = False
    """it gives importance itself, 0 to 1, word by word; unit, copies, norm and scope leave it as it is"""

    def __post_init__(self) -> None:
        for name in self.columns:
            if name not in READABLE:
                raise ValueError(f"reads {name!r}, which is no column of numbers{nearest(name, READABLE)}")


SIGNALS: dict[str, Signal] = {
    "absolute": Signal(("delta",), _absolute),
    "positive": Signal(("delta",), _positive),
    "mean_absolute": Signal(("delta_mean",), _mean_absolute),
    "mean_positive": Signal(("delta_mean",), _mean_positive),
    "entropy": Signal(("entropy",), _entropy),
    "masked_entropy": Signal(("masked_entropy", "entropy"), _masked_entropy),
    "tempered_entropy": Signal(("tempered_entropy",), _tempered_entropy),
    "base_entropy": Signal(("base_entropy",), _base_entropy),
    "gain": Signal(("logprob", "base_logprob"), _gain),
    "etw": Signal((), _etw),  # reads the column that `etw_entropy` names
    "seul": Signal(("logprob",), _seul),
    "su": Signal(("logprob", "base_logprob"), _su),
    "satimp": Signal(("logprob",), _satimp),
    "wga": Signal(("logprob",), _wga),
    "learned_base": Signal((*TEXT_COLUMNS, *MODEL_COLUMNS["learned_base"]), _learned_base, ready=True),
    "learned_alone": Signal((*TEXT_COLUMNS, *MODEL_COLUMNS["learned_alone"]), _learned_alone, ready=True),
    "learned_text": Signal((*TEXT_COLUMNS, *MODEL_COLUMNS["learned_text"]), _learned_text, ready=True),
}
SIGNAL = Kind("token_unlearn.signals", "signal", "a Signal (shared.weighting.importance)", lambda value: isinstance(value, Signal))


def find_signal(name: str) -> Signal:
    """An entry of SIGNALS, or what `Recipe.imported` has found. Raises StoreError for a name that only a store says."""
    if name in SIGNALS:
        return SIGNALS[name]
    found = asked(SIGNAL, name)
    if found is None:
        raise StoreError(
            f"signal {name}: a store's recipe names it, and nothing that a store names is imported; name a recipe yourself, as in "
            f"tu-score recipe DIR --recipe knowledge={name},alpha=1"
        )
    return found.object


def is_ready(name: str) -> bool:
    """Does a signal give importance itself? Of one that only a store names, and nobody has imported, no."""
    imported = None if name in SIGNALS else asked(SIGNAL, name)
    return SIGNALS[name].ready if name in SIGNALS else imported is not None and imported.object.ready


def columns_of(name: str, recipe: Recipe) -> tuple[str, ...]:
    """Store columns that a signal reads."""
    return (recipe.etw_entropy,) if name == "etw" else find_signal(name).columns


def signal(name: str, columns: Columns, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """One signal at the target tokens, [N] float64, not normalised. Raises ConfigError for one of others that is not
    that."""
    known = find_signal(name)
    with running(SIGNAL, name):
        values = known.formula({k: np.asarray(v, dtype=np.float64) for k, v in columns.items()}, starts, recipe)
    if name not in SIGNALS:
        values, count = np.asarray(values), int(starts[-1])
        wrong = f"numbers of the shape {values.shape}" if values.shape != (count,) else ""
        wrong = wrong or (f"values of type {values.dtype}" if values.dtype.kind not in "fiu" else "")
        values = values if wrong else values.astype(np.float64)
        if wrong or not np.isfinite(values).all():
            wrong = wrong or "numbers that are not finite"
            raise ConfigError(f"signal {name}: gave {wrong}, expected a finite number for each of {count} target tokens")
    return values


def shaped(name: str, columns: Columns, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """One signal as the recipe reads it: of tokens, words or phrases, with or without those that the question holds;
    [N] float64."""
    values = signal(name, columns, starts, recipe)
    if is_ready(name) or (recipe.unit == "token" and recipe.copies == "keep"):
        return values
    copied = columns["copied"] if recipe.copies == "drop" else np.zeros(len(values))
    if recipe.unit == "token":
        return np.where(copied == 0, np.maximum(values, 0), 0)
    return gather(values, columns["word"], copied, starts, phrase=recipe.unit == "phrase")


def importance(columns: Columns, starts: np.ndarray, recipe: Recipe, store: Mapping[str, Summary] | None = None) -> np.ndarray:
    """[N] in 0..1. `store`: summaries of the recipe's signals (but those that are ready) over the whole store, for
    scope "store" and only then."""
    assert (store is not None) == (recipe.scope == "store"), "summaries go with scope store"
    total = np.zeros(int(starts[-1]))
    for name, share in recipe.shares().items():
        values = shaped(name, columns, starts, recipe)
        if not is_ready(name):
            values = normalise(values, starts, recipe.norm) if store is None else store[name].normalise(values)
        total += share * values
    return np.minimum(total, 1.0)
