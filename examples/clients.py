"""`python -m examples.clients`: users who ask a gateway for predictions, and a laboratory that hands in the
truth later.

Needs a model served by `examples.model_server` behind the gateway. Ends by itself after `--seconds`.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from app.demo.releases import World
from app.demo.traffic import Target, Traffic

SEED = 8


def main() -> None:
    """Sends traffic and prints what the clients saw."""
    parser = argparse.ArgumentParser(description="Send example traffic and late outcomes through a gateway.")
    parser.add_argument("--gateway", default="http://127.0.0.1:8080")
    parser.add_argument("--model", default="biopsy", help="as in the path /models/MODEL/predict")
    parser.add_argument("--token-file", type=Path, default=Path("data/admin-token"))
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--label-delay", type=float, default=3.0, help="seconds until a truth is known")
    arguments = parser.parse_args()
    target = Target(
        f"{arguments.gateway}/models/{arguments.model}/predict",
        f"{arguments.gateway}/feedback",
        arguments.token_file.read_text().strip(),
    )
    traffic = Traffic(target, World(SEED), arguments.rate, arguments.label_delay)
    asyncio.run(_for_seconds(traffic, arguments.seconds))
    seen = traffic.seen
    by_version = ", ".join(f"{version} {count}" for version, count in sorted(seen.by_version.items()))
    print(f"{seen.answered} answers ({by_version}), {seen.failed} failed {seen.last_failure}")
    print(f"{traffic.outcomes_sent} outcomes handed in {seen.feedback_failure}")


async def _for_seconds(traffic: Traffic, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await traffic.run()
    except TimeoutError:
        return


if __name__ == "__main__":
    main()
