"""Ports for servers that a test starts."""

import contextlib
import random
import socket

PORTS = range(20_000, 32_000)
"""below those that the system gives to connections (from 32 768 on Linux), above those of Ray's workers (to 19 999)"""


def free_port() -> int:
    """One where nothing listens. A port that the system itself picks may be taken by somebody's connection before the
    server is up."""
    for port in random.Random().sample(PORTS, 100):  # not of the tests' seed: processes beside each other would take the same
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")
