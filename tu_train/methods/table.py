"""Every unlearning method in one dict: its loss, its defaults, and what the loop has to bring for it.

The update of a step is the gradient of

    gamma · (sum of forget losses) / (sum of weights, or rows, of the step)  +  alpha · (sum of retain terms) / (retain
    tokens of the step)

Formulas are in the docstrings of the loss functions, explanations in docs/methods.md, `tu-train methods` prints the
table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from shared.errors import ConfigError, nearest
from shared.extensions import Kind, find, running
from tu_train.methods import gate, hidden_losses, logit_losses, losses
from tu_train.methods.retain_terms import NONE, RETAIN_TERMS
from tu_train.methods.tokens import Need

if TYPE_CHECKING:
    from torch import Tensor

    from tu_train.methods.tokens import Options, State, Tokens

WHOLE = frozenset({"layer", "seed", "first", "top", "every"})
"""options that count something"""
MOST = {"momentum": 1.0, "budget": 1.0, **dict.fromkeys(WHOLE, 2.0**53)}
"""largest values that mean something: shares, and whole numbers that a float holds exactly"""


@dataclass(frozen=True)
class Method:
    """A loss and what the training loop has to bring for it (docs/extending.md). Raises ValueError for fields that
    training could not use."""

    loss: Callable[[Tokens, Tokens | None, Options, State], Tensor]
    """(forget, partner, options, state) -> loss summed over the tokens or rows of a pass"""
    per: Literal["token", "row"]
    """denominator over a whole step: the sum of token weights, or the number of rows"""
    paper: str
    formula: str
    """one line, of one token or one row"""
    options: Options
    """its own options with their defaults; all are finite and at least 0"""
    positive: frozenset[str] = frozenset()
    """options that must be above 0"""
    needs: frozenset[Need] = frozenset()
    gamma: float = 1.0
    """default weight of the forget loss"""
    alpha: float = 1.0
    """default weight of the retain term"""
    retain: str = "nll"
    """default retain term, an entry of RETAIN_TERMS, or none"""
    learning_rate: float = 1e-5
    train: tuple[str, ...] = ()
    """default globs of the parameters that train, see trained_globs; empty: all"""
    start: Callable[[int, Options], State] | None = None
    """(width of the model, options) -> state before the first step"""
    after: Callable[[State, dict[str, float], Options], None] | None = None
    """changes the state after an optimizer step, given the entry of the step"""
    retain_weight: Callable[[State], float] | None = None
    """multiplies alpha"""

    def __post_init__(self) -> None:
        """Raises ValueError for what training could not use."""
        terms = (*(name for name, term in RETAIN_TERMS.items() if "top tokens" not in term.needs), NONE)
        for field, value, expected in (("per", self.per, ("token", "row")), ("retain", self.retain, terms)):
            if value not in expected:
                raise ValueError(f"{field} is {value!r}, expected one of {', '.join(expected)}")
        if unknown := sorted(self.needs - set(get_args(Need))):
            raise ValueError(f"needs {unknown[0]!r}{nearest(unknown[0], get_args(Need))}")
        if not isinstance(self.options, Mapping):
            raise ValueError("options are no mapping of names to numbers")
        for option, value in self.options.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"its option {option} has the default {value!r}, expected a number, 0 or more")
        if missing := sorted(self.positive - set(self.options)):
            raise ValueError(f"positive names {missing[0]!r}, which is none of its options")
        if "layer" not in self.options and ("layer" in self.needs or self.retain == "layer"):
            raise ValueError("reads a layer, so it needs an option of that name")


REFERENCE: frozenset[Need] = frozenset({"reference"})
LOGITS: frozenset[Need] = frozenset({"logits"})
START: frozenset[Need] = frozenset({"logits", "reference logits"})
LAYER: frozenset[Need] = frozenset({"layer", "reference layer"})
ALL: frozenset[Need] = frozenset({"all targets"})
REFUSAL: frozenset[Need] = frozenset({"refusal"})
ALTERNATE: frozenset[Need] = frozenset({"alternate"})
BETA = frozenset({"beta"})

METHODS: dict[str, Method] = {
    "ga": Method(losses.ascent, "token", "arXiv 2310.10683", "w·log p", {}, retain="none"),
    "graddiff": Method(losses.ascent, "token", "arXiv 2401.06121", "w·log p", {}),
    "kl": Method(losses.ascent, "token", "arXiv 2401.06121", "w·log p", {}, retain="kl"),
    "wga": Method(losses.wga, "token", "arXiv 2502.19301", "w·sg(p^β)·log p", {"beta": 1.0}),
    "tnpo": Method(
        losses.tnpo, "token", "arXiv 2502.19301", "w·sg(2p^β/(p^β+p_ref^β))·log p", {"beta": 4.0}, needs=REFERENCE
    ),
    "wtnpo": Method(
        losses.wtnpo, "token", "arXiv 2502.19301", "w·sg(2p^(β+power)/(p^β+p_ref^β))·log p", {"beta": 4.0, "power": 1.5}, needs=REFERENCE
    ),
    "satimp": Method(
        losses.satimp, "token", "arXiv 2505.11953", "w·sg(p^β1·(1−p)^β2)·log p", {"beta1": 5.0, "beta2": 1.0}
    ),
    "npo": Method(
        losses.npo, "row", "arXiv 2404.05868", "−(2/β)·log σ(−β·Σ w·(log p − log p_ref))", {"beta": 0.1}, positive=BETA, needs=REFERENCE
    ),
    "simnpo": Method(
        losses.simnpo, "row", "arXiv 2410.07163", "−(2/β)·log σ(β·(Σ w·NLL/Σ w − δ))",
        {"beta": 4.5, "delta": 0.0}, positive=BETA, gamma=0.125,
    ),
    "dpo": Method(
        losses.preference, "row", "arXiv 2305.18290, 2404.05868", "−(2/β)·log σ(β·(ratio(refusal) − Σ w·(log p − log p_ref)))",
        {"beta": 0.1}, positive=BETA, needs=REFERENCE | REFUSAL,
    ),
    "altpo": Method(
        losses.preference, "row", "arXiv 2409.13474", "−(2/β)·log σ(β·(ratio(alternate) − Σ w·(log p − log p_ref)))",
        {"beta": 0.1}, positive=BETA, needs=REFERENCE | ALTERNATE,
    ),
    "idknll": Method(losses.idknll, "row", "arXiv 2401.06121", "mean NLL of the refusal", {}, needs=REFUSAL),
    "rmu": Method(
        hidden_losses.rmu, "token", "arXiv 2403.03218", "w·‖h − c·u‖²/D", {"layer": 7.0, "steering": 2.0, "seed": 0.0},
        needs=LAYER, retain="layer", train=tuple(f"*.layers.{{layer{shift}}}.mlp.down_proj.*" for shift in ("-2", "-1", "")),
        start=hidden_losses.rmu_start,
    ),
    "undial": Method(
        logit_losses.undial, "token", "arXiv 2402.10052", "w·CE(softmax(z_start − β·onehot(gold)), θ)",
        {"beta": 10.0}, needs=START, alpha=0.0, learning_rate=1e-4,
    ),
    "ceu": Method(logit_losses.ceu, "row", "CE-U", "Σ w·CE(sg(softmax(z, gold = −inf)), θ)/Σ w, first token skipped", {}, needs=LOGITS),
    "pdu": Method(
        logit_losses.pdu, "token", "PDU", "w·(max z − mean z)²; λ ← max(0, λ + step·(L_r − ε))", {"step": 1.0, "epsilon": 0.0},
        needs=LOGITS, start=logit_losses.pdu_start, after=logit_losses.pdu_after, retain_weight=logit_losses.pdu_retain_weight,
    ),
    "tpo": Method(
        logit_losses.tpo, "row", "arXiv 2506.03142", "−(2/β)·log σ(β·Σ w·(z_start(y) − z(y))/Σ w) + general·NLL of other tokens",
        {"beta": 0.2, "general": 0.0}, positive=BETA, needs=START | ALL,
    ),
    "palu": Method(
        logit_losses.palu, "row", "arXiv 2601.03190", "Σ w·var(z of the start's top K)/Σ w at span starts + rest·KL(start‖θ) elsewhere",
        {"first": 3.0, "top": 50.0, "rest": 1.0}, positive=frozenset({"first", "top"}), needs=START | ALL,
    ),
    "atwu": Method(
        gate.atwu, "token", "arXiv 2606.06320", "−u·sg(e^(−βu)), u = w·g·NLL, g = σ(v·[h, 1])",
        {"beta": 5.0, "rate": 0.05, "momentum": 0.9, "every": 10.0, "budget": 0.2, "entropy": 0.01, "pull": 1.0, "decay": 1e-4},
        positive=frozenset({"every"}), needs=LOGITS, start=gate.gate_start, after=gate.gate_after,
    ),
}  # fmt: skip


METHOD = Kind(
    "token_unlearn.methods", "--method", "a Method (tu_train.methods.table)", lambda value: isinstance(value, Method), "tu-train methods"
)


def find_method(name: str) -> Method:
    """An entry of METHODS, or the method of another package (docs/extending.md). Raises ConfigError."""
    found = find(METHOD, name, METHODS)
    return found if name in METHODS else _guarded(name, found)


def _guarded(name: str, method: Method) -> Method:
    """The same; what its functions raise, and a loss that nothing could be learned from, is one line for its author."""

    def guarded(function: Callable[..., Any] | None) -> Any:
        def call(*given: Any) -> Any:
            assert function is not None
            with running(METHOD, name):
                return function(*given)

        return None if function is None else call

    def loss(forget: Tokens, partner: Tokens | None, options: Options, state: State) -> Tensor:
        from torch import Tensor

        value = guarded(method.loss)(forget, partner, options, state)
        if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
            raise ConfigError(f"--method {name}: its loss is {_kind_of(value)}, expected a tensor that holds one number")
        if forget.logp_N.requires_grad and len(forget.logp_N) and not value.requires_grad:
            raise ConfigError(f"--method {name}: its loss has no gradient, so nothing would be learned; compute it from `forget`")
        return value

    return replace(method, loss=loss, start=guarded(method.start), after=guarded(method.after), retain_weight=guarded(method.retain_weight))


def _kind_of(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"of type {type(value).__name__}" if shape is None else f"a {value.dtype} of shape {tuple(shape)}"


def check_options(name: str, given: Mapping[str, float | tuple[float, ...]]) -> dict[str, Any]:
    """The method's options, those given in place of their defaults; a tuple holds one value for each forget corpus.
    Raises ConfigError for what the method does not have or cannot use."""
    method = find_method(name)
    for option in given:
        if option not in method.options:
            known = nearest(option, method.options) if method.options else f"; {name} has no options"
            raise ConfigError(f"--option {option}: unknown to --method {name}{known}")
    values = {option: value if isinstance(value, tuple) else (value,) for option, value in given.items()}
    for option, value in ((option, value) for option, each in values.items() for value in each):
        expected = "more than 0" if option in method.positive else "0 or more"
        if not math.isfinite(value) or value < 0 or (value == 0 and option in method.positive):
            raise ConfigError(f"--option {option}={value:g}: --method {name} expects {expected}")
        if value > MOST.get(option, math.inf):
            raise ConfigError(f"--option {option}={value:g}: --method {name} expects at most {MOST[option]:g}")
        if option in WHOLE and value != int(value):
            raise ConfigError(f"--option {option}={value:g}: --method {name} expects a whole number")
    as_floats = {option: tuple(map(float, each)) for option, each in values.items()}
    return {**method.options, **{option: each if isinstance(given[option], tuple) else each[0] for option, each in as_floats.items()}}


def trained_globs(name: str, options: Options) -> tuple[str, ...]:
    """Globs of the parameters that train by default, `{layer-2}` and the like filled in; layers below 0 are left out.
    Empty: all."""
    out = []
    for glob in find_method(name).train:
        before, brace, rest = glob.partition("{layer")
        shift, _, after = rest.partition("}")
        layer = int(options["layer"]) + int(shift or 0) if brace else 0
        if layer >= 0:
            out.append(f"{before}{layer}{after}" if brace else glob)
    return tuple(out)
