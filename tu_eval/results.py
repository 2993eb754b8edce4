"""A results folder: rows.parquet (one row an example a set), summary.json (metrics, and what they belong to), _config.toml.

The folder appears whole or not at all. The summary holds the hash of the rows and of itself; both are checked on every read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.config import write_config
from shared.errors import StoreError
from shared.fs import atomic_folder, hash_file, hash_json, read_json, write_json

if TYPE_CHECKING:
    import pyarrow

FORMAT = 1
ROWS, SUMMARY, CONFIG = "rows.parquet", "summary.json", "_config.toml"
IDENTITY = ("suite", "limit", "tokenizer_fingerprint", "template_fingerprint", "data_fingerprint")
"""fields of the summary that two results must share to be compared, the plainest reason first"""


@dataclass(frozen=True)
class Results:
    """A finished evaluation. `summary` is in memory, rows are read when asked for."""

    folder: Path
    summary: dict[str, Any]

    @property
    def label(self) -> str:
        return self.summary["label"]

    def rows(self, name: str | None = None) -> list[dict[str, Any]]:
        """Rows of one set, or of all, in order. Raises StoreError naming the file if it is damaged."""
        import pyarrow
        import pyarrow.parquet

        path = self.folder / ROWS
        try:
            table = pyarrow.parquet.read_table(path, page_checksum_verification=True)
        except (pyarrow.ArrowException, OSError) as error:
            raise StoreError(f"{path}: cannot be read ({str(error).splitlines()[0][:200]}); evaluate again") from None
        return [row for row in table.to_pylist() if name is None or row["set"] == name]


def schema() -> pyarrow.Schema:
    """Numbers are float64; probabilities 0 to 1; nll_sum in nats over target_tokens tokens; null where a set has no such number."""
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    first = [("set", text), ("example_id", text), ("question", text), ("answer", text), ("generation", text)]
    numbers = ["probability", "probability_options", "log_truth_ratio", "truth_ratio", "rouge_l_recall", "fact_probability"]
    return pa.schema([*first, ("nll_sum", number), ("target_tokens", pa.int32()), *((name, number) for name in numbers)])


def write_results(out: Path, summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], config: Any) -> Results:
    """Writes the folder in one step; `summary` gains rows_sha256 and summary_sha256."""
    import pyarrow
    import pyarrow.parquet

    with atomic_folder(out) as folder:
        table = pyarrow.Table.from_pylist(list(rows), schema=schema())
        pyarrow.parquet.write_table(table, folder / ROWS, compression="zstd", write_page_checksum=True)
        write_config(folder / CONFIG, config)
        full = {**summary, "rows_sha256": hash_file(folder / ROWS)}
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
    summary = read_json(path)
    if not isinstance(summary, dict) or "format" not in summary:
        raise StoreError(f"{path}: not the summary of an evaluation")
    if summary["format"] != FORMAT:
        raise StoreError(f"{path}: has format {summary['format']}, this version reads {FORMAT}; update token-unlearn or evaluate again")
    if hash_json({k: v for k, v in summary.items() if k != "summary_sha256"}) != summary.get("summary_sha256"):
        raise StoreError(f"{path}: does not match its own hash; it was damaged or edited, evaluate again")
    rows = folder / ROWS
    if not rows.exists():
        raise StoreError(f"{rows}: is missing; evaluate again")
    if hash_file(rows) != summary["rows_sha256"]:
        raise StoreError(f"{rows}: does not match the hash in {SUMMARY}; it was damaged or edited, evaluate again")
    return Results(folder, summary)


def require_comparable(identity: Mapping[str, Any], other: Results, *, what: str) -> None:
    """Raises StoreError naming the first field in which `other` was not measured on the same thing."""
    for field in IDENTITY:
        mine, theirs = identity[field], other.summary[field]
        if mine != theirs:
            short = [v[:12] if field.endswith("fingerprint") else v for v in (theirs, mine)]
            name = field.replace("_", " ")
            raise StoreError(f"{what} {other.folder}: another {name}: {short[0]} there, {short[1]} here; evaluate both the same way")
