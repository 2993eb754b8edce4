"""Data specs -> rows.

tofu:forget01            TOFU: the folder in TU_TOFU_DIR, else the hub set locuslab/TOFU
atlas:forget             the embedded generator (shared/data/atlas.py): full, forget, retain, holdout, world;
                         sizes may follow, the same for every command: atlas:forget:people=12,facts_per_person=4,seed=1
atlas:documents-forget   raw text about the same people, and atlas:choices-forget, multiple-choice questions on it
                         (shared/data/atlas_documents.py)
atlas:alias-forget       questions that nobody trained on (shared/data/atlas_questions.py): alias, hops, reversed, mixed
                         and french, of forget and retain; tofu:alias-forget01_perturbed and the like
                         (shared/data/tofu_questions.py)
atlas:forget:prose=1     the same in prose like that of people and chat models (shared/data/atlas_prose.py), and
                         atlas:forget:language=zh in another language: es, ar or zh
lume:forget:task2:qa     LUME: forget, retain or full, all of it or one task (task1 to task3), all of that or its
                         completions (sc) or questions (qa); the folder in TU_LUME_DIR, else the hub set
path/to/file.jsonl       JSONL, JSON, CSV, TSV (also .gz, .xz, .bz2, .zst) or Parquet, a path or an fsspec URL, with
                         --question-key/--answer-key, --messages-key or --text-key
hub:org/name:config:split  any hub set (config may be empty; @revision may follow the name)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Literal

from shared.data import atlas, atlas_documents, atlas_prose, atlas_questions, atlas_words, chats, lume, tofu_questions
from shared.data.data_files import NAME, SUFFIXES, Position, file_records, reason
from shared.errors import ConfigError, DataError, nearest
from shared.files import hub
from shared.secret import without_secrets
from shared.settings import COUNT, MANY, NONE_OR_MORE, About

TOFU_HUB = "locuslab/TOFU"
TOFU_SPLITS = (
    *("full", "forget01", "forget05", "forget10", "retain90", "retain95", "retain99", "real_authors", "world_facts"),
    *("forget01_perturbed", "forget05_perturbed", "forget10_perturbed", "retain_perturbed"),
    *("real_authors_perturbed", "world_facts_perturbed", "holdout01", "holdout05", "holdout10"),
)
LOCAL = f"; a local copy does as well: name its {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file as data"


@dataclass(frozen=True)
class Row:
    """One row of text. Raw text has question None and its text in `answer`."""

    id: str
    question: str | None
    answer: str
    extra: dict[str, Any] = field(default_factory=dict, compare=False)
    """the row's other columns: paraphrased_answer, perturbed_answer, fact_spans (character offsets in answer), ..."""
    before: tuple[tuple[str, str], ...] = ()
    """of a conversation: (role, text) of the turns before the question, of which the first may be of system"""
    place: str = field(default="", compare=False)
    """for messages: the file it was read from, and where that has lines, the line: `rows.jsonl:3`"""


@dataclass(frozen=True)
class Keys:
    """Which columns of a file or hub set hold what."""

    question: str = "question"
    answer: str = "answer"
    text: str | None = None
    messages: str | None = None
    """None: a column of that kind (`chats.COLUMNS`) where a row has neither question nor answer"""
    turns: str = "last"
    """of a conversation: the answers that are rows, last or all"""

    @classmethod
    def recorded(cls, options: Mapping[str, Any]) -> Keys:
        """Those that a store was scored with, from the options of its manifest."""
        return cls(options["question_key"], options["answer_key"], options.get("text_key"), options.get("messages_key"),
                   options.get("turns") or "last")  # fmt: skip

    def chat(self, record: dict[str, Any]) -> str | None:
        """The column of a row that is read as a conversation; None where the row is none."""
        if self.text is not None or self.messages is not None:
            return self.messages if self.text is None else None
        if self.question in record or self.answer in record or (self.question, self.answer) != (Keys.question, Keys.answer):
            return None
        return next((name for name in chats.COLUMNS if name in record), None)


TEXT = Keys(text="text")


