"""Retain rows, fine-tuning rows and other answers in a file: the steps of lists, in memory that does not grow."""

import errno
import gc
import json
import mmap
import os
import tempfile
import tracemalloc
from dataclasses import replace
from itertools import islice
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from shared.data.datasets import load_rows
from shared.data.examples import DataHash, data_fingerprint, make_examples
from shared.errors import DataError
from shared.files.fs import hash_json
from shared.lm.models import context_length, load_laid_out, locate
from tests.tu_train.conftest import FORGET, RETAIN
from tu_train.config import FinetuneConfig
from tu_train.data.batches import Item, endless, item_of_example
from tu_train.data.filed import filed, filed_by_name
from tu_train.data.partners import fingerprint_of, partner_items
from tu_train.data.sources import RetainRows, fingerprint, read_retain
from tu_train.data.streams import Order, finetuning_stream
from tu_train.gather import gather_finetuning, read_items

DATA = {
    "English": "atlas:retain",
    "Chinese": "atlas:retain:language=zh",
    "Arabic": "atlas:retain:language=ar",
    "raw text": "atlas:documents-retain",
}


def told(item: Item | None):
    """All of an item, to be compared."""
    if item is None:
        return None
    arrays = (item.weights, item.ref_logp, item.places, item.top_ids, item.top_logp)
    kept = [None if a is None else (a.dtype.str, a.tolist()) for a in arrays]
    return item.name, item.ids, item.positions, kept, told(item.partner)


def told_steps(steps):
    return [[([told(i) for i in rows.forget], [told(i) for i in rows.retain], rows.corpus) for rows in passes] for passes in steps]


def out(folder: Path) -> str:
    return str(folder / "work" / "out")


def examples(data: str, tokenizer, **options):
    return make_examples(load_rows(DATA.get(data, data), limit=20), tokenizer, context=None, **options)


# --- the same as lists


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize("data", DATA)
def test_steps_are_those_of_lists(data, seed, any_tokenizer, tmp_path):
    """... of the whole run, and of one that goes on in the middle."""
    made = examples(data, any_tokenizer, text_length=40)
    items = [item_of_example(e) for e in made]
    forget = frozenset(fingerprint(item.ids) for item in items[2:4])

    def lists() -> RetainRows:  # what training held before there was a file
        kept = [i for i in items if fingerprint(i.ids) not in forget]
        return RetainRows(len(kept), lambda n, corpus=0: endless(kept, seed=seed, start=n, corpus=corpus), kept[:3])

    found = read_retain(iter(items), forget, where="data", seed=seed, evaluated=3, out=out(tmp_path))
    assert found.count == lists().count < len(items)
    assert [told(i) for i in found.first] == [told(i) for i in lists().first]
    order = Order(epochs=2, seed=seed, batch_size=3, accumulate=2, batch_tokens=150)
    streams = [finetuning_stream(rows, order) for rows in (found, lists())]
    steps = order.steps(found.count)
    for first in (0, 1, steps // 2 + 1):
        mine, expected = (told_steps(stream(first)) for stream in streams)
        assert len(mine) == steps - first and mine == expected
    for corpus in (0, 1):
        mine, expected = ([told(i) for i in islice(rows.start(5, corpus=corpus), 40)] for rows in (found, lists()))
        assert mine == expected


names = st.text(st.characters(codec=None), max_size=12)  # halves of pairs too: names of files may hold them


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(names, st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1, max_size=9)), max_size=6))
def test_any_row_comes_back_as_it_was(tmp_path_factory, rows):
    items = []
    for name, tokens in rows:
        positions = [i for i, (_, target) in enumerate(tokens) if target]
        logp = -np.arange(len(positions), dtype=np.float32) / 3
        items.append(Item([i for i, _ in tokens], positions, np.ones(len(positions), dtype=np.float32), logp, name))
    place = out(tmp_path_factory.getbasetemp())
    found = filed(items, out=place, reference=True)
    assert [told(i) for i in found] == [told(i) for i in items] and len(found) == len(items)
    assert [told(i) for i in filed(items, out=place)] == [told(replace(i, ref_logp=None)) for i in items]
    assert all(type(i) is int for item in found for i in (*item.ids, *item.positions)), "as the rows of a store have them"


@pytest.mark.parametrize("data", [FORGET, "atlas:forget:language=zh,people=9"])
def test_other_answers_are_those_of_a_dictionary_and_so_is_their_fingerprint(data, any_tokenizer, tmp_path):
    made = examples(data, any_tokenizer)
    answers = {e.id: ["I don't know.", "我不知道。", "لا أعرف"] for e in made}
    expected = {i.name: i for i in partner_items(made, any_tokenizer, answers, seed=0, context=None)}
    found = filed_by_name(partner_items(made, any_tokenizer, answers, seed=0, context=None), out=out(tmp_path))
    assert list(found) == list(expected) and len(found) == len(expected)
    assert {name: told(item) for name, item in found.items()} == {name: told(item) for name, item in expected.items()}
    assert "nobody" not in found and made[0].id in found
    assert fingerprint_of(found) == fingerprint_of(expected) == hash_json({name: item.ids for name, item in expected.items()})


