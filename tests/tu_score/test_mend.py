"""A finished store that was damaged is mended by the command that made it; what is not this store's is not taken for
it."""

import json
import os
import shutil

import pytest

from shared.files.fs import hash_json
from shared.store.files import MANIFEST
from shared.store.scores import open_store
from shared.store.writer import Writer

DATA = "atlas:forget:people=4,facts_per_person=3,forget_people=2,holdout_people=1"


@pytest.fixture
def score(run_cli, tiny_model, tiny_base, tmp_path):
    """`score(out, *arguments)` -> the last lines on stderr of a run that ends well."""

    def run(*arguments, out=tmp_path / "store", code=0):
        got, _, err = run_cli(
            "tu-score", "run", "--model", tiny_model, "--data", DATA, "--out", out, "--limit", 5, "--set", "part_tokens=100", *arguments
        )
        assert got == code and "Traceback" not in err, err
        assert code != 2 or err.count("error: ") == 1
        return err

    return run


def contents(folder):
    """Bytes of every file, the manifest without the moment it was made."""
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    manifest = json.loads(files.pop(MANIFEST))
    return files, {k: v for k, v in manifest.items() if k not in ("created_at", "manifest_sha256")}


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGE = {
    "flipped": lambda f: flip(f / "part-00001.parquet"),
    "cut": lambda f: (f / "part-00001.parquet").write_bytes((f / "part-00001.parquet").read_bytes()[:50]),
    "longer": lambda f: (f / "part-00001.parquet").write_bytes((f / "part-00001.parquet").read_bytes() + b"x" * 10_000),
    "missing": lambda f: (f / "part-00001.parquet").unlink(),
    "all missing": lambda f: [p.unlink() for p in f.glob("part-*")],
    "another's": lambda f: shutil.copy(f / "part-00000.parquet", f / "part-00001.parquet"),
    "manifest": lambda f: flip(f / MANIFEST),
    "manifest cut": lambda f: (f / MANIFEST).write_bytes(b""),
    "plan": lambda f: (f / "_plan.json").write_text("{"),
    "no plan": lambda f: (f / "_plan.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_same_command_mends_a_finished_store_that_was_damaged(damage, score, run_cli, tmp_path):
    own = ("--set", "uncertainty=entropy")  # importance that does not wait for all parts
    score(*own)
    store = tmp_path / "store"
    sound, times = contents(store), {p: p.stat().st_mtime_ns for p in store.glob("part-*")}
    DAMAGE[damage](store)
    said = score(*own)
    assert contents(store) == sound
    assert ("nothing to do" in said) == ("plan" in damage)
    if damage in ("flipped", "cut", "longer", "missing", "another's"):
        assert "part-00001.parquet of 5 parts missing or damaged; what is lost is scored again" in said
        assert {p for p in times if p.stat().st_mtime_ns != times[p]} == {store / "part-00001.parquet"}
    assert run_cli("tu-score", "verify", store)[0] == 0
    assert "nothing to do" in score(*own)


@pytest.mark.parametrize("damage", ["flipped", "all missing", "manifest"])
def test_and_one_whose_importance_waits_for_all_parts(damage, score, run_cli, tmp_path):
    score()
    store = tmp_path / "store"
    sound = contents(store)
    DAMAGE[damage](store)
    score()
    assert contents(store) == sound and open_store(store).manifest["recipe"]["uncertainty"] == "learned_alone"
    assert run_cli("tu-score", "verify", store)[0] == 0
    assert "nothing to do" in score()


@pytest.mark.parametrize("recipe", ["norm=rank,alpha=0", "norm=rank,alpha=0,scope=store"])
def test_a_mended_store_keeps_the_recipe_that_was_applied_to_it(recipe, score, run_cli, tmp_path):
    score()
    store = tmp_path / "store"
    assert run_cli("tu-score", "recipe", store, "--recipe", recipe)[0] == 0
    sound = contents(store)
    flip(store / "part-00002.parquet")
    score()
    assert contents(store) == sound and sound[1]["recipe"]["norm"] == "rank"


def test_mending_that_was_killed_goes_on(score, tmp_path, monkeypatch):
    score()
    store = tmp_path / "store"
    sound = contents(store)
    for part in ("part-00000.parquet", "part-00001.parquet"):
        (store / part).unlink()
    write_part, written = Writer.write_part, []

    def stop(writer, index, columns):
        if written:
            raise KeyboardInterrupt
        written.append(index)
        write_part(writer, index, columns)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write_part", stop)
        score(code=130)
    assert "part-00001.parquet of 5" in score() and contents(store) == sound


def test_two_damaged_files_that_cannot_be_mended_are_one_line_and_change_nothing(score, tmp_path):
    score()
    store = tmp_path / "store"
    flip(store / MANIFEST)
    (store / "_plan.json").write_text("[" * 100_000)
    before = {p: p.read_bytes() for p in store.glob("*.*")}
    assert "delete the folder, or choose a new --out, and score again" in score(code=2)
    assert {p: p.read_bytes() for p in store.glob("*.*")} == before


def stray(store, manifest, replaces=None):
    (store / "_next").mkdir()
    body = {k: v for k, v in manifest.items() if k != "manifest_sha256"}
    text = json.dumps({**body, "manifest_sha256": hash_json(body)}, indent=2, ensure_ascii=False) + "\n"
    (store / "_next" / MANIFEST).write_text(text)
    if replaces is not None:
        (store / "_next" / "_replaces.json").write_text(json.dumps({"manifest": replaces}, indent=2) + "\n")


@pytest.mark.parametrize("how", ["others", "others, of the same plan but for the model", "older", "named"])
def test_a_stray_commit_of_another_store_does_not_take_the_place_of_the_good_one(how, score, run_cli, tmp_path):
    score()
    store = tmp_path / "store"
    good = contents(store)
    manifest = json.loads((store / MANIFEST).read_text())
    if how == "others":
        score("--set", "seed=1", out=tmp_path / "other")
        stray(store, json.loads((tmp_path / "other" / MANIFEST).read_text()))
    elif how == "older":
        stray(store, manifest, replaces="0" * 64)
    elif how == "named":
        stray(store, {**manifest, "rows": 7}, replaces="1" * 64)
    else:
        stray(store, {**manifest, "fingerprints": {**manifest["fingerprints"], "model": "0" * 64}})
    assert open_store(store).manifest == json.loads((store / MANIFEST).read_text())
    assert run_cli("tu-score", "verify", store)[0] == 0
    assert "nothing to do" in score()
    assert contents(store) == good and not (store / "_next").exists()
    stray(store, {**manifest, "tokens": 7})
    assert run_cli("tu-score", "recipe", store, "--recipe", "norm=rank,alpha=0")[0] == 0
    assert run_cli("tu-score", "verify", store)[0] == 0


def test_links_in_a_store_are_not_written_through(score, tmp_path, run_cli):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept.txt").write_text("mine")
    score()
    store = tmp_path / "store"
    for name in ("_next", "_progress", "_base"):
        os.symlink(outside, store / name)
    for name in ("_config.toml", "part-00001.parquet", "_plan.json", MANIFEST):
        (outside / name).write_bytes((store / name).read_bytes())
        (store / name).unlink()
        os.symlink(outside / name, store / name)
    flip(outside / "part-00001.parquet")
    before = {p: p.read_bytes() for p in outside.iterdir()}
    err = score(code=2)
    assert "_progress" in err and "link" in err
    (store / "_progress").unlink()
    score()
    assert {p: p.read_bytes() for p in outside.iterdir()} == before
    assert not (store / "part-00001.parquet").is_symlink() and run_cli("tu-score", "verify", store)[0] == 0
    os.symlink(outside, store / "_next")
    assert run_cli("tu-score", "recipe", store, "--recipe", "norm=rank,alpha=0")[0] == 0
    assert {p: p.read_bytes() for p in outside.iterdir()} == before


def test_the_inner_store_of_a_base_model_is_not_written_through_a_link(score, tmp_path, tiny_base):
    (tmp_path / "outside").mkdir()
    score("--base-model", tiny_base)
    store = tmp_path / "store"
    (store / "part-00001.parquet").unlink()
    os.symlink(tmp_path / "outside", store / "_base")
    assert "_base: is a link" in score("--base-model", tiny_base, code=2)
    assert not list((tmp_path / "outside").iterdir())
