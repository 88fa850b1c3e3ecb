"""Events for webhooks: signed, kept until delivered, in order, and bounded. The receiver is a real HTTP
server.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import re
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from app.adapters.webhook import Webhook
from app.config import Settings
from app.control import outbox as outbox_module
from app.control.clock import SystemClock
from app.control.controller import By
from app.control.news import News
from app.control.outbox import GIVE_UP_S, MEDIA_TYPE, Outbox
from app.control.ports import PredictionRow
from app.domain.model import Retraining
from app.domain.rollout import Action
from app.errors import ConfigurationError
from app.main import serve
from tests.control_parts import Control, TurnedClock, control, model, prediction, store_rows, until
from tests.ports import free_port
from tests.system import ROOT, running_gateway


class Receiver:
    """Answers with `status`; keeps what it got."""

    def __init__(self) -> None:
        self.status = 200
        self.got: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((dict(self.headers), body))
                self.send_response(receiver.status)
                if receiver.status == 307:
                    self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def events(self) -> list[Any]:
        return [json.loads(body) for _, body in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@contextlib.asynccontextmanager
async def outbox(directory: Path, clock: TurnedClock | None = None) -> Any:
    webhook = Webhook()
    try:
        yield Outbox(directory / "outbox", webhook.post, clock or TurnedClock(), "/model-gateway")
    finally:
        await webhook.close()


async def test_an_event_arrives_as_a_signed_cloudevent(tmp_path: Path, receiver: Receiver) -> None:
    async with outbox(tmp_path) as box:
        await box.put(receiver.url, "retraining", "credit", {"urgency": "critical"})
        assert await box.deliver() is None
    [(headers, body)] = receiver.got
    event = json.loads(body)
    assert headers["Content-Type"] == MEDIA_TYPE
    assert (event["specversion"], event["type"], event["subject"], event["data"]) == (
        "1.0",
        "model-gateway.retraining",
        "credit",
        {"urgency": "critical"},
    )
    at, signature = (part.partition("=")[2] for part in headers["X-Gateway-Signature"].split(","))
    secret = (tmp_path / "outbox" / "webhook-secret").read_text().strip().encode()
    assert signature == hmac.new(secret, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    assert (tmp_path / "outbox" / "webhook-secret").stat().st_mode & 0o777 == 0o600
    assert list((tmp_path / "outbox").glob("*.event")) == []


async def test_a_receiver_that_fails_is_tried_again_ever_more_slowly_with_the_same_id_and_in_order(
    tmp_path: Path, receiver: Receiver
) -> None:
    clock = TurnedClock()
    receiver.status = 503
    async with outbox(tmp_path, clock) as box:
        for number in range(3):
            await box.put(receiver.url, "retraining", "credit", {"number": number})
            clock.turn(0.001)
        waits = []
        for _ in range(4):
            wait = await box.deliver()
            assert wait is not None
            waits.append(round(wait, 3))
            assert await box.deliver() is not None  # too early: nothing is sent
            clock.turn(wait)
        assert waits == [1.0, 2.0, 4.0, 8.0]
        assert len(receiver.got) == 4
        receiver.status = 202
        assert await box.deliver() is None
    events = receiver.events()
    assert [event["data"]["number"] for event in events] == [0, 0, 0, 0, 0, 1, 2]
    assert len({event["id"] for event in events[:5]}) == 1


async def test_what_was_not_delivered_survives_a_restart(tmp_path: Path, receiver: Receiver) -> None:
    receiver.status = 500
    async with outbox(tmp_path) as box:
        await box.put(receiver.url, "retraining", "credit", {})
        await box.deliver()
    (tmp_path / "outbox" / "00000000000000000001-torn.event").write_bytes(b"\x93torn")
    receiver.status = 200
    async with outbox(tmp_path) as box:
        assert await box.deliver() is None
        assert box.counts == {"delivered": 1, "dropped": 1}
    assert len({event["id"] for event in receiver.events()}) == 1


@pytest.mark.parametrize(
    ("status", "kept"), [(204, False), (410, False), (422, False), (307, True), (429, True), (500, True)]
)
async def test_which_answers_settle_an_event(
    tmp_path: Path, receiver: Receiver, status: int, kept: bool
) -> None:
    receiver.status = status
    async with outbox(tmp_path) as box:
        await box.put(receiver.url, "retraining", "credit", {})
        assert (await box.deliver() is not None) == kept
    assert len(receiver.got) == 1


async def test_a_dead_receiver_does_not_hold_up_another_one_and_is_given_up_after_days(
    tmp_path: Path, receiver: Receiver
) -> None:
    clock = TurnedClock()
    async with outbox(tmp_path, clock) as box:
        await box.put("http://127.0.0.1:1/hook", "retraining", "churn", {})
        clock.turn(0.001)
        await box.put(receiver.url, "retraining", "credit", {})
        assert await box.deliver() is not None
        assert [event["subject"] for event in receiver.events()] == ["credit"]
        clock.turn(GIVE_UP_S + 1.0)
        assert await box.deliver() is None
        assert box.counts["given_up"] == 1


async def test_the_outbox_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "MAX_WAITING", 3)
    clock = TurnedClock()
    async with outbox(tmp_path, clock) as box:
        for number in range(5):
            clock.turn(1.0)
            await box.put("http://127.0.0.1:1/", "retraining", "credit", {"number": number})
        assert len(list((tmp_path / "outbox").glob("*.event"))) == 3
        assert box.counts["dropped"] == 2


async def test_rollbacks_promotions_and_calls_to_retrain_are_told(tmp_path: Path, receiver: Receiver) -> None:
    known = model(retraining=Retraining(webhook=receiver.url, strategy="schedule", every_s=1.0))
    async with outbox(tmp_path) as box, control(tmp_path, known) as parts:
        parts.controller._news = News(parts.registry, box)
        parts.monitor.retraining._news = News(parts.registry, box)
        by = By("ops", "", "operator")
        await parts.controller.look()
        first = await parts.controller.begin("credit", "v2", by=by, reason="")
        parts.trip(first["id"])
        await until(lambda: parts.controller.open_rollout("credit") is None)
        await until(lambda: len(list((tmp_path / "outbox").glob("*.event"))) == 1)
        parts.clock.turn(5.0)
        second = await parts.controller.begin("credit", "v2", by=by, reason="")
        await parts.controller.act_on("credit", second["id"], Action.PROMOTE, by=by, reason="good")
        rows = [{"a": float(n)} for n in range(200)]
        await parts.monitor.drift.put_baseline("credit", rows, "test", {}, parts.clock.now())
        parts.clock.turn(5.0)
        await parts.monitor.retraining.evaluate("credit")
        assert await box.deliver() is None
    kinds = [event["type"].removeprefix("model-gateway.") for event in receiver.events()]
    assert kinds == ["rollout.rollback", "rollout.promote", "retraining"]
    assert receiver.events()[0]["data"]["candidate"] == "v2"


# ---- the secret


async def test_the_secret_is_there_before_the_first_event_and_stays(
    tmp_path: Path, receiver: Receiver
) -> None:
    file = tmp_path / "outbox" / "webhook-secret"
    async with outbox(tmp_path) as box:
        box.prepare()
        assert (file.stat().st_mode & 0o777, len(file.read_text().strip())) == (0o600, 64)
        secret = file.read_bytes()
        box.prepare()
        await box.put(receiver.url, "drift", "credit", {})
        await box.deliver()
    assert file.read_bytes() == secret
    assert list(file.parent.iterdir()) == [file]


async def test_a_secret_cut_off_by_a_power_failure_is_made_anew_and_never_signs(
    tmp_path: Path, receiver: Receiver
) -> None:
    file = tmp_path / "outbox" / "webhook-secret"
    file.parent.mkdir()
    file.touch()
    async with outbox(tmp_path) as box:
        await box.put(receiver.url, "drift", "credit", {})
        await box.deliver()
    assert len(file.read_text().strip()) == 64
    assert len(receiver.got) == 1


async def test_a_secret_given_as_a_file_signs_and_a_new_one_holds_at_once(
    tmp_path: Path, receiver: Receiver
) -> None:
    file = tmp_path / "shared-secret"
    clock = TurnedClock()
    webhook = Webhook()
    box = Outbox(tmp_path / "outbox", webhook.post, clock, "/model-gateway", file)
    box.prepare()  # the file is missing: said, and survived
    await box.put(receiver.url, "drift", "credit", {})
    wait = await box.deliver()
    assert (wait, receiver.got) == (1.0, [])  # nothing is sent unsigned, and nothing is lost
    clock.turn(1.0)
    for secret in (b"first", b"second"):
        file.write_bytes(secret + b"\n")
        await box.put(receiver.url, "drift", "credit", {})
        assert await box.deliver() is None
        headers, body = receiver.got[-1]
        at, signature = (part.partition("=")[2] for part in headers["X-Gateway-Signature"].split(","))
        assert signature == hmac.new(secret, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    await webhook.close()
    assert not (tmp_path / "outbox" / "webhook-secret").exists()


@pytest.mark.parametrize("content", [None, b" \n"])
def test_a_secret_file_that_cannot_be_used_ends_the_start(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    settings = Settings(data_dir=str(tmp_path), webhooks={"secret_file": str(file)})
    with pytest.raises(ConfigurationError, match=r"webhooks\.secret_file: "):
        serve(settings, frozenset({"controller"}))


def test_a_gateway_with_a_webhook_has_its_secret_from_the_start_on(tmp_path: Path) -> None:
    models = {
        "credit": {
            "production": "v1",
            "versions": {"v1": {"url": "http://127.0.0.1:9"}},
            "retraining": {"webhook": "http://127.0.0.1:9/hook"},
        }
    }
    with running_gateway(tmp_path, models, port=free_port()):
        assert len((tmp_path / "data" / "outbox" / "webhook-secret").read_text().strip()) == 64


# ---- drift


def live(parts: Control, count: int, shift: float) -> list[PredictionRow]:
    now = parts.clock.now()
    return [
        prediction(now - timedelta(seconds=n), n, features={"age": 30.0 + n % 40 + shift})
        for n in range(count)
    ]


def references() -> list[dict[str, Any]]:
    return [{"age": 30.0 + n % 40, "$prediction": 0.9 if n % 2 else 0.1} for n in range(3000)]


async def test_drift_is_told_when_it_begins_and_when_it_ends_and_not_in_between(
    tmp_path: Path, receiver: Receiver
) -> None:
    known = model(retraining=Retraining(webhook=receiver.url))
    file = tmp_path / "outbox" / "drifted.json"
    async with outbox(tmp_path) as box, control(tmp_path, known) as parts:

        async def looked(times: int, *, leads: bool = True) -> list[Any]:
            parts.monitor._leads = lambda: leads
            for _ in range(times):
                parts.clock.turn(30.0)
                await parts.monitor.look()
            assert await box.deliver() is None
            return [e["data"] for e in receiver.events() if e["type"] == "model-gateway.drift"]

        parts.monitor._news = News(parts.registry, box, file)
        await looked(1)  # no baseline yet
        await parts.monitor.drift.put_baseline("credit", references(), "test", {}, None)
        assert await looked(1) == []  # no data
        await store_rows(parts.store, live(parts, 2000, 25.0))
        [begun] = await looked(3)
        assert (begun["version"], begun["detected"], begun["drifted"], begun["rows"]) == (
            "v1",
            True,
            ["age"],
            2000,
        )
        parts.monitor._news = News(parts.registry, box, file)  # as after a restart
        assert len(await looked(2)) == 1
        parts.clock.turn(90_000.0)
        assert len(await looked(1)) == 1  # no data again: no verdict, no news
        await store_rows(parts.store, live(parts, 2000, 0.0))
        begun, ended = await looked(3)
        assert (ended["version"], ended["detected"], ended["drifted"]) == ("v1", False, [])
        parts.clock.turn(90_000.0)
        await store_rows(parts.store, live(parts, 2000, 25.0))
        assert len(await looked(2, leads=False)) == 2  # another host tells,
        assert len(await looked(2)) == 2  # and who leads after it does not repeat that


async def test_a_damaged_note_of_what_drifts_tells_it_again(tmp_path: Path, receiver: Receiver) -> None:
    known = model(retraining=Retraining(webhook=receiver.url))
    file = tmp_path / "outbox" / "drifted.json"
    file.parent.mkdir()
    file.write_bytes(b"[[")
    report = {"model": "credit", "version": "v1", "detected": True, "severity": 0.5, "rows": 600, "since": 0,
              "until": 1, "baseline": {}, "drifted": ["age"]}  # fmt: skip
    async with outbox(tmp_path) as box, control(tmp_path, known) as parts:
        for _ in range(2):
            news = News(parts.registry, box, file)
            await news.drift(report, leads=True)
        assert await box.deliver() is None
    assert len(receiver.got) == 1


# ---- what the documentation says


async def test_the_documented_receiver_and_examples_are_those_of_what_is_sent(
    tmp_path: Path, receiver: Receiver
) -> None:
    page = (ROOT / "docs" / "loop.md").read_text("utf-8").partition("## Webhooks")[2]
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    documented = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", page, re.DOTALL)]
    known: dict[str, Any] = {}
    exec(code, known)
    settings = model(retraining=Retraining(webhook=receiver.url, strategy="schedule", every_s=1.0))
    webhook = Webhook()
    box = Outbox(tmp_path / "outbox", webhook.post, SystemClock(), "/model-gateway/host")
    async with control(tmp_path, settings) as parts:
        parts.controller._news = parts.monitor.retraining._news = parts.monitor._news = News(
            parts.registry, box
        )
        await parts.monitor.drift.put_baseline("credit", references(), "test", {}, parts.clock.now())
        await store_rows(parts.store, live(parts, 2000, 25.0))
        parts.clock.turn(30.0)
        await parts.monitor.look()
        await parts.controller.look()
        by = By("ops", "", "operator")
        for action in (Action.ROLLBACK, Action.PROMOTE):
            begun = await parts.controller.begin("credit", "v2", by=by, reason="")
            await parts.controller.act_on("credit", begun["id"], action, by=by, reason="why")
            parts.clock.turn(5.0)
        assert await box.deliver() is None
    await webhook.close()
    secret = (tmp_path / "outbox" / "webhook-secret").read_bytes().strip()
    for headers, body in receiver.got:
        signature = headers["X-Gateway-Signature"]
        assert known["genuine"](secret, signature, body)
        assert not known["genuine"](secret, signature, body + b" ")
        assert not known["genuine"](b"guessed", signature, body)
        assert not known["genuine"](secret, signature, body, tolerance_s=-1.0)
        assert not known["genuine"](secret, "v1=", body)
    sent = {event["type"]: event for event in receiver.events()}
    assert set(sent) == set(re.findall(r"^\| `(model-gateway\.[a-z.]+)`", page, re.MULTILINE))
    for example in documented:
        event = sent[example["type"]]
        assert (set(event), set(event["data"])) == (set(example), set(example["data"]))
    facts = ("rollout", "candidate", "production", "reason")
    assert set(sent["model-gateway.rollout.promote"]["data"]) == set(facts)
    names = {"should_retrain", "urgency", "reason", "inputs", "told", "model", "at"}
    assert set(sent["model-gateway.retraining"]["data"]) == names
