"""`python -m examples.openai_server --port P`: an OpenAI-shaped server around a very small language model.

The model is a real one, a word-bigram table with add-one back-off to word frequencies, trained at start on the text below: tokens
have true probabilities, so log-probabilities, `n`, `temperature`, `max_tokens` and `seed` mean what they say. Chats, completions and
embeddings, whole or streamed. For trying the gateway without a GPU or a key; it must never grow into an inference server.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import bisect
import hashlib
import itertools
import json
import math
import random
import re
import struct
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeAlias

import uvicorn

TEXT = """
A gateway stands between clients and models . The client gets the answer of the production model . The gateway learns from every
answer whether the next model is safe to let in . A shadow is a copy of a request , and its answer is recorded , never returned .
A canary is a small share of the requests that the next model answers . When the canary is worse , the gateway takes it out again
within seconds . When the canary is no worse , its share grows step by step until it is the production model . A label may come
seconds or years after the answer , and it tells whether the answer was right . No data is never healthy and never failed . The
answer of a model is remembered before its last byte leaves . The model that knows when to ask is better than the model that knows .
"""
END = "<end>"
DIMENSIONS = 64

Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]


def words_of(text: str) -> list[str]:
    """Tokens of a text: words and punctuation."""
    return re.findall(r"[\w'-]+|[.,!?]", text)


class BigramModel:
    """Word-bigram counts of a text, smoothed with the word frequencies."""

    def __init__(self, text: str) -> None:
        tokens = [END if token == "." else token for token in words_of(text)]
        self.vocabulary = sorted(set(tokens))
        self._words = Counter(tokens)
        self._next: dict[str, Counter[str]] = defaultdict(Counter)
        for word, follower in itertools.pairwise([END, *tokens]):
            self._next[word][follower] += 1

    def distribution(self, word: str, temperature: float) -> list[float]:
        """Probability of each word of the vocabulary after `word`."""
        total = sum(self._words.values())
        followers = self._next.get(word, Counter())
        weights = [followers[each] + self._words[each] / total for each in self.vocabulary]
        if temperature != 1.0:
            weights = [weight ** (1.0 / max(temperature, 0.01)) for weight in weights]
        scale = sum(weights)
        return [weight / scale for weight in weights]

    def generate(self, prompt: str, limit: int, temperature: float, seed: int) -> Iterator[tuple[str, float]]:
        """Words with their log-probabilities, until the sentence ends or the limit is reached."""
        chance = random.Random(f"{seed}:{prompt}")
        word = (words_of(prompt) or [END])[-1]
        for _ in range(limit):
            likely = self.distribution(word if word in self._next else END, temperature)
            drawn = min(bisect.bisect(list(itertools.accumulate(likely)), chance.random()), len(likely) - 1)
            word = self.vocabulary[drawn]
            yield word, math.log(likely[drawn])
            if word == END:
                return


def embedding(text: str) -> list[float]:
    """Hashed bag of words, of length 1 (feature hashing, Weinberger et al. 2009)."""
    vector = [0.0] * DIMENSIONS
    for word in words_of(text.lower()):
        digest = hashlib.sha256(word.encode()).digest()
        vector[digest[0] % DIMENSIONS] += 1.0 if digest[1] % 2 else -1.0
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [value / length for value in vector]


class OpenAIServer:
    """The ASGI application. `token_s` is the time that each streamed token takes."""

    def __init__(self, model_name: str, token_s: float = 0.0) -> None:
        self._model = BigramModel(TEXT)
        self._name = model_name
        self._token_s = token_s

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        try:
            await self._answer(scope["method"], scope["path"], body, send)
        except (ValueError, TypeError, AttributeError, KeyError) as fault:
            error = {"message": str(fault), "type": "invalid_request_error", "param": None, "code": None}
            await _send_json(send, {"error": error}, 400)

    async def _answer(self, method: str, path: str, body: bytes, send: Send) -> None:
        if method == "GET" and path == "/v1/models":
            model = {"id": self._name, "object": "model", "created": 0, "owned_by": "examples"}
            await _send_json(send, {"object": "list", "data": [model]})
            return
        kind = path.removeprefix("/v1/")
        if method != "POST" or kind not in ("chat/completions", "completions", "embeddings"):
            await _send_json(send, {"error": {"message": f"no {method} {path}", "type": "not_found"}}, 404)
            return
        request = json.loads(body)
        if kind == "embeddings":
            await _send_json(send, self._embeddings(request))
        elif request.get("stream"):
            await _send_events(send, self._stream(request, chat=kind.startswith("chat")))
        else:
            await _send_json(send, self._whole(request, chat=kind.startswith("chat")))

    def _embeddings(self, request: dict[str, Any]) -> dict[str, Any]:
        texts = request["input"] if isinstance(request["input"], list) else [request["input"]]
        packed = request.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else vector}
            for index, vector in enumerate(map(embedding, texts))
        ]
        tokens = sum(len(words_of(text)) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "model": self._name, "data": data, "usage": usage}

    def _choices(self, request: dict[str, Any], chat: bool) -> list[tuple[str, Iterator[tuple[str, float]]]]:
        """Prompt and generated words of each choice: every prompt `n` times."""
        limit = int(request.get("max_completion_tokens") or request.get("max_tokens") or 32)
        temperature = float(request.get("temperature", 1.0))
        if chat:
            prompts = [" ".join(str(message.get("content")) for message in request["messages"])]
        else:
            prompts = request["prompt"] if isinstance(request["prompt"], list) else [request["prompt"]]
        seed = int(request.get("seed") or 0)
        return [
            (prompt, self._model.generate(prompt, min(limit, 1_000), temperature, seed + copy))
            for prompt in prompts
            for copy in range(int(request.get("n") or 1))
        ]

    def _whole(self, request: dict[str, Any], chat: bool) -> dict[str, Any]:
        choices: list[dict[str, Any]] = []
        prompted = completed = 0
        for index, (prompt, generated) in enumerate(self._choices(request, chat)):
            tokens = list(generated)
            text = "".join(_shown(word, first=number == 0) for number, (word, _) in enumerate(tokens))
            finish = "stop" if tokens and tokens[-1][0] == END else "length"
            choice: dict[str, Any] = {"index": index, "finish_reason": finish, "logprobs": None}
            if chat:
                choice["message"] = {"role": "assistant", "content": text, "refusal": None}
            else:
                choice["text"] = text
            if request.get("logprobs"):
                choice["logprobs"] = _logprobs(tokens, chat)
            choices.append(choice)
            prompted += len(words_of(prompt))
            completed += len(tokens)
        return self._envelope(chat) | {"choices": choices, "usage": _usage(prompted, completed)}

    async def _stream(self, request: dict[str, Any], chat: bool) -> AsyncIterator[str]:
        """The data of each event. A client that leaves ends the iteration."""
        envelope = self._envelope(chat) | {"object": "chat.completion.chunk" if chat else "text_completion"}
        prompted = completed = 0
        for index, (prompt, generated) in enumerate(self._choices(request, chat)):
            prompted += len(words_of(prompt))
            finish = "length"
            if chat:
                yield json.dumps(
                    envelope | {"choices": [_delta(index, {"role": "assistant", "content": ""})]}
                )
            for number, (word, logprob) in enumerate(generated):
                await asyncio.sleep(self._token_s)
                completed += 1
                finish = "stop" if word == END else "length"
                text = _shown(word, first=number == 0)
                choice = _delta(index, {"content": text}) if chat else {"index": index, "text": text}
                if request.get("logprobs"):
                    choice["logprobs"] = _logprobs([(word, logprob)], chat)
                yield json.dumps(envelope | {"choices": [choice]})
            last = _delta(index, {}) if chat else {"index": index, "text": ""}
            yield json.dumps(envelope | {"choices": [last | {"finish_reason": finish}]})
        if (request.get("stream_options") or {}).get("include_usage"):
            yield json.dumps(envelope | {"choices": [], "usage": _usage(prompted, completed)})
        yield "[DONE]"

    def _envelope(self, chat: bool) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{time.time_ns():x}",
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": self._name,
        }


def _packed(vector: list[float]) -> str:
    """Little-endian 32-bit floats in base64, as `encoding_format: base64` asks for."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


