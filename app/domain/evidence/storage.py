"""An engine as JSON and back, so that a restarted controller goes on where it stopped.

Reads and writes no file.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np

from app.domain.evidence.batch import Arm, Seen, Stratum
from app.domain.evidence.bets import Floats
from app.domain.evidence.engine import Engine, Tally
from app.domain.evidence.labels import LossLadder, LossScale
from app.domain.evidence.metrics import EngineConfig
from app.domain.evidence.pairs import OrderEffect
from app.domain.evidence.pooling import Pool
from app.domain.evidence.shadow import OwnNoise, Severity
from app.domain.evidence.tick import BUCKETS, LEAST

FORMAT = 1


def dump(engine: Engine) -> str:
    """The whole state, configuration included: a rollout is judged to its end by the rules it began with."""
    ladder = engine.loss_ladder
    return json.dumps(
        {
            "format": FORMAT,
            "config": asdict(engine.config),
            "candidate": engine.candidate,
            "production": engine.production,
            "started": engine.started,
            "last": engine.last,
            "stakes": {name: stake.log_m.tolist() for name, stake in engine.stakes.items()},
            "floor_stake": engine.floor_stake.log_m.tolist(),
            "tally": asdict(engine.tally),
            "seen": {
                replica: [newest, format(bits, "x")]
                for replica, (newest, bits) in engine.seen.marks().items()
            },
            "pool": [asdict(stratum) for stratum in engine.pool.waiting],
            "order_effect": engine.order_effect.state(),
            "collected": _sparse(engine.collected),
            "reference": None if engine.reference is None else _sparse(engine.reference),
            "percent": engine.percent,
            "losses": engine.losses,
            "loss_scale": engine.loss_scale.state(),
            "noise": engine.noise.state(),
            "loss_ladder": None if ladder is None else {"edges": ladder.edges, "counts": ladder.counts},
        },
        allow_nan=False,
    )


def load(text: str) -> Engine:
    """The engine that `dump` wrote. `ValueError` for anything else: then begin anew rather than guess."""
    try:
        state = json.loads(text)
        if state["format"] != FORMAT:
            raise ValueError(f"format {state['format']} is not {FORMAT}")
        c = state["config"]
        severity = Severity(tuple(c["severity"]["thresholds"]), tuple(c["severity"]["parts"]))
        config = EngineConfig(**{**c, "metrics": tuple(c["metrics"]), "severity": severity})
        engine = Engine(
            config,
            candidate=state["candidate"],
            production=state["production"],
            started=int(state["started"]),
        )
        engine.last = int(state["last"])
        for name, stake in engine.stakes.items():
            stake.log_m = _like(stake.log_m, state["stakes"][name])
        engine.floor_stake.log_m = _like(engine.floor_stake.log_m, state["floor_stake"])
        engine.tally = Tally(**state["tally"])
        engine.seen = Seen(
            {replica: (int(newest), int(bits, 16)) for replica, (newest, bits) in state["seen"].items()}
        )
        engine.pool = Pool(
            Stratum(float(s["percent"]), _arm(s["production"]), _arm(s["candidate"])) for s in state["pool"]
        )
        engine.order_effect = OrderEffect.from_state(state["order_effect"])
        engine.collected = _dense(state["collected"])
        engine.reference = None if state["reference"] is None else _dense(state["reference"])
        engine.percent = float(state["percent"])
        engine.losses = tuple(float(x) for x in state["losses"])
        if "noise" in state:  # engines stored by earlier versions have neither
            engine.loss_scale = LossScale.from_state(state["loss_scale"], config.loss_scale)
            engine.noise = OwnNoise.from_state(state["noise"], config.severity)
        if (ladder := state["loss_ladder"]) is not None:
            engine.loss_ladder = LossLadder.from_counts(ladder["edges"], ladder["counts"])
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"this is no stored evidence: {error!r}") from error
    return engine


def _arm(state: dict[str, object]) -> Arm:
    requests, errors, latency = state["requests"], state["errors"], state["latency"]
    if not isinstance(requests, int) or not isinstance(errors, int) or not isinstance(latency, dict):
        raise TypeError("an arm holds two counts and a histogram")
    return Arm(requests, errors, {int(bucket): int(count) for bucket, count in latency.items()})


def _like(shape: Floats, values: list[float]) -> Floats:
    result = np.array(values, dtype=np.float64)
    if result.shape != shape.shape:
        raise TypeError(f"{result.shape} stakes instead of {shape.shape}")
    return result


def _sparse(histogram: Floats) -> dict[str, float]:
    return {str(i): float(histogram[i]) for i in np.nonzero(histogram)[0].tolist()}


def _dense(sparse: dict[str, float]) -> Floats:
    result = np.zeros(BUCKETS)
    for bucket, count in sparse.items():
        result[max(int(bucket), LEAST)] += count  # older states told latencies below it apart
    return result
