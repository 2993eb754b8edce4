"""What is read from a configuration's fields: their meaning, unit, default, range, and whether they change the
result."""

from dataclasses import MISSING, dataclass, field
from typing import Annotated, Any, Literal

import pytest

from shared.config import resolve
from shared.errors import ConfigError
from shared.settings import COUNT, REQUIRED, About, check_ranges, harmless, named_by_content, settings_of


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where it runs."""

    device: Annotated[str | None, About(flag=True, default="cuda if there is one")] = None
    """cpu or
    cuda"""
    rate: Annotated[float | None, About(above=0, default="the method's")] = None
    """of learning"""


@dataclass(frozen=True, kw_only=True)
class Train(Place):
    """How it trains."""

    model: Annotated[str, About(content=True)]
    """where to begin"""
    steps: Annotated[int, About(unit="steps", flag=True, **COUNT)] = 5
    """how many"""
    save_every: Annotated[int, About(unit="steps", changes=False, least=0)] = 0
    """between checkpoints"""
    look_every: Annotated[int, About(changes="rate")] = 0
    """between evaluations"""
    mode: Literal["a", "b"] | Literal["c"] = "a"
    bits: Annotated[tuple[int, ...], About(flag="--bit", least=2, most=8)] = (8, 4)
    """of each weight"""
    options: dict[str, Any] = field(default_factory=dict)
    rate: float | None = 0.5
    chosen = False
    """no field"""

    def __post_init__(self):
        check_ranges(self)


def settings():
    return {s.name: s for s in settings_of(Train)}


def test_own_fields_come_first_and_a_redefined_field_stays_with_its_group():
    assert list(settings()) == ["model", "steps", "save_every", "look_every", "mode", "bits", "options", "device", "rate"]
    assert [s.group.__name__ for s in settings_of(Train)] == ["Train"] * 7 + ["Place"] * 2


def test_meaning_unit_flag_and_default_are_read_from_the_field():
    found = settings()
    assert found["device"].meaning == "cpu or cuda"
    assert (found["steps"].meaning, found["steps"].about.unit, found["steps"].flag) == ("how many", "steps", "--steps")
    assert (found["save_every"].flag, found["bits"].flag) == (None, "--bit")
    assert found["mode"].meaning == "" and found["mode"].choices == ("a", "b", "c") and found["mode"].kind is str
    assert [found[n].kind for n in ("steps", "device", "bits", "options", "rate")] == [int, str, tuple, dict, float]
    assert [found[n].item for n in ("steps", "mode", "bits", "options")] == [int, str, int, str]
    assert found["model"].required and found["model"].default is MISSING and not found["steps"].required
    assert [found[n].shown for n in ("model", "steps", "bits", "options", "device")] == [
        REQUIRED, "5", "8, 4", "", "cuda if there is one",
    ]  # fmt: skip


def test_a_redefined_field_keeps_what_its_base_says_but_for_the_default():
    rate = settings()["rate"]
    assert (rate.meaning, rate.about.above, rate.shown) == ("of learning", 0, "0.5")
    assert {s.name: s.shown for s in settings_of(Place)}["rate"] == "the method's"


def test_only_what_says_so_is_harmless():
    assert harmless(Train(model="m")) == {"save_every"} and harmless(Place()) == frozenset()
    assert named_by_content(Train(model="m")) == {"model"}


def test_a_setting_may_change_nothing_without_another():
    assert harmless(Train(model="m", rate=None)) == {"save_every", "look_every"}


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"steps": 0}, "--steps is 0, expected at least 1"),
        ({"steps": 2**31}, "--steps is 2147483648, expected at most 2147483647"),
        ({"steps": 2**80}, "--steps is a number of 81 bits, expected at most 2147483647"),
        ({"save_every": -1}, "save_every is -1, expected 0 or more"),
        ({"rate": 0.0}, "rate is 0.0, expected more than 0"),
        ({"rate": float("nan")}, "rate is nan, expected a finite number"),
        ({"bits": (8, 9)}, "--bit is 9, expected at most 8"),
    ],
)
def test_a_number_out_of_range_is_refused(given, error):
    with pytest.raises(ConfigError, match=f"^{error}$"):
        Train(model="m", **given)


def test_numbers_inside_and_no_number_pass():
    Train(model="m", steps=1, rate=None, bits=())
    Train(model="m", steps=2**31 - 1, rate=1e-9, bits=(2, 8))


def test_a_configuration_resolves_as_without_annotations():
    found = resolve(Train, sets=["bits=[4]", "steps=3", "rate=1"], flags={"model": "m"})
    assert (found.bits, found.steps, found.rate) == ((4,), 3, 1.0)


def test_no_setting_is_larger_than_what_can_be_written_down():
    from shared.weighting.importance import Recipe

    with pytest.raises(ConfigError, match=r"^seul_k is 1e\+301, expected at most 1e\+300$"):
        Recipe(seul_k=1e301)
