"""Other detectors on the same worlds: the source text's window rule, a z-test with peeking, and mSPRT.

They see what ours sees. Peeking detectors begin at 20 canary requests, as the window rule does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from app.domain.guard import HealthConfig
from benchmarks.detection.worlds import MEDIAN_MS, Floats, Setting, moment, ticks

BEGIN = 20  # canary requests
PEEKING_Z = 1.645  # one-sided .05
TAU = {"errors": 0.02, "latency": 0.3}  # mSPRT: standard deviation of the normal mixture over the effect


@dataclass(frozen=True, slots=True)
class Rival:
    """Canary requests from bad to rollback, infinite if never, and runs rolled back while the candidate was
    good.
    """

    delays: Floats
    false_rollbacks: int


def rivals(setting: Setting) -> dict[str, Rival]:
    """The three on a setting of mode errors or latency."""
    fitted = setting.fitted()
    setting = replace(fitted, rate=max(fitted.rate, int(1.0 / setting.rho), 1))
    return {"window": _window(setting), **_peeking(setting)}


def _window(setting: Setting) -> Rival:
    """`app.domain.guard` over each canary's last requests, many runs at once."""
    config, rng = HealthConfig(), np.random.default_rng(setting.seed)
    lasting = ticks(setting)
    per_tick = setting.rho * setting.rate
    total = int(lasting * per_tick)
    at = [moment(setting, min(int(i / per_tick), lasting - 1), lasting) for i in range(total)]
    if setting.mode == "latency":
        z = rng.normal(size=(setting.runs, total)).astype(np.float32)
        limit = np.log(
            config.latency_p99_threshold_ms / MEDIAN_MS / np.array([m.candidate_latency for m in at])
        )
        hit = z > (limit / setting.sigma).astype(np.float32)
    else:
        hit = rng.random((setting.runs, total), dtype=np.float32) < np.array([m.candidate_errors for m in at])
    sums = np.cumsum(hit, axis=-1, dtype=np.int32)
    n = np.minimum(np.arange(1, total + 1), config.window_size)
    recent = sums.copy()
    recent[:, config.window_size :] -= sums[:, : -config.window_size]
    needed = (
        n - np.minimum((n * 0.99).astype(int), n - 1)
        if setting.mode == "latency"
        else n * config.error_rate_threshold
    )
    tripped = (recent >= needed) if setting.mode == "latency" else (recent > needed)
    tripped &= np.arange(1, total + 1) >= config.min_requests
    bad = np.array([m.is_bad for m in at])
    return _rival(tripped, bad, np.tile(np.cumsum(bad, dtype=float), (setting.runs, 1)))


def _peeking(setting: Setting) -> dict[str, Rival]:
    """z-test and mSPRT on the difference of means of all requests so far, looked at after every tick."""
    rng = np.random.default_rng(setting.seed + 1)
    lasting = ticks(setting)
    n, s, squares = np.zeros((2, setting.runs)), np.zeros((2, setting.runs)), np.zeros((2, setting.runs))
    crossed: dict[str, list[np.ndarray]] = {"z_test_peeking": [], "msprt": []}
    bad, since, counts = [], np.zeros(setting.runs), []
    variance = TAU["latency" if setting.mode == "latency" else "errors"] ** 2
    for tick in range(lasting):
        now = moment(setting, tick, lasting)
        n_c = rng.binomial(setting.rate, now.share, size=setting.runs).astype(float)
        arms = (
            (n_c, now.candidate_errors, now.candidate_latency),
            (setting.rate - n_c, now.errors, now.latency),
        )
        for i, (count, errors, latency) in enumerate(arms):
            if setting.mode == "latency":  # sums of log latency
                x = count * np.log(latency) + np.sqrt(count) * setting.sigma * rng.normal(size=setting.runs)
                squares[i] += count * (setting.sigma**2 + np.log(latency) ** 2)
            else:
                x = rng.binomial(count.astype(int), errors).astype(float)
                squares[i] += x
            n[i] += count
            s[i] += x
        total, mean = n.sum(0), s.sum(0) / n.sum(0)
        spread = np.maximum(squares.sum(0) / total - mean**2, 1e-9) * (1.0 / np.maximum(n[0], 1) + 1.0 / n[1])
        effect = s[0] / np.maximum(n[0], 1) - s[1] / n[1]
        begun = n[0] >= BEGIN
        crossed["z_test_peeking"].append(begun & (effect / np.sqrt(spread) > PEEKING_Z))
        log_ratio = 0.5 * np.log(spread / (spread + variance)) + variance * effect**2 / (
            2 * spread * (spread + variance)
        )
        crossed["msprt"].append(begun & (effect > 0) & (log_ratio >= np.log(1.0 / setting.alpha)))
        since += n_c * now.is_bad
        bad.append(now.is_bad)
        counts.append(since.copy())
    marks, seen = np.array(bad), np.stack(counts, -1)
    return {name: _rival(np.stack(c, -1), marks, seen) for name, c in crossed.items()}


def _rival(crossed: np.ndarray, bad: np.ndarray, counts: Floats) -> Rival:
    falsely = (crossed & ~bad).any(-1)
    if not bad.any():
        return Rival(np.zeros(0), int(falsely.sum()))
    truly = crossed & bad
    found = np.where(truly.any(-1), np.take_along_axis(counts, truly.argmax(-1)[:, None], -1)[:, 0], np.inf)
    return Rival(found[~falsely], int(falsely.sum()))
