"""One HTTP request whose reply must come within a time and a size, whatever the server does: redirects are not
followed.

The timeout of a socket bounds each silence, not their sum: a byte a second, or `100 Continue` without end, would go on
for ever. Here every read of a reply, of its status line and headers too, waits at most for what is left of the whole
time.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
import urllib.request
from typing import Any

LARGEST_REPLY = 1 << 23
"""bytes, headers and all; a judgement is a few thousand"""


class TooLong(Exception):
    """A reply that takes too long, or is too large. Not asked for again: it would be so another time."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _Bounds:
    """What is left of one reply."""

    def __init__(self, silence_s: float, reply_s: float):
        self.silence_s, self.reply_s = silence_s, reply_s
        self.end, self.room = time.monotonic() + reply_s, LARGEST_REPLY

    def left(self) -> float:
        left = self.end - time.monotonic()
        if left <= 0:
            raise TooLong(f"its reply took more than {self.reply_s:g} s and was broken off")
        return left


class _Bounded(io.RawIOBase):
    """What comes from a socket, within bounds."""

    def __init__(self, raw: Any, sock: socket.socket, bounds: _Bounds):
        self.raw, self.sock, self.bounds = raw, sock, bounds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        self.sock.settimeout(min(self.bounds.silence_s, self.bounds.left()))
        try:
            count = self.raw.readinto(buffer)
        except TimeoutError:
            self.bounds.left()
            raise
        self.bounds.room -= count or 0
        if self.bounds.room < 0:
            raise TooLong(f"its reply has more than {LARGEST_REPLY:,} bytes and was broken off")
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


def fetch(request: urllib.request.Request, silence_s: float, reply_s: float) -> bytes:
    """The body of a reply with status 200. Raises TooLong; HTTPError for another status; OSError or HTTPException for
    what breaks off."""
    bounds = _Bounds(silence_s, reply_s)

    class Response(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *arguments: Any, **options: Any):
            super().__init__(sock, *arguments, **options)
            plain: Any = self.fp
            self.fp = io.BufferedReader(_Bounded(plain.detach(), sock, bounds))  # type: ignore[assignment]

    def connect(kind: type[http.client.HTTPConnection]) -> Any:
        def make(host: str, **options: Any) -> http.client.HTTPConnection:
            connection = kind(host, **options)
            connection.response_class = Response
            return connection

        return make

    class Plain(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(connect(http.client.HTTPConnection), req)

    class Secure(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(connect(http.client.HTTPSConnection), req, context=ssl.create_default_context())

    opener = urllib.request.build_opener(_NoRedirect, Plain, Secure)
    with opener.open(request, timeout=min(silence_s, reply_s)) as answer:
        return answer.read()
