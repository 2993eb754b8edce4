"""Places behind URLs, on a real S3 server on loopback and in memory."""

import json
import socket
import threading
import time

import fsspec
import pytest

from shared.errors import StoreError
from shared.files import lock, remote
from shared.files.lock import locked
from shared.files.remote import UrlPlace, may_pass
from shared.files.storage import open_place


@pytest.fixture
def memory():
    yield "memory://places"
    fsspec.filesystem("memory").store.clear()


def test_what_another_machine_writes_is_seen_at_once(s3):
    place = open_place(s3.bucket("seen") + "/store")
    place.write("a", b"1")
    assert place.names() == ["a"] and not place.exists("b")
    with pytest.raises(FileNotFoundError):
        place.read("b")
    s3.client().put_object(Bucket="seen", Key="store/b", Body=b"22")
    assert place.read("b") == b"22" and place.exists("b") and place.names() == ["a", "b"]


def test_nothing_but_the_folder_is_listed(s3):
    place = open_place(s3.bucket("listed") + "/runs/store")
    assert place.names() == [] and place.names("_next") == []
    place.write("a", b"")
    assert place.names() == ["a"]
    listings = [request for request in s3.asked if "prefix=" in request]
    assert listings and all("prefix=runs%2Fstore%2F" in request for request in listings)


@pytest.mark.parametrize("conditions", ["known", "ignored", "refused"])
def test_a_file_is_created_where_there_is_none(s3, conditions):
    s3.conditions = conditions
    place = open_place(s3.bucket(f"create-{conditions}"))
    assert place.create("a", b"1")
    assert place.create("a", b"2") == (conditions != "known")
    assert place.create("a", b"2") == (conditions != "known")
    assert place.read("a") == (b"1" if conditions == "known" else b"2")


def test_a_server_that_does_not_say_which_condition_failed(s3, monkeypatch):
    """As s3fs wants to hear it."""
    place = open_place(s3.bucket("vague"))
    answer = s3._of_moto
    monkeypatch.setattr(s3, "_of_moto", lambda *asked: _without_condition(answer(*asked)))
    assert place.create("a", b"1") and not place.create("a", b"2") and place.read("a") == b"1"


def _without_condition(answer):
    if not answer[0].startswith("412"):
        return answer
    body = answer[2].replace(b"<Condition>If-None-Match</Condition>", b"")
    assert body != answer[2]
    return answer[0], [(k, v) for k, v in answer[1] if k.lower() != "content-length"], body


@pytest.mark.parametrize("conditions", ["known", "ignored", "refused"])
@pytest.mark.parametrize("dead", [False, True])
def test_of_two_that_take_a_place_in_the_same_moment_one_is_refused(s3, monkeypatch, conditions, dead):
    """Also both from the same dead holder. Where the server knows no conditional put, the second look decides."""
    monkeypatch.setattr(lock, "SETTLE_S", 0.0 if conditions == "known" and not dead else 0.5)
    s3.conditions = conditions
    url, both, told = s3.bucket(f"two-{conditions}-{dead}".lower()), threading.Barrier(2), []
    if dead:
        nobody = {"pid": 2**30, "host": socket.gethostname(), "since": "then", "token": "x", "beat": 0.0}
        open_place(url).write("_lock", json.dumps(nobody).encode())
    first: list[str] = []

    def together(request):
        if request.startswith("PUT") and len(first) < 2:
            first.append(request)
            both.wait(30)
        return None

    s3.fault = together

    def take():
        try:
            with locked(open_place(url)):
                told.append("mine")
                time.sleep(1.0)
        except StoreError as error:
            told.append(str(error))

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(told) == 2 and told.count("mine") == 1 and "been writing here" in next(t for t in told if t != "mine")
    assert s3.contents(url.removeprefix("s3://")) == {}


def test_a_folder_is_cleared_and_no_other_though_its_name_looks_like_a_pattern(s3):
    url = s3.bucket("patterns")
    for name in ("run*", "run1", "run[1]", "run2"):
        for k in range(2):
            open_place(f"{url}/{name}").write(f"_next/{k}", b"")
    for cleared in ("run*", "run[1]"):
        open_place(f"{url}/{cleared}").clear("_next")
        assert not s3.contents("patterns", cleared)
    assert set(s3.contents("patterns")) == {f"{name}/_next/{k}" for name in ("run1", "run2") for k in range(2)}


