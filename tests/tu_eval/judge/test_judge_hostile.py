"""A judge that wants the run to hang, or to fall: every reply ends within a time and a size, and whatever it holds is
text or one line."""

import json
import socket
import threading
import time

import pytest

from tests.tu_eval.judge.test_judge import Judge, judge  # noqa: F401
from tests.tu_eval.test_commands import refused

REPLY = json.dumps({"choices": [{"message": {"content": "Fine. [[7]]"}}]})


class Hostile:
    """A server that answers GET with 405 and every POST with what `talk(send)` sends until the client has enough."""

    def __init__(self, talk, greet=None):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        self.talk, self.greet, self.posts, self.open = talk, greet, 0, True
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while self.open:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        try:
            asked = b""
            while b"\r\n\r\n" not in asked:
                asked += connection.recv(65536)
            if asked.startswith(b"GET") and self.greet is None:
                connection.sendall(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")
            else:
                self.posts += asked.startswith(b"POST")
                (self.talk if asked.startswith(b"POST") else self.greet)(connection.sendall)
        except OSError:
            pass
        finally:
            connection.close()

    def close(self):
        self.open = False
        self.socket.close()


def drop_by_drop(send):
    send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        send(b" ")
        time.sleep(0.1)


def status_drop_by_drop(send):
    for byte in b"HTTP/1.1 200 OK" + b"x" * 1000:
        send(bytes([byte]))
        time.sleep(0.1)


def continue_slowly(send):
    while True:
        send(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.1)


def continue_fast(send):
    while True:
        send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def headers_slowly(send):
    send(b"HTTP/1.1 200 OK\r\n")
    while True:
        send(b"X-More: x\r\n")
        time.sleep(0.1)


def headers_fast(send):
    send(b"HTTP/1.1 200 OK\r\n")
    while True:
        send(b"X-More: x\r\n" * 1000)


def endless_body(send):
    send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        send(b"{" * 65536)


def endless_chunks(send):
    send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        send(b"1\r\n \r\n")
        time.sleep(0.05)


def refusal_drop_by_drop(send):
    send(b"HTTP/1.1 400 No\r\nContent-Length: 100000\r\n\r\n")
    while True:
        send(b"x")
        time.sleep(0.1)


def refusal_in_silence(send):
    send(b"HTTP/1.1 400 No\r\nContent-Length: 100000\r\n\r\n")
    time.sleep(20)


def redirects(send):
    send(b"HTTP/1.1 302 Found\r\nLocation: /v1/chat/completions\r\nContent-Length: 0\r\n\r\n")


@pytest.fixture
def ask(run_cli, monkeypatch, tiny_model, tmp_path):
    """`ask(url)` -> the result of the command, and how long it took."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TU_JUDGE_MODEL", "the-judge")
    monkeypatch.setattr("tu_eval.judge.endpoint.sleep", lambda _: None)
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"id": "a", "category": "x", "turns": ["Who?"]}) + "\n")

    def call(url):
        monkeypatch.setenv("TU_JUDGE_URL", url)
        few = ("--set", "max_new_tokens=2", "--set", "timeout_s=1", "--set", "reply_s=1.5", "--set", "retries=1")
        begun = time.monotonic()
        result = run_cli("tu-eval", "judge", "--model", tiny_model, "--data", data, "--out", tmp_path / "out", *few)
        return result, time.monotonic() - begun

    return call


TALKS = (
    drop_by_drop, status_drop_by_drop, continue_slowly, continue_fast, headers_slowly, headers_fast, endless_body, endless_chunks,
    refusal_drop_by_drop, refusal_in_silence, redirects,
)  # fmt: skip


@pytest.mark.parametrize("talk", TALKS, ids=lambda t: t.__name__)
def test_no_reply_goes_on_for_ever(ask, talk, tmp_path):
    server = Hostile(talk)
    try:
        (code, _, err), took = ask(server.url)
    finally:
        server.close()
    assert code == 2 and took < 20, (took, err)
    assert err.splitlines()[-1].startswith("error: judge http://127.0.0.1:"), err
    assert "Traceback" not in err and not (tmp_path / "out").exists()
    assert server.posts <= 2


@pytest.mark.parametrize("talk", [drop_by_drop, continue_slowly, continue_fast], ids=lambda t: t.__name__)
def test_nor_does_the_first_look(ask, talk):
    server = Hostile(talk, greet=talk)
    try:
        result, took = ask(server.url)
    finally:
        server.close()
    assert "judge http://127.0.0.1:" in refused(result) and took < 20 and server.posts == 0


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 100_000,
        b'{"choices": ' + b"[" * 5_000_000,
        b'{"choices": ' + b"9" * 5000 + b"}",
        b'{"choices": [{"message": {"content": ' + b"[" * 900 + b"]" * 900 + b"}}]}",
        b"\xff\xfe\x00",
        b'{"choices": {"0": 1}}',
        b'{"choices": "text"}',
        b"null",
        b"",
    ],
    ids=lambda raw: raw[:24].decode("latin-1"),
)
def test_what_is_no_reply_is_one_line_or_no_rating(ask, judge, raw, tmp_path):  # noqa: F811
    judge.script = [raw]
    (code, _, err), _ = ask(judge.url)
    assert "Traceback" not in err
    if code == 0:
        assert json.loads((tmp_path / "out" / "judge.json").read_text())["rated"] == 0
    else:
        assert code == 2 and "not a reply of chat completions" in err


def test_half_a_character_in_a_reply_can_be_written(ask, judge, tmp_path):  # noqa: F811
    judge.script = [b'{"choices": [{"message": {"content": "\\ud800 [[7]]"}}]}']
    (code, _, err), _ = ask(judge.url)
    assert code == 0, err
    assert json.loads((tmp_path / "out" / "judge.json").read_text())["score"] == 7


@pytest.mark.parametrize("line", ['{"id": "a", "turns": ["\\ud800"]}', "[" * 100_000, '{"id": ' + "9" * 5000 + "}"])
def test_conversations_that_no_file_can_hold_are_refused_by_line(run_cli, judge, tiny_model, tmp_path, line):  # noqa: F811
    (tmp_path / "rows.jsonl").write_text(line + "\n")
    result = run_cli("tu-eval", "judge", "--model", tiny_model, "--data", tmp_path / "rows.jsonl", "--out", tmp_path / "out")
    assert "line 1" in refused(result)
