"""See the package's docstring."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.learning import found, shares
from benchmarks.learning.regression import as_text, figures, learn
from benchmarks.learning.worlds import HELD_OUT, LEARNED, TIMES, Scored, read, score, write_rows
from shared.weighting.learned import NUMBERS, numbers

BASE = "smollm2"
LEARNS = ["--epochs", "3", "--set", "batch_size=4", "--learning-rate", "2e-4", "--dtype", "bfloat16"]
SOME = {
    "prose": 100, "plain": 60, "Spanish": 25, "Arabic": 25, "Chinese": 25, "LUME, retain": 80, "other prose": 40, "other plain": 40,
    "LUME, forget": 40, "TOFU, development": 120,
}  # fmt: skip
"""rows of each world that the target model of `learned_alone` learns, and is scored on"""


def stores(work: Path, model: str, names: list[str]) -> dict[str, Scored]:
    """Worlds under a model that never saw them."""
    out = {}
    for name in names:
        data = write_rows(name, work)
        folder = work / "scores" / Path(model).name / data.stem
        score(data, model, folder)
        out[name] = read(folder, model)
    return out


def learned_by_a_target(work: Path) -> dict[str, Scored]:
    """Some rows of each world under a model that has learned them."""
    data, target = work / "rows" / "target.jsonl", work / "target"
    files = {name: write_rows(name, work, first=count) for name, count in SOME.items()}
    rows = [json.loads(line) for file in files.values() for line in file.read_text(encoding="utf-8").splitlines()]
    data.write_text("".join(json.dumps({k: row[k] for k in ("question", "answer")}) + "\n" for row in rows), encoding="utf-8")
    if not target.exists():
        words = [sys.executable, "-m", "tu_train", "finetune", "--model", BASE, "--data", str(data), *LEARNS, "--out", str(target)]
        subprocess.run([*words, *(["--resume"] if Path(f"{target}.unfinished").exists() else [])], check=True)
    out = {}
    for name, file in files.items():
        folder = work / "scores" / "target" / file.stem
        score(file, str(target), folder)
        out[name] = read(folder, str(target))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn the numbers of shared/weighting/learned.toml.")
    parser.add_argument("--work", type=Path, required=True, help="working folder; what is scored in it is kept")
    parser.add_argument("--check", action="store_true", help="leave the file as it is, and say whether the same is learned")
    parser.add_argument("--model", help="only the tables, of held-out worlds under this base model")
    given = parser.parse_args()
    if given.model:
        worlds = stores(given.work, given.model, list(HELD_OUT))
        print(found.table(f"learned_base, {Path(given.model).name}", measured("learned_base", worlds)))
        return
    plain = stores(given.work, BASE, [*LEARNED, *HELD_OUT])
    owned = learned_by_a_target(given.work)
    teaching, alone = ([worlds[name] for name in worlds if name in LEARNED for _ in range(TIMES.get(name, 1))] for worlds in (plain, owned))
    sets = {"learned_base": teaching, "learned_alone": alone, "learned_text": teaching}
    text = as_text({name: learn(name, worlds) for name, worlds in sets.items()})
    if given.check:
        print("the file is what is learned" if NUMBERS.read_text(encoding="utf-8") == text else "the file is NOT what is learned")
    else:
        NUMBERS.write_text(text, encoding="utf-8")
        numbers.cache_clear()
    names = {"learned_base": plain, "learned_alone": owned, "learned_text": plain}
    results = {name: measured(name, worlds) for name, worlds in names.items()}
    if not given.check:
        found.write(results)
        shares.write(results["learned_base"])
    for name, worlds in results.items():
        print(f"\n{found.table(name, worlds)}")


def measured(name: str, worlds: dict[str, Scored]) -> found.Found:
    return {world: figures(name, scored) for world, scored in worlds.items() if world in HELD_OUT}


if __name__ == "__main__":
    main()
