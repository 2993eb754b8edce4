"""Two finished score stores of the same data, token by token; with --model also against a plain transformers forward in
float32.

    python benchmarks/engines_agree.py STORE_A STORE_B [--model smollm2]

Prints the largest and mean difference of log-probability and entropy, nats; exits with 1 beyond 2e-4 (largest) or 5e-5
(mean).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from shared.errors import StoreError, UserError
from shared.lm.models import load_model, locate
from shared.store.scores import open_store

LARGEST, MEAN = 2e-4, 5e-5
SIGNALS = ("logprob", "entropy")
Row = tuple[str, list[int], dict[str, np.ndarray]]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stores", nargs=2, metavar="STORE")
    parser.add_argument("--model", help="the scored model, for a plain forward pass over every row")
    arguments = parser.parse_args()
    try:
        first, second = ({row[0]: row for row in stored(Path(folder))} for folder in arguments.stores)
        agree = compare(f"{arguments.stores[0]} | {arguments.stores[1]}", first, second)
        if arguments.model:
            plain = {row[0]: row for row in forward(arguments.model, first)}
            for folder, rows in zip(arguments.stores, (first, second), strict=True):
                agree &= compare(f"{folder} | transformers", rows, plain)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if agree else 1


def stored(folder: Path) -> Iterator[Row]:
    """Signals of every token but the first of a row, which no distribution speaks of."""
    for row in open_store(folder).rows():
        yield row["example_id"], list(row["input_ids"]), {s: np.array(row[s][1:], dtype=np.float64) for s in SIGNALS}


def forward(name: str, rows: dict[str, Row]) -> Iterator[Row]:
    model = load_model(locate(name), dtype=torch.float32, device=torch.device("cpu"))
    for key, ids, _ in rows.values():
        with torch.inference_mode():
            logp = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
        target = logp.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        yield key, ids, {"logprob": target.numpy(), "entropy": -(logp.exp() * logp).sum(-1).numpy()}


def compare(title: str, first: dict[str, Row], second: dict[str, Row]) -> bool:
    """Prints a line a signal. Raises StoreError when the two do not hold the same rows and tokens."""
    if {k: r[1] for k, r in first.items()} != {k: r[1] for k, r in second.items()}:
        raise StoreError(f"{title}: not the same examples and tokens; score the same --data with the same tokenizer")
    print(title)
    good = True
    for signal in SIGNALS:
        gaps = np.concatenate([np.abs(first[k][2][signal] - second[k][2][signal]) for k in first])
        fits = bool(gaps.max() <= LARGEST and gaps.mean() <= MEAN)
        good &= fits
        print(f"  {signal:8} largest {gaps.max():.2e}  mean {gaps.mean():.2e}  nats, {len(gaps):,} tokens  {'ok' if fits else 'TOO FAR'}")
    return good


if __name__ == "__main__":
    sys.exit(main())
