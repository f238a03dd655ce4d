"""Settings of Hypothesis for all tests."""

import os

from hypothesis import HealthCheck, settings

# The time that an example takes says more about the load of the machine than about the code. Each run tries
# the same examples, so that a failure is one of the change under test; `make fuzz` sets FUZZ for new ones.
settings.register_profile(
    "ovn-docker",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="FUZZ" not in os.environ,
)
settings.load_profile("ovn-docker")