@pytest.mark.parametrize("long", ["truncate", "skip"])
def test_what_a_run_reads_is_what_lists_held(long, tiny_model, tmp_path, capsys):
    """... the fingerprint, and what is said of rows that do not fit, too."""
    data = tmp_path / "data.jsonl"
    rows = [{"question": f"谁 {n}?", "answer": "Ada " * (400 if n % 3 == 1 else n + 1)} for n in range(9)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = FinetuneConfig(model=str(tiny_model), data=str(data), out=out(tmp_path), long=long)
    folder = locate(config.model)
    tokenizer = load_laid_out(config.model, folder, config)
    made = make_examples(load_rows(config.data), tokenizer, context=context_length(folder), long=long)
    before = capsys.readouterr().err
    read = gather_finetuning(config)
    assert capsys.readouterr().err == before and ("left out 3 of 9" in before) == (long == "skip")
    assert read.about["data"] == data_fingerprint(made)
    assert read.learned is not None and read.learned.count == len(made)
    expected = endless([item_of_example(e) for e in made], seed=config.order_seed)
    assert [told(i) for i in islice(read.learned.start(0), 30)] == [told(i) for i in islice(expected, 30)]


def test_data_of_which_nothing_fits_is_refused(tiny_model, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"question": "Who?", "answer": "Ada " * 600}) + "\n")
    with pytest.raises(DataError, match="no example is left"):
        gather_finetuning(FinetuneConfig(model=str(tiny_model), data=str(data), out=out(tmp_path), long="skip"))


# --- memory


def held(rows: int, data: Path, tokenizer, config: FinetuneConfig) -> int:
    """Bytes that Python and numpy hold for retain data of so many rows, after an epoch."""
    text = "The archive of Porto was founded by Ada Lovelace, 在一八三三年。 " * 3
    data.write_text(
        "".join(json.dumps({"question": f"Who is {n}?", "answer": f"{text} {n}"}) + "\n" for n in range(rows)), encoding="utf-8"
    )
    gc.collect()
    tracemalloc.start()
    try:
        found = read_retain(read_items(config, str(data), locate(config.model), tokenizer, DataHash()), frozenset(), where="data", seed=0,
                            evaluated=4, out=config.out)  # fmt: skip
        assert found.count == rows
        tokens = sum(len(item.ids) for item in islice(found.start(0), rows))
        assert tokens > 60 * rows
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_data(tiny_model, tmp_path):
    data = tmp_path / "data.jsonl"
    config = FinetuneConfig(model=str(tiny_model), data=str(data), out=out(tmp_path))
    tokenizer = load_laid_out(config.model, locate(config.model), config)
    held(20, data, tokenizer, config)  # what is made once
    small, large = (held(rows, data, tokenizer, config) for rows in (200, 2000))
    assert large - small < 1800 * 24, f"{(large - small) / 1800:.0f} bytes a row: 12 of the index, and room to grow"


# --- the file


def files_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_nothing_can_be_seen_of_the_file_and_it_is_gone_with_the_rows(tmp_path):
    items = [Item([1, 2], [1], np.ones(1, dtype=np.float32), name="a")]
    opened = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else None
    found = filed(items, out=out(tmp_path))
    assert files_below(tmp_path) == [] and told(found[0]) == told(items[0])
    del found
    gc.collect()
    if opened is not None:
        assert len(os.listdir("/proc/self/fd")) == opened


def test_a_file_system_that_maps_no_files(monkeypatch, tmp_path):
    def none(*_, **__):
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(mmap, "mmap", none)
    items = [Item([1, 2], [1], np.ones(1, dtype=np.float32), name="a"), Item([3, 4, 5], [2], np.ones(1, dtype=np.float32), name="b")]
    assert [told(item) for item in filed(items, out=out(tmp_path))] == [told(item) for item in items]


def test_it_lies_with_other_temporary_files_where_the_output_cannot_be_written(monkeypatch, tmp_path):
    asked, make = [], tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda *, dir, buffering: asked.append(dir) or make(dir=dir, buffering=buffering))
    items = [Item([1, 2], [1], np.ones(1, dtype=np.float32), name="a")]
    filed(items, out=out(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)
    filed(items, out=out(tmp_path))
    assert asked == [str(tmp_path), tempfile.gettempdir()]


def test_rows_that_cannot_be_read_leave_nothing(tmp_path):
    def broken():
        yield Item([1, 2], [1], np.ones(1, dtype=np.float32), name="a")
        raise DataError("row 1: no answer")

    with pytest.raises(DataError, match="row 1"):
        filed(broken(), out=out(tmp_path))
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("verb", ["finetune", "run", "run with other answers", "diagnose"])
@pytest.mark.parametrize("moment", ["made", "written"])
def test_a_full_disk_is_one_line(verb, moment, run_cli, monkeypatch, target, scores, tmp_path):
    """/dev/full takes no byte; a file that is not made is what a disk without an inode left is like."""

    def full(**options):
        if moment == "made":
            raise OSError(errno.ENOSPC, "No space left on device")
        return open("/dev/full", "wb", buffering=0)

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    verb, answers, _ = verb.partition(" with other answers")
    more = {
        "finetune": ("--data", RETAIN),
        "run": ("--scores", scores, "--retain", RETAIN, *(("--method", "idknll") if answers else ())),
        "diagnose": ("--scores", scores, "--retain", RETAIN),
    }[verb]
    code, stdout, err = run_cli("tu-train", verb, "--model", target, *more, "--device", "cpu", "--out", tmp_path / "work" / "out")
    assert (code, stdout) == (2, "")
    line = err.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path}") and "No space left on device, for a file with the tokens of the data" in line
    assert verb == "diagnose" or "make room, then start the run anew" in line
    assert [path for path in files_below(tmp_path) if path.is_file()] == []
