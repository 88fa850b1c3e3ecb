"""What is deployed fits the program: configurations are accepted, metrics exist, commands and paths are right."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.cli import cli
from app.config import load
from app.control.statistics import CATALOGUE

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
SYSTEMD = DEPLOY / "systemd"
UNITS = sorted(SYSTEMD.glob("*.service"))
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
COMMANDS = {command.name for command in cli.registered_commands}


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


def manifests() -> list[dict[str, Any]]:
    files = [path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.name != "configuration.yaml"]
    return [document for path in files for document in yaml.safe_load_all(path.read_text())]


def rendered() -> list[dict[str, Any]]:
    """What kustomize makes of them; without it, the same label where kustomization.yaml puts it."""
    if shutil.which("kubectl"):
        made = subprocess.run(
            ["kubectl", "kustomize", str(DEPLOY / "kubernetes")],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return [one for one in yaml.safe_load_all(made.stdout) if one]
    (labels,) = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())["labels"]
    assert labels["includeSelectors"] is True
    found = [
        one for one in manifests() if "template" in one.get("spec", {}) or one["kind"] == "NetworkPolicy"
    ]
    for one in found:
        if "template" in one["spec"]:
            one["spec"]["template"]["metadata"]["labels"] |= labels["pairs"]
    return found


def pods(*kinds: str) -> dict[str, dict[str, Any]]:
    """The pod specification of each workload, by its name."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in manifests()
        if one["kind"] in (kinds or ("StatefulSet", "Deployment", "Job"))
    }


def run(*command: str, cwd: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- configurations


@pytest.mark.parametrize(
    "path",
    [ROOT / "gateway.example.yaml", *DEPLOY.rglob("gateway.yaml"), *DEPLOY.rglob("configuration.yaml")],
    ids=str,
)
def test_every_configuration_that_is_shipped_is_accepted(path: Path) -> None:
    assert load(path, environ={}).models


def test_the_environment_of_compose_and_kubernetes_is_understood() -> None:
    environment = compose()["services"]["gateway"]["environment"]
    environment = {name: re.sub(r"\$\{\w+:-(\w+)\}", r"\1", value) for name, value in environment.items()}
    settings = load(DEPLOY / "compose" / "gateway.yaml", environ=environment)
    assert settings.store.url == "postgresql://gateway:gateway@postgres/gateway"
    assert settings.flags.url == "redis://redis:6379/0"
    tokens = f"[{{name: ops, sha256: {'a' * 64}, scopes: [admin]}}]"
    assert load(None, environ={"GATEWAY_AUTH__TOKENS": tokens}).auth.tokens[0].name == "ops"


# ---- compose and image


def test_compose_names_only_what_exists() -> None:
    document = compose()
    services = document["services"]
    for name, service in services.items():
        for other, how in (service.get("depends_on") or {}).items():
            assert other in services, f"{name} depends on {other}"
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other]
            if how["condition"] == "service_completed_successfully":
                assert services[other]["restart"] == "no"
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in document["volumes"]
    versions = yaml.safe_load((DEPLOY / "compose" / "gateway.yaml").read_text())["models"]["biopsy"][
        "versions"
    ]
    hosts = {re.sub(r"https?://([^:/]+).*", r"\1", version["url"]) for version in versions.values()}
    assert hosts <= set(services)


def test_every_service_of_compose_says_when_it_is_well_and_none_asks_at_another_ones_port() -> None:
    """The image's own check asks a gateway: the services that run something else from it must not inherit it."""
    for name, service in compose()["services"].items():
        check = service.get("healthcheck")
        if name == "gateway":
            assert check is None, "the image's own"
        elif service.get("restart") == "no":
            assert check == {"disable": True}, name
        else:
            assert check["test"][0] in ("CMD", "CMD-SHELL"), name
            if service.get("build"):
                port = service["entrypoint"][service["entrypoint"].index("--port") + 1]
                assert f":{port}/" in " ".join(check["test"])


def test_what_compose_scrapes_and_shows_are_its_own_services() -> None:
    services = compose()["services"]
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets = [target for job in scraped for one in job["static_configs"] for target in one["targets"]]
    port = load(DEPLOY / "compose" / "gateway.yaml", environ={}).server.port
    assert targets == [f"gateway:{port}"]
    (sources,) = (DEPLOY / "grafana" / "provisioning" / "datasources").glob("*.y*ml")
    (source,) = yaml.safe_load(sources.read_text())["datasources"]
    assert source["url"].removeprefix("http://").partition(":")[0] in services


def test_programs_that_containers_start_exist() -> None:
    services = compose()["services"]
    for service in services.values():
        entry = service.get("entrypoint", [])
        if entry[:2] == ["python", "-m"]:
            assert (ROOT / (entry[2].replace(".", "/") + ".py")).exists(), entry
        elif service.get("build") == "." and service.get("command"):
            assert service["command"][0] in COMMANDS


