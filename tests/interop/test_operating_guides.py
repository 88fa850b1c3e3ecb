"""The guides for operators, run as they stand: two gateways behind HAProxy on PostgreSQL and Redis, one restarted under traffic, a backup
restored; then the playbook's commands."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired
from tempfile import TemporaryDirectory

import pytest

from tests import bring_servers
from tests.guides import commands, said, shell
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.servers import PostgresServer
from tests.system import ROOT, running_gateway

pytestmark = pytest.mark.interop

GUIDES = ROOT / "docs" / "guides"
LIMIT_S = 150


def test_production_two_gateways_an_upgrade_under_traffic_and_a_backup(
    tmp_path: Path, postgres_server: PostgresServer, redis_url: str
) -> None:
    text = commands(GUIDES / "production.md")
    for port in ("8080", "8081", "8082", "9001"):
        text = text.replace(port, str(free_port()))
    programs = f"{bring_servers.haproxy()}:{bring_servers.postgresql()}"
    output = tmp_path / "output"
    with TemporaryDirectory(prefix="production") as directory:
        script = text.replace("production/", f"{directory}/").replace("-p production", f"-p {directory}")
        script = script.replace("examples.train production", f"examples.train {directory}")
        variables = {
            "GATEWAY_STORE__URL": postgres_server.new_database(),
            "GATEWAY_FLAGS__URL": redis_url,
        }
        begin = f"set -eu\nPATH=$PATH:{programs}\n"
        end = "\nkill $(jobs -p)\nwait || true\n"
        status = None
        with shell(begin + script + end, output, **variables) as process, suppress(TimeoutExpired):
            status = process.wait(timeout=LIMIT_S)
        told = output.read_text() + "".join(
            path.read_text() for path in sorted(Path(directory).glob("*.log"))
        )
    assert status == 0, told
    for expected in (
        r"auth\.tokens: - \{name: ops",
        r"gateway\.yaml: good",
        r"brought from nothing to",
        r"takes traffic",
        r"^ +200 200$",
        r"^200\|\d+ kB$",
        r"^predictions_20\d{6}$",
        r"^t$",
    ):
        assert re.search(expected, told, re.MULTILINE), f"no {expected!r} in:\n{told}"
    assert "Traceback" not in told, told


def test_the_playbooks_commands_do_what_they_say(tmp_path: Path) -> None:
    models = {
        "credit": {
            "match": {"path_prefix": "/models/credit"},
            "production": "v1",
            "shadow": {"versions": ["v2"]},
        }
    }
    with MisbehavingUpstream(default="ok") as v1, MisbehavingUpstream(default="ok") as v2:
        models["credit"]["versions"] = {"v1": {"url": v1.url}, "v2": {"url": v2.url}}
        with running_gateway(tmp_path, models, port=free_port()) as gateway:
            script = "set -eu\n" + commands(GUIDES / "incidents.md")
            said(script, tmp_path / "output", 60, (), GATEWAY_URL=gateway.url, GATEWAY_TOKEN=gateway.token)
            flags = gateway.get("/admin/models/credit/flags")
            reasons = [entry.get("reason") for entry in gateway.get("/admin/audit")["entries"]]
    assert (flags["disabled_versions"], flags["shadow_enabled"]) == ([], True)
    assert {"incident", "incident over"} <= set(reasons)
