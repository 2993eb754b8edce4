"""The store itself, without a model: writing, reading, rewriting, locking, formats, places."""

import errno
import json
import os
import random
import shutil
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from fsspec.registry import _registry as opened

from shared.errors import ConfigError, StoreError
from shared.files import lock, remote
from shared.files.storage import LocalPlace, open_place
from shared.store import files, scores, writer
from shared.store.files import UPGRADES, Upgrade
from shared.store.parts import OPTIONAL, SCHEMA, TOKEN_COLUMNS, schema
from shared.store.rewrite import rewrite, settle
from shared.store.scores import Store, open_store
from shared.store.writer import Writer, claim


def example(name: str, length: int = 6) -> dict:
    row: dict = {column: [None] * length for column in TOKEN_COLUMNS}
    row.update(example_id=name, spans=[{"start": 0, "end": 1}], input_ids=list(range(length)), tokens=list("abcdefghijkl"[:length]))
    row.update(is_target=[False] + [True] * (length - 1), importance=[None] + [k / length for k in range(1, length)])
    row.update(logprob=[None] + [-float(len(name) + k) for k in range(1, length)])
    return row


def columns_of(rows: list[dict]) -> dict[str, list]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def write(where, parts=((4, 6), (3,), (5, 2)), **plan) -> Store:
    """A store of a row for each length."""
    with claim(where):
        writer = Writer(where, {"fingerprints": {"data": "by hand"}, **plan})
        for index, lengths in enumerate(parts):
            writer.write_part(index, columns_of([example(f"{index}/{k}", n) for k, n in enumerate(lengths)]))
        writer.finish(recipe=None, created_at="then")
    return open_store(where)


def halve(table: pa.Table) -> pa.Table:
    rows = table.to_pylist()
    for row in rows:
        row["importance"] = [None if v is None else v / 2 for v in row["importance"]]
    return pa.Table.from_pylist(rows, schema=table.schema)


@pytest.fixture
def store(tmp_path) -> Store:
    return write(tmp_path / "store")


# --- schema


def test_optional_columns_stand_behind_the_others_in_one_order():
    assert schema() == SCHEMA and schema([]).names == SCHEMA.names
    both = schema(["top_ids", "tempered_entropy"])
    assert both.names == [*SCHEMA.names, "tempered_entropy", "top_ids"] and both == schema(["tempered_entropy", "top_ids"])
    assert schema(OPTIONAL).field("span_deltas").type == pa.list_(pa.list_(pa.float32()))
    with pytest.raises(StoreError, match="'topmost', which this version does not know"):
        schema(["topmost"])


def test_optional_columns_are_stored_and_a_part_without_them_is_refused(tmp_path):
    writer = Writer(tmp_path, {"optional": ["span_deltas"]})
    rows = [{**example("a", 3), "spans": [{"start": 0, "end": 1}] * 2, "span_deltas": [[None, 1.0, None], [None] * 3]}]
    writer.write_part(0, columns_of(rows))
    with pytest.raises(KeyError, match="span_deltas"):
        writer.write_part(1, columns_of([example("b", 3)]))
    writer.finish()
    store = open_store(tmp_path)
    assert store.optional == ["span_deltas"]
    assert [r["span_deltas"] for r in store.rows()] == [[[None, 1.0, None], [None] * 3]]


# --- rewriting


def test_rewrite_changes_parts_and_manifest_and_leaves_nothing_beside(store):
    before, names = list(store.rows()), store.place.names()
    new = rewrite(store, halve, recipe={"alpha": 0.5})
    assert store.place.names() == names
    assert new.manifest["recipe"] == {"alpha": 0.5} and new.manifest["created_at"] == "then"
    assert [r["importance"][-1] for r in new.rows()] == [r["importance"][-1] / 2 for r in before]
    assert list(new.rows(["example_id", "logprob"])) == [{k: r[k] for k in ("example_id", "logprob")} for r in before]
    with pytest.raises(StoreError, match="rewritten while it was read"):
        list(store.rows())


def test_a_failing_change_leaves_the_store_as_it_was(store):
    before = bytes_of(store.folder)

    def fail(table):
        if table["example_id"][0].as_py().startswith("2/"):
            raise StoreError("no")
        return halve(table)

    with pytest.raises(StoreError, match="no"):
        rewrite(store, fail)
    assert bytes_of(store.folder) == before


