"""Ports for what a test starts on the loopback interface."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000
_chance = random.SystemRandom()  # processes that run at the same time look in different places
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, never the same twice, and below those that the kernel gives to outgoing connections: what is free
    now is not taken by a client before the server that it is for has started.
    """
    for _ in range(1000):
        port = _chance.randrange(_LOWEST, _highest())
        if port in _given:
            continue
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            _given.add(port)
            return port
    raise RuntimeError(f"no port between {_LOWEST} and {_highest()} can be listened on")


def _highest() -> int:
    with contextlib.suppress(OSError):
        return max(_LOWEST + 5_000, int(_RANGE.read_text().split()[0]))
    return 32_768
