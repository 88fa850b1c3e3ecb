"""The composition root: picks adapters, wires the parts, runs one process of the gateway.

`python -m app.main worker` and `python -m app.main control` are started by `app.supervisor`, with their specification on standard input.
Imports stand inside the functions: a worker must not load what only the control process needs.
"""

from __future__ import annotations

import contextlib
import gc
import os
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import msgspec

from app.errors import ConfigurationError

if TYPE_CHECKING:
    from app.config import Settings
    from app.domain.model import Model
    from app.domain.policy import AuthPolicy, ServerPolicy, TelemetryPolicy, WebhookPolicy

_LENGTH = struct.Struct("<I")
T = TypeVar("T")
# Where cores are scarce the workers go first: about ten times the share of the control process, which then records with delay.
CONTROL_NICENESS = 10
LONGEST_SOCKET_PATH = 100  # sun_path holds 108 bytes


def send_specification(pipe: IO[bytes], specification: object) -> None:
    """Hand a child its specification; the pipe then stays open as a sign of life."""
    data = msgspec.msgpack.encode(specification)
    pipe.write(_LENGTH.pack(len(data)) + data)
    pipe.flush()


def read_specification(kind: type[T]) -> T:
    """The other end, from standard input."""
    stdin = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115  # unbuffered and never closed: it is watched afterwards
    data = b""
    wanted = _LENGTH.size
    while len(data) < wanted:
        piece = stdin.read(wanted - len(data))
        if not piece:
            raise SystemExit(
                "no specification on standard input; start the gateway with `model-gateway serve`"
            )
        data += piece
        if wanted == _LENGTH.size and len(data) == wanted:
            wanted += _LENGTH.unpack(data)[0]
    return msgspec.msgpack.decode(data[_LENGTH.size :], type=kind)


def serve(settings: Settings, roles: frozenset[str], again: Callable[[], Settings] | None = None) -> int:
    """Start what `roles` name (proxy, recorder, controller) and keep it running; returns the exit status.

    `again` reads the configuration anew at SIGHUP: the tokens and `server.tls` then hold, everything else from the next start on.

    `ConfigurationError` when the address is taken or the data directory cannot be used.
    """
    from app import config
    from app.control.specification import ControlSpec
    from app.control.tokens import with_first_token
    from app.proxy.worker import WorkerSpec
    from app.supervisor import Child, bind, run

    directory = _data_directory(Path(settings.data_dir))
    runtime = directory / "run"
    server = config.server(settings)
    journal = replace(config.journal(settings), directory=str(directory / "journal"))
    auth = with_first_token(config.auth(settings), directory)
    models = config.models(settings)
    telemetry = config.telemetry(settings)
    _check_certificates(server, models)
    _check_exporter(telemetry)
    webhooks = config.webhooks(settings)
    _check_webhooks(webhooks)
    sockets = {
        "api_socket": str(runtime / "api.sock"),
        "link_socket": str(runtime / "link.sock"),
        "last_known": str(directory / "flags.json"),
    }
    secret = _secret(directory)
    children: list[Child] = []
    others = tuple(sorted(roles & {"recorder", "controller"}))
    if others:
        control = ControlSpec(
            roles=others,
            host=_host(directory),
            server=server,
            journal=journal,
            auth=auth,
            models=models,
            data_dir=str(directory),
            store_url=_store_url(settings.store.url),
            flags_url=settings.flags.url,
            registry=config.registry(settings),
            telemetry=telemetry,
            webhooks=webhooks,
            privacy_secret=secret,
            **sockets,
        )
        children.append(Child("control", "control", control))
    if "proxy" in roles:
        try:
            listeners = bind(server.host, server.port, server.workers)
            admin = (
                bind(server.host, server.admin_port, server.workers) if server.admin_port is not None else []
            )
        except OSError as error:
            raise ConfigurationError(
                [
                    f"server.port: cannot listen on {server.host}:{server.port}: {error.strerror}; "
                    "stop the other process or choose another port"
                ]
            ) from error
        for number, listener in enumerate(listeners):
            specification = WorkerSpec(
                slot=f"w{number}",
                server=server,
                journal=journal,
                auth=auth,
                models=models,
                listen=listener.fileno(),
                privacy_secret=secret,
                listen_admin=admin[number].fileno() if admin else None,
                tracing=telemetry.sample if telemetry.otlp_endpoint is not None else -1.0,
                **sockets,
            )
            inherited = tuple(one.fileno() for one in (listener, *admin[number : number + 1]))
            children.append(Child(f"w{number}", "worker", specification, inherited))
        _announce("http" if server.tls is None else "https", listeners[0].getsockname(), directory)

    def renew(running: list[Child]) -> AuthPolicy:
        fresh = again() if again is not None else settings
        tls = config.server(fresh).tls
        _check_certificates(replace(server, tls=tls), models)
        known = with_first_token(config.auth(fresh), directory)
        for child in running:
            now = child.specification
            if isinstance(now, (WorkerSpec, ControlSpec)):
                child.specification = replace(now, auth=known, server=replace(now.server, tls=tls))
        return known

    return run(children, server.drain_s, renew)


