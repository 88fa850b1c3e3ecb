"""A gateway with a token of each scope, and raw requests to it: nothing between the test and the socket tidies them up."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.system import RunningGateway, running_gateway
from tests.worker import read_all, read_answer

TOKENS = {scope: f"{scope}-secret-of-a-test" for scope in ("read", "feedback", "operate", "admin")}


@contextlib.contextmanager
def guarded_gateway(
    directory: Path, upstream: MisbehavingUpstream, **server: object
) -> Iterator[RunningGateway]:
    """Models `credit` (under /models/credit) and `root` (everything else); tokens as in TOKENS."""
    (directory / "data").mkdir(mode=0o700)
    token_file = directory / "data" / "admin-token"  # where RunningGateway looks for its own
    token_file.write_text(TOKENS["admin"])
    token_file.chmod(0o600)
    tokens = [
        {"name": scope, "sha256": sha256(token.encode()).hexdigest(), "scopes": [scope]}
        for scope, token in TOKENS.items()
    ]
    versions = {name: {"url": upstream.url, "timeout_s": 5} for name in ("v1", "v2")}
    models = {
        "credit": {
            "match": {"path_prefix": "/models/credit", "strip": True},
            "routing_key": {"header": "X-User-Id"},
            "task": "binary",
            "production": "v1",
            "versions": versions,
        },
        "root": {"match": {"path_prefix": "/"}, "production": "v1", "versions": versions},
    }
    with running_gateway(
        directory, models, port=free_port(), auth={"tokens": tokens}, server=server
    ) as gateway:
        yield gateway


_addresses = itertools.count(1)


def from_a_new_address() -> str:
    """A field by which a trusted proxy names a client that was never seen before: nothing failed from there yet."""
    number = next(_addresses)
    return f"X-Forwarded-For: 10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def raw(port: int, data: bytes, *, until_close: bool = False) -> bytes:
    """One exchange of bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(data)
        return read_all(client) if until_close else read_answer(client)


def request(
    method: str, target: str, *fields: str, token: str | None = None, body: bytes | None = None
) -> bytes:
    """A request as bytes; fields as they stand, `Host: t` first."""
    lines = [f"{method} {target} HTTP/1.1", "Host: t", *fields]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:200]
    return int(answer[9:12])


def json_of(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])
