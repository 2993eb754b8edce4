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

from tu_eval.evidence.verdict.measured import Number, above

GOOD, BAD, OPEN = ("forgotten", "kept"), ("there", "lost"), ("partly", "fell", "unclear", "silent", "alone")


@dataclass(frozen=True)
class Ruling:
    state: str
    """forgotten, partly, there, fell, unclear, silent, kept, lost, alone"""
    sentence: str


def forgotten(model: Number, target: Number | None, retain: Number | None) -> Ruling:
    """`model`, `target`, `retain`: one measure that is higher the more a model knows."""
    if target is None and retain is None:
        return Ruling("alone", "There is nothing to compare with.")
    if retain is None:
        assert target is not None
        if not above(target, model):
            return Ruling("there", "As much as before unlearning.")
        left = f"{_percent(model.value / target.value)} of the value before is left" if target.value > 0 else "It fell"
        return Ruling("fell", f"{left}.")
    if target is None:
        if above(model, retain):
            return Ruling("partly", "More than a model that never saw the data; the model before unlearning was not measured so.")
        return Ruling("forgotten", "No more than a model that never saw the data.")
    if not above(target, retain):
        return Ruling("silent", "Says nothing: the model before unlearning does not know more here than one that never saw the data.")
    more, less = above(model, retain), above(target, model)
    if not more and not less:
        return Ruling("unclear", f"{model.n} rows tell it neither from the model before unlearning nor from one that never saw the data.")
    if not more:
        return Ruling("forgotten", "No more than a model that never saw the data.")
    if not less:
        return Ruling("there", "As much as before unlearning.")
    left = (model.value - retain.value) / (target.value - retain.value)
    return Ruling("partly", f"{_percent(left)} of what was known before unlearning, beyond a model that never saw the data, is left.")


def kept(model: Number, target: Number | None, retain: Number | None) -> Ruling:
    """`model`, `target`, `retain`: one measure that is higher the more a model can do."""
    if target is None:
        return Ruling("alone", "The model before unlearning was not measured so; there is nothing to compare with.")
    if not above(target, model):
        return Ruling("kept", "No less than before unlearning.")
    if retain is not None and not above(retain, model):
        return Ruling("kept", "Less than before unlearning, but no less than a model trained without the data.")
    lost = f"{_percent((target.value - model.value) / target.value)} less" if target.value > 0 else "Less"
    return Ruling(
        "lost", f"{lost} than before unlearning{', and less than a model trained without the data' if retain is not None else ''}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 or share <= 0 else "less than 1 %"
