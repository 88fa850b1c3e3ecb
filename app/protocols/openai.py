"""Protocol `openai`: chat completions, completions and embeddings, whole or streamed as server-sent events.

Features are the request's scalar settings, the number of messages and the capped prompt; the prediction is the capped reply text.
A row per choice (prompts × n), per input for embeddings. Confidence is the geometric mean of the token probabilities where the
reply has log-probabilities. Facts: model, finish reason, tokens, tool calls. Source: OpenAI API reference, "Chat", "Completions",
"Embeddings", "Streaming events" of chat completions (`stream_options.include_usage`: a last chunk without choices).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.protocols.content import parse_json, reply_bytes, request_bytes
from app.protocols.features import number, object_row
from app.protocols.findings import Findings, two_sided
from app.protocols.record import MAX_ROWS, Exchange, Features, Output, Reader, Reason, UnreadableError
from app.protocols.scoring import Task
from app.protocols.sse import DONE, events, is_event_stream

MAX_TEXT = 8_192
"""Characters kept of a prompt and of a reply; `facts["text_truncated"]` tells that one was longer."""

MAX_CHOICES = 128
_MAX_TOOL_CALLS = 32
_NESTED = frozenset((dict, list))


@dataclass(slots=True)
class _Choice:
    """One choice while its chunks come in."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass(slots=True)
class _Reply:
    """What a reply adds up to, whole or streamed."""

    choices: dict[int, _Choice] = field(default_factory=dict)
    tools: list[str] = field(default_factory=list)

    def add(self, document: dict[str, Any], findings: Findings) -> None:
        """Take in a whole reply or one chunk of a stream."""
        if type(model := document.get("model")) is str:
            findings.facts["model"] = model[:200]
        if type(usage := document.get("usage")) is dict:
            for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
                if type(count := usage.get(name)) is int and 0 <= count < 2**63:
                    findings.facts[name] = count
        listed = document.get("choices")
        for position, item in enumerate(listed if type(listed) is list else []):
            if type(item) is not dict:
                continue
            index = item.get("index", position)
            if type(index) is int and 0 <= index < MAX_CHOICES * 16:
                self._add_choice(self.choices.setdefault(index, _Choice()), item)

    def _add_choice(self, choice: _Choice, item: dict[str, Any]) -> None:
        message = item.get("message") or item.get("delta")
        text = item.get("text")
        if type(message) is dict:
            text = content_text(message.get("content")) or message.get("refusal")
            self._add_tools(message.get("tool_calls"))
        if type(text) is str:
            choice.texts.append(text)
        if type(reason := item.get("finish_reason")) is str:
            choice.finish_reason = reason[:100]
        choice.logprobs.extend(_logprobs(item.get("logprobs")))

    def _add_tools(self, calls: Any) -> None:
        for call in calls if type(calls) is list else []:
            function = call.get("function") if type(call) is dict else None
            name = function.get("name") if type(function) is dict else None
            if type(name) is str and name and len(self.tools) < _MAX_TOOL_CALLS:
                self.tools.append(name[:200])

    def outputs(self, findings: Findings) -> list[Output]:
        """The choices in the order of their index."""
        chosen = [choice for _, choice in sorted(self.choices.items())]
        reasons = [choice.finish_reason for choice in chosen]
        if chosen:
            findings.facts["finish_reason"] = reasons[0] if len(reasons) == 1 else reasons[:MAX_CHOICES]
        if self.tools:
            findings.facts["tool_calls"] = self.tools
        return [
            (
                capped("".join(choice.texts), findings) if choice.texts else None,
                math.exp(min(math.fsum(choice.logprobs) / len(choice.logprobs), 0.0))
                if choice.logprobs
                else None,
                None,
            )
            for choice in chosen
        ]


def build(task: Task, extract: Mapping[str, str | None]) -> Reader:
    """The reader of one model; a language model has no task of ours."""
    return two_sided(_features, _outputs, ("/completions", "/embeddings"))


def _features(exchange: Exchange, findings: Findings) -> list[Features]:
    body = request_bytes(exchange)
    document = parse_json(body, exchange.request_content_type)
    if type(document) is not dict:
        raise UnreadableError(Reason.UNEXPECTED_SHAPE, "the request is no object")
    settings = object_row(
        {k: v for k, v in document.items() if type(v) not in _NESTED and k not in _TEXTS}, findings
    )
    if type(tools := document.get("tools")) is list:
        settings["tools"] = len(tools)
    if "messages" in document:
        rows = [settings | _conversation(document["messages"], findings)]
    elif "prompt" in document:
        rows = [settings | _text_features("prompt", text, findings) for text in _texts(document["prompt"])]
    elif "input" in document:
        return [settings | _text_features("input", text, findings) for text in _texts(document["input"])]
    elif exchange.redacted:
        rows = [settings]
    else:
        raise UnreadableError(Reason.UNEXPECTED_SHAPE, "none of messages, prompt, input")
    copies = document.get("n")
    if type(copies) is int and 1 < copies <= MAX_CHOICES:
        rows = [row for row in rows for _ in range(copies)][:MAX_ROWS]
    return rows


