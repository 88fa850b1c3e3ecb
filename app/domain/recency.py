"""How much an old training row still counts. Standard library only.

Recent data carry the present distribution; older data still carry general patterns. So a row keeps its full
weight for a week and then loses half of it every half-life: 1.0 last week, about 0.7 at 30 days and 0.3 at
90, as in the source text.
"""

from __future__ import annotations


def weight(age_days: float, half_life_days: float = 47, flat_days: float = 7) -> float:
    """The weight, 0..1: 1 up to `flat_days`, then 2^(−(age − flat)/half_life).

    A negative age (a clock ahead of ours) counts as fresh. `ValueError` for an age that is NaN, a half-life
    that is not positive or a flat time that is negative or NaN; an infinite half-life weighs all rows
    alike.
    """
    if not half_life_days > 0:
        raise ValueError(f"half_life_days must be positive, but is {half_life_days}")
    if not flat_days >= 0:
        raise ValueError(f"flat_days must not be negative, but is {flat_days}")
    if age_days != age_days:
        raise ValueError("age_days is NaN")
    if age_days <= flat_days or half_life_days == float("inf"):
        return 1.0
    return float(2.0 ** (-(age_days - flat_days) / half_life_days))
