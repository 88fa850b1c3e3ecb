"""Which strata are bet on now, and which wait for more of their kind.

A stratum is bet on at its realised share. With one request a tick that share is 0 or 1 and nothing is learnt,
so strata too small for a comparison are added up, over replicas and ticks, within one percentage: there the
chance of being a canary was the same for all. The rule looks at counts only, never at how the requests went.
"""

from __future__ import annotations

from collections.abc import Iterable

from app.domain.evidence.batch import Stratum

ENOUGH = 1.0  # expected requests in the smaller arm
MOST_PERCENTAGES = 32


class Pool:
    """Strata that wait. Memory: one stratum a percentage."""

    __slots__ = ("_waiting",)

    def __init__(self, waiting: Iterable[Stratum] = ()) -> None:
        self._waiting: dict[float, Stratum] = {s.percent: s for s in waiting}

    def ready(self, strata: Iterable[Stratum]) -> list[Stratum]:
        """What is to be bet on now, given one tick's strata of all replicas.

        The order of the strata does not matter.
        """
        ready: list[Stratum] = []
        for stratum in strata:
            if stratum.information >= ENOUGH:
                ready.append(stratum)
            elif 0.0 < stratum.percent < 100.0:
                waiting = self._waiting.pop(stratum.percent, None)
                self._waiting[stratum.percent] = stratum if waiting is None else waiting + stratum
        full = [p for p, s in self._waiting.items() if s.information >= ENOUGH]
        ready += [self._waiting.pop(p) for p in sorted(full)]
        while len(self._waiting) > MOST_PERCENTAGES:
            self._waiting.pop(next(iter(self._waiting)))
        return ready

    @property
    def waiting(self) -> tuple[Stratum, ...]:
        """What waits, for storing."""
        return tuple(self._waiting.values())
