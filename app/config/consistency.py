"""What is wrong between keys that are each right by themselves. Reads settings; changes nothing."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from difflib import get_close_matches
from urllib.parse import unquote

from app.config.document import Keys
from app.config.masking import shown
from app.config.model_schema import MatchSection, ModelSection
from app.config.schema import Settings
from app.domain.routing import RESERVED

METRICS = {
    "binary": ("accuracy", "precision", "recall", "f1", "roc_auc", "log_loss", "brier", "ece"),
    "multiclass": ("accuracy", "precision_macro", "recall_macro", "f1_macro", "brier"),
    "regression": ("mae", "rmse", "mape", "r2"),
    "none": (),
}
"""What `app.domain.performance` measures, by task; named here so that a start does not load numpy."""

Fault = tuple[Keys, str]


def faults(settings: Settings) -> Iterator[Fault]:
    """Each fault: where, and what with its remedy."""
    yield from _server(settings)
    yield from _tokens(settings)
    for name, model in settings.models.items():
        where: Keys = ("models", name)
        yield from _versions(where, model)
        yield from _match(where, model.match)
        yield from _reading(where, model)
        yield from _policies(where, model)
        yield from _evidence(where, model)
        yield from _tls(where, model)
    yield from _overlaps(settings)


def _server(settings: Settings) -> Iterator[Fault]:
    server = settings.server
    if server.admin_port and server.admin_port == server.port:
        yield (
            ("server", "admin_port"),
            f"is the same as server.port ({server.port}); give another port, or null to share it",
        )
    for place, proxy in enumerate(server.trusted_proxies):
        try:
            ipaddress.ip_network(proxy)
        except ValueError as error:
            yield (
                ("server", "trusted_proxies", place),
                f"{error}; write an address or a network such as 10.0.0.0/8",
            )
    if settings.journal.segment_bytes > settings.journal.max_bytes:
        yield (
            ("journal", "segment_bytes"),
            f"is more than journal.max_bytes ({settings.journal.max_bytes}); make it smaller",
        )


def _tokens(settings: Settings) -> Iterator[Fault]:
    names: dict[str, int] = {}
    digests: dict[str, str] = {}
    remedy = "give each token its own"
    for place, token in enumerate(settings.auth.tokens):
        where: Keys = ("auth", "tokens", place)
        first = names.setdefault(token.name.lower(), place)
        if first != place:
            yield (*where, "name"), f"is the same as auth.tokens[{first}].name; {remedy}"
        for digest in token.sha256:
            owner = digests.setdefault(digest.lower(), f"auth.tokens[{place}]")
            if owner != f"auth.tokens[{place}]":
                yield (*where, "sha256"), f"is the same as {owner}.sha256; {remedy}"


def _versions(where: Keys, model: ModelSection) -> Iterator[Fault]:
    known = f"name one of {', '.join(model.versions)}"
    if model.production not in model.versions:
        yield (*where, "production"), f"{shown(model.production)} is no version of this model; {known}"
    seen: set[str] = set()
    for place, version in enumerate(model.shadow.versions):
        spot = (*where, "shadow", "versions", place)
        if version not in model.versions:
            yield spot, f"{shown(version)} is no version of this model; {known}"
        elif version == model.production:
            yield spot, f"{shown(version)} is production, whose answer is known already; name another version"
        elif version in seen:
            yield spot, f"{shown(version)} is named twice; name it once"
        seen.add(version)
    for name, version_settings in model.versions.items():
        if len(set(version_settings.url)) < len(version_settings.url):
            yield (*where, "versions", name, "url"), "names an address twice; name each replica once"


def _match(where: Keys, match: MatchSection) -> Iterator[Fault]:
    spot = (*where, "match", "path_prefix")
    prefix = match.path_prefix
    if not prefix.startswith("/"):
        yield spot, f"{shown(prefix)} does not begin with a slash; write {shown('/' + prefix)}"
        return
    if (
        not prefix.isascii()
        or not prefix.isprintable()
        or any(character in prefix for character in ' ?#\\"<>^`{|}')
    ):
        yield spot, f"{shown(prefix)} has characters that no path has; percent-encode them"
    segments = prefix.rstrip("/").split("/")[1:]
    if any(segment in ("", ".", "..") for segment in segments):
        yield spot, f"{shown(prefix)} has an empty or a dot segment, which no forwarded path has; remove it"
    if segments and unquote(segments[0]) in RESERVED:
        yield (
            spot,
            f"{shown(prefix)} is the gateway's own (/{segments[0]}); choose another, such as /models/NAME",
        )
    for name, value in match.header.items():
        if (
            value != value.strip()
            or not value.isprintable()
            or any(ord(character) > 255 for character in value)
        ):
            yield (
                (*where, "match", "header", name),
                "this text cannot stand in a header field; write it without spaces around",  # it may be a key
            )


def _reading(where: Keys, model: ModelSection) -> Iterator[Fault]:
    extract = model.extract
    if model.protocol != "json" and extract.model_fields_set:
        yield (
            (*where, "extract"),
            f"is for protocol json, and this is {model.protocol}; remove it or set protocol: json",
        )
    if model.routing_key is not None:
        given = [
            name
            for name in ("header", "cookie", "query", "json_path")
            if getattr(model.routing_key, name) is not None
        ]
        if len(given) != 1:
            yield (
                (*where, "routing_key"),
                f"names {len(given) or 'no'} sources; give exactly one of header, cookie, query, json",
            )
    both = set(model.privacy.drop) & set(model.privacy.hash)
    if both:
        yield (*where, "privacy", "hash"), f"also dropped: {', '.join(sorted(both))}; name each feature once"


def _tls(where: Keys, model: ModelSection) -> Iterator[Fault]:
    tls = model.tls
    if (tls.certificate is None) != (tls.key is None):
        missing = "key" if tls.key is None else "certificate"
        yield (*where, "tls", missing), "is missing; a client certificate needs both files"
    if tls.insecure_skip_verify and (tls.ca is not None or tls.server_name is not None):
        yield (
            (*where, "tls", "insecure_skip_verify"),
            "makes tls.ca and tls.server_name meaningless; remove it, or them",
        )


LABEL_KINDS = {
    "binary": ("accuracy", "brier", "log_loss", "auc", "f1"),
    "multiclass": ("accuracy",),
    "regression": ("absolute_error",),
    "none": (),
}
"""What a rollout can be judged by with labels, by task."""


def _evidence(where: Keys, model: ModelSection) -> Iterator[Fault]:
    evidence, place = model.evidence, (*where, "evidence")
    fit = LABEL_KINDS[model.task]
    for kind in evidence.labels:
        if kind not in fit:
            known = ", ".join(fit) or "nothing; set the task"
            yield (*place, "labels"), f"{kind!r} does not go with task {model.task}; it can be {known}"
    if {"brier", "log_loss"} <= set(evidence.labels):
        yield (*place, "labels"), "names two losses; keep brier or log_loss"
    if "f1" in evidence.labels and evidence.f1_goal is None:
        yield (*place, "f1_goal"), "is missing; `labels: [f1]` needs the least F1 that is accepted"
    if evidence.min_labels and model.task == "none":
        yield (*place, "min_labels"), "needs a task to tell right from wrong; set task, or remove it"
    if evidence.unit == "key" and model.routing_key is None:
        yield (*place, "unit"), "is key, and there is no routing_key; set one, or unit: request"


def _policies(where: Keys, model: ModelSection) -> Iterator[Fault]:
    guard, retraining = model.guard, model.retraining
    if guard.min_requests > guard.window:
        yield (
            (*where, "guard", "min_requests"),
            f"is {guard.min_requests}, but the window holds only {guard.window}: the guard would never act; "
            "lower it or widen guard.window",
        )
    if retraining.critical_threshold < retraining.performance_threshold:
        yield (
            (*where, "retraining", "critical_threshold"),
            f"{retraining.critical_threshold:g} is below performance_threshold, "
            f"which is {retraining.performance_threshold:g}; raise it",
        )
    if retraining.strategy == "schedule" and retraining.every_s is None:
        yield (
            (*where, "retraining", "every_s"),
            "is needed for strategy: schedule; give the seconds between two trainings",
        )
    yield from _metric(where, model)


def _metric(where: Keys, model: ModelSection) -> Iterator[Fault]:
    metric, baseline = model.retraining.metric, model.retraining.baseline
    known = METRICS[model.task]
    if not known and (metric is not None or baseline is not None):
        yield (
            (*where, "task"),
            "is none, which has no metrics; name the task, or leave out metric and baseline",
        )
    elif metric is not None and metric not in known:
        close = get_close_matches(metric, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"
        yield (*where, "retraining", "metric"), f"{shown(metric)} is no metric of task {model.task}; {hint}"


def _overlaps(settings: Settings) -> Iterator[Fault]:
    """Two models of which a request could be either's, with nothing that ranks one before the other."""
    known = list(settings.models.items())
    for place, (name, model) in enumerate(known):
        for other, earlier in known[:place]:
            if _ambiguous(model.match, earlier.match):
                yield (
                    ("models", name, "match"),
                    f"matches the same requests as models.{other}; give it another prefix, host or header",
                )
                break


def _ambiguous(one: MatchSection, two: MatchSection) -> bool:
    if one.path_prefix.rstrip("/") != two.path_prefix.rstrip("/"):
        return False  # the longer prefix wins
    if (one.host is None) != (two.host is None):
        return False  # the one with a host wins
    if one.host is not None and two.host is not None and not _same_host(one.host.lower(), two.host.lower()):
        return False
    mine = {name.lower(): value for name, value in one.header.items()}
    theirs = {name.lower(): value for name, value in two.header.items()}
    if len(mine) != len(theirs):
        return False  # more fields win
    return all(mine[name] == theirs[name] for name in mine.keys() & theirs.keys())


def _same_host(one: str, two: str) -> bool:
    """A host without port also stands for itself with any port."""
    return one == two or one == two.rpartition(":")[0] or two == one.rpartition(":")[0]