# --- injected failures and kills: each call that writes, one after another


def test_a_rewrite_that_no_reader_would_take_is_not_committed(store):
    before = bytes_of(store.folder)
    with pytest.raises(StoreError):
        rewrite(store, halve, recipe={"alpha": [1, 2]})
    assert bytes_of(store.folder) == before and open_store(store.folder).manifest["recipe"] == store.manifest["recipe"]


def bytes_of(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows_of(folder) -> list[dict]:
    return list(open_store(folder).rows())


CAN_FAIL = ("write_bytes", "fsync", "replace")
CALLS = [(os, "fsync"), (os, "replace"), (Path, "write_bytes"), (os, "unlink"), (os, "rmdir")]


@contextmanager
def hooked(monkeypatch, hook):
    """Runs `hook(n, name, arguments)` before the n-th call, from 0, of all calls that change a disk."""
    count = [0]
    with monkeypatch.context() as patch:
        for holder, name in CALLS:
            original = getattr(holder, name)

            def fake(*arguments, original=original, name=name, **more):
                count[0] += 1
                hook(count[0] - 1, name, arguments)
                return original(*arguments, **more)

            patch.setattr(holder, name, fake)
        yield count


def failing_at(n: int):
    def hook(k, name, arguments):
        if k == n:
            if name == "write_bytes":
                with open(arguments[0], "wb") as handle:  # a disk that fills up takes the first half
                    handle.write(arguments[1][: len(arguments[1]) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))

    return hook


def test_every_failing_write_of_a_run_keeps_finished_parts_and_leaves_no_litter(tmp_path, monkeypatch):
    expected = bytes_of(write(tmp_path / "whole").folder)
    calls = []
    with hooked(monkeypatch, lambda k, name, _: calls.append(name)):
        write(tmp_path / "counted")
    assert {name: calls.count(name) for name in CAN_FAIL} == {
        "write_bytes": 8,
        "fsync": 16,
        "replace": 8,
    }  # plan, 3 parts, 3 records, manifest
    failed = 0
    for n in (n for n, name in enumerate(calls) if name in CAN_FAIL):
        folder = tmp_path / f"fail{n}"
        with hooked(monkeypatch, failing_at(n)):
            try:
                write(folder)
            except StoreError as error:
                failed += 1
                assert "No space left on device" in str(error) and "give the same command again" in str(error)
        assert not list(tmp_path.rglob(".tmp-*")) and not list(tmp_path.rglob("_lock"))
        assert bytes_of(write(folder).folder) == expected
    assert failed == 32


def test_every_failing_write_of_a_rewrite_leaves_the_old_state_or_the_new_and_no_litter(tmp_path, monkeypatch):
    store = write(tmp_path / "store")
    old, before = rows_of(store.folder), bytes_of(store.folder)
    copy, calls = shutil.copytree(store.folder, tmp_path / "counted"), []
    with hooked(monkeypatch, lambda k, name, _: calls.append(name)):
        new = list(rewrite(open_store(copy), halve, recipe={"alpha": 1}).rows())
    after, states = bytes_of(copy), []
    for n in (n for n, name in enumerate(calls) if name in CAN_FAIL):
        copy = shutil.copytree(store.folder, tmp_path / f"fail{n}")
        with hooked(monkeypatch, failing_at(n)), suppress(StoreError):
            rewrite(open_store(copy), halve, recipe={"alpha": 1})
        states.append(rows_of(copy) == new)
        assert states[-1] or rows_of(copy) == old
        assert not list(copy.rglob(".tmp-*")) and not (copy / "_lock").exists()
        if not states[-1]:
            assert bytes_of(copy) == before
        rewrite(open_store(copy), halve if not states[-1] else lambda table: table, recipe={"alpha": 1})
        assert bytes_of(copy) == after
    assert states == sorted(states) and {False, True} == set(states)  # one moment at which the new state is there


def dies(work) -> int:
    """Exit status of a forked child that does `work` (no torch here: a fork is safe)."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_kill_at_each_step_of_a_rewrite_leaves_the_old_state_or_the_new(tmp_path, monkeypatch):
    store = write(tmp_path / "store")
    old = rows_of(store.folder)
    copy = shutil.copytree(store.folder, tmp_path / "counted")
    with hooked(monkeypatch, lambda *_: None) as count:
        new = list(rewrite(open_store(copy), halve).rows())
    after, states = bytes_of(copy), []

    for n in range(count[0]):
        copy = shutil.copytree(store.folder, tmp_path / f"kill{n}")

        def work(copy=copy, n=n):
            with hooked(monkeypatch, lambda k, *_: k == n and os.kill(os.getpid(), signal.SIGKILL)):
                rewrite(open_store(copy), halve)

        assert dies(work) == -signal.SIGKILL
        states.append(rows_of(copy) == new)
        assert states[-1] or rows_of(copy) == old
        rewrite(open_store(copy), halve if not states[-1] else lambda table: table)
        assert bytes_of(copy) == after
    assert count[0] >= 28 and states == sorted(states) and {False, True} == set(states)


def test_a_kill_while_a_failed_commit_is_taken_back_leaves_the_old_state_or_the_new(tmp_path, monkeypatch):
    """The rename of the new manifest succeeds, its fsync fails: the state is new, and goes back to old in one step."""
    store = write(tmp_path / "store")
    old, calls, states = rows_of(store.folder), [], []
    new = list(rewrite(open_store(shutil.copytree(store.folder, tmp_path / "new")), halve).rows())

    def fail(k, name, arguments, last=None):
        calls.append((name, arguments))
        commits = [i for i, (name, a) in enumerate(calls) if name == "replace" and str(a[1]).endswith("_next/_manifest.json")]
        if commits and k == commits[0] + 1:
            raise OSError(errno.EIO, "Input/output error")
        if last is not None and commits and k == commits[0] + 2 + last:
            os.kill(os.getpid(), signal.SIGKILL)

    for last in range(20):
        copy = shutil.copytree(store.folder, tmp_path / f"kill{last}")

        def work(copy=copy, last=last):
            with hooked(monkeypatch, lambda *call: fail(*call, last)):
                rewrite(open_store(copy), halve)

        status = dies(work)
        states.append(rows_of(copy) == new)
        assert states[-1] or rows_of(copy) == old
        if status == 1:  # the cleaning up was done before the kill
            break
    assert last > 3 and status == 1 and states == sorted(states, reverse=True) and set(states) == {False, True}


# --- damage


FLIPS = 2000


def test_no_flipped_bit_is_accepted(tmp_path, monkeypatch):
    """Finished stores, one in the middle of a committed rewrite, one with what an uncommitted rewrite left."""
    whole = write(tmp_path / "whole")
    stores = [whole.folder, *(shutil.copytree(whole.folder, tmp_path / name) for name in ("committed", "begun"))]

    def stop(k, name, arguments):
        if name == "replace" and arguments[1] == stores[1] / "part-00001.parquet":
            raise StoreError("stopped")

    with hooked(monkeypatch, stop), pytest.raises(StoreError, match="stopped"):
        rewrite(open_store(stores[1]), halve)
    assert sorted(os.listdir(stores[1] / "_next")) == ["_manifest.json", "_replaces.json", "part-00001.parquet", "part-00002.parquet"]
    shutil.copytree(stores[1] / "_next", stores[2] / "_next")
    (stores[2] / "_next" / "_manifest.json").unlink()
    true = {folder: list(open_store(folder).batches()) for folder in stores}
    assert true[stores[0]] == true[stores[2]] != true[stores[1]]
    generator, refused = random.Random(3), 0
    files = [p for folder in stores for p in folder.rglob("*") if p.suffix == ".parquet" or p.name == "_manifest.json"]
    for _ in range(FLIPS):
        path = generator.choice(files)
        folder = next(f for f in stores if f in path.parents)
        sound = path.read_bytes()
        at = generator.randrange(len(sound))
        path.write_bytes(sound[:at] + bytes([sound[at] ^ (1 << generator.randrange(8))]) + sound[at + 1 :])
        try:
            got = list(open_store(folder).batches())
            assert got == true[folder]  # a file that is not this store's any more, or not yet
            assert folder != stores[0]
        except StoreError as error:
            assert str(folder) in str(error)
            refused += 1
        path.write_bytes(sound)
    assert refused > FLIPS // 2


def test_no_cut_file_is_accepted(store):
    for path in [*store.folder.glob("part-*"), store.folder / "_manifest.json"]:
        sound = path.read_bytes()
        for length in (0, 1, len(sound) // 2, len(sound) - 1):
            path.write_bytes(sound[:length])
            with pytest.raises(StoreError):
                rows_of(store.folder)
        path.write_bytes(sound + b"\n")
        with pytest.raises(StoreError):
            rows_of(store.folder)
        path.unlink()
        with pytest.raises(StoreError, match=r"missing|unfinished"):
            rows_of(store.folder)
        path.write_bytes(sound)
    assert len(rows_of(store.folder)) == 5


# --- one writer at a time


def test_two_writers_in_one_process_and_a_rewrite_are_kept_apart(store):
    with claim(store.folder):
        for attempt in (lambda: claim(store.folder).__enter__(), lambda: rewrite(store, halve)):
            with pytest.raises(StoreError, match=rf"process {os.getpid()} on .* has, since 20.*, been writing here"):
                attempt()
        assert rows_of(store.folder)  # readers are not locked out
    assert "_lock" not in store.place.names()
    rewrite(store, halve)


def hold(where, ready):
    """In a child: takes the lock, says so, waits to be killed."""
    with claim(where):
        Path(ready).touch()
        time.sleep(60)


def test_a_dead_holder_is_taken_over(tmp_path, capfd):
    folder, ready = tmp_path / "store", tmp_path / "ready"
    child = os.fork()
    if child == 0:
        hold(folder, ready)
    while not ready.exists():
        time.sleep(0.01)
    with pytest.raises(StoreError, match=rf"process {child} on "):
        write(folder)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (folder / "_lock").exists()
    write(folder)
    assert f"taking over from process {child} on " in capfd.readouterr().err
    assert not (folder / "_lock").exists()


def test_a_forked_child_of_a_dead_holder_does_not_keep_the_lock(tmp_path):
    ready = tmp_path / "ready"
    holder = os.fork()
    if holder == 0:
        with claim(tmp_path / "store"):
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            ready.with_suffix(".new").write_text(str(child))
            ready.with_suffix(".new").rename(ready)
            time.sleep(60)
    while not ready.exists():
        time.sleep(0.01)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    try:
        assert (tmp_path / "store" / "_lock").exists()
        write(tmp_path / "store")
    finally:
        os.kill(int(ready.read_text()), signal.SIGKILL)


def test_a_lock_file_that_its_holder_just_removed_is_no_lock(tmp_path, monkeypatch):
    honest, opened = lock._open, []

    def removed_meanwhile(path):
        opened.append(honest(path))
        if len(opened) == 1:
            path.unlink()
        return opened[-1]

    monkeypatch.setattr(lock, "_open", removed_meanwhile)
    with claim(tmp_path / "store"):
        assert len(opened) == 2
        with pytest.raises(StoreError, match=f"process {os.getpid()} on "):
            write(tmp_path / "store")


@pytest.fixture
def no_flock(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    monkeypatch.setattr(lock, "SETTLE_S", 0.01)


def test_without_flock_a_sign_of_life_holds_the_lock(tmp_path, monkeypatch, no_flock):
    folder = tmp_path / "store"
    monkeypatch.setattr(lock, "BEAT_S", 0.02)
    with claim(folder) as place:
        first = json.loads(place.read("_lock"))["beat"]
        time.sleep(0.2)
        assert json.loads(place.read("_lock"))["beat"] > first
        with pytest.raises(StoreError, match=f"process {os.getpid()} on "):
            write(folder)
    assert not folder.exists()
    assert len(write(folder)) == 5


@pytest.mark.parametrize("clock", [-1000, 0, 1000])
@pytest.mark.parametrize("host", ["here", "elsewhere"])
@pytest.mark.parametrize("alive", [True, False])
def test_without_flock_a_sign_counts_while_it_is_renewed_whatever_its_clock_says(tmp_path, monkeypatch, no_flock, clock, host, alive):
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    monkeypatch.setattr(lock, "STALE_S", 0.5)
    record = {"pid": os.getppid(), "host": socket.gethostname() if host == "here" else host, "since": "now", "token": "x", "beat": 0.0}
    done = threading.Event()

    def renew():
        place = LocalPlace(tmp_path)
        while not done.wait(0.05):
            record["beat"] = time.time() + clock
            place.write("_lock", json.dumps(record).encode())

    (tmp_path / "_lock").write_text(json.dumps({**record, "beat": time.time() + clock}))
    if alive:
        (thread := threading.Thread(target=renew)).start()
        try:
            with pytest.raises(StoreError, match=f"process {os.getppid()} on .* been writing here"):
                write(tmp_path)
        finally:
            done.set()
            thread.join()
    else:
        assert len(write(tmp_path)) == 5


def test_without_flock_the_lock_of_a_dead_process_of_this_machine_is_taken_over_at_once(tmp_path, no_flock):
    record = {"pid": dead_pid(), "host": socket.gethostname(), "since": "now", "token": "x", "beat": time.time() + 1000}
    (tmp_path / "_lock").write_text(json.dumps(record))
    assert len(write(tmp_path)) == 5


def test_without_flock_a_writer_whose_lock_was_taken_over_does_not_say_success(tmp_path, no_flock):
    with pytest.raises(StoreError, match=r"another process has written here meanwhile \(elsewhere\)"), claim(tmp_path) as place:
        place.write("_lock", json.dumps({"pid": 1, "host": "elsewhere", "since": "now", "token": "y", "beat": 0.0}).encode())


def test_a_lock_that_is_a_link_or_a_pipe_is_refused_and_nothing_is_written_through_it(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "_lock").symlink_to(tmp_path / "mine")
    with pytest.raises(StoreError, match="_lock: is a link, and nothing is written through links"):
        write(tmp_path / "store")
    (tmp_path / "store" / "_lock").unlink()
    os.mkfifo(tmp_path / "store" / "_lock")
    with pytest.raises(StoreError, match="_lock: is no ordinary file"):
        write(tmp_path / "store")
    assert (tmp_path / "mine").read_text() == "mine"


def dead_pid() -> int:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


# --- formats


def set_format(monkeypatch, number):
    for module in (files, scores, writer):
        monkeypatch.setattr(module, "FORMAT", number)


def test_an_older_format_is_upgraded_on_read_and_rewritten_as_the_newest(tmp_path, monkeypatch):
    old = write(tmp_path)
    rows = list(old.rows())
    set_format(monkeypatch, 3)
    with pytest.raises(StoreError, match=r"store format 2, the oldest that this version reads is 3; score again"):
        open_store(tmp_path)
    upgrade = Upgrade(manifest=lambda manifest: {**manifest, "new": True}, table=halve)
    monkeypatch.setitem(UPGRADES, 2, upgrade)
    new = open_store(tmp_path)
    assert new.manifest["new"] and new.manifest["format"] == 3
    halved = [[None if v is None else v / 2 for v in row["importance"]] for row in rows]
    assert [r["importance"] for r in new.rows()] == halved == [r["importance"] for r in new.rows(["importance"])]
    rewritten = rewrite(new, lambda table: table)
    assert rewritten.written == 3 and [r["importance"] for r in rewritten.rows()] == halved
    set_format(monkeypatch, 2)
    with pytest.raises(StoreError, match="store format 3, this version reads up to 2; upgrade token-unlearn"):
        open_store(tmp_path)


# --- places


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.setattr(lock, "SETTLE_S", 0.0)
    yield "memory://bucket/store"
    fsspec.filesystem("memory").store.clear()


def test_all_places_hold_the_same_bytes(tmp_path, memory):
    here = write(tmp_path / "here")
    assert bytes_of(write(f"file://{tmp_path}/there").folder) == bytes_of(here.folder)
    there = write(memory)
    assert there.folder == memory and {n: there.place.read(n) for n in there.place.names()} == bytes_of(here.folder)
    assert list(there.rows()) == list(here.rows())
    assert list(rewrite(there, halve).rows()) == list(rewrite(here, halve).rows())
    assert {n: there.place.read(n) for n in there.place.names()} == bytes_of(here.folder)
    with claim(memory), pytest.raises(StoreError, match=r"memory://bucket/store: process .* been writing"):
        write(memory)
    there = open_store(memory)
    there.place.delete("part-00001.parquet")
    with pytest.raises(StoreError, match=r"memory://bucket/store/part-00001.parquet: .* missing"):
        list(there.rows())


def test_a_run_behind_a_url_is_taken_up_and_a_foreign_place_is_refused(memory):
    writer = Writer(memory, {"fingerprints": {"data": "by hand"}})
    writer.write_part(1, columns_of([example("1/0", 3)]))
    with pytest.raises(StoreError, match="unfinished"):
        open_store(memory)
    assert set(Writer(memory, writer.plan).parts) == {1}
    with pytest.raises(StoreError, match=r"holds another run: data is another one now \(SHA-256 then by hand, now other\)"):
        Writer(memory, {"fingerprints": {"data": "other"}})
    fsspec.filesystem("memory").pipe_file("/other/mine.txt", b"mine")
    with pytest.raises(StoreError, match="memory://other: already holds files"), claim("memory://other/"):
        pass


def test_files_behind_a_url_that_cannot_be_had_are_named(monkeypatch, memory):
    with pytest.raises(ConfigError, match=r"nosuch://x: cannot be used"):
        open_place("nosuch://x")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(opened, "s3", raising=False)  # where another test has opened one
    with pytest.raises(ConfigError, match=r's3://bucket/store: s3:// URLs need .*: pip install "token-unlearn\[s3\]"'):
        open_place("s3://bucket/store")

    def unreachable(*arguments, **more):
        raise TimeoutError("the endpoint does not answer")

    monkeypatch.setattr(remote, "TRY_S", 0.0)
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "info", unreachable)
    with pytest.raises(StoreError, match=r"memory://bucket/store.*: TimeoutError: the endpoint does not answer"), claim(memory):
        pass


# --- streaming


def test_batches_are_the_parts_with_the_columns_asked_for(store):
    tables = list(store.batches(["logprob", "importance"]))
    assert [len(t) for t in tables] == [2, 1, 2] and all(set(t.column_names) == {"logprob", "importance"} for t in tables)
    assert [row for t in tables for row in t.to_pylist()] == list(store.rows(["logprob", "importance"]))


def test_bytes_of_a_part_depend_on_its_values_alone(tmp_path):
    rows = [example(str(k), 3 + k % 5) for k in range(40)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    chunked = pa.concat_tables([table.slice(0, 7), table.slice(7, 20), table.slice(27)])
    writer = Writer(tmp_path, {})
    for index, columns in enumerate((columns_of(rows), table, chunked)):
        writer.write_part(index, columns)
    assert len({writer.parts[k]["sha256"] for k in range(3)}) == 1


def test_a_file_in_the_place_of_the_folder_of_a_rewrite_is_cleared_away(tmp_path):
    write(tmp_path)
    (tmp_path / "_next").write_text("no folder")
    place = open_place(tmp_path)
    settle(place)
    assert not (tmp_path / "_next").exists()
    place.delete("_next/_manifest.json")


@pytest.mark.parametrize(("was", "now", "said"), [
    ({"fingerprints": {"base_model": None}}, {"fingerprints": {"base_model": "ab" * 32}},
     "--base-model was not given, now it is abababababab"),
    ({"fingerprints": {"base_model": "ab" * 32}}, {"fingerprints": {"base_model": "cd" * 32}},
     "--base-model is another one now (SHA-256 then abababababab, now cdcdcdcdcdcd)"),
    ({"options": {"spans": "none"}}, {"options": {"spans": "词" * 70}}, f"--set spans was none, now it is {'词' * 57}…"),
])  # fmt: skip
def test_a_place_of_another_run_is_refused_in_words_of_the_command_line(tmp_path, was, now, said):
    Writer(tmp_path / "store", was)
    with pytest.raises(StoreError) as caught:
        Writer(tmp_path / "store", now)
    assert f"holds another run: {said}; give the command as it was begun" in str(caught.value)
