"""Files of rows -> records: JSON lines, one JSON list, CSV, TSV, Parquet; text forms also compressed; a path or an
fsspec URL.

Everything is read as a stream: memory holds one record, or one block of it, however large the file. What cannot be read
is a DataError that names the file, the place in it, and what to do.
"""

from __future__ import annotations

import csv
import io
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from shared.data.json_records import json_records
from shared.errors import DataError, UserError, nearest
from shared.files.remote import find_files, is_url, reached
from shared.secret import without_secrets

KINDS = ("tofu:", "atlas:", "lume:", "hub:")
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
COMPRESSED = (".gz", ".xz", ".bz2", ".zst")
READABLE = f"{', '.join(SUFFIXES[:-1])} (also with {', '.join(COMPRESSED)}) or {SUFFIXES[-1]}"
LFS = b"version https://git-lfs.github.com/spec/"
MAGIC = {
    b"PAR1": ".parquet", b"\x1f\x8b": ".gz", b"\xfd7zXZ\x00": ".xz", b"\x28\xb5\x2f\xfd": ".zst", b"PK\x03\x04": ".zip",
}  # fmt: skip
"""how files begin that are no text -> how their names should end"""
WEB = ("http://", "https://")
HEAD = 16
"""bytes that tell text from what is none"""
BATCH = 1024
"""rows of a Parquet file made at a time"""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}")
"""of a column, and of no sentence"""
LISTED = 5
"""files of a folder that a message names"""
END = object()


@dataclass
class Position:
    """Where in a file the record stands that was read last."""

    line: int | None = None
    """from 1; None in files without lines, and in a JSON list"""

    def of(self, spec: str) -> str:
        return spec if self.line is None else f"{spec}:{self.line}"


def file_records(spec: str, at: Position | None = None) -> tuple[str, Iterator[dict]]:
    """-> what its rows are called, and its records as they are; `at` says where the last one stood. Raises DataError
    naming the file, where reading fails also later."""
    where = spec if is_url(spec) else str(Path(spec).expanduser())
    _check_there(where, without_secrets(spec))
    name, form, packing = _parts(without_secrets(where))
    if form is None:
        raise DataError(f"data {without_secrets(spec)}: expected a file that ends in {READABLE}")
    records = _parquet(where) if form == ".parquet" else _text_records(where, form, packing, at or Position())
    return f"{name}/rows", _remote(where, records) if is_url(where) else records


def _parts(where: str) -> tuple[str, str | None, str]:
    """-> the file's name without endings, its form (None: none that is read), and how it is compressed ("": not)."""
    if where.startswith(WEB):  # what follows the path is for the server
        where = re.split(r"[?#]", where, maxsplit=1)[0]
    name = Path(where).name
    packing = Path(name).suffix.lower()
    if packing in COMPRESSED:
        name = name[: -len(packing)]
    else:
        packing = ""
    form = Path(name).suffix
    known = form.lower() in SUFFIXES and not (packing and form.lower() == ".parquet")
    return name.removesuffix(form), form.lower() if known else None, packing


def _check_there(where: str, spec: str) -> None:
    if is_url(where):
        files, path = _found(where)
        try:
            about = _reached(where, "looked up", lambda: files.info(path))
        except FileNotFoundError:
            raise DataError(f"data {spec}: no such file") from None
        if about["type"] == "directory":
            names = _reached(where, "listed", lambda: files.ls(path, detail=False))
            raise DataError(_is_folder(spec, [str(name).rstrip("/").rpartition("/")[2] for name in names]))
    elif not Path(where).exists():
        if ":" in spec or not Path(where).suffix:
            kind = spec.split(":")[0] + ":"
            raise DataError(f"data {spec}: unknown data spec{nearest(kind, KINDS)}; or the path of a {READABLE} file")
        raise DataError(f"data {spec}: no such file")
    elif Path(where).is_dir():
        raise DataError(_is_folder(spec, [entry.name for entry in Path(where).iterdir() if entry.is_file()]))


def _is_folder(spec: str, names: list[str]) -> str:
    found = sorted(name for name in names if _parts(name)[1] is not None)
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    holds = f"it holds {', '.join(found[:LISTED])}{more}" if found else f"it holds none that can be read ({READABLE})"
    return f"data {spec}: is a folder; name the file in it: {holds}"


def _remote(url: str, records: Iterator[dict]) -> Iterator[dict]:
    """The same records; what the remote file system raises on the way becomes one line."""
    while (record := _reached(url, "read", lambda: next(records, END))) is not END:
        yield record  # type: ignore[misc]


def reason(error: Exception, silent: str = "") -> str:
    """The first line of what an error says (of one that says nothing: `silent`, or its kind), without credentials."""
    return without_secrets((str(error).splitlines() or [""])[0][:200].strip()) or silent or type(error).__name__


