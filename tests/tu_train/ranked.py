"""Several processes of one training run on this machine, as torchrun starts them.

`python -m tests.tu_train.ranked FOLDER` is what each of them does for most tests: every run of FOLDER/runs.json, one
after another, so that starting them is paid for once. What a run leaves is FOLDER/NUMBER.pt.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.ports import free_port

PATIENCE_S = 300
"""for all that is started at a time, on a machine that may stand still for a minute"""


def start(count: int, arguments: list[object], folder: Path, changed: dict[int, dict[str, str]] | None = None) -> list[subprocess.Popen]:
    """`count` ranks of `python -m ARGUMENTS`; what they say goes to folder/rank-N. `changed`: environment of a rank."""
    port = free_port()
    folder.mkdir(exist_ok=True)
    made = []
    for rank in range(count):
        env = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
               "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", **(changed or {}).get(rank, {})}  # fmt: skip
        with open(folder / f"rank-{rank}", "w") as said:
            made.append(subprocess.Popen([sys.executable, "-m", *map(str, arguments)], env=env, stdout=said, stderr=said))
    return made


def wait(processes: list[subprocess.Popen], patience: float = PATIENCE_S) -> list[int]:
    """-> exit codes; what does not end is killed."""
    try:
        return [process.wait(patience) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()


def said(folder: Path) -> list[str]:
    """By each rank."""
    return [path.read_text() for path in sorted(folder.glob("rank-*"))]


def begin(count: int, runs: list[dict], folder: Path) -> list[subprocess.Popen]:
    """Every run on that many ranks."""
    folder.mkdir(exist_ok=True)
    (folder / "runs.json").write_text(json.dumps(runs))
    return start(count, ["tests.tu_train.ranked", folder], folder)


def trained(fields: dict[str, Any], folder: Path, ranks: Any) -> tuple[list[dict], dict[str, Any]] | str:
    """-> the entries of the log, and the weights that trained; or the error. `fields`: of UnlearnConfig, or of
    FinetuneConfig where they name data."""
    import torch

    from shared.errors import UserError
    from tu_train.config import FinetuneConfig, UnlearnConfig
    from tu_train.gather import gather_finetuning, gather_unlearning
    from tu_train.load import load, with_answers
    from tu_train.loop import train
    from tu_train.model.sharded import gathered
    from tu_train.plan import check_ranks, plan_finetuning, plan_unlearning

    given = {"out": "", **{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}}
    log = folder / "log.jsonl" if ranks.leads else None
    try:
        if "data" in given:
            learned = FinetuneConfig(**given)
            plan = plan_finetuning(learned, gather_finetuning(learned))
        else:
            config = UnlearnConfig(**given).filled()
            plan = plan_unlearning(config, gather_unlearning(config))
        check_ranks(plan, ranks.count)
        loaded = load(plan, ranks)
        plan = with_answers(plan, loaded.packed)
        train(loaded.packed, plan.stream, plan.steps, plan.objective, plan.config, log, reference=loaded.reference,
              evaluation=plan.evaluation, ranks=ranks)  # fmt: skip
    except UserError as error:
        return str(error)
    model = loaded.packed.model
    weights = {name: value.detach().clone() for name, value in gathered((n, p) for n, p in model.named_parameters() if p.requires_grad)}
    entries = [json.loads(line) for line in log.read_text().splitlines()] if log else []
    if log:
        log.unlink()
    assert all(torch.isfinite(value).all() for value in weights.values())
    return entries, weights


def main(folder: Path) -> None:
    import torch

    from tu_train.ranks import joined

    torch.set_num_threads(1)
    with joined() as ranks:
        for number, run in enumerate(json.loads((folder / "runs.json").read_text())):
            try:
                found = trained(run, folder, ranks)
            except Exception:
                print("RUN", run, file=sys.stderr)
                traceback.print_exc()
                raise
            if ranks.leads:
                torch.save(found, folder / f"{number}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
