"""A judge behind an OpenAI-compatible endpoint: one request, one reply, over the standard library.

The key goes into the Authorization header and nowhere else: not into a log line, a file or an error, not to another
host (redirects are refused), and what a server says is cleared of it before anybody sees it.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import sleep
from typing import Any

from shared.console import say
from shared.errors import ConfigError
from tu_eval.judge.fetch import TooLong, fetch

URL, KEY, MODEL = "TU_JUDGE_URL", "TU_JUDGE_KEY", "TU_JUDGE_MODEL"
PATH = "/chat/completions"
RETRIED = (408, 429, 500, 502, 503, 504, 529)
"""statuses that may pass; any other than 200 ends the run"""
LONGEST_WAIT_S = 60.0
SECRET = 8
"""characters from which on a key is one; below, it is a word that a server of one's own was given for form's sake"""
LOCAL = ("localhost", "127.0.0.1", "::1")


class JudgeError(ConfigError):
    """The judge does not answer, or not as it should."""


@dataclass(frozen=True)
class Endpoint:
    """Where the judge is asked. `repr` does not show the key."""

    url: str
    """of chat completions"""
    model: str
    key: str | None = field(default=None, repr=False)
    """none: no Authorization header, as servers of one's own want it"""

    @property
    def shown(self) -> str:
        """The address without a query, where some servers take keys."""
        parts = urllib.parse.urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}"

    def cleared(self, text: str) -> str:
        return text.replace(self.key, "***") if self.key and len(self.key) >= SECRET else text


def endpoint(model: str | None, environment: Mapping[str, str] = os.environ) -> Endpoint:
    """From TU_JUDGE_URL, TU_JUDGE_KEY and, where no model is named, TU_JUDGE_MODEL. Raises ConfigError for what is
    missing or malformed."""
    url, key = environment.get(URL, "").strip(), environment.get(KEY, "").strip()
    name = model or environment.get(MODEL, "").strip()
    if not url:
        raise ConfigError(f"{URL} is not set; it names the judge's endpoint, say https://HOST/v1, and nothing is sent anywhere without it")
    if not name:
        raise ConfigError(f"no judge named; give --judge-model, or set {MODEL}")
    try:
        parts = urllib.parse.urlsplit(url)
        right = parts.scheme in ("http", "https") and (parts.hostname or "").encode("idna") != b"" and parts.port != 0
    except ValueError:  # of the port, or of the name's letters
        right = False
    if not right:
        raise ConfigError(f"{URL}: expected http:// or https://, a host and perhaps a port")
    if parts.username or parts.password:
        raise ConfigError(f"{URL}: holds a user name or password; put the key into {KEY}")
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(f"{KEY}: holds a character that no key has (a line break, a blank, a letter beyond ASCII)")
    if parts.scheme == "http" and parts.hostname not in LOCAL:
        say(f"{URL} is plain http: questions, answers{' and the key' if key else ''} can be read on the way to {parts.hostname}")
    path = parts.path.rstrip("/")
    whole = path if path.endswith(PATH) else path + PATH
    return Endpoint(urllib.parse.urlunsplit((parts.scheme, parts.netloc, whole, parts.query, "")), name, key or None)


def check_reachable(judge: Endpoint, timeout_s: float, reply_s: float) -> None:
    """Something answers there, with whatever status: asked before a model works for hours. Sends neither key nor
    text."""
    try:
        fetch(urllib.request.Request(judge.url, method="GET"), timeout_s, reply_s)  # noqa: S310 — http or https, checked
    except urllib.error.HTTPError as error:
        error.close()
    except TooLong as error:
        raise JudgeError(f"judge {judge.shown}: {error}; see {URL}") from None
    except (OSError, http.client.HTTPException) as error:
        raise JudgeError(f"judge {judge.shown}: cannot be reached: {judge.cleared(_reason(error))}; see {URL}") from None


def ask(
    judge: Endpoint,
    messages: Sequence[Mapping[str, str]],
    options: Mapping[str, Any],
    *,
    timeout_s: float,
    reply_s: float,
    retries: int,
) -> str:
    """The judge's reply, empty where it gave none. Raises JudgeError after `retries` further attempts, or at once where
    another one would not help. `timeout_s`: that the judge may be silent; `reply_s`: that a whole reply may take."""
    body = json.dumps({"model": judge.model, "messages": list(messages), **options}).encode()
    request = urllib.request.Request(judge.url, data=body, headers={"Content-Type": "application/json"}, method="POST")  # noqa: S310
    if judge.key:
        request.add_unredirected_header("Authorization", f"Bearer {judge.key}")
    for attempt in range(retries + 1):
        wait = min(2.0**attempt, LONGEST_WAIT_S)
        try:
            return _content(judge, fetch(request, timeout_s, reply_s))
        except TooLong as error:
            raise JudgeError(f"judge {judge.shown}: {error}; see {URL}, or --set reply_s") from None
        except urllib.error.HTTPError as error:
            told = f"HTTP {error.code}"
            reason = f"{told} {judge.cleared(_body(error))}"
            if error.code not in RETRIED:
                hint = f"; see {KEY if error.code in (401, 403) else URL}" if error.code != 400 else ""
                raise JudgeError(f"judge {judge.shown}: refused: {_short(reason)}{hint}") from None
            wait = max(wait, _asked_to_wait(error.headers.get("Retry-After")))
        except (OSError, http.client.HTTPException) as error:  # not reached, broken off, too slow
            told = reason = judge.cleared(_reason(error))
        if attempt < retries:
            say(f"judge: {_short(told)}; asked again in {wait:.0f} s ({attempt + 1} of {retries})")
            sleep(wait)
    raise JudgeError(f"judge {judge.shown}: no answer after {retries + 1} attempts, last: {_short(reason)}")


def _content(judge: Endpoint, raw: bytes) -> str:
    try:
        content = json.loads(raw)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):  # also of too many digits, or nested without end
        shown = _short(judge.cleared(raw[:400].decode(errors="replace")))
        raise JudgeError(f"judge {judge.shown}: not a reply of chat completions: {shown!r}; see {URL}") from None
    # Half a character (a lone surrogate) can be in JSON, but in no file.
    return judge.cleared(content.encode("utf-8", "replace").decode()) if isinstance(content, str) else ""


def _body(error: urllib.error.HTTPError) -> str:
    """The beginning of what a refusal says; nothing where it does not come in time."""
    try:
        with error:
            return error.read(2000).decode(errors="replace")
    except (TooLong, OSError, http.client.HTTPException):
        return ""


def _asked_to_wait(header: str | None) -> float:
    """Seconds of Retry-After, at most LONGEST_WAIT_S; a date counts as none."""
    try:
        return min(max(0.0, float(header or 0)), LONGEST_WAIT_S)
    except ValueError:
        return 0.0


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error) or type(error).__name__


def _short(text: str) -> str:
    return " ".join(text.split())[:300]
