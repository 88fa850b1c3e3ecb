"""The cells: which contender stands under which load, and which of them take turns.

Cells of one group are started together and loaded in turn, in slices of a second or two, so that the
cells of a ratio see the same machine: a neighbour who takes the cache takes it from all.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from benchmarks.peers.contenders import ENVOY, ENVOY_PLAIN, FASTAPI, NGINX, NGINX_PLAIN, Contender, Gateway

CONNECTIONS = 32
MANY = 1000


class Shape(StrEnum):
    """Which load a cell gets."""

    FULL = "full"  # wrk, 32 connections, as fast as the contender answers
    PACED = "paced"  # open loop at half of what the slowest paced contender can do
    CROWD = "crowd"  # 1,000 connections, each always with a request under way


@dataclass(frozen=True, slots=True)
class Cell:
    """One contender (None: the model server directly) under one load."""

    name: str
    title: str
    contender: Contender | None
    shape: Shape = Shape.FULL
    slow: bool = False  # model servers that take 20 ms

    @property
    def group(self) -> str:
        """Cells with the same group take turns."""
        return f"{self.shape}-{'slow' if self.slow else 'instant'}"


CELLS = (
    Cell("direct", "model server, no proxy", None),
    Cell("nginx-plain", "nginx, plain proxy", NGINX_PLAIN),
    Cell("nginx", "nginx, split_clients + mirror", NGINX),
    Cell("envoy-plain", "Envoy, plain proxy", ENVOY_PLAIN),
    Cell("envoy", "Envoy, weighted + mirror", ENVOY),
    Cell("fastapi", "FastAPI + httpx, the source text's classes", FASTAPI),
    Cell("ours", "model-gateway, split + shadow + journal + metrics", Gateway()),
    Cell(
        "ours-unshadowed",
        "model-gateway, journal + metrics, no canary, no shadow",
        Gateway(canary=False, shadow=False),
    ),
    Cell("ours-interpreted", "the same as `ours`, data plane not compiled", Gateway(compiled=False)),
    Cell("ours-1000-models", "model-gateway, 1,000 models, split + shadow", Gateway(models=1000)),
    Cell("ours-two-workers", "model-gateway, two workers, split + shadow", Gateway(workers=2)),
    Cell("direct-20ms", "model server, no proxy, 20 ms", None, slow=True),
    Cell("nginx-20ms", "nginx, split_clients + mirror, 20 ms", NGINX, slow=True),
    Cell("envoy-20ms", "Envoy, weighted + mirror, 20 ms", ENVOY, slow=True),
    Cell("fastapi-20ms", "FastAPI + httpx, 20 ms", FASTAPI, slow=True),
    Cell("ours-20ms", "model-gateway, split + shadow, 20 ms", Gateway(), slow=True),
    Cell("direct-paced", "model server, no proxy, 20 ms, paced", None, Shape.PACED, True),
    Cell("nginx-paced", "nginx, split_clients + mirror, 20 ms, paced", NGINX, Shape.PACED, True),
    Cell("envoy-paced", "Envoy, weighted + mirror, 20 ms, paced", ENVOY, Shape.PACED, True),
    Cell("ours-paced", "model-gateway, split + shadow, 20 ms, paced", Gateway(), Shape.PACED, True),
    Cell("envoy-crowd", "Envoy, weighted + mirror, 20 ms, 1,000 connections", ENVOY, Shape.CROWD, True),
    Cell(
        "ours-crowd",
        "model-gateway, split + shadow (64 at once, the default), 20 ms, 1,000 connections",
        Gateway(shadow_concurrency=64),
        Shape.CROWD,
        True,
    ),
)