def test_the_grace_that_platforms_give_covers_the_drain() -> None:
    drain = load(None, environ={}).server.drain_s
    assert int(compose()["services"]["gateway"]["stop_grace_period"].removesuffix("s")) > drain + 10
    for pod in pods("StatefulSet").values():
        for container in pod["containers"]:
            waited = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
            assert pod["terminationGracePeriodSeconds"] > waited + drain + 10
    for unit in UNITS:
        assert int(re.findall(r"^TimeoutStopSec=(\d+)", unit.read_text(), re.MULTILINE)[0]) > drain + 10


def test_the_image_holds_what_it_copies_and_runs_as_nobody_special() -> None:
    text = (ROOT / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text()
    for source in re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE):
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, f"{source} is not sent to the builder"
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert "HEALTHCHECK" in text
    command = json.loads(re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)[0])
    assert command[0] in COMMANDS


def test_the_image_installs_a_part_of_what_was_tested() -> None:
    """Same versions, same hashes, less the tools."""
    pin = re.compile(r"^([\w.-]+==\S+)", re.MULTILINE)
    tested = set(pin.findall((ROOT / "requirements.lock").read_text()))
    shipped = set(pin.findall((ROOT / "requirements.runtime.lock").read_text()))
    assert shipped < tested
    assert not any(name.startswith(("pytest", "mypy", "ruff", "hypothesis")) for name in shipped)


def test_every_dependency_is_locked_with_a_hash() -> None:
    for name in (
        "requirements.lock",
        "requirements.runtime.lock",
        "requirements.compile.lock",
        "tests/servers.lock",
    ):
        entries = re.split(r"\n(?=\S)", (ROOT / name).read_text().strip())
        pins = [entry for entry in entries if "==" in entry.splitlines()[0]]
        assert pins
        assert all("--hash=sha256:" in entry for entry in pins), name


# ---- systemd and kubernetes


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_runs_commands_that_exist(unit: Path) -> None:
    called = re.findall(
        r"^Exec(?:StartPre|Start)=/opt/model-gateway/bin/model-gateway (\S+)", unit.read_text(), re.MULTILINE
    )
    assert called == ["check-config", "migrate", "serve"]
    if shutil.which("systemd-analyze"):
        done = subprocess.run(
            ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False
        )
        complaints = [line for line in done.stderr.splitlines() if unit.name in line]
        assert [line for line in complaints if "is not executable" not in line] == []


def test_units_differ_only_in_what_they_run() -> None:
    """Confinement, limits and the way to stop are those of the one unit; a host runs one of them."""

    def settings(path: Path) -> list[str]:
        found = path.read_text().partition("[Unit]")[2].splitlines()
        return [line for line in found if not line.startswith(("Description=", "ExecStart=", "Conflicts="))]

    def run_as(path: Path) -> list[str]:
        return re.findall(r"^ExecStart=.*gateway\.yaml ?(.*)$", path.read_text(), re.MULTILINE)

    alone, controller, proxy = (
        SYSTEMD / f"model-gateway{name}.service" for name in ("", "-controller", "-proxy")
    )
    assert sorted(UNITS) == sorted([alone, controller, proxy])
    assert settings(alone) == settings(controller) == settings(proxy)
    assert (run_as(alone), run_as(controller), run_as(proxy)) == (
        [""],
        ["--workers 1"],
        ["--roles proxy,recorder"],
    )
    for apart in (controller, proxy):
        assert "Conflicts=model-gateway.service" in apart.read_text()


def test_the_network_policy_is_about_the_gateways_own_pods_alone() -> None:
    """PostgreSQL, Redis and model servers may live in the same namespace; nobody may cut them off."""
    (policy,) = (one for one in rendered() if one["kind"] == "NetworkPolicy")
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    assert chosen == {"app.kubernetes.io/name": "model-gateway"}
    workloads = [one for one in rendered() if one["kind"] in ("StatefulSet", "Job")]
    assert workloads
    for one in workloads:
        assert chosen.items() <= one["spec"]["template"]["metadata"]["labels"].items()
    reached = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert {53, 443, 5432, 6379, 9000, 26379} <= reached


def test_pods_write_only_where_they_may() -> None:
    for one in manifests():
        if one["kind"] not in ("StatefulSet", "Job"):
            continue
        pod = one["spec"]["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", [])}
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["args"][0] in COMMANDS


def test_each_proxy_has_its_recorder_on_the_same_volume_and_every_role_is_played() -> None:
    pod = pods("StatefulSet")["model-gateway"]
    (recorder,), (proxy,) = pod["initContainers"], pod["containers"]
    assert recorder["restartPolicy"] == "Always"  # a sidecar: it ends after the proxy
    assert recorder["volumeMounts"] == proxy["volumeMounts"]
    assert recorder["args"][-2:] == ["--roles", "recorder"]
    assert proxy["args"][-2:] == ["--roles", "proxy"]
    (controller,) = pods("StatefulSet")["model-gateway-controller"]["containers"]
    assert "--roles" not in controller["args"]  # all of them


