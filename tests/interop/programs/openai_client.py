"""What a user of the `openai` package does: `openai_client.py BASE_URL`; prints what came as JSON."""

from __future__ import annotations

import json
import sys

from openai import OpenAI

CHAT = {
    "model": "bigram",
    "messages": [{"role": "user", "content": "the gateway"}],
    "seed": 3,
    "max_tokens": 12,
}


def main(base_url: str) -> None:
    client = OpenAI(base_url=base_url, api_key="none", max_retries=0, default_headers={"X-User-Id": "7"})
    whole = client.chat.completions.with_raw_response.create(**CHAT)
    parsed = whole.parse()
    pieces, usage, identity = [], None, ""
    with client.chat.completions.with_streaming_response.create(
        **CHAT, stream=True, stream_options={"include_usage": True}
    ) as reply:
        identity = reply.headers["x-prediction-id"]
        for chunk in reply.parse():
            pieces += [choice.delta.content or "" for choice in chunk.choices]
            usage = chunk.usage or usage
    embedded = client.embeddings.create(model="bigram", input=["one", "two"])
    completed = client.completions.create(model="bigram", prompt="the model", max_tokens=4, seed=1)
    print(
        json.dumps(
            {
                "text": parsed.choices[0].message.content,
                "finish_reason": parsed.choices[0].finish_reason,
                "tokens": parsed.usage.total_tokens,
                "id": whole.headers["x-prediction-id"],
                "version": whole.headers["x-model-version"],
                "pieces": pieces,
                "streamed_tokens": usage.total_tokens,
                "streamed_id": identity,
                "vectors": [len(one.embedding) for one in embedded.data],
                "completion": completed.choices[0].text,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
