"""The results folder of one evaluation on a suite: summary.json, and rows.parquet with one row an example a set.

Where the suite has a holdout, also membership.parquet (one row a forget and holdout example, a column a metric); for a
TOFU suite also TOFU_EVAL.json, the same numbers in the form of OpenUnlearning. How the folder is written and checked:
tu_eval/results/folder.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import StoreError
from tu_eval.results.columns import LUME_KINDS
from tu_eval.results.folder import MEMBERSHIP_METRICS, ROWS, FolderKind, ResultRow, read_folder, write_folder
from tu_eval.results.leaks import LEAKS
from tu_eval.results.leaks import schema as leaks_schema
from tu_eval.results.open_unlearning import as_log
from tu_eval.results.parquet_file import read_table, require_between, rows_of
from tu_eval.results.summary_form import FORM, check_summary

if TYPE_CHECKING:
    import pyarrow

SUMMARY, MEMBERSHIP, LOG = "summary.json", "membership.parquet", "TOFU_EVAL.json"
SUITE_FOLDER = FolderKind(SUMMARY, "tu-eval run", FORM, more=(MEMBERSHIP, LEAKS), always_sealed=True)
IDENTITY = ("suite", "limit", "tokenizer_fingerprint", "template_fingerprint", "data_fingerprint")
"""fields of the summary that two results must share to be compared, the plainest reason first"""
REQUIRED = frozenset({"set", "example_id", "question", "answer"})
"""columns that every version wrote"""
MORE = {
    "cluster": True, "word_match": False, "answer_nll": False, "paraphrase_probability": False, "jailbreak": True,
    "jailbreak_rouge": False,
}  # fmt: skip
"""columns that a run has where they were asked for or could be had, and whether they are text: what a row is not
independent of; whether the answer written has the words of the fact; of the answer written, nats a token under
--fluency-model; probability of the paraphrase; the answer after an opening, and its ROUGE-L recall"""
SHARES = ("probability", "probability_options", "rouge_l_recall", "fact_probability", "exact_memorization", "extraction_strength",
          "paraphrase_probability", "jailbreak_rouge", "word_match")  # fmt: skip
RANGES = {
    **dict.fromkeys((*SHARES, "verbmem", "knowmem", *LUME_KINDS), (0.0, 1.0 + 1e-9)),
    "answer_nll": (-1e-3, math.inf), "nll_sum": (-1e-3, math.inf), "target_tokens": (0, 2**31),
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
        """What the model is called on pages."""
        return self.summary["label"]

    @property
    def more(self) -> list[str]:
        """Columns of MORE that rows.parquet has."""
        return self.summary.get("more_columns") or []

    @property
    def own(self) -> dict[str, str]:
        """Metrics of others (docs/extending.md): column of rows.parquet -> the source that computed it."""
        return self.summary.get("own_metrics") or {}

    def rows(self, name: str | None = None) -> list[dict[str, Any]]:
        """Rows of one set, or of all, in order. Raises StoreError naming the file if it is damaged, or holds what no
        evaluation writes."""
        return [row for row in self._rows if name is None or row["set"] == name]

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        path, counts = self.folder / ROWS, self.summary["rows"]
        if taken := set(self.own) & set(schema(self.summary["suite"], (), () if of_texts(self.summary["suite"]) else MORE).names):
            raise StoreError(
                f"{path.with_name(SUMMARY)}: has a metric of others that is called {min(taken)}; it was edited, evaluate again"
            )
        if unknown := set(self.more) - set(MORE):
            raise StoreError(
                f"{path.with_name(SUMMARY)}: has a column {min(unknown)[:40]!r} that tu-eval run does not write; evaluate again"
            )
        rows = read_table(path, schema(self.summary["suite"], self.own, self.more), rows=sum(counts.values()), required=REQUIRED)
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
        forget = None if of_texts(self.summary["suite"]) else self.summary["rows"].get("forget", 0)
        count = rows_of(path) if forget is None else forget + self.summary["membership"]["holdout_rows"]
        rows = read_table(path, membership_schema(), rows=count, required=frozenset({"set", "example_id"}))
        require_between(path, rows, dict.fromkeys(MEMBERSHIP_METRICS, (-math.inf, math.inf)))
        return rows


def of_texts(suite: str) -> bool:
    """Membership inference reads texts of their own, not the rows of the forget set."""
    return suite == "lume" or suite.startswith("muse:")


def schema(suite: str, own: Iterable[str] = (), more: Iterable[str] = ()) -> pyarrow.Schema:
    """Numbers are float64; probabilities 0 to 1; nll_sum in nats over target_tokens tokens; null where a set has no
    such number. `own`: columns of metrics of others, `more`: of MORE."""
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    first = [("set", text), ("example_id", text), ("question", text), ("answer", text), ("generation", text)]
    if suite.startswith("muse:"):
        return pa.schema([*first, ("verbmem", number), ("knowmem", number)])
    likelihood = [("nll_sum", number), ("target_tokens", pa.int32())]
    if suite == "lume":
        return pa.schema([*first, *likelihood, ("probability", number), *((name, number) for name in LUME_KINDS)])
    numbers = ["probability", "probability_options", "log_truth_ratio", "truth_ratio", "rouge_l_recall", "fact_probability"]
    numbers += ["exact_memorization", "extraction_strength"]
    return pa.schema(
        [*first, *likelihood, *((name, number) for name in (*numbers, *own)), *((name, text if MORE[name] else number) for name in more)]
    )


def membership_schema() -> pyarrow.Schema:
    """Numbers are float64, lower where the model treats the row as one that it was trained on; null where an attack was
    not made."""
    import pyarrow as pa

    return pa.schema([("set", pa.string()), ("example_id", pa.string()), *((name, pa.float64()) for name in MEMBERSHIP_METRICS)])


def write_results(
    out: Path, summary: Mapping[str, Any], rows: Sequence[ResultRow], membership: Sequence[ResultRow], config: Any,
    leaks: Sequence[ResultRow] | None = None,
) -> Results:  # fmt: skip
    """Writes the folder in one step; `leaks`: of a leak check; `summary` gains rows_sha256, membership_sha256 and
    summary_sha256."""
    tables = {
        ROWS: (schema(summary["suite"], summary.get("own_metrics", ()), summary.get("more_columns", ())), rows),
        MEMBERSHIP: (membership_schema(), membership) if membership else None,
        **({LEAKS: (leaks_schema(), leaks)} if leaks is not None else {}),
    }
    also = {LOG: as_log(summary["metrics"], rows, membership)} if summary["suite"].startswith("tofu:") else {}
    return Results(out, write_folder(out, SUITE_FOLDER, summary, tables, config, also))


def load_results(folder: Path) -> Results:
    """Raises StoreError, naming the file, for a folder that is missing, unfinished, of a newer format or damaged."""
    summary = read_folder(folder, SUITE_FOLDER).summary
    check_summary(folder / SUMMARY, summary)
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
    codes = {**identity.get("own_metrics", {}), "the suite": identity.get("suite_code")}
    for name, theirs in {**other.own, "the suite": other.summary.get("suite_code")}.items():
        if codes.get(name, theirs) != theirs:
            raise StoreError(
                f"{what} {other.folder}: {name} is by other code: {theirs} there, {codes[name]} here; evaluate both the same way"
            )
