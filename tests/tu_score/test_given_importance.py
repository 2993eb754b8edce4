"""tu-score recipe --importance: a column of the user's own in place of a recipe, compared with the store length by
length before anything is written."""

import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.store.scores import open_store
from shared.weighting.norms import normalise

DATA = "atlas:forget:people=4,facts_per_person=3,forget_people=2,holdout_people=1"


def scored(run_cli, model, out, *more):
    return run_cli("tu-score", "run", "--model", model, "--data", DATA, "--out", out, "--limit", 5, "--set", "part_tokens=100",
                   "--device", "cpu", "--engine", "torch", *more)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model):
    from tu_score.config import ScoreConfig
    from tu_score.run import run_score

    out = tmp_path_factory.mktemp("made") / "store"
    return run_score(ScoreConfig(model=str(tiny_model), data=DATA, out=str(out), limit=5, part_tokens=100, device="cpu", engine="torch"))


@pytest.fixture
def store(made, tmp_path):
    return shutil.copytree(made, tmp_path / "store")


def rows_of(folder):
    return list(open_store(folder).rows(["example_id", "input_ids", "is_target", "importance"]))


def own(folder, *, every_token=True, seed=0):
    """By example id: random values, of each token or of each target."""
    rng = np.random.default_rng(seed)
    out = {}
    for row in rows_of(folder):
        values = [float(v) for v in rng.random(len(row["is_target"])).astype(np.float32)]
        out[row["example_id"]] = values if every_token else [v for v, t in zip(values, row["is_target"], strict=True) if t]
    return out


def write(path, values, column="importance", kind=None):
    table = pa.table({"example_id": list(values), column: pa.array(list(values.values()), kind or pa.list_(pa.float64()))})
    pq.write_table(table, path)
    return path


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.fixture
def recipe(run_cli, store):
    def run(*arguments, code=0):
        got, out, err = run_cli("tu-score", "recipe", store, *arguments)
        assert got == code, err
        if code:
            assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
        return out or err

    return run


@pytest.mark.parametrize("every_token", [True, False])
@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float32()), pa.large_list(pa.float64())])
def test_importance_is_the_column_at_the_target_tokens(store, recipe, tmp_path, run_cli, every_token, kind):
    values = own(store, every_token=every_token)
    path = write(tmp_path / "own.parquet", dict(reversed(values.items())), "mine", kind)  # in any order
    said = recipe("--importance", f"{path}:mine")
    assert "is now column 'mine' of a file (sha256 " in said
    wanted = own(store, every_token=False)
    for row in rows_of(store):
        targets = [v for v, t in zip(row["importance"], row["is_target"], strict=True) if t]
        assert targets == wanted[row["example_id"]] and sum(v is None for v in row["importance"]) == row["is_target"].count(False)
    recorded = open_store(store).manifest["recipe"]
    assert sorted(recorded) == ["importance_column", "importance_file"] and len(recorded["importance_file"]) == 64
    code, out, err = run_cli("tu-score", "verify", store)
    assert code == 0 and out.startswith("ok: "), out + err


def test_a_formula_comes_back_bit_for_bit(store, made, recipe, tmp_path):
    recipe("--importance", write(tmp_path / "own.parquet", own(store)))
    assert contents(store) != contents(made)
    recipe("--recipe", "alpha=0")
    for name, data in contents(made).items():
        if name.startswith("part-"):
            assert contents(store)[name] == data


@pytest.mark.parametrize("norm", ["minmax", "rank", "zscore", "max"])
def test_values_beyond_the_scale_are_brought_there_where_that_is_asked_for(store, recipe, tmp_path, norm):
    values = {name: [7 * v - 3 for v in each] for name, each in own(store, every_token=False).items()}
    path = write(tmp_path / "own.parquet", values)
    before = contents(store)
    assert "expected 0 to 1; --recipe norm=minmax" in recipe("--importance", path, code=2) and contents(store) == before
    said = recipe("--importance", path, "--recipe", f"norm={norm}")
    assert f"is now {norm} of column 'importance'" in said and open_store(store).manifest["recipe"]["importance_norm"] == norm
    for row in rows_of(store):
        given = np.array(values[row["example_id"]])
        targets = [v for v in row["importance"] if v is not None]
        assert targets == pytest.approx(normalise(given, np.array([0, len(given)]), norm), abs=1e-6)


