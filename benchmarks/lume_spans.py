"""What the rules of shared/data/lume.py find of LUME's secrets, and what they miss, as a table for docs/lume.md.

    TU_LUME_DIR=... python -m benchmarks.lume_spans [--doc docs/lume.md]

A row asks for a kind of secret by the words of its question; its answer is then that secret. Which kinds a completion's
text holds is told from the answers to the questions about the same person, not from the rules: the digits of a number,
the letters of an e-mail address, the number of a house, the year of a birth. Found is a secret of which a rule takes
every character (of a completion: of the house number and of the year).
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from shared.data.datasets import Row, load_rows
from shared.data.lume import RULES, SPLITS, secret_spans

ASKED = {
    "birth date": "birth date", "Social Security": "social security", "phone number": "phone", "email address": "e-mail",
    "home address": "home address",
}  # fmt: skip
"""words of a question -> the kind of secret that answers it"""
BEGIN, END = "<!-- spans -->\n", "<!-- /spans -->\n"


def persons(split: str) -> Iterator[dict[str, Row]]:
    """Of each person the questions by kind, and the completion."""
    out: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in load_rows(f"lume:{split}:task2"):
        kind = next((kind for words, kind in ASKED.items() if words in (row.question or "")), "other")
        asked = kind if row.extra["form"] == "qa" else "completion"
        out[re.sub(r"(sc|qa)\d+$", "", row.extra["lume_id"])][asked] = row
    yield from out.values()


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9@]", "", text.lower())


def telling(kind: str, answer: str) -> str:
    """What of an answer stands in the biography's text too, however that is written."""
    return {"home address": answer.split()[0], "birth date": answer[:4]}.get(kind, _plain(answer))


def judged(person: dict[str, Row]) -> Iterator[tuple[str, str, str, bool]]:
    """(kind, form, id, found) of each secret of a person."""
    text = f"{person['completion'].question} {person['completion'].answer}"
    spans = secret_spans(text)
    for kind in RULES:
        row = person[kind]
        end = len(row.answer.rstrip("."))
        yield kind, "question", row.extra["lume_id"], [kind, 0, end] in [list(s) for s in secret_spans(row.answer)]
        wanted = telling(kind, row.answer)
        there = re.search(rf"(?<!\d){wanted}(?!\d)", text) if kind in ("home address", "birth date") else wanted in _plain(text)
        if there:
            found = any(
                k == kind and wanted in (text[a:b] if kind in ("home address", "birth date") else _plain(text[a:b])) for k, a, b in spans
            )
            yield kind, "completion", person["completion"].extra["lume_id"], found


def table() -> str:
    """Markdown."""
    rows: dict[tuple[str, str], list[tuple[str, bool]]] = defaultdict(list)
    for split in SPLITS:
        for person in persons(split):
            for kind, form, name, found in judged(person):
                rows[kind, form].append((name, found))
    lines = ["| kind | rows | hold it | found | missed | which |", "|---|---|---|---|---|---|"]
    for (kind, form), judgements in sorted(rows.items(), key=lambda item: (item[0][1], item[0][0])):
        missed = [name for name, found in judgements if not found]
        named = ", ".join(f"`{name}`" for name in missed)
        lines.append(f"| {kind} | {form}s | {len(judgements)} | {len(judgements) - len(missed)} | {len(missed)} | {named} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--doc", type=Path, help="page whose table is replaced")
    given = parser.parse_args()
    made = table()
    print(made, end="")
    if given.doc is not None:
        before, _, rest = given.doc.read_text(encoding="utf-8").partition(BEGIN)
        given.doc.write_text(before + BEGIN + made + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
