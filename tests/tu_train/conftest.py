"""A tiny model that knows a small atlas, the score store of its forget split, and stores written by hand; each made
once a session."""

import json
from pathlib import Path

import pytest

from shared.store.parts import TOKEN_COLUMNS
from shared.store.scores import Store, open_store
from shared.store.writer import Writer
from shared.weighting.weights import Selection

WORLD = "people=4,facts_per_person=3,forget_people=2,holdout_people=1"
FULL, FORGET, RETAIN = (f"atlas:{split}:{WORLD}" for split in ("full", "forget", "retain"))
ROWS = 6
"""rows of FORGET, and of RETAIN"""


def score(model: Path, out: Path, **fields) -> Path:
    from tu_score.config import ScoreConfig
    from tu_score.run import run_score

    entries = {"data": FORGET, "engine": "torch", "device": "cpu", "part_tokens": 200, **fields}
    return run_score(ScoreConfig(model=str(model), out=str(out), **entries))


@pytest.fixture(scope="session")
def target(tiny_model, tmp_path_factory) -> Path:
    """`tiny_model` after enough fine-tuning on FULL that there is something to forget."""
    from tu_train.config import FinetuneConfig
    from tu_train.run import run_finetune

    out = tmp_path_factory.mktemp("target") / "model"
    return run_finetune(FinetuneConfig(model=str(tiny_model), data=FULL, out=str(out), epochs=10, learning_rate=5e-3, device="cpu"))


@pytest.fixture(scope="session")
def scores(target, tmp_path_factory) -> Path:
    """Score store of FORGET under `target`, in several parts."""
    folder = score(target, tmp_path_factory.mktemp("scores") / "store")
    assert len(open_store(folder).manifest["parts"]) > 1
    return folder


@pytest.fixture
def unlearn(target, scores, tmp_path):
    """`unlearn(**fields)` -> output folder of a short run through the library."""
    from tu_train.config import UnlearnConfig
    from tu_train.run import run_unlearn

    count = 0

    def make(**fields) -> Path:
        nonlocal count
        count += 1
        entries = {
            "model": target, "scores": scores, "retain": RETAIN, "out": tmp_path / f"out-{count}",
            "device": "cpu", "epochs": 2, "batch_size": 3, "learning_rate": 1e-3,
        }  # fmt: skip
        return run_unlearn(UnlearnConfig(**{k: str(v) if isinstance(v, Path) else v for k, v in {**entries, **fields}.items()}))

    return make


def selection(mode: str, *, keep: float, temperature: float) -> Selection:
    """Of the two numbers, the one that the mode uses."""
    used = {"hard": {"keep": keep}, "soft": {"temperature": temperature}}.get(mode, {})
    return Selection(tokens=mode, **used)  # type: ignore[arg-type]


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def write_store(folder: Path, parts: list[list[dict]], plan: dict | None = None) -> Store:
    """A finished store of hand-made rows; columns a row does not name are null."""
    plan = plan or {"fingerprints": {"data": "by hand"}}
    writer, names = Writer(folder, plan), [*TOKEN_COLUMNS, *plan.get("optional", ())]
    for index, rows in enumerate(parts):
        columns: dict[str, list] = {name: [r.get(name, [None] * len(r["input_ids"])) for r in rows] for name in names}
        columns["example_id"] = [r["example_id"] for r in rows]
        columns["spans"] = [r.get("spans", []) for r in rows]
        writer.write_part(index, columns)
    writer.finish()
    return open_store(folder)


def plan_of(store: Store) -> dict:
    """The plan that a copy of a store has to carry to be taken for it."""
    return {
        k: v
        for k, v in store.manifest.items()
        if k in ("options", "fingerprints", "engine", "replacement", "spans", "part_rows", "optional")
    }


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
