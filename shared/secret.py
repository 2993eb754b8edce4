"""Credentials in URLs, cut out of whatever is written down or shown: `https://me:PASSWORD@host/x?token=TOKEN` becomes
`https://***@host/x?token=***`.

What is kept names the same place, so that two runs over one URL are known as the same whatever password each was given.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

CUT = "***"
URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s\"<>]*")
PARTS = re.compile(r"(?P<scheme>[^:]+://)(?P<host>[^/?#]*)(?P<rest>.*)", re.DOTALL)
"""as urllib cuts a URL; `rest` begins at the first of / ? #"""
PORT = re.compile(r"[^:]*:\d*|\[[^\]]*\](?::\d*)?")
TELLING = (
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "signature",
    "credential",
    "apikey",
    "accesskey",
    "accessid",
    "privatekey",
)
"""a parameter whose name holds one of these is a credential"""
NAMED = {"sig", "key", "pass", "pwd", "pw", "auth", "authorization", "code", "sas", "jwt", "session", "policy", "keypairid", "hmac"}
BEGINNINGS = ("xamz", "xgoog", "xoss", "xcos", "qsign")
"""of the parameters of signed URLs, which are made anew for each"""
SHARED_ACCESS = {"sv", "st", "se", "sp", "sr", "srt", "ss", "sip", "spr", "skoid", "sktid", "skt", "ske", "sks", "skv", "expires"}
"""what stands beside a signature and changes with it"""


def without_secrets(text: str) -> str:
    """The text with passwords and tokens of its URLs replaced by ***; text without URLs is as it was."""
    return URL.sub(lambda found: _url(found.group()), text)


def without_secrets_in(value: Any) -> Any:
    """The same of every text in JSON-like values."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {name: without_secrets_in(entry) for name, entry in value.items()}
    return [without_secrets_in(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def lacks_secrets(text: str) -> bool:
    """Has something been cut out of it, so that it can no longer be opened?"""
    return "://" in text and CUT in text


def _url(url: str) -> str:
    cut = PARTS.fullmatch(url)
    assert cut is not None
    scheme, host, rest = cut["scheme"], cut["host"], cut["rest"]
    user, at, name = host.rpartition("@")
    if at:
        # abfs://container@account names no user; a lone name before an http host may well be a token
        host = f"{CUT}@{name}" if ":" in user or scheme.lower() in ("http://", "https://", "git://", "ftp://") else host
    elif ":" in host and not PORT.fullmatch(host) and "@" in rest:  # a password with a slash that should have been escaped
        host, rest = f"{CUT}@", rest.rpartition("@")[2]
        inner = re.match(r"[^/?#]*", rest)
        assert inner is not None
        host, rest = host + inner.group(), rest[inner.end() :]
    path, mark, more = _before_query(rest)
    return scheme + host + without_secrets(path) + mark + (_parameters(more) if mark else "")


def _before_query(rest: str) -> tuple[str, str, str]:
    at = min((rest.index(mark) for mark in "?#" if mark in rest), default=len(rest))
    return rest[:at], rest[at : at + 1], rest[at + 1 :]


def _parameters(text: str) -> str:
    """Behind a ? or #: pairs divided by & ; ? or #."""
    pieces = re.split(r"([&;?#])", text)
    signed = any(_plain(piece) in ("sig", "signature") for piece in pieces)
    return "".join(_pair(piece, signed) for piece in pieces)


def _pair(piece: str, signed: bool) -> str:
    name, equals, value = piece.partition("=")
    if not equals:
        return piece
    known = _plain(piece)
    secret = known in NAMED or known.startswith(BEGINNINGS) or any(word in known for word in TELLING) or (signed and known in SHARED_ACCESS)
    return f"{name}={CUT}" if secret and value else f"{name}={without_secrets(unquote(value)) if '://' in unquote(value) else value}"


def _plain(piece: str) -> str:
    """The name of a pair, without what people write differently."""
    return re.sub(r"[^a-z0-9]", "", unquote(piece.partition("=")[0]).lower())
