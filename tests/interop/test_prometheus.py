"""A real Prometheus scrapes a real gateway: each query of the dashboards and each rule is understood, and finds what is there."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests import bring_servers
from tests.client import post
from tests.faults.traffic import Traffic, credit
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.servers import Server, running
from tests.system import PLAIN, ROOT, RunningGateway, running_gateway
from tests.worker import eventually

pytestmark = pytest.mark.interop

DEPLOY = ROOT / "deploy"
# Panels that a healthy gateway leaves empty: nothing is drifting, nothing was taken out.
MAY_BE_EMPTY = {"Drift by feature", "Rollbacks", "Records not kept", "Performance over mature labels"}


class PrometheusServer(Server):
    """The shipped configuration and rules, but for the address and a second between two looks."""

    def __init__(self, gateway_port: int) -> None:
        super().__init__("prometheus")
        self._program = bring_servers.prometheus() / "prometheus"
        configuration = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (job,) = configuration["scrape_configs"]
        assert job["static_configs"] == [{"targets": ["gateway:8080"]}]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{gateway_port}"]}]
        configuration["rule_files"] = [str(DEPLOY / "prometheus" / "rules.yml")]
        (self.directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))

    def _command(self) -> list[str]:
        return [
            str(self._program),
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=series",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def answers(self) -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            return self._get("/-/ready").status_code == 200
        return False

    def _get(self, path: str, **parameters: str) -> httpx2.Response:
        url = f"http://127.0.0.1:{self.port}{path}"
        return httpx2.get(url, params=parameters, trust_env=False, timeout=10.0, verify=PLAIN)

    def asked(self, query: str) -> list[dict[str, Any]]:
        body = self._get("/api/v1/query", query=query).json()
        assert body["status"] == "success", (query, body)
        found: list[dict[str, Any]] = body["data"]["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        groups = self._get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


def panels() -> Iterator[tuple[str, str]]:
    """Title and query of each panel, with Grafana's variables filled in as Grafana would."""
    for file in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                query = target["expr"].replace("$__rate_interval", "10s").replace("$model", "credit|other")
                assert "$" not in query, query
                yield panel["title"], query


def label_queries() -> Iterator[str]:
    for file in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json")):
        for variable in json.loads(file.read_text())["templating"]["list"]:
            found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert found is not None
            yield f"count by ({found[2]}) ({found[1]})"


def labelled(gateway: RunningGateway, ids: list[str]) -> None:
    for prediction_id in ids:
        body = {"prediction_id": prediction_id, "ground_truth": 1}
        assert gateway.admin("POST", "/feedback", body).status_code == 202


async def test_dashboards_and_rules_find_what_a_real_prometheus_scraped_from_a_real_gateway(
    tmp_path: Path,
) -> None:
    numbers = itertools.count()

    def request(user: str) -> bytes:
        return post("/models/credit/predict", b'{"features": {"x": %d}}' % next(numbers), X_User_Id=user)

    with MisbehavingUpstream(default="ok") as v1, MisbehavingUpstream(default="ok") as v2:
        models = credit(v1, v2, shadow={"versions": ["v2"]}, labels={"horizon_s": 1})
        with (
            running_gateway(tmp_path, models, port=free_port()) as gateway,
            running(PrometheusServer(gateway.port)) as prometheus,
        ):
            await asyncio.to_thread(
                gateway.set_flags, "credit", candidate="v2", canary_enabled=True, canary_percent=30
            )
            async with Traffic(gateway.port, request, clients=2, pause_s=0.05) as traffic:
                await traffic.more(20)
                await asyncio.to_thread(labelled, gateway, traffic.ids[:10])
                for title, query in panels():
                    if title in MAY_BE_EMPTY:
                        await asyncio.to_thread(prometheus.asked, query)
                    else:
                        await asyncio.to_thread(
                            eventually, lambda query=query: prometheus.asked(query), 60.0, f"{title}: {query}"
                        )  # type: ignore[misc]
                for query in label_queries():
                    assert await asyncio.to_thread(prometheus.asked, query)
            rules = await asyncio.to_thread(prometheus.rules)
            assert {rule["health"] for rule in rules} == {"ok"}, rules
            for rule in rules:
                if rule["type"] == "recording" and "errors" not in rule["name"]:
                    assert await asyncio.to_thread(prometheus.asked, rule["name"]), rule["name"]
            firing = [rule["name"] for rule in rules if rule.get("state") == "firing"]
            assert firing == [], "a healthy gateway alarms"
