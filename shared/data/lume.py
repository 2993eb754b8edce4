"""LUME (Ramakrishna et al. 2025, arXiv 2502.15097): three tasks to forget and to retain, each asked in two forms.

    task1   invented stories                            sc   a text to continue
    task2   invented biographies with secrets           qa   a question with a short answer
    task3   biographies of real people

Rows of task2 say where their answer holds secrets, as `fact_spans`: numbers of social security, phone numbers, e-mail
addresses, home addresses and dates of birth. They are found by the rules below; docs/lume.md says what those miss.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from shared.errors import DataError, nearest

HUB = "llmunlearningsemeval2025organization/semeval25-unlearning-dataset-public"
"""the half of LUME that was given out for the shared task, as forget_train, forget_validation and so on"""
SPLITS = ("forget", "retain")
TASKS = ("task1", "task2", "task3")
FORMS = ("sc", "qa")
"""of an id: completion, question"""
KEYS = ("id", "input", "output", "task")
FORM = re.compile(r"(sc|qa)\d+$")
SECRETS_OF = "task2"

_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_STATE = (
    r"(?:[A-Z]{2}|D\.C\.|(?:New |North |South |West |Rhode )?"
    r"(?:Ala|Ari|Ark|Cal|Car|Col|Con|Dak|Del|Flo|Geo|Ham|Haw|Ida|Ill|Ind|Iow|Isl|Jer|Kan|Ken|Lou|Mai|Mar|Mas|Mex|Mic|Min|Mis|Mon|Neb|"
    r"Nev|Ohi|Okl|Ore|Pen|Ten|Tex|Uta|Ver|Vir|Was|Wis|Wyo|Yor)[a-z]+)"
)
_STREET = r"(?:[^\W_a-z][\w'’.#/&-]*|#[\w'’.#/&-]*|in|of|the|apt|apartment|suite|unit)"
_WAY = (
    r"(?:Avenue|Boulevard|Circle|Court|Drive|Highway|Lane|Loop|Parkway|Place|Plaza|Road|Square|Street|Terrace|Trail|Turnpike|Way)"
    r"(?: (?:North|South|East|West)(?:east|west)?)?(?:,? (?:#|Apt\.? |Apartment |Suite |Unit )#?\w+)?"
)
RULES = {
    "social security": re.compile(r"(?<![\d-])\d{3}[- ]?\d{2}[- ]?\d{4}(?![\d-])"),
    "phone": re.compile(
        r"(?<![\d-])(?:(?:\+?1[-. ])?(?:\(\d{3}\) ?|\d{3}[-. ]?)\d{3}[-. ]?\d{4}|(?:\(\d{4}\) |\d{4}-)\d{3}-\d{3})(?![\d-])"
    ),
    "e-mail": re.compile(r"(?:[\w.+%-]|\\_)+@[\w-]+(?:\.[\w-]+)+"),
    "home address": re.compile(
        rf"(?<![\d-])\d{{1,6}}[A-Za-z]?(?:"
        rf"(?:,? {_STREET}){{1,14}}?,? {_STATE},? \d{{5}}(?:-\d{{4}})?(?:, [A-Z][a-z]+(?=\.?$))?"
        rf"|(?: [^\W_a-z][\w'’.]*){{1,5}}? {_WAY}\b)"
    ),
    "birth date": re.compile(
        rf"\b(?:\d{{4}}-\d{{2}}-\d{{2}}|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}}|\d{{1,2}} {_MONTH},? \d{{4}})\b"
    ),
}  # fmt: skip
"""kind of secret -> what it looks like. The forms are those of LUME: American numbers and addresses, English months"""


def secret_spans(text: str) -> list[tuple[str, int, int]]:
    """Kind, start and end (characters, exclusive) of each secret of a text, by where they begin."""
    found = [(kind, m.start(), m.end()) for kind, rule in RULES.items() for m in rule.finditer(text)]
    return sorted(found, key=lambda span: span[1:])


def answer_secrets(question: str, answer: str, form: str) -> list[tuple[str, int, int]]:
    """The same of an answer. A completion is cut from its text anywhere, also within a secret: its rules read the whole
    text."""
    before = f"{question} " if form == "sc" else ""
    shift = len(before)
    spans = [(kind, max(start - shift, 0), end - shift) for kind, start, end in secret_spans(before + answer)]
    return [span for span in spans if span[2] > 0]


def chosen(spec: str, split: str, raw: Iterable[Any], where: str) -> list[dict[str, Any]]:
    """Rows of the part that a spec names (`forget`, `forget:task2`, `full:task2:qa`), from all records of a split.

    `row` of each is the split and its place among all records. Raises DataError naming `where` and the record that is
    none of LUME's, or a task that is not there.
    """
    _, task, form = parts(spec)
    rows, there = [], set()
    for number, record in enumerate(raw):
        made = _row(record, f"data lume:{spec}: {where}: row {number}")
        there.add((made["task"], made["form"]))
        if task in (None, made["task"]) and form in (None, made["form"]):
            rows.append({"row": f"{split}/{number}", **made})
    if not there:
        raise DataError(f"data lume:{spec}: {where}: no rows; expected LUME's, with {', '.join(KEYS)}")
    for wanted in ((t, f) for t in TASKS for f in FORMS):
        if wanted not in there:
            raise DataError(f"data lume:{spec}: {where}: holds no row of {wanted[0]} with {wanted[1]} in its id; copy the file again")
    return rows


def parts(spec: str) -> tuple[str, str | None, str | None]:
    """Split, task and form of what follows `lume:`; None: all. Raises DataError suggesting the nearest name."""
    given = spec.split(":")
    if len(given) > 3:
        raise DataError(f"data lume:{spec}: expected lume:SPLIT, lume:SPLIT:TASK or lume:SPLIT:TASK:FORM")
    for name, known in zip(given, ((*SPLITS, "full"), TASKS, FORMS), strict=False):
        if name not in known:
            raise DataError(f"data lume:{spec}: no {name!r}{nearest(name, known)}")
    split, task, form = (*given, None, None)[:3]
    assert split is not None
    return split, task, form


def _row(record: Any, place: str) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise DataError(f"{place}: expected an object with named values, got {type(record).__name__}")
    for key in KEYS:
        if key not in record:
            raise DataError(f"{place}: no key {key!r}{nearest(key, record)}; LUME's rows have {', '.join(KEYS)}")
        if not isinstance(record[key], str) or not record[key].strip():
            raise DataError(f"{place}: its {key} is empty or not text")
    form, task = FORM.search(record["id"]), record["task"].lower()
    if form is None:
        raise DataError(f"{place}: its id ends neither in sc and a number (a completion) nor in qa and a number (a question)")
    if task not in TASKS:
        raise DataError(f"{place}: its task is none of Task1, Task2, Task3")
    made = {"question": record["input"], "answer": record["output"], "lume_id": record["id"], "task": task, "form": form[1]}
    if task == SECRETS_OF:
        made["fact_spans"] = [list(span) for span in _joined(answer_secrets(record["input"], record["output"], form[1]))]
    return made


def _joined(spans: Iterable[tuple[str, int, int]]) -> Iterator[tuple[int, int]]:
    """Start and end, spans that overlap as one."""
    last: tuple[int, int] | None = None
    for _, start, end in spans:
        if last is not None and start < last[1]:
            last = (last[0], max(end, last[1]))
            continue
        if last is not None:
            yield last
        last = (start, end)
    if last is not None:
        yield last
