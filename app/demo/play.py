"""Sets the stage for the demo's story and clears it: models trained, processes started, traffic running, all
stopped.

The gateway is started as a user would start it, from a configuration file in a temporary directory. However
the story ends, no process may be left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
from rich.console import Console

from app.demo.gateway import MODEL, Gateway, Refused, nothing_degraded, write_configuration
from app.demo.processes import Children, DidNotStart, free_port
from app.demo.releases import World, accuracy, first_releases
from app.demo.screen import Screen
from app.demo.story import NotAsExpected, Pace, Story
from app.demo.traffic import Traffic

SEED = 7
DEFAULT_PORT = 8080
START_WITHIN_S = 45.0
INTERRUPTED = 130
CASE_FILE = "case.json"


def play(port: int | None, speed: float, once: bool) -> int:
    """Runs the whole demo; see `app.demo.run`."""
    console = Console()
    try:
        asyncio.run(_play(console, free_port(port or DEFAULT_PORT), Pace.at(speed), once))
    except (NotAsExpected, DidNotStart, Refused, httpx2.TransportError) as fault:
        console.print("\n[bold red]Not as expected:[/]", end=" ")
        console.print(str(fault) or type(fault).__name__, markup=False, highlight=False)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("\nStopped before the end; nothing is left running.")
        return INTERRUPTED
    if not once:
        console.print("Stopped; nothing is left running.")
    return 0


async def _play(console: Console, port: int, pace: Pace, once: bool) -> None:
    _stop_in_order_on_signals()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="demo-") as name, Screen(console) as screen:
        directory = Path(name)
        async with Children(directory) as children:
            world = World(SEED)
            gateway, v2_accuracy = await _open(screen, world, children, directory, port, pace)
            async with gateway:
                traffic = Traffic(gateway.target, world, pace.requests_per_s, pace.label_delay_s)
                screen.show_traffic(traffic)
                async with _running(traffic):
                    story = Story(screen, gateway, traffic, world, children, pace, v2_accuracy)
                    await story.tell()
                    await _close(screen, story, time.monotonic() - started)
                    if not once:
                        await _stay(screen, gateway, directory)


@contextlib.asynccontextmanager
async def _running(traffic: Traffic) -> AsyncIterator[None]:
    driving = asyncio.create_task(traffic.run())
    try:
        yield
    finally:
        driving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await driving


def _stop_in_order_on_signals() -> None:
    """SIGTERM, and SIGHUP of a closed terminal, cancel the demo, so that the children are stopped in order."""
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


async def _open(
    screen: Screen, world: World, children: Children, directory: Path, port: int, pace: Pace
) -> tuple[Gateway, float]:
    screen.chapter(
        "Setting the stage",
        "Training on scikit-learn's breast-cancer data; one process a model, one gateway.",
    )
    screen.waiting("training three models")
    models = await asyncio.to_thread(first_releases, world)
    holdout = world.cases(1000)
    (directory / CASE_FILE).write_text(json.dumps({"features": holdout[0].features}))
    for model in models:
        screen.fact(
            f"{model.version}: logistic regression on {len(model.features)} features, "
            f"{accuracy(model, holdout):.1%} right on 1,000 cases before release"
        )
    screen.waiting("the model servers")
    upstreams = {model.version: await children.serve(model) for model in models}
    baseline = accuracy(models[1], holdout)
    file = write_configuration(directory, port, upstreams, pace.dwell_s, pace.horizon_s, baseline)
    url = f"http://127.0.0.1:{port}"
    screen.waiting("the gateway")
    await children.start(
        "gateway", ("app", "serve", "--config", str(file)), f"{url}/readyz", START_WITHIN_S, nothing_degraded
    )
    screen.fact(f"gateway on {url}, its model servers on {', '.join(upstreams.values())}")
    return Gateway(url, (directory / "admin-token").read_text().strip(), upstreams), baseline


async def _close(screen: Screen, story: Story, seconds: float) -> None:
    rows = await story.closing_rows()
    screen.settle()
    screen.console.print()
    screen.table(f"What happened, in {seconds:.0f} s", ("", "measured"), rows)


async def _stay(screen: Screen, gateway: Gateway, directory: Path) -> None:
    token = directory / "admin-token"
    screen.console.print(
        f"""
Everything is still running; Ctrl-C stops it. Dashboard: {gateway.url}/
Sign in with the token in {token}

  TOKEN=$(cat {token})
  curl -si {gateway.target.predict_url} -H 'X-User-Id: me' -d @{directory / CASE_FILE}
  curl -s -H "Authorization: Bearer $TOKEN" {gateway.url}/admin/models/{MODEL}/performance
  curl -s -H "Authorization: Bearer $TOKEN" {gateway.url}/admin/models/{MODEL}/rollouts
  curl -s -H "Authorization: Bearer $TOKEN" {gateway.url}/admin/audit
  curl -s {gateway.url}/metrics | grep gateway_requests_total
""",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
        await asyncio.Event().wait()
    screen.console.print("Stopping …")