# --- trying again


@pytest.fixture
def failing(monkeypatch, memory):
    """`failing(error, times)` -> a place whose reads fail so often, and the number of tries so far."""

    def make(error, times):
        tries, kind = [], type(fsspec.filesystem("memory"))
        read = kind.cat_file

        def cat_file(self, path, *more, **options):
            tries.append(path)
            if len(tries) <= times:
                raise error
            return read(self, path, *more, **options)

        monkeypatch.setattr(kind, "cat_file", cat_file)
        place = UrlPlace(memory)
        place.write("a", b"1")
        return place, tries

    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    return make


def test_what_may_pass_is_tried_again(failing):
    place, tries = failing(TimeoutError("slow"), 3)
    assert place.read("a") == b"1" and len(tries) == 4


def test_what_lasts_is_told_and_then_refused(failing, monkeypatch, capsys):
    monkeypatch.setattr(remote, "TRY_S", 2.0)
    monkeypatch.setattr(remote, "LONGEST_WAIT_S", 0.05)
    monkeypatch.setattr(remote, "SILENT_S", 0.0)
    place, tries = failing(ConnectionError("nobody there"), 1000)
    with pytest.raises(StoreError, match=r"memory://places/a: cannot be read: ConnectionError: nobody there; check the URL"):
        place.read("a")
    assert len(tries) > 3 and capsys.readouterr().err.count("cannot be read (ConnectionError); trying for another 2 s") == 1


def test_what_will_not_pass_is_tried_once(failing):
    place, tries = failing(PermissionError("Forbidden"), 1000)
    with pytest.raises(StoreError, match="PermissionError: Forbidden"):
        place.read("a")
    assert len(tries) == 1
    tries.clear()
    with pytest.raises(StoreError):
        place.at_once().read("a")
    assert len(tries) == 1


def test_a_server_that_accepts_and_never_answers_is_not_waited_for(s3, monkeypatch):
    """s3fs alone would wait for ever with a put."""
    from fsspec.config import conf

    monkeypatch.setitem(conf, "s3", {"config_kwargs": {"read_timeout": 0.3}})
    monkeypatch.setattr(remote, "PUT_S", 0.3)
    monkeypatch.setattr(remote, "TRY_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        place = open_place("s3://silent/store")
        for name, call in (("written", lambda: place.write("a", b"1")), ("written", lambda: place.create("a", b"1")),
                           ("read", lambda: place.read("a")), ("looked up", lambda: place.exists("a"))):  # fmt: skip
            start = time.monotonic()
            with pytest.raises(StoreError, match=f"s3://silent/store/a: cannot be {name}: .*Timeout"):
                call()
            assert time.monotonic() - start < 15.0


class NoCredentialsError(Exception):
    pass


class ReadTimeoutError(type("HTTPClientError", (Exception,), {})):
    pass


def of_http(error, status):
    error.__cause__ = type("ClientError", (Exception,), {"response": {"ResponseMetadata": {"HTTPStatusCode": status}}})()
    return error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (of_http(OSError(5, "?"), 500), True), (of_http(OSError(16, "SlowDown"), 503), True), (of_http(OSError(5, "?"), 429), True),
        (of_http(OSError(5, "?"), 400), False), (of_http(OSError(38, "?"), 501), False), (of_http(OSError(5, "conflict"), 409), True),
        (OSError(16, "busy"), True), (OSError(22, "invalid"), False), (TimeoutError(), True), (ConnectionResetError(), True),
        (ReadTimeoutError(), True), (NoCredentialsError(), False), (PermissionError(), False), (ValueError(), False),
    ],
)  # fmt: skip
def test_what_may_pass_is_told_from_what_will_not(error, passes):
    assert may_pass(error) == passes


def test_an_error_of_the_server_leaves_the_lock_without_a_second_error(s3, monkeypatch):
    """The server is gone when the lock would be removed; the error is the first one, and soon."""
    monkeypatch.setattr(lock, "SETTLE_S", 0.0)
    monkeypatch.setattr(remote, "TRY_S", 5.0)
    url = s3.bucket("gone")
    start = time.monotonic()
    with pytest.raises(StoreError, match="the first error"), locked(open_place(url)):
        s3.stop()
        raise StoreError("the first error")
    assert time.monotonic() - start < 5.0
    s3.start()
    assert set(s3.contents("gone")) == {"_lock"}
