"""Makes tests/golden: small outputs of every command, kept so that later versions open and resume them.

    python -m benchmarks.golden tests/golden

Run once, at the commit whose formats are to be kept, and not again when a test on these files fails: then the reader is
wrong, not the files. All paths inside are relative to world/, and one thread computes, so that another machine of the
same kind gives the same bits.

    world/           models, data, a score store, a training, a study, results of every kind, kept measurements; and,
                     ending in .half, a store and three trainings that were killed half-way
    expected/        what the same version makes of them: the models that the killed trainings end with, the table of a
                     comparison
    expected.json    the machine, and the hashes of all that was resumed
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.golden_commands import COMPARE, EVAL, MADE, RESUME, RESUMED, RETAIN, STUDY, SUITE, TASK
from benchmarks.hostile import trials, world
from benchmarks.hostile.trials import Trial, call, run_command
from benchmarks.hostile.writers import stub_judge
from shared.data import atlas
from shared.files.fs import hash_file

KILLED = 9
WORLD_SIZE = atlas.AtlasSize(people=4, facts_per_person=3, forget_people=2, holdout_people=1)
KILLS = (
    ("shared.store.writer", "Writer.write_part", 8, "scores.half"),
    ("tu_train.saving.working_folder", "save_snapshot", 2, "tuned.half"),
    ("tu_train.saving.working_folder", "save_snapshot", 2, "after.half"),
    ("tu_train.saving.working_folder", "save_snapshot", 1, "landed.half"),
    ("tu_train.many.run", "_write_index", 2, "many"),
)
"""module, the function behind whose n-th call the process is gone, n, folder. Six parts of the base model's scores come
first, then two of the store's own; the index is written before the first run and after it"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for world, expected and expected.json, which must not be there yet")
    out = parser.parse_args().out.resolve()
    trials.prepare()
    make(out / "world")
    found = expect(out)
    (out / "expected.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    files = [path for path in out.rglob("*") if path.is_file()]
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files)} bytes")


def make(folder: Path) -> None:
    """The world, by the commands."""
    folder.mkdir(parents=True)
    _call(lambda: world.tiny_model(folder / "start", width=16), folder)
    world.rows(folder)
    _write(folder / "holdout.jsonl", atlas.rows("holdout", WORLD_SIZE))
    _corpus(folder / "muse" / "News")
    for name, text in (("suite.toml", SUITE), ("study.toml", STUDY), ("tasks/own.yaml", TASK)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    os.environ["TU_MUSE_DIR"] = "muse"
    judge = stub_judge()
    run(("tu-eval", "key", "key.pem"), folder)
    for name, command in MADE.items():
        signed = ("--sign", "key.pem") if name == "evidence" else ()
        run((*command, *signed, "--out", name), folder)
    os.kill(judge, 9)
    os.waitpid(judge, 0)
    said = run(("tu-score", "agree", "scores", "--model", "model", "--json"), folder)
    (folder / "agreement.json").write_text(said[said.index("{") :])
    for module, name, calls, out in KILLS:
        _call(lambda m=module, n=name, k=calls, o=out: _killed(m, n, k, o, folder), folder, code=KILLED)
    (finished,) = (folder / "many").glob("*/training.json")
    run((*EVAL, "--model", f"many/{finished.parent.name}", *RETAIN, "--out", f"many/{finished.parent.name}/results"), folder)
    for left in [folder / "said", folder / "key.pem", *folder.rglob("_lock"), *folder.rglob(".tmp-*")]:
        left.unlink(missing_ok=True)
    for room in (path for path in folder.glob("*/reserved*") if path.name == "reserved-beside" or path.parent.name[0] != "a"):
        room.unlink()  # zeros that keep room on the disk: the two small ones of one training are enough


def expect(out: Path) -> dict[str, object]:
    """Compares, and resumes what was killed, in a copy; fills the folder `expected`.

    -> the machine, and the hashes of what was made.
    """
    copy, kept = out / "copy", out / "expected"
    shutil.copytree(out / "world", copy)
    kept.mkdir()
    run(COMPARE, copy)
    for name, command in RESUMED.items():
        run((*command, *RESUME.get(name, ()), "--out", name), copy)
    models = [copy / name / "model.safetensors" for name in RESUME]
    for path in models:
        shutil.copy(path, kept / f"{path.parent.name}.safetensors")
    for name in ("compare.csv", "compare.md"):
        shutil.copy(copy / name, kept)
    made = [*sorted((copy / "scores.half").glob("*.parquet")), *models, *(copy / "many").glob("graddiff*/model.safetensors")]
    hashes = {path.relative_to(copy).as_posix(): hash_file(path) for path in made}
    shutil.rmtree(copy)
    return {"machine": machine(), "sha256": hashes}


def machine() -> list[str]:
    """On what the last bit of a forward pass may depend: the processor and the packages."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else [platform.processor()]
    processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), lines[0])
    return [processor, *(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "pyarrow"))]


def run(command: Sequence[str], folder: Path) -> str:
    """-> what the command said. Raises RuntimeError with that when it fails."""
    outcome = Trial(command, folder / "said", cwd=folder, seconds=600).end()
    if outcome.code:
        raise RuntimeError(f"{' '.join(command)}: exit code {outcome.code}: {outcome.said}")
    print(" ".join(command))
    return outcome.said


def _call(function: Callable[[], object], folder: Path, *, code: int = 0) -> None:
    outcome = call(function, folder / "said")
    if outcome.code != code:
        raise RuntimeError(f"exit code {outcome.code}, expected {code}: {outcome.said}")


def _killed(module: str, name: str, calls: int, out: str, folder: Path) -> None:
    """The command that makes `out`, in a process that is gone without a word behind the n-th call of a function."""
    *path, last = name.split(".")
    holder, seen = functools.reduce(getattr, path, importlib.import_module(module)), []
    real = getattr(holder, last)

    def counted(*given: object, **more: object) -> None:
        real(*given, **more)
        seen.append(None)
        if len(seen) == calls:
            os._exit(KILLED)

    setattr(holder, last, counted)
    sys.argv = [*RESUMED[out], "--out", out]
    os.chdir(folder)
    run_command()


def _write(path: Path, rows: Iterable[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _corpus(folder: Path) -> None:
    """MUSE's splits, of two or three rows each."""
    forget, retain, unseen = (list(atlas.rows(split, WORLD_SIZE))[:3] for split in ("forget", "retain", "holdout"))
    asked = {"forget_qa": forget[:2], "forget_qa_icl": forget[2:], "retain_qa": retain[:2], "retain_qa_icl": retain[2:]}
    for name, rows in asked.items():
        _write(folder / "knowmem" / f"{name}.jsonl", [{"question": row["question"], "answer": row["answer"]} for row in rows])
    _write(folder / "verbmem" / "forget.jsonl", [{"prompt": row["question"], "gt": row["answer"]} for row in forget])
    for name, rows in (("forget", forget), ("holdout", unseen)):
        _write(folder / "privleak" / f"{name}.jsonl", [{"text": row["answer"]} for row in rows])


if __name__ == "__main__":
    main()
