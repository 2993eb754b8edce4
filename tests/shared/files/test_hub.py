"""What the hub's libraries raise, in our words; the same from a hub on loopback: tests/shared/lm/test_download.py and
tests/shared/data/test_hub_sets.py."""

import re

import httpx2
import pytest
from huggingface_hub import errors

from shared.files.hub import failures, why


def answered(kind, status, said="no"):
    request = httpx2.Request("GET", "https://hub.example/api/models/org/name")
    return kind(said, response=httpx2.Response(status, request=request))


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (answered(errors.HfHubHTTPError, 403), "the token has no right to read it"),
        (answered(errors.HfHubHTTPError, 401), "the hub does not know the token"),
        (answered(errors.HfHubHTTPError, 429), "the hub answered 429; try again later"),
        (answered(errors.HfHubHTTPError, 502), "the hub answered 502; try again later"),
        (answered(errors.GatedRepoError, 401), "it is gated; accept its conditions"),
        (answered(errors.GatedRepoError, 403), "it is gated, and your account has no access yet"),
        (answered(errors.RevisionNotFoundError, 404), "but not the revision 'v1'"),
        (answered(errors.RepositoryNotFoundError, 404), "the hub has no such model"),
        (httpx2.ReadError("connection reset"), r"the connection broke off \(connection reset\); give the same command again"),
        (httpx2.ReadError(""), r"broke off \(ReadError\)"),
        (errors.LocalEntryNotFoundError("none"), "the hub cannot be reached, and no copy is in its cache"),
    ],
)
def test_each_answer_says_what_to_do(error, said):
    assert isinstance(error, failures())
    found = why(error, "model", "org/name", "v1")
    assert found is not None and re.search(said, found)
    assert "\n" not in found


def test_what_lies_behind_an_error_counts():
    try:
        try:
            raise answered(errors.HfHubHTTPError, 503)
        except errors.HfHubHTTPError as error:
            raise errors.LocalEntryNotFoundError("it may be the network") from error
    except errors.LocalEntryNotFoundError as error:
        assert why(error, "data set", "org/name", "") == "the hub answered 503; try again later"


def test_an_error_about_something_else_is_left_to_the_caller():
    try:
        try:
            raise answered(errors.RemoteEntryNotFoundError, 404)  # datasets looks for a script first, and goes on in the handler
        except errors.RemoteEntryNotFoundError:
            raise ValueError("BuilderConfig 'fr' not found")  # noqa: B904
    except ValueError as error:
        assert why(error, "data set", "org/name", "") is None
    assert why(OSError(28, "No space left on device"), "model", "org/name", "") is None
