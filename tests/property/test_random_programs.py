"""Random programs: every number agrees with an exact answer, or the program is refused by name.

A failure prints the smallest failing program that hypothesis finds: its description, which can be pasted
into `check(...)`, and its source with weights and data. `experiments/random_programs.py` tries thousands.
"""

from comparisons import check, report
from hypothesis import HealthCheck, Phase, given, settings
from program_strategy import programs

several = settings(
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@settings(several, max_examples=20)
@given(programs("local"))
def test_programs_with_local_latents(program):
    outcome = check(program)
    assert not outcome.failures, report(outcome)


@settings(several, max_examples=8)
@given(programs("points"))
def test_programs_with_global_latents_at_a_point(program):
    outcome = check(program)
    assert not outcome.failures, report(outcome)


@settings(several, max_examples=8)
@given(programs("joint"))
def test_programs_with_global_latents(program):
    outcome = check(program)
    assert not outcome.failures, report(outcome)
