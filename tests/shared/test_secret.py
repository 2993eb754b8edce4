"""Credentials of URLs are cut out of what is written down; everything else stays as it is."""

import pytest

from shared.secret import lacks_secrets, without_secrets, without_secrets_in

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        (f"http://me:{SECRET}@host/rows.jsonl", "http://***@host/rows.jsonl"),
        (f"https://me:{SECRET}@@host:8000/rows.jsonl", "https://***@host:8000/rows.jsonl"),
        (f"https://me:a/{SECRET}@host/rows.jsonl", "https://***@host/rows.jsonl"),
        (f"https://{SECRET}@host/rows.jsonl", "https://***@host/rows.jsonl"),
        (f"https://{SECRET}:x-oauth-basic@host/rows.jsonl", "https://***@host/rows.jsonl"),
        (f"simplecache::ftp://me:{SECRET}@host/rows.jsonl", "simplecache::ftp://***@host/rows.jsonl"),
        (f"s3://id:{SECRET}@bucket/rows@1.jsonl", "s3://***@bucket/rows@1.jsonl"),
        (f"https://h/x.csv?v=1&token={SECRET}", "https://h/x.csv?v=1&token=***"),
        (f"https://h/x.csv?access_token={SECRET}&v=1", "https://h/x.csv?access_token=***&v=1"),
        (f"https://h/x.csv?%74oken={SECRET}", "https://h/x.csv?%74oken=***"),
        (f"https://h/x.csv?API-KEY={SECRET};password={SECRET}#key={SECRET}", "https://h/x.csv?API-KEY=***;password=***#key=***"),
        (f"https://h/x?X-Amz-Credential={SECRET}&X-Amz-Date=1&X-Amz-Signature={SECRET}",
         "https://h/x?X-Amz-Credential=***&X-Amz-Date=***&X-Amz-Signature=***"),
        (f"https://a.blob/x?sv=1&se=2&sig={SECRET}", "https://a.blob/x?sv=***&se=***&sig=***"),
        (f"https://h/go?to=https%3A%2F%2Fme%3A{SECRET}%40host", "https://h/go?to=https://***@host"),
        (f"https://h/https://me:{SECRET}@host/x", "https://h/https://***@host/x"),
    ],
)  # fmt: skip
def test_credentials_are_cut_out_and_the_place_stays(url, kept):
    assert without_secrets(url) == kept
    assert without_secrets(kept) == kept
    assert lacks_secrets(kept)
    assert SECRET not in without_secrets(f'error: "{url}": cannot be read: {url}, {url}')


@pytest.mark.parametrize(
    "text",
    [
        "data.jsonl", "tofu:forget01", "hub:org/name:config:split", "atlas:forget:people=3", "C:\\rows.jsonl", "me@host:/rows.jsonl",
        "hf://datasets/org/name@main/x.parquet", "abfs://container@account.dfs.core.windows.net/x", "http://host:8000/a@b.jsonl?page=2&sv=1",
        "http://[::1]:8000/a@b", "file:///a/b?c", "://", "", "a ://b", "memory://x",
    ],
)  # fmt: skip
def test_what_holds_no_credentials_is_as_it_was(text):
    assert without_secrets(text) == text
    assert not lacks_secrets(text)


def test_values_of_any_form():
    url = f"http://me:{SECRET}@h/x"
    assert without_secrets_in({"data": url, "more": [url, 1, None, (url,)]}) == {
        "data": "http://***@h/x", "more": ["http://***@h/x", 1, None, ["http://***@h/x"]],
    }  # fmt: skip
