"""A results folder: rows.parquet (one row an example a set), summary.json (metrics, and what they belong to),
_config.toml.

Where the suite has a holdout, also membership.parquet (one row a forget and holdout example, a column an attack); for a
TOFU suite also TOFU_EVAL.json, the same numbers in the form of OpenUnlearning.

The folder appears whole or not at all. The summary holds the hashes of the rows and of itself; they are checked on
every read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.config import write_config
from shared.errors import StoreError
from shared.files.fs import atomic_folder, hash_file, hash_json, write_json
from tu_eval.results.folder import ATTACKS, Row
from tu_eval.results.json_file import read_object
from tu_eval.results.open_unlearning import write_log
from tu_eval.results.parquet_file import read_table, require_between, rows_of
from tu_eval.results.shape import check_summary

if TYPE_CHECKING:
    import pyarrow

FORMAT = 1
ROWS, SUMMARY, CONFIG = "rows.parquet", "summary.json", "_config.toml"
MEMBERSHIP, LOG = "membership.parquet", "TOFU_EVAL.json"
IDENTITY = ("suite", "limit", "tokenizer_fingerprint", "template_fingerprint", "data_fingerprint")
"""fields of the summary that two results must share to be compared, the plainest reason first"""
REQUIRED = frozenset({"set", "example_id", "question", "answer"})
"""columns that every version wrote"""
SHARES = ("probability", "probability_options", "rouge_l_recall", "fact_probability", "exact_memorization", "extraction_strength")
RANGES = {
    **dict.fromkeys((*SHARES, "verbmem", "knowmem"), (0.0, 1.0 + 1e-9)), "nll_sum": (-1e-3, math.inf), "target_tokens": (0, 2**31),
    "log_truth_ratio": (-math.inf, math.inf), "truth_ratio": (0.0, math.inf),
}  # fmt: skip
"""columns of rows.parquet -> the least and the most"""


@dataclass(frozen=True)
class Results:
    """A finished evaluation. `summary` is in memory, rows are read when asked for."""

    folder: Path
    summary: dict[str, Any]

    @property
    def label(self) -> str:
        return self.summary["label"]

    def rows(self, name: str | None = None) -> list[dict[str, Any]]:
        """Rows of one set, or of all, in order. Raises StoreError naming the file if it is damaged, or holds what no
        evaluation writes."""
        return [row for row in self._rows if name is None or row["set"] == name]

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        path, counts = self.folder / ROWS, self.summary["rows"]
        rows = read_table(path, schema(self.summary["suite"]), rows=sum(counts.values()), required=REQUIRED)
        if Counter(row["set"] for row in rows) != {name: n for name, n in counts.items() if n}:
            raise StoreError(f"{path}: holds other sets of rows than {SUMMARY} says; evaluate again")
        if any(row[name] is None for row in rows for name in ("example_id", "answer")):
            raise StoreError(f"{path}: has a row without its id or answer; evaluate again")
        require_between(path, rows, RANGES)
        return rows

    def membership(self) -> list[dict[str, Any]]:
        """Membership scores of forget and holdout rows; none where the suite has no holdout, or in results of an older
        version."""
        if not self.summary.get("membership"):
            return []
        path = self.folder / MEMBERSHIP
        forget = self.summary["rows"].get("forget", 0) if not self.summary["suite"].startswith("muse:") else None
        count = rows_of(path) if forget is None else forget + self.summary["membership"]["holdout_rows"]
        rows = read_table(path, membership_schema(), rows=count, required=frozenset({"set", "example_id"}))
        require_between(path, rows, dict.fromkeys(ATTACKS, (-math.inf, math.inf)))
        return rows


def schema(suite: str) -> pyarrow.Schema:
    """Numbers are float64; probabilities 0 to 1; nll_sum in nats over target_tokens tokens; null where a set has no
    such number."""
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    first = [("set", text), ("example_id", text), ("question", text), ("answer", text), ("generation", text)]
    if suite.startswith("muse:"):
        return pa.schema([*first, ("verbmem", number), ("knowmem", number)])
    numbers = ["probability", "probability_options", "log_truth_ratio", "truth_ratio", "rouge_l_recall", "fact_probability"]
    numbers += ["exact_memorization", "extraction_strength"]
    return pa.schema([*first, ("nll_sum", number), ("target_tokens", pa.int32()), *((name, number) for name in numbers)])


def membership_schema() -> pyarrow.Schema:
    """Numbers are float64, lower where the model treats the row as one that it was trained on; null where an attack was
    not made."""
    import pyarrow as pa

    return pa.schema([("set", pa.string()), ("example_id", pa.string()), *((name, pa.float64()) for name in ATTACKS)])


def write_results(out: Path, summary: Mapping[str, Any], rows: Sequence[Row], membership: Sequence[Row], config: Any) -> Results:
    """Writes the folder in one step; `summary` gains rows_sha256, membership_sha256 and summary_sha256."""
    import pyarrow
    import pyarrow.parquet

    with atomic_folder(out) as folder:

        def write(name: str, values: Sequence[Row], columns: pyarrow.Schema) -> str:
            table = pyarrow.Table.from_pylist(list(values), schema=columns)
            pyarrow.parquet.write_table(table, folder / name, compression="zstd", write_page_checksum=True)
            return hash_file(folder / name)

        full = {**summary, "rows_sha256": write(ROWS, rows, schema(summary["suite"]))}
        full["membership_sha256"] = write(MEMBERSHIP, membership, membership_schema()) if membership else None
        write_config(folder / CONFIG, config)
        if summary["suite"].startswith("tofu:"):
            write_log(folder / LOG, summary["metrics"], rows, membership)
        full["summary_sha256"] = hash_json(full)
        write_json(folder / SUMMARY, full)
    return Results(out, full)


def load_results(folder: Path) -> Results:
    """Raises StoreError, naming the file, for a folder that is missing, unfinished, of a newer format or damaged."""
    path = folder / SUMMARY
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such folder; expected the --out of a finished tu-eval run")
    if not path.exists():
        raise StoreError(f"{folder}: holds no {SUMMARY}; it is not a results folder, or its tu-eval run did not finish")
    summary = read_object(path, hint="the file is damaged, evaluate again")
    if "format" not in summary:
        raise StoreError(f"{path}: not the summary of an evaluation")
    if summary["format"] != FORMAT:
        raise StoreError(
            f"{path}: has format {str(summary['format'])[:20]}, this version reads {FORMAT}; update token-unlearn or evaluate again"
        )
    if hash_json({k: v for k, v in summary.items() if k != "summary_sha256"}) != summary.get("summary_sha256"):
        raise StoreError(f"{path}: does not match its own hash; it was damaged or edited, evaluate again")
    check_summary(path, summary)
    for path, expected in ((folder / ROWS, summary["rows_sha256"]), (folder / MEMBERSHIP, summary.get("membership_sha256"))):
        if expected is not None and not path.exists():
            raise StoreError(f"{path}: is missing; evaluate again")
        if expected is not None and hash_file(path) != expected:
            raise StoreError(f"{path}: does not match the hash in {SUMMARY}; it was damaged or edited, evaluate again")
    return Results(folder, summary)


def require_comparable(identity: Mapping[str, Any], other: Results, *, what: str) -> None:
    """Raises StoreError naming the first field in which `other` was not measured on the same thing."""
    vocabulary = identity.get("vocabulary_fingerprint")
    for field in IDENTITY:
        mine, theirs = identity[field], other.summary[field]
        padding = field == "tokenizer_fingerprint" and vocabulary is not None and vocabulary == other.summary.get("vocabulary_fingerprint")
        if mine != theirs and not padding:
            short = [v[:12] if field.endswith("fingerprint") else v for v in (theirs, mine)]
            name = field.replace("_", " ")
            raise StoreError(f"{what} {other.folder}: another {name}: {short[0]} there, {short[1]} here; evaluate both the same way")
