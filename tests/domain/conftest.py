"""Property tests draw the same examples each time and are not held to a clock: a busy machine must not fail them."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("domain", deadline=None, derandomize=True)
settings.load_profile("domain")
