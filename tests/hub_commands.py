"""`python -m tests.hub_commands JSON`: commands one after another in one process, each answered with a line of JSON.

No name of another machine is looked up: a test that asks for one has it refused. Waits between attempts are cut short,
and downloads come in pieces of 100 bytes in place of 10 MB, since a file of a test would else be one piece.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import socket
import sys
import time

from huggingface_hub import constants

look_up, wait = socket.getaddrinfo, time.sleep
MODULES = {"hf": "huggingface_hub.cli.hf", "python": "tests.hub_commands"}


def on_this_machine(host, *more, **named):
    if host not in ("127.0.0.1", "localhost"):
        raise socket.gaierror(f"{host!r} is not on this machine")
    return look_up(host, *more, **named)


def answer(command: list[str]) -> dict:
    sys.argv = command
    name = MODULES.get(command[0], f"{command[0].replace('-', '_')}.cli")
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if command[0] == "python":
                exec(command[1], {})  # noqa: S102 (a line of the documents)
            else:
                importlib.import_module(name).main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            if isinstance(stop.code, str):
                err.write(stop.code)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


if __name__ == "__main__":
    constants.DOWNLOAD_CHUNK_SIZE = 100
    socket.getaddrinfo = on_this_machine
    time.sleep = lambda seconds: wait(min(seconds, 0.05))
    for line in json.loads(sys.argv[1]):
        print(json.dumps(answer(line)), flush=True)
