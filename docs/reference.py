"""The pages about the HTTP interface, the metrics and the errors, made from the code. See `docs.generate`."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from app.api import problems
from app.api.app import describe
from app.control.statistics import CATALOGUE
from app.journal.format import DROP_REASONS
from app.proxy.fields import PROBLEMS, RETRY

_API = """# HTTP interface

<!-- Made by `make docs` from the routes in app/api; edit the docstrings there. -->

`GET /openapi.json` describes every body and parameter. Calls need `Authorization: Bearer TOKEN`; *operate* includes *read*,
*admin* includes all. Without configured tokens one is made at the first start, in `DATA_DIR/admin-token`.
After ten failed attempts an address has to wait.

Every error is a problem (RFC 9457, `application/problem+json`) with a stable `code` for programs and a `detail` that says what to do.
JSON is read strictly: doubled keys, NaN, a byte order mark, lone surrogates and numbers beyond 64 bits are refused. While the store is
down, reads answer 503 with `Retry-After`; feedback works on, and so does every change of flags that only takes traffic away from a
canary or a shadow.
"""
_METRICS = """# Metrics

<!-- Made by `make docs` from app/control/statistics.py; edit the catalogue there. -->

`GET /metrics` needs no token: no label holds a user, a path or an id. Prometheus text or OpenMetrics, as `Accept` asks. Counters of the
workers are added up and go on when a worker is replaced; they begin at 0 when the whole gateway starts.
"""
_ERRORS = """# Errors

<!-- Made by `make docs` from app/proxy/fields.py and app/api/problems.py; edit the tables there. -->

Every error is a problem (RFC 9457, `application/problem+json`): `code` for programs, `detail` for people.

## Model traffic

The gateway's own answers on a model's path carry `X-Gateway-Error`. Everything without that header, whatever its status, is the model
server's own answer, passed on as it came. *again*: the answer has `Retry-After`, and the request was not passed on.

| `X-Gateway-Error` | status | again | what it says |
|---|---|---|---|
"""
_API_ERRORS = """
## API

| `code` | status | what to do |
|---|---|---|
"""
_DROPPED = """
## Records that were not kept

`dropped` in `GET /admin/accounting`, `reason` of `gateway_journal_dropped_total`.

| reason | what happened |
|---|---|
"""
# Beyond the journal's own, what the accounts add.
_DROP_MEANINGS = {
    "full": "The disk was full, or `journal.max_bytes` reached.",
    "io_error": "The disk refused a write.",
    "too_large": "One record was larger than a journal takes.",
    "interrupted": "Counted as received, but its worker was killed before it was written.",
    "torn": "A half-written record at the end of a file, from a killed machine; its answer had not left.",
}
_COMMANDS = """
## Exit status of `model-gateway`

0 done; 1 the answer is no (a rollout that was rolled back, rows that were rejected, a gateway that does not answer); 2 usage or
configuration, one line a fault with its remedy; 130 interrupted.
"""


def api() -> str:
    """docs/api.md."""
    by_tag: dict[str, list[str]] = defaultdict(list)
    for path, operations in describe()["paths"].items():
        for method, operation in operations.items():
            by_tag[operation["tags"][-1]].append(_row(method, path, operation))
    parts = [_API]
    for tag, rows in by_tag.items():
        parts.append(
            f"\n## {tag.capitalize()}\n\n| call | scope | does | errors |\n|---|---|---|---|\n"
            + "".join(rows)
        )
    return "".join(parts)


def _row(method: str, path: str, operation: dict[str, Any]) -> str:
    does = " ".join(operation["description"].split())
    errors = ", ".join(sorted(set(filter(_is_error, operation["responses"])) - {"401", "403", "429"}))
    query = [one["name"] for one in operation.get("parameters", []) if one["in"] == "query"]
    asked = f"?{'&'.join(query)}" if query else ""
    return f"| `{method.upper()} {path}{asked}` | {operation.get('x-required-scope') or 'none'} | {does} | {errors} |\n"


def _is_error(status: str) -> bool:
    return status >= "400"


def metrics() -> str:
    """docs/metrics.md."""
    rows = [
        f"| `{name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |\n"
        for name, metric in CATALOGUE.items()
    ]
    return f"{_METRICS}\n| name | kind | labels | says |\n|---|---|---|---|\n{''.join(rows)}"


def errors() -> str:
    """docs/errors.md."""
    parts = [_ERRORS]
    for code, (status, _, remedy) in PROBLEMS.items():
        parts.append(f"| `{code}` | {status} | {'yes' if code in RETRY else ''} | {remedy} |\n")
    parts.append(_API_ERRORS)
    statuses: dict[str, set[int]] = defaultdict(set)
    for _, status, code in problems.TABLE:
        statuses[code].add(status)
    for status, code in problems.CODES.items():
        statuses[code].add(status)
    statuses["client_left"].add(400)
    statuses["internal"].add(500)
    for code, remedy in problems.REMEDIES.items():
        shown = ", ".join(map(str, sorted(statuses[code]))) or "other"
        parts.append(f"| `{code}` | {shown} | {remedy} |\n")
    parts.append(_DROPPED)
    parts += [f"| `{reason}` | {meaning} |\n" for reason, meaning in _DROP_MEANINGS.items()]
    assert set(DROP_REASONS) <= set(_DROP_MEANINGS)
    return "".join(parts) + _COMMANDS
