"""What a GGUF file says of itself, read within bounds before any library opens it: 4 bytes `GGUF`, a version, how many
tensors and entries there are, the entries (architecture, sizes, tokenizer), and of each tensor its name, shape, kind
and place.

Nothing that the file says is believed: a length is compared with a limit, and then with what the file still holds.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from shared.errors import ModelError
from shared.files.fs import open_regular

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_ENTRIES, MOST_TENSORS, MOST_DIMENSIONS, MOST_EXPERTS = 10_000, 200_000, 4, 10_000
LONGEST_ARRAY = 1 << 22
"""values; vocabularies and merges have some hundred thousand"""
LONGEST_TEXT, LONGEST_NAME = 1 << 22, 1 << 10
"""bytes; of a chat template, of a key or the name of a tensor"""
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""kind of a value -> form of struct; 8 is a text, 9 an array"""
TEXT, ARRAY = 8, 9
SEEING = ("clip", "mllama-vision")
EMBEDDING = ("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "eurobert",
             "t5encoder", "gemma-embedding")  # fmt: skip
KINDS = {"mmproj": "the part of a model that sees or hears", "adapter": "a LoRA adapter", "vocab": "a vocabulary without weights",
         "imatrix": "a table for quantising"}  # fmt: skip
"""general.type -> what it is in words"""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the file says, within bounds."""

    values: dict[str, Any]
    """key -> number, text, or list of them"""
    elements: dict[str, int]
    """tensor -> how many numbers it has"""

    @property
    def architecture(self) -> str:
        return self.values["general.architecture"]

    def own(self, key: str) -> Any:
        """The entry that begins with the architecture's name, or None."""
        return self.values.get(f"{self.architecture}.{key}")


class _Reader:
    def __init__(self, name: str, handle: BinaryIO, size: int):
        self.name, self.handle, self.size = name, handle, size

    def damaged(self, what: str) -> ModelError:
        return ModelError(f"model {self.name}: its GGUF file is damaged ({what}); download it again")

    def bytes(self, count: int) -> bytes:
        found = self.handle.read(count)
        if len(found) < count:
            raise ModelError(f"model {self.name}: its GGUF file is cut short, within its header ({self.size} bytes); download it again")
        return found

    def number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.bytes(struct.calcsize(f"<{form}")))[0]

    def count(self, form: str, most: int, what: str) -> int:
        found = self.number(form)
        if found > most:
            raise self.damaged(f"{what}: {found:,}, expected at most {most:,}")
        return found

    def text(self, longest: int = LONGEST_TEXT) -> str:
        try:
            return self.bytes(self.count("Q", longest, "bytes of a text")).decode()
        except UnicodeDecodeError:
            raise self.damaged("a text that is not UTF-8") from None

    def value(self, kind: int, key: str) -> Any:
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            raise self.damaged(f"{key[:80]!r} is of kind {kind}, which is unknown")
        inner, length = self.number("I"), self.count("Q", LONGEST_ARRAY, f"values of {key[:80]!r}")
        if inner == TEXT:
            return [self.text() for _ in range(length)]
        if inner not in NUMBERS:
            raise self.damaged(f"{key[:80]!r} has values of kind {inner}, which is unknown")
        form = f"<{length}{NUMBERS[inner]}"
        return list(struct.unpack(form, self.bytes(struct.calcsize(form))))


