"""One gateway with the example models behind it, under traffic, and a browser; each test gets a context of its own.

Whatever a page logs as an error, and every request to another host than the gateway, fails the test that opened it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.browser.environment import running_browser
from tests.ports import free_port
from tests.system import PLAIN, ROOT, RunningGateway, running_gateway
from tests.worker import eventually

MODEL = "biopsy"
WAITING = "credit"  # outcomes are known after a month, and few requests come
AILING = "pricing"  # nobody answers at its production's address
RATE = "40"
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
# What the browser itself says of an answer that is no success: the page shows it in its own words.
_REFUSED = ("Failed to load resource",)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with running_browser() as found:
        yield found


@contextlib.contextmanager
def _program(log: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, stdout=file, stderr=file, env=environment
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(15)


@pytest.fixture(scope="session")
def model_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """v1, v2 and v3 of the examples, each a process: {version: URL}."""
    directory = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, "-m", "examples.train", str(directory)], cwd=ROOT, check=True)
    with contextlib.ExitStack() as stack:
        urls = {}
        for version in ("v1", "v2", "v3"):
            port = free_port()
            file, log = directory / f"{version}.joblib", directory / f"{version}.log"
            stack.enter_context(
                _program(log, "examples.model_server", "--model", str(file), "--port", str(port))
            )
            urls[version] = f"http://127.0.0.1:{port}"
        for url in urls.values():
            eventually(lambda url=url: _answers(f"{url}/health"), 60.0, f"{url} answers")  # type: ignore[misc]
        yield urls


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, trust_env=False, timeout=2.0, verify=PLAIN).status_code == 200
    except (httpx2.HTTPError, OSError):
        return False


@pytest.fixture(scope="session")
def gateway(
    model_servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """One model under traffic, with outcomes that come back a second later; two that only single tests ask."""
    directory = tmp_path_factory.mktemp("gateway")
    model = {
        "match": {"path_prefix": f"/models/{MODEL}", "strip": True},
        "protocol": "json",
        "extract": {"features": "$.features", "prediction": "$.prediction", "confidence": "$.confidence"},
        "task": "binary",
        "routing_key": {"header": "X-User-Id"},
        "production": "v1",
        "versions": {name: {"url": url, "timeout_s": 5.0} for name, url in model_servers.items()},
        "canary": {"stages": [5, 25, 100], "dwell_s": 3600.0, "min_requests": 20},
        "labels": {"horizon_s": 3.0, "min_coverage": 0.5},
        "retraining": {"metric": "accuracy", "baseline": 0.95},
    }
    waiting = {
        **model,
        "match": {"path_prefix": f"/models/{WAITING}", "strip": True},
        "labels": {"horizon_s": 2_592_000.0},
        "retraining": {},
    }
    ailing = {
        "match": {"path_prefix": f"/models/{AILING}", "strip": True},
        "production": "v1",
        "versions": {"v1": {"url": f"http://127.0.0.1:{free_port()}"}},
    }
    models = {MODEL: model, WAITING: waiting, AILING: ailing}
    with running_gateway(directory, models, port=free_port(), server={"workers": 1}) as running:
        command = ("examples.clients", "--gateway", running.url, "--rate", RATE, "--seconds", "600")
        token = ("--token-file", str(directory / "data" / "admin-token"), "--label-delay", "1")
        with _program(directory / "clients.log", *command, *token):
            running.set_flags(MODEL, shadow_versions=["v2"])
            eventually(
                lambda: running.get("/admin/accounting")["stored"] > 100, 60.0, "predictions that are stored"
            )
            yield running


@dataclass
class Visit:
    """One page, and what it said and asked for."""

    page: Any
    gateway: RunningGateway
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def heed(self) -> None:
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console",
            lambda said: (
                self.errors.append(said.text)
                if said.type in ("error", "warning") and not said.text.startswith(_REFUSED)
                else None
            ),
        )
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))

    def open(self, hash_: str = "#/") -> None:
        self.page.goto(f"{self.gateway.url}/{hash_}")

    def sign_in(self, token: str | None = None) -> None:
        self.page.get_by_label("Token").fill(token or self.gateway.token)
        self.page.get_by_role("button", name="Sign in").click()

    def sees(self, text: str, within_s: float = 20.0) -> None:
        self.page.get_by_text(text).first.wait_for(timeout=within_s * 1000)

    def wide(self) -> int:
        """How many pixels the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


Visitor = Callable[..., Visit]


@pytest.fixture
def visit(browser: Any, gateway: RunningGateway) -> Iterator[Visitor]:
    """`visit(signed_in=…, viewport=…, color_scheme=…)`: opens the dashboard."""
    visits: list[Visit] = []
    contexts: list[Any] = []

    def begin(*, signed_in: bool = True, at: str = "#/", **options: Any) -> Visit:
        context = browser.new_context(**{"viewport": DESK, **options})
        contexts.append(context)
        one = Visit(context.new_page(), gateway)
        one.heed()
        visits.append(one)
        one.open(at)
        if signed_in:
            one.sign_in()
            one.page.get_by_role("button", name="Sign out").wait_for()
        return one

    yield begin
    for context in contexts:
        context.close()
    for one in visits:
        assert one.errors == []
        assert one.hosts <= {urlsplit(gateway.url).netloc}
