"""Several processes of one training run on this machine, as torchrun would start them, and what they do: the runs of a
list, one after another, so that starting them is paid for once."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

PATIENCE_S = 300
"""for all runs of a list, on a machine that may stand still for a minute"""


def start(count: int, arguments: list[str], folder: Path, changed: dict[int, dict[str, str]] | None = None) -> list[subprocess.Popen]:
    """`count` ranks of `python -m ARGUMENTS`; what they say goes to folder/rank-N. `changed`: environment of a rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(exist_ok=True)
    made = []
    for rank in range(count):
        env = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
               "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **(changed or {}).get(rank, {})}  # fmt: skip
        with open(folder / f"rank-{rank}", "w") as said:
            made.append(subprocess.Popen([sys.executable, "-m", *arguments], env=env, stdout=said, stderr=said))
    return made


def wait(processes: list[subprocess.Popen], patience: float = PATIENCE_S) -> list[int]:
    """-> exit codes."""
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


def train_on(count: int, runs: list[dict], folder: Path) -> None:
    """Every run on that many ranks. A run: fields of UnlearnConfig, or of FinetuneConfig where it names data."""
    folder.mkdir(exist_ok=True)
    (folder / "runs.json").write_text(json.dumps(runs))
    codes = wait(start(count, ["tests.tu_train.ranked", str(folder / "runs.json")], folder))
    assert codes == [0] * count, "\n".join(said(folder))


def main(path: str) -> None:
    import torch

    from tu_train.config import FinetuneConfig, UnlearnConfig
    from tu_train.run import run_finetune, run_unlearn

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    for run in json.loads(Path(path).read_text()):
        fields = {name: tuple(value) if isinstance(value, list) else value for name, value in run.items()}
        if "data" in run:
            run_finetune(FinetuneConfig(**fields))
        else:
            run_unlearn(UnlearnConfig(**fields))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