def _shown(word: str, *, first: bool) -> str:
    text = "." if word == END else word
    return text if first or text in ".,!?" else f" {text}"


def _delta(index: int, delta: dict[str, str]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": None}


def _usage(prompted: int, completed: int) -> dict[str, int]:
    return {"prompt_tokens": prompted, "completion_tokens": completed, "total_tokens": prompted + completed}


def _logprobs(tokens: list[tuple[str, float]], chat: bool) -> dict[str, Any]:
    if not chat:
        return {"tokens": [word for word, _ in tokens], "token_logprobs": [logprob for _, logprob in tokens]}
    content: list[dict[str, Any]] = [
        {"token": word, "logprob": logprob, "bytes": None, "top_logprobs": []} for word, logprob in tokens
    ]
    return {"content": content, "refusal": None}


async def _send_json(send: Send, document: dict[str, Any], status: int = 200) -> None:
    body = json.dumps(document).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_events(send: Send, data: AsyncIterator[str]) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for item in data:
        await send({"type": "http.response.body", "body": f"data: {item}\n\n".encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def main() -> None:
    """Serves until stopped."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9010)
    parser.add_argument("--model", default="bigram-1", help="the name it answers with")
    parser.add_argument("--token-ms", type=float, default=0.0, help="time that each streamed token takes")
    arguments = parser.parse_args()
    server = OpenAIServer(arguments.model, arguments.token_ms / 1000)
    uvicorn.run(server, host=arguments.host, port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
