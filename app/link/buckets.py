"""Upper bounds of the duration histograms, in seconds: the same in each worker and in the exposition, so that they can be added up."""

from __future__ import annotations

DURATION_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
