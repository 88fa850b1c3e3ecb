"""Which events go out, and where to: each model's webhook hears of its rollbacks, promotions and calls to
retrain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.control.outbox import Outbox
from app.control.registry import Registry


class News:
    """Without an outbox, or without a webhook of the model, nothing is kept."""

    def __init__(self, registry: Registry, outbox: Outbox | None = None) -> None:
        self._registry = registry
        self._outbox = outbox

    async def tell(self, model: str, kind: str, data: Mapping[str, Any]) -> None:
        """Keep an event for the model's webhook; returns as soon as it is on disk."""
        known = self._registry.get(model)
        if self._outbox is not None and known is not None and known.retraining.webhook is not None:
            await self._outbox.put(known.retraining.webhook, kind, model, data)