def test_services_autoscaler_budgets_and_monitor_name_what_exists() -> None:
    found = manifests()
    names = {(one["kind"], one["metadata"]["name"]) for one in found if "metadata" in one}
    components = {
        one["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        for one in found
        if one["kind"] in ("StatefulSet", "Job")
    }
    for one in found:
        match one["kind"]:
            case "HorizontalPodAutoscaler":
                target = one["spec"]["scaleTargetRef"]
                assert (target["kind"], target["name"]) in names
                for metric in one["spec"]["metrics"]:
                    scaled = pods("StatefulSet")[target["name"]]["containers"]
                    assert metric["containerResource"]["container"] in {one["name"] for one in scaled}
            case "Service" if "selector" in one["spec"]:
                assert one["spec"]["selector"]["app.kubernetes.io/component"] in components
            case "PodDisruptionBudget":
                assert one["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] in components
            case "StatefulSet":
                assert ("Service", one["spec"]["serviceName"]) in names
    monitor = yaml.safe_load((DEPLOY / "kubernetes" / "monitoring" / "servicemonitor.yaml").read_text())
    wanted = monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]
    (service,) = (
        one
        for one in found
        if one["kind"] == "Service"
        and one["metadata"].get("labels", {}).get("app.kubernetes.io/component") == wanted
    )
    assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_the_manifests_build() -> None:
    if shutil.which("kubectl"):
        run("kubectl", "kustomize", str(DEPLOY / "kubernetes"))
    named = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    for file in named["resources"]:
        assert (DEPLOY / "kubernetes" / file).exists()


# ---- prometheus and grafana

_METRIC = re.compile(r"\b(gateway_[a-z0-9_]+)(\{[^}]*\})?")


def expressions() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule.get("alert") or rule["record"], rule["expr"]
    for dashboard in DASHBOARDS:
        for panel in json.loads(dashboard.read_text())["panels"]:
            for target in panel["targets"]:
                yield panel["title"], target["expr"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()), ids=lambda value: value[:40])
def test_rules_and_dashboards_ask_for_metrics_that_exist(where: str, expression: str) -> None:
    known = {"job", "instance", "le", *(label for metric in CATALOGUE.values() for label in metric.labels)}
    asked = list(_METRIC.finditer(expression))
    assert asked or "gateway:" in expression or "up{" in expression
    for found in asked:
        name = found[1] if found[1] in CATALOGUE else re.sub(r"_(bucket|sum|count)$", "", found[1])
        assert name in CATALOGUE, f"{where}: no metric {found[1]}"
        if name != found[1]:
            assert CATALOGUE[name].kind == "histogram"
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", found[2] or ""):
            assert label in {"job", "instance", "le", *CATALOGUE[name].labels}, (
                f"{where}: {name} has no {label}"
            )
    for labels in re.findall(r"\b(?:by|on|group_left) \(([^)]*)\)", expression):
        assert {label.strip() for label in labels.split(",") if label.strip()} <= known


# Their labels name what happened: there is no series before the first time, and so no zero that increase() could begin at.
_BORN_WITH_THE_FIRST = (
    "gateway_rollbacks_total",
    "gateway_quarantined_total",
    "gateway_shadow_dropped_total",
)


def test_the_first_event_of_a_counter_is_seen() -> None:
    counted = 0
    for where, expression in expressions():
        for name in _BORN_WITH_THE_FIRST:
            if re.search(rf"increase\({name}\b", expression):
                counted += 1
                assert re.search(rf"{name}(\{{.*?\}})? unless {name}(\{{.*?\}})? offset", expression), where
    assert counted >= 5
    for test in yaml.safe_load((DEPLOY / "prometheus" / "rules.test.yml").read_text())["tests"]:
        for one in test["input_series"]:
            if one["series"].startswith(_BORN_WITH_THE_FIRST):
                assert not re.match(r"0 ", one["values"]), (
                    f"{test['name']}: a zero that the gateway never exposes"
                )


def test_recorded_series_that_are_used_are_recorded() -> None:
    recorded = {name for name, _ in expressions() if ":" in name}
    used = {
        name for _, expression in expressions() for name in re.findall(r"gateway:[a-z0-9_:]+", expression)
    }
    assert used <= recorded


def test_every_alert_says_what_to_do() -> None:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                assert rule["labels"]["severity"] in ("page", "ticket", "info")
                assert set(rule["annotations"]) == {"summary", "description"}


def test_every_alert_has_a_unit_test_and_a_page_of_the_playbook() -> None:
    """The unit tests are run by promtool in `make interop`."""
    alerts = [
        rule["alert"]
        for group in yaml.safe_load(RULES.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    tests = yaml.safe_load((DEPLOY / "prometheus" / "rules.test.yml").read_text())["tests"]
    fired = {
        one["alertname"] for test in tests for one in test.get("alert_rule_test", ()) if one["exp_alerts"]
    }
    assert fired == set(alerts)
    playbook = (ROOT / "docs" / "guides" / "incidents.md").read_text("utf-8")
    assert re.findall(r"^## (Gateway\w+)$", playbook, re.MULTILINE) == alerts
