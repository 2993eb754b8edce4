"""The hub: what is fetched from it by name, and in our words why it gave nothing.

Its libraries say that over many lines, and datasets says some of it in text alone. Their errors are told by name, since
not every version that we run with has all of them. A download that broke off is taken up file by file: each file that
came whole is kept, the others are fetched again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from http import HTTPStatus
from typing import Literal

COMMIT = re.compile(r"[0-9a-f]{40}")
Fetched = Literal["model", "data set"]
LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
"""what passes by itself; as do those from 500 on"""


def failures() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises where a download fails: the network, the hub's answer, the disk."""
    from huggingface_hub import errors

    http = next(base for base in errors.HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")  # of httpx, or of its successor
    xet = getattr(errors, "XetDownloadError", OSError)
    return OSError, ValueError, RuntimeError, http, xet  # type: ignore[return-value]


def offline() -> bool:
    """HF_HUB_OFFLINE, as the library read it."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def quiet_downloads() -> None:
    """Bars are for a terminal; in a file they would stand before the line that says what went wrong."""
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()


def commit_of(repo: str, revision: str) -> str:
    """The commit that a branch or tag of a data set stands for now. Raises one of `failures()`."""
    from huggingface_hub import HfApi

    return revision if COMMIT.fullmatch(revision) else str(HfApi().dataset_info(repo, revision=revision).sha)


def why(error: BaseException, kind: Fetched, repo: str, revision: str) -> str | None:
    """Why the hub did not give a model or data set; None where the error is about something else.

    `revision`: empty where none was named.
    """
    found = list(_chain(error))
    if any(_is(e, "HFValidationError") for e in found):
        return f"no {kind} of the hub can have this name"
    asked = "the hub is not asked" if offline() else "the hub cannot be reached"
    if not offline():
        said = next(filter(None, (_answered(e, kind, repo, revision) for e in found)), None)
        if said is not None:
            return said
    if _is(error, "IncompleteSnapshotError"):
        return f"{asked}, and the copy in its cache is not complete; give the command again where the hub can be reached"
    if any(_is(e, "LocalEntryNotFoundError", "OfflineModeIsEnabled") or _says(e, "couldn't reach", "couldn't find cache") for e in found):
        return f"{asked}, and no copy is in its cache"
    if any(_is(e, "TransportError") for e in found):
        line = (" ".join(str(error).split()) or type(error).__name__)[:200]
        return f"the connection broke off ({line}); give the same command again, files that came whole are kept"
    return None


def _answered(error: BaseException, kind: Fetched, repo: str, revision: str) -> str | None:
    """The same for what the hub itself answered."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if _is(error, "GatedRepoError") or _says(error, "is a gated dataset"):
        return _gated(kind, repo, known=status == HTTPStatus.FORBIDDEN or _says(error, "to ask for access"))
    if _is(error, "RevisionNotFoundError"):
        return f"the hub has the {kind}, but not the revision {revision or 'main'!r}; check the name of the branch, tag or commit"
    if _is(error, "RepositoryNotFoundError") or _says(error, "doesn't exist on the hub or cannot be accessed"):
        return f"the hub has no such {kind}, or it is private; check the name, or log in with hf auth login, or set HF_TOKEN"
    if status == HTTPStatus.UNAUTHORIZED:
        return "the hub does not know the token; log in again with hf auth login, or set another HF_TOKEN"
    if status == HTTPStatus.FORBIDDEN:
        return "the token has no right to read it; take another one with hf auth login, or set HF_TOKEN"
    if status in LATER or status >= 500:
        return f"the hub answered {status}; try again later"
    return None


def _gated(kind: Fetched, repo: str, *, known: bool) -> str:
    """`known`: the hub knows whose token it is."""
    from huggingface_hub import constants

    page = f"{constants.ENDPOINT}/{'' if kind == 'model' else 'datasets/'}{repo}"
    if known:
        return (
            f"it is gated, and your account has no access yet; accept its conditions on {page} (some owners agree by hand: wait for that)"
        )
    return f"it is gated; accept its conditions on {page}, then log in with hf auth login, or set HF_TOKEN"


def _is(error: BaseException, *names: str) -> bool:
    return any(base.__name__ in names for base in type(error).__mro__)


def _says(error: BaseException, *texts: str) -> bool:
    """datasets has one class for all that it does not find, and builtin ones beside it."""
    return type(error).__module__.partition(".")[0] in ("datasets", "builtins") and any(text in str(error).lower() for text in texts)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, then what it was raised over."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
