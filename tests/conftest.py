"""Settings of every test run: shared engines, the Hypothesis profile, the seed."""

import os
import random

import hypothesis
import pytest

pytest_plugins = ["tests.support.engines"]

hypothesis.settings.register_profile(
    "house",
    print_blob=True,  # a failure says how to repeat it
    derandomize=False,  # every run tries something new
    deadline=None,  # the machine is shared; a slow example is no bug
)
hypothesis.settings.register_profile(
    "thorough", hypothesis.settings.get_profile("house"), max_examples=2_000
)
hypothesis.settings.register_profile(
    "unshrunk",  # that it fails is all a mutant has to show
    hypothesis.settings.get_profile("house"),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    report_multiple_bugs=False,
    database=None,
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))

SEED = int(os.environ.get("PROMISE_TEST_SEED") or random.SystemRandom().randrange(2**32))
os.environ["PROMISE_TEST_SEED"] = str(SEED)  # of the processes that share the run


def pytest_report_header() -> str:
    """Name the seed of this run, so that it can be repeated."""
    return f"seed: {SEED} (repeat with PROMISE_TEST_SEED={SEED})"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that depend on the run's seed and the test's name alone."""
    return random.Random(f"{SEED}:{request.node.nodeid}")