def edited(change):
    def apply(values):
        name = list(values)[2]
        values[name] = change(values[name])
        return values

    return apply


FOREIGN = "atlas/forget/999"
WRONG = {
    "one too few": (edited(lambda v: v[:-1]), r"has \d+ values, expected \d+, one a token, or \d+, one a target token"),
    "one too many": (edited(lambda v: [*v, 0.5]), "one a token, or"),
    "null": (edited(lambda v: [*v[:-1], None]), r"has null, NaN or infinity at token \d+, which is a target; expected a number"),
    "NaN": (edited(lambda v: [*v[:-1], float("nan")]), "has null, NaN or infinity at token"),
    "infinity": (edited(lambda v: [*v[:-1], float("-inf")]), "has null, NaN or infinity at token"),
    "above 1": (edited(lambda v: [*v[:-1], 1.5]), "has values from .* to 1.5, expected 0 to 1"),
    "below 0": (edited(lambda v: [*v[:-1], -0.5]), "has values from -0.5 to"),
    "a null list": (edited(lambda v: None), "has 0 values, expected"),
    "a row missing": (lambda values: dict(list(values.items())[1:]), "has 4 rows, the store .* has 5 examples; write one for each"),
    "a row too many": (lambda values: {**values, FOREIGN: [0.5]}, "has 6 rows, the store .* has 5 examples"),
    "another row": (lambda values: {**dict(list(values.items())[1:]), FOREIGN: [0.5]}, "no row for the example atlas/forget/"),
}


@pytest.mark.parametrize("case", WRONG)
def test_values_that_do_not_fit_are_refused_and_nothing_is_written(store, recipe, tmp_path, case):
    change, problem = WRONG[case]
    path, before = write(tmp_path / "own.parquet", change(own(store))), contents(store)
    assert re.search(rf"^error: {re.escape(str(path))}: .*{problem}", recipe("--importance", path, code=2))
    assert contents(store) == before


def test_off_target_nothing_is_read(store, recipe, tmp_path):
    rows = {row["example_id"]: row["is_target"] for row in rows_of(store)}
    values = {name: [v if t else None for v, t in zip(each, rows[name], strict=True)] for name, each in own(store).items()}
    recipe("--importance", write(tmp_path / "own.parquet", values))
    loud = {name: [v if t else 99.0 for v, t in zip(each, rows[name], strict=True)] for name, each in own(store).items()}
    before = {n: d for n, d in contents(store).items() if n.startswith("part-")}
    recipe("--importance", write(tmp_path / "loud.parquet", loud))
    assert {n: d for n, d in contents(store).items() if n.startswith("part-")} == before


def twice(store):
    values = own(store)
    names = list(values)
    return pa.table({"example_id": [names[0], *names[:-1]], "importance": list(values.values())})


