"""How each contender is configured and started.

The peers' configurations are the lean ones their manuals recommend: keep-alive both ways, one worker, no
access log. Nothing here may favour the gateway.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers import snapshot
from benchmarks.peers.install import Tools
from benchmarks.peers.processes import PeerError
from benchmarks.peers.snapshot import ROOT

PATH = "/models/credit/predict"
CANARY_PERCENT = 10


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender runs: an empty directory, its port, and the ports of the model servers."""

    directory: Path
    code: Path  # of the gateway, as `snapshot.take` left it
    port: int
    production: int
    canary: int
    shadow: int


@dataclass(frozen=True, slots=True)
class Launch:
    """A command, which process of its tree does what (by command line), and what to do once it listens."""

    command: list[str]
    role: Callable[[str], str]  # command line -> "proxy", "control" or "other"
    env: dict[str, str] = field(default_factory=dict)
    ready: Callable[[], None] | None = None
    settle: Callable[[], None] | None = None  # returns when the work behind the answers is done
    path: str = PATH


Contender = Callable[[Tools, Place], Launch]


def _all_proxy(_: str) -> str:
    return "proxy"


# ---- nginx


def _nginx(mirror: bool) -> Contender:
    def launch(tools: Tools, place: Place) -> Launch:
        home = place.directory
        upstreams = "".join(
            f"  upstream {name} {{ server 127.0.0.1:{port}; keepalive 256; keepalive_requests 100000000; }}\n"
            for name, port in (
                ("production", place.production),
                ("canary", place.canary),
                ("shadow", place.shadow),
            )
        )
        split = (
            f'  split_clients "$http_x_user_id" $version {{ {CANARY_PERCENT}% canary; * production; }}\n'
            if mirror
            else ""
        )
        location = (
            "    location / { mirror /shadow; proxy_pass http://$version; }\n"
            "    location = /shadow { internal; proxy_pass http://shadow$request_uri; }\n"
            if mirror
            else "    location / { proxy_pass http://production; }\n"
        )
        user = "user root;\n" if os.geteuid() == 0 else ""
        temporary = "".join(
            f"  {kind}_temp_path {home}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (home / "nginx.conf").write_text(
            f"{user}daemon off;\nworker_processes 1;\npid {home}/nginx.pid;\nerror_log stderr crit;\n"
            "events { worker_connections 8192; }\n"
            f"http {{\n  access_log off;\n{temporary}{upstreams}{split}"
            "  keepalive_requests 100000000;\n  client_body_buffer_size 16k;\n"
            '  proxy_http_version 1.1;\n  proxy_set_header Connection "";\n'
            f"  server {{\n    listen 127.0.0.1:{place.port} backlog=4096;\n{location}  }}\n}}\n"
        )
        command = [str(tools.nginx), "-c", str(home / "nginx.conf"), "-p", str(home), "-e", "stderr"]
        return Launch(command, lambda line: "proxy" if "worker process" in line else "other")

    return launch


# ---- Envoy

EXTENSIONS = "type.googleapis.com/envoy.extensions.filters"


def _cluster(name: str, port: int) -> dict[str, object]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    limits = {"max_connections": 8192, "max_pending_requests": 8192, "max_requests": 8192}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def _envoy(mirror: bool) -> Contender:
    def launch(tools: Tools, place: Place) -> Launch:
        weights = [
            {"name": "production", "weight": 100 - CANARY_PERCENT},
            {"name": "canary", "weight": CANARY_PERCENT},
        ]
        action: dict[str, object] = (
            {"weighted_clusters": {"clusters": weights}, "request_mirror_policies": [{"cluster": "shadow"}]}
            if mirror
            else {"cluster": "production"}
        )
        router = {
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": f"{EXTENSIONS}.http.router.v3.Router"},
        }
        manager = {
            "@type": f"{EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "bench",
            "generate_request_id": False,
            "http_filters": [router],
            "route_config": {
                "virtual_hosts": [
                    {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}
                ]
            },
        }
        listener = {
            "name": "bench",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": place.port}},
            "filter_chains": [
                {
                    "filters": [
                        {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
                    ]
                }
            ],
        }
        ports = {"production": place.production, "canary": place.canary, "shadow": place.shadow}
        clusters = [_cluster(name, port) for name, port in ports.items()]
        config = place.directory / "envoy.json"
        config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}}))
        command = [
            str(tools.envoy),
            "-c",
            str(config),
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "-l",
            "error",
        ]
        return Launch(command, _all_proxy)

    return launch


# ---- FastAPI + httpx


def _fastapi(tools: Tools, place: Place) -> Launch:
    urls = [f"http://127.0.0.1:{port}/predict" for port in (place.production, place.canary, place.shadow)]
    script = str(ROOT / "benchmarks" / "peers" / "naive.py")
    database = str(place.directory / "feedback.db")
    return Launch(
        [str(tools.python), script, str(place.port), database, *urls, str(CANARY_PERCENT)], _all_proxy
    )


# ---- the gateway


