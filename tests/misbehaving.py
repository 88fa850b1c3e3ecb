"""A model server that breaks the rules of HTTP on purpose, byte by byte over raw sockets, to test the data
plane.

It runs in a thread of its own on a free port of the loopback interface. What it does with a request is
the next entry of `script` (one entry a request) while there is one, else the last segment of the path
when that names a behaviour (`/hang`, `/models/x/reset_mid_body`), else `default`. Every request that it
understood is kept in `requests`, so that a test can say how often one arrived. It must never be reachable
from another host and never outlive its test.

    with MisbehavingUpstream() as upstream:
        ... send requests to upstream.url + "/two_content_lengths" ...
        assert upstream.count("two_content_lengths") == 1

`python -m tests.misbehaving PORT` serves until interrupted, for trying by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from urllib.parse import urlsplit

from tests.misbehaviours import ANSWER, BEHAVIOURS, Connection, PeerGone, Received

__all__ = ["ANSWER", "AT_ACCEPT", "BEHAVIOURS", "MisbehavingUpstream", "Received"]

# These are chosen when the connection is accepted: no request is read.
AT_ACCEPT = frozenset({"reset_at_accept", "close_at_accept", "never_read"})


class MisbehavingUpstream:
    """The server; a context manager. `port=0` takes a free port.

    `at_accept`, when set to a name of AT_ACCEPT, is what new connections meet.
    """

    def __init__(self, default: str = "ok", script: Iterable[str] = (), port: int = 0) -> None:
        self.default = default
        self.script = list(script)
        self.at_accept: str | None = None
        self.requests: list[Received] = []
        self.accepted = 0
        self._open: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="misbehaving-upstream", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def count(self, behaviour_name: str | None = None) -> int:
        """Requests received, all or those of one behaviour."""
        return sum(behaviour_name in (None, request.behaviour) for request in tuple(self.requests))

    def wait_until(self, holds: Callable[[MisbehavingUpstream], bool], timeout_s: float = 10.0) -> None:
        """Polls until `holds(self)`; raises TimeoutError after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not holds(self):
            if time.monotonic() > deadline:
                seen = [request.behaviour for request in self.requests[-5:]]
                raise TimeoutError(f"not within {timeout_s} s; {self.open_connections} open, last {seen}")
            time.sleep(0.01)

    def __enter__(self) -> MisbehavingUpstream:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)
        if self._thread.is_alive():
            raise RuntimeError("the misbehaving upstream did not stop within 10 s")

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        accepting = self._spawn(self._accept())
        await self._stopping.wait()
        accepting.cancel()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in tuple(self._open):
            connection.reset()
        self._listener.close()

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        async def run() -> None:
            await work

        task = self._loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self) -> None:
        while True:
            sock, _ = await self._loop.sock_accept(self._listener)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.accepted += 1
            connection = Connection(sock, self.accepted)
            self._open.add(connection)
            self._spawn(self._handle(connection))

    async def _handle(self, connection: Connection) -> None:
        try:
            if await self._met_at_the_door(connection):
                return
            while connection.open:
                request = await self._read_request(connection)
                self.requests.append(request)
                await BEHAVIOURS[request.behaviour](connection, request)
        except PeerGone:
            pass
        finally:
            connection.close()
            self._open.discard(connection)

    async def _met_at_the_door(self, connection: Connection) -> bool:
        match self.at_accept:
            case "reset_at_accept":
                connection.reset()
            case "close_at_accept":
                connection.close()
            case "never_read":
                await asyncio.Event().wait()
            case _:
                return False
        return True

    async def _read_request(self, connection: Connection) -> Received:
        head = await connection.read_until(b"\r\n\r\n")
        request_line, *lines = head[:-4].split(b"\r\n")
        method, target, _ = request_line.decode("latin-1").split(" ", 2)
        headers = tuple((key, value.strip()) for key, _, value in (line.partition(b":") for line in lines))
        body = await self._read_body(connection, {key.lower(): value for key, value in headers})
        name = self._behaviour_for(target)
        return Received(name, connection.number, method, target, headers, body, time.monotonic())

    async def _read_body(self, connection: Connection, fields: dict[bytes, bytes]) -> bytes:
        if fields.get(b"expect", b"").lower() == b"100-continue":
            await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
            parts = []
            while size := int((await connection.read_until(b"\r\n")).split(b";")[0], 16):
                parts.append((await connection.read_exactly(size + 2))[:-2])
            while await connection.read_until(b"\r\n") != b"\r\n":
                pass
            return b"".join(parts)
        return await connection.read_exactly(int(fields.get(b"content-length", b"0")))

    def _behaviour_for(self, target: str) -> str:
        if self.script:
            return self.script.pop(0)
        named = urlsplit(target).path.rstrip("/").rpartition("/")[2]
        return named if named in BEHAVIOURS else self.default


if __name__ == "__main__":
    with MisbehavingUpstream(port=int(sys.argv[1])) as serving, contextlib.suppress(KeyboardInterrupt):
        print(f"{serving.url}/NAME, NAME one of: {', '.join(sorted(BEHAVIOURS))}", flush=True)
        threading.Event().wait()
