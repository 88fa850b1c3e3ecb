"""The `openai` package through the gateway, streamed and not, against the example OpenAI-shaped server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.interop.processes import said_by, serving
from tests.interop.rows import predictions
from tests.ports import free_port
from tests.system import ROOT, running_gateway

pytestmark = pytest.mark.interop


def test_the_openai_client_hears_and_the_gateway_reads_the_same_whole_and_streamed(tmp_path: Path) -> None:
    port = free_port()
    server = [sys.executable, "-m", "examples.openai_server", "--port", port]
    models = {
        "chat": {
            "match": {"path_prefix": "/llm", "strip": True},
            "protocol": "openai",
            "production": "v1",
            "versions": {"v1": {"url": f"http://127.0.0.1:{port}"}},
        }
    }
    with (
        serving(server, f"http://127.0.0.1:{port}/v1/models", tmp_path, PYTHONPATH=str(ROOT)),
        running_gateway(tmp_path, models, port=free_port()) as gateway,
    ):
        said = said_by("openai_client.py", f"{gateway.url}/llm/v1")
        assert said["version"] == "v1"
        assert "".join(said["pieces"]).strip() == said["text"].strip()
        assert sum(bool(piece) for piece in said["pieces"]) > 1
        assert said["tokens"] == said["streamed_tokens"]
        assert len(set(said["vectors"])) == 1
        rows = {row["prediction_id"]: row for row in predictions(gateway, "chat")}
        whole, streamed = rows[said["id"]], rows[said["streamed_id"]]
        assert whole["prediction"].strip() == streamed["prediction"].strip() == said["text"].strip()
        assert whole["features"]["prompt"] == "the gateway"
        facts = gateway.get(f"/predictions/{said['streamed_id']}")["facts"]
        assert facts["total_tokens"] == said["tokens"]
        assert facts["finish_reason"] == said["finish_reason"]
        assert facts["streamed"] is True
        assert facts["first_byte_ms"] >= 0