@dataclass(frozen=True, slots=True)
class Gateway:
    """A variant of our own: how many models and workers, canary and shadow or not."""

    models: int = 1
    workers: int = 1
    compiled: bool = True  # the data plane, when `make compiled` has been run
    canary: bool = True
    shadow: bool = True
    # Wide, because the peers do not bound theirs: a gateway that drops its shadows would look cheap.
    shadow_concurrency: int = 1024

    def __call__(self, tools: Tools, place: Place) -> Launch:
        names = [*(f"model-{index:04d}" for index in range(1, self.models)), "credit"]
        config = {
            "data_dir": str(place.directory / "data"),
            "store": {"url": f"sqlite:///{place.directory / 'gateway.db'}"},
            "models": {name: self._model(name, place) for name in names},
        }
        file = place.directory / "gateway.json"  # JSON is YAML
        file.write_text(json.dumps(config))
        ports = ["--host", "127.0.0.1", "--port", str(place.port)]
        command = [
            sys.executable,
            "-P",
            "-m",
            "app",
            "serve",
            "--config",
            str(file),
            *ports,
            "--workers",
            str(self.workers),
        ]
        admin = _Admin(place)

        def ready() -> None:
            admin.wait_ready()
            if self.canary:
                flags = {"candidate": "v2", "canary_percent": CANARY_PERCENT, "canary_enabled": True}
                admin.call("PATCH", "/admin/models/credit/flags", flags)
                admin.wait_canary()

        return Launch(
            command,
            _gateway_role,
            {"PYTHONPATH": str(snapshot.tree(place.code, compiled=self.compiled))},
            ready,
            admin.wait_drained,
        )

    def _model(self, name: str, place: Place) -> dict[str, object]:
        ports = {"v1": place.production, "v2": place.canary, "v3": place.shadow}
        model: dict[str, object] = {
            "match": {"path_prefix": f"/models/{name}", "strip": True},
            "protocol": "json",
            "extract": {"features": "$.features", "prediction": "$.prediction", "confidence": "$.confidence"},
            "task": "binary",
            "routing_key": {"header": "X-User-Id"},
            "production": "v1",
            "versions": {version: {"url": f"http://127.0.0.1:{port}"} for version, port in ports.items()},
            "canary": {
                "control": {"sample": 0.0}
            },  # the peers do not repeat canary requests to production either
        }
        if self.shadow:
            model["shadow"] = {"versions": ["v3"], "sample": 1.0, "max_concurrency": self.shadow_concurrency}
        return model


def _gateway_role(line: str) -> str:
    if "app.main worker" in line:
        return "proxy"
    return "control" if "app.main control" in line else "other"


class _Admin:
    """The gateway's admin interface, as far as the benchmark needs it."""

    def __init__(self, place: Place) -> None:
        self._base = f"http://127.0.0.1:{place.port}"
        self._token = place.directory / "data" / "admin-token"

    def call(self, method: str, path: str, body: object = None) -> object:
        """JSON answer of one call. Raises PeerError when it is refused."""
        request = urllib.request.Request(self._base + path, method=method)
        if self._token.exists():
            request.add_header("Authorization", f"Bearer {self._token.read_text().strip()}")
        if body is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise PeerError(
                f"{method} {path}: {error.code} {error.read()[:500].decode(errors='replace')}"
            ) from error
        except OSError as error:
            raise PeerError(f"{method} {path}: {error}") from error

    def wait_ready(self, deadline_s: float = 60) -> None:
        """Until the control process answers; the workers take traffic before it does."""
        self._poll("/admin/models/credit", lambda _: True, deadline_s)

    def wait_canary(self, deadline_s: float = 15) -> None:
        """Until each worker splits: a hundred users in a row must see both versions, three times over."""
        until = time.monotonic() + deadline_s
        seen = 0
        while seen < 3:
            if time.monotonic() > until:
                raise PeerError("the canary that was set never answered")
            roles = {self._role_of(f"user-{user}") for user in range(100)}
            seen = seen + 1 if "canary" in roles else 0

    def wait_drained(self, deadline_s: float = 120) -> None:
        """Until the recorder has stored what the journal holds; then its CPU can be counted in full."""

        def drained(answer: object) -> bool:
            return isinstance(answer, dict) and answer.get("pending") == 0

        self._poll("/admin/accounting", drained, deadline_s)

    def _role_of(self, user: str) -> str:
        headers = {"X-User-Id": user, "Content-Type": "application/json"}
        request = urllib.request.Request(self._base + PATH, data=b'{"features":{}}', headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return str(answer.headers.get("X-Model-Role", ""))
        except OSError as error:
            raise PeerError(f"asking the model: {error}") from error

    def _poll(self, path: str, done: Callable[[object], bool], deadline_s: float) -> None:
        until = time.monotonic() + deadline_s
        while True:
            try:
                answer = self.call("GET", path)
                if done(answer):
                    return
                trouble = str(answer)
            except PeerError as error:
                trouble = str(error)
            if time.monotonic() > until:
                raise PeerError(f"{path} not as hoped within {deadline_s:.0f} s: {trouble[:300]}")
            time.sleep(0.25)


NGINX_PLAIN = _nginx(mirror=False)
NGINX = _nginx(mirror=True)
ENVOY_PLAIN = _envoy(mirror=False)
ENVOY = _envoy(mirror=True)
FASTAPI: Contender = _fastapi
