"""What the commands of tu-score are told that have no configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from shared.settings import COUNT, About


@dataclass(frozen=True, kw_only=True)
class Run:
    dry_run: Annotated[bool, About(flag=True)] = False
    """say what the run would hold and take; write nothing"""


@dataclass(frozen=True, kw_only=True)
class Store:
    folder: Annotated[str, About(positional=True, metavar="DIR")]
    """a store: the --out of tu-score run, a folder or a URL (s3://, gs://, hf://)"""


@dataclass(frozen=True, kw_only=True)
class New:
    folder: Annotated[Path, About(positional=True, metavar="FOLDER")]
    """where the files go: a new folder"""


@dataclass(frozen=True, kw_only=True)
class Merge(Store):
    more: Annotated[tuple[str, ...], About(flag="--from")] = ()
    """another --out of the same command that holds some of the shards; the flag may be repeated"""


@dataclass(frozen=True, kw_only=True)
class Inspect(Store):
    example: Annotated[str | None, About(flag=True)] = None
    """only the example with this id"""
    rows: Annotated[int, About(flag=True, unit="rows", **COUNT)] = 5
    """how many examples, from the first on; --html draws them evenly from a store of more than 20 million tokens"""
    top: Annotated[int | None, About(flag=True, unit="tokens", **COUNT)] = None
    """instead, list that many target tokens of the whole store, those with the largest signal, one a line"""
    html: Annotated[Path | None, About(flag=True)] = None
    """write the examples as a self-contained page instead; an older one is replaced"""
    signal: Annotated[str, About(flag=True)] = "importance"
    """what shades the tokens: importance, delta, delta_mean, gain, entropy, masked_entropy, tempered_entropy, logprob,
    base_logprob, base_entropy; the page can switch"""


@dataclass(frozen=True, kw_only=True)
class Explain(Store):
    example: Annotated[str | None, About(flag=True)] = None
    """only the example with this id"""
    rows: Annotated[int, About(flag=True, unit="rows", **COUNT)] = 5
    """how many examples, from the first on"""
    top: Annotated[int | None, About(flag=True, unit="words", **COUNT)] = None
    """of each example only that many words, the likeliest first"""


@dataclass(frozen=True, kw_only=True)
class Rewrite(Store):
    recipe: Annotated[str | None, About(flag=True)] = None
    """fields by commas, as in knowledge=positive,alpha=0.7,norm=rank; the others take their defaults"""
    importance: Annotated[str | None, About(flag=True, metavar="FILE.parquet[:COLUMN]")] = None
    """instead of a recipe, importance of your own: a list for each example_id, of a value a token or a target token, 0
    to 1; with --recipe norm=minmax (rank, zscore, max), brought there"""


@dataclass(frozen=True, kw_only=True)
class Agree(Store):
    model: Annotated[str | None, About(flag=True)] = None
    """the model that was scored; only its tokenizer is read"""
    truth: Annotated[str, About(flag=True)] = "spans"
    """what the truth is: spans (character offsets in the answer)"""
    truth_key: Annotated[str, About(flag=True)] = "fact_spans"
    """column of the data that holds the spans, or words and phrases of the answer"""
    secrets: Annotated[str | None, About(flag=True, metavar="FILE")] = None
    """instead of --truth-key: file with one secret a line, or column:NAME of the data, found in every answer
    (docs/secrets.md)"""
    data: Annotated[str | None, About(flag=True)] = None
    """the data that was scored, if it is no longer where the run found it"""
    as_json: Annotated[bool, About(flag="--json")] = False
    """print JSON"""
