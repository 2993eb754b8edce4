"""The configuration of one evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

from shared.data.data_files import COMPRESSED, KINDS, SUFFIXES
from shared.data.layout import LayoutOptions
from shared.errors import ConfigError
from shared.lm.models import PrecisionOptions
from shared.settings import COUNT, NONE_OR_MORE, SEED, About, check_ranges


class AsksRows(Protocol):
    """A configuration that names a suite or files."""

    @property
    def suite(self) -> str | None:
        """Its name, or None where files are named."""

    @property
    def forget(self) -> str | None:
        """The data spec of the rows to forget, or None where a suite is named."""


class Tries(Protocol):
    """A configuration whose `--retain` names rows that must stay, as for tu-eval run, or the model that never saw the
    forget set."""

    @property
    def retain(self) -> str | None:
        """Rows to keep."""
        ...

    @property
    def retain_model(self) -> str | None:
        """A model that never read the forget rows."""
        ...


def rows_kept(config: Tries) -> str | None:
    """The data spec of the rows that must stay. Raises ConfigError where two models are named."""
    retain = config.retain
    if retain is not None and (retain.startswith(KINDS) or (_ends_as_rows_do(retain) and not Path(retain).is_dir())):
        return retain
    if retain is not None and config.retain_model is not None:
        raise ConfigError(
            f"--retain {retain} and --retain-model {config.retain_model}: both name the model that never saw the forget set; as --retain "
            f"give rows that must stay ({', '.join(KINDS)} or a file that ends in {', '.join(SUFFIXES)}), or leave it out"
        )
    return None


def _ends_as_rows_do(name: str) -> bool:
    return name.lower().endswith((*SUFFIXES, *COMPRESSED))


def flag_of(config: Tries, role: str) -> str:
    """The flag by which the model of that role was given."""
    return "--retain-model" if role == "retain" and config.retain_model is not None else f"--{role.replace('_', '-')}"


def never_saw(config: Tries) -> str | None:
    """The model that never saw the forget set, by either flag."""
    return config.retain_model if rows_kept(config) is not None else config.retain_model or config.retain


OF_SUITE = {
    "questions": ("max_new_tokens", "holdout", "metrics", "secrets", "secret_samples", "secret_temperature", "cluster", "fluency_model",
                  "more_metrics", "rounding"),
    "muse": ("verbmem_tokens", "knowmem_tokens"),
    "lume": ("completion_tokens", "mia_data", "mmlu"),
}  # fmt: skip
"""kind of suite -> the fields that it alone uses"""


def kind_of_suite(name: str | None) -> str:
    """A key of OF_SUITE; None: files of one's own."""
    if name is None:
        return "questions"
    return "muse" if name.startswith("muse:") else "lume" if name == "lume" else "questions"


def check_files(config: AsksRows) -> None:
    """A suite or files, not both and not neither. Raises ConfigError naming the flags."""
    if config.suite is not None and config.forget is not None:
        raise ConfigError(f"--suite {config.suite} and --forget {config.forget}: a suite has rows of its own; give one of the two")
    if config.suite is None and config.forget is None:
        raise ConfigError("--suite is missing; name a suite, or files of your own with --forget FILE")


MISSING = {"forget": "the rows to be forgotten", "retain": "rows that say what the model still can"}


