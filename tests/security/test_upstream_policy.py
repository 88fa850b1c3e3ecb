"""Where the gateway may be sent: what a token may register as a model server, and that nobody's redirect is followed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.adapters.webhook import Webhook
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.security.tokens import TOKENS, json_of, raw, request, status_of
from tests.system import RunningGateway, running_gateway

FORBIDDEN = [
    "http://169.254.169.254/latest/meta-data",
    "http://169.254.169.254.:80/",
    "http://2852039166/",
    "http://0xA9FEA9FE/",
    "http://0251.0376.0251.0376/",
    "http://169.254.43518/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[2002:a9fe:a9fe::]/",
    "http://[::169.254.169.254]/",
    "http://[::a9fe:a9fe]/",
    "http://[::ffff:0:a9fe:a9fe]/",
    "http://[64:ff9b:1::a9fe:a9fe]/",
    "http://[64:ff9b:1:a9fe:a9:fe00::]/",
    "http://[64:ff9b:1:a9:fe:a9fe::]/",
    "http://[64:ff9b:1:0:a9:fea9:fe00::]/",
    "http://[2001:0:a9fe:a9fe::1]/",
    "http://[2001:0:4136:e378:8000:63bf:5601:5601]/",
    "http://[2001:db8::5efe:a9fe:a9fe]/",
    "http://[2001:db8::200:5efe:169.254.169.254]/",
    "http://[fd20:ce::254]/",
    "http://[fd00:ec2::23]/",
    "http://[fd00:c1::a9fe:a9fe]/",
    "http://[fd00:42::42]/",
    "http://168.63.129.16/machine?comp=goalstate",
    "http://168.63.129.16:32526/",
    "http://[::ffff:168.63.129.16]/",
    "http://[64:ff9b::a83f:8110]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fd00:ec2::254]/",
    "http://100.100.100.200/",
    "http://192.0.0.192/",
    "http://0.0.0.0:80/",
    "http://0/",
    "http://[::]/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://240.0.0.1/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_INFO",
    "ftp://127.0.0.1/",
    "dict://127.0.0.1:11211/stat",
    "unix:///run/docker.sock",
    "//127.0.0.1/",
    "127.0.0.1:9001",
    "http:///x",
    "http://user:secret@127.0.0.1/",
    "http://127.0.0.1:0/",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1/?x=1",
    "http://127.0.0.1/#x",
    "http://127.0.0.1/\r\nX-Injected: 1",
    "http://127.0.0.1 /",
    "http://①⑥⑨.254.169.254/",
    "http://127.0.0.1\\@169.254.169.254/",
    "javascript:alert(1)",
    "",
]


def registered(gateway: RunningGateway, url: object, version: str = "v9") -> tuple[int, object]:
    reply = gateway.admin(
        "PUT", f"/admin/models/credit/versions/{version}", {"url": url, "reason": "policy test"}
    )
    return reply.status_code, reply.json()


@pytest.mark.parametrize("url", FORBIDDEN)
def test_no_token_registers_an_address_that_no_model_server_has(gateway: RunningGateway, url: str) -> None:
    for form in (url, ["http://127.0.0.1:9001", url]):
        status, answer = registered(gateway, form)
        assert status == 422, answer
    assert "v9" not in str(gateway.get("/admin/models/credit"))


def test_an_ordinary_address_is_registered(gateway: RunningGateway, upstream: MisbehavingUpstream) -> None:
    assert registered(gateway, upstream.url, "v3")[0] == 201


def test_the_file_too_names_http_https_or_a_socket(tmp_path: Path) -> None:
    urls = ["file:///etc/passwd", "gopher://127.0.0.1/", "ftp://127.0.0.1/", "//127.0.0.1"]
    models = {
        f"m{number}": {
            "match": {"path_prefix": f"/{number}"},
            "production": "v1",
            "versions": {"v1": {"url": url}},
        }
        for number, url in enumerate(urls)
    }
    with (
        pytest.raises(AssertionError, match="ended with 2"),
        running_gateway(tmp_path, models, port=free_port()),
    ):
        pass
    faults = (tmp_path / "gateway.log").read_text().splitlines()
    for number in range(len(urls)):
        assert any(f": models.m{number}.versions.v1.url" in fault for fault in faults), faults
    assert len(faults) == len(urls)


def test_a_redirect_is_the_clients_business(gateway: RunningGateway, upstream: MisbehavingUpstream) -> None:
    """Production's goes to the client as it is; a shadow's and a canary's go nowhere."""
    flags = {"shadow_versions": ["v2"], "shadow_enabled": True, "disabled_versions": []}
    gateway.set_flags("credit", reason="redirects", **flags)
    before = upstream.count()
    answer = raw(gateway.port, request("GET", "/models/credit/redirect", token=TOKENS["read"]))
    assert status_of(answer) == 307
    assert b"\r\nLocation: " in answer
    upstream.wait_until(lambda server: server.count() >= before + 2)  # the shadow's copy
    assert gateway.settled()["pending"] == 0
    assert [r.behaviour for r in upstream.requests[before:]] == ["redirect", "redirect"]


async def test_a_webhooks_redirect_is_not_followed() -> None:
    with MisbehavingUpstream(default="redirect") as hook:
        webhook = Webhook()
        try:
            assert await webhook.post(hook.url + "/hook", b"{}", {}) == 307
        finally:
            await webhook.close()
        assert [r.target for r in hook.requests] == ["/hook"]


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2-secret@127.0.0.1/",
        "http://user:hunter2-secret/x@127.0.0.1/",
        "http://user:hunter2-secret@127.0.0.1:x/",
        "http://hunter2-secret@127.0.0.1/",
        "http://hunter2-secret!/x@127.0.0.1/",
        "hunter2-secret:x@127.0.0.1",
        "http://127.0.0.1/?token=hunter2-secret",
        "http://[hunter2-secret",
    ],
)
def test_problems_do_not_repeat_what_was_refused(gateway: RunningGateway, url: str) -> None:
    """A password in a refused address is not echoed."""
    answer = raw(
        gateway.port,
        request("PUT", "/admin/models/credit/versions/v9", "Content-Type: application/json",
                token=TOKENS["admin"], body=json.dumps({"url": url, "reason": "x"}).encode()),
    )  # fmt: skip
    assert status_of(answer) == 422
    assert json_of(answer)["detail"]
    assert b"hunter2" not in answer
