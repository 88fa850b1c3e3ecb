"""Protocol `openai`: whole and streamed chats, completions, embeddings."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from app.protocols.openai import MAX_TEXT
from app.protocols.record import Exchange, Extraction, Reason
from app.protocols.registry import build_reader

CHAT = {
    "model": "gpt-x",
    "temperature": 0.5,
    "messages": [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "2+2?"}, {"type": "image_url", "image_url": {}}],
        },
    ],
}
USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}


def read(request: Any, reply: bytes, path: str = "/v1/chat/completions", **fields: Any) -> Extraction:
    return build_reader("openai")(Exchange(json.dumps(request).encode(), reply, path=path, **fields))


def chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0, **more: Any) -> bytes:
    body = {
        "object": "chat.completion.chunk",
        "model": "gpt-x-2",
        "choices": [{"index": index, "delta": delta, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(body | more).encode() + b"\n\n"


STREAM = (
    chunk({"role": "assistant", "content": ""})
    + b": a comment\n\n"
    + chunk({"content": "fo"})
    + chunk({"content": "ur ✓"})
    + chunk({}, "stop")
    + b"data: "
    + json.dumps({"choices": [], "usage": USAGE}).encode()
    + b"\n\ndata: [DONE]\n\n"
)


def test_a_chat_gives_text_tokens_and_finish_reason() -> None:
    reply = {
        "model": "gpt-x-2",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "four"}, "finish_reason": "stop"}
        ],
        "usage": USAGE,
    }
    extraction = read(CHAT, json.dumps(reply).encode())
    assert extraction.reason is None
    (row,) = extraction.rows
    assert row.features == {
        "model": "gpt-x",
        "temperature": 0.5,
        "messages": 2,
        "prompt": "2+2?",
        "prompt.chars": 4,
    }
    assert row.prediction == "four"
    assert extraction.facts == {"model": "gpt-x-2", "finish_reason": "stop"} | USAGE


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_a_streamed_chat_reads_like_a_whole_one(line_end: bytes) -> None:
    extraction = read(
        CHAT | {"stream": True},
        STREAM.replace(b"\n", line_end),
        response_content_type="text/event-stream; charset=utf-8",
    )
    assert extraction.reason is None, extraction.detail
    assert extraction.rows[0].prediction == "four ✓"
    assert (
        extraction.facts
        == {
            "model": "gpt-x-2",
            "finish_reason": "stop",
            "streamed": True,
            "chunks": 5,
        }
        | USAGE
    )


def test_a_stream_that_the_capture_cut_off_keeps_its_text_and_the_reason() -> None:
    cut = STREAM[: STREAM.index(b"stop")]
    extraction = read(CHAT, cut, response_content_type="text/event-stream", response_truncated=True)
    assert extraction.reason is Reason.TRUNCATED_RESPONSE
    assert extraction.rows[0].prediction == "four ✓"


def test_a_stream_that_the_server_broke_off_is_named() -> None:
    cut = STREAM[: STREAM.index(b"data: [DONE]")]
    extraction = read(CHAT, cut + b"data: {oops\n\n", response_content_type="text/event-stream")
    assert extraction.reason is Reason.INVALID_EVENT_STREAM
    assert extraction.rows[0].prediction == "four ✓"


def test_each_choice_is_a_row_in_the_order_of_its_index() -> None:
    stream = chunk({"content": "b"}, index=1) + chunk({"content": "a"}) + chunk({"content": "B"}, "stop", 1)
    extraction = read(
        CHAT | {"n": 2}, stream + b"data: [DONE]\n\n", response_content_type="text/event-stream"
    )
    assert [row.prediction for row in extraction.rows] == ["a", "bB"]
    assert extraction.facts["finish_reason"] == [None, "stop"]


def test_a_batch_of_prompts_is_a_row_each() -> None:
    reply = {"choices": [{"index": 0, "text": "A"}, {"index": 1, "text": "B"}]}
    extraction = read({"model": "m", "prompt": ["a", "b"]}, json.dumps(reply).encode(), "/v1/completions")
    assert [(row.features or {})["prompt"] for row in extraction.rows] == ["a", "b"]
    assert [row.prediction for row in extraction.rows] == ["A", "B"]


def test_log_probabilities_give_the_mean_token_probability() -> None:
    logprobs = {
        "content": [{"token": "a", "logprob": math.log(0.5)}, {"token": "b", "logprob": math.log(0.125)}]
    }
    reply = {"choices": [{"index": 0, "message": {"content": "ab"}, "logprobs": logprobs}]}
    (row,) = read(CHAT, json.dumps(reply).encode()).rows
    assert row.confidence == pytest.approx(0.25)


def test_tool_calls_are_named() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    reply = {"choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    extraction = read(CHAT | {"tools": [{}, {}]}, json.dumps(reply).encode())
    assert extraction.rows[0].prediction is None
    assert (extraction.rows[0].features or {})["tools"] == 2
    assert extraction.facts["tool_calls"] == ["look_up"]


def test_embeddings_are_a_row_an_input_without_their_vectors() -> None:
    reply = {
        "data": [{"index": 0, "embedding": [0.5, 0.25]}, {"index": 1, "embedding": [0.5, 0.25]}],
        "model": "e",
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }
    extraction = read({"model": "e", "input": ["x", "yy"]}, json.dumps(reply).encode(), "/v1/embeddings")
    assert [row.features for row in extraction.rows] == [
        {"model": "e", "input": "x", "input.chars": 1},
        {"model": "e", "input": "yy", "input.chars": 2},
    ]
    assert extraction.facts == {"model": "e", "prompt_tokens": 4, "total_tokens": 4, "dimensions": 2}
    assert extraction.reason is None


def test_long_texts_are_capped() -> None:
    reply = {"choices": [{"message": {"content": "x" * (MAX_TEXT + 1)}}]}
    extraction = read(CHAT, json.dumps(reply).encode())
    assert extraction.rows[0].prediction == "x" * MAX_TEXT
    assert extraction.facts["text_truncated"] is True


def test_listing_models_is_no_inference() -> None:
    assert read({}, b"{}", "/v1/models").reason is Reason.NOT_INFERENCE
