"""How large the pages of a Parquet column are when unpacked, by their own headers.

A Parquet reader makes room for what a page header says before it sees a byte of the page, whatever the file's table of
contents says. So the headers are read first. A header is a struct in Thrift's compact protocol; its second and third
field are the page's size unpacked and packed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shared.errors import StoreError

UNPACKED, PACKED = 2, 3
DEEPEST = 8
"""structs within structs of a header"""
TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12


def unpacked_sizes(data: bytes, chunk: Any) -> Iterator[int]:
    """Bytes of each page of a column chunk (pyarrow's ColumnChunkMetaData). Raises StoreError where its pages make no
    sense."""
    starts = [chunk.data_page_offset, *([chunk.dictionary_page_offset] if chunk.has_dictionary_page else [])]
    at = min(starts)
    end = at + chunk.total_compressed_size
    if not 0 <= at <= end <= len(data):
        raise StoreError("its columns lie outside of the file; copy the folder again or score again")
    while at < end:
        sizes, at = _header(data, at, end)
        if not (sizes.get(UNPACKED, -1) >= 0 and 0 <= sizes.get(PACKED, -1) <= end - at):
            raise StoreError("its pages lie outside of the file; copy the folder again or score again")
        yield sizes[UNPACKED]
        at += sizes[PACKED]


def _header(data: bytes, at: int, end: int) -> tuple[dict[int, int], int]:
    """The numbers among a struct's fields, by field, and where it ends."""
    fields: dict[int, int] = {}
    number = 0
    while True:
        head, at = _byte(data, at, end)
        if head == 0:
            return fields, at
        kind = head & 15
        if head >> 4:
            number += head >> 4
        else:
            number, at = _zigzag(data, at, end)
        if kind in (4, 5, 6):
            fields[number], at = _zigzag(data, at, end)
        else:
            at = _past(data, at, end, kind, 0)


def _past(data: bytes, at: int, end: int, kind: int, depth: int) -> int:
    """The end of a field that is of no interest."""
    if depth > DEEPEST:
        raise StoreError("its page headers are nested too deeply; copy the folder again or score again")
    if kind in (TRUE, FALSE):
        return at
    if kind in (BYTE, DOUBLE):
        return at + (1 if kind == BYTE else 8)
    if kind in (4, 5, 6):
        return _number(data, at, end)[1]
    if kind == BINARY:
        size, at = _number(data, at, end)
        return at + size
    if kind == STRUCT:
        while True:
            head, at = _byte(data, at, end)
            if head == 0:
                return at
            if not head >> 4:
                at = _number(data, at, end)[1]
            at = _past(data, at, end, head & 15, depth + 1)
    raise StoreError("its page headers have fields that no part has; copy the folder again or score again")


def _byte(data: bytes, at: int, end: int) -> tuple[int, int]:
    if at >= end:
        raise StoreError("its pages end too early; copy the folder again or score again")
    return data[at], at + 1


def _number(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte, at = _byte(data, at, end)
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise StoreError("its page headers hold a number without an end; copy the folder again or score again")


def _zigzag(data: bytes, at: int, end: int) -> tuple[int, int]:
    value, at = _number(data, at, end)
    return (value >> 1) ^ -(value & 1), at
