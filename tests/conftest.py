"""Settings for the whole suite."""

import os

import pytest
from hypothesis import HealthCheck, settings

# Small problems gain nothing from threads in BLAS, and two cores are shared with the code under test.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples on every run and machine: a failure in the suite is a change of the code, not of the dice.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.register_profile("explore", parent=settings.get_profile("suite"), derandomize=False, max_examples=5000)
settings.load_profile(os.environ.get("QP_CONTROL_HYPOTHESIS", "suite"))


@pytest.fixture
def browser_needed() -> None:
    from qp_control import viewer

    try:
        viewer.browser_path()
    except viewer.BrowserNotFound as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


@pytest.fixture(autouse=True)
def _few_torch_threads() -> None:
    import torch

    torch.set_num_threads(1)
