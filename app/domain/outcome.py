"""What makes two outcomes the same one. Standard library only.

Feedback answers "duplicate" by this identity and the store keeps one row for it, so both must use this
function.
"""

from __future__ import annotations

from hashlib import sha256


def outcome_id(
    prediction_id: str,
    model: str,
    request_id: str,
    ground_truth: float | str | bool,
    observed_ns: int,
    source: str,
) -> str:
    """32 hexadecimal digits of what was observed about which prediction, when and by whom.

    Number, text and truth value are told apart (1, "1" and True are three outcomes; 1 and 1.0 are one). When
    the sender gave no `observed_at`, `observed_ns` is 0: the time of arrival is no part of the identity, else
    a retry would be a second outcome.
    """
    if isinstance(ground_truth, bool):
        value = f"b{ground_truth:d}"
    elif isinstance(ground_truth, str):
        value = f"s{ground_truth}"
    else:
        value = f"n{float(ground_truth)!r}"
    subject = (prediction_id.lower(),) if prediction_id else (model, request_id)
    digest = sha256()
    for part in (*subject, value, str(observed_ns), source):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:%s," % (len(data), data))  # lengths: no two different outcomes give the same bytes
    return digest.hexdigest()[:32]
