"""Settings of the whole suite."""

import os

from hypothesis import HealthCheck, settings

# Before torch is imported: threads that wait for work sleep instead of spinning. Two workers with two threads each on
# two cores otherwise take the cores from one another: 40 s instead of 4 s for four optimizers of matrices.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# The same examples every time, and no clock: the machines that run this are shared.
settings.register_profile(
    "suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("suite")

# These need a process that interprets Triton's kernels; tests/engine/test_gpu.py starts it.
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreter"]
