"""Shards scored one by one and merged are the store of one worker, to the byte."""

import contextlib
import json
import os
import shutil

import pytest

from shared.errors import ConfigError, StoreError
from shared.files.fs import hash_json
from shared.store.files import MANIFEST, PLAN
from shared.store.scores import open_store
from shared.store.writer import Writer
from tests.tu_score.test_mend import flip
from tests.tu_score.test_resume import contents
from tu_score import shards
from tu_score.config import ScoreConfig, shard_of
from tu_score.run import run_score

DATA = "atlas:full:people=6,facts_per_person=3,forget_people=2,language=zh"
RECIPES = {"waits": {}, "at once": {"uncertainty": "base_entropy", "unit": "word"}, "masked": {"spans": "question", "alpha": 0.5}}


@pytest.fixture(scope="module")
def config(tiny_model, tiny_base):
    def make(out, **fields):
        return ScoreConfig(model=str(tiny_model), base_model=str(tiny_base), data=DATA, engine="torch", device="cpu", out=str(out),
                           **{"part_tokens": 100, **fields})  # fmt: skip

    return make


@pytest.fixture(scope="module")
def scored(config, tmp_path_factory):
    """A store of one worker, and four shards of the same."""
    folder = tmp_path_factory.mktemp("scored")
    run_score(config(folder / "one"))
    for number in range(1, 5):
        run_score(config(folder / "shards", shard=f"{number}/4"))
    return folder


@pytest.fixture
def parted(scored, tmp_path):
    return shutil.copytree(scored / "shards", tmp_path / "store")


def assert_same(first, second):
    one, other = contents(first), contents(second)
    for files, _ in (one, other):
        settings = files.pop("_config.toml").decode().splitlines()
        files["settings"] = [line for line in settings if not line.startswith("out = ")]
    assert one == other


@pytest.mark.parametrize("recipe", RECIPES)
def test_four_shards_are_the_store_of_one_worker(recipe, config, tmp_path, run_cli):
    run_score(config(tmp_path / "one", **RECIPES[recipe]))
    assert len(open_store(tmp_path / "one").manifest["parts"]) > 4
    for number in (3, 1, 4, 2):
        folder = run_score(config(tmp_path / ("a" if number < 3 else "b"), shard=f"{number}/4", **RECIPES[recipe]))
        assert str(folder).endswith(f"_shards/{number}-of-4")
    code, out, err = run_cli("tu-score", "merge", tmp_path / "a", "--from", tmp_path / "b")
    assert code == 0 and "18 rows" in out, err
    assert_same(tmp_path / "a", tmp_path / "one")
    assert run_cli("tu-score", "verify", tmp_path / "a")[0] == 0
    code, _, err = run_cli("tu-score", "merge", tmp_path / "a")
    assert code == 0 and "this store is finished; nothing to merge" in err


def test_more_shards_than_parts(config, tmp_path):
    run_score(config(tmp_path / "one", part_tokens=1000))
    parts = len(open_store(tmp_path / "one").manifest["parts"])
    for number in range(1, parts + 3):
        run_score(config(tmp_path / "store", part_tokens=1000, shard=f"{number}/{parts + 2}"))
    shards.merge(str(tmp_path / "store"))
    assert_same(tmp_path / "store", tmp_path / "one")


class Kill(BaseException):
    pass


def kill(*_, **__):
    raise Kill


KILLED = ["tu_score.check.score_examples", "tu_score.run.write_shard", "tu_score.run.Writer.write_part"]


