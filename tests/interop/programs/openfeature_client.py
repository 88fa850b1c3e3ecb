"""What a user of the OpenFeature SDK does: `openfeature_client.py URL TOKEN MODEL COUNT`; prints each key's version and bucket."""

from __future__ import annotations

import json
import sys

from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext


def main(url: str, token: str, model: str, count: str) -> None:
    provider = OFREPProvider(url, headers_factory=lambda: {"Authorization": f"Bearer {token}"}, timeout=20.0)
    api.set_provider(provider)
    client = api.get_client()
    found = []
    for number in range(int(count)):
        details = client.get_string_details(f"{model}.version", "none", EvaluationContext(f"user-{number}"))
        assert details.error_code is None, details
        found.append([details.value, details.flag_metadata["bucket"], str(details.reason)])
    missing = client.get_string_details(f"{model}.version", "none")
    unknown = client.get_string_details("nobody.version", "none", EvaluationContext("user-1"))
    print(
        json.dumps(
            {
                "found": found,
                "percent": client.get_float_value(f"{model}.canary_percent", -1.0),
                "shadow": client.get_boolean_value(f"{model}.shadow", True),
                "missing": [missing.value, missing.error_code],
                "unknown": [unknown.value, unknown.error_code],
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
