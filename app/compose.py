"""The control process put together: store, distribution, services, tasks, API. The only place that knows every part."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import sys
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import uvicorn

from app.adapters.local import LocalDistribution, LocalLease
from app.adapters.stores import open_store
from app.adapters.webhook import Webhook
from app.api.admin.events import facts
from app.api.app import create_app
from app.api.auth import Authenticator
from app.api.services import Services
from app.control.aliases import Aliases
from app.control.changes import Changes
from app.control.clock import Clock, SystemClock
from app.control.controller import Controller
from app.control.dependencies import Check, Dependencies
from app.control.flags import FlagsService
from app.control.last_known import LastKnown
from app.control.link_server import LinkServer
from app.control.monitor import Monitor
from app.control.news import News
from app.control.outbox import Outbox
from app.control.outcomes import OutcomeIntake
from app.control.ports import Store
from app.control.recorder import Recorder
from app.control.registry import Registry
from app.control.spans import Spans
from app.control.specification import STOPPING_SOON, ControlSpec
from app.control.statistics import WorkerTotals
from app.domain.policy import AuthPolicy, RegistryPolicy
from app.errors import GatewayError
from app.journal.reader import Journal
from app.journal.writer import Writer
from app.link.messages import Frames, Series

if TYPE_CHECKING:  # loaded only where they are configured
    from app.adapters.mlflow_registry import MlflowRegistry
    from app.adapters.otlp import Otlp
    from app.adapters.redis_evidence import RedisEvidence
    from app.adapters.redis_flags import RedisDistribution
    from app.adapters.redis_lease import RedisLease

log = structlog.get_logger(__name__)

STOP_S = 8.0


def main(spec: ControlSpec) -> None:
    """Run the control process until SIGTERM, or until the supervisor is gone."""
    _log_as_json()
    os.umask(0o077)
    import uvloop

    uvloop.run(_serve(spec))


def _log_as_json() -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


async def _serve(spec: ControlSpec) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    news: list[AuthPolicy] = []
    heed = news.append
    _watch_supervisor(loop, stop, lambda policy: heed(policy))
    async with contextlib.AsyncExitStack() as stack:
        control = await _Control.build(spec, stack)
        heed = control.auth.know
        for policy in news:  # came while the store was being opened
            heed(policy)
        loop.add_signal_handler(STOPPING_SOON, control.changes.close)
        tasks = [loop.create_task(_forever(name, work, stop), name=name) for name, work in control.works()]
        server = _api_server(control.application)
        listener = _unix_listener(Path(spec.api_socket))
        serving = loop.create_task(server.serve(sockets=[listener]), name="api")
        await control.link.start()
        log.info("control process up", roles=spec.roles, models=len(spec.models))
        await stop.wait()
        control.changes.close()
        server.should_exit = True
        await control.last_records()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await serving


class _Control:
    """The parts, wired. Built once; whatever must be closed is on the stack that it was built with."""

    def __init__(self, spec: ControlSpec, store: Store, clock: Clock) -> None:
        self.spec = spec
        self.store = store
        directory = Path(spec.data_dir)
        redis = None if spec.flags_url.startswith("local:") else spec.flags_url
        registry = self.registry = Registry(spec.models, store)
        self.redis_flags: RedisDistribution | None = None
        self.distribution: LocalDistribution | RedisDistribution = LocalDistribution()
        self.lease: LocalLease | RedisLease = LocalLease()
        if redis is not None:
            from app.adapters.redis_flags import RedisDistribution
            from app.adapters.redis_lease import RedisLease

            self.distribution = self.redis_flags = RedisDistribution(redis, lambda: self.flags.all())
            self.lease = RedisLease(redis)
        self.flags = FlagsService(store, registry, self.distribution, clock, LastKnown(Path(spec.last_known)))
        self.webhook = Webhook()
        secret = spec.webhooks.secret_file
        self.outbox = Outbox(
            directory / "outbox",
            self.webhook.post,
            clock,
            f"/model-gateway/{spec.host}",
            Path(secret) if secret is not None else None,
        )
        news = News(registry, self.outbox, directory / "outbox" / "drifted.json")
        self.controller = Controller(
            registry, self.flags, store, self.lease, clock, lambda: str(uuid.uuid4()), news
        )
        self.evidence: RedisEvidence | None = None
        if redis is not None:
            from app.adapters.redis_evidence import RedisEvidence

            self.evidence = RedisEvidence(redis, spec.host, self.controller)
        self.link = LinkServer(
            Path(spec.link_socket), registry, self.flags, WorkerTotals(), self.evidence or self.controller
        )
        self.writer = Writer(spec.journal, "c0")
        self.outcomes = OutcomeIntake(self.writer, registry, store, clock)
        self.monitor = Monitor(
            registry, self.flags, store, self.outcomes, clock, lambda: self.controller.leads, news
        )
        self.otlp, self.spans = _spans(spec)
        self.mlflow, self.aliases = self._followed(spec.registry, clock)
        self.recorder = Recorder(
            Journal(Path(spec.journal.directory)),
            store,
            registry.by_name,
            clock,
            spec.host,
            spec.privacy_secret,
            self.spans.heed if self.spans is not None else None,
        )
        checks: dict[str, Check] = {"store": store.ping}
        if self.redis_flags is not None:
            checks["flags"] = self.redis_flags.ping
        self.dependencies = Dependencies(checks, self.link)
        self.auth = Authenticator(spec.auth, clock, spec.server.trusted_proxies)
        self.changes = Changes()
        self.flags.subscribe(self.changes.touch)
        services = self.services = Services(
            registry=registry,
            flags=self.flags,
            store=store,
            link=self.link,
            controller=self.controller,
            monitor=self.monitor,
            outcomes=self.outcomes,
            auth=self.auth,
            accounting=self.recorder.accounting,
            clock=clock,
            data_dir=directory,
            changes=self.changes,
            series=(
                self.recorder.series,
                self.dependencies.series,
                self.changes.series,
                self._journal_series,
                self._distribution_series,
                *((self.spans.series,) if self.spans is not None else ()),
                *((self.aliases.series,) if self.aliases is not None else ()),
            ),
        )
        self.application = create_app(services)

    def _followed(self, policy: RegistryPolicy, clock: Clock) -> tuple[MlflowRegistry | None, Aliases | None]:
        """The model registry and what keeps its aliases, when one is configured."""
        if policy.mlflow_uri is None:
            return None, None
        from app.adapters.mlflow_registry import MlflowRegistry

        mlflow = MlflowRegistry(policy.mlflow_uri, policy.mlflow_token, policy.timeout_s)
        aliases = Aliases(
            policy.poll_s, mlflow, self.registry, self.flags, clock, lambda: self.controller.leads
        )
        return mlflow, aliases

    def _journal_series(self) -> Iterator[Series]:
        """This process's own part of the journal: the outcomes."""
        for kind, count in self.writer.records.items():
            yield Series("gateway_journal_records_total", (kind,), count)
        for reason, count in self.writer.dropped.items():
            yield Series("gateway_journal_dropped_total", (reason,), count)
        yield Series("gateway_journal_fsync_errors_total", (), self.writer.fsync_errors)

    def _distribution_series(self) -> Iterator[Series]:
        """What Redis held that could not be read; flags that could be read and were refused are counted by the flags service."""
        if self.redis_flags is not None:
            yield Series("gateway_flags_refused_total", (), self.redis_flags.refused)

    @classmethod
    async def build(cls, spec: ControlSpec, stack: contextlib.AsyncExitStack) -> _Control:
        store = await open_store(spec.store_url)
        stack.push_async_callback(store.close)
        control = cls(spec, store, SystemClock())
        stack.push_async_callback(control.distribution.close)
        stack.push_async_callback(control.webhook.close)
        for client in (control.otlp, control.mlflow):
            if client is not None:
                stack.push_async_callback(client.close)
        stack.callback(control.writer.close)
        if any(model.retraining.webhook for model in spec.models):
            control.outbox.prepare()
        await control.flags.start()
        stack.push_async_callback(control.flags.close)
        await control.controller.start()
        stack.push_async_callback(control.controller.close)
        stack.push_async_callback(control.link.close)
        return control

    def works(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """What runs for as long as the process does, by name."""
        yield "flags", self.flags.run()
        yield "journal", self.writer.sync_forever()
        yield "dependencies", self.dependencies.run()
        yield "link", self.link.run()
        yield "changes", self.changes.run(lambda: facts(self.services, self.dependencies.down))
        yield "outbox", self.outbox.run()
        if self.evidence is not None:
            yield "evidence", self.evidence.run()
        if "recorder" in self.spec.roles:
            yield "recorder", self.recorder.run()
        if self.spans is not None:
            yield "spans", self.spans.run()
        if self.aliases is not None:
            yield "registry", self.aliases.run()
        if "controller" in self.spec.roles:
            yield "controller", self.controller.run()
            yield "monitor", self.monitor.run()

    async def last_records(self) -> None:
        """The workers are gone: take what they left into the store, as far as that goes quickly."""
        if "recorder" in self.spec.roles:
            with contextlib.suppress(TimeoutError, GatewayError):
                async with asyncio.timeout(STOP_S / 2):
                    while await self.recorder.step():
                        pass


def _spans(spec: ControlSpec) -> tuple[Otlp | None, Spans | None]:
    """What exports spans, when that is configured."""
    policy = spec.telemetry
    if policy.otlp_endpoint is None:
        return None, None
    from app.adapters.otlp import Otlp

    otlp = Otlp(policy.otlp_endpoint, policy.headers, spec.host)
    return otlp, Spans(otlp.export)


async def _forever(name: str, work: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    """A task that must not end. Should it, this process ends loudly and the supervisor starts another: no half-dead control process."""
    try:
        await work
    except asyncio.CancelledError:
        raise
    except BaseException:
        log.exception("a task of the control process ended", task=name)
        stop.set()
        raise


def _api_server(application: Any) -> uvicorn.Server:
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=65_536,
        timeout_graceful_shutdown=int(STOP_S),
    )
    return _Server(config)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are this process's own."""
        yield


def _unix_listener(path: Path) -> socket.socket:
    """A listening Unix socket that only this user can connect to. A left-over of a killed predecessor is removed."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(1024)
    return listener


def _watch_supervisor(
    loop: asyncio.AbstractEventLoop, stop: asyncio.Event, heed: Callable[[AuthPolicy], None]
) -> None:
    """Standard input brings new tokens, and closes when the supervisor is gone, however it went."""
    frames = Frames()

    def readable() -> None:
        data = os.read(0, 65_536)
        if not data:
            loop.remove_reader(0)
            stop.set()
        for frame in frames.feed(data):
            policy = msgspec.msgpack.decode(frame, type=AuthPolicy)
            heed(policy)
            log.info("tokens read anew", tokens=len(policy.tokens))

    os.set_blocking(0, False)
    loop.add_reader(0, readable)
