"""Atomic files and folders under failure: whatever call fails, the old state stays readable and nothing is left lying
about."""

import errno
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.errors import StoreError
from shared.files.fs import (
    atomic_file,
    atomic_folder,
    hash_file,
    hash_json,
    hash_json_list,
    read_json,
    require_fresh,
    write_json,
    write_text,
)

CALLS = ("fsync", "replace", "write")
ROOT = Path(__file__).parents[3]


@contextmanager
def failing(monkeypatch, call: str, at: int):
    """The `at`-th call (from 0) of os.fsync, os.replace, or of writing text, fails as on a full disk. Yields the number
    of calls so far."""
    holder, name = (Path, "write_text") if call == "write" else (os, call)
    original, count = getattr(holder, name), [0]

    def fake(*args, **kwargs):
        count[0] += 1
        if count[0] == at + 1:
            raise OSError(errno.ENOSPC, "no space left")
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(holder, name, fake)
        yield count


def litter(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob(".tmp-*")]


# --- files


@pytest.mark.parametrize("call", CALLS)
def test_each_failing_call_leaves_the_old_or_the_new_file_whole_and_no_litter(tmp_path, monkeypatch, call):
    path, failures = tmp_path / "state.json", 0
    while True:
        write_json(path, {"state": "old"})
        with failing(monkeypatch, call, failures) as count:
            try:
                write_json(path, {"state": "new"})
            except OSError as error:
                assert error.errno == errno.ENOSPC
            else:
                break
        # Only when the last step fails (fsync of the folder, after the rename) is the new file there; it is whole too.
        renamed = call == "fsync" and failures == 1
        assert read_json(path) == {"state": "new" if renamed else "old"}
        assert litter(tmp_path) == []
        failures += 1
    assert failures == count[0] == {"fsync": 2, "replace": 1, "write": 1}[call]
    assert read_json(path) == {"state": "new"}