@dataclass(frozen=True, kw_only=True)
class EvalConfig(LayoutOptions, PrecisionOptions):
    """Evaluation. Raises ConfigError naming the field that is out of range."""

    model: Annotated[str, About(flag=True)]
    """local folder, FILE.gguf, org/name[@revision], or smollm2"""
    suite: Annotated[str | None, About(flag=True, default="none: files of your own, --forget and --retain")] = None
    """tofu:forget01, tofu:forget05, tofu:forget10, muse:news, muse:books, lume, or
    atlas[:people=..,facts_per_person=..,seed=..], or one of your own: a TOML file (docs/evaluation.md) or
    package.module:NAME (docs/extending.md)"""
    forget: Annotated[str | None, About(flag=True)] = None
    """instead of a suite: data spec, say a file, of the rows to be forgotten (docs/own_data.md)"""
    retain: Annotated[str | None, About(flag=True)] = None
    """with --forget: data spec of rows that must stay"""
    text_key: Annotated[str | None, About(flag=True)] = None
    """with --forget: column of raw text in the files, instead of question and answer"""
    out: Annotated[str, About(flag=True, changes=False)]
    """folder for the results; must be new or empty"""
    retain_results: Annotated[str | None, About(flag=True)] = None
    """results folder of the retain model on the same suite, or (TOFU) a TOFU_EVAL.json that OpenUnlearning published;
    without it there is no forget quality and no PrivLeak"""
    store: Annotated[str | None, About(flag=True, changes=False, default="OUT.unfinished")] = None
    """folder for what was measured, by content of model, tokenizer, data and code, shared by all runs; finished pieces
    are taken from there. OUT.unfinished goes away when the results are written"""
    label: Annotated[str | None, About(flag=True, default="the last part of model")] = None
    """name in tables and plots"""
    limit: Annotated[int | None, About(unit="rows", flag=True, default="all", **COUNT)] = None
    """only the first rows of each set"""
    engine: Annotated[Literal["auto", "torch", "vllm"], About(flag=True)] = "auto"
    """scores the answers and writes greedy text; auto: vLLM where it is installed and CUDA is there, else torch.
    Gradients are torch's"""
    seed: Annotated[int, About(flag=True, least=0, most=SEED)] = 0
    """of every random choice: the bootstrap of membership inference, the drawn answers of the leak check; generation is
    greedy"""
    long: Annotated[Literal["error", "truncate", "skip"], About(flag=True)] = "error"
    """what happens to a row of which some variant exceeds the model's context; skip leaves the whole row out"""
    template: Annotated[str | None, About(flag=True, default="model; LUME: bare")] = None
    """how a question is put: model (by the tokenizer's chat template), plain (as `Question: …`, `Answer: …`), bare (as
    it stands, as LUME's authors do), auto, or the name of one of several templates; MUSE is always plain text"""
    batch_tokens: Annotated[int, About(unit="tokens", changes=False, **COUNT)] = 2048
    """of a forward pass; memory, not results, depends on it"""
    max_new_tokens: Annotated[int, About(unit="tokens", **COUNT)] = 200
    """length of an answer in generation (ROUGE); 200 in the TOFU paper. Not for MUSE and LUME, which have those
    below"""
    verbmem_tokens: Annotated[int, About(unit="tokens", **COUNT)] = 128
    """MUSE: by how much a text is continued, and to what the true continuation is cut"""
    knowmem_tokens: Annotated[int, About(unit="tokens", **COUNT)] = 32
    """MUSE: length of an answer"""
    completion_tokens: Annotated[int, About(unit="tokens", **COUNT)] = 256
    """LUME: length of a completion or an answer; 256 in the shared task"""
    mia_data: str | None = None
    """LUME: folder with member.jsonl and nonmember.jsonl, whose `document` the model was trained on or never saw"""
    mmlu: str | None = None
    """LUME: results folder of tu-eval benchmarks (its mmlu) or tu-eval choices on the same model; without it, or
    without mia_data, there is no final score"""
    generate: bool = True
    """false skips generation, and with it ROUGE and model utility (MUSE: both kinds of memorisation; LUME: all twelve
    numbers)"""
    holdout: Annotated[str | None, About(flag=True, default="the suite's own")] = None
    """data spec (or file) of rows that no model was trained on. Not for MUSE and LUME, which have texts of their own"""
    reference_model: str | None = None
    """a model that never saw the forget set, with the same tokenizer; membership inference by the difference of losses
    needs it"""
    metrics: Annotated[tuple[str, ...], About(flag="--metric")] = ()
    """metrics of your own, package.module:NAME (docs/extending.md); the flag may be repeated. Not for MUSE and LUME"""
    secrets: Annotated[str | None, About(flag=True, metavar="FILE")] = None
    """leak check: file with one secret a line, or column:NAME of the forget set, looked for in greedy, reworded and
    drawn answers (docs/secrets.md). Not for MUSE and LUME"""
    secret_samples: Annotated[int, About(unit="answers", **NONE_OR_MORE)] = 8
    """leak check: answers drawn a forget row"""
    secret_temperature: Annotated[float, About(least=1e-3)] = 1.0
    """leak check: of the softmax that answers are drawn from"""
    cluster: Annotated[str | None, About(flag=True, default="the suite's: person (atlas), author (TOFU)")] = None
    """column that says which rows are not independent of each other; intervals are drawn over its values. rows: each
    row by itself. Not for MUSE and LUME, as the three below"""
    fluency_model: Annotated[str | None, About(flag=True)] = None
    """a model, best the one before unlearning, that reads the answers written: mean negative log-probability a token"""
    more_metrics: bool = False
    """true adds the probability of the paraphrased answer, and on the forget set jailbreak-ROUGE: ROUGE-L recall after
    "Sure, here is the answer:" was put into the model's mouth, an answer more a forget row"""
    rounding: Annotated[Literal["int8", "int4", "nf4"] | None, About(flag=True)] = None
    """the model is measured with rounded weights (docs/attacks.md); needs --engine torch"""
    gradients: bool = False
    """true adds membership inference by the norm of the gradient: a backward pass for each forget and holdout row"""

    def __post_init__(self) -> None:
        check_ranges(self)
        if (self.forget is None) != (self.retain is None):
            there, other = ("forget", "retain") if self.retain is None else ("retain", "forget")
            raise ConfigError(f"--{there} {getattr(self, there)}: give --{other} too: {MISSING[other]}")
        check_files(self)
        if self.text_key is not None and self.forget is None:
            raise ConfigError(f"--text-key {self.text_key}: names a column of --forget and --retain; a suite says it itself")
        if self.rounding is not None and self.engine != "torch":
            raise ConfigError(f"--rounding {self.rounding}: is torch's alone; add --engine torch")
        if not self.generate and (self.fluency_model is not None or self.more_metrics):
            raise ConfigError(f"{'more_metrics' if self.more_metrics else '--fluency-model'}: reads answers, and generate is false")
        if self.template is None:
            object.__setattr__(self, "template", "bare" if kind_of_suite(self.suite) == "lume" else "model")
        for name in (name for kind, names in OF_SUITE.items() for name in names if kind != kind_of_suite(self.suite)):
            if getattr(self, name) != getattr(EvalConfig, name):
                raise ConfigError(f"{name}: --suite {self.suite} makes no use of it; leave it out")
