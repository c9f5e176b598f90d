"""A hundred random inputs; thousands are tried by `experiments/fuzz.py`."""

import fuzz_inputs
import pytest
from hypothesis import HealthCheck, given, seed, settings

ALLOWED = {
    *("success", "usage", "InputError", "CheckpointError", "NonFiniteError", "OSError with a file"),
    "TypeError of Python for a keyword",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fuzz_inputs.make_run(tmp_path_factory.mktemp("fuzz"))


@seed(1)
@settings(
    max_examples=100,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(attack=fuzz_inputs.attacks)
def test_every_input_succeeds_or_is_refused_by_name(attack, run, tmp_path_factory):
    found = fuzz_inputs.outcome(attack, run, tmp_path_factory.mktemp("attack"))
    assert found in ALLOWED, found
