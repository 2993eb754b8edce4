"""Do intervals hold the truth as often as they say where rows of one author are alike?

    python -m benchmarks.intervals

Worlds with a known truth: each author has a level of their own around the true mean, each row one around its author's;
`within` is the share of the variance that lies between authors. Prints the share of worlds in which the 95 % interval
of tu_eval/compare/intervals.py holds the true mean, with clusters and without.
"""

from __future__ import annotations

import math

import numpy as np

from tu_eval.compare.intervals import over_rows

TRUE, SPREAD = 0.5, 0.1


def coverage(*, worlds: int, authors: int, rows: int, within: float, seed: int) -> tuple[float, float]:
    """-> of the intervals over clusters, and over rows."""
    rng = np.random.default_rng(seed)
    held = np.zeros(2)
    for _ in range(worlds):
        level = rng.normal(0, SPREAD * math.sqrt(within), authors)
        values = TRUE + np.repeat(level, rows) + rng.normal(0, SPREAD * math.sqrt(1 - within), authors * rows)
        metrics = {"forget_x": float(values.mean())}
        for k, named in enumerate((True, False)):
            made = [{"x": float(v), "cluster": str(i // rows) if named else None} for i, v in enumerate(values)]
            low, high = over_rows({"forget": made}, metrics, [])["forget_x"]
            held[k] += low <= TRUE <= high
    clustered, plain = held / worlds
    return float(clustered), float(plain)


def main() -> None:
    print("authors  rows  between authors  clustered  plain")
    for authors, rows, within in ((4, 20, 0.3), (6, 10, 0.3), (10, 20, 0.3), (20, 20, 0.3), (20, 20, 0.0), (60, 10, 0.1)):
        clustered, plain = coverage(worlds=2000, authors=authors, rows=rows, within=within, seed=1)
        print(f"{authors:7}  {rows:4}  {within:15.0%}  {clustered:9.1%}  {plain:5.1%}")


if __name__ == "__main__":
    main()
