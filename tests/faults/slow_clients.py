"""Clients that are slow on purpose, in a process of their own: they must not share an interpreter with whoever measures.

    python -m tests.faults.slow_clients PORT SOCKETS [--path /m] [--kind KIND …] [--over SECONDS] [--again]

Prints `open` once all have connected, goes on until its standard input ends or all have been closed, and prints one JSON line: `left`, the
kinds that were not closed; `closed`, how many were; `slowest_s`, by kind, the longest that one stayed open. With `--again` whoever is
closed comes back at once; `--over` spreads the first arrivals. Those that are slow to read count from the first byte of an answer, before
which they wait like anybody. Loopback only; ends by itself after `LONGEST_S`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
EVERY_S = 0.2
TURNS = 20  # in which all get their bytes: not everybody sends at the same moment
LONGEST_S = 120.0
KINDS = {  # how it begins, and what is sent after it five times a second
    "nothing": (b"", b""),
    "head": (b"POST %b/ok HTTP/1.1\r\nHost: t\r\n", b"X-Slow: 1\r\n"),
    "one field": (b"POST %b/ok HTTP/1.1\r\nHost: t\r\nX-Slow: ", b"x"),
    "body": (b"POST %b/ok HTTP/1.1\r\nHost: t\r\nContent-Length: 100000\r\n\r\n", b"x"),
    "chunks": (b"POST %b/ok HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "reading": (b"GET %b/long_body?bytes=20000000 HTTP/1.1\r\nHost: t\r\n\r\n", b""),
    "sipping": (b"GET %b/long_body?bytes=20000000 HTTP/1.1\r\nHost: t\r\n\r\n", b""),
    "pipelined": (b"GET %b/long_body?bytes=2000000 HTTP/1.1\r\nHost: t\r\n\r\n", b""),
}
PIPELINED = 200  # requests of such a client: many times what the sockets between hold of their answers
READERS = ("reading", "sipping", "pipelined")  # slow to take what they asked for
# One in six reads: each of them costs the server as many bytes as fit into the sockets between, however slow it is.
MIX = tuple(kind for reader in READERS for kind in (*(one for one in KINDS if one not in READERS), reader))


@dataclass
class Seen:
    """What became of them."""

    left: list[str] = field(default_factory=list)
    closed: int = 0
    slowest_s: dict[str, float] = field(default_factory=dict)
    ended: Callable[[float], object] = lambda within_s: None  # waits until all have been closed


class Clients:
    """All sockets and the one loop that drives them."""

    def __init__(self, port: int, path: bytes, *, again: bool) -> None:
        self._port = port
        self._path = path
        self._again = again
        self._watched = select.epoll()
        self._open: dict[int, tuple[socket.socket, str, float]] = {}
        self._silent: set[int] = set()  # of those that read, who has not been sent anything yet
        self._due = 0.0  # when the next bytes are
        self._turn = 0
        self.seen = Seen()

    def connect(self, kind: str) -> None:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", self._port))
        begin = KINDS[kind][0]
        if begin:
            client.sendall(begin % self._path * (PIPELINED if kind == "pipelined" else 1))
        client.setblocking(False)
        events = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
        if kind in READERS:
            events |= select.EPOLLIN | select.EPOLLET
            self._silent.add(client.fileno())
        self._watched.register(client, events)
        self._open[client.fileno()] = (client, kind, time.monotonic())

    def run(self, sockets: int, kinds: Sequence[str], over_s: float) -> None:
        """Until the standard input ends, or nobody is left."""
        began = time.monotonic()
        for number in range(sockets):
            self.connect(kinds[number % len(kinds)])
            if (ahead := began + over_s * (number + 1) / sockets - time.monotonic()) > 0.0:
                self._round(ahead)
        print("open", flush=True)
        while time.monotonic() - began < LONGEST_S:
            if self._round(EVERY_S / TURNS) or not self._open:
                break
        self._again = False
        self._round(0.0)  # one last look
        self.seen.left = [kind for _, kind, _ in self._open.values()]

    def _round(self, for_s: float) -> bool:
        """Take in for so long who was closed, and send what is due; whether the standard input has ended."""
        until = time.monotonic() + for_s
        ended = False
        while not ended:
            left = until - time.monotonic()
            for number, events in self._watched.poll(max(left, 0.0), 4096):
                if events == select.EPOLLIN:  # nothing but an answer
                    if number in self._silent:
                        self._silent.discard(number)
                        client, kind, _ = self._open[number]
                        self._open[number] = client, kind, time.monotonic()
                    continue
                self._closed(number)
            ended = bool(select.select([sys.stdin], [], [], 0.0)[0])
            if left <= 0.0:
                break
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + EVERY_S / TURNS
            self._turn = (self._turn + 1) % TURNS
            for number, (client, kind, _) in self._open.items():
                if number % TURNS == self._turn:
                    with contextlib.suppress(OSError):
                        if kind == "sipping":
                            client.recv(1)
                        elif more := KINDS[kind][1]:
                            client.send(more)
        return ended

    def _closed(self, number: int) -> None:
        self._watched.unregister(number)
        self._silent.discard(number)
        client, kind, since = self._open.pop(number)
        client.close()
        seen = self.seen
        seen.closed += 1
        seen.slowest_s[kind] = max(seen.slowest_s.get(kind, 0.0), time.monotonic() - since)
        if self._again:
            self.connect(kind)


@contextlib.contextmanager
def slow_clients(
    port: int,
    sockets: int,
    *,
    path: str = "/m",
    kinds: Sequence[str] = (),
    over_s: float = 0.0,
    again: bool = False,
) -> Iterator[Seen]:
    """They have connected when the block begins; what was seen of them is filled in when it ends."""
    command = [sys.executable, "-P", "-m", "tests.faults.slow_clients", str(port), str(sockets)]
    command += ["--path", path, "--over", str(over_s), *(["--again"] if again else [])]
    command += [word for kind in kinds for word in ("--kind", kind)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    seen = Seen()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        seen.ended = process.wait
        yield seen
        process.stdin.close()
        found = json.loads(process.stdout.readline())
        seen.left, seen.closed, seen.slowest_s = found["left"], found["closed"], found["slowest_s"]
        assert process.wait(10) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.slow_clients")
    parser.add_argument("port", type=int)
    parser.add_argument("sockets", type=int)
    parser.add_argument("--path", default="/m")
    parser.add_argument("--kind", choices=KINDS, action="append", default=[])
    parser.add_argument("--over", type=float, default=0.0)
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients = Clients(options.port, options.path.encode(), again=options.again)
    clients.run(options.sockets, options.kind or MIX, options.over)
    seen = clients.seen
    print(json.dumps({"left": seen.left, "closed": seen.closed, "slowest_s": seen.slowest_s}), flush=True)


if __name__ == "__main__":
    main()
