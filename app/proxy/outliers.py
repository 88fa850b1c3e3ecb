"""Which URLs of a version are left out for a while because they fail while their siblings need not. Pure: the time is an argument.

A URL that failed `CONSECUTIVE` times in a row gets no requests for `FIRST_S`, then twice as long each time it comes back and fails
again, up to `LONGEST_S`. Never more than half of a version's URLs are out: when most fail, the fault is not theirs, and the rest must
not be crushed by the load of all (after Envoy's outlier detection).
"""

from __future__ import annotations

from collections.abc import Sequence

CONSECUTIVE = 5
FIRST_S = 1.0
LONGEST_S = 60.0


class Standing:
    """One URL among its siblings."""

    __slots__ = ("ejections", "failures", "out_until", "span_s")

    def __init__(self) -> None:
        self.failures = 0  # in a row
        self.ejections = 0  # since it last did well
        self.span_s = 0.0  # of the latest ejection
        self.out_until = 0.0

    def succeeded(self, now: float) -> None:
        self.failures = 0
        if self.ejections and now > self.out_until + self.span_s:
            self.ejections = 0  # well for as long as it was out: the next ejection is a short one again

    def failed(self, now: float, siblings: Sequence[Standing]) -> bool:
        """Whether it is ejected with this failure; `siblings` are all of the version's URLs, this one among them."""
        self.failures += 1
        if self.failures < CONSECUTIVE or self.out_until > now:
            return False
        if 2 * (1 + sum(one.out_until > now for one in siblings)) > len(siblings):
            return False
        self.span_s = min(LONGEST_S, FIRST_S * 2.0**self.ejections)
        self.ejections += 1
        self.out_until = now + self.span_s
        self.failures = CONSECUTIVE - 1  # one more failure after its return suffices
        return True
