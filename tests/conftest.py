"""Settings of the whole suite."""

from hypothesis import HealthCheck, settings

# The same examples every time, and no clock: the machines that run this are shared.
settings.register_profile(
    "suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("suite")
