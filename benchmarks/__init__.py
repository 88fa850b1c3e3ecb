"""Measurements: what the gateway costs, beside what others cost. Nothing in `app` may import from here."""