_TEXTS = frozenset(("messages", "prompt", "input"))


def _conversation(messages: Any, findings: Findings) -> Features:
    """The number of messages, and the last one of the user's as the prompt."""
    if type(messages) is not list:
        return _text_features("prompt", messages, findings)
    said = [message for message in messages if type(message) is dict]
    asked = [message for message in said if message.get("role") == "user"] or said
    text = content_text(asked[-1].get("content")) if asked else None
    return {"messages": len(messages)} | _text_features("prompt", text, findings)


def _text_features(name: str, text: Any, findings: Findings) -> Features:
    if type(text) is str:
        return {name: capped(text, findings), f"{name}.chars": len(text)}
    if type(text) is list:  # token ids
        return {f"{name}.tokens": len(text)}
    return {name: number(text, name, findings) if type(text) in (int, float) else None}


def _texts(value: Any) -> list[Any]:
    """The single texts (or token lists) of a `prompt` or `input`, each of which is a row."""
    if type(value) is list and value and all(type(item) is str or type(item) is list for item in value):
        return value[:MAX_ROWS]
    return [value]


def content_text(content: Any) -> str | None:
    """The text of a message's content: a string, or the text parts of a list of parts."""
    if type(content) is str:
        return content
    if type(content) is not list:
        return None
    parts = [part.get("text") for part in content if type(part) is dict]
    return "\n".join(part for part in parts if type(part) is str) or None


def capped(text: str, findings: Findings) -> str:
    """The first `MAX_TEXT` characters; a cut is a fact."""
    if len(text) <= MAX_TEXT:
        return text
    findings.facts["text_truncated"] = True
    return text[:MAX_TEXT]


def _logprobs(value: Any) -> list[float]:
    """Log-probabilities of the chosen tokens, of a chat (`content[].logprob`) or a completion (`token_logprobs`)."""
    if type(value) is not dict:
        return []
    content = value.get("content")
    listed = value.get("token_logprobs")
    if type(content) is list:
        listed = [item.get("logprob") for item in content if type(item) is dict]
    found = (
        [item for item in listed if type(item) is float or type(item) is int] if type(listed) is list else []
    )
    return [max(float(item), -1e4) for item in found if -1e300 < item < 1e300]


def _outputs(exchange: Exchange, findings: Findings, rows: int | None) -> list[Output]:
    if is_event_stream(exchange.response_content_type):
        return _streamed(exchange, findings)
    body = reply_bytes(exchange)
    document = parse_json(body, exchange.response_content_type)
    if type(document) is not dict:
        raise UnreadableError(Reason.UNEXPECTED_SHAPE, "the reply is no object")
    reply = _Reply()
    reply.add(document, findings)
    if type(vectors := document.get("data")) is list and "choices" not in document:
        first = vectors[0].get("embedding") if vectors and type(vectors[0]) is dict else None
        if type(first) is list:
            findings.facts["dimensions"] = len(first)
        elif type(first) is str:  # base64 of 32-bit floats
            findings.facts["dimensions"] = len(first.rstrip("=")) * 3 // 4 // 4
        return [(None, None, None)] * min(len(vectors), MAX_ROWS)
    if not reply.choices:
        raise UnreadableError(Reason.UNEXPECTED_SHAPE, "neither choices nor data")
    return reply.outputs(findings)


def _streamed(exchange: Exchange, findings: Findings) -> list[Output]:
    """Join a stream's chunks. One that was cut off gives the text up to there, with the reason."""
    cut = exchange.response_truncated and not exchange.redacted
    if cut and not exchange.response_content_encoding:
        findings.note(
            Reason.TRUNCATED_RESPONSE,
            f"reply: only the first {len(exchange.response_body)} bytes were captured",
        )
        body = exchange.response_body
    else:
        body = reply_bytes(exchange)
    reply = _Reply()
    chunks = 0
    ended = False
    for event in events(body, complete=not cut):
        if event.data == DONE:
            ended = True
            break
        try:
            document = parse_json(event.data.encode("utf-8", "replace"))
        except UnreadableError as fault:
            findings.note(Reason.INVALID_EVENT_STREAM, f"reply: event {chunks}: {fault.detail}")
            continue
        chunks += 1
        if type(document) is dict:
            if "error" in document:
                findings.note(Reason.INVALID_EVENT_STREAM, "reply: the stream carries an error")
            reply.add(document, findings)
    findings.facts |= {"streamed": True, "chunks": chunks}
    if not ended and not cut:
        findings.note(Reason.INVALID_EVENT_STREAM, "reply: the stream ends without [DONE]")
    if not reply.choices:
        raise UnreadableError(Reason.INVALID_EVENT_STREAM, "no choices in the stream")
    return reply.outputs(findings)