def _data_directory(path: Path) -> Path:
    """The directory, made when missing, and checked: journal and sockets live in it."""
    try:
        for part in (path, path / "run", path / "journal"):
            part.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory = path.resolve()
        probe = directory / "run" / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(
            [f"data_dir: {path}: {error.strerror}; name a directory that this user can write to"]
        ) from error
    if len(str(directory / "run" / "link.sock")) > LONGEST_SOCKET_PATH:
        raise ConfigurationError(
            [f"data_dir: {directory} is too long a path for a Unix socket in it; choose a shorter one"]
        )
    return directory


def _host(directory: Path) -> str:
    """A name for this data directory, made once: accounting over several hosts tells them apart by it."""
    path = directory / "host-id"
    with contextlib.suppress(FileExistsError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(file, os.urandom(8).hex().encode())
        os.close(file)
    return path.read_text("ascii").strip()


def _secret(directory: Path) -> bytes:
    """The key of `privacy: hash`, made once. Hosts that shall give the same hashes share this file."""
    path = directory / "privacy-secret"
    with contextlib.suppress(FileExistsError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(file, os.urandom(32).hex().encode())
        os.close(file)
    return path.read_bytes().strip()


def _store_url(url: str) -> str:
    """A SQLite file's directory is made; PostgreSQL is left as it is."""
    scheme, _, path = url.partition(":///")
    if scheme == "sqlite":
        file = Path(path).resolve()
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return f"sqlite:///{file}"
    return url


def _check_certificates(server: ServerPolicy, models: tuple[Model, ...]) -> None:
    """Read every file of TLS once, so that a wrong one ends the start and not a connection."""
    from app.proxy.tls import client_context, server_context

    faults = []
    if server.tls is not None:
        try:
            server_context(server.tls)
        except OSError as error:
            faults.append(f"server.tls: {_reason(error)}; name PEM files that belong together")
    for model in models:
        tls = model.tls
        if tls.ca is not None or tls.certificate is not None:
            try:
                client_context(tls)
            except OSError as error:
                faults.append(
                    f"models.{model.name}.tls: {_reason(error)}; name PEM files that belong together"
                )
    if faults:
        raise ConfigurationError(faults)


def _check_exporter(telemetry: TelemetryPolicy) -> None:
    """OpenTelemetry is an extra: say so at the start, not at the first span."""
    if telemetry.otlp_endpoint is not None:
        try:
            found = find_spec("opentelemetry.exporter.otlp.proto.http")
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise ConfigurationError(
                [
                    "telemetry.otlp_endpoint: OpenTelemetry's exporter is not installed; "
                    "pip install 'model-gateway[otel]', or leave the key out"
                ]
            )


def _check_webhooks(webhooks: WebhookPolicy) -> None:
    """A secret that cannot be read would keep every event back."""
    if webhooks.secret_file is not None:
        try:
            found = Path(webhooks.secret_file).read_bytes().strip()
        except OSError as error:
            raise ConfigurationError(
                [f"webhooks.secret_file: {_reason(error)}; name a file that this user can read"]
            ) from error
        if not found:
            raise ConfigurationError(["webhooks.secret_file: is empty; write the signing key into it"])


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).rstrip(".")


def _announce(scheme: str, address: tuple[object, ...], directory: Path) -> None:
    host, port = address[0], address[1]
    sys.stderr.write(f"model-gateway serves on {scheme}://{host}:{port} (data in {directory})\n")
    sys.stderr.flush()


def worker() -> None:
    from app.proxy.worker import WorkerSpec, main

    main(read_specification(WorkerSpec))


def control() -> None:
    gc.disable()  # nothing that is imported becomes garbage; looking for it takes a tenth of the start
    from app.compose import main
    from app.control.specification import ControlSpec

    gc.freeze()
    # The recorder makes and drops hundreds of objects a record, none of them in a circle.
    gc.set_threshold(50_000, 20, 20)
    gc.enable()
    os.nice(CONTROL_NICENESS)
    main(read_specification(ControlSpec))


if __name__ == "__main__":
    {"worker": worker, "control": control}[sys.argv[1]]()
