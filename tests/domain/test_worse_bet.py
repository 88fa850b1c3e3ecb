"""The worker's bet: fair whatever the shared rate, so that a shared incident convinces nobody, and quick when one arm is to blame."""

from __future__ import annotations

import math
import random

import pytest

from app.domain.guard import WorseBet, share_tail

LOG_1000 = math.log(1e3)


def run(
    bet: WorseBet, batches: int, canary: float, production: float, share: float, source: random.Random
) -> int | None:
    """Candidate requests until the bet is won, None when it never is."""
    asked = 0
    for _ in range(batches):
        for _ in range(100):
            candidate = source.random() < share
            asked += candidate
            bet.add(candidate, source.random() < (canary if candidate else production))
        if bet.close() >= LOG_1000:
            return asked
    return None


@pytest.mark.parametrize(("drawn", "others", "bad"), [(3, 5, 2), (1, 9, 4), (6, 2, 5), (4, 4, 8)])
def test_the_bet_has_mean_one_given_the_sizes_and_the_bad_ones(drawn: int, others: int, bad: int) -> None:
    total = 0.0
    for candidate_bad in range(max(0, bad - others), min(bad, drawn) + 1):
        probability = (
            math.comb(drawn, candidate_bad)
            * math.comb(others, bad - candidate_bad)
            / math.comb(drawn + others, bad)
        )
        bet = WorseBet()
        for arm, size, ill in ((True, drawn, candidate_bad), (False, others, bad - candidate_bad)):
            for number in range(size):
                bet.add(arm, number < ill)
        total += probability * math.exp(bet.close())
    assert total == pytest.approx(1.0, abs=1e-12)


def test_a_shared_incident_wins_no_bet_however_often_one_looks() -> None:
    source = random.Random(11)
    won = sum(run(WorseBet(), 120, 0.06, 0.06, 0.1, source) is not None for _ in range(150))
    # At most 1 in 1,000 runs in the mean: more than 3 of 150 has probability below 1e-4.
    assert won <= 3


def test_a_candidate_that_only_fails_is_found_within_a_batch_or_two() -> None:
    source = random.Random(12)
    asked = [run(WorseBet(), 50, 1.0, 0.005, 0.05, source) for _ in range(100)]
    assert all(one is not None and one <= 20 for one in asked)


def test_the_tail_of_the_share_equals_fishers_exact_test() -> None:
    from scipy.stats import fisher_exact

    for table in ((3, 20, 5, 100), (0, 10, 4, 50), (20, 20, 0, 100)):
        bad_a, n_a, bad_b, n_b = table
        expected = fisher_exact([[bad_a, n_a - bad_a], [bad_b, n_b - bad_b]], alternative="greater").pvalue
        assert share_tail(*table) == pytest.approx(expected)
