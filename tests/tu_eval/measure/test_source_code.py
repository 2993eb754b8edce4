"""The hash of the sources that measurements depend on: no file leaves it without a word, and no edit passes without a
decision."""

import json
import shutil
from pathlib import Path

import pytest

import shared
import tu_eval
from tu_eval.measure import source_code

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture
def copied(monkeypatch, tmp_path):
    """Both packages as copies that may be changed; -> their folder."""
    for package in (tu_eval, shared):
        copy = shutil.copytree(package.__path__[0], tmp_path / package.__name__, ignore=shutil.ignore_patterns("__pycache__"))
        monkeypatch.setattr(package, "__path__", [str(copy)])
    return tmp_path


def versions() -> list[str]:
    return [version.__wrapped__() for version in source_code.VERSIONS.values()]


@pytest.mark.parametrize(
    "name, changes",
    [
        ("tu_eval/metrics/membership.py", [True, False, False]),
        ("shared/lm/forest.py", [True, False, False]),
        ("tu_eval/attacks/sample.py", [False, True, False]),
        ("tu_eval/judge/answers.py", [False, False, True]),
        ("tu_eval/attacks/run.py", [False, False, False]),
        ("tu_eval/results/columns.py", [False, False, False]),
    ],
)
def test_a_changed_source_changes_the_version_of_what_depends_on_it(copied, name, changes):
    before = versions()
    assert before == [version() for version in source_code.VERSIONS.values()]  # of the content alone, not of the place
    (copied / name).write_text((copied / name).read_text() + "K = 0.5\n")
    assert [now != then for now, then in zip(versions(), before, strict=True)] == changes


@pytest.mark.parametrize(
    "name, to, pattern",
    [
        ("tu_eval/suites/variants.py", "tu_eval/measure/variants.py", "tu_eval has no suites/variants.py, on which measurements depend"),
        ("tu_eval/metrics", "tu_eval/numbers", r"tu_eval has no metrics/\*\.py"),
        ("tu_eval/judge/answers.py", "tu_eval/judge/written.py", "tu_eval has no judge/answers.py"),
        ("shared/lm/attention.py", "tu_eval/lm/attention.py", "shared has no lm/attention.py"),  # of the same name in the other package
    ],
)
def test_a_file_that_moved_does_not_leave_the_version_without_a_word(copied, name, to, pattern):
    versions()
    (copied / to).parent.mkdir(exist_ok=True)
    shutil.move(copied / name, copied / to)
    with pytest.raises(AssertionError, match=pattern):
        versions()


@pytest.mark.parametrize("field", source_code.SAME)
def test_an_edit_of_a_source_that_measurements_depend_on_is_decided_on(field):
    assert source_code.SAME[field] == source_code.VERSIONS[field](), (
        f"sources of {field!r} were edited. If they give the same numbers bit for bit, put the lines that "
        "`python -m tu_eval.measure.source_code` prints into SAME; if not, take the line out of SAME: what the earlier version kept is "
        "then measured again"
    )


def test_measurements_that_depend_on_other_sources_than_the_decision_are_none_of_the_earlier_version(monkeypatch):
    now = {name: version() for name, version in source_code.VERSIONS.items()}
    monkeypatch.setattr(source_code, "SAME", now)
    identity = {"model_fingerprint": "m", "code": now["code"], "attack_code": now["attack_code"]}
    before = {name: source_code.BEFORE[name] for name in ("code", "attack_code")}
    assert source_code.earlier(identity) == {"model_fingerprint": "m", **before}
    assert source_code.earlier({**identity, "attack_code": "x" * 64}) is None
    monkeypatch.delitem(source_code.SAME, "attack_code")
    assert source_code.earlier(identity) is None


def test_the_golden_measurements_are_those_of_the_version_before():
    identities = [json.loads(path.read_text()) for path in GOLDEN.glob("world/kept/*/identity.json")]
    assert {name for identity in identities for name in identity} >= source_code.BEFORE.keys()
    for identity in identities:
        fields = identity.keys() & source_code.BEFORE.keys()
        today = {**identity, **{name: source_code.VERSIONS[name]() for name in fields}}
        assert source_code.earlier(today) == (identity if fields <= source_code.SAME.keys() else None)
