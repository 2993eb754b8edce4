"""One file changed at random, so that it is still read: a value of JSON, TOML or Parquet replaced by a hostile one,
bits and bytes of any file, files that are no files, files that should not be there. Then the hashes that somebody who
edits would recompute too."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

CANARY = "PWNED"
"""a file of this name anywhere means that code was run"""
CODE = f"__import__('os').system('touch {CANARY}')"
TEMPLATE = f"{{{{ cycler.__init__.__globals__.os.system('touch {CANARY}') }}}}"
DEEP = 100_000


def hostile(rng: random.Random) -> Any:
    """A value that some reader would trip over."""
    nested: Any = []
    for _ in range(rng.choice((3, 900))):
        nested = [nested]
    return rng.choice(
        [
            None, True, False, 0, -1, 1, 2**31, 2**31 - 1, 2**63, -(2**63), 10**400, 1e308, -1e308, 1e-320, -0.0, 0.5, float("nan"),
            float("inf"), "", " ", "x", "\ud800", "\x00", "\x1b[2J\x1b]0;x\x07", "\u202e", "a\nb", "NaN", "1e999", "../../outside/secret",
            "/dev/zero", "/etc/hostname", "outside", "s3://bucket/x", "https://me:PASSWORD@127.0.0.1:9/x", "x" * 300, "x" * 100_000,
            CODE, TEMPLATE, "part-00000.parquet", "float64", "cuda", "nan", [], {}, [None], [[]], nested, [1e308], ["x"] * 1000,
            {"x": {}}, {"": None}, [0, 2147483647], [{"start": 0, "end": 2147483647}], list(range(-3, 300)),
        ]
    )  # fmt: skip


def change(path: Path, rng: random.Random) -> str:
    """Changes the file, and says how."""
    kinds: dict[str, Callable[[Path, random.Random], str]] = {
        ".json": _json, ".jsonl": _lines, ".toml": _toml, ".yaml": _toml, ".parquet": _parquet, ".safetensors": _safetensors,
    }  # fmt: skip
    roll, special = rng.random(), kinds.get(path.suffix)
    if roll < 0.05:
        return _no_file(path, rng)
    if roll < 0.1:
        return _plant(path.parent, rng)
    return special(path, rng) if special and roll < 0.8 else _bytes(path, rng)


def _bytes(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    if not data:
        path.write_bytes(rng.randbytes(7))
        return "filled"
    at, how = rng.randrange(len(data)), rng.choice(("flip", "cut", "insert", "delete", "double", "zeros", "end"))
    if how == "flip":
        for _ in range(rng.choice((1, 1, 20))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[at:]
    elif how == "insert":
        data[at:at] = rng.choice((rng.randbytes(5), b"\xff\xfe", b"[" * DEEP, b"9" * 5000, b'{"a":' * DEEP))
    elif how == "delete":
        del data[at : at + rng.choice((1, 8, 100))]
    elif how == "double":
        data[at:at] = data[:at]
    elif how == "zeros":
        data[at : at + 64] = bytes(64)
    else:
        data += rng.choice((b"\x00", b"\n", rng.randbytes(100)))
    path.write_bytes(data)
    return how


def _no_file(path: Path, rng: random.Random) -> str:
    """The name leads to something that is not the file."""
    outside = os.path.relpath(Path.cwd(), path.parent)
    path.unlink()
    how = rng.choice(("nothing", "pipe", "folder", "empty", "/dev/zero", "/dev/null", "secret", "itself", "victim"))
    if how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "empty":
        path.touch()
    elif how != "nothing":
        path.symlink_to(how if how.startswith("/") else path.name if how == "itself" else f"{outside}/outside/{how}")
    return how


PLANTED = (
    "adapter_config.json", "model.safetensors.index.json", "modeling_x.py", "pytorch_model.bin", "_lock", ".tmp-log.jsonl", "_next",
    "_progress", "log.jsonl", "training.json", "summary.json", "chat_template.jinja", "generation_config.json",
    "preprocessor_config.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json",
    "rehearsal", "reserved", "tensorboard",
)  # fmt: skip


def _plant(folder: Path, rng: random.Random) -> str:
    """A file that should not be there, among them the names that writers use."""
    name = rng.choice(PLANTED)
    path = folder / name
    if os.path.lexists(path):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    how = rng.choice(("link", "json", "code", "folder", "index"))
    if how == "link":
        path.symlink_to(Path.cwd() / "outside" / "victim")
    elif how == "folder":
        path.mkdir()
        (path / "_manifest.json").write_text("{}")
    elif how == "index":
        path.write_text(json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": rng.choice(("../outside/secret", "/dev/zero", "x"))}}))
    else:
        path.write_text(json.dumps(hostile(rng)) if how == "json" else f"import os\n{CODE}\n{TEMPLATE}\n")
    return f"{name} as {how}"


def _walk(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, entry in inside for found in [(*place, key), *_walk(entry, (*place, key))]]


def edit(value: Any, rng: random.Random) -> tuple[Any, str]:
    """One value somewhere inside is replaced, removed, renamed, doubled or moved."""
    places = _walk(value)
    if not places or rng.random() < 0.02:
        return hostile(rng), "whole"
    *above, last = place = rng.choice(places)
    holder = value
    for key in above:
        holder = holder[key]
    how = rng.choice(("replace", "replace", "replace", "remove", "rename", "near", "swap"))
    if how == "remove":
        del holder[last]
    elif how == "rename" and isinstance(holder, dict):
        holder[rng.choice(("x", "", "format", str(last) * 2))] = holder.pop(last)
    elif how == "near" and isinstance(holder[last], (int, float)):
        holder[last] = holder[last] * rng.choice((-1, 2, 1e9, 1 + 1e-9)) + rng.choice((0, 1, -1))
    elif how == "swap" and len(places) > 1:
        other = value
        for key in rng.choice(places):
            other = other[key]
        holder[last] = json.loads(json.dumps(other))
    else:
        holder[last] = hostile(rng)
    return value, f"{how} {'.'.join(map(str, place))[:80]}"


def _json(path: Path, rng: random.Random) -> str:
    value, how = edit(json.loads(path.read_text()), rng)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=rng.random() < 0.5).encode("utf-8", "replace").decode() + "\n")
    return how


def _lines(path: Path, rng: random.Random) -> str:
    lines = path.read_text().splitlines()
    at = rng.randrange(len(lines))
    value, how = edit(json.loads(lines[at]), rng)
    lines[at] = json.dumps(value)
    path.write_text("".join(line + "\n" for line in lines))
    return f"line {at}: {how}"


LITERALS = (
    "", "nan", "inf", "-1", "0", "1e400", "99999999999999999999999", '""', '"x"', "true", "[]", "[[]]", "{}", '"\\u0000"', "x = 1",
    '"../outside/secret"', f'"{CODE}"', f'"{TEMPLATE}"', "!function os.system", "[" * 2000, '"' + "x" * 100_000 + '"', "9" * 5000,
)  # fmt: skip


def _toml(path: Path, rng: random.Random) -> str:
    lines = path.read_text().splitlines()
    at = rng.randrange(len(lines))
    sign = "=" if path.suffix == ".toml" else ":"
    name = lines[at].partition(sign)[0]
    lines[at] = rng.choice((f"{name}{sign} {rng.choice(LITERALS)}", f"x{sign} {rng.choice(LITERALS)}", lines[at] + lines[at], ""))
    path.write_text("\n".join(lines) + "\n")
    return f"line {at}: {lines[at][:60]}"


def _parquet(path: Path, rng: random.Random) -> str:
    """A value, a column or a type; written again, so that its checksums hold."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    name = rng.choice(table.column_names)
    at, how = table.column_names.index(name), rng.choice(("value", "value", "value", "drop", "text", "rename", "rows", "double"))
    if how == "drop":
        table = table.drop_columns([name])
    elif how == "text":
        table = table.set_column(at, name, pa.array([json.dumps(hostile(rng)) for _ in range(len(table))]))
    elif how == "rename":
        table = table.rename_columns([f"{c}x" if c == name else c for c in table.column_names])
    elif how == "rows":
        table = table.slice(0, rng.randrange(len(table) + 1))
    elif how == "double":
        table = pa.concat_tables([table, table])
    else:
        values = table.column(name).to_pylist()
        row = rng.randrange(len(values)) if values else 0
        try:
            values[row], _ = edit(values[row], rng) if isinstance(values[row], (list, dict)) else (hostile(rng), "")
            table = table.set_column(at, table.schema.field(name), pa.array(values, type=table.schema.field(name).type))
        except (pa.ArrowException, OverflowError, TypeError, ValueError, IndexError):
            table = table.set_column(at, table.schema.field(name), pa.nulls(len(table), table.schema.field(name).type))
            how = "nulls"
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)
    return f"{how} {name}"


def _safetensors(path: Path, rng: random.Random) -> str:
    """Its header as JSON, or a number of a tensor."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if rng.random() < 0.4:
        at = 8 + length + 4 * rng.randrange((len(data) - 8 - length) // 4)
        number = rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f", b"\x00\x00\x00\x00"))
        path.write_bytes(data[:at] + number + data[at + 4 :])
        return "number"
    header, how = edit(json.loads(data[8 : 8 + length]), rng)
    text = json.dumps(header).encode()
    size = rng.choice((len(text), len(text), len(text), 2**63 - 1, 2**40, 0))
    path.write_bytes(size.to_bytes(8, "little") + text + data[8 + length :])
    return f"header: {how}"
