"""What holds for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A busy machine is no failure: what is slow is measured under bench/, not asserted here.
settings.register_profile("misstep", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("misstep")