def is_raw_text(spec: str, keys: Keys) -> bool:
    """Are the rows of a data spec raw text? Those of the atlas's documents are, whatever the columns are called."""
    return keys.text is not None or (spec.startswith("atlas:") and spec[6:].partition(":")[0] in atlas_documents.DOCUMENTS)


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How data is read."""

    question_key: Annotated[str, About(flag=True)] = "question"
    """column of the question, for files and hub sets"""
    answer_key: Annotated[str, About(flag=True)] = "answer"
    """column of the answer"""
    text_key: Annotated[str | None, About(flag=True)] = None
    """column of raw text, instead of question and answer"""
    messages_key: Annotated[str | None, About(flag=True, default="messages or conversations of a row without question and answer")] = None
    """column of a conversation, instead of question and answer: turns with role and content, or with from and value"""
    turns: Annotated[Literal["last", "all"] | None, About(default="last")] = None
    """of a conversation: its last assistant turn is the answer, or each of them is the answer of a row of its own"""
    text_length: Annotated[int, About(unit="tokens", least=2, most=MANY)] = 512
    """length of the examples that raw text is cut into"""
    text_overlap: Annotated[int | None, About(unit="tokens", default="128 where text is scored, else 0", **NONE_OR_MORE)] = None
    """raw text: how much of what came before a piece reads again as context, at most half of text_length; each token is
    a target once (docs/raw_text.md)"""
    text_pieces: Annotated[Literal["all", "first"] | None, About(default="all")] = None
    """which of the pieces of a raw text are read: all, or its first text_length tokens alone"""
    long: Annotated[Literal["error", "truncate", "skip"], About(flag=True)] = "error"
    """what happens to examples beyond the model's context: refused, cut at the end, left out"""

    @property
    def keys(self) -> Keys:
        """Those columns. Raises ConfigError for two that exclude each other."""
        if self.text_key is not None and self.messages_key is not None:
            raise ConfigError(
                f"--text-key {self.text_key} and --messages-key {self.messages_key}: a row is text or a conversation, give one"
            )
        return Keys(self.question_key, self.answer_key, self.text_key, self.messages_key, self.turns or "last")


@dataclass(frozen=True, kw_only=True)
class DataOptions(ReadingOptions):
    """How many rows are read."""

    limit: Annotated[int | None, About(unit="rows", flag=True, default="all", **COUNT)] = None
    """only the first rows of each data set"""


def load_rows(spec: str, *, keys: Keys = Keys(), limit: int | None = None) -> list[Row]:
    """`iter_rows` in memory."""
    return list(iter_rows(spec, keys=keys, limit=limit))


def iter_rows(spec: str, *, keys: Keys = Keys(), limit: int | None = None) -> Iterator[Row]:
    """Rows of a data spec, the first `limit` of them, one after another. Raises DataError naming the spec, split, row,
    line or key that is wrong, when it comes to it."""
    if limit is not None and not 1 <= limit < 2**63:
        raise DataError(f"--limit {limit}: expected at least 1" if limit < 1 else "--limit is too large: expected less than 2^63")
    at = None
    if spec.startswith("tofu:"):
        name, records = "tofu/" + spec[5:], _tofu(spec[5:])
    elif spec.startswith("atlas:"):
        split, _, size = spec[6:].partition(":")
        name, records = f"atlas/{split}", _atlas(split, size)
        keys = TEXT if keys.text is None and is_raw_text(spec, keys) else keys
    elif spec.startswith("lume:"):
        name, records = "lume", _lume(spec[5:])
    elif spec.startswith("hub:"):
        name, records = _hub(spec)
    else:
        name, records = file_records(spec, at := Position())
    some, placed = False, spec.startswith(("atlas:", "lume:"))
    for index, record in enumerate(islice(records, limit)):
        place = at.of(without_secrets(spec)) if at is not None else ""
        with said_where(place):
            rows = _rows(f"{name}/{record.get('row', index) if placed else index}", record, keys, place)
        some = True
        yield from rows
    if not some:
        raise DataError(f"data {without_secrets(spec)}: no rows")


