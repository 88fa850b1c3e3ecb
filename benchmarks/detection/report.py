"""One setting measured: our delay and false rollbacks, the bound, and the rivals', as JSON or a few lines."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np

from benchmarks.detection.deployed import deployed
from benchmarks.detection.paired import MEASURED, order, shadow_labels
from benchmarks.detection.rivals import rivals
from benchmarks.detection.simulate import course
from benchmarks.detection.sticky import CONFIGURED, OURS, sticky
from benchmarks.detection.worlds import Floats, Setting

Json = dict[str, object]
RIVAL_RUNS = 200


def quantile(values: Floats, q: float) -> float | None:
    """The q-quantile, a value that occurs; None without values, or where runs that found nothing stand."""
    if not len(values):
        return None
    value = float(np.sort(values)[min(int(np.ceil(q * len(values))), len(values)) - 1])
    return value if np.isfinite(value) else None


def measure(setting: Setting, *, with_rivals: bool = True) -> Json:
    """The figures of one setting. Delays are canary requests; pairs in `order`, labels in mode shadow."""
    if setting.mode == "shadow":
        figures = _shadow(setting)
    elif setting.scenario == "sticky":
        figures = _sticky(setting)
    elif setting.scenario == "order":
        figures = _order(setting)
    else:
        figures = _arms(setting, with_rivals=with_rivals)
    return {
        "setting": asdict(setting),
        "runs": setting.runs,
        "alpha": setting.alpha,
        **figures,
    }


def _delay(values: Floats, bound: float | None, unit: str) -> Json:
    missed = int(np.sum(~np.isfinite(values)))
    return {
        "median": quantile(values, 0.5),
        "p95": quantile(values, 0.95),
        "bound": bound,
        "missed": missed,
        "unit": unit,
    }


def _arms(setting: Setting, *, with_rivals: bool) -> Json:
    c = deployed(setting) if setting.metrics == "default" else course(setting)
    values = np.concatenate([c.delays, np.full(c.missed, np.inf)])
    unit = "canary labels" if setting.mode == "labels" else "canary requests"
    figures: Json = {**_delay(values, setting.bound, unit), "false_rollbacks": c.false_rollbacks}
    if setting.scenario == "bursts":
        figures["raw_votes_false_rollbacks"] = course(setting, raw=True).false_rollbacks
    if with_rivals and setting.mode in ("errors", "latency") and setting.scenario != "bursts":
        fewer = Setting(**{**asdict(setting), "runs": min(setting.runs, RIVAL_RUNS)})
        figures["rivals"] = {
            name: {
                "median": quantile(r.delays, 0.5),
                "p95": quantile(r.delays, 0.95),
                "false_rollbacks": r.false_rollbacks,
                "runs": fewer.runs,
            }
            for name, r in rivals(fewer).items()
        }
    return figures


def _sticky(setting: Setting) -> Json:
    c = sticky(setting)
    good = setting.is_good
    delay = _delay(np.zeros(0) if good else c.delays, setting.bound, "canary requests")
    detectors = {name: c.hits(name, setting.alpha) for name in c.peaks}
    return {
        **delay,
        "false_rollbacks": round(detectors[OURS] * setting.runs) if good else 0,
        "plain_request_votes_false_rollbacks": round(detectors[CONFIGURED] * setting.runs) if good else 0,
        "rolled_back_by": detectors,
    }


def _order(setting: Setting) -> Json:
    c = order(setting)
    good = setting.ratio <= 1.0
    return {
        **_delay(np.zeros(0) if good else c.delays, None, "pairs"),
        "false_rollbacks": round(c.hits(MEASURED, setting.alpha) * setting.runs) if good else 0,
        "rolled_back_by_margin": {name: c.hits(name, setting.alpha) for name in c.peaks},
    }


def _shadow(setting: Setting) -> Json:
    found = shadow_labels(setting)
    good = setting.is_good
    crossed = int(np.sum(found.peaks >= np.log(1.0 / setting.alpha)))
    return {
        **_delay(np.zeros(0) if good else found.labels, None if good else found.bound, "labels"),
        "false_rollbacks": crossed if good else 0,
        "unpaired_canary": _delay(
            found.unpaired, None if good else found.unpaired_bound, "labels, both arms, 10 %"
        ),
    }


def lines(figures: Json) -> str:
    """The figures for people."""
    return json.dumps({k: v for k, v in figures.items() if k != "setting"}, indent=2)
