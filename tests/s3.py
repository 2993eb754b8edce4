"""A real S3 server on loopback (moto's), in a process of its own, behind a door in this one: tests make the door
refuse, lag, or go away for a while. Objects outlive the going away: they stand in moto's own memory.

A process of its own, because moto brings Flask, whose request-bound objects raise when vLLM looks through all modules
of the process that it is started in.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import Any

import pytest

from tests.ports import free_port

ADMIN = {"AWS_ACCESS_KEY_ID": "admin", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
NO_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")
ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>{}</Message></Error>"
LISTING = re.compile(r"(^|&)(list-type=|prefix=|delimiter=)")
HOP = ("connection", "transfer-encoding", "date", "server")
Answer = tuple[str, list[tuple[str, str]], bytes]


def require(*packages: str) -> None:
    """Skips the test on a machine without them; where CI=true nothing is skipped."""
    for name in packages:
        if importlib.util.find_spec(name) is None:
            if os.environ.get("CI") == "true":
                pytest.fail(f'no {name} here: pip install "token-unlearn[dev]"')
            pytest.skip(f"no {name} here")


class S3Server:
    """`url` is where it answers; `asked` the requests so far, as "PUT /bucket/key?query"."""

    def __init__(self):
        self.port, self.inner = free_port(), free_port()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.inner)]
        self.moto = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for(self.inner, self.moto)
        self.one_at_a_time = threading.Lock()  # moto looks and writes in two steps, S3 does not
        self.server: Any = None
        self.reset()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def reset(self) -> None:
        self.asked: list[str] = []
        self.fault: Callable[[str], int | None] = lambda request: None
        """request -> a status to answer in place of the real answer, which stays undone"""
        self.after: Callable[[str], int | None] = lambda request: None
        """the same once it is done: an answer that gets lost"""
        self.conditions = "known"
        """what it makes of If-None-Match: "known", "ignored" or "refused", as by servers that are not Amazon's"""
        self.lags = False
        """each listing is what the one before should have been, the first is empty"""
        self.listings: dict[str, Answer] = {}

    def start(self) -> None:
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, type, message, *args):
                pass

        self.server = make_server("127.0.0.1", self.port, self._answer, threaded=True, request_handler=Quiet)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Nobody listens any more at its port."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def close(self) -> None:
        """Stops it and moto; the objects are gone."""
        self.stop()
        self.moto.kill()
        self.moto.wait()

    def bucket(self, name: str) -> str:
        """Makes an empty one; returns its URL."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def contents(self, bucket: str, below: str = "") -> dict[str, bytes]:
        """name -> bytes of all objects below a folder, as they are, whatever the server's faults."""
        below = f"{below.rstrip('/')}/" if below else ""
        inside = self.client(port=self.inner)
        pages = inside.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=below)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return {key.removeprefix(below): inside.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def client(self, service: str = "s3", port: int | None = None):
        import boto3

        keys = {"aws_access_key_id": "admin", "aws_secret_access_key": "secret"}
        return boto3.client(service, endpoint_url=f"http://127.0.0.1:{port or self.port}", region_name="us-east-1", **keys)

    @contextmanager
    def permissions(self, *allowed: str):
        """Signatures and rights are checked in the block: yields the environment of a user who may do `allowed`, as in
        "s3:Get*"."""
        import json

        iam = self.client("iam")
        iam.create_user(UserName="user")
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": list(allowed), "Resource": "*"}]}
        iam.put_user_policy(UserName="user", PolicyName="some", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName="user")["AccessKey"]
        try:
            self._check_rights_after("0")
            yield {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
        finally:
            self._check_rights_after("inf")
            iam.delete_access_key(UserName="user", AccessKeyId=key["AccessKeyId"])
            iam.delete_user_policy(UserName="user", PolicyName="some")
            iam.delete_user(UserName="user")

    def _check_rights_after(self, requests: str) -> None:
        assert self._ask("POST", "/moto-api/reset-auth", {}, requests.encode())[0].startswith("200")

    def _answer(self, environment: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        query = environment.get("QUERY_STRING", "")
        request = f"{environment['REQUEST_METHOD']} {environment['PATH_INFO']}" + (f"?{query}" if query else "")
        self.asked.append(request)
        status = self.fault(request)
        if self.conditions != "known" and environment.pop("HTTP_IF_NONE_MATCH", None) and self.conditions == "refused":
            status = 501
        if status is None:
            with self.one_at_a_time:
                answer = self._of_moto(environment, request)
            status = self.after(request)
        if status is not None:
            code = {500: "InternalError", 503: "SlowDown", 501: "NotImplemented"}[status]
            body = b"" if request.startswith("HEAD") else ERROR.format(code, "by the test").encode()
            answer = (f"{status} {code}", [("Content-Type", "application/xml")], body)
        start_response(answer[0], answer[1])
        return [answer[2]]

    def _of_moto(self, environment: dict[str, Any], request: str) -> Answer:
        headers = {name[5:].replace("_", "-"): value for name, value in environment.items() if name.startswith("HTTP_")}
        headers.pop("TRANSFER-ENCODING", None)
        if environment.get("CONTENT_TYPE"):
            headers["CONTENT-TYPE"] = environment["CONTENT_TYPE"]
        whole = environment.get("wsgi.input_terminated")
        body = environment["wsgi.input"].read(*(() if whole else (int(environment.get("CONTENT_LENGTH") or 0),)))
        answer = self._ask(environment["REQUEST_METHOD"], environment["REQUEST_URI"], headers, body)
        if self.lags and request.startswith("GET") and LISTING.search(environment.get("QUERY_STRING", "")):
            fresh, answer = answer, self.listings.get(request, _emptied(answer))
            self.listings[request] = fresh
        return answer

    def _ask(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        inside = http.client.HTTPConnection("127.0.0.1", self.inner, timeout=60)
        try:
            inside.request(method, target, body, headers)
            answer = inside.getresponse()
            kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in HOP]
            return f"{answer.status} {answer.reason}", kept, answer.read()
        finally:
            inside.close()


def _wait_for(port: int, process: subprocess.Popen) -> None:
    for _ in range(1200):
        assert process.poll() is None, "moto's server did not start"
        with socket.socket() as door:
            if not door.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.05)
    raise AssertionError("moto's server does not answer")


def _emptied(answer: Answer) -> Answer:
    body = re.sub(rb"(?s)<(Contents|CommonPrefixes)>.*?</\1>", b"", answer[2])
    body = re.sub(rb"<KeyCount>\d+</KeyCount>", b"<KeyCount>0</KeyCount>", body)
    return answer[0], [(k, v) for k, v in answer[1] if k.lower() != "content-length"], body
