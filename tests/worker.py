"""A real proxy worker in a process of its own, without a control process: for tests of the data plane over real sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from app.domain.flags import Flags
from app.domain.model import Model
from app.domain.policy import AuthPolicy, JournalPolicy, ServerPolicy
from app.journal.reader import Journal
from app.journal.records import PredictionRecord, Record, ShadowRecord, decode
from app.main import send_specification
from app.proxy.worker import WorkerSpec
from app.supervisor import bind

# The package that the workers under test run: the sources, or the compiled tree that `make compiled` leaves.
TREE = Path(os.environ.get("GATEWAY_TREE") or Path(__file__).parent.parent).resolve()


def eventually(
    condition: Callable[[], object], within_s: float = 10.0, what: str = "the expected state"
) -> object:
    """Poll until the condition holds; its value, or a failure that says what did not come."""
    begun = time.monotonic()
    while True:
        value = condition()
        if value:
            return value
        waited = time.monotonic() - begun
        if waited > within_s:
            raise AssertionError(f"{what} did not come within {within_s} s")
        # What is waited for needs the processor too: look ever less often, a twentieth of the time late at most.
        time.sleep(min(0.1, 0.005 + waited / 20))


@dataclass
class RunningWorker:
    port: int
    process: subprocess.Popen[bytes]
    journal_directory: Path
    runtime: Path
    tls: ssl.SSLContext | None = None  # the client's side, when the worker speaks TLS
    admin_port: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}" if self.tls is None else f"https://localhost:{self.port}"

    def records(self) -> list[Record]:
        """Everything in the journal now, in order."""
        journal = Journal(self.journal_directory)
        found: list[Record] = []
        for segment in journal.segments():
            offset, at_end = 0, False
            while not at_end:
                result = journal.read(segment, offset, 1 << 20)
                found += [decode(entry.data) for entry in result.entries]
                offset, at_end = result.next_offset, result.at_end
        return found

    def predictions(self, model: str) -> list[PredictionRecord]:
        return [
            record
            for record in self.records()
            if isinstance(record, PredictionRecord) and record.model == model
        ]

    def shadows(self, model: str) -> list[ShadowRecord]:
        return [
            record for record in self.records() if isinstance(record, ShadowRecord) and record.model == model
        ]

    def connect(self) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        return plain if self.tls is None else self.tls.wrap_socket(plain, server_hostname="localhost")

    def raw(self, data: bytes, *, until_close: bool = True, timeout_s: float = 10.0) -> bytes:
        """Send bytes, read until the gateway closes (or, with `until_close` False, one head and its Content-Length body)."""
        with self.connect() as client:
            client.settimeout(timeout_s)
            client.sendall(data)
            return read_all(client) if until_close else read_answer(client)


def read_all(client: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(65536):
            found += piece
    return found


def read_answer(client: socket.socket) -> bytes:
    """One answer with Content-Length from a connection that stays open."""
    found = b""
    while b"\r\n\r\n" not in found:
        piece = client.recv(65536)
        if not piece:
            return found
        found += piece
    head, _, body = found.partition(b"\r\n\r\n")
    length = next(
        (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
    )
    while len(body) < length:
        piece = client.recv(65536)
        if not piece:
            break
        body += piece
    return head + b"\r\n\r\n" + body


@contextlib.contextmanager
def running_worker(
    models: list[Model],
    flags: list[Flags] | None = None,
    *,
    server: ServerPolicy | None = None,
    journal: JournalPolicy | None = None,
    auth: AuthPolicy | None = None,
    directory: Path | None = None,
    before: tuple[str, ...] = (),
    tls: ssl.SSLContext | None = None,
    admin: bool = False,
) -> Iterator[RunningWorker]:
    """Start it, wait until it takes traffic, and end it with the block. `before` is a command that runs its arguments;
    `tls` is what a client needs when `server.tls` is set. `admin`: with an admin port of its own.
    """
    with contextlib.ExitStack() as stack:
        base = directory or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mgw")))
        (base / "flags.json").write_bytes(msgspec.json.encode({"flags": flags or []}))
        listener = bind("127.0.0.1", 0, 1)[0]
        port = listener.getsockname()[1]
        admin_listener = bind("127.0.0.1", 0, 1)[0] if admin else None
        listeners = [one for one in (listener, admin_listener) if one is not None]
        for one in listeners:
            stack.callback(one.close)
            os.set_inheritable(one.fileno(), True)
        admin_port = admin_listener.getsockname()[1] if admin_listener is not None else None
        specification = WorkerSpec(
            slot="w0",
            server=replace(server or ServerPolicy(), port=port, admin_port=admin_port),
            journal=replace(journal or JournalPolicy(""), directory=str(base / "journal")),
            auth=auth or AuthPolicy(),
            models=tuple(models),
            listen=listener.fileno(),
            listen_admin=admin_listener.fileno() if admin_listener is not None else None,
            api_socket=str(base / "api.sock"),
            link_socket=str(base / "link.sock"),
            privacy_secret=b"test",
            last_known=str(base / "flags.json"),
        )
        process = subprocess.Popen(
            [*before, sys.executable, "-P", "-m", "app.main", "worker", "w0"],
            stdin=subprocess.PIPE,
            pass_fds=tuple(one.fileno() for one in listeners),
            env={**os.environ, "PYTHONPATH": str(TREE)},
        )
        assert process.stdin is not None
        stack.callback(_end, process)
        send_specification(process.stdin, specification)
        worker = RunningWorker(port, process, base / "journal", base, tls, admin_port)
        eventually(
            lambda: (
                b" 200 " in worker.raw(b"GET /readyz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")[:20]
            ),
            what="a ready worker",
        )
        yield worker


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
    if process.stdin is not None:
        process.stdin.close()
