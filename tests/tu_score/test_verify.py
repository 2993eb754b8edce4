"""tu-score verify keeps hashes of ids, not ids: what stands twice is found all the same, and nothing else."""

import shutil

import numpy as np
import pyarrow as pa
import pytest

from shared.store.rewrite import rewrite
from shared.store.scores import open_store
from tu_score import verify
from tu_score.config import ScoreConfig
from tu_score.run import run_score

DATA = "atlas:full:people=6,facts_per_person=3,forget_people=2,language=es"


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model):
    out = tmp_path_factory.mktemp("made") / "store"
    return run_score(ScoreConfig(model=str(tiny_model), data=DATA, out=str(out), part_tokens=150, engine="torch", device="cpu"))


def renamed(store, changes: dict[str, str]):
    def change(table: pa.Table) -> pa.Table:
        ids = [changes.get(name, name) for name in table["example_id"].to_pylist()]
        return table.set_column(0, table.schema.field(0), pa.array(ids, table.schema.field(0).type))

    rewrite(open_store(store), change)


@pytest.mark.parametrize("piece", [1, 3, 2**20])
@pytest.mark.parametrize("hashing", ["sha256", "all alike"])
def test_ids_that_stand_twice_are_named_with_their_part(piece, hashing, made, tmp_path, run_cli, monkeypatch):
    monkeypatch.setattr(verify, "PIECE", piece)
    if hashing == "all alike":
        monkeypatch.setattr(verify, "_hashes", lambda ids: np.zeros(len(list(ids)), dtype=np.uint64))
    store = shutil.copytree(made, tmp_path / "store")
    assert run_cli("tu-score", "verify", store)[0] == 0
    opened = open_store(store)
    parts = [[row["example_id"] for row in opened.part(index)] for index in range(len(opened.manifest["parts"]))]
    assert len(parts) > 4
    first, second = parts[0][0], parts[1][0]
    renamed(store, {parts[-1][-1]: first, parts[2][0]: first, parts[3][0]: second})
    code, out, err = run_cli("tu-score", "verify", store)
    said = [line for line in out.splitlines() if "twice" in line]
    assert code == 2 and "3 problems found" in err
    assert said == [
        f"{store}/{opened.manifest['parts'][index]['file']}: {name}: the id stands in the store twice"
        for index, name in ((2, first), (3, second), (len(parts) - 1, first))
    ]
