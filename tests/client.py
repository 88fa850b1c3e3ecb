"""A small HTTP client for load in tests: several kept-alive connections, whole answers, nothing hidden."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]  # lower-case names
    body: bytes


def post(path: str, body: bytes = b"{}", **headers: str) -> bytes:
    """A POST as bytes; underscores in header names become hyphens."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: t",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """One answer; `asyncio.IncompleteReadError` when the connection ends before it does."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
    }
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(head[0].split(" ")[1]), headers, body)


async def load(
    port: int, requests: Iterable[bytes], *, connections: int = 16, timeout_s: float = 60.0
) -> list[Answer]:
    """All requests, each answered before its connection takes the next; the answers in no particular order."""
    rest = iter(requests)
    answers: list[Answer] = []
    async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(_one_connection(port, rest, answers))
    return answers


async def _one_connection(port: int, requests: Iterator[bytes], answers: list[Answer]) -> None:
    reader = writer = None
    try:
        for request in requests:
            if writer is None or reader is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            answer = await read_answer(reader)
            answers.append(answer)
            if answer.headers.get("connection") == "close":
                writer.close()
                reader = writer = None
    finally:
        if writer is not None:
            writer.close()