def _found(url: str) -> tuple[Any, str]:
    try:
        return find_files(url)
    except UserError as error:
        raise type(error)(without_secrets(str(error))) from None


def _reached(url: str, done: str, call: Callable[[], Any]) -> Any:
    """`reached`; what libraries say of a URL may hold its credentials."""
    try:
        return reached(without_secrets(url), done, call)
    except UserError as error:
        raise type(error)(without_secrets(str(error))) from None


@contextmanager
def _opened(where: str) -> Iterator[BinaryIO]:
    """The bytes of a file from its beginning, which is not that of a Git LFS pointer."""
    if is_url(where):
        files, path = _found(where)
        handle = _reached(where, "opened", lambda: files.open(path, "rb"))
    else:
        handle = open(where, "rb")  # noqa: SIM115 (closed below)
    with handle:
        head = handle.read(len(LFS))
        handle.seek(0)
        if head == LFS:
            raise DataError(f"data {without_secrets(where)}: it is a Git LFS pointer, not the data itself; fetch it with git lfs pull")
        yield handle


def _parquet(where: str) -> Iterator[dict]:
    import pyarrow
    import pyarrow.parquet

    first = 0
    try:
        with _opened(where) as handle, pyarrow.parquet.ParquetFile(handle, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=BATCH):
                yield from batch.to_pylist()
                first += len(batch)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"data {without_secrets(where)}: not a readable Parquet file: {reason(error)}") from None
    except (ValueError, OverflowError) as error:  # text that is no UTF-8, dates out of range; the error would quote them
        raise DataError(
            f"data {without_secrets(where)}: not a readable Parquet file: a value in rows {first} to {first + BATCH - 1} cannot "
            f"be read ({type(error).__name__}): text that is not UTF-8, or a date out of range"
        ) from None


def _text_records(where: str, form: str, packing: str, at: Position) -> Iterator[dict]:
    shown = without_secrets(where)
    try:
        with ExitStack() as stack:
            unpacked = io.BufferedReader(_unpacked(stack.enter_context(_opened(where)), packing))  # type: ignore[arg-type]
            _check_text(unpacked.peek(HEAD)[:HEAD], shown)
            # Some editors begin a file with a byte-order mark. The csv module wants line ends as they are.
            text = stack.enter_context(io.TextIOWrapper(unpacked, encoding="utf-8-sig", newline=None if "json" in form else ""))
            mark = "\t" if form == ".tsv" else ","
            for at.line, record in json_records(text, shown) if "json" in form else _csv_records(text, shown, mark):
                yield record
    except UnicodeDecodeError as error:
        raise DataError(f"data {shown}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    except (OSError, EOFError, zlib.error, *_lzma_errors()) as error:
        raise DataError(f"data {shown}: cannot be read: {getattr(error, 'strerror', None) or reason(error, 'it ends too early')}") from None


def _lzma_errors() -> tuple[type[Exception], ...]:
    import lzma

    return (lzma.LZMAError,)


def _unpacked(handle: BinaryIO, packing: str) -> Any:
    """The handle's bytes without their compression."""
    import bz2
    import gzip
    import lzma

    if packing == ".zst":
        import pyarrow

        return pyarrow.CompressedInputStream(pyarrow.PythonFile(handle, "r"), "zstd")
    opener: dict[str, Callable[[Any], Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
    return opener[packing](handle) if packing else handle


def _check_text(head: bytes, where: str) -> None:
    for magic, suffix in MAGIC.items():
        if head.startswith(magic):
            advice = "unpack it" if suffix == ".zip" else f"let its name end in {suffix}"
            raise DataError(f"data {where}: begins like a {suffix} file, not like text; {advice}")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
        raise DataError(f"data {where}: not UTF-8 text: begins like UTF-16, or with zero bytes; save it as UTF-8, or copy it again")


def _csv_records(text: TextIO, where: str, delimiter: str) -> Iterator[tuple[int, dict]]:
    """With the line on which each ends. Cells are text as they stand; an empty one is empty text."""
    csv.field_size_limit(2**31 - 1)  # a cell may be a whole book
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        header = next(filter(None, reader), [])
        if repeated := sorted({name for name in header if header.count(name) > 1}):
            named = ", ".join(repr(name) for name in repeated) if all(map(NAME.fullmatch, header)) else "a column"
            raise DataError(f"data {where}: its header names {named} twice; give each column a name of its own")
        for cells in filter(None, reader):
            if len(cells) != len(header):
                raise DataError(
                    f"data {where}: line {reader.line_num}: {len(cells)} cells, its header has {len(header)}; put cells in quotes that "
                    f"hold {'a tab' if delimiter == chr(9) else 'a comma'}, a quote or a line end"
                )
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"data {where}: line {reader.line_num}: not valid CSV: {error}") from None
