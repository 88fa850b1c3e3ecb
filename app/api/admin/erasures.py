"""Erasure of what is kept about one routing key. The key stands in the body, never in an address that someone logs, and is not repeated
in the audit log.
"""

from __future__ import annotations

from fastapi import APIRouter

from app.api.routes import Caller, GatewayRoute, needs
from app.api.schemas import ErasureBody, ErasureView
from app.api.services import Parts
from app.control.audits import log_change
from app.control.ports import AuditEntry
from app.protocols.privacy import Redaction

router = APIRouter(route_class=GatewayRoute, prefix="/admin/models/{model}/erasures", tags=["privacy"])


@router.post("", response_model=ErasureView, **needs("admin", 404, 422, 503))
async def erase(model: str, body: ErasureBody, caller: Caller, parts: Parts) -> ErasureView:
    """Remove from everything stored under a routing key, whether it is stored plain or hashed: features, predictions, labels, outcomes,
    reviews, the answers of shadows, the key itself and the client's own request id. The counts of requests stay. `pending` records
    are still on their way into the store: repeat the call once it is 0.
    """
    parts.registry.model(model)
    accounts = await parts.accounting()  # first: what is pending now may be stored behind our back
    secret = (parts.data_dir / "privacy-secret").read_bytes().strip()
    redaction = Redaction((), (), secret)
    plain = (body.routing_key, _as_field(body.routing_key))
    forms = tuple(dict.fromkeys((*plain, *(str(redaction.digest(form)) for form in plain))))
    entry = AuditEntry(parts.clock.now(), caller.name, caller.origin, "privacy.erase", model, body.reason)
    erased = await parts.store.erase(model, forms, entry)
    log_change(entry, erased=erased)
    return ErasureView(erased=erased, pending=accounts["pending"])


def _as_field(key: str) -> str:
    """The key as a header field carries it: of bytes beyond ASCII nobody knows the encoding (RFC 9110, section 5.5), so they are kept as
    they came, a character a byte.
    """
    return key.encode("utf-8", "surrogatepass").decode("latin-1")