FILES = {
    "no such column": lambda s: pa.table({"example_id": list(own(s)), "importanec": list(own(s).values())}),
    "no ids": lambda s: pa.table({"importance": list(own(s).values())}),
    "numbers": lambda s: pa.table({"example_id": list(own(s)), "importance": [0.5] * 5}),
    "lists of text": lambda s: pa.table({"example_id": list(own(s)), "importance": [["a"]] * 5}),
    "ids of numbers": lambda s: pa.table({"example_id": list(range(5)), "importance": list(own(s).values())}),
    "an id twice": twice,
    "a null id": lambda s: pa.table({"example_id": [None, *list(own(s))[1:]], "importance": list(own(s).values())}),
    "too many values": lambda s: pa.table({"example_id": list(own(s)), "importance": [[0.5] * 5000] * 5}),
    "no Parquet": b"PAR1 is it not",
    "cut": "cut",
    "empty": b"",
    "a flipped page": "flipped",
}
SAYS = {
    "no such column": "no column 'importance' (did you mean 'importanec'?)", "no ids": "no column 'example_id'",
    "numbers": "holds double, expected lists of numbers", "lists of text": "expected lists of numbers",
    "ids of numbers": "its column example_id holds int64, expected text", "an id twice": "or stands there twice",
    "a null id": "its example_id is null somewhere", "too many values": "holds more values than the store's",
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_column_of_importance_is_one_line(store, recipe, tmp_path, case):
    path, made = tmp_path / "own.parquet", FILES[case]
    if callable(made):
        pq.write_table(made(store), path)
    elif isinstance(made, bytes):
        path.write_bytes(made)
    else:
        ids = list(own(store))
        table = pa.table({"example_id": ids, "importance": list(own(store).values())})
        pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
        data = bytearray(path.read_bytes())
        data[data.index(ids[2].encode())] ^= made == "flipped"
        path.write_bytes(data[:-40] if made == "cut" else data)
    before, said = contents(store), recipe("--importance", path, code=2)
    assert said.startswith(f"error: {path}: {'' if case in SAYS else 'not a readable Parquet file'}") and SAYS.get(case, "") in said
    assert contents(store) == before


def test_a_few_bytes_that_unpack_to_much_are_refused(store, recipe, tmp_path):
    path = tmp_path / "own.parquet"
    names = [name + "x" * 10**8 * (k == 0) for k, name in enumerate(own(store))]
    pq.write_table(pa.table({"example_id": names * 1, "importance": [[0.5]] * 5}), path, compression="zstd", use_dictionary=False)
    said = recipe("--importance", path, code=2)
    assert path.stat().st_size < 10**6 and ("unpack to" in said or "no row for" in said)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("missing.parquet",), "--importance missing.parquet: cannot be read: No such file or directory"),
        (("own.csv",), "--importance own.csv: expected FILE.parquet or FILE.parquet:COLUMN"),
        (("own.parquet", "--recipe", "alpha=1"), "stands in place of a recipe; of its fields it takes norm alone"),
        (("own.parquet", "--set", "unit=word"), "takes norm alone"),
    ],
)
def test_what_cannot_be_meant_is_one_line(recipe, arguments, problem):
    assert problem in recipe("--importance", *arguments, code=2)


def test_importance_of_ones_own_is_trained_inspected_and_compared(store, recipe, tmp_path, run_cli, tiny_model):
    path = write(tmp_path / "own.parquet", own(store))
    recipe("--importance", path)
    code, out, err = run_cli("tu-score", "agree", store, "--model", tiny_model, "--json")
    assert code == 0 and json.loads(out)["recipe"].startswith("column 'importance' of a file"), err
    code, out, err = run_cli("tu-score", "inspect", store, "--html", tmp_path / "page.html")
    assert code == 0 and "of a file (sha256" in (tmp_path / "page.html").read_text(encoding="utf-8"), err
    code, out, err = run_cli("tu-train", "run", "--model", tiny_model, "--scores", store, "--retain", "none", "--tokens", "soft",
                             "--epochs", 1, "--device", "cpu", "--out", tmp_path / "out")  # fmt: skip
    assert code == 0, err


@pytest.mark.parametrize("scope", [(), ("--set", "scope=store")])
def test_a_store_that_lost_a_part_is_mended_by_the_runs_own_recipe(run_cli, tiny_model, tmp_path, scope):
    folder = tmp_path / "store"
    assert scored(run_cli, tiny_model, folder, *scope)[0] == 0
    whole = {p.name: p.read_bytes() for p in folder.glob("part-*")}
    assert len(whole) > 1
    path = write(tmp_path / "own.parquet", own(folder))
    assert run_cli("tu-score", "recipe", folder, "--importance", path)[0] == 0
    (folder / "part-00001.parquet").unlink()
    code, _, err = scored(run_cli, tiny_model, folder, *scope)
    assert code == 0 and "its importance came from a file of your own" in err, err
    assert {p.name: p.read_bytes() for p in folder.glob("part-*")} == whole
    assert "importance_file" not in open_store(folder).manifest["recipe"]
    assert run_cli("tu-score", "recipe", folder, "--importance", path)[0] == 0