def test_file_and_folder_are_synced_in_the_order_that_makes_a_crash_harmless(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    named = lambda fd: Path(os.readlink(f"/proc/self/fd/{fd}")).name  # noqa: E731
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append(f"fsync {re.sub('-[0-9a-f]{16}$', '', named(fd))}"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(f"replace {Path(b).name}"), replace(a, b)))
    write_text(tmp_path / "a.txt", "x")
    assert order == ["fsync .tmp-a.txt", "replace a.txt", f"fsync {tmp_path.name}"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_while_writing_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(error), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_killed_writer_leaves_the_old_file_and_the_next_writer_clears_up(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    program = (
        "import os, signal, pathlib; from shared.files.fs import atomic_file\n"
        f"with atomic_file(pathlib.Path({str(path)!r})) as t: t.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == -9
    assert path.read_text() == "old"
    assert [re.sub("-[0-9a-f]{16}$", "", name) for name in litter(tmp_path)] == [".tmp-a.txt"]
    write_text(path, "new")
    assert path.read_text() == "new"
    assert litter(tmp_path) == []


def test_json_with_a_number_that_json_lacks_is_refused_before_anything_changes(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"x": float("nan")})
    assert read_json(path) == {"x": 1}
    assert litter(tmp_path) == []


def test_json_keeps_what_it_was_given(tmp_path):
    value = {"text": "naïve 🙂\n", "list": [1, 2.5, None, True], "nested": {"a": []}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize("content", [b'{"a": 1', b"", b"\xff\xfe{}"])
def test_damaged_json_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"a\.json: not valid JSON .*; the file is damaged, make it again"):
        read_json(tmp_path / "a.json")


# --- folders


def fill(folder: Path, text: str) -> None:
    (folder / "deep").mkdir()
    (folder / "a.txt").write_text(text)
    (folder / "deep" / "b.txt").write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("call", CALLS)
def test_a_folder_is_whole_or_absent_whichever_call_fails(tmp_path, monkeypatch, call):
    path, failures = tmp_path / "out", 0
    while True:
        with failing(monkeypatch, call, failures) as count:
            try:
                with atomic_folder(path) as temporary:
                    fill(temporary, "new")
            except OSError as error:
                assert error.errno == errno.ENOSPC
            else:
                break
        renamed = call == "fsync" and failures == 4
        assert path.exists() == renamed
        if renamed:
            assert contents(path) == {"a.txt": "new", "deep/b.txt": "new"}
            (path / "a.txt").unlink(), (path / "deep" / "b.txt").unlink(), (path / "deep").rmdir(), path.rmdir()
        assert litter(tmp_path) == []
        failures += 1
    # two files, the inner folder, the folder itself, the folder above
    assert failures == count[0] == {"fsync": 5, "replace": 1, "write": 2}[call]
    assert contents(path) == {"a.txt": "new", "deep/b.txt": "new"}


def test_a_folder_with_files_is_never_replaced(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    (path / "mine.txt").write_text("mine")
    with pytest.raises(OSError, match="not empty"), atomic_folder(path) as temporary:
        fill(temporary, "new")
    assert contents(path) == {"mine.txt": "mine"}
    assert litter(tmp_path) == []


def test_an_empty_folder_and_missing_parents_are_fine_and_leftovers_are_cleared(tmp_path):
    path = tmp_path / "above" / "out"
    (path.parent / ".tmp-out").mkdir(parents=True)
    (path.parent / ".tmp-out" / "stale.txt").write_text("stale")
    path.mkdir()
    with atomic_folder(path) as temporary:
        fill(temporary, "new")
    assert contents(path) == {"a.txt": "new", "deep/b.txt": "new"}
    assert litter(tmp_path) == []


def test_require_fresh_takes_only_what_holds_nothing(tmp_path):
    require_fresh(tmp_path / "absent", what="scores")
    require_fresh(tmp_path, what="scores")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(StoreError, match=r"already holds files .* choose a new --out for scores"):
        require_fresh(tmp_path, what="scores")
    with pytest.raises(StoreError, match="is a file; --out wants a folder"):
        require_fresh(tmp_path / "a.txt", what="scores")


@pytest.mark.parametrize("out", [".", "", "..", "/", "./", "../..", "new/..", "../here", "../link"])
def test_require_fresh_refuses_the_working_folder_and_those_above(out, tmp_path, monkeypatch):
    here = tmp_path / "above" / "here"
    here.mkdir(parents=True)
    (here.parent / "link").symlink_to(here)
    monkeypatch.chdir(here)
    with pytest.raises(StoreError, match="is the folder this command runs in, or one above it; --out wants a new folder for scores"):
        require_fresh(Path(out), what="scores")
    require_fresh(Path("new"), what="scores")
    require_fresh(Path("../beside"), what="scores")


def test_require_fresh_refuses_what_a_rename_cannot_replace(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("absent")
    for name, target in (("link", "real"), ("dangling", "absent")):
        with pytest.raises(StoreError, match=rf"is a link, .*; name {tmp_path / target} itself as --out for scores$"):
            require_fresh(tmp_path / name, what="scores")
    with pytest.raises(StoreError, match=r"ends in '\.\.'"):
        require_fresh(tmp_path / "absent" / "deep" / "..", what="scores")
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path / "real")
    with pytest.raises(StoreError, match=r"mounted there, .*; choose a folder inside it"):
        require_fresh(tmp_path / "real", what="scores")


# --- hashes


def test_hashes_are_of_content(tmp_path):
    data = os.urandom((1 << 20) + 17)  # more than one chunk
    for name, content in (("a", data), ("b", data), ("c", data[:-1] + bytes([data[-1] ^ 1]))):
        (tmp_path / name).write_bytes(content)
    assert hash_file(tmp_path / "a") == hash_file(tmp_path / "b") != hash_file(tmp_path / "c")
    (tmp_path / "empty").touch()
    assert hash_file(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert hash_json({"a": 1, "b": [2, "é"]}) == hash_json({"b": [2, "é"], "a": 1})
    assert len({hash_json(x) for x in ({"a": 1}, {"a": "1"}, {"a": [1]}, {"a": None}, {})}) == 5
    for values in ([], [None], ["é", {"b": 2, "a": [1, "谁"]}, []]):
        assert hash_json_list(iter(values)) == hash_json(values)
