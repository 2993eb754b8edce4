"""Streams a large synthetic store as training does, every byte hashed and every page checksum verified: tokens/s and
growth of memory.

    python benchmarks/read_store.py [--tokens 50000000]

Prints one JSON object: read_tokens_per_s (columns of training), read_all_tokens_per_s (all columns), read_rss_growth_mb
(resident memory at its highest while reading, less that after the first part, MB of 10^6 bytes), and how the store was
made.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shared.files.fs import hash_json
from shared.store.parts import SCHEMA, TOKEN_COLUMNS
from shared.store.scores import Store, open_store
from shared.store.writer import Writer
from tu_train.data.batches import READ

ROW_TOKENS, PROMPT_TOKENS, PART_TOKENS, VOCABULARY = 128, 40, 65_536, 49_152
VARIANTS = 8
"""different parts; the store repeats them, with ids of their own"""


def part(generator: np.random.Generator) -> dict[str, pa.Array]:
    """The columns of a part but its ids: rows of ROW_TOKENS tokens, values of the kind and spread that scoring
    gives."""
    rows = PART_TOKENS // ROW_TOKENS
    at = np.tile(np.arange(ROW_TOKENS), rows)
    ids = (VOCABULARY * generator.random(len(at)) ** 3).astype(np.int32)
    words = np.array([f" w{i:x}" for i in range(VOCABULARY)], dtype=object)
    target = at >= PROMPT_TOKENS

    def floats(values: np.ndarray, there: np.ndarray) -> pa.Array:
        return pa.array(values.astype(np.float32), mask=~there)

    surprise = generator.gamma(0.5, 2.0, (6, len(at)))
    columns = {
        "input_ids": pa.array(ids),
        "tokens": pa.array(words[ids], pa.string()),
        "is_target": pa.array(target),
        "logprob": floats(-surprise[0], at > 0),
        "entropy": floats(surprise[1], at > 0),
        "delta": floats(surprise[2] - surprise[0], target),
        "delta_mean": floats((surprise[2] - surprise[0]) / 2, target),
        "masked_entropy": floats(surprise[3], target),
        "base_logprob": floats(-surprise[4], at > 0),
        "base_entropy": floats(surprise[5], at > 0),
        "delta_span": pa.array(generator.integers(0, 8, len(at)).astype(np.int32), mask=~target),
        "importance": floats(generator.random(len(at)), target),
    }
    assert set(columns) == set(TOKEN_COLUMNS)
    offsets = pa.array(np.arange(0, len(at) + 1, ROW_TOKENS, dtype=np.int32))
    lists = {name: pa.ListArray.from_arrays(offsets, values) for name, values in columns.items()}
    starts = np.tile(np.arange(8, 40, 4, dtype=np.int32), rows)
    spans = pa.StructArray.from_arrays([pa.array(starts), pa.array(starts + 4)], fields=list(SCHEMA.field("spans").type.value_type))
    lists["spans"] = pa.ListArray.from_arrays(pa.array(np.arange(0, 8 * rows + 1, 8, dtype=np.int32)), spans)
    return lists


def write(folder: Path, tokens: int) -> Store:
    generator = np.random.default_rng(0)
    variants = [part(generator) for _ in range(VARIANTS)]
    writer, rows = Writer(folder, {"fingerprints": {"data": hash_json(tokens)}}), PART_TOKENS // ROW_TOKENS
    for index in range(-(-tokens // PART_TOKENS)):
        names = pa.array([f"synthetic/{index * rows + k}" for k in range(rows)])
        columns = {"example_id": names, **variants[index % VARIANTS]}
        writer.write_part(index, pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA))
    writer.finish()
    return open_store(folder)


def rss() -> int:
    """Resident bytes now."""
    with open("/proc/self/statm") as handle:
        return int(handle.read().split()[1]) * resource.getpagesize()


def stream(store: Store, columns: Sequence[str] | None) -> dict[str, Any]:
    """Reads every part once. Memory counts from after the first part: what the reader itself needs is there by then."""
    first = highest = tokens = 0
    start = time.perf_counter()
    for table in store.batches(columns):
        tokens += sum(len(chunk.flatten()) for chunk in table["input_ids"].chunks)
        highest = max(highest, rss())
        first = first or highest
    seconds = time.perf_counter() - start
    assert tokens == store.manifest["tokens"]
    return {"tokens_per_s": tokens / seconds, "growth_mb": (highest - first) / 1e6}


def run(tokens: int = 50_000_000) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        store = write(Path(folder) / "store", tokens)
        seconds = time.perf_counter() - start
        size = sum(p["bytes"] for p in store.manifest["parts"])
        training, everything = stream(store, READ), stream(store, None)
        return {
            "read_tokens_per_s": round(training["tokens_per_s"]),
            "read_all_tokens_per_s": round(everything["tokens_per_s"]),
            "read_rss_growth_mb": round(max(training["growth_mb"], everything["growth_mb"]), 1),
            "read_store_tokens": store.manifest["tokens"],
            "read_store_bytes_per_token": round(size / store.manifest["tokens"], 1),
            "write_tokens_per_s": round(store.manifest["tokens"] / seconds),
            "cores": os.cpu_count(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=50_000_000)
    print(json.dumps(run(parser.parse_args().tokens), indent=2))


if __name__ == "__main__":
    main()