@pytest.mark.parametrize("where", KILLED)
def test_a_shard_that_was_killed_goes_on(where, scored, config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(where, kill)
        run_score(config(tmp_path / "store", shard="2/4"))
    with pytest.raises(shards.StoreError, match=r"2-of-4: this shard is not done; give its tu-score run command again"):
        shards.merge(str(tmp_path / "store"))
    run_score(config(tmp_path / "store", shard="2/4"))
    for number in (1, 3, 4):
        shutil.copytree(scored / "shards" / "_shards" / f"{number}-of-4", tmp_path / "store" / "_shards" / f"{number}-of-4")
    shards.merge(str(tmp_path / "store"))
    assert_same(tmp_path / "store", scored / "one")


STEPS = ["shared.store.writer.Writer.take_part", "tu_score.shards.whole", "tu_score.shards.apply_recipe", "shared.store.rewrite.settle",
         "shared.files.storage.LocalPlace.clear"]  # fmt: skip


@pytest.mark.parametrize("where", STEPS)
def test_a_merge_that_was_killed_goes_on(where, parted, scored, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(where, kill)
        shards.merge(str(parted))
    shards.merge(str(parted))
    assert_same(parted, scored / "one")


@pytest.mark.parametrize("recipe", ["waits", "lacking"])
def test_a_merge_killed_at_any_removal_is_finished_by_the_same_command(recipe, scored, config, tmp_path, monkeypatch, run_cli):
    """`lacking`: a store without importance, of which no later pass says that it is whole."""
    folder, options = scored, {"alpha": 1.0, "spans": "none", "part_tokens": 1000}
    if recipe == "lacking":
        folder = tmp_path / "made"
        run_score(config(folder / "one", **options))
        for number in (1, 2):
            run_score(config(folder / "shards", shard=f"{number}/2", **options))
    ready, steps = shutil.copytree(folder / "shards", tmp_path / "ready"), 0
    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(shards, "_remove_shards", kill)
        shards.merge(str(ready))
    while True:
        store, done = shutil.copytree(ready, tmp_path / "store"), 0

        def counted(honest, last=steps):
            def remove(*given, **named):
                nonlocal done
                if done == last:
                    raise Kill
                done += 1
                return honest(*given, **named)

            return remove

        with monkeypatch.context() as patch, contextlib.suppress(Kill):
            for name in ("unlink", "rmdir"):
                patch.setattr(os, name, counted(getattr(os, name)))
            shards._remove_shards(shards.open_place(store))
            break
        shards.merge(str(store))
        assert not (store / "_shards").exists() and not (store / "_merged.json").exists()
        assert_same(store, folder / "one")
        shutil.rmtree(store)
        steps += 1
    assert steps > 10 and run_cli("tu-score", "verify", store)[0] == 0


@pytest.mark.parametrize("left", [(), ("_plan.json",), ("_plan.json", "_shard.json")], ids=["whole", "half removed", "nearly gone"])
def test_what_a_killed_merge_of_an_earlier_version_left_is_removed(left, scored, tmp_path, monkeypatch):
    """It had no file that says that all shards are in the store."""
    store = shutil.copytree(scored / "shards", tmp_path / "store")
    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(shards, "_remove_shards", kill)
        shards.merge(str(store))
    (store / "_merged.json").unlink()
    gone, *rest = sorted((store / "_shards").iterdir())
    shutil.rmtree(gone)
    for name in left:
        (rest[0] / name).unlink()
    shards.merge(str(store))
    assert not (store / "_shards").exists()
    assert_same(store, scored / "one")


def test_shards_of_another_run_in_a_finished_store_are_not_removed(scored, config, tmp_path):
    store = shutil.copytree(scored / "one", tmp_path / "store")
    run_score(config(tmp_path / "other", seed=7, shard="1/2"))
    shutil.copytree(tmp_path / "other" / "_shards", store / "_shards")
    with pytest.raises(StoreError, match="shard 2 of 2 is missing"):
        shards.merge(str(store))
    assert len(list((store / "_shards").iterdir())) == 1


def test_one_that_was_killed_before_a_part_of_many(parted, scored, monkeypatch):
    take, taken = Writer.take_part, []

    def three(writer, index, entry, data):
        if len(taken) == 3:
            raise Kill
        taken.append(index)
        take(writer, index, entry, data)

    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(Writer, "take_part", three)
        shards.merge(str(parted))
    shards.merge(str(parted))
    assert_same(parted, scored / "one")


def refused(run_cli, *arguments) -> str:
    code, _, err = run_cli("tu-score", *arguments)
    lines = err.splitlines()
    assert code == 2 and len(lines) == 1 and lines[0].startswith("error: "), err
    return lines[0]


def test_a_shard_that_is_missing_or_here_twice(run_cli, parted, tmp_path):
    other = tmp_path / "other" / "_shards"
    shutil.copytree(parted / "_shards" / "2-of-4", other / "2-of-4")
    assert f"{other}/2-of-4: shard 2 is here twice, also as {parted}/_shards/2-of-4" in refused(
        run_cli, "merge", parted, "--from", tmp_path / "other"
    )
    shutil.rmtree(parted / "_shards" / "2-of-4")
    assert "shard 2 of 4 is missing; score it with --shard 2/4" in refused(run_cli, "merge", parted)
    assert not (parted / MANIFEST).exists()
    assert run_cli("tu-score", "merge", parted, "--from", tmp_path / "other")[0] == 0


@pytest.mark.parametrize(("change", "expected"), [
    ({"part_tokens": 200}, "its options.part_tokens differs"), ({"limit": 17}, "its fingerprints.rows differs"),
    ({"shard": "2/3"}, "is one of 3 shards"), ({"entropy_temperature": 2.0}, "its optional differs"),
])  # fmt: skip
def test_shards_of_two_runs_are_refused_by_the_field(change, expected, config, parted, tmp_path, run_cli):
    run_score(config(tmp_path / "other", **{"shard": "2/4", **change}))
    shutil.rmtree(parted / "_shards" / "2-of-4")
    assert expected.split()[-2] in refused(run_cli, "merge", parted, "--from", tmp_path / "other")


def test_a_damaged_shard_is_named(run_cli, parted):
    part = sorted((parted / "_shards" / "3-of-4").glob("part-*"))[0]
    flip(part)
    assert f"{part}: its bytes are not those written" in refused(run_cli, "merge", parted)
    assert not (parted / MANIFEST).exists()
    told = parted / "_shards" / "3-of-4" / "_shard.json"
    told.write_text(json.dumps({**json.loads(told.read_text()), "number": 1}))
    assert "here twice" in refused(run_cli, "merge", parted)
    told.write_text("{}")
    assert "_shard.json: damaged" in refused(run_cli, "merge", parted)


def test_a_folder_without_shards(run_cli, tmp_path, scored):
    assert "no shards here" in refused(run_cli, "merge", tmp_path)
    assert hash_json(json.loads((scored / "one" / PLAN).read_text())) == hash_json(
        json.loads((scored / "shards" / "_shards" / "1-of-4" / PLAN).read_text())
    )


@pytest.mark.parametrize("text", ["0/4", "5/4", "a/b", "3", "3/", "-1/4", "1/0", "1.5/4", ""])
def test_what_is_no_share(text, run_cli, tmp_path):
    with pytest.raises(ConfigError, match="expected K/N with K from 1 to N"):
        shard_of(text)
    line = refused(run_cli, "run", "--model", "m", "--data", "d", "--out", tmp_path / "out", f"--shard={text}")
    assert "--shard" in line and not (tmp_path / "out").exists()