def read_header(name: str, file: Path) -> Header:
    """Raises ModelError for a file that is none, is cut short, of an unknown version, or damaged.

    `name`: the model as the user named it.
    """
    size = file.stat().st_size
    with open_regular(file) as handle:
        reader = _Reader(name, handle, size)
        if reader.bytes(4) != MAGIC:
            raise ModelError(f"model {name}: {file.name} is no GGUF file (it does not begin with GGUF); download it again")
        version = reader.number("I")
        if version not in VERSIONS:
            other = "; it was written for machines of the other byte order" if version >> 16 and not version & 0xFFFF else ""
            raise ModelError(f"model {name}: its GGUF file has version {version}, expected 2 or 3{other}; get a newer file of the model")
        tensors = reader.count("Q", MOST_TENSORS, "tensors")
        values: dict[str, Any] = {}
        for _ in range(reader.count("Q", MOST_ENTRIES, "entries")):
            key = reader.text(LONGEST_NAME)
            if key in values:
                raise reader.damaged(f"{key[:80]!r} stands there twice")
            values[key] = reader.value(reader.number("I"), key)
        elements, end = _tensors(reader, tensors)
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 16 or alignment & (alignment - 1):
            raise reader.damaged(f"general.alignment: {str(alignment)[:40]}, expected a power of two")
        expected = -(-handle.tell() // alignment) * alignment + end
    if size < expected:
        raise ModelError(
            f"model {name}: its GGUF file is cut short: it has {size} bytes, and its header says {expected}; download it again"
        )
    return Header(values=values, elements=elements)


def _tensors(reader: _Reader, count: int) -> tuple[dict[str, int], int]:
    """-> tensor -> how many numbers it has; where the last one ends, in bytes from where the first begins."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    sizes = {int(kind): GGML_QUANT_SIZES[kind] for kind in GGMLQuantizationType if kind in GGML_QUANT_SIZES}
    elements: dict[str, int] = {}
    end = 0
    for _ in range(count):
        name = reader.text(LONGEST_NAME)
        if name in elements:
            raise reader.damaged(f"tensor {name[:80]!r} stands there twice")
        shape = [reader.number("Q") for _ in range(reader.count("I", MOST_DIMENSIONS, f"dimensions of {name[:80]!r}"))]
        kind, begin = reader.number("I"), reader.number("Q")
        if kind not in sizes:
            raise ModelError(f"model {reader.name}: tensor {name[:80]!r} of its GGUF file is of kind {kind}, which nothing here reads; "
                             "get the model in another quantisation, such as Q8_0")  # fmt: skip
        block, width = sizes[kind]
        if not shape or 0 in shape or shape[0] % block:
            raise reader.damaged(f"tensor {name[:80]!r} has the shape {shape}")
        elements[name] = prod(shape)
        end = max(end, begin + elements[name] // block * width)
    return elements, end


def check_kind(name: str, header: Header) -> None:
    """Raises ModelError for what is no language model, or only a piece of one, and for counts beyond reason."""
    architecture, kind = header.values.get("general.architecture"), header.values.get("general.type", "model")
    if not isinstance(architecture, str) or not architecture:
        raise ModelError(f"model {name}: its GGUF file names no architecture (general.architecture); download it again")
    pieces = header.values.get("split.count", 1)
    if isinstance(pieces, int) and pieces > 1:
        raise split_form(name, pieces)
    what = "the part of a model that sees" if architecture in SEEING else KINDS.get(kind) if isinstance(kind, str) else None
    if what is None and (architecture in EMBEDDING or header.own("attention.causal") is False or header.own("pooling_type")):
        what = "an embedding model"
    if what is not None:
        raise ModelError(f"model {name}: its GGUF file holds {what} ({architecture}), not a language model that goes on with a text; "
                         "name the GGUF file of one")  # fmt: skip
    for key, most in (("block_count", len(header.elements)), ("expert_count", MOST_EXPERTS)):
        found = header.own(key)
        if found is not None and (isinstance(found, (list, str)) or not 0 <= found <= most):
            raise ModelError(f"model {name}: its GGUF file is damaged ({architecture}.{key}: {str(found)[:40]}, "
                             f"with {len(header.elements)} tensors); download it again")  # fmt: skip


def split_form(name: str, pieces: int) -> ModelError:
    """Files as llama.cpp splits them: each has a header of its own, so that they cannot be put one behind the other."""
    return ModelError(f"model {name}: is one of {pieces} files of a split GGUF (-00001-of-{min(pieces, 99999):05}.gguf); "
                      "merge them with llama-gguf-split --merge FIRST OUT.gguf, and name OUT.gguf")  # fmt: skip
