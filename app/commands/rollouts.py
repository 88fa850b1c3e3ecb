"""rollout start, pause, resume, advance, promote, rollback, watch: a candidate's way to production."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from app.commands import output
from app.commands.flags import ModelName
from app.commands.gateway import (
    DATA_DIR,
    Answer,
    AsJson,
    DataDir,
    Gateway,
    RefusedError,
    TokenText,
    UnreachableError,
    Url,
    UsageError,
    listed,
    model_path,
    patiently,
)

commands = typer.Typer(no_args_is_help=True, help="A candidate's way to production.")

EVENTS_SHOWN = 12
RolloutId = Annotated[str | None, typer.Option("--id", help="Which rollout [default: the open one]")]
Reason = Annotated[str, typer.Option(help="For the audit log")]


@commands.command("start")
def start(
    model: ModelName,
    candidate_version: Annotated[
        str | None, typer.Argument(metavar="CANDIDATE", show_default=False, help="The version to let in")
    ] = None,
    candidate: Annotated[str | None, typer.Option(help="The same, as an option")] = None,
    stages: Annotated[str | None, typer.Option(help="Percentages, such as 5,25,100")] = None,
    dwell_s: Annotated[float | None, typer.Option(help="Least seconds in a stage", min=0)] = None,
    min_requests: Annotated[int | None, typer.Option(help="Least requests in a stage", min=0)] = None,
    reason: Reason = "",
    url: Url = None,
    token: TokenText = None,
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Begin to let a version in. One rollout of a model may be open at a time."""
    version = candidate_version or candidate
    if version is None:
        raise UsageError("name the version to let in: rollout start MODEL CANDIDATE")
    body = {
        "candidate": version,
        "stages": _percentages(stages) if stages is not None else None,
        "dwell_s": dwell_s,
        "min_requests": min_requests,
        "reason": reason or None,
    }
    given = {key: value for key, value in body.items() if value is not None}
    with Gateway.at(url, token, data_dir) as gateway:
        _show(gateway.send("POST", model_path(model, "rollouts"), given), as_json)


def _percentages(text: str) -> list[float]:
    try:
        return [float(part.strip().removesuffix("%")) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"--stages: {text!r} is no list of numbers; write 5,25,100") from None


def _action(name: str, does: str) -> Callable[..., None]:
    def act(
        model: ModelName,
        rollout_id: RolloutId = None,
        reason: Reason = "",
        url: Url = None,
        token: TokenText = None,
        data_dir: DataDir = DATA_DIR,
        as_json: AsJson = False,
    ) -> None:
        with Gateway.at(url, token, data_dir) as gateway:
            which = rollout_id or _open(gateway, model)
            said = reason or f"{name} from the command line"
            _show(gateway.send("POST", model_path(model, "rollouts", which, name), {"reason": said}), as_json)

    act.__doc__ = does
    return act


for _name, _does in {
    "pause": "Stay in the current stage; evidence can still roll back.",
    "resume": "Go on after a pause.",
    "advance": "Take the next step up now.",
    "promote": "Make the candidate production now.",
    "rollback": "All traffic back to production, now.",
}.items():
    commands.command(_name)(_action(_name, _does))


@commands.command("watch")
def watch(
    model: ModelName,
    rollout_id: RolloutId = None,
    every_s: Annotated[float, typer.Option(help="Seconds between two looks", min=0.1)] = 1.0,
    patience_s: Annotated[
        float, typer.Option(help="How long to try again while the gateway is away", min=0)
    ] = 60.0,
    url: Url = None,
    token: TokenText = None,
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Follow a rollout to its end: 0 when promoted, 1 when rolled back."""
    with Gateway.at(url, token, data_dir) as gateway:
        which = rollout_id or _open(gateway, model)
        path = model_path(model, "rollouts", which)

        def looks() -> Iterator[Answer]:
            while True:
                try:
                    rollout = patiently(lambda: gateway.get(path), patience_s, longest_delay_s=every_s)
                except UnreachableError as error:
                    raise UnreachableError(f"{error} (the rollout goes on, unwatched)") from None
                yield rollout
                if settled(rollout):
                    return
                time.sleep(every_s)

        last = _follow_as_json(looks()) if as_json else _follow(looks())
    raise typer.Exit(0 if last.get("state") == "promoted" else 1)


def _follow(looks: Iterator[Answer]) -> Answer:
    from rich.live import Live

    rollout = next(looks)
    with Live(_view(rollout), console=output.console(), auto_refresh=False) as live:
        for rollout in looks:
            live.update(_view(rollout), refresh=True)
    return rollout


def _follow_as_json(looks: Iterator[Answer]) -> Answer:
    """A line whenever something is new."""
    rollout: Answer = {}
    for now in looks:
        if now != rollout:
            output.emit(now)
        rollout = now
    return rollout


def settled(rollout: Answer) -> bool:
    """Whether the candidate is in or out; a promoted one may still be watched over."""
    return rollout.get("state") in ("promoted", "rolled_back") or bool(rollout.get("ended_at"))


def _open(gateway: Gateway, model: str) -> str:
    found = listed(gateway.get(model_path(model, "rollouts")), "rollouts")
    for rollout in found:
        if not rollout.get("ended_at"):
            return str(rollout["id"])
    raise RefusedError(
        404, f"no rollout of {model} is open; start one with: rollout start {model} CANDIDATE", {}
    )


def _show(rollout: Answer, as_json: bool) -> None:
    if as_json:
        output.emit(rollout)
    else:
        output.console().print(_view(rollout))


def _view(rollout: Answer) -> Any:
    from rich.console import Group
    from rich.text import Text

    lines = [Text(f"{name:<10} {output.cell(value)}") for name, value in _facts(rollout).items()]
    events = listed(rollout, "events")[-EVENTS_SHOWN:]
    parts: list[Any] = lines
    if events:
        parts.append(
            output.table(
                ("when", "what", "why"),
                [(event.get("at"), event.get("kind"), event.get("reason")) for event in events],
                output.console().width,
            )
        )
    return Group(*parts)


def _facts(rollout: Answer) -> dict[str, object]:
    stages, place = rollout.get("stages") or [], int(rollout.get("stage_index", -1))
    verdict = rollout.get("verdict") or {}
    evidence = rollout.get("evidence") or {}
    facts = {
        "rollout": rollout.get("id"),
        "candidate": f"{rollout.get('candidate')} against {rollout.get('production')}",
        "state": rollout.get("state"),
        "stage": f"{place + 1} of {len(stages)}, {output.cell(rollout.get('percent'))} %",
        "so far": _progress(rollout),
        "verdict": f"{verdict['health']}: {verdict.get('reason')}" if "health" in verdict else None,
        "evidence": _bet(evidence),
        "reason": rollout.get("reason"),
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _progress(rollout: Answer) -> str | None:
    """What the stage still waits for."""
    if settled(rollout) or "requests_in_stage" not in rollout:
        return None
    requests, seconds = rollout["requests_in_stage"], float(rollout.get("elapsed_s") or 0.0)
    least = f"{output.cell(rollout.get('min_requests'))} requests, {seconds:.0f} of {output.cell(rollout.get('dwell_s'))} s"
    return f"{output.cell(requests)} of {least}"


def _bet(evidence: dict[str, Any]) -> str | None:
    log_e, threshold = evidence.get("log_e"), evidence.get("threshold")
    if log_e is None:
        return None
    return f"log e {output.cell(log_e)} of {output.cell(threshold)} that roll back"
