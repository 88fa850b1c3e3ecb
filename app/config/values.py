"""Turns checked settings into the frozen values that the parts of the gateway work with. Checks nothing."""

from __future__ import annotations

from pathlib import Path

from app.config.model_schema import ModelSection, RoutingKeySection, VersionSection
from app.config.schema import Settings
from app.domain.model import (
    Canary,
    ControlMirror,
    Drift,
    EvidencePolicy,
    Guard,
    Labels,
    Match,
    Model,
    Privacy,
    Registered,
    Retraining,
    Review,
    RoutingKey,
    Shadow,
    UpstreamTls,
    Version,
)
from app.domain.policy import (
    AuthPolicy,
    JournalPolicy,
    RegistryPolicy,
    ServerPolicy,
    ServerTls,
    TelemetryPolicy,
    Token,
    WebhookPolicy,
)


def models(settings: Settings) -> tuple[Model, ...]:
    """The models in the file's order."""
    return tuple(_model(name, model) for name, model in settings.models.items())


def server(settings: Settings) -> ServerPolicy:
    """For the workers and the supervisor."""
    keys = dict(settings.server)
    tls = keys.pop("tls")
    return ServerPolicy(**keys, tls=ServerTls(**dict(tls)) if tls is not None else None)


def journal(settings: Settings) -> JournalPolicy:
    """For the journal writer; its files stand below `data_dir`."""
    return JournalPolicy(directory=str(Path(settings.data_dir) / "journal"), **dict(settings.journal))


def auth(settings: Settings) -> AuthPolicy:
    """For whoever checks tokens; digests in lower case."""
    return AuthPolicy(
        tuple(
            Token(token.name, digest.lower(), token.scopes)
            for token in settings.auth.tokens
            for digest in token.sha256
        )
    )


def registry(settings: Settings) -> RegistryPolicy:
    """For whoever follows MLflow's registry."""
    return RegistryPolicy(**dict(settings.registry))


def telemetry(settings: Settings) -> TelemetryPolicy:
    """For the workers, which begin traces, and the control process, which exports them."""
    section = settings.telemetry
    return TelemetryPolicy(section.otlp_endpoint, tuple(sorted(section.headers.items())), section.sample)


def webhooks(settings: Settings) -> WebhookPolicy:
    """For whoever signs events."""
    return WebhookPolicy(**dict(settings.webhooks))


def _model(name: str, model: ModelSection) -> Model:
    match, canary, shadow = model.match, dict(model.canary), dict(model.shadow)
    canary["control"] = ControlMirror(**dict(model.canary.control))
    return Model(
        name=name,
        production=model.production,
        versions=tuple(_version(key, version) for key, version in model.versions.items()),
        match=Match(
            path_prefix=match.path_prefix.rstrip("/") or "/",
            strip=match.strip,
            host=match.host.lower() if match.host else None,
            headers=tuple(sorted((key.lower(), value) for key, value in match.header.items())),
        ),
        protocol=model.protocol,
        extract=tuple((key, path) for key, path in model.extract if path is not None),
        task=model.task,
        routing_key=_routing_key(model.routing_key),
        shadow_versions=shadow.pop("versions"),
        shadow=Shadow(**shadow),
        canary=Canary(**canary),
        guard=Guard(**dict(model.guard)),
        evidence=EvidencePolicy(**dict(model.evidence)),
        labels=Labels(**dict(model.labels)),
        drift=Drift(**dict(model.drift)),
        retraining=Retraining(**dict(model.retraining)),
        review=Review(**dict(model.review)),
        privacy=Privacy(**dict(model.privacy)),
        tls=UpstreamTls(**dict(model.tls)),
        registry=Registered(**dict(model.registry)),
    )


def _version(name: str, version: VersionSection) -> Version:
    return Version(
        name=name,
        urls=version.url,
        timeout_s=version.timeout_s,
        connect_timeout_s=version.connect_timeout_s,
        metadata=tuple(sorted(version.metadata.items())),
    )


def _routing_key(key: RoutingKeySection | None) -> RoutingKey:
    if key is not None:
        for source in ("header", "cookie", "query"):
            name = getattr(key, source)
            if name is not None:
                return RoutingKey(source, name)
        if key.json_path is not None:
            return RoutingKey("json", key.json_path)
    return RoutingKey()
