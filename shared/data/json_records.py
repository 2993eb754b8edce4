"""Text of JSON -> records: an object a line, or one list of objects, read entry by entry in memory of one block.

Valid JSON that no file or model could take (half a character, nesting without end) is refused here, by line or row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any, TextIO

from shared.errors import DataError

BLOCK = 1 << 20
"""characters of a JSON list read at a time"""
NEAR_END = 16
"""characters before the end of a block where a fault may only be the cut: an escape or a literal is no longer"""
NUMBER = 3
"""characters before the end of a block that may belong to a number which ended before them"""
END = object()


def json_records(text: TextIO, where: str) -> Iterator[tuple[int | None, dict]]:
    """JSON lines, each with its number from 1, or one JSON list of objects; blanks and blank lines may come first."""
    number, lead = 1, ""
    while (first := text.read(1)) and first.isspace():
        number, lead = (number + 1, "") if first == "\n" else (number, lead + first)
    if first == "[":
        yield from ((None, record) for record in list_items(text, where))
        return
    for index, line in enumerate(chain([lead + first + text.readline()], text), number):
        if line.strip():
            yield index, line_record(line, f"data {where}: line {index}")


def line_record(line: str, place: str) -> Any:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        spread = line.strip() in ("{", "[")
        hint = "; an object must stand on one line, or all of them in one list [...]" if spread else ""
        raise DataError(f"{place} is not JSON: {error.msg} at column {error.colno}{hint}") from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{place} cannot be read: {_beyond(error)}") from None
    _check_whole(record, line, place)
    return record


def _beyond(error: Exception) -> str:
    """Why valid JSON is still refused."""
    return "it is nested too deeply" if isinstance(error, RecursionError) else "it holds a number of too many digits; quote it"


def list_items(text: TextIO, where: str) -> Iterator[Any]:
    """The entries of a list whose `[` has been read. A block is added until the next entry is whole: of an entry, each
    try doubles it."""
    buffer, passed, row, last = "", 1, 0, False
    while True:
        piece = text.read(max(BLOCK, len(buffer)))
        buffer, last, at = buffer + piece, not piece, 0
        while (found := _next_entry(buffer, at, row, last, passed, where)) is not None:
            entry, end = found
            if entry is END:
                rest = buffer[end:].strip() or next((line.strip() for line in text if line.strip()), "")
                if rest:
                    raise DataError(f"data {where}: not valid JSON: more text after the end of its list")
                return
            yield entry
            at, row = end, row + 1
        if last:
            raise DataError(f"data {where}: not valid JSON: the list has no end after row {row - 1}; the file was cut off")
        buffer, passed = buffer[at:], passed + at


def _next_entry(buffer: str, at: int, row: int, last: bool, passed: int, where: str) -> tuple[Any, int] | None:
    """-> the entry that begins behind `at` (END: the list ends there) and where it ends; None: the buffer is cut within
    it."""
    place = f"row {row} of its list"
    at = _past_blanks(buffer, at)
    if buffer[at : at + 1] == "]":
        return END, at + 1
    if row and at < len(buffer):
        if buffer[at] != ",":
            raise DataError(f"data {where}: not valid JSON: expected a comma or ] before {place}, at character {passed + at + 1}")
        at = _past_blanks(buffer, at + 1)
    if at == len(buffer):
        return None
    try:
        entry, end = json.JSONDecoder().raw_decode(buffer, at)
    except json.JSONDecodeError as error:
        if not last and (error.msg.startswith("Unterminated") or error.pos >= len(buffer) - NEAR_END):
            return None
        raise DataError(f"data {where}: not valid JSON: {error.msg} in {place}, at character {passed + error.pos + 1}") from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"data {where}: {place} cannot be read: {_beyond(error)}") from None
    if end >= len(buffer) - NUMBER and not last:
        return None  # a number may go on: of "0.5" cut to "0." the 0 is read
    _check_whole(entry, buffer[at:end], f"data {where}: {place}")
    return entry, end


def _past_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _check_whole(record: Any, source: str, place: str) -> None:
    """Refuses half a character: JSON can write one (`\\ud800`), but no file of text can hold it."""
    if "\\ud" not in source and "\\uD" not in source:
        return
    for name, value in record.items() if isinstance(record, dict) else [("value", record)]:
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{place}: its {name!a} holds half of a character (a lone surrogate, such as \\ud800); write the whole one, or remove it"
            ) from None
        except RecursionError:
            raise DataError(f"{place} cannot be read: it is nested too deeply") from None
