"""What holds for all tests."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# A busy machine is no failure: what is slow is measured under bench/, not asserted here.
settings.register_profile("misstep", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("misstep")

# A shell that starts the tests in the background lets them ignore Ctrl-C, and their children with them.
signal.signal(signal.SIGINT, signal.default_int_handler)
