"""Events for webhooks: signed, kept until delivered, in order, and bounded. The receiver is a real HTTP
server.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from app.adapters.webhook import Webhook
from app.control import outbox as outbox_module
from app.control.controller import By
from app.control.news import News
from app.control.outbox import GIVE_UP_S, MEDIA_TYPE, Outbox
from app.domain.model import Retraining
from app.domain.rollout import Action
from tests.control_parts import TurnedClock, control, model, until


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
