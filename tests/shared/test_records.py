"""Records of training: what is written comes back, what older versions wrote is taken, and other forms are named."""

import json

import pytest

from shared.errors import StoreError
from shared.records import Index, IndexedRun, RunRecord, TrainingRecord, without_effect

SETTINGS = {"method": "npo", "seed": 3, "out": "a", "model": "m", "trackers": ["wandb"], "eval_every": 5, "keep": 0.3}


def test_a_record_comes_back_as_it_was_written():
    record = TrainingRecord(
        task="unlearn", store="ab", layout={"system": "s"}, retain_outside_top_tokens=0.5, settings=SETTINGS, counts={"steps": 3},
        changes_nothing=("out", "model"), output_files={"config.json": "cd"}, more={"newer": [1]},
    )  # fmt: skip
    written = json.loads(json.dumps(record.to_json()))
    assert TrainingRecord.from_json(written) == record
    assert "retain_data" not in written and written["newer"] == [1] and written["format"] == 1


def test_a_training_record_is_what_a_checkpoint_holds_and_more():
    about = RunRecord(task="finetune", data="ab", settings={"seed": 0}, more={"other": 1})
    record = TrainingRecord(**vars(about), torch="2")
    assert record.to_json() == {**about.to_json(), "format": 1, "torch": "2"}


def test_what_earlier_versions_wrote_is_taken():
    record = TrainingRecord.from_json({"format": 1, "settings": SETTINGS, "counts": {}})
    assert record.store is None and record.changes_nothing is None
    assert record.recipe == {"method": "npo", "keep": 0.3}


def test_of_earlier_versions_evaluations_are_in_the_recipe_where_they_end_training():
    assert "eval_every" in without_effect({}) and "eval_every" in without_effect({"stop_when": None})
    assert "eval_every" not in without_effect({"stop_when": "forget_nll>1"})


def test_a_record_says_itself_what_is_no_part_of_its_recipe():
    assert TrainingRecord(settings=SETTINGS, changes_nothing=("keep", "out")).recipe.keys() == SETTINGS.keys() - {"keep", "out", "seed"}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "it is a list, expected an object"),
        ({}, "settings is missing"),
        ({"settings": None}, "settings is null, expected an object"),
        ({"settings": {}, "store": 3}, r"store is a whole number \(3\), expected text or null"),
        (
            {"settings": {}, "retain_outside_top_tokens": "x"},
            "retain_outside_top_tokens is text, expected a number of at most 1e300 or null",
        ),
        ({"settings": {}, "layout": []}, "layout is a list, expected an object or null"),
        ({"settings": {}, "changes_nothing": [1]}, r"changes_nothing.0 is a whole number \(1\), expected text"),
    ],
)
def test_another_form_is_named(value, said):
    with pytest.raises(StoreError, match=f"^{said}$"):
        TrainingRecord.from_json(value)


def test_an_index_comes_back_as_it_was_written():
    runs = (
        IndexedRun(name="a", folder="a-1", settings={"seed": 0}, status="finished"),
        IndexedRun(name="b", folder="b-1", settings={}, status="failed", error="no"),
    )
    written = json.loads(json.dumps(Index(runs).to_json()))
    assert Index.from_json(written) == Index(runs)
    assert written == {
        "format": 1,
        "runs": [
            {"name": "a", "folder": "a-1", "settings": {"seed": 0}, "status": "finished", "error": None},
            {"name": "b", "folder": "b-1", "settings": {}, "status": "failed", "error": "no"},
        ],
    }


def test_an_entry_may_have_a_folder_alone():
    (run,) = Index.from_json({"format": 1, "runs": [{"folder": "x", "settings": 3}]}).runs
    assert (run.name, run.settings, run.error) == ("x", None, None)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "not an index of runs"),
        ({"format": 2, "runs": []}, "not an index of runs"),
        ({"format": 1, "runs": [{}]}, "run 0 names no folder"),
        ({"format": 1, "runs": [{"folder": "x", "status": ["y"]}]}, "run 0 has a folder, name or status that is none"),
    ],
)
def test_what_is_no_index_is_named(value, said):
    with pytest.raises(StoreError, match=said):
        Index.from_json(value)


def test_a_run_without_a_status_waits():
    index = Index.from_json({"format": 1, "runs": [{"folder": "a"}]})
    assert (index.runs[0].name, index.runs[0].status, index.runs[0].error) == ("a", "waiting", None)
