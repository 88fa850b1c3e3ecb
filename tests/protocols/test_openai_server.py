"""The example OpenAI-shaped server, over real sockets, read by the `openai` protocol."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from app.protocols.record import Exchange, Extraction
from app.protocols.registry import build_reader

CHAT: dict[str, Any] = {"model": "any", "messages": [{"role": "user", "content": "the gateway"}], "seed": 3}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "examples.openai_server", "--port", str(port)])
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 30
    try:
        while True:
            try:
                httpx2.get(f"{url}/v1/models").raise_for_status()
                break
            except httpx2.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def exchange(url: str, path: str, body: Any) -> tuple[Extraction, httpx2.Response]:
    sent = json.dumps(body).encode()
    reply = httpx2.post(url + path, content=sent, headers={"content-type": "application/json"})
    extraction = build_reader("openai")(
        Exchange(
            sent,
            reply.content,
            reply.status_code,
            path,
            response_content_type=reply.headers["content-type"],
        )
    )
    return extraction, reply


def test_a_chat_says_the_same_whole_and_streamed(server: str) -> None:
    whole, _ = exchange(server, "/v1/chat/completions", CHAT | {"logprobs": True, "n": 2})
    streamed, reply = exchange(
        server,
        "/v1/chat/completions",
        CHAT | {"logprobs": True, "n": 2, "stream": True, "stream_options": {"include_usage": True}},
    )
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert (whole.reason, streamed.reason) == (None, None)
    assert len(whole.rows) == 2
    for one, other in zip(whole.rows, streamed.rows, strict=True):
        assert isinstance(one.prediction, str)
        assert one.prediction == other.prediction
        assert one.confidence == pytest.approx(other.confidence)
    for fact in ("model", "finish_reason", "prompt_tokens", "completion_tokens", "total_tokens"):
        assert whole.facts[fact] == streamed.facts[fact]


def test_completions_and_embeddings_are_read(server: str) -> None:
    completions, _ = exchange(
        server, "/v1/completions", {"prompt": ["the model", "a label"], "max_tokens": 4}
    )
    assert completions.reason is None
    assert len(completions.rows) == 2
    assert completions.facts["completion_tokens"] <= 8
    embeddings, reply = exchange(server, "/v1/embeddings", {"input": ["one", "two"]})
    assert embeddings.reason is None
    assert embeddings.facts["dimensions"] == len(reply.json()["data"][0]["embedding"])
    packed, _ = exchange(server, "/v1/embeddings", {"input": "one", "encoding_format": "base64"})
    assert packed.facts["dimensions"] == embeddings.facts["dimensions"]


def test_a_bad_request_is_told_so(server: str) -> None:
    extraction, reply = exchange(server, "/v1/chat/completions", {"messages": 3})
    assert reply.status_code == 400
    assert extraction.reason == "error_status"
