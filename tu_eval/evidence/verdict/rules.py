"""From numbers to a plain sentence. Each rule is one comparison that a reader can make again from the page.

Forgotten, with a retain model: the measure must first tell the target from it, or it says nothing of forgetting.
`forgotten`: the model does not know more than the retain model beyond chance. `there`: it cannot be told from the
target. `unclear`: both, for too few rows. `partly`: between the two; what is left is (model − retain) / (target −
retain). Without a retain model nothing says where forgetting ends: `fell` or `there`.

Kept: `kept`: not below the target beyond chance, or not below the retain model, which is what training without the
data would have left. Else `lost`, as a share of the target's value.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.console import number_of
from tu_eval.evidence.verdict.measured import Number, above

GOOD, BAD, OPEN = ("forgotten", "kept"), ("there", "lost"), ("partly", "fell", "unclear", "silent", "alone")


@dataclass(frozen=True)
class Ruling:
    state: str
    """forgotten, partly, there, fell, unclear, silent, kept, lost, alone"""
    sentence: str


def forgotten(model: Number, target: Number | None, retain: Number | None, *, chance: float = 0.0) -> Ruling:
    """`model`, `target`, `retain`: one measure that is higher the more a model knows; `chance`: its value for a model
    that knows nothing."""
    if target is None and retain is None:
        return Ruling("alone", "There is nothing to compare with.")
    if retain is None:
        assert target is not None
        if not above(target, model):
            return Ruling("there", "As much as before unlearning.")
        if chance and model.span is not None and model.span[1] < chance:
            return Ruling("fell", f"Below chance ({chance:g}), which tells rows that were trained on too.")
        if chance and model.value <= chance:
            return Ruling("fell", f"No more than chance ({chance:g}).")
        share = (model.value - chance) / (target.value - chance) if target.value > chance else None
        of = "what was above chance" if chance else "the value"
        left = "It fell" if share is None else f"{_percent(share) if share > 0 else 'Nothing'} of {of} before is left"
        return Ruling("fell", f"{left}.")
    if target is None:
        if above(model, retain):
            return Ruling("partly", "More than a model that never saw the data; the model before unlearning was not measured so.")
        return Ruling("forgotten", "No more than a model that never saw the data.")
    if not above(target, retain):
        return Ruling("silent", "The model before unlearning does not know more here than one that never saw the data.")
    more, less = above(model, retain), above(target, model)
    if not more and not less:
        return Ruling("unclear", "Too few rows to tell it from the model before unlearning, or from one that never saw the data.")
    if not more:
        return Ruling("forgotten", "No more than a model that never saw the data.")
    if not less:
        return Ruling("there", "As much as before unlearning.")
    left = (model.value - retain.value) / (target.value - retain.value)
    return Ruling("partly", f"{_percent(left)} of what was known before unlearning, beyond a model that never saw the data, is left.")


def given_away(model: Number, target: Number | None, retain: Number | None) -> Ruling:
    """As `forgotten`, of secrets, a row a secret that an answer has (1) or not (0). No chance makes an answer hold a
    secret, so that one which the retain model does not give is there however few they are."""
    known = set() if retain is None else {name for name, found in retain.rows.items() if found}
    own, had = ({name for name, found in number.rows.items() if found} - known if number else set() for number in (model, target))
    said = forgotten(model, target, retain)
    if not own or said.state in ("partly", "there"):
        return said
    sentence = f"{len(own)} of {number_of(model.n, 'secret')} {'is' if len(own) == 1 else 'are'} {'still ' if had else ''}given away"
    if target is None:
        return Ruling("alone" if retain is None else "partly", f"{sentence}; the model before unlearning was not measured so.")
    state = "there" if len(own) >= len(had) else "fell" if retain is None else "partly"
    return Ruling(state, f"{sentence}; before unlearning {len(had)}.")


def kept(model: Number, target: Number | None, retain: Number | None) -> Ruling:
    """`model`, `target`, `retain`: one measure that is higher the more a model can do."""
    if target is None:
        return Ruling("alone", "The model before unlearning was not measured so; there is nothing to compare with.")
    if not above(target, model):
        less = model.value < target.value
        return Ruling("kept", "Less than before unlearning by no more than chance explains." if less else "No less than before unlearning.")
    if retain is not None and not above(retain, model):
        return Ruling("kept", "Less than before unlearning, but no less than a model trained without the data.")
    lost = f"{_percent((target.value - model.value) / target.value)} less" if target.value > 0 else "Less"
    return Ruling(
        "lost", f"{lost} than before unlearning{', and less than a model trained without the data' if retain is not None else ''}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 or share <= 0 else "less than 1 %"
