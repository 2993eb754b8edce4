"""Results put side by side, as a table in memory and as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from os import PathLike
from pathlib import Path

from shared.errors import ConfigError
from shared.files.outputs import claimed_files
from shared.notebook import framed
from tu_eval.compare.comparison import Comparison, load_comparison
from tu_eval.compare.export import check_png, write_exports
from tu_eval.compare.paired import differences
from tu_eval.compare.report import render, write_report
from tu_eval.results.results import Results

Place = str | PathLike[str]


class Shown(Comparison):
    """A comparison that a notebook shows as its page."""

    def _repr_html_(self) -> str:
        return framed(render(self, texts=False))


def compare(
    results: Sequence[Place | Results] = (), *, index: Place | None = None, agreement: Sequence[Place] = (), out: Place | None = None,
    markdown: Place | None = None, csv: Place | None = None, png: Place | None = None, rows: bool = True, against: str | None = None,
) -> Comparison:  # fmt: skip
    """Several evaluations of one suite side by side: what `tu-eval compare` does. `results`: folders, or what
    `evaluate` gave; `out`: the page to write (HTML), `markdown`, `csv`, `png`: the table and the plot as files; without
    any of them nothing is written. `rows`: texts on the page, row by row. `against`: the label of one of them, from
    which the differences of the others are shown too.

    Of the comparison, `groups` are the G models (seeds of one recipe are one), `columns` the C metrics, and `table()`
    is `[G][C]` estimates with `value` and `span`, the interval or None.

    Raises StoreError for a folder that holds no finished results, or results of another suite, data or tokenizer, and
    ConfigError where nothing is named.
    """
    if not results and index is None:
        raise ConfigError("compare: no results given; name results folders of tu-eval run, or --index with the index.json of tu-train many")
    named = {"--out": out, "--markdown": markdown, "--csv": csv, "--png": png}
    files = {flag: Path(path) for flag, path in named.items() if path is not None}
    folders = [each.folder if isinstance(each, Results) else Path(each) for each in results]
    with claimed_files(files):
        comparison = load_comparison(folders, None if index is None else Path(index), [Path(path) for path in agreement])
        pairs = differences(comparison, against) if against is not None else []
        if png is not None:
            check_png(comparison)
        if out is not None:
            write_report(files["--out"], comparison, texts=rows, against=against, pairs=pairs)
        write_exports(
            comparison, pairs=pairs, to_markdown=files.get("--markdown"), to_csv=files.get("--csv"), to_png=files.get("--png")
        )  # fmt: skip
    return Shown(**{field.name: getattr(comparison, field.name) for field in fields(Comparison)})
