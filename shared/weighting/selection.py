"""Which tokens get what weight, as settings: shared/weighting/weights.py does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from shared.errors import ConfigError
from shared.settings import COUNT, About, check_ranges

TokenMode = Literal["all", "hard", "soft", "given", "random"]
SoftMode = Literal["softmax", "linear", "plain"]
Keep = float | Literal["auto"]
KEEP, TEMPERATURE = 0.3, 0.3
LEAST = 1e-100
"""temperature; importance divided by less is beyond a float"""


SHARE = About(unit="share", flag=True, above=0, most=1, default="auto if importance was learned, else 0.3; not with top or threshold",
              metavar="SHARE|auto",
              expected="a share of the target tokens, more than 0 and at most 1, or auto")  # fmt: skip
IMPORTANCE = About(unit="importance", above=0, most=1, expected="an importance, more than 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class SelectionOptions:
    """How tokens are chosen by importance."""

    keep: Annotated[Keep | None, SHARE] = None
    """hard, random: share of each answer's tokens that keep weight 1; hard: auto, all tokens of the store from the
    threshold on that their probabilities call best (docs/recipes.md)"""
    top: Annotated[int | None, About(unit="tokens", **COUNT)] = None
    """hard: number of each answer's tokens that keep weight 1, instead of keep"""
    threshold: Annotated[float | None, IMPORTANCE] = None
    """hard: importance from which on a token keeps weight 1, instead of keep; an answer without such a token is left
    out"""
    soft: Annotated[SoftMode | None, About(default="softmax")] = None
    """soft: weights by softmax, linear in importance, or importance itself (plain)"""
    temperature: Annotated[float | None, About(least=LEAST, default="0.3")] = None
    """soft=softmax: small is selective, large is uniform"""


@dataclass(frozen=True, kw_only=True)
class TokenOptions(SelectionOptions):
    """Which tokens are pushed."""

    tokens: Annotated[TokenMode, About(flag=True)] = "hard"
    """which tokens of the forget set are pushed: all alike, the most important, all by importance, those a column
    names, random ones"""
    whole_words: Annotated[bool | None, About(default="yes")] = None
    """hard, by keep or top: words are chosen whole; false is the rule of earlier versions, token by token"""


@dataclass(frozen=True, kw_only=True)
class Selection(TokenOptions):
    """Which tokens get what weight. Raises ConfigError for an option that the mode does not use, or two that exclude
    each other."""

    seed: int = 0
    """random: another seed draws other tokens"""
    at_least_a_word: bool = False
    """with threshold, of keep=auto: an answer that has no such token keeps its most important word"""

    def __post_init__(self) -> None:
        check_ranges(self)
        flags = {"keep": "--keep", "top": "--set top", "threshold": "--set threshold"}
        given = [flag for name, flag in flags.items() if getattr(self, name) is not None]
        if given and self.tokens != "hard" and not (self.tokens == "random" and given == ["--keep"]):
            raise ConfigError(f"{given[0]} is for --tokens hard, this is --tokens {self.tokens}; drop one of them")
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)}: each chooses the tokens by itself; give one of them")
        if self.tokens == "random" and self.keep == "auto":
            raise ConfigError("--keep auto is for --tokens hard, this is --tokens random; give a share")
        for name in ("soft", "temperature"):
            if getattr(self, name) is not None and self.tokens != "soft":
                raise ConfigError(f"--set {name} is for --tokens soft, this is --tokens {self.tokens}; drop one of them")
        if self.whole_words is not None and (self.tokens != "hard" or self.threshold is not None or self.keep == "auto"):
            raise ConfigError("--set whole_words is for --tokens hard with a share (--keep) or top; drop it")
        if self.temperature is not None and self.soft in ("linear", "plain"):
            raise ConfigError(f"--set temperature is for --set soft=softmax, {self.soft} weights have none; drop one of them")

    @property
    def left_open(self) -> bool:
        """Hard tokens, and nobody said how many."""
        return self.tokens == "hard" and all(v is None for v in (self.keep, self.top, self.threshold, self.whole_words))

    def describe(self) -> str:
        """The choice with its defaults filled in, as a few words."""
        if self.at_least_a_word:
            return "hard tokens (keep auto)"
        if self.tokens == "hard":
            chosen = {"top": self.top, "threshold": self.threshold, "keep": self.keep}
            name = next((name for name, value in chosen.items() if value is not None), "keep")
            how = "" if name == "threshold" or self.keep == "auto" or self.whole_words is False else ", whole words"
            return f"hard tokens ({name} {chosen[name] or KEEP}{how})"
        if self.tokens == "random":
            return f"random tokens (keep {self.keep or KEEP}, seed {self.seed})"
        if self.tokens == "soft":
            softmax = f"softmax, temperature {self.temperature or TEMPERATURE}"
            return f"soft tokens ({softmax if self.soft in (None, 'softmax') else self.soft})"
        return f"{self.tokens} tokens"
