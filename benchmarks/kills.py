"""Scoring runs killed at random moments and given again until they are done: is every byte that of a run left alone?

    python -m benchmarks.kills [--kills 10] [--actors 20] [--gone 5] [--seed 0] > kills.json

On a folder, as four shards that are merged, and on an S3 server on loopback (moto's, of the extra `dev`); then on the
server with two Ray workers, where workers are killed and the server goes away too while the runs go on. Prints JSON:
for each way, how often what was killed, how often the bytes were compared, and how many parts were written again after
their record stood. Exits with 1 where a byte differed or a part was written again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from shared.lm.smollm2 import smollm2_folder
from tests.s3 import ADMIN, S3Server

DATA = "atlas:full:people=120,facts_per_person=5,forget_people=20"
LIMIT_S = 900
SOONEST_S, WORKERS_SOONEST_S = 2.0, 8.0
"""from the start of a command: packages, and Ray's own processes"""
Start = Callable[[], subprocess.Popen]


def tiny_model(folder: Path) -> Path:
    """A small random model with a real tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    AutoTokenizer.from_pretrained(smollm2_folder()).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=49152)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def sorted_out(files: dict[str, bytes]) -> dict[str, Any]:
    """What has to be the same: all but the manifest's time, the hash over it, and the settings' own places."""
    out: dict[str, Any] = dict(files)
    manifest = json.loads(out.pop("_manifest.json"))
    settings = out.pop("_config.toml").decode().splitlines()
    apart, own = ("created_at", "manifest_sha256"), ("out =", "workers =", "shard =")
    out["manifest"] = {k: v for k, v in manifest.items() if k not in apart}
    out["settings"] = [line for line in settings if not line.startswith(own)]
    return out


def of_folder(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def written_again(asked: list[str]) -> list[str]:
    """Parts that were put although their record stood; from the requests of one store, in order, before the pass that
    writes every part a second time, with its importance."""
    standing, again = set(), []
    for request in itertools.takewhile(lambda request: "/_next/" not in request, asked):
        part = re.search(r"PUT .*part-(\d+)\.parquet", request)
        record = re.search(r"PUT .*_progress/(\d+)\.json", request)
        if part and part[1] in standing:
            again.append(request)
        if record:
            standing.add(record[1])
    return again


class Runs:
    """Commands in a folder of their own, killed at moments that are drawn from one seed."""

    def __init__(self, work: Path, seed: int):
        self.work, self.dice, self.model = work, random.Random(seed), tiny_model(work / "model")
        self.log = (work / "log").open("w")
        begun = time.monotonic()
        self.finish(lambda: self.score(work / "whole"))
        self.seconds = time.monotonic() - begun
        self.whole = sorted_out(of_folder(work / "whole"))

    def command(self, *words: object) -> subprocess.Popen:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-m", "tu_score", *map(str, words)], env=environment, stdout=self.log, stderr=self.log)

    def score(self, out: object, *more: object) -> subprocess.Popen:
        fixed = ("--model", self.model, "--data", DATA, "--set", "part_tokens=256", "--engine", "torch", "--device", "cpu", "--out", out)
        return self.command("run", *fixed, *more)

    def finish(self, start: Start) -> int:
        """Given again until it is done; how often it ended with an error (a server that was away for too long)."""
        for failed in range(20):
            if start().wait(LIMIT_S) == 0:
                return failed
        raise RuntimeError(f"20 commands in a row ended with an error, see {self.work / 'log'}")

    def killed(self, start: Start, wanted: int, soonest: float = SOONEST_S) -> int:
        """Kills at most `wanted` times before the end, each between `soonest` seconds and half of a whole run later,
        then lets it run; how often it was killed."""
        kills = 0
        while kills < wanted:
            process = start()
            try:
                if process.wait(soonest + self.dice.random() * self.seconds / 2) == 0:
                    return kills
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
        self.finish(start)
        return kills

    def until(self, wanted: int, once: Callable[[int, int], int]) -> dict[str, int]:
        """`once(k, kills left)`, each time in a new place, until as many were killed as wanted."""
        kills = stores = 0
        while kills < wanted:
            kills += once(stores, wanted - kills)
            stores += 1
        return {"kills": kills, "stores": stores}

    def same(self, files: dict[str, bytes], where: object) -> None:
        found = sorted_out(files)
        if found != self.whole:
            named = sorted(k for k in found.keys() | self.whole.keys() if found.get(k) != self.whole.get(k))
            sys.exit(f"{where}: {', '.join(named)} differ from those of a run left alone")


def on_a_folder(runs: Runs, wanted: int) -> dict[str, int]:
    def once(k: int, left: int) -> int:
        out = runs.work / f"folder{k}"
        kills = runs.killed(lambda: runs.score(out), left)
        runs.same(of_folder(out), out)
        return kills

    return runs.until(wanted, once)


def as_shards(runs: Runs, wanted: int) -> dict[str, int]:
    def once(k: int, left: int) -> int:
        out, kills = runs.work / f"shards{k}", 0
        for number in range(1, 5):
            kills += runs.killed(lambda n=number: runs.score(out, "--shard", f"{n}/4"), min(2, left - kills))
        kills += runs.killed(lambda: runs.command("merge", out), min(2, left - kills))
        runs.same(of_folder(out), out)
        return kills

    return runs.until(wanted, once)


def on_s3(runs: Runs, wanted: int, server: S3Server) -> dict[str, int]:
    again: list[str] = []

    def once(k: int, left: int) -> int:
        server.asked.clear()
        kills = runs.killed(lambda: runs.score(f"s3://kills/one{k}"), left)
        runs.same(server.contents("kills", f"one{k}"), f"s3://kills/one{k}")
        again.extend(written_again(server.asked))
        return kills

    return {**runs.until(wanted, once), "written_again": len(again)}


class Trouble:
    """Beside a run: kills workers of it, and takes the server away for a while, until both were done often enough."""

    def __init__(self, runs: Runs, server: S3Server, actors: int, gone: int):
        self.dice, self.server = random.Random(runs.dice.random()), server
        self.left = ["actor"] * actors + ["server"] * gone
        self.dice.shuffle(self.left)
        self.driver: subprocess.Popen | None = None
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._go_on, daemon=True)
        self.thread.start()

    def _go_on(self) -> None:
        while self.left and not self.over.wait(1 + 4 * self.dice.random()):
            actors = self._actors()
            if actors and self.left[-1] == "actor":
                self.dice.choice(actors).kill()
                self.left.pop()
            elif actors:
                self.server.stop()
                time.sleep(2 * self.dice.random())
                self.server.start()
                self.left.pop()

    def _actors(self) -> list[psutil.Process]:
        try:
            below = psutil.Process(self.driver.pid).children(recursive=True) if self.driver else []
            named = [(child, " ".join(child.cmdline())) for child in below]
        except psutil.Error:
            return []
        return [child for child, words in named if words.startswith("ray::") and "IDLE" not in words]


def with_workers(runs: Runs, wanted: int, server: S3Server, actors: int, gone: int) -> dict[str, int]:
    again: list[str] = []
    trouble = Trouble(runs, server, actors, gone)

    def once(k: int, left: int) -> int:
        server.asked.clear()

        def start() -> subprocess.Popen:
            trouble.driver = runs.score(f"s3://kills/many{k}", "--workers", "2")
            return trouble.driver

        kills = runs.killed(start, min(left, 2), WORKERS_SOONEST_S)
        runs.same(server.contents("kills", f"many{k}"), f"s3://kills/many{k}")
        again.extend(written_again(server.asked))
        print(f"store {k}: {kills} kills of the driver, {len(trouble.left)} other troubles left", file=sys.stderr)
        return kills

    found = runs.until(wanted, once)
    while trouble.left:
        once(found["stores"], 0)
        found["stores"] += 1
    trouble.over.set()
    trouble.thread.join()
    return {**found, "actors": actors, "server_gone": gone, "written_again": len(again)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Kills at random moments, and the bytes that follow (docs/scale.md).")
    parser.add_argument("--kills", type=int, default=10, help="of the command, in each way of running")
    parser.add_argument("--actors", type=int, default=20, help="kills of Ray workers")
    parser.add_argument("--gone", type=int, default=5, help="times that the server goes away")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    server = S3Server()
    os.environ.update({**ADMIN, "AWS_ENDPOINT_URL": server.url, "AWS_EC2_METADATA_DISABLED": "true", "HF_HUB_OFFLINE": "1"})
    server.bucket("kills")
    runs = Runs(Path(tempfile.mkdtemp()), given.seed)
    found = {"folder": on_a_folder(runs, given.kills), "shards": as_shards(runs, given.kills)}
    found["s3"] = on_s3(runs, given.kills, server)
    found["workers_on_s3"] = with_workers(runs, given.kills, server, given.actors, given.gone)
    server.close()
    print(json.dumps({**found, "parts": len(runs.whole["manifest"]["parts"])}, indent=2))
    if found["s3"]["written_again"] or found["workers_on_s3"]["written_again"]:
        sys.exit("parts were written again although their record stood")


if __name__ == "__main__":
    main()