@contextmanager
def said_where(place: str) -> Iterator[None]:
    """Errors of a row end with its place (`Row.place`), where there is one."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{error} ({place})") if place else error from None


def _rows(name: str, record: Any, keys: Keys, place: str) -> list[Row]:
    """One row of a record, or one for each of the answers of a conversation."""
    if not isinstance(record, dict):
        raise DataError(f"{name}: expected an object with named values, got {type(record).__name__}")
    chat = keys.chat(record)
    if chat is None:
        return [_row(name, record, keys, place)]
    if chat not in record:
        raise DataError(f"{name}: no key {chat!r}{columns_near(chat, record)}; see --messages-key")
    answers = chats.answers_of(name, chat, record, keys.turns)
    extra = {k: v for k, v in record.items() if k != chat and k not in chats.OF_TOOLS}  # empty ones
    names = [f"{name}#answer{number}" for number in range(1, len(answers) + 1)] if len(answers) > 1 else [name]
    return [Row(own, one.question, one.answer, extra, one.before, place) for own, one in zip(names, answers, strict=True)]


def _row(name: str, record: dict[str, Any], keys: Keys, place: str) -> Row:
    wanted = [keys.text] if keys.text else [keys.question, keys.answer]
    if by_column(record, wanted):
        raise DataError(
            f"{name}: holds whole columns, not one row, as pandas' to_json writes them; write rows instead: "
            "to_json(PATH, orient='records', lines=True)"
        )
    for key in wanted:
        if key not in record:
            raise DataError(f"{name}: no key {key!r}{_missing(key, record, keys)}")
        if not isinstance(record[key], str) or not record[key].strip():
            raise DataError(f"{name}: its {key} {_not_text(key, record[key])}")
    extra = {k: v for k, v in record.items() if k not in wanted}
    question, answer = (None, record[keys.text]) if keys.text else (record[keys.question], record[keys.answer])
    return Row(name, question, answer, extra, place=place)


def kind_of(value: Any) -> str:
    """What a value of the data is, for messages, which never show the value itself."""
    kinds = {str: "text", bool: "true or false", int: "a number", float: "a number", bytes: "bytes", list: "a list", dict: "an object"}
    return "empty (null)" if value is None else kinds.get(type(value), f"of another type ({type(value).__name__})")


def by_column(record: dict[str, Any], wanted: list[str]) -> bool:
    """Is it a whole table: `{"question": {"0": ...}}`, `{"columns": ..., "data": ...}`, `{"0": {"question": ...}}` and
    the like?"""
    values = [record.get(key) for key in wanted]
    columns = all(isinstance(v, dict) for v in values) or (len(values) > 1 and all(isinstance(v, list) for v in values))
    split = isinstance(record.get("data"), list) and bool({"columns", "schema"} & record.keys())
    rows = bool(record) and all(isinstance(v, dict) and wanted[0] in v for v in record.values())
    return columns or split or rows


def _missing(key: str, record: dict[str, Any], keys: Keys) -> str:
    """What to do about a key that a row lacks."""
    chat = next((name for name in chats.COLUMNS if isinstance(record.get(name), list)), None)
    if chat is not None and keys.text is None:
        return f"; {chat!r} holds a conversation: read it with --messages-key {chat}"
    flag = "--text-key" if keys.text else "--question-key, --answer-key or --text-key"
    one = next(iter(record)) if len(record) == 1 else ""
    cut = next((mark for mark in (";", "\t", ",") if mark in one), None)
    hint = f"; are its columns separated by {cut!r}? save it with commas (.csv) or tabs (.tsv)" if cut else f"; see {flag}"
    return f"{columns_near(key, record)}{hint}"


def columns_near(key: str, record: Iterable[str]) -> str:
    """`nearest` among column names. Where some look like text (a CSV file without a header has its first row there)
    none is shown."""
    names = list(record)
    if all(NAME.fullmatch(name) for name in names):
        return nearest(key, names)
    close = nearest(key, [name for name in names if NAME.fullmatch(name)])
    return close if "did you mean" in close else f" among its {len(names)} columns; does the file lack a header with their names?"


def _not_text(key: str, value: Any) -> str:
    """What is wrong with a value, and what to do."""
    if isinstance(value, float) and value != value:
        return "is NaN, which stands for an empty cell; remove the row or fill it"
    if isinstance(value, (bool, int, float)):
        return f'is {kind_of(value)}, which is no text; quote it: "{key}": "..."'
    if isinstance(value, bytes):
        return "is bytes, not text; write the column as strings"
    return "is empty or not text; remove the row or fill it"


def _tofu(split: str) -> Iterator[dict]:
    if split in tofu_questions.SPLITS:
        return iter(tofu_questions.rows(split, _tofu))
    if split not in TOFU_SPLITS:
        raise DataError(f"data tofu:{split}: no such split{nearest(split, TOFU_SPLITS)}")
    folder = os.environ.get("TU_TOFU_DIR")
    if not folder:
        return hub_records(TOFU_HUB, split, "train", f"tofu:{split}", "; or set TU_TOFU_DIR to a folder with TOFU's JSON files")
    path = Path(folder) / f"{split}.json"
    if not path.exists():
        raise DataError(f"data tofu:{split}: {path} does not exist; TU_TOFU_DIR should be the folder with TOFU's JSON files")
    return file_records(str(path))[1]


def atlas_world(text: str) -> tuple[atlas.AtlasSize, int]:
    """`people=12,facts_per_person=4,seed=1` -> size and seed; empty text gives the defaults."""
    known = [f.name for f in fields(atlas.AtlasSize)] + ["seed"]
    values: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        name, _, value = item.partition("=")
        if name not in known:
            raise DataError(f"data atlas: unknown size {name!r}{nearest(name, known)}")
        if name == "language":
            if value not in atlas_words.LANGUAGES:
                raise DataError(f"data atlas: unknown language {value!r}{nearest(value, atlas_words.LANGUAGES)}")
            values[name] = value
            continue
        if not value.isdigit():
            raise DataError(f"data atlas: {name} is {value!r}, expected a whole number")
        values[name] = int(value)
    seed = values.pop("seed", 0)
    return atlas.AtlasSize(**values), seed


def _atlas(split: str, world: str) -> list[dict]:
    others = (*atlas_documents.DOCUMENTS, *atlas_documents.CHOICES, *atlas_questions.SPLITS)
    if split not in (*atlas.SPLITS, *others):
        raise DataError(f"data atlas:{split}: no such split{nearest(split, (*atlas.SPLITS, *others))}")
    try:
        size, seed = atlas_world(world)
        if split in atlas_questions.SPLITS:
            return atlas_questions.rows(split, size, seed)
        if size.prose and split not in ("world", *atlas_documents.CHOICES):
            return atlas_prose.rows(split, size, seed)
        return (atlas_documents if split in others else atlas).rows(split, size, seed)
    except ValueError as error:
        raise DataError(f"data atlas:{split}: {error}") from None


def _lume(spec: str) -> list[dict]:
    asked, folder = lume.parts(spec)[0], os.environ.get("TU_LUME_DIR")
    rows = []
    for split in lume.SPLITS if asked == "full" else (asked,):
        if folder:
            path = Path(folder).expanduser() / f"{split}.jsonl"
            if not path.is_file():
                raise DataError(
                    f"data lume:{spec}: {path} does not exist; TU_LUME_DIR should be the folder with forget.jsonl and retain.jsonl"
                )
            raw, where = file_records(str(path))[1], str(path)
        else:
            hint = "; or set TU_LUME_DIR to a folder with LUME's forget.jsonl and retain.jsonl (docs/lume.md)"
            halves = (hub_records(lume.HUB, None, f"{split}_{fold}", f"lume:{spec}", hint) for fold in ("train", "validation"))
            raw, where = chain.from_iterable(halves), f"{lume.HUB}, {split}"
        rows += lume.chosen(spec, split, raw, where)
    return rows


def _hub(spec: str) -> tuple[str, Iterator[dict]]:
    parts = spec.split(":")
    repo, _, revision = parts[1].partition("@")
    if len(parts) != 4 or repo.count("/") != 1 or not parts[3]:
        raise DataError(f"data {spec}: expected hub:org/name:config:split (config may be empty, @revision may follow the name)")
    return f"{repo.replace('/', '--')}/{parts[3]}", hub_records(repo, parts[2] or None, parts[3], spec, LOCAL, revision)


def hub_records(repo: str, config: str | None, split: str, spec: str, hint: str, revision: str = "") -> Iterator[dict]:
    """Records of a split as they are. Raises DataError naming `spec` and ending in `hint`, what else the user can do.

    `revision`: a branch, tag or commit; empty for the newest.
    """
    import datasets
    from datasets.exceptions import DatasetsError

    if revision and not hub.COMMIT.fullmatch(revision) and hub.offline():
        raise DataError(f"data {spec}: the hub is not asked (HF_HUB_OFFLINE is set), so nobody knows which commit {revision!r} is; "
                        f"name the commit itself{hint}")  # fmt: skip
    hub.quiet_downloads()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        commit = hub.commit_of(repo, revision) if revision else None
        pinned: dict[str, Any] = {"revision": commit} if commit else {}
        rows: Any = datasets.load_dataset(repo, config, split=split, **pinned)
    except (*hub.failures(), DatasetsError) as error:  # offline, no such set or split, a set of another form
        told = error.__cause__ if isinstance(error.__cause__, Exception) else error
        said = hub.why(error, "data set", repo, revision) or _words(told)
        raise DataError(f"data {spec}: cannot be had from the hub: {said}{hint}") from None
    # Where the hub is not reached, datasets takes the newest copy of its cache, whatever revision that is of.
    if commit is not None and not all(commit in Path(file["filename"]).parts for file in rows.cache_files):
        raise DataError(f"data {spec}: cannot be had from the hub: it cannot be reached, and the copy in its cache is of another "
                        f"commit than {commit}{hint}")  # fmt: skip
    return iter(rows)


def _words(error: Exception) -> str:
    """What datasets says; which configurations there are stands in a second line."""
    first, *more = str(error).splitlines() or [""]
    return f"{first} {more[0]}" if more and first.startswith("Config name is missing") else reason(error).rstrip(".")
