"""The pages about the HTTP interface and the metrics, made from the code. See `docs.generate`."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from app.api.app import describe
from app.control.statistics import CATALOGUE

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
