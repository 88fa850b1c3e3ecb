"""Our own OpenAPI document against schemathesis: whatever it makes of it, no 5xx, no status and no body that is not announced."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.client import load, post
from tests.interop.environment import python
from tests.misbehaving import MisbehavingUpstream
from tests.security.tokens import TOKENS, guarded_gateway, raw, request, status_of

pytestmark = pytest.mark.interop

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
)
SECONDS = 45
ENDLESS = "/admin/events"  # a stream without an end; tests/api/test_events.py


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_that_can_be_sent_is_answered_in_an_undocumented_way(
    tmp_path: Path, upstream: MisbehavingUpstream, seed: int
) -> None:
    program = python("schemathesis").with_name("schemathesis")
    with guarded_gateway(tmp_path, upstream) as gateway:
        predictions = [post("/models/credit/predict", b'{"x": 1}', X_User_Id=f"u{n}") for n in range(50)]
        answers = await load(gateway.port, predictions)
        document = httpx2.get(gateway.url + "/openapi.json", trust_env=False).json()
        file = tmp_path / "openapi.json"
        file.write_text(json.dumps(document))
        known = answers[0].headers["x-prediction-id"]
        (tmp_path / "schemathesis.toml").write_text(
            f'[parameters]\n"path.model" = "credit"\n"path.prediction_id" = "{known}"\n'
        )
        command = [
            str(program), "run", str(file), "--url", gateway.url, "--header", f"Authorization: Bearer {TOKENS['admin']}",
            "--checks", ",".join(CHECKS), "--seed", str(seed), "--continue-on-failure", "--max-time", str(SECONDS),
            "--request-timeout", "30", "--exclude-path", ENDLESS,
        ]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
        assert (
            f"Tested: {sum(len(methods) for path, methods in document['paths'].items() if path != ENDLESS)}"
            in done.stdout
        )
        # And it still works.
        assert status_of(raw(gateway.port, request("GET", "/admin/models", token=TOKENS["admin"]))) == 200
