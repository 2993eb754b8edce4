"""What the commands of tu-eval are told that have no configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from shared.settings import About


@dataclass(frozen=True, kw_only=True)
class Signed:
    sign: Annotated[Path | None, About(flag=True)] = None
    """private key (PEM, ed25519) to sign the folder with, see tu-eval key"""


@dataclass(frozen=True, kw_only=True)
class Compare:
    folders: Annotated[tuple[Path, ...], About(positional=True, metavar="DIR...")] = ()
    """results folders of tu-eval run, all on the same suite, and of tu-eval choices on the same models"""
    out: Annotated[Path, About(flag=True)]
    """the page to write (HTML); an older one is replaced"""
    index: Annotated[Path | None, About(flag=True)] = None
    """index.json of tu-train many: adds the results in each run's folder, RUN/results (tu-eval run --model RUN --out
    RUN/results)"""
    agreement: Annotated[tuple[Path, ...], About(flag=True)] = ()
    """what tu-score agree --json wrote of a store that runs were trained with; may be repeated"""
    against: Annotated[str | None, About(flag=True)] = None
    """label of the result that all others are compared with in pairs: differences with their intervals, and p-values
    corrected for their number"""
    markdown: Annotated[Path | None, About(flag=True)] = None
    """the table as a Markdown file, too"""
    csv: Annotated[Path | None, About(flag=True)] = None
    """every run with all digits, too"""
    png: Annotated[Path | None, About(flag=True)] = None
    """the plot as a picture, too"""
    rows: Annotated[bool, About(flag="--rows/--no-rows")] = True
    """questions and answers on the page, row by row"""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    pool: Annotated[tuple[Path, ...], About(flag=True)]
    """folder with the results of models that have the knowledge (with/), never had it (without/) and were made to
    forget it (unlearned/); may be repeated"""
    metric: Annotated[tuple[str, ...], About(flag=True)] = ()
    """which metrics; all that every result has unless given; may be repeated"""
    markdown: Annotated[Path | None, About(flag=True)] = None
    """the table as a Markdown file, too"""


@dataclass(frozen=True, kw_only=True)
class Many:
    study: Annotated[Path, About(positional=True)]
    """TOML file with a table [eval], [benchmarks] or [choices] (docs/reproduce.md)"""
    out: Annotated[str, About(flag=True)]
    """folder of all runs, as tu-train many has it; the page goes there too"""
    sets: Annotated[tuple[str, ...], About(flag="--set", metavar="NAME=VALUE")] = ()
    """in place of what the file says, as for tu-train many; may be repeated"""


@dataclass(frozen=True, kw_only=True)
class Report:
    folders: Annotated[tuple[Path, ...], About(positional=True, metavar="DIR...")]
    """results of one or more unlearned models (tu-eval run), and folders of tu-eval attack, depth, tamper, choices and
    benchmarks of the same models"""
    out: Annotated[Path, About(flag=True)]
    """the page to write (HTML); an older one is replaced"""
    before: Annotated[Path | None, About(flag=True)] = None
    """results of the model before unlearning; without the flag it is looked for among DIR"""
    retain: Annotated[Path | None, About(flag=True)] = None
    """results of a model that never saw the forget set; without the flag it is looked for among DIR"""


@dataclass(frozen=True, kw_only=True)
class Evidence(Signed):
    before: Annotated[Path, About(flag=True)]
    """results of the model before unlearning"""
    after: Annotated[Path, About(flag=True)]
    """results of the model after unlearning"""
    out: Annotated[Path, About(flag=True)]
    """folder for evidence.html and evidence.json; must be new or empty"""
    retain: Annotated[Path | None, About(flag=True)] = None
    """results of the retain model, to compare with"""
    store: Annotated[str | None, About(flag=True)] = None
    """score store of what was to be forgotten"""
    attacks: Annotated[tuple[Path, ...], About(flag=True, metavar="DIR")] = ()
    """results of tu-eval attack on the model after unlearning, and of depth, tamper, choices and benchmarks; may be
    repeated"""
    request_id: Annotated[str | None, About(flag=True, metavar="TEXT")] = None
    """the deletion request that the report answers"""
    operator: Annotated[str | None, About(flag=True, metavar="TEXT")] = None
    """who makes the report"""
    show_text: Annotated[bool, About(flag=True)] = False
    """texts of the forget set in the report, not their hashes alone"""
    show_answers: Annotated[bool, About(flag=True)] = False
    """what the model after unlearning answers to the forget set's questions; may give away what was to be forgotten"""


@dataclass(frozen=True, kw_only=True)
class Ask:
    model: Annotated[str, About(positional=True, metavar="MODEL")]
    """local folder, FILE.gguf, org/name[@revision], or smollm2"""
    question: Annotated[str, About(positional=True, metavar="QUESTION")]
    """what it is asked"""


@dataclass(frozen=True, kw_only=True)
class NewKey:
    out: Annotated[Path, About(positional=True, metavar="OUT")]
    """file for the private key; the public one goes beside it"""


@dataclass(frozen=True, kw_only=True)
class Sign:
    folder: Annotated[Path, About(positional=True, metavar="DIR")]
    """a finished folder"""
    key: Annotated[Path, About(flag=True)]
    """private key (PEM, ed25519)"""


@dataclass(frozen=True, kw_only=True)
class Verify:
    folder: Annotated[Path, About(positional=True, metavar="DIR")]
    """a finished folder"""
    key: Annotated[Path | None, About(flag=True)] = None
    """public key (PEM, ed25519) that must have signed the folder"""
